"""Every option of cgan-train changes something, and a test shows it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cgan.cli import command, main
from cgan.config import TrainConfig
from cgan.training import loop as training
from cgan.training.checkpoint import load_generator
from cgan.training.evaluation import evaluate

WASSERSTEIN = ("--gan-loss", "wasserstein")
HSV = ("--color-space", "hsv")
YCBCR = ("--color-space", "ycbcr")

CHANGES: dict[str, list[tuple[tuple[str, ...], Any]]] = {
    "color_space": [((), "hsv"), ((), "ycbcr")],
    "discriminator": [((), "patch"), ((), "dense"), ((), "projected"), ((), "none")],
    "gan_loss": [((), "wasserstein"), ((), "hinge")],
    "loss_space": [(HSV, "rgb"), (YCBCR, "rgb")],
    "l1_weight": [((), 1.0)],
    "adversarial_weight": [((), 0.05)],
    "generator_label": [((), 0.9)],
    "discriminator_sum": [((), True)],
    "discriminator_blocks": [((), 2)],
    "beta1": [((), 0.0)],
    "beta2": [((), 0.99)],
    "color_weight": [((), 3.0)],
    "perceptual_weight": [(("--discriminator", "projected"), 100.0)],
    "label_smoothing": [((), 0.7)],
    "gradient_penalty": [(WASSERSTEIN, 10.0)],
    "weight_clip": [(WASSERSTEIN, 0.01)],
    "r1": [((), 10.0)],
    "spectral_norm": [((), True)],
    "discriminator_norm": [((), "none")],
    "width": [((), 2)],
    "blocks": [((), 2)],
    "discriminator_width": [((), 2)],
    "discriminator_scales": [((), 3)],
    "size": [((), 48)],
    "epochs": [((), 2)],
    "warmup_epochs": [((), 1)],
    "decay_epochs": [((), 1)],
    "batch_size": [((), 3)],
    "lr": [((), 1e-3)],
    "ema": [((), 0.5)],
    "seed": [((), 1), ((), 2**63 - 1)],
    "test_fraction": [((), 0.5)],
    "flip": [((), True)],
    "crop": [((), 0.5)],
    "sharpness": [((), 3.0)],
    "exposure": [((), 2.0)],
    "input_blur": [((), 1.0)],
    "precision": [((), "bf16")],
}
"""Values of options that must change the exported weights, with the options that each one needs."""

TESTED_BY = {
    "config": "test_the_command_line_wins_over_the_file",
    "write_config": "test_what_is_written_is_what_is_read",
    "track": "test_a_training_records_its_epochs_there",
    "data": "test_the_number_of_photos_trained_and_held_out",
    "out": "test_a_folder_that_holds_something_is_refused",
    "device": "test_device_cuda_without_one_is_refused",
    "compile": "test_compile_hands_both_networks_to_torch_compile",
    "fid": "test_fid_is_on_unless_left_out_and_needs_its_weights",
    "best_by": "test_best_by_chooses_the_best_checkpoint",
    "save_every": "test_save_every_keeps_checkpoints",
    "init": "test_init_begins_with_the_weights_of_another_run",
    "features": "test_a_training_measures_by_the_network_that_is_named",
    "fid_quantize": "test_pictures_are_truncated_to_8_bits_where_asked",
    "inception_weights": "test_fid_and_kid_are_written_with_their_fingerprint",
    "resume": "test_resume_goes_on_after_the_last_epoch",
    "dry_run": "test_a_dry_run_prints_the_resolved_configuration_and_touches_nothing",
    "quiet": "test_quiet_says_nothing",
    "version": "test_version",
}
"""Parameters that do not change the weights, and the test of each one's effect."""

Train = Callable[..., Any]


@pytest.fixture
def train(invoke: Train, photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]) -> Train:
    """`train(*options, out=...)`: one tiny epoch into tmp_path / "run"."""

    def call(*options: object, out: Path = tmp_path / "run") -> Any:
        return invoke(main, photo_folder, "--out", out, *tiny_options, "--epochs", 1, *options)

    return call


@pytest.fixture(scope="module")
def plain_weights() -> dict[tuple[str, ...], str]:
    """Digests of weights trained with only the needed options, filled by the tests."""
    return {}


def flag(name: str, value: object) -> list[str]:
    return [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])


