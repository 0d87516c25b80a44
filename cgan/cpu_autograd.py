"""Reflect padding and concatenation with fast gradients for channels-last tensors on the CPU.

torch's own kernels are used for all other tensors, and while a network is compiled or exported.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reflect_pad(x: Tensor) -> Tensor:
    """Pad by one pixel on each side with the mirror image: N x C x H x W -> N x C x H+2 x W+2, H and W at least 2."""
    if not _is_slow_in_torch(x):
        return F.pad(x, (1, 1, 1, 1), mode="reflect")
    padded: Tensor = _ReflectPad.apply(x)
    return padded


def concatenate(x: Tensor, skip: Tensor) -> Tensor:
    """Stack two tensors along the channels: N x C1 x H x W and N x C2 x H x W -> N x C1+C2 x H x W."""
    if _is_slow_in_torch(x) and x.requires_grad:
        x = _DenseGradient.apply(x)
    return torch.cat([x, skip], dim=1)


def _is_slow_in_torch(x: Tensor) -> bool:
    """Return True if torch's own kernels are slow for this tensor."""
    channels_last = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
    return channels_last and not torch.compiler.is_compiling()


class _ReflectPad(torch.autograd.Function):
    """Reflect padding by copies of whole rows and columns.

    For channels-last tensors torch's CPU kernel takes ten times as long. Slices and concatenations under autograd take
    three times as long, because their backward pass allocates and adds a whole tensor for each border.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = torch.empty((n, c, h + 2, w + 2), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        y[:, :, 1:-1, 1:-1] = x
        y[:, :, 0, 1:-1] = x[:, :, 1]
        y[:, :, -1, 1:-1] = x[:, :, -2]
        y[:, :, :, 0] = y[:, :, :, 2]
        y[:, :, :, -1] = y[:, :, :, -3]
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (g,) = gradients
        inner = g[:, :, 1:-1, 1:-1].clone(memory_format=torch.channels_last)
        for inside, border in ((1, 0), (-2, -1)):
            inner[:, :, inside] += g[:, :, border, 1:-1]
            inner[:, :, :, inside] += g[:, :, 1:-1, border]
            for inside_column, border_column in ((1, 0), (-2, -1)):
                inner[:, :, inside, inside_column] += g[:, :, border, border_column]
        return inner


class _DenseGradient(torch.autograd.Function):
    """The identity; its backward pass makes the gradient dense.

    The gradient of a concatenation is a strided slice. The backward pass of an activation takes ten times as long on
    such a slice as the copy to a dense tensor does.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous(memory_format=torch.channels_last)
