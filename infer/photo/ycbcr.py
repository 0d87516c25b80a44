"""YCbCr of a TIFF that is not compressed as JPEG (TIFF 6.0, section 21), as libtiff converts it.

Pixels are stored in clumps: the luma of a few pixels, then the Cb and Cr that they share. libtiff would skip clumps
that it cannot decode when it is asked for RGB, so it is asked for plain bytes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.photo_limits import check_time
from infer.photo import tiff_pages as pages
from infer.photo.refusals import UnreadError
from infer.photo.tiff_pages import Page

REC601 = (0.299, 0.587, 0.114)
FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
"""Codes of black and white of Y, Cb and Cr."""

HALF = 32_768
MOST = 4096
"""Largest level, which odd references could make larger."""

BAND_ROWS = 256
"""Rows that are converted at a time; a multiple of every subsampling."""


def subsampling_of(page: Page) -> tuple[int, int]:
    """Return the columns and rows of pixels that share one Cb and one Cr."""
    found = page.numbers(pages.SUBSAMPLING)
    return (found[0], found[1]) if len(found) == 2 else (2, 2)


def clump_layout(page: Page) -> dict[int, Sequence[int]]:
    """Return the tags that describe the clumps as gray bytes.

    Raises:
        UnreadError: the subsampling is not one that TIFF allows, or the samples have other than 8 bits.
    """
    across, down = subsampling_of(page)
    if across not in (1, 2, 4) or down not in (1, 2, 4) or page.bits != 8 or page.channels != 3:
        kind = f"{page.channels} channels of {page.bits} bits, subsampling {across} x {down}"
        raise UnreadError(f"a TIFF in YCbCr of a kind that is not read: {kind}")
    if (across, down) == (1, 1):
        return {pages.PHOTOMETRIC: [pages.RGB]}
    if page.number(pages.PLANAR) == pages.PLANES or page.number(pages.PREDICTOR, 1) != 1:
        raise UnreadError("a TIFF in subsampled YCbCr with planes or a predictor, which is not read")
    width, height = page.size
    clump = across * down + 2
    tile = page.number(pages.TILE_WIDTH)
    unit = tile or width
    layout: dict[int, Sequence[int]] = {
        pages.PHOTOMETRIC: [pages.BLACK_IS_ZERO],
        pages.CHANNELS: [1],
        pages.BITS: [8],
        pages.SUBSAMPLING: [],
        pages.WIDTH: [-(-width // unit) * -(-unit // across) * clump],
        pages.HEIGHT: [-(-height // down)],
    }
    if tile:
        height_of_tile = page.number(pages.TILE_HEIGHT) // down
        return layout | {pages.TILE_WIDTH: [-(-tile // across) * clump], pages.TILE_HEIGHT: [height_of_tile]}
    return layout | {pages.ROWS_PER_STRIP: [-(-min(page.rows_per_strip, height) // down)]}


def rgb_of(values: NDArray[np.uint8], page: Page) -> NDArray[np.uint8]:
    """Return RGB, H x W x 3, of clumps or pixels as they were decoded."""
    (across, down), (width, height) = subsampling_of(page), page.size
    if (across, down) == (1, 1):
        luma, chroma = values[..., 0], values[..., 1:3]
    else:
        clumps = values.reshape(len(values), -1, across * down + 2)
        luma = clumps[..., :-2].reshape(len(values), -1, down, across).swapaxes(1, 2).reshape(len(values) * down, -1)
        chroma = clumps[..., -2:]
    rgb = np.empty((height, width, 3), np.uint8)
    coefficients = _floats(page, pages.COEFFICIENTS, REC601)
    reference = _floats(page, pages.REFERENCE, FULL_RANGE)
    for top in range(0, height, BAND_ROWS):
        check_time()
        rows = slice(top, min(top + BAND_ROWS, height))
        part = chroma[top // down : -(-rows.stop // down)].repeat(down, 0).repeat(across, 1)
        rgb[rows] = _converted(luma[rows, :width], part[: rows.stop - top, :width], coefficients, reference)
    return rgb


def _floats(page: Page, tag: int, default: tuple[float, ...]) -> tuple[float, ...]:
    found = page.reals(tag)
    return found if len(found) == len(default) and np.isfinite(found).all() else default


def _converted(luma: Any, chroma: Any, coefficients: tuple[float, ...], reference: tuple[float, ...]) -> Any:
    """Return RGB of Y, H x W, and of Cb and Cr, H x W x 2, in the integers of libtiff (TIFFYCbCrToRGBInit)."""
    red, green, blue = coefficients
    y = _levels(reference[0:2], 255)[luma]
    cb = _levels(reference[2:4], 127)[chroma[..., 0]]
    cr = _levels(reference[4:6], 127)[chroma[..., 1]]
    to_red, to_blue = 2 - 2 * red, 2 - 2 * blue
    r = y + (_fixed(to_red) * cr + HALF >> 16)
    b = y + (_fixed(to_blue) * cb + HALF >> 16)
    g = y + (-_fixed(red * to_red / (green or 1)) * cr - _fixed(blue * to_blue / (green or 1)) * cb + HALF >> 16)
    return np.clip(np.stack([r, g, b], axis=-1), 0, 255).astype(np.uint8)


def _fixed(value: float) -> int:
    return int(value * 65_536 + 0.5)


def _levels(reference: tuple[float, ...], top: int) -> NDArray[np.int32]:
    """Return the level of each code: 0 for the first reference, `top` for the second."""
    zero, full = reference
    levels = (np.arange(256) - zero) * (top / ((full - zero) or 1))
    clipped: NDArray[np.int32] = np.clip(np.trunc(levels), -MOST, MOST).astype(np.int32)
    return clipped
