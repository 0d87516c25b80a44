"""The U-Net generator and the three discriminators of the report, at any base width.

Every network is built from three pieces: a convolution block, a down block and an up block. Weights start as
torch draws them by default; DCGAN's normal distribution of standard deviation 0.02 learned more slowly here.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgan.spec import SIZE_MULTIPLE

LEAK = 0.2
"""Negative slope of LeakyReLU (Radford et al. 2016)."""

ENCODER_MULTIPLES = (1, 2, 4, 8, 16)
"""Channels of the U-Net's encoder scales, in base widths."""


def leaky_relu() -> nn.Module:
    """The encoder's activation."""
    return nn.LeakyReLU(LEAK, inplace=True)


def relu() -> nn.Module:
    """The decoder's activation."""
    return nn.ReLU(inplace=True)


def reflect_pad(x: Tensor) -> Tensor:
    """Reflect padding by one pixel, N x C x H x W -> N x C x H+2 x W+2, for H and W of at least 2."""
    slow = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
    if not slow or torch.compiler.is_compiling():
        return F.pad(x, (1, 1, 1, 1), mode="reflect")
    # torch's own kernel takes a slow path for channels-last tensors on the CPU: ten times the time of two
    # concatenations along the outer axes of the same memory.
    x = x.permute(0, 2, 3, 1)
    x = torch.cat([x[:, :, 1:2], x, x[:, :, -2:-1]], dim=2)
    x = torch.cat([x[:, 1:2], x, x[:, -2:-1]], dim=1)
    return x.permute(0, 3, 1, 2)


class ReflectConv2d(nn.Conv2d):
    """3x3 convolution with reflect padding; a side of one pixel, which has no mirror image, is repeated."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """N x channels_out x H x W for x of shape N x channels_in x H x W."""
        if 1 not in x.shape[-2:]:
            return super().forward(reflect_pad(x))
        height_mode, width_mode = ("replicate" if side == 1 else "reflect" for side in x.shape[-2:])
        x = F.pad(F.pad(x, (1, 1, 0, 0), mode=width_mode), (0, 0, 1, 1), mode=height_mode)
        return super().forward(x)


def conv_block(channels_in: int, channels_out: int, activation: Callable[[], nn.Module] = leaky_relu) -> nn.Sequential:
    """3x3 convolution with reflect padding, batch norm, activation: the size stays."""
    return nn.Sequential(
        ReflectConv2d(channels_in, channels_out),
        nn.BatchNorm2d(channels_out),
        activation(),
    )


def down_block(channels: int) -> nn.Sequential:
    """4x4 convolution of stride 2 to twice the channels, then a convolution block: half the size."""
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * channels),
        leaky_relu(),
        conv_block(2 * channels, 2 * channels),
    )


def up_block(channels: int) -> nn.Sequential:
    """4x4 transposed convolution of stride 2 to a quarter of the channels, then a convolution block: twice the size."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels // 4, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels // 4),
        relu(),
        conv_block(channels // 4, channels // 4, relu),
    )


class UNet(nn.Module):
    """Encoder of five scales, decoder with a skip connection from each; logits out.

    Args:
        channels_in: channels of the input (1 for the generator).
        channels_out: channels of the output.
        width: channels of the first convolution block.
    """

    def __init__(self, channels_in: int, channels_out: int, width: int) -> None:
        super().__init__()
        scales = [width * multiple for multiple in ENCODER_MULTIPLES]
        self.stem = conv_block(channels_in, width)
        self.downs = nn.ModuleList(down_block(channels) for channels in scales[:-1])
        self.bottleneck = conv_block(scales[-1], scales[-1])
        self.ups = nn.ModuleList(up_block(2 * channels) for channels in reversed(scales[1:]))
        self.head = nn.Conv2d(2 * width, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape N x channels_out x H x W for x of shape N x channels_in x H x W."""
        skips = [self.stem(x)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        x = self.bottleneck(skips[-1])
        for up in self.ups:
            x = up(torch.cat([x, skips.pop()], dim=1))
        logits: Tensor = self.head(torch.cat([x, skips.pop()], dim=1))
        return logits


class Generator(nn.Module):
    """The U-Net that colours: gray in, colour out.

    Args:
        channels_out: colour channels to predict (3 for RGB).
        width: channels of the first convolution block; the report's is 32.
    """

    def __init__(self, channels_out: int = 3, width: int = 32) -> None:
        super().__init__()
        self.body = UNet(1, channels_out, width)

    def forward(self, gray: Tensor) -> Tensor:
        """Colours in [0, 1], N x channels_out x H x W, for luma in [0, 1], N x 1 x H x W.

        Raises:
            ValueError: H or W is not a multiple of 16.
        """
        # The exporter traces symbolic sizes; they are multiples by construction there.
        if not torch.compiler.is_compiling():
            height, width = gray.shape[-2:]
            if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
                raise ValueError(f"height and width must be multiples of {SIZE_MULTIPLE}, found {height} x {width}")
        return torch.sigmoid(self.body(gray))


class PatchDiscriminator(nn.Module):
    """A logit per patch of 8 x 8 pixels: N x 1 x H/8 x W/8."""

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        widths = [2 * width * 2**i for i in range(3)]
        self.layers = nn.Sequential(
            conv_block(channels_in, widths[0]),
            *(down_block(channels) for channels in widths),
            nn.Conv2d(2 * widths[-1], 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape N x 1 x H/8 x W/8 for gray and colour of shape N x channels_in x H x W."""
        logits: Tensor = self.layers(x)
        return logits


class DenseDiscriminator(nn.Module):
    """The patch network, then two linear layers to one logit per photo: N x 1. The size is fixed."""

    HIDDEN = 1024

    def __init__(self, channels_in: int, width: int, size: int) -> None:
        super().__init__()
        self.patch = PatchDiscriminator(channels_in, width)
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear((size // 8) ** 2, self.HIDDEN),
            leaky_relu(),
            nn.Linear(self.HIDDEN, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape N x 1 for gray and colour of shape N x channels_in x size x size."""
        logits: Tensor = self.dense(self.patch(x))
        return logits


DISCRIMINATORS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "unet": lambda channels_in, width, size: UNet(channels_in, 1, width),
    "patch": lambda channels_in, width, size: PatchDiscriminator(channels_in, width),
    "dense": DenseDiscriminator,
}
"""Builders by name, each taking (channels_in, width, size). Adding one here adds it to the command."""


def build_discriminator(name: str, channels_in: int, width: int, size: int) -> nn.Module:
    """A discriminator of DISCRIMINATORS for gray and colour stacked to `channels_in` channels."""
    return DISCRIMINATORS[name](channels_in, width, size)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
