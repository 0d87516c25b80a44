"""Tone curves of PNG files without a colour profile: chunks gAMA, cHRM and cICP (PNG, third edition, 11.3.2)."""

from typing import Any, cast

import numpy as np
from PIL import Image

from infer.photo import png_chunks
from infer.photo.code_points import EXPONENTS, POINT_TOLERANCE, unconverted

GRAY = frozenset({"1", "L", "LA", "I", "I;16", "I;16B"})
"""Pillow's modes of a PNG without colour."""

SRGB_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""Chromaticities x, y of white, red, green and blue of sRGB, in the order of cHRM."""


def exponent_of(image: Image.Image, notes: list[str]) -> float | None:
    """Return the exponent that turns light into the samples of a PNG, None if viewers show them as sRGB.

    Args:
        image: the PNG as it was opened, not loaded.
        notes: list to which a note on colours that are not converted is appended.
    """
    cicp = _chunk(image, b"cICP")
    if len(cicp) == 4:
        if image.info.pop("icc_profile", None):
            notes.append("ICC profile left out: cICP, which comes before it, gives the colours")
        if note := unconverted(cicp[0], cicp[1], "cICP"):
            notes.append(note)
        return EXPONENTS.get(cicp[1])
    if "srgb" in image.info or image.info.get("icc_profile"):
        return None
    points = image.info.get("chromaticity")
    if points and image.mode not in GRAY and not np.allclose(points, SRGB_POINTS, rtol=0, atol=POINT_TOLERANCE):
        notes.append("its colours, of primaries by cHRM, are not converted to sRGB")
    exponent: float | None = image.info.get("gamma")
    return exponent


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
