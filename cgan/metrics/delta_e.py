"""CIEDE2000, the perceived difference of two colours. About 1 is just noticeable side by side."""

import math

import torch
from torch import Tensor

SRGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""Linear sRGB to CIE XYZ, D65 (IEC 61966-2-1, to seven digits)."""

WHITE = tuple(sum(row) for row in SRGB_TO_XYZ)
"""XYZ of (1, 1, 1): with it, gray has exactly zero chroma."""

LAB_EPSILON, LAB_KAPPA = 216 / 24389, 24389 / 27
"""The value below which CIE L*a*b* has a line in place of the cube root, and its slope (CIE 15:2004, section 8.2)."""

_TURN = 2 * math.pi


def srgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB to CIE L*a*b*, D65 (IEC 61966-2-1; CIE 15:2004, section 8.2.1).

    Args:
        rgb: N x 3 x H x W in [0, 1], of any floating type.

    Returns:
        N x 3 x H x W of that type: L* in [0, 100], a*, b* in about [-108, 99]. In float32 within 2e-4 of float64.
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055).pow(2.4))
    matrix = torch.tensor(SRGB_TO_XYZ, dtype=torch.float64) / torch.tensor(WHITE, dtype=torch.float64)[:, None]
    xyz = torch.einsum("ij,njhw->nihw", matrix.to(rgb), linear)
    x, y, z = torch.where(xyz > LAB_EPSILON, _cube_root(xyz), (LAB_KAPPA * xyz + 16) / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _cube_root(x: Tensor) -> Tensor:
    """Cube root of positive numbers; values below LAB_EPSILON are clamped, because the caller does not use them."""
    return x.clamp(min=LAB_EPSILON).pow(1 / 3)


def ciede2000(one: Tensor, other: Tensor) -> Tensor:
    """CIEDE2000 between colours in CIE L*a*b*, with kL = kC = kH = 1 (Sharma, Wu and Dalal 2005, "The CIEDE2000
    color-difference formula", equations 2 to 22).

    Args:
        one, other: N x 3 x H x W, L* in [0, 100], float32 or float64.

    Returns:
        N x H x W, 0 or more; in float32 within 1e-3 of float64 for colours of sRGB.
    """
    (l1, a1, b1), (l2, a2, b2) = one.unbind(1), other.unbind(1)
    g = 0.5 * (1 - _chroma_share((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % _TURN, torch.atan2(b2, a2) % _TURN
    gray = c1 * c2 == 0

    # The hue difference is along the shorter arc, and the mean hue lies on that arc.
    turn = h2 - h1
    far = turn.abs() > math.pi
    turn = torch.where(far, turn - _TURN * turn.sign(), turn).masked_fill(gray, 0)
    mean_h = (h1 + h2) / 2
    mean_h = torch.where(far, mean_h + math.pi, mean_h)  # up to a full turn more than Sharma's
    mean_h = torch.where(gray, h1 + h2, mean_h) % _TURN
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2

    t = (
        1
        - 0.17 * torch.cos(mean_h - math.radians(30))
        + 0.24 * torch.cos(2 * mean_h)
        + 0.32 * torch.cos(3 * mean_h + math.radians(6))
        - 0.20 * torch.cos(4 * mean_h - math.radians(63))
    )
    from_middle = (mean_l - 50).square()
    lightness = (l2 - l1) / (1 + 0.015 * from_middle / (20 + from_middle).sqrt())
    chroma = (c2 - c1) / (1 + 0.045 * mean_c)
    hue = 2 * (c1 * c2).sqrt() * torch.sin(turn / 2) / (1 + 0.015 * mean_c * t)
    blueness = torch.exp(-((mean_h - math.radians(275)) / math.radians(25)).square())
    rotation = -2 * _chroma_share(mean_c) * torch.sin(math.radians(60) * blueness)
    square = lightness.square() + chroma.square() + hue.square() + rotation * chroma * hue
    return square.clamp(min=0).sqrt()


def _chroma_share(chroma: Tensor) -> Tensor:
    """sqrt(C^7 / (C^7 + 25^7))."""
    power = (chroma / 25).pow(7)
    return (power / (power + 1)).sqrt()


def delta_e(prediction: Tensor, truth: Tensor) -> Tensor:
    """CIEDE2000 of each pixel of sRGB pictures.

    Args:
        prediction: N x 3 x H x W in [0, 1], sRGB, float32 or float64.
        truth: the same shape, type and range.

    Returns:
        N x H x W.
    """
    return ciede2000(srgb_to_lab(prediction), srgb_to_lab(truth))
