"""Augmentation of training photos: crops, sharpness and exposure."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cgan.data.augment import cropped, exposed, sharpened


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


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_crop_of_the_whole_is_the_photo_wherever_it_begins(left: float, top: float) -> None:
    pixels = noise(2, 3, 8, 12)
    assert torch.equal(cropped(pixels, torch.tensor([[1.0, left, top]]).expand(2, 3)), pixels)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_half_of_a_photo_of_four_tiles_is_a_tile(left: int, top: int) -> None:
    tiles = torch.tensor([[10, 60], [120, 250]], dtype=torch.uint8)
    pixels = tiles.repeat_interleave(8, 0).repeat_interleave(8, 1).expand(1, 3, 16, 16)
    part = cropped(pixels, torch.tensor([[0.5, left, top]]))
    # A bilinear filter mixes half a pixel of the neighbour in at the cut.
    assert (part[..., 1:-1, 1:-1] == tiles[top, left]).all()


def test_a_crop_enlarges_as_a_resize_of_the_part_does() -> None:
    pixels = noise(1, 3, 16, 16)
    part = cropped(pixels, torch.tensor([[0.5, 0.5, 0.25]]))
    resized = F.interpolate(pixels[..., 2:10, 4:12].float(), (16, 16), mode="bilinear").round()
    assert torch.equal(part[..., 1:-1, 1:-1].float(), resized[..., 1:-1, 1:-1])


@given(st.floats(0.1, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_crop_stays_within_the_photo(share: float, left: float, top: float) -> None:
    """A ramp shows where each pixel came from."""
    ramp = torch.arange(64, dtype=torch.uint8)
    pixels = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64)])[None]
    part = cropped(pixels, torch.tensor([[share, left, top]])).float()
    for channel, begin in ((0, left), (1, top)):
        first = (1 - share) * begin * 64
        assert float(part[0, channel].min()) >= first - 1.01
        assert float(part[0, channel].max()) <= first + share * 64 + 0.01
        assert float(part[0, channel].max() - part[0, channel].min()) == pytest.approx(share * 63, abs=1.6)


def test_each_photo_has_its_own_crop() -> None:
    pixels = noise(2, 3, 16, 16)
    boxes = torch.tensor([[0.3, 0.1, 0.9], [0.8, 0.5, 0.0]])
    both = cropped(pixels, boxes)
    for i in range(2):
        assert torch.equal(both[i : i + 1], cropped(pixels[i : i + 1], boxes[i : i + 1]))


@given(st.floats(0.25, 4))
def test_exposure_keeps_black_white_and_the_order_of_levels(power: float) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256)
    out = exposed(levels, torch.tensor([power]))
    assert out.dtype == torch.uint8
    assert (int(out[..., 0]), int(out[..., -1])) == (0, 255)
    assert (out.int().diff() >= 0).all()


def test_each_photo_has_its_own_power() -> None:
    pixels = noise(3, 3, 8, 8)
    out = exposed(pixels, torch.tensor([1.0, 2.0, 0.5])).int()
    assert torch.equal(out[0], pixels[0].int())
    expected = (pixels[1].double() / 255).square() * 255
    assert (out[1] - expected).abs().max() <= 0.51
    assert (out[1] <= pixels[1]).all()
    assert (out[2] >= pixels[2]).all()
