"""Luma: exactly Pillow's, and the weights of the contract."""

import numpy as np
import pytest
import torch
from PIL import Image

from cgan.color import LUMA_FIXED_POINT, luma_uint8
from cgan.spec import LUMA_REC601


@pytest.mark.parametrize("high_bits", range(8))
def test_luma_of_every_colour_is_that_of_pillow(high_bits: int) -> None:
    codes = np.arange(2**21, dtype=np.uint32) + high_bits * 2**21
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1).astype(np.uint8).reshape(1024, 2048, 3)
    expected = np.asarray(Image.fromarray(colors).convert("L"))
    found = luma_uint8(torch.from_numpy(colors).permute(2, 0, 1))
    assert found.shape == (1, 1024, 2048)
    assert found.dtype == torch.uint8
    assert np.array_equal(found[0].numpy(), expected)


def test_luma_uint8_takes_batches() -> None:
    photos = torch.randint(0, 256, (5, 2, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = luma_uint8(photos)
    assert found.shape == (5, 2, 1, 4, 6)
    assert torch.equal(found[3, 1], luma_uint8(photos[3, 1]))


def test_fixed_point_weights_sum_to_one() -> None:
    assert LUMA_FIXED_POINT == (19595, 38470, 7471)
    assert sum(LUMA_FIXED_POINT) == 2**16


def test_luma_weights_are_those_of_the_contract() -> None:
    rgb = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact = torch.einsum("c,chw->hw", torch.tensor(LUMA_REC601, dtype=torch.float64), rgb.double())
    assert (luma_uint8(rgb)[0].double() - exact).abs().max() <= 0.5 + 255 / 2**16
