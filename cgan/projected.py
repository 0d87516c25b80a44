"""The projected discriminator (Sauer et al. 2021, "Projected GANs Converge Faster"): heads on frozen features."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cgan.efficientnet import COARSEST_STRIDE, MEAN, PYRAMID_CHANNELS, STD

LEAK = 0.2
"""Negative slope of LeakyReLU."""

HEAD_WIDTH = 4
"""Channels of a head for each of the discriminator's width."""

SIDES = (96, 224)
"""Least side of the pictures that the frozen network sees, with 3 x 3 features at its coarsest stride, and the side
that it was trained at."""


def projected_side(size: int) -> int:
    """Return the side to which photos of this size are resized: the next multiple of 32, but 96 to 224."""
    least, most = SIDES
    return min(max(least, -(-size // COARSEST_STRIDE) * COARSEST_STRIDE), most)


def head(channels_in: int, width: int, halvings: int) -> nn.Sequential:
    """Return convolutions from features to logits.

    Args:
        channels_in: channels of the features.
        width: channels between the convolutions.
        halvings: how often height and width are halved.
    """
    widths = [channels_in] + [width] * max(1, halvings)
    kernel, stride = (4, 2) if halvings else (3, 1)
    layers: list[nn.Module] = []
    for one, other in pairwise(widths):
        layers += [nn.Conv2d(one, other, kernel, stride, padding=1), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))


def heads(width: int) -> nn.ModuleList:
    """Return the heads of a discriminator of this width, from the finest scale to the coarsest; no spectral norm."""
    halvings = reversed(range(len(PYRAMID_CHANNELS)))
    return nn.ModuleList(
        head(count, HEAD_WIDTH * width, times) for count, times in zip(PYRAMID_CHANNELS, halvings, strict=True)
    )


class ProjectedDiscriminator(nn.Module):
    """A head with spectral norm on each of five scales of frozen features.

    Args:
        features: frozen network from normalised RGB to its features at strides 2 to 32; see
            `cgan.efficientnet.pyramid`.
        to_rgb: maps gray and colours to RGB in [0, 1].
        width: channels of the heads / HEAD_WIDTH.
        size: height and width of the photos in pixels.
    """

    def __init__(self, features: nn.Module, to_rgb: Callable[[Tensor, Tensor], Tensor], width: int, size: int) -> None:
        super().__init__()
        self.features = features
        self.to_rgb = to_rgb
        self.side = projected_side(size)
        self.heads = heads(width)
        for layer in list(self.heads.modules()):
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape N x 5 x side/32 x side/32 for gray and colour of shape N x channels x size x size."""
        return self.logits_and_scales(x)[0]

    def logits_and_scales(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits, and the frozen features behind them."""
        scales = self.scales(x)
        return torch.cat([head(scale) for head, scale in zip(self.heads, scales, strict=True)], 1), scales

    def scales(self, x: Tensor) -> list[Tensor]:
        """Return the frozen features of gray and colour, from stride 2 to stride 32."""
        rgb = self.to_rgb(x[:, :1], x[:, 1:])
        rgb = F.interpolate(rgb, (self.side, self.side), mode="bilinear", antialias=True)
        scales: list[Tensor] = self.features((rgb - MEAN) / STD)
        return scales
