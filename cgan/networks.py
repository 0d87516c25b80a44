"""The U-Net generator and the discriminators of the original report, with variants, at any base width.

Every network is built from three blocks: a convolution block, a down block and an up block. Weights have torch's
default initialisation; DCGAN's normal distribution of standard deviation 0.02 learned more slowly here.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cgan.color import COLOR_TARGETS
from cgan.config import TrainConfig
from cgan.cpu_autograd import concatenate, reflect_pad
from cgan.efficientnet import load_weights, pyramid
from cgan.projected import ProjectedDiscriminator
from cgan.spec import ENCODER_MULTIPLES, SIZE_MULTIPLE, ColorSpaceName, ModelSpec

LEAK = 0.2
"""Negative slope of LeakyReLU (Radford et al. 2016)."""

BLUR_REACH = 3
"""Standard deviations at which a Gaussian is cut off."""


def leaky_relu() -> nn.Module:
    """Return the encoder's activation."""
    return nn.LeakyReLU(LEAK, inplace=True)


def relu() -> nn.Module:
    """Return the decoder's activation."""
    return nn.ReLU(inplace=True)


class ReflectConv2d(nn.Conv2d):
    """3x3 convolution with reflect padding; a side of one pixel has no mirror image and is replicated."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x channels_in x H x W to N x channels_out x H x W."""
        if 1 not in x.shape[-2:]:
            return super().forward(reflect_pad(x))
        height_mode, width_mode = ("replicate" if side == 1 else "reflect" for side in x.shape[-2:])
        x = F.pad(F.pad(x, (1, 1, 0, 0), mode=width_mode), (0, 0, 1, 1), mode=height_mode)
        return super().forward(x)


def conv_block(channels_in: int, channels_out: int, activation: Callable[[], nn.Module] = leaky_relu) -> nn.Sequential:
    """3x3 convolution with reflect padding, batch norm, activation; the size stays the same."""
    return nn.Sequential(
        ReflectConv2d(channels_in, channels_out),
        nn.BatchNorm2d(channels_out),
        activation(),
    )


def conv_blocks(
    channels_in: int, channels_out: int, blocks: int = 1, activation: Callable[[], nn.Module] = leaky_relu
) -> nn.Sequential:
    """Convolution blocks one after the other, the first from channels_in to channels_out."""
    layers = list(conv_block(channels_in, channels_out, activation))
    for _ in range(blocks - 1):
        layers += conv_block(channels_out, channels_out, activation)
    return nn.Sequential(*layers)


def down_block(channels: int, blocks: int = 1) -> nn.Sequential:
    """4x4 convolution of stride 2 to twice the channels, then convolution blocks; the size is halved."""
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * channels),
        leaky_relu(),
        conv_blocks(2 * channels, 2 * channels, blocks),
    )


