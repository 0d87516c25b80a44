"""The network's colour differences at the photo's own size.

The network colours a small copy. Its colour differences are brought up to the photo's size with the fast guided filter
(He and Sun 2015, "Fast guided filter"): linear coefficients between luma and colour are found at the small size,
enlarged, and applied to the photo's own luma, so colours end where edges are.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from cgan.spec import LUMA_REC601
from infer.photo.decode import Floats

GUIDED_RADIUS = 3
"""Radius of the guided filter's window, in pixels of the render size."""
GUIDED_EPSILON = 1e-3
"""Regularisation of the guided filter: luma variance below this (in [0, 1] squared) counts as flat."""

BAND_ROWS, BAND_COLUMNS = 512, 128
"""Rows and columns that are enlarged at a time at most, so that each comes from a few."""

KEPT_WEIGHTS = 16
"""Lengths whose weights are kept for the next photo of that size: for a thumbnail making them takes as long as using
them. A few MiB each at most."""

Weights = tuple[tuple[slice, slice, Floats], ...]
"""The parts of a line, the values that each comes from, and what these weigh in each of the part: a row for each."""


def color_maps(size: tuple[int, int], gray: Floats, rgb: Floats, top: np.float32) -> Floats:
    """What gives a band its colour differences, enlarged to the photo's width; enlarging to its height is left.

    Returns:
        2 x h' x width with h' at most the photo's height: R - Y and B - Y. Where the photo is larger than the
        render size 4 x h' x width: the offsets and then the slopes with which these are linear in Y.
    """
    height, width = size
    small_luma = sum(np.float32(w) * plane for w, plane in zip(LUMA_REC601, rgb, strict=True))
    maps: Floats = rgb[::2] - small_luma
    if height > gray.shape[1] or width > gray.shape[2]:
        maps = _guided_coefficients(gray[0], maps)
    maps[:2] *= top
    shrunk = (min(height, maps.shape[1]), min(width, maps.shape[2]))
    if shrunk != maps.shape[1:]:
        small = [Image.fromarray(plane).resize(shrunk[::-1], Image.Resampling.BILINEAR) for plane in maps]
        maps = np.stack([np.asarray(plane) for plane in small])
    if shrunk[1] == width:
        return maps
    wide = np.empty((*maps.shape[:2], width), np.float32)
    for columns, source, weights in interpolation(maps.shape[2], width, BAND_COLUMNS):
        np.matmul(maps[..., source], weights.T, out=wide[..., columns])
    return wide


def _guided_coefficients(guide: Floats, values: Floats) -> Floats:
    """Offsets and slopes with which each of values is locally a linear function of guide.

    He et al. 2013, "Guided image filtering", equations 5, 6 and 8.

    Args:
        guide: h x w.
        values: 2 x h x w.

    Returns:
        4 x h x w.
    """
    means = box_mean(np.stack([guide, guide * guide, *values, *(guide * values)]))
    mean_guide, mean_values = means[0], means[2:4]
    variance = np.maximum(means[1] - mean_guide * mean_guide, 0)
    slopes = (means[4:6] - mean_guide * mean_values) / (variance + np.float32(GUIDED_EPSILON))
    return box_mean(np.concatenate([mean_values - slopes * mean_guide, slopes]))


def box_mean(planes: Floats) -> Floats:
    """Mean over the window of GUIDED_RADIUS around each pixel, cut off at the borders; n x h x w.

    As matrix products, which at 64 pixels a side take a third of the time of sums of shifted planes; part by part, or
    they would be mostly zeros.
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
    """What the means along a line of pixels are of, and what that weighs in each mean."""
    parts = []
    for start in range(0, length, BAND_COLUMNS):
        part = slice(start, min(start + BAND_COLUMNS, length))
        source = slice(max(0, start - GUIDED_RADIUS), min(part.stop + GUIDED_RADIUS, length))
        distances = np.arange(part.start, part.stop)[:, None] - np.arange(source.start, source.stop)
        near: Floats = (np.abs(distances) <= GUIDED_RADIUS).astype(np.float32)
        near /= near.sum(axis=1, keepdims=True)
        parts.append((part, source, _kept(near)))
    return tuple(parts)


@lru_cache(maxsize=KEPT_WEIGHTS)
def interpolation(length: int, full: int, step: int) -> Weights:
    """Linear interpolation as matrix products, which is several times as fast as sums over whole planes.

    Args:
        length: values on a line, whose ends go on unchanged.
        full: how many there are to be, at least as many.
        step: how many of these a part has; the last one may have less.
    """
    parts = []
    for start in range(0, full, step):
        part = slice(start, min(start + step, full))
        positions = np.clip((np.arange(part.start, part.stop) + 0.5) * (length / full) - 0.5, 0, length - 1)
        before = positions.astype(np.intp)
        fractions = positions - before
        first, stop = before[0], min(before[-1] + 2, length)
        weights = np.zeros((len(before), before[-1] + 2 - first), np.float32)
        each = np.arange(len(before))
        weights[each, before - first] = 1 - fractions
        weights[each, before - first + 1] = fractions  # after the last value follows none, with a weight of zero
        parts.append((part, slice(first, stop), _kept(weights[:, : stop - first])))
    return tuple(parts)


def _kept(weights: Floats) -> Floats:
    """Weights that photos after this one will be given too."""
    weights.flags.writeable = False
    return weights
