"""Colour conversions on tensors, and the colour spaces in which a generator can be trained.

YCbCr is that of JPEG files: full range, ECMA TR/98 (JFIF), section 6.2. Its matrix follows from the weights of luma
in the contract, `cgan.spec.LUMA_REC601`, as in ITU-R BT.601-7, section 2.5. Cb and Cr of gray are 0.5 here; 8-bit
files store 128/255. With 0.5 the gamut fills [0, 1], the range of a sigmoid, and a photo's values lie within 0.55/255
of those of Pillow's mode "YCbCr". With 128/255 pure blue and pure red would be above 1.

HSV is the hexcone of Smith 1978, "Color gamut transform pairs", with all three values in [0, 1], as in Python's
colorsys.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cgan.spec import LUMA_FIXED_POINT, LUMA_REC601, ColorSpaceName

NEUTRAL_CHROMA = 0.5
"""Cb and Cr of gray."""

BLUE_RANGE, RED_RANGE = (2 * (1 - LUMA_REC601[channel]) for channel in (2, 0))
"""Length of the range of B - Y and of R - Y, which Cb and Cr map to [0, 1]: 1.772, 1.402."""


def luma_uint8(rgb: Tensor) -> Tensor:
    """Return Rec.601 luma, exactly as Pillow's mode "L" rounds it.

    Args:
        rgb: ... x 3 x H x W uint8.

    Returns:
        ... x 1 x H x W uint8.
    """
    red, green, blue = torch.split(rgb.to(torch.int32), 1, dim=-3)
    weights = LUMA_FIXED_POINT
    total = red * weights[0] + green * weights[1] + blue * weights[2] + 2**15
    return (total >> 16).to(torch.uint8)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """Convert R, G, B to full-range Y, Cb, Cr (ECMA TR/98, section 6.2).

    Args:
        rgb: ... x 3 x H x W float in [0, 1].

    Returns:
        ... x 3 x H x W in [0, 1]; Cb and Cr of gray are 0.5.
    """
    red, green, blue = torch.split(rgb, 1, dim=-3)
    # From differences, since the weights sum to 1: gray is then exactly neutral, and no rounding leaves [0, 1].
    luma = green + LUMA_REC601[0] * (red - green) + LUMA_REC601[2] * (blue - green)
    cb = (blue - luma) / BLUE_RANGE + NEUTRAL_CHROMA
    cr = (red - luma) / RED_RANGE + NEUTRAL_CHROMA
    return torch.cat([luma, cb, cr], dim=-3)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Convert full-range Y, Cb, Cr to R, G, B: the inverse of `rgb_to_ycbcr`.

    Args:
        ycbcr: ... x 3 x H x W float in [0, 1].

    Returns:
        ... x 3 x H x W; outside [0, 1] where no RGB colour has these values, so that a loss can measure the excess.
    """
    luma, cb, cr = torch.split(ycbcr, 1, dim=-3)
    red_difference, blue_difference = RED_RANGE * (cr - NEUTRAL_CHROMA), BLUE_RANGE * (cb - NEUTRAL_CHROMA)
    # The luma of the three differences is zero, which gives green's from the other two.
    green_difference = -(LUMA_REC601[0] * red_difference + LUMA_REC601[2] * blue_difference) / LUMA_REC601[1]
    return torch.cat([luma + red_difference, luma + green_difference, luma + blue_difference], dim=-3)


