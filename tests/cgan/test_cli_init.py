"""--init: a run that begins with the generator of another run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cgan.cli import main
from cgan.training import loop as training
from cgan.training.checkpoint import load_generator, weights_digest
from cgan.training.run_state import Run

Train = Callable[..., Any]


@pytest.fixture
def train(invoke: Train, photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]) -> Train:
    """`train(name, *options)`: a tiny epoch into tmp_path / name."""

    def call(name: str, *options: object) -> Any:
        return invoke(main, photo_folder, "--out", tmp_path / name, *tiny_options, "--epochs", 1, *options)

    return call


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Digests of the networks of each run at the beginning of its first epoch."""
    found: list[dict[str, str]] = []
    fit = training.fit

    def record(run: Run, *rest: Any) -> None:
        found.append({name: weights_digest(network.state_dict()) for name, network in run.networks.items()})
        fit(run, *rest)

    monkeypatch.setattr(training, "fit", record)
    return found


@pytest.mark.slow
def test_init_begins_with_the_weights_of_another_run(train: Train, tmp_path: Path, begun: list[dict[str, str]]) -> None:
    assert train("first").code == 0
    assert train("second", "--init", tmp_path / "first", "--ema", 0.9, "--size", 48, "--crop", 0.7).code == 0
    spec = load_generator(tmp_path / "first")[1]
    assert begun[1]["generator"] == begun[1]["average"] == spec.weights_sha256 != begun[0]["generator"]
    # The discriminator is not what the other run had, but what a run without --init begins with.
    assert begun[1]["discriminator"] == begun[0]["discriminator"]
    assert json.loads((tmp_path / "second" / "config.json").read_text())["init_sha256"] == spec.weights_sha256
    assert load_generator(tmp_path / "second")[1].weights_sha256 != spec.weights_sha256


@pytest.mark.slow
def test_a_checkpoint_file_is_as_good_as_its_run(train: Train, tmp_path: Path) -> None:
    assert train("first").code == 0
    for name, source in (("a", tmp_path / "first"), ("b", tmp_path / "first" / "checkpoints" / "best.safetensors")):
        assert train(name, "--init", source).code == 0
    a, b = (load_generator(tmp_path / name)[1] for name in "ab")
    assert (a.weights_sha256, a.config_sha256) == (b.weights_sha256, b.config_sha256)


@pytest.mark.slow
def test_a_resumed_run_goes_on_from_its_own_weights(train: Train, tmp_path: Path, begun: list[dict[str, str]]) -> None:
    assert train("first").code == 0
    options = ("--init", tmp_path / "first")
    assert train("whole", *options, "--epochs", 2).code == 0
    assert train("parts", *options).code == 0
    assert train("parts", *options, "--epochs", 2, "--resume").code == 0
    assert begun[-1]["generator"] not in (begun[0]["generator"], begun[1]["generator"])
    whole, parts = (load_generator(tmp_path / name)[1] for name in ("whole", "parts"))
    assert whole.weights_sha256 == parts.weights_sha256
    refused = train("parts", "--init", tmp_path / "whole", "--epochs", 3, "--resume")
    assert refused.code == 2
    assert "the run began with another model than that of --init" in refused.err


@pytest.mark.parametrize(
    ("options", "found", "expected"),
    [
        (("--color-space", "hsv"), "--color-space hsv", "--color-space ycbcr"),
        (("--width", 2, "--blocks", 2), "--width 2 --blocks 2", "--width 16 --blocks 1"),
    ],
)
def test_an_option_that_contradicts_the_model_is_refused_with_both_values(
    invoke: Train, photo_folder: Path, tmp_path: Path, options: tuple[object, ...], found: str, expected: str
) -> None:
    result = invoke(main, photo_folder, "--out", tmp_path / "run", "--init", "flowers", "--no-fid", *options)
    assert f"--init flowers: found {found}, expected {expected}, with which that model" in result.error(2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "size", "blur", "taken"),
    [
        ((), 64, 0.0, "--color-space ycbcr --width 16 --blocks 1 --input-blur 0.0 --size 64"),
        (("--size", 32, "--input-blur", 2, "--width", 16), 32, 2.0, "--color-space ycbcr --blocks 1"),
        (("--input-blur", 1), 64, 1.0, "--color-space ycbcr --width 16 --blocks 1 --size 64"),
    ],
)
def test_a_packaged_model_brings_the_options_that_nobody_gave(
    invoke: Train, photo_folder: Path, tmp_path: Path, options: tuple[object, ...], size: int, blur: float, taken: str
) -> None:
    # --loss-space rgb has no effect with the colour space that cgan-train begins with by default.
    dry = ("--init", "flowers", "--loss-space", "rgb", "--no-fid", "--dry-run", *options)
    result = invoke(main, photo_folder, "--out", tmp_path / "run", *dry)
    assert result.code == 0
    config = json.loads(result.out)
    assert (config["color_space"], config["width"], config["blocks"]) == ("ycbcr", 16, 1)
    assert (config["size"], config["input_blur"], config["loss_space"]) == (size, blur, "rgb")
    assert f"--init flowers: takes its weights {taken}\n" in result.err


def test_a_resumed_run_refuses_a_model_of_another_shape(train: Train, trained_run: Path, tmp_path: Path) -> None:
    assert train("run").code == 0
    refused = train("run", "--resume", "--init", "flowers")
    assert "the run began with random weights and not with the model of --init" in refused.error(2)


def test_what_is_no_checkpoint_is_refused(train: Train, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    for source in ("nowhere", "model.pt"):
        result = train("run", "--init", tmp_path / source)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert source in result.err
        assert ("packaged model: flowers, flowers-int8" in result.err) == (source == "nowhere")
        assert not (tmp_path / "run").exists()
