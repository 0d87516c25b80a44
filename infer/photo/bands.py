"""Bands of rows of the coloured photo: the network's colours at the size of the photo, within the gamut at its luma.

A band fits into the CPU cache. Its values are float32 in levels of the output: 0 to 255, or 0 to 65535.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.photo_limits import check_time
from cgan.spec import LUMA_REC601
from infer.photo.chroma import BAND_ROWS, color_maps, interpolation_in_bands, widened
from infer.photo.decode import Floats, Photo

WEIGHT_R, WEIGHT_G, WEIGHT_B = (np.float32(weight) for weight in LUMA_REC601)

BAND_PIXELS = 2**16
"""Full-size pixels that are processed at a time: 256 KiB per plane in float32, in calls long enough that threads seldom
wait for Python's lock. Half as many take a quarter longer, and twice as many too where other programs use the cache."""

CHROMA_ZERO = 128 + 0.4999
"""Offset that is added to a chroma difference before it is truncated to 8 bits. Pure blue and red have a difference of
127.5; with an offset of 128.5 they would become 256, which wraps to 0."""

LEAST_PIXELS = 32
"""Least pixels of the photo for each pixel of the maps for which safe luma is worth finding; of a smaller photo all
pixels are tested."""

MANY_PIXELS = 1000
"""Least pixels of the photo for each pixel of the maps for which cells of a quarter of the side find enough pixels safe
to be worth their time; of a smaller photo cells have half of the side."""

TINY = np.float32(1e-3)
"""Colour differences in levels, and slopes, that count as none, which avoids division by zero."""


@dataclass(frozen=True)
class Form:
    """Form of the colours of a band: scales x (R - Y, B - Y) + luma x Y + zero."""

    scales: tuple[float, float] = (1.0, 1.0)
    luma: int = 1
    zero: float = 0.0


RGB = Form()
"""R and B; G follows from them and Y."""

YCBCR = Form((0.5 / (1 - LUMA_REC601[0]), 0.5 / (1 - LUMA_REC601[2])), luma=0, zero=CHROMA_ZERO)
"""Cr and Cb of a JPEG (JFIF 1.02, page 3), to be truncated to 8 bits."""


@dataclass(frozen=True)
class Band:
    """Colours of some rows. Bands share memory: a band is valid until the next one, and its planes may be changed."""

    rows: slice
    luma: Floats
    """Y, rows x width."""
    red: Floats
    blue: Floats
    """In the form that was asked for."""
    scratch: tuple[Floats, Floats]
    """Planes of the same size for intermediate values."""

    def green(self) -> Floats:
        """Return G of a band in the form RGB, from Y = 0.299 R + 0.587 G + 0.114 B. Overwrites `scratch`."""
        green, part = self.scratch
        np.multiply(self.red, WEIGHT_R / WEIGHT_G, out=green)
        np.multiply(self.blue, WEIGHT_B / WEIGHT_G, out=part)
        green += part
        np.multiply(self.luma, 1 / WEIGHT_G, out=part)
        return np.subtract(part, green, out=green)


