"""A training that kill -9 ended between two steps, and that goes on: exactly the run that was not killed."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from cgan.cli import main
from cgan.config import TrainConfig
from cgan.training.run_state import Run
from tests import warm
from tests.cgan.resumed import CONFIG, EVERYTHING, TIMES

DRIVER = """
import itertools, os, signal, sys, time
from cgan import cli
from cgan.training import run_folder
from cgan.training import loop as training

calls, step = itertools.count(1), training.train_step
training.WRITES_BESIDE = ("cpu",)  # as on a GPU
run_folder.save_curves = lambda history, path: path.touch()

def killed(*args, **kwargs):
    if next(calls) == {call}:
        for _ in range(6000):  # at most a minute
            if len(open(sys.argv[-1] + "/metrics.jsonl").readlines()) >= {epochs}:
                break
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args, **kwargs)

training.train_step = killed
cli.main()
"""
"""cgan-train, killed at a step after a number of epochs is on disk."""


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record photos and flips of each epoch that this process trains from now on."""
    seen: list[Any] = []

    def record(run: Run, choices: list[tuple[Tensor, Tensor | None]]) -> Any:
        seen.append([(indices.tolist(), None if flip is None else flip.tolist()) for indices, flip in choices])
        return batches(run, choices)

    batches = Run.batches
    monkeypatch.setattr(Run, "batches", record)
    return seen


def flags(options: dict[str, Any]) -> list[str]:
    """The options of cgan-train for a configuration."""
    found = []
    for name, value in options.items():
        switch = name.replace("_", "-")
        found += (
            [f"--{switch}" if value else f"--no-{switch}"] if isinstance(value, bool) else [f"--{switch}", str(value)]
        )
    return found


def without_times(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in epoch.items() if name not in TIMES} for epoch in metrics]


def training_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the training state, and its progress without the times."""
    with safe_open(run / "checkpoints" / "last.training.safetensors", framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
        progress["history"] = without_times(progress["history"])
        return {name: file.get_tensor(name) for name in file.keys()}, progress  # noqa: SIM118


def options_of(config: TrainConfig) -> dict[str, Any]:
    """The fields of a configuration that are options; digests follow from the files."""
    return {name: value for name, value in config.to_json().items() if not name.endswith("_sha256")}


@pytest.mark.parametrize("options", [{"discriminator": "unet"}, EVERYTHING])
@pytest.mark.slow
def test_four_epochs_are_two_and_a_kill_in_the_third_and_the_rest(
    invoke: Callable[..., Any], photo_folder: Path, tmp_path: Path, orders: list[Any], options: dict[str, Any]
) -> None:
    arguments = [str(photo_folder), "--quiet", *flags(options_of(replace(CONFIG, epochs=4, **options)))]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert invoke(main, *arguments, "--out", whole) == (0, "", "")
    driver = DRIVER.format(epochs=2, call=2 * 2 + 2)  # between the two steps of the third epoch
    assert warm.run(driver, *arguments, "--out", parts).returncode == -signal.SIGKILL
    assert len((parts / "metrics.jsonl").read_text().splitlines()) == 2
    assert invoke(main, *arguments, "--out", parts, "--resume") == (0, "", "")
    assert len(orders) == 4 + 2
    assert orders[4:] == orders[2:4] != orders[:2]

    (found, progress), (expected, expected_progress) = training_state(parts), training_state(whole)
    networks = {"generator", "discriminator", *(["average"] if "ema" in options else [])}
    assert {name.partition(".")[0] for name in found} == networks | {"generator_adam", "discriminator_adam"}
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert progress == expected_progress
    lines = [
        without_times([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])
        for run in (parts, whole)
    ]
    assert lines[0] == lines[1] == progress["history"]
    checkpoints = [{path.name: path for path in (run / "checkpoints").iterdir()} for run in (parts, whole)]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    for name in checkpoints[0].keys() - {"last.training.safetensors"}:
        assert checkpoints[0][name].read_bytes() == checkpoints[1][name].read_bytes()
