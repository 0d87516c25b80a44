"""`benchmarks.plain_networks`: the same colours and logits as the networks before, from the same weights."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.plain_networks import use_plain_networks
from benchmarks.training import make_run
from cgan.config import DiscriminatorName, TrainConfig
from cgan.networks import ReflectConv2d
from cgan.training.run_state import resolve

pytestmark = pytest.mark.benchmarks


@pytest.mark.parametrize("discriminator", ["unet", "patch", "dense", "none"])
def test_plain_networks_compute_the_same(tmp_path: Path, discriminator: DiscriminatorName) -> None:
    options = TrainConfig(width=4, size=32, batch_size=2, discriminator=discriminator, device="cpu", precision="fp32")
    run = make_run(tmp_path, resolve(options))
    before = copy.deepcopy(run.networks)
    weights = {id(weight) for network in run.networks.values() for weight in network.parameters()}
    use_plain_networks(run)
    for name, network in run.networks.items():
        channels = 1 if name == "generator" else 4
        photos = torch.rand(2, channels, 32, 32)
        assert torch.allclose(network(photos), before[name](photos), atol=1e-6)
        assert run.stepped[name] is network
        assert not any(isinstance(module, ReflectConv2d) for module in network.modules())
        assert {id(weight) for weight in network.parameters()} <= weights
        assert isinstance(network, nn.Module)
