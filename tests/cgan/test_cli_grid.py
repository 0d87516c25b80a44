"""Every colour space with every discriminator and loss: trains, and its checkpoint exports."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgan.cli import main
from cgan.config import DISCRIMINATOR_CHOICES, GAN_LOSS_CHOICES
from cgan.spec import COLOR_SPACES
from cgan.training.checkpoint import load_generator
from export.cli import main as export

GRID = [
    *((judge, loss) for judge in ("unet", "patch", "dense") for loss in GAN_LOSS_CHOICES),
    ("projected", "hinge"),
    ("none", "bce"),
]

EXPORTED = {
    ("rgb", "unet", "bce"),
    ("hsv", "patch", "wasserstein"),
    ("ycbcr", "dense", "hinge"),
    ("hsv", "projected", "hinge"),
    ("rgb", "none", "bce"),
}
"""Each colour space and each discriminator once: an export takes as long as ten of these trainings."""


def check_metrics(metrics: dict[str, Any], discriminator: str) -> None:
    numbers = {name: value for name, value in metrics.items() if name != "time_shares"}
    assert all(math.isfinite(value) for value in numbers.values())
    assert 0 < metrics["test_l1"] < 1
    assert metrics["generator_gradient_norm"] > 0
    assert ("train_adversarial" in metrics) == ("test_discriminator_loss" in metrics) == (discriminator != "none")


@pytest.mark.parametrize(("discriminator", "gan_loss"), GRID)
@pytest.mark.parametrize("color_space", COLOR_SPACES)
@pytest.mark.slow
def test_trains_and_exports(
    invoke: Callable[..., Any],
    photo_folder: Path,
    tmp_path: Path,
    tiny_options: tuple[str, ...],
    color_space: str,
    discriminator: str,
    gan_loss: str,
) -> None:
    choice = ("--color-space", color_space, "--discriminator", discriminator, "--gan-loss", gan_loss)
    run, out = tmp_path / "run", tmp_path / "exported"
    assert invoke(main, photo_folder, "--out", run, *tiny_options, *choice, "--epochs", 1) == (0, "", "")
    (metrics,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    check_metrics(metrics, discriminator)
    _, spec = load_generator(run)
    assert spec.color_space == color_space
    if (color_space, discriminator, gan_loss) in EXPORTED:
        assert invoke(export, run, "--out", out, "--quiet") == (0, "", "")
        (sidecar,) = out.glob("*.json")
        exported = json.loads(sidecar.read_text())
        assert exported["spec"]["weights_sha256"] == spec.weights_sha256
        assert exported["verification"]["verified"]


def test_each_colour_space_and_each_discriminator_is_exported() -> None:
    assert {space for space, _, _ in EXPORTED} == set(COLOR_SPACES)
    assert {judge for _, judge, _ in EXPORTED} == set(DISCRIMINATOR_CHOICES)
    assert all((judge, loss) in GRID for _, judge, loss in EXPORTED)
