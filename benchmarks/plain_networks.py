"""Networks that pad and concatenate with torch's own functions, to compare `cgan.networks` with."""

import torch
from torch import Tensor, nn

from cgan.networks import ReflectConv2d, UNet
from cgan.training.run_state import Run


class PlainUNet(nn.Module):
    """A U-Net with the layers and weights of another one, which concatenates with `torch.cat`."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.stem, self.downs, self.bottleneck = unet.stem, unet.downs, unet.bottleneck
        self.ups, self.head = unet.ups, unet.head

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


def use_plain_networks(run: Run) -> None:
    """Replace the networks of a run by plain ones, which share their weights with the networks before."""
    run.generator.body = plain(run.generator.body)  # type: ignore[assignment]
    plain(run.generator)
    if run.discriminator is not None:
        run.discriminator = plain(run.discriminator)
        run.compiled["discriminator"] = run.stepped["discriminator"] = run.discriminator


def plain(network: nn.Module) -> nn.Module:
    """Return the network with plain U-Net and padding; its convolutions are replaced in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, ReflectConv2d):
                setattr(module, name, _plain_convolution(child))
    return PlainUNet(network) if isinstance(network, UNet) else network


def _plain_convolution(convolution: ReflectConv2d) -> nn.Conv2d:
    """Return a convolution with reflect padding by torch and the same weight."""
    channels_in, channels_out = convolution.in_channels, convolution.out_channels
    made = nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode="reflect", bias=False)
    made.weight = convolution.weight
    return made