def bands(photo: Photo, gray: Floats, rgb: Floats, top: int, form: Form) -> Iterator[Band]:
    """Yield bands of in-gamut colour at full size, from top to bottom.

    Args:
        photo: the photo; its luma is used.
        gray: input of the network, 1 x h x w in [0, 1].
        rgb: output of the network, 3 x h x w in [0, 1].
        top: highest level of the output.
        form: form of the colours.
    """
    height, width = photo.size
    own_top = np.iinfo(photo.luma.dtype).max
    maps = color_maps(photo.size, gray, rgb, np.float32(top))
    safe = _SafeLuma(maps, photo, top) if height * width >= LEAST_PIXELS * maps[0].size else None
    wide = widened(_in_form(maps, form), width)
    step = min(height, max(1, BAND_PIXELS // width), BAND_ROWS)
    memory = np.empty(5 * step * width, np.float32)  # allocating it for each band costs more than the arithmetic
    for rows, parts in interpolation_in_bands(wide.shape[1], height, step):
        check_time()
        planes = memory[: 5 * (rows.stop - rows.start) * width].reshape(5, -1, width)
        luma, red, blue, *slopes = planes
        np.copyto(luma, photo.luma[rows])  # converting first is twice as fast as multiplying integers
        if own_top != top:
            luma *= np.float32(top / own_top)
        if wide.shape[1] == height:
            np.copyto(planes[1 : 1 + len(wide)], wide[:, rows])
        else:
            for part, source, weights in parts:
                np.matmul(weights, wide[:, source], out=planes[1 : 1 + len(wide), part])
        if len(wide) == 4:
            for color, slope in zip((red, blue), slopes, strict=True):
                slope *= luma
                color += slope
        elif form.luma:
            red += luma
            blue += luma
        if safe is None:
            planes[1], planes[2] = in_gamut(form, top, luma, red, blue)
        elif len(places := safe.places_at_risk(photo, rows)):
            flat = [plane.reshape(-1) for plane in (luma, red, blue)]
            flat[1][places], flat[2][places] = in_gamut(form, top, *(plane.take(places) for plane in flat))
        yield Band(rows, luma, red, blue, (slopes[0], slopes[1]))


def _in_form(maps: Floats, form: Form) -> Floats:
    """Return the maps of colours in a form. Without slopes, luma is left to be added."""
    scales = np.array(form.scales, np.float32).reshape(2, 1, 1)
    formed: Floats = maps * np.concatenate([scales] * (len(maps) // 2))
    formed[:2] += np.float32(form.zero)
    formed[2:] += np.float32(form.luma)
    return formed


def in_gamut(form: Form, top: int, luma: Floats, red: Floats, blue: Floats) -> tuple[Floats, Floats]:
    """Return colours in a form, scaled by the largest s <= 1 for which R, G and B stay in [0, `top`].

    Args:
        form: form of the colours.
        top: highest level.
        luma: Y of each pixel.
        red: colours of each pixel, in the form.
        blue: likewise.
    """
    neutral = luma if form.luma else np.float32(form.zero)
    red, blue = red - neutral, blue - neutral
    of_red, of_blue = (color * np.float32(1 / scale) for color, scale in zip((red, blue), form.scales, strict=True))
    of_green = _green_difference(of_red, of_blue)
    # Nested, because a reduction of a list copies all three first.
    above = np.maximum(np.maximum(np.maximum(of_red, of_blue), of_green), TINY)
    below = np.maximum(-np.minimum(np.minimum(of_red, of_blue), of_green), TINY)
    share = np.minimum(np.minimum((np.float32(top) - luma) / above, luma / below), np.float32(1))
    return red * share + neutral, blue * share + neutral


def green_of(luma: Floats, red: Floats, blue: Floats) -> Floats:
    """Return G of Y, R and B."""
    green: Floats = luma + _green_difference(red - luma, blue - luma)
    return green


def _green_difference(red: Floats, blue: Floats) -> Floats:
    """Return G - Y of R - Y and B - Y: the luma of the differences is zero."""
    green: Floats = red * (-WEIGHT_R / WEIGHT_G) - blue * (WEIGHT_B / WEIGHT_G)
    return green


class _SafeLuma:
    """Range of luma for which every colour of a cell of the photo is in gamut.

    Cells are parts of the squares between pixels of the maps. At a given luma, each of R, G and B is linear in the
    values of the maps, and these are interpolated between the corners of a cell. So a luma that is safe at its corners
    is safe within it, and most pixels need no other test. The smaller the cells, the fewer pixels are left.
    """

    def __init__(self, maps: Floats, photo: Photo, top: int) -> None:
        """Find the ranges from maps of `color_maps`, for levels up to `top`."""
        height, width = photo.size
        dtype = photo.luma.dtype
        own_top = np.iinfo(dtype).max
        planes = maps if len(maps) == 4 else np.concatenate([maps, np.zeros_like(maps)])
        halvings = 2 if height * width >= MANY_PIXELS * maps[0].size else 1
        for _ in range(halvings):
            planes = _with_middles(planes)
        offsets, slopes = (np.stack([*pair, _green_difference(*pair)]) for pair in (planes[:2], planes[2:]))
        slopes += 1
        slopes[np.abs(slopes) < TINY] = TINY
        ends = np.stack([-offsets, np.float32(top) - offsets]) / slopes * np.float32(own_top / top)
        low, high = _cells(ends.min(axis=0).max(axis=0), np.maximum), _cells(ends.max(axis=0).min(axis=0), np.minimum)
        none = (low > np.minimum(high, own_top)) | (high < 0)
        low[none], high[none] = own_top, 0  # no level is both
        parts = 2**halvings
        columns = _cells_along(maps.shape[2], width, parts)
        self.low = np.ceil(np.clip(low, 0, own_top)).astype(dtype).take(columns, axis=1)
        self.high = np.floor(np.clip(high, 0, own_top)).astype(dtype).take(columns, axis=1)
        self.of_row = _cells_along(maps.shape[1], height, parts)

    def places_at_risk(self, photo: Photo, rows: slice) -> NDArray[np.intp]:
        """Return the pixels of some rows, counted along rows, whose colour may be out of gamut."""
        luma: NDArray[Any] = photo.luma[rows]
        cells = self.of_row[rows]
        at_risk: NDArray[np.bool_] = luma < self.low.take(cells, axis=0)
        at_risk |= luma > self.high.take(cells, axis=0)
        return np.flatnonzero(at_risk)


def _cells(corners: Floats, extreme: np.ufunc) -> Floats:
    """Return the extreme of the corners of each cell between pixels; pixels in a line of one are cells themselves."""
    for axis in (0, 1):
        last = corners.shape[axis] - 1
        if last:
            corners = extreme(corners.take(range(last), axis), corners.take(range(1, last + 1), axis))
    return corners


def _with_middles(planes: Floats) -> Floats:
    """Return planes with the values halfway between neighbours, n x (2 h - 1) x (2 w - 1)."""
    count, height, width = planes.shape
    fine = np.empty((count, 2 * height - 1, 2 * width - 1), np.float32)
    fine[:, ::2, ::2] = planes
    fine[:, ::2, 1::2] = (planes[:, :, :-1] + planes[:, :, 1:]) / 2
    fine[:, 1::2] = (fine[:, :-1:2] + fine[:, 2::2]) / 2
    return fine


def _cells_along(length: int, full: int, parts: int) -> NDArray[np.intp]:
    """Return the cell of each of `full` pixels along a side of the photo.

    Args:
        length: pixels of the maps along this side.
        full: pixels of the photo.
        parts: cells between two pixels of the maps.
    """
    positions = ((np.arange(full) + 0.5) * (length / full) - 0.5) * parts
    cells: NDArray[np.intp] = np.clip(positions, 0, max((length - 1) * parts - 1, 0)).astype(np.intp)
    return cells