def weights(run: Path) -> str:
    return load_generator(run)[1].weights_sha256


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_parameter_of_the_command_has_a_test() -> None:
    assert {parameter.name for parameter in command.params} - {"help"} == CHANGES.keys() | TESTED_BY.keys()
    assert not CHANGES.keys() & TESTED_BY.keys()
    sources = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    assert [test for test in TESTED_BY.values() if f"def {test}(" not in sources] == []


@pytest.mark.parametrize(
    ("name", "needed", "value"), [(name, *change) for name, changes in CHANGES.items() for change in changes]
)
@pytest.mark.slow
def test_each_option_changes_the_weights(
    train: Train,
    tmp_path: Path,
    plain_weights: dict[tuple[str, ...], str],
    name: str,
    needed: tuple[str, ...],
    value: object,
) -> None:
    if needed not in plain_weights:
        assert train(*needed, out=tmp_path / "plain").code == 0
        plain_weights[needed] = weights(tmp_path / "plain")
    assert train(*needed, *flag(name, value)).code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config[name] == value
    spec = load_generator(tmp_path / "run")[1]
    assert spec.weights_sha256 != plain_weights[needed]
    assert spec.config_sha256 == TrainConfig(**config).digest()
    assert (spec.base_width, spec.render_size) == (config["width"], config["size"])
    assert (spec.color_space, spec.blocks) == (config["color_space"], config["blocks"])
    assert len(lines(tmp_path / "run")) == config["epochs"]
    held_out = json.loads((tmp_path / "run" / "split.json").read_text())["test"]
    assert len(held_out) == 12 * config["test_fraction"]


@pytest.mark.slow
def test_equal_options_give_equal_weights(train: Train, tmp_path: Path) -> None:
    assert train(out=tmp_path / "a").code == train(out=tmp_path / "b").code == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.slow
def test_options_that_only_measure_or_keep_leave_the_weights(train: Train, tmp_path: Path) -> None:
    assert train(out=tmp_path / "plain").code == 0
    for name, value in (("best_by", "l1"), ("save_every", 1)):
        assert train(*flag(name, value), out=tmp_path / name).code == 0
        assert weights(tmp_path / name) == weights(tmp_path / "plain")


@pytest.mark.parametrize(("options", "epoch"), [((), 2), (("--best-by", "psnr"), 2), (("--best-by", "l1"), 1)])
@pytest.mark.slow
def test_best_by_chooses_the_best_checkpoint(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], epoch: int
) -> None:
    values = iter([{"test_psnr": 20.0, "test_l1": 0.1}, {"test_psnr": 22.0, "test_l1": 0.3}, {"test_psnr": 21.0}])
    measure = evaluate
    monkeypatch.setattr(training, "evaluate", lambda *run: {**measure(*run), **next(values)})
    assert train("--epochs", 3, "--save-every", 1, *options).code == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    found = {path.stem: weights(path) for path in checkpoints.iterdir() if "training" not in path.name}
    assert found.pop("best") == found[f"epoch-{epoch:04d}"]
    assert found.pop("last") == found["epoch-0003"]
    assert len(set(found.values())) == 3


@pytest.mark.slow
def test_save_every_keeps_checkpoints(train: Train, tmp_path: Path) -> None:
    assert train("--epochs", 3, "--save-every", 2).code == 0
    kept = [path.name for path in (tmp_path / "run" / "checkpoints").glob("epoch-*")]
    assert kept == ["epoch-0002.safetensors"]
    assert train("--epochs", 2, out=tmp_path / "two").code == 0
    assert weights(tmp_path / "run" / "checkpoints" / kept[0]) == weights(tmp_path / "two")


@pytest.mark.slow
def test_compile_hands_both_networks_to_torch_compile(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without its last stage, which writes, compiles and loads C++: a minute and a half for these networks.
    compiled: list[str] = []
    trace = partial(torch.compile, backend="eager")

    def record(network: Any) -> Any:
        compiled.append(type(network).__name__)
        return trace(network)

    options = ("--width", 1, "--batch-size", 16, "--discriminator", "patch")
    assert train(*options, out=tmp_path / "plain").code == 0
    assert compiled == []
    monkeypatch.setattr(torch, "compile", record)
    assert train(*options, "--compile").code == 0
    assert compiled == ["Generator", "PatchDiscriminator"]
    (found,), (expected,) = lines(tmp_path / "run"), lines(tmp_path / "plain")
    for name in ("train_l1", "train_adversarial", "train_discriminator_loss", "test_l1"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3)
    assert load_generator(tmp_path / "run")
