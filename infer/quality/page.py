"""A parity check as one HTML file that loads nothing: table, gates, worst photos, histogram."""

import base64
import io
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from cgan.documents import write_document
from cgan.errors import cannot_write
from infer.photo.decode import Floats
from infer.quality.differences import LEVEL_EDGES, Counts, PhotoDifference
from infer.quality.parity import Parity

AMPLIFICATION = 16
"""How much larger than they are differences are shown, around middle gray; larger than 8 levels they saturate."""

TITLE = "<title>Parity</title>"
"""What tells a page that was written before."""

# The policy lets a browser refuse whatever a name could smuggle in.
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Parity</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .8rem; text-align: left }
tr { border-bottom: 1px solid #ddd } td.number { font-variant-numeric: tabular-nums }
.pass { color: #17692f } .fail { color: #b3121d; font-weight: 600 }
figure { margin: 1rem 0 } figure img { width: 192px; image-rendering: pixelated; margin-right: 8px }
figcaption, .note { color: #555; overflow-wrap: anywhere }
</style></head><body>
"""


def is_page(content: bytes) -> bool:
    """Whether a file's content is an earlier page."""
    return TITLE.encode() in content[: 2 * len(HEAD)]


def write_html(parity: Parity, path: Path) -> None:
    """Write the page, see `cgan.documents.write_document`.

    Raises:
        UserError: it cannot be written, or something else came there meanwhile.
        GateError: the disk is full.
    """
    try:
        write_document(path, render(parity).encode(errors="backslashreplace"), is_page)
    except OSError as error:
        raise cannot_write(path, error) from error


def render(parity: Parity) -> str:
    """The page."""
    state = "pass" if parity.passed else "fail"
    title = "is still the reference" if parity.passed else "is NOT the reference"
    models = "".join(
        f"<tr><th>{side}</th><td>{_text(model['path'])}</td><td>{_text(model['engine'])}</td>"
        f"<td>{_text(model['precision'])}</td><td>weights {_text(model['weights_sha256'][:16])}</td></tr>"
        for side, model in (("candidate", parity.candidate), ("reference", parity.reference))
    )
    gates = "".join(
        f'<tr class="{"pass" if v.passed else "fail"}"><td>{"pass" if v.passed else "FAIL"}</td>'
        f'<td>{_text(v.gate)}</td><td class="number">{_number(v.found)}</td>'
        f'<td class="number">{_number(v.limit)}</td></tr>'
        for v in parity.verdicts
    )
    figures = "".join(
        f'<tr><td>{_text(label)}</td><td class="number">{_text(value)}</td></tr>' for label, value in parity.rows()
    )
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in parity.notes())
    failed = "".join(f"<li>{_text(name)}: {_text(reason)}</li>" for name, reason in parity.failures.items())
    return (
        f'{HEAD}<h1 class="{state}">The candidate {title}</h1><table>{models}</table>'
        f"<p>{parity.photos} photos compared, {len(parity.failures)} that cannot be read left out of both sides.</p>"
        f"<h2>Gates</h2><table><tr><th></th><th>gate</th><th>found</th><th>limit</th></tr>{gates}</table>"
        f"<h2>Figures</h2><table>{figures}</table>{notes}"
        f"<h2>|Difference| of values, in 8-bit levels</h2>{_histogram(parity.level_bins)}"
        f"<h2>Worst photos by PSNR</h2><p>Reference, candidate, and their difference {AMPLIFICATION} times as large "
        f"around middle gray.</p>{''.join(_figure(photo) for photo in parity.worst)}"
        + (f"<h2>Not readable</h2><ul>{failed}</ul>" if failed else "")
        + "</body></html>\n"
    )


def _text(value: object) -> str:
    return escape(str(value))


def _number(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


def _figure(photo: PhotoDifference) -> str:
    difference = np.clip(0.5 + AMPLIFICATION * (photo.candidate - photo.reference), 0, 1)
    images = "".join(
        f'<img alt="{label}" src="data:image/png;base64,{_png(pixels)}">'
        for label, pixels in (
            ("reference", photo.reference),
            ("candidate", photo.candidate),
            ("difference", difference),
        )
    )
    caption = (
        f"{_text(photo.name)}: PSNR {photo.psnr:.1f} dB, SSIM {photo.ssim:.4f}, mean CIEDE2000 {photo.delta_e:.3f}, "
        f"|difference| up to {255 * photo.max_difference:.3g} levels"
    )
    return f"<figure>{images}<figcaption>{caption}</figcaption></figure>"


def _png(pixels: Floats) -> str:
    """3 x H x W in [0, 1] as base64 of a PNG."""
    file = io.BytesIO()
    Image.fromarray((pixels.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _histogram(counts: Counts) -> str:
    """Bars of the share of values between each two of LEVEL_EDGES, as SVG."""
    shares = counts / max(int(counts.sum()), 1)
    bars = []
    for i, share in enumerate(shares):
        y, width = 22 * i, 420 * share
        label = f"{LEVEL_EDGES[i]:g} to {LEVEL_EDGES[i + 1]:g}"
        bars.append(
            f'<text x="110" y="{y + 15}" text-anchor="end">{label}</text>'
            f'<rect x="120" y="{y + 3}" width="{width:.2f}" height="16" fill="#3b6fb5"/>'
            f'<text x="{126 + width:.2f}" y="{y + 15}">{share:.4%}</text>'
        )
    return f'<svg width="640" height="{22 * len(shares)}" font-size="13" role="img">{"".join(bars)}</svg>'