def up_block(channels: int, blocks: int = 1) -> nn.Sequential:
    """4x4 transposed convolution of stride 2 to a quarter of the channels, then blocks; the size doubles."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels // 4, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels // 4),
        relu(),
        conv_blocks(channels // 4, channels // 4, blocks, relu),
    )


class UNet(nn.Module):
    """U-Net: an encoder of up to five scales and a decoder with a skip connection from each; it returns logits.

    Args:
        channels_in: channels of the input (1 for the generator).
        channels_out: channels of the output.
        width: channels of the first convolution block.
        blocks: convolution blocks at each scale.
        scales: scales of the encoder, 2 to 5; fewer than 5 truncate the network at the bottom.
    """

    def __init__(self, channels_in: int, channels_out: int, width: int, blocks: int = 1, scales: int = 5) -> None:
        super().__init__()
        channels = [width * multiple for multiple in ENCODER_MULTIPLES[:scales]]
        self.stem = conv_blocks(channels_in, width, blocks)
        self.downs = nn.ModuleList(down_block(count, blocks) for count in channels[:-1])
        self.bottleneck = conv_blocks(channels[-1], channels[-1], blocks)
        self.ups = nn.ModuleList(up_block(2 * count, blocks) for count in reversed(channels[1:]))
        self.head = nn.Conv2d(2 * width, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape N x channels_out x H x W for x of shape N x channels_in x H x W."""
        skips = [self.stem(x)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        x = self.bottleneck(skips[-1])
        for up in self.ups:
            x = up(concatenate(x, skips.pop()))
        logits: Tensor = self.head(concatenate(x, skips.pop()))
        return logits


class GaussianBlur(nn.Module):
    """A Gaussian blur along rows, then along columns, with replicated borders.

    Args:
        sigma: standard deviation in pixels, above 0.
        radius: radius of the kernel in pixels; None for BLUR_REACH standard deviations.
    """

    def __init__(self, sigma: float, radius: int | None = None) -> None:
        super().__init__()
        self.radius = math.ceil(BLUR_REACH * sigma) if radius is None else radius
        weights = torch.exp(-torch.arange(-self.radius, self.radius + 1).square() / (2 * sigma**2))
        weights = weights / weights.sum()
        # Not part of the state dict: a checkpoint's contract holds sigma.
        self.register_buffer("along_rows", weights.view(1, 1, 1, -1), persistent=False)
        self.register_buffer("along_columns", weights.view(1, 1, -1, 1), persistent=False)

    def forward(self, gray: Tensor) -> Tensor:
        """Return the blurred photo, N x 1 x H x W as `gray`."""
        padded = F.pad(gray, (self.radius,) * 4, mode="replicate")
        blurred: Tensor = F.conv2d(F.conv2d(padded, self.along_rows), self.along_columns)  # type: ignore[arg-type]
        return blurred


class Generator(nn.Module):
    """The generator: a U-Net from gray to colour.

    Args:
        channels_out: colour channels to predict (3 for RGB, 2 for HSV and YCbCr).
        width: channels of the first convolution block; the original report has 32.
        blocks: convolution blocks at each scale; the original report has 1.
        input_blur: standard deviation in pixels of the blur in front of the first block; 0 for none.
    """

    def __init__(self, channels_out: int = 3, width: int = 32, blocks: int = 1, input_blur: float = 0.0) -> None:
        super().__init__()
        self.blur = GaussianBlur(input_blur) if input_blur else nn.Identity()
        self.body = UNet(1, channels_out, width, blocks)

    @classmethod
    def of(cls, spec: ModelSpec) -> Self:
        """Return a generator with random weights and the shape of a contract."""
        return cls(COLOR_TARGETS[spec.color_space].channels, spec.base_width, spec.blocks, spec.input_blur)

    def forward(self, gray: Tensor) -> Tensor:
        """Map luma in [0, 1], N x 1 x H x W, to colours in [0, 1], N x channels_out x H x W.

        Raises:
            ValueError: H or W is not a multiple of 16.
        """
        # The exporter traces symbolic sizes, which are multiples by construction.
        if not torch.compiler.is_compiling():
            height, width = gray.shape[-2:]
            if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
                raise ValueError(f"height and width must be multiples of {SIZE_MULTIPLE}, found {height} x {width}")
        return torch.sigmoid(self.body(self.blur(gray)))


class GrayToRGB(nn.Module):
    """The generator with the input and output of the contract: gray in, RGB out, for every colour space of training.

    Args:
        generator: a `Generator`, or a module like it, that predicts colours of `color_space`.
        color_space: colour space of its prediction.
    """

    def __init__(self, generator: nn.Module, color_space: ColorSpaceName) -> None:
        super().__init__()
        self.generator = generator
        self.to_rgb = COLOR_TARGETS[color_space].to_rgb
        self.clamp = color_space != "rgb"  # the generator's own RGB ends in a sigmoid

    def forward(self, gray: Tensor) -> Tensor:
        """Map luma in [0, 1], N x 1 x H x W, to RGB in [0, 1], N x 3 x H x W."""
        rgb = self.to_rgb(gray, self.generator(gray))
        return rgb.clamp(0, 1) if self.clamp else rgb


class PatchDiscriminator(nn.Module):
    """Discriminator with a logit per patch of 8 x 8 pixels."""

    def __init__(self, channels_in: int, width: int, blocks: int = 1) -> None:
        super().__init__()
        widths = [2 * width * 2**i for i in range(3)]
        self.layers = nn.Sequential(
            conv_blocks(channels_in, widths[0], blocks),
            *(down_block(channels, blocks) for channels in widths),
            nn.Conv2d(2 * widths[-1], 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape N x 1 x H/8 x W/8 for gray and colour of shape N x channels_in x H x W."""
        logits: Tensor = self.layers(x)
        return logits


class DenseDiscriminator(nn.Module):
    """Discriminator with one logit per photo: the patch network, then two linear layers. The size is fixed."""

    HIDDEN = 1024

    def __init__(self, channels_in: int, width: int, size: int, blocks: int = 1) -> None:
        super().__init__()
        self.patch = PatchDiscriminator(channels_in, width, blocks)
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


DISCRIMINATORS: dict[str, Callable[[int, int, TrainConfig], nn.Module]] = {
    "unet": lambda channels, width, config: UNet(
        channels, 1, width, config.discriminator_blocks, config.discriminator_scales
    ),
    "patch": lambda channels, width, config: PatchDiscriminator(channels, width, config.discriminator_blocks),
    "dense": lambda channels, width, config: DenseDiscriminator(
        channels, width, config.size, config.discriminator_blocks
    ),
    "projected": lambda channels, width, config: _projected(width, config),
}
"""Builders by name, each taking (channels of the input, width, configuration)."""


def _projected(width: int, config: TrainConfig) -> nn.Module:
    features = pyramid(load_weights("lite0", "--discriminator projected"))
    space = "rgb" if config.loss_channels == 3 else config.color_space
    return ProjectedDiscriminator(features, COLOR_TARGETS[space].to_rgb, width, config.size)


def build_generator(config: TrainConfig) -> Generator:
    """Return the generator of a configuration, with random weights."""
    return Generator(COLOR_TARGETS[config.color_space].channels, config.width, config.blocks, config.input_blur)


def build_discriminator(config: TrainConfig) -> nn.Module | None:
    """Return the discriminator of a configuration, with random weights; None with --discriminator none.

    Its input is the gray channel stacked with the colours in the loss's colour space.
    """
    if config.discriminator == "none":
        return None
    width = config.discriminator_width or config.width
    network = DISCRIMINATORS[config.discriminator](1 + config.loss_channels, width, config)
    if config.discriminator_norm == "none":
        _replace_batch_norm(network)
    if config.spectral_norm:
        for layer in list(network.modules()):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                spectral_norm(layer)
    return network


def _replace_batch_norm(network: nn.Module) -> None:
    """Remove batch norm, and give the convolutions the bias that it replaced."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters, frozen or not."""
    return sum(p.numel() for p in module.parameters())
