"""Tone curves of PNG files without a colour profile: chunks gAMA, cHRM and cICP (PNG, third edition, 11.3.2)."""

from typing import Any, cast

import numpy as np
from PIL import Image

from infer.photo import png_chunks
from infer.photo.code_points import EXPONENTS, POINT_TOLERANCE, SRGB_EXPONENT, SRGB_LIKE, TOLERANCE, unconverted
from infer.photo.color_profile import coded
from infer.photo.samples import COLORS, Samples

GRAY = frozenset({"1", "L", "LA", "I", "I;16", "I;16B"})
"""Pillow's modes of a PNG without colour."""

PLAUSIBLE = (0.1, 10.0)
"""Range of the exponents that photos have; others would make them black or white."""

SRGB_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""Chromaticities x, y of white, red, green and blue of sRGB, in the order of cHRM."""


def exponent_of(image: Image.Image, notes: list[str]) -> float | None:
    """Return the exponent that turns light into the samples of a PNG, None if viewers show them as sRGB.

    Args:
        image: the PNG as it was opened, not loaded.
        notes: list to which a note on the conversion is appended, or on colours that are not converted.
    """
    cicp = _chunk(image, b"cICP")
    if len(cicp) == 4:
        if image.info.pop("icc_profile", None):
            notes.append("ICC profile left out: cICP, which comes before it, gives the colours")
        if note := unconverted(cicp[0], cicp[1], "cICP"):
            notes.append(note)
        exponent = SRGB_EXPONENT if cicp[1] in SRGB_LIKE else EXPONENTS.get(cicp[1])
    elif "srgb" in image.info or image.info.get("icc_profile"):
        return None
    else:
        exponent = image.info.get("gamma")
        points = image.info.get("chromaticity")
        if points and image.mode not in GRAY and not np.allclose(points, SRGB_POINTS, rtol=0, atol=POINT_TOLERANCE):
            notes.append("its colours, of primaries by cHRM, are not converted to sRGB")
    if not exponent or abs(exponent / SRGB_EXPONENT - 1) <= TOLERANCE:
        return None
    if not PLAUSIBLE[0] <= exponent <= PLAUSIBLE[1]:
        notes.append(f"tone curve of gamma {exponent:g}, which no photo has, is not converted")
        return None
    notes.append(f"tone curve of gamma {exponent:g} converted to that of sRGB")
    return float(exponent)


def _chunk(image: Image.Image, name: bytes) -> bytes:
    """Return the content of a chunk before the image data; empty if there is none."""
    file, content = cast(Any, image).fp, b""
    start = file.tell()
    for kind, place, size in png_chunks.chunks(file):
        if kind == png_chunks.DATA:
            break
        if kind == name:
            file.seek(place)
            content = file.read(size)
            break
    file.seek(start)
    return content


def _curve(exponent: float, top: int) -> Any:
    """Return the level of sRGB of each level from 0 to `top` (IEC 61966-2-1)."""
    light = (np.arange(top + 1) / top) ** (1 / exponent)
    return np.round(coded(light) * top).astype(np.uint8 if top == 255 else np.uint16)


def to_srgb(decoded: Image.Image | Samples, exponent: float) -> Image.Image | Samples:
    """Return pixels of a PNG in sRGB's tone curve, of the same depth; alpha stays as it is."""
    if isinstance(decoded, Samples):
        colors = COLORS[decoded.model]
        values = decoded.values.astype(np.uint16)
        opaque = None
        if decoded.transparent:  # the colour would not be found any more
            opaque = (values[..., :colors] != np.array(decoded.transparent)).any(axis=-1, keepdims=True)
        curve = _curve(exponent, 65_535)
        parts = [curve[values[..., :colors]], values[..., colors:]]
        if opaque is not None:
            parts = [parts[0], np.where(opaque, 65_535, 0).astype(np.uint16)]
        kind = "straight" if opaque is not None else decoded.alpha
        return Samples(np.concatenate(parts, axis=-1), decoded.model, 16, kind)
    has_alpha = decoded.has_transparency_data or "transparency" in decoded.info
    if decoded.mode not in ("L", "RGB") or has_alpha:
        decoded = decoded.convert("RGBA" if has_alpha else "RGB")
    curve = [int(level) for level in _curve(exponent, 255)]
    bands = len(decoded.getbands()) - has_alpha
    return decoded.point(curve * bands + (list(range(256)) if has_alpha else []))
