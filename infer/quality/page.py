"""The HTML page of a parity check: one file that loads nothing. Its layout is parity_page.html.j2."""

import base64
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from cgan.documents import write_document
from cgan.errors import cannot_write
from cgan.text import printable
from infer.photo.decode import Floats
from infer.quality.differences import LEVEL_EDGES, Counts, PhotoDifference
from infer.quality.parity import Parity

TEMPLATE = "parity_page.html.j2"

AMPLIFICATION = 16
"""Factor by which differences are amplified around middle gray; differences of more than 8 levels saturate."""

TITLE = b"<title>Parity</title>"
"""Title of every page, by which an earlier page is recognised."""

TITLE_WITHIN = 2048
"""Leading bytes of a page that contain its title."""


class Bar(NamedTuple):
    """One bar of the histogram of differences."""

    low: float
    """Lower edge, in 8-bit levels."""
    high: float
    """Upper edge, in 8-bit levels."""
    share: float
    """Share of all values between the edges, in [0, 1]."""


def is_page(content: bytes) -> bool:
    """Return True if a file's content is an earlier page."""
    return TITLE in content[:TITLE_WITHIN]


def write_html(parity: Parity, path: Path, command: str) -> None:
    """Write the page, see `cgan.documents.write_document`.

    Args:
        parity: the result.
        path: the file.
        command: the command line that compared the models.

    Raises:
        UserError: the file cannot be written, or another file has taken its name meanwhile.
        GateError: the disk is full.
    """
    try:
        write_document(path, render(parity, command, datetime.now(UTC)).encode(errors="backslashreplace"), is_page)
    except OSError as error:
        raise cannot_write(path, error) from error


def render(parity: Parity, command: str, date: datetime) -> str:
    """Return the page as HTML; all texts are escaped."""
    environment = Environment(
        loader=PackageLoader("infer.quality", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printable,
    )
    environment.filters["pictures"] = _pictures
    return environment.get_template(TEMPLATE).render(
        parity=parity,
        command=command,
        date=f"{date:%Y-%m-%d %H:%M} UTC",
        bars=list(_bars(parity.level_bins)),
        amplification=AMPLIFICATION,
    )


def _printable(value: object) -> object:
    """Escape in a text what could reverse the direction of writing or control a terminal that shows the page."""
    return printable(value) if isinstance(value, str) else value


def _pictures(photo: PhotoDifference) -> Iterator[tuple[str, str]]:
    """Yield label and data URL of the pictures of one photo: gray, both models, their amplified difference, real."""
    pictures = {
        "gray": None if photo.gray is None else photo.gray.repeat(3, axis=0),
        "reference": photo.reference,
        "candidate": photo.candidate,
        f"difference x {AMPLIFICATION}": np.clip(0.5 + AMPLIFICATION * (photo.candidate - photo.reference), 0, 1),
        "real photo": photo.real,
    }
    for label, pixels in pictures.items():
        if pixels is not None:
            yield label, f"data:image/png;base64,{_png(pixels)}"


def _png(pixels: Floats) -> str:
    """Return 3 x H x W in [0, 1] as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray((pixels.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _bars(counts: Counts) -> Iterator[Bar]:
    """Yield the bars of the histogram: the share of the values between each two neighbouring LEVEL_EDGES."""
    total = max(int(counts.sum()), 1)
    for low, high, count in zip(LEVEL_EDGES, LEVEL_EDGES[1:], counts, strict=False):
        yield Bar(low, high, int(count) / total)
