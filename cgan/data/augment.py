"""What training changes about a photo so that the network does not depend on it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cgan.networks import GaussianBlur

BLUR_SIGMA = 1.5
"""Of the Gaussian blur, in pixels of the training size: between photos that were enlarged or softened and those that
were reduced from many more pixels lies a factor of 3 to 4 in the amplitude of what it removes."""

BLUR_RADIUS = 4


def sharpened(gray: Tensor, amounts: Tensor) -> Tensor:
    """Blurred and sharpened luma: gray + amount x (gray - its blur), clipped (an unsharp mask).

    Args:
        gray: N x 1 x H x W in [0, 1].
        amounts: N; -1 is the blur itself, 0 leaves a photo as it is, more sharpens it.

    Returns:
        N x 1 x H x W in [0, 1], in the memory format of `gray`.
    """
    blurred: Tensor = GaussianBlur(BLUR_SIGMA, BLUR_RADIUS).to(gray)(gray)
    mixed = gray + amounts.to(gray).view(-1, 1, 1, 1) * (gray - blurred)
    return mixed.clamp(0, 1).to(memory_format=torch.channels_last)


def cropped(pixels: Tensor, boxes: Tensor) -> Tensor:
    """A square part of each photo, enlarged to the photo's size (bilinear, rounded).

    Args:
        pixels: N x C x H x W uint8.
        boxes: N x 3 in [0, 1]: the share of height and width that is kept, and where in the rest it begins, from left
            to right and from top to bottom.

    Returns:
        N x C x H x W uint8.
    """
    share, left, top = boxes.to(pixels.device, torch.float32).unbind(1)
    # affine_grid maps [-1, 1] of the result to the part's place in [-1, 1] of the photo.
    zero = torch.zeros_like(share)
    rows = [
        torch.stack([share, zero, (1 - share) * (2 * left - 1)], dim=1),
        torch.stack([zero, share, (1 - share) * (2 * top - 1)], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)
    parts = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return parts.round().to(torch.uint8)


def exposed(pixels: Tensor, powers: Tensor) -> Tensor:
    """Photos raised to a power, as if they were printed darker (above 1) or lighter (below 1).

    Args:
        pixels: N x C x H x W uint8; black and white stay what they are.
        powers: N, above 0; 1 leaves a photo as it is.

    Returns:
        N x C x H x W uint8.
    """
    levels = pixels.float() / 255
    return (levels.pow(powers.to(levels).view(-1, 1, 1, 1)) * 255).round().to(torch.uint8)