def rgb_to_hsv(rgb: Tensor) -> Tensor:
    """Convert R, G, B to hue, saturation, value (Smith 1978, RGB to HSV).

    Gradients are finite everywhere. Hue and saturation have none at gray, where hue is undefined and given as 0; hue's
    grows as 1 / (max - min) towards it.

    Args:
        rgb: ... x 3 x H x W float in [0, 1].

    Returns:
        ... x 3 x H x W: hue in [0, 1), a turn of the colour circle that begins at red; saturation and value in [0, 1].
    """
    red, green, blue = torch.split(rgb, 1, dim=-3)
    value = rgb.amax(dim=-3, keepdim=True)
    chroma = value - rgb.amin(dim=-3, keepdim=True)
    # The reciprocal of a subnormal number is infinite. Each side of a `where` needs a finite gradient, chosen or not.
    colored = chroma > torch.finfo(rgb.dtype).tiny
    divisor = chroma.where(colored, 1)
    sixths = torch.where(green == value, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = torch.where(red == value, (green - blue) / divisor, sixths)
    # Two remainders, because the first one of a tiny negative number rounds to 1.
    hue = sixths.where(colored, 0) / 6 % 1 % 1
    saturation = chroma / value.where(colored, 1)
    return torch.cat([hue, saturation, value], dim=-3)


def hsv_to_rgb(hsv: Tensor) -> Tensor:
    """Convert hue, saturation, value to R, G, B: the inverse of `rgb_to_hsv` (Smith 1978, HSV to RGB).

    Saturation lowers each channel by a share that is a trapezium over the colour circle: 0 for a third of a turn around
    its primary, 1 for a third around the complement, linear between. There is no choice of sextants, and gradients are
    finite everywhere.

    Args:
        hsv: ... x 3 x H x W float in [0, 1]; hue 1 is the hue 0.

    Returns:
        ... x 3 x H x W in [0, 1].
    """
    hue, saturation, value = torch.split(hsv, 1, dim=-3)
    sixths = 6 * hue
    # Red lies at both ends of the range of hue, so its trapezium is measured from its complement.
    shares = [2 - (sixths - 3).abs(), (sixths - 2).abs() - 1, (sixths - 4).abs() - 1]
    return torch.cat([value * (1 - saturation * share.clamp(0, 1)) for share in shares], dim=-3)


@dataclass(frozen=True)
class ColorSpace:
    """A colour space of training: what the generator predicts, and the conversions from photos and to RGB."""

    name: ColorSpaceName
    channels: int
    """Channels that the generator predicts."""
    split: Callable[[Tensor], tuple[Tensor, Tensor]]
    """`split(pixels)`: photos, N x 3 x H x W uint8 RGB, to the generator's input, N x 1 x H x W, and its target,
    N x channels x H x W, both float32 in [0, 1]."""
    to_rgb: Callable[[Tensor, Tensor], Tensor]
    """`to_rgb(gray, color)`: input and prediction to RGB, N x 3 x H x W; differentiable and exportable to ONNX.
    With ycbcr it is not clamped to [0, 1]."""


def _split_rgb(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return luma_uint8(pixels).float() / 255, pixels.float() / 255


def _split_hsv(pixels: Tensor) -> tuple[Tensor, Tensor]:
    hue_saturation, value = torch.split(rgb_to_hsv(pixels.float() / 255), [2, 1], dim=1)
    return value, hue_saturation


def _split_ycbcr(pixels: Tensor) -> tuple[Tensor, Tensor]:
    # Cb and Cr are differences from the exact luma, not from the rounded one. Rounding then shifts R, G and B equally,
    # by half a level at most; otherwise it would shift green alone, by 0.85.
    return luma_uint8(pixels).float() / 255, rgb_to_ycbcr(pixels.float() / 255)[:, 1:]


def _rgb_itself(gray: Tensor, color: Tensor) -> Tensor:
    return color


def _value_to_rgb(gray: Tensor, color: Tensor) -> Tensor:
    return hsv_to_rgb(torch.cat([color, gray], dim=1))


def _luma_to_rgb(gray: Tensor, color: Tensor) -> Tensor:
    return ycbcr_to_rgb(torch.cat([gray, color], dim=1))


COLOR_TARGETS: dict[ColorSpaceName, ColorSpace] = {
    space.name: space
    for space in (
        ColorSpace("rgb", 3, _split_rgb, _rgb_itself),
        ColorSpace("hsv", 2, _split_hsv, _value_to_rgb),
        ColorSpace("ycbcr", 2, _split_ycbcr, _luma_to_rgb),
    )
}
"""The colour spaces by name. Gray is Rec.601 luma, except with hsv, where it is V, the largest of R, G and B."""
