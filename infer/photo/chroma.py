"""Upsampling of the network's colour differences to the size of the photo.

The network colours a small copy of the photo. As in the fast guided filter (He and Sun 2015, "Fast guided filter"),
linear coefficients between luma and colour are fitted at the small size, enlarged, and applied to the photo's luma, so
that colours follow its edges. At the small size they give exactly the network's colours; the filter's own offsets would
blur these. Photos that were coloured with their own colours at 64 pixels lost 6 dB of PSNR by it.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cgan.spec import LUMA_REC601
from infer.photo.decode import Floats

GUIDED_RADIUS = 8
"""Radius of the window of the regression, in pixels of the render size. With 3, the Fréchet distance of 300 coloured
photos of flowers at 256 pixels was 5% larger, and PSNR the same."""
GUIDED_EPSILON = 1e-4
"""Regularisation of the regression: luma variance below this (in [0, 1] squared) counts as flat. With 3e-4 the Fréchet
distance of coloured photos was 1% larger."""

BAND_ROWS, BAND_COLUMNS = 512, 128
"""Largest number of rows and columns that are enlarged at a time."""

PART_SOURCES, WINDOW_PART = 16, 16
"""Source values that the target values of a product depend on, about, and pixels whose window means are one product.
Most weights of a larger matrix are zeros, and smaller products take longer to call."""

MAP_BYTES = 16
"""Bytes of a pixel of `color_maps` and of `widened`: offsets and slopes of two colour differences in float32."""

KEPT_WEIGHTS = 16
"""Number of lengths whose weights are cached for photos of the same size. For thumbnails, computing weights takes as
long as using them. Each entry takes a few MiB at most."""

LEAST_PART = 8
"""Least number of target values for each source value that are worth a product of their own."""

Weights = tuple[tuple[slice, slice, Floats], ...]
"""Parts of a line of pixels: target slice, source slice, and weights of target x source."""


def color_maps(size: tuple[int, int], gray: Floats, rgb: Floats, top: np.float32) -> Floats:
    """Return colour differences, or coefficients for them, at the size of the network's output, or of a smaller photo.

    Args:
        size: height and width of the photo.
        gray: input of the network, 1 x h x w in [0, 1].
        rgb: output of the network, 3 x h x w in [0, 1].
        top: highest level of the output, to which the differences are scaled.

    Returns:
        R - Y and B - Y, 2 x h' x w', with sides of at most those of the photo. If the photo is larger than the render
        size: offsets and slopes of R - Y and B - Y as linear functions of Y, 4 x h' x w'.
    """
    height, width = size
    maps: Floats = rgb[::2] - small_luma(rgb)
    if height > gray.shape[1] or width > gray.shape[2]:
        maps = _guided_coefficients(gray[0], maps)
    maps[:2] *= top
    shrunk = (min(height, maps.shape[1]), min(width, maps.shape[2]))
    if shrunk != maps.shape[1:]:
        small = [Image.fromarray(plane).resize(shrunk[::-1], Image.Resampling.BILINEAR) for plane in maps]
        maps = np.stack([np.asarray(plane) for plane in small])
    return maps


def widened(maps: Floats, width: int) -> Floats:
    """Return maps, n x h' x w', interpolated to a width of at least w'."""
    if maps.shape[2] == width:
        return maps
    wide = np.empty((*maps.shape[:2], width), np.float32)
    for columns, source, weights in interpolation(maps.shape[2], width, BAND_COLUMNS):
        np.matmul(maps[..., source], weights.T, out=wide[..., columns])
    return wide


def with_strength(rgb: Floats, strength: float) -> Floats:
    """Return colours whose differences from their own luma are scaled; hue and luma stay.

    Args:
        rgb: output of the network, 3 x h x w in [0, 1].
        strength: factor, 0 for gray, 1 for no change.

    Returns:
        3 x h x w; can be outside [0, 1] for a factor above 1, so the colours have yet to be moved into the gamut.
    """
    if strength == 1:
        return rgb
    luma = small_luma(rgb)
    scaled: Floats = luma + np.float32(strength) * (rgb - luma)
    return scaled


def small_luma(rgb: Floats) -> Floats:
    """Return Rec.601 luma of the output of the network, h x w."""
    red, green, blue = (np.float32(weight) * plane for weight, plane in zip(LUMA_REC601, rgb, strict=True))
    total: Floats = red + green + blue
    return total


