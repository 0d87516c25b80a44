"""A step of the original report's code: with its options a step of this project is the same, in double precision."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgan.config import TrainConfig
from cgan.data.prepared import Photos
from cgan.training.loop import setup
from cgan.training.run_state import Run
from cgan.training.steps import Batch, train_step
from cgan.training.stopwatch import Stopwatch

CONFIG = TrainConfig(
    width=2,
    size=32,
    epochs=1,
    batch_size=4,
    test_fraction=0.25,
    fid=False,
    l1_weight=100.0,
    discriminator="patch",
    generator_label=0.9,
    discriminator_sum=True,
    device="cpu",
    precision="fp32",
)

EXPECTED = {"discriminator_loss": 5.644684912226, "adversarial": 0.562627757083, "l1": 0.352396933812}
"""Losses of the second step by the authors' formulas."""


@pytest.fixture
def run(tmp_path: Path, photos: Photos, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in double precision whose weights do not depend on torch's random numbers."""
    run = setup(tmp_path / "run", CONFIG, photos)
    for network in run.networks.values():
        network.double()
        for weights in network.parameters():
            count = weights.numel()
            fan = count / len(weights)
            values = torch.sin(torch.arange(count, dtype=torch.float64) ** 1.5) / fan**0.5
            weights.data.copy_(values.view(weights.shape) + (1 if weights.dim() == 1 else 0))
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # all that a step computes in single precision
    return run


def pixels() -> Tensor:
    """Four photos by a formula."""
    return (torch.arange(4 * 3 * 32 * 32) ** 2 % 251).to(torch.uint8).view(4, 3, 32, 32)


class Adam:
    """Kingma and Ba 2015, algorithm 1, with the authors' learning rate and decay rates."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = list(network.parameters())
        self.moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in self.weights]
        self.steps = 0

    def step(self, loss: Tensor) -> None:
        self.steps += 1
        gradients = torch.autograd.grad(loss, self.weights)
        with torch.no_grad():
            for weights, gradient, (mean, square) in zip(self.weights, gradients, self.moments, strict=True):
                mean.mul_(0.5).add_(0.5 * gradient)
                square.mul_(0.999).add_(0.001 * gradient**2)
                corrected = (square / (1 - 0.999**self.steps)).sqrt() + 1e-8
                weights.sub_(5e-4 * mean / (1 - 0.5**self.steps) / corrected)


def authors_step(generator: nn.Module, judge: nn.Module, adams: dict[str, Adam], gray: Tensor, truth: Tensor) -> Any:
    """One step as in the authors' training loop: both halves added, the generator's target smoothed too."""
    bce = F.binary_cross_entropy_with_logits
    fake = generator(gray)
    on_real, on_fake = judge(torch.cat([gray, truth], 1)), judge(torch.cat([gray, fake.detach()], 1))
    judging = bce(on_real, torch.full_like(on_real, 0.9)) + bce(on_fake, torch.full_like(on_fake, 0.1))
    adams["discriminator"].step(judging)
    on_fake = judge(torch.cat([gray, fake], 1))
    flattery, l1 = bce(on_fake, torch.full_like(on_fake, 0.9)), (fake - truth).abs().mean()
    adams["generator"].step(flattery + 100 * l1)
    return {"discriminator_loss": judging, "adversarial": flattery, "l1": l1}


def test_a_step_is_that_of_the_authors(run: Run) -> None:
    theirs = {name: copy.deepcopy(network) for name, network in run.networks.items()}
    adams = {name: Adam(network) for name, network in theirs.items()}
    gray, truth = run.gray_and_truth(pixels())
    assert gray.dtype == truth.dtype == torch.float64
    for _ in range(2):
        found = train_step(run, Batch(pixels(), torch.zeros(4), 1.0), Stopwatch(run.device), warmup=False)
        expected = authors_step(theirs["generator"], theirs["discriminator"], adams, gray, truth)
    for name, number in EXPECTED.items():
        assert found[name].item() == pytest.approx(expected[name].item(), rel=4e-11)
        assert found[name].item() == pytest.approx(number, rel=1e-9)
    for name, network in theirs.items():
        for ours, other in zip(run.networks[name].parameters(), network.parameters(), strict=True):
            assert torch.allclose(ours, other, rtol=4e-11, atol=4e-11)
