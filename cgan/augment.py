"""What training changes about a photo so that the network does not depend on it."""

import torch
from torch import Tensor
from torch.nn import functional as F

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
    positions = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=gray.device, dtype=gray.dtype)
    weights = torch.exp(-positions.square() / (2 * BLUR_SIGMA**2))
    kernel = (weights / weights.sum()).view(1, 1, 1, -1)
    padded = F.pad(gray, (BLUR_RADIUS,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))
    mixed = gray + amounts.to(gray).view(-1, 1, 1, 1) * (gray - blurred)
    return mixed.clamp(0, 1).to(memory_format=torch.channels_last)
