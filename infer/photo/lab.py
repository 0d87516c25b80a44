"""CIE L*a*b* as sRGB (ISO 11664-4; its white, D50 in TIFF files, becomes the white of sRGB).

libtiff converts it for a display of gamma 2.4, which makes a photo lighter or darker by up to 24 levels.
"""

import numpy as np

from infer.photo.color_profile import coded
from infer.photo.samples import Array, bands

CIE, ICC = 8, 9
"""Photometric interpretations: a* and b* are signed, or with 128 as their zero."""

WHITE = (0.96422, 1.0, 0.82521)
"""D50 (ICC.1:2022, 7.2.16)."""

TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
"""Light of sRGB from XYZ for a white of D50, by the Bradford transform."""

BEND = 6 / 29


def rgb_of(values: Array, kind: int) -> Array:
    """Return sRGB, H x W x 3 with as many bits, clipped to its gamut.

    Args:
        values: H x W x 3 of L*, a* and b*, unsigned integers of 8 or 16 bits.
        kind: CIE or ICC.
    """
    rgb = np.empty(values.shape, values.dtype)
    top = np.iinfo(values.dtype).max
    for rows in bands(values):
        light = np.clip(_light(*_units(values[rows], kind)), 0, 1)
        rgb[rows] = np.round(coded(light) * top)
    return rgb


def _units(values: Array, kind: int) -> tuple[Array, Array]:
    """Return L* from 0 to 100, H x W, and a* and b*, H x W x 2, of which 1 is 256 steps of 16 bits."""
    step = 1 if values.dtype == np.uint8 else 256
    if kind == ICC:
        return values[..., 0] * (100 / (255 * step)), values[..., 1:] / step - 128.0
    signed: Array = values[..., 1:].view(np.int8 if step == 1 else np.int16)
    return values[..., 0] * (100 / np.iinfo(values.dtype).max), signed / step


def _light(lightness: Array, opponent: Array) -> Array:
    """Return the light of sRGB's primaries, 1 for white."""
    middle = (lightness + 16) / 116
    parts = np.stack([middle + opponent[..., 0] / 500, middle, middle - opponent[..., 1] / 200], axis=-1)
    xyz = np.where(parts > BEND, parts**3, 3 * BEND**2 * (parts - 4 / 29)) * WHITE
    light: Array = xyz @ TO_SRGB.T
    return light
