"""Weights of the means and of the enlarging, in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer.photo.chroma import GUIDED_RADIUS, LEAST_PART, WINDOW_PART, box_mean, interpolation, interpolation_in_bands


@given(st.integers(1, 40), st.integers(0, 200), st.integers(1, 300))
def test_interpolation_is_linear_between_the_middles_of_pixels(length: int, more: int, step: int) -> None:
    full = length + more
    values = np.random.default_rng(length).random(length)
    found = np.full(full, np.nan)
    for part, source, weights in interpolation(length, full, step):
        assert part.stop - part.start <= step
        assert np.count_nonzero(weights, axis=1).max() <= 2
        found[part] = weights @ values[source]
    middles = (np.arange(full) + 0.5) * length / full
    assert np.allclose(found, np.interp(middles, np.arange(length) + 0.5, values), atol=1e-6)


@given(st.integers(1, 9), st.integers(0, 300), st.integers(1, 100))
def test_bands_of_an_interpolation_hold_the_same_values(length: int, more: int, step: int) -> None:
    full = length + more
    values = np.random.default_rng(length).random(length)
    found = np.full(full, np.nan)
    for band, parts in interpolation_in_bands(length, full, step):
        assert band.stop - band.start <= step
        for part, source, weights in parts:
            found[band][part] = weights @ values[source]
            assert full < LEAST_PART * length or source.stop - source.start <= 2
    middles = (np.arange(full) + 0.5) * length / full
    assert np.allclose(found, np.interp(middles, np.arange(length) + 0.5, values), atol=1e-6)


def test_kept_weights_cannot_be_written_over() -> None:
    for _, _, weights in interpolation(5, 9, 4):
        with pytest.raises(ValueError, match="read-only"):
            weights += 1


def test_box_mean_is_the_mean_of_the_window() -> None:
    for shape in ((1, 1), (2, 9), (3, 3), (20, 11), (2, 3 * WINDOW_PART - 5), (WINDOW_PART + 1, 2)):
        values = np.random.default_rng(0).random((2, *shape), np.float32)
        found, radius = box_mean(values), GUIDED_RADIUS
        for y, x in np.ndindex(shape):
            window = values[:, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            assert np.allclose(found[:, y, x], window.mean((1, 2)), atol=1e-6)