def _guided_coefficients(guide: Floats, values: Floats) -> Floats:
    """Return offsets and slopes of `values` as locally linear functions of `guide`.

    The slopes are those of He et al. 2013, "Guided image filtering", equations 5 and 8. Their offsets (equation 6)
    would blur the values like a window mean; these give each pixel of `guide` its own value again.

    Args:
        guide: h x w.
        values: 2 x h x w.

    Returns:
        4 x h x w: offsets of both values, then slopes.
    """
    means = box_mean(np.stack([guide, guide * guide, *values, *(guide * values)]))
    mean_guide, mean_values = means[0], means[2:4]
    variance = np.maximum(means[1] - mean_guide * mean_guide, 0)
    slopes = box_mean((means[4:6] - mean_guide * mean_values) / (variance + np.float32(GUIDED_EPSILON)))
    return np.concatenate([values - slopes * guide, slopes])


def box_mean(planes: Floats) -> Floats:
    """Return the mean over the window of GUIDED_RADIUS around each pixel, cropped at the borders; n x h x w.

    Matrix products take a third of the time of sums of shifted planes at 64 pixels a side. They are computed in parts,
    because the whole weight matrix is mostly zeros.
    """
    height, width = planes.shape[1:]
    rows, means = np.empty_like(planes), np.empty_like(planes)
    for part, source, weights in _windows(height):
        np.matmul(weights, planes[:, source], out=rows[:, part])
    for part, source, weights in _windows(width):
        np.matmul(rows[..., source], weights.T, out=means[..., part])
    return means


@lru_cache(maxsize=KEPT_WEIGHTS)
def _windows(length: int) -> Weights:
    """Return the weights of the window means along a line of pixels."""
    parts = []
    for start in range(0, length, WINDOW_PART):
        part = slice(start, min(start + WINDOW_PART, length))
        source = slice(max(0, start - GUIDED_RADIUS), min(part.stop + GUIDED_RADIUS, length))
        distances = np.arange(part.start, part.stop)[:, None] - np.arange(source.start, source.stop)
        near: Floats = (np.abs(distances) <= GUIDED_RADIUS).astype(np.float32)
        near /= near.sum(axis=1, keepdims=True)
        parts.append((part, source, _kept(near)))
    return tuple(parts)


@lru_cache(maxsize=KEPT_WEIGHTS)
def interpolation(length: int, full: int, step: int) -> Weights:
    """Return weights of linear interpolation along a line as matrices; products are faster than sums of planes.

    Args:
        length: number of source values; the first and last are extended beyond the ends.
        full: number of target values, at least `length`.
        step: largest number of target values per part.
    """
    before, fractions = _positions(length, full)
    step = min(step, _targets(length, full))
    return tuple(_part(before, fractions, length, start, min(start + step, full)) for start in range(0, full, step))


@lru_cache(maxsize=KEPT_WEIGHTS)
def interpolation_in_bands(length: int, full: int, step: int) -> tuple[tuple[slice, Weights], ...]:
    """Return bands of `step` target values, and the parts of each, which are numbered within the band.

    Where enough target values lie between the same two source values they are a part of their own: a product over two
    values takes three fifths of the time of one over three.
    """
    before, fractions = _positions(length, full)
    alone = full >= LEAST_PART * length
    bands = []
    for start in range(0, full, step):
        stop = min(start + step, full)
        if alone:
            edges = [start, *(start + 1 + int(change) for change in np.flatnonzero(np.diff(before[start:stop]))), stop]
        else:
            edges = [*range(start, stop, _targets(length, full)), stop]
        parts = [_part(before, fractions, length, *pair) for pair in pairwise(edges)]
        own = tuple((slice(at.start - start, at.stop - start), source, weights) for at, source, weights in parts)
        bands.append((slice(start, stop), own))
    return tuple(bands)


def _targets(length: int, full: int) -> int:
    """Return the number of target values that depend on about PART_SOURCES source values."""
    return PART_SOURCES * full // length


def _positions(length: int, full: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the source value before each of the target values, and the weight of the one after it."""
    positions = np.clip((np.arange(full) + 0.5) * (length / full) - 0.5, 0, length - 1)
    before = positions.astype(np.intp)
    return before, positions - before


def _part(
    before: NDArray[np.intp], fractions: NDArray[np.float64], length: int, start: int, stop: int
) -> tuple[slice, slice, Floats]:
    """Return the target slice from `start` to `stop`, its source slice and the weights."""
    before, fractions = before[start:stop], fractions[start:stop]
    first, end = int(before[0]), min(int(before[-1]) + 2, length)
    weights = np.zeros((len(before), before[-1] + 2 - first), np.float32)
    each = np.arange(len(before))
    weights[each, before - first] = 1 - fractions
    weights[each, before - first + 1] = fractions  # the column after the last value has weight zero and is cropped
    return slice(start, stop), slice(first, end), _kept(np.ascontiguousarray(weights[:, : end - first]))


def _kept(weights: Floats) -> Floats:
    """Return the weights as read-only, because the cache shares them between photos."""
    weights.flags.writeable = False
    return weights
