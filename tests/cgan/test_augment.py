"""Blurring and sharpening of the network's input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cgan.augment import sharpened


def edge(height: int = 24, width: int = 24) -> torch.Tensor:
    gray = torch.full((1, 1, height, width), 0.3)
    gray[..., width // 2 :] = 0.6
    return gray


def test_nothing_is_added_at_zero() -> None:
    gray = torch.rand(3, 1, 20, 28, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sharpened(gray, torch.zeros(3)), gray)


def test_flat_photos_stay_flat_up_to_their_borders() -> None:
    gray = torch.full((2, 1, 16, 16), 0.37)
    assert torch.allclose(sharpened(gray, torch.tensor([-1.0, 3.0])), gray, atol=1e-6)


@given(st.floats(-1, 3), st.floats(-1, 3))
def test_more_is_sharper(first: float, second: float) -> None:
    low, high = sorted((first, second))
    ranges = [float(sharpened(edge(), torch.tensor([amount])).diff(dim=3).abs().max()) for amount in (low, high)]
    assert ranges[0] <= ranges[1] + 1e-6


def test_the_blur_is_a_gaussian_of_its_sigma() -> None:
    point = torch.zeros(1, 1, 25, 25)
    point[..., 12, 12] = 1
    blur = sharpened(point, torch.tensor([-1.0]))[0, 0]
    assert float(blur.sum()) == pytest.approx(1, abs=1e-5)
    squares = (torch.arange(25) - 12.0).square()
    variance = float((blur.sum(0) * squares).sum())
    assert variance == pytest.approx(1.5**2, rel=0.03)  # cut off at BLUR_RADIUS
    assert torch.allclose(blur, blur.T, atol=1e-7)


def test_each_photo_has_its_own_amount_and_values_stay_in_range() -> None:
    gray = edge().expand(2, 1, 24, 24).contiguous()
    both = sharpened(gray, torch.tensor([-1.0, 10.0]))
    for i, amount in enumerate((-1.0, 10.0)):
        assert torch.allclose(both[i : i + 1], sharpened(gray[i : i + 1], torch.tensor([amount])))
    assert both.min() >= 0
    assert both.max() <= 1
    assert both[1].max() == 1
