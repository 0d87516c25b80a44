"""Random changes to training photos that make the network robust: sharpness, crop, exposure."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cgan.networks import GaussianBlur

BLUR_SIGMA = 1.5
"""Standard deviation of the Gaussian blur, in pixels at the training size. Enlarged or soft photos differ from photos
that were reduced from many more pixels by a factor of 3 to 4 in the amplitude of the detail that it removes."""

BLUR_RADIUS = 4
"""Radius of its kernel, in pixels."""


def sharpened(gray: Tensor, amounts: Tensor) -> Tensor:
    """Sharpen or blur luma with an unsharp mask: gray + amount x (gray - its blur), clipped.

    Args:
        gray: N x 1 x H x W in [0, 1].
        amounts: N values; -1 gives the blur itself, 0 no change, more than 0 sharpens.

    Returns:
        N x 1 x H x W in [0, 1], in the memory format of `gray`.
    """
    blurred: Tensor = GaussianBlur(BLUR_SIGMA, BLUR_RADIUS).to(gray)(gray)
    mixed = gray + amounts.to(gray).view(-1, 1, 1, 1) * (gray - blurred)
    return mixed.clamp(0, 1).to(memory_format=torch.channels_last)


def cropped(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Crop a part of each photo and enlarge it to the photo's size (bilinear, rounded).

    Args:
        pixels: N x C x H x W uint8.
        boxes: N x 3 in [0, 1]: the share of height and width to keep, and the position of the part in the remaining
            width and height, from 0 (left, top) to 1 (right, bottom).

    Returns:
        N x C x H x W uint8.
    """
    share, left, top = boxes.to(pixels.device, torch.float32).unbind(1)
    # affine_grid maps [-1, 1] of the result to the part's range in [-1, 1] of the photo.
    zero = torch.zeros_like(share)
    rows = [
        torch.stack([share, zero, (1 - share) * (2 * left - 1)], dim=1),
        torch.stack([zero, share, (1 - share) * (2 * top - 1)], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)
    parts = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return parts.round().to(torch.uint8)


def exposed(pixels: Tensor, powers: Tensor) -> Tensor:
    """Raise photos to a power: a darker print (above 1) or a lighter one (below 1).

    Args:
        pixels: N x C x H x W uint8; black and white do not change.
        powers: N values above 0; 1 gives no change.

    Returns:
        N x C x H x W uint8.
    """
    levels = pixels.float() / 255
    return (levels.pow(powers.to(levels).view(-1, 1, 1, 1)) * 255).round().to(torch.uint8)
