"""Colour conversions on tensors; the weights of luma are those of the contract in `cgan.spec`."""

import torch
from torch import Tensor

from cgan.spec import LUMA_REC601

LUMA_FIXED_POINT = tuple(round(weight * 2**16) for weight in LUMA_REC601)
"""Luma weights in units of 2**-16, as Pillow's conversion to mode "L" computes: 19595, 38470, 7471."""


def luma_uint8(rgb: Tensor) -> Tensor:
    """Rec.601 luma, exactly as Pillow's mode "L" rounds it.

    Args:
        rgb: ... x 3 x H x W uint8.

    Returns:
        ... x 1 x H x W uint8.
    """
    red, green, blue = rgb.to(torch.int32).unbind(dim=-3)
    weights = LUMA_FIXED_POINT
    total = red * weights[0] + green * weights[1] + blue * weights[2] + 2**15
    return (total >> 16).to(torch.uint8).unsqueeze(-3)
