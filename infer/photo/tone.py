"""Tone curves that a file names without an ICC profile, and their conversion to that of sRGB (IEC 61966-2-1)."""

from typing import Any

import numpy as np
from PIL import Image

from infer.photo.code_points import SRGB_EXPONENT, TOLERANCE
from infer.photo.color_profile import coded
from infer.photo.samples import COLORS, WIDE, Samples

PLAUSIBLE = (0.1, 10.0)
"""Range of the exponents that photos have; others would make them black or white."""


def settled(exponent: float | None, notes: list[str]) -> float | None:
    """Return an exponent by which a photo is converted, None if it needs no conversion; either is noted.

    Args:
        exponent: the power that turns light into the samples of the photo; None if the file names none.
        notes: list to which a note is appended.
    """
    if not exponent or abs(exponent / SRGB_EXPONENT - 1) <= TOLERANCE:
        return None
    if not PLAUSIBLE[0] <= exponent <= PLAUSIBLE[1]:
        notes.append(f"tone curve of gamma {exponent:g}, which no photo has, is not converted")
        return None
    notes.append(f"tone curve of gamma {exponent:.5g} converted to that of sRGB")
    return float(exponent)


def to_srgb(decoded: Image.Image | Samples, exponent: float) -> Image.Image | Samples:
    """Return pixels in sRGB's tone curve, samples of integers with 16 bits; alpha stays as it is."""
    if isinstance(decoded, Samples):
        return _samples_to_srgb(decoded, exponent)
    has_alpha = decoded.has_transparency_data or "transparency" in decoded.info
    if decoded.mode not in ("L", "RGB") or has_alpha:
        decoded = decoded.convert("RGBA" if has_alpha else "RGB")
    curve = [int(level) for level in _curve(exponent, 255, 255)]
    bands = len(decoded.getbands()) - has_alpha
    return decoded.point(curve * bands + (list(range(256)) if has_alpha else []))


def _samples_to_srgb(samples: Samples, exponent: float) -> Samples:
    colors, values = COLORS[samples.model], samples.values
    top = 2**samples.bits - 1
    parts = [_curve(exponent, top, WIDE)[values[..., :colors]]]
    if samples.transparent:  # the colour would not be found any more
        opaque = (values[..., :colors] != np.array(samples.transparent)).any(axis=-1, keepdims=True)
        parts.append(np.where(opaque, WIDE, 0).astype(np.uint16))
    else:
        parts.append(np.round(values[..., colors:] * (WIDE / top)).astype(np.uint16))
    kind = "straight" if samples.transparent else samples.alpha
    return Samples(np.concatenate(parts, axis=-1), samples.model, 16, kind)


def _curve(exponent: float, top: int, white: int) -> Any:
    """Return the level of sRGB, 0 to `white`, of each level from 0 to `top`."""
    light = (np.arange(top + 1) / top) ** (1 / exponent)
    return np.round(coded(light) * white).astype(np.uint8 if white == 255 else np.uint16)
