"""A run stands for its best checkpoint, and everything that is made of one says which it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cgan.checkpoint_record import RECORD_KEY, checkpoint_path, described
from cgan.config import TrainConfig
from cgan.networks import build_generator
from cgan.spec import read_sidecar, sidecar_path
from cgan.training.checkpoint import load_checkpoint, load_generator, made_of, save_generator
from export.cli import main as export
from infer.backends import open_model
from infer.cli import main as infer

Invoke = Callable[..., Any]


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trained_run` as if its first epoch, of other weights, had been the best and a third one kept."""
    folder = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("chosen") / "run"))
    config = TrainConfig(**json.loads((folder / "config.json").read_text()))
    for seed, (name, epoch) in enumerate([("best", 1), ("epoch-0003", 3)]):
        torch.manual_seed(seed)
        metrics = {"test_psnr": 20.0 + epoch, "test_l1": 0.25, "train_l1": 0.1}
        path = folder / "checkpoints" / f"{name}.safetensors"
        save_generator(path, build_generator(config).eval(), config, epoch, metrics)
    return folder


def weights(source: Path) -> str:
    return load_generator(source)[1].weights_sha256


def checkpoints(run: Path) -> dict[str, Path]:
    return {name: run / "checkpoints" / f"{name}.safetensors" for name in ("best", "last", "epoch-0003")}


def exported(invoke: Invoke, run: Path, out: Path, *options: object) -> tuple[Path, str]:
    result = invoke(export, run, "--out", out, *options)
    assert result.code == 0, result.err
    (path,) = out.glob("*.onnx")
    return path, result.err


def test_a_run_stands_for_its_best_checkpoint(run: Path) -> None:
    files = checkpoints(run)
    assert checkpoint_path(run) == files["best"]
    assert len({weights(path) for path in files.values()}) == 3
    record = load_checkpoint(run).record
    assert (record.epoch, record.metrics, record.note) == (1, {"test_psnr": 21.0, "test_l1": 0.25}, None)


def test_training_writes_epoch_and_metrics_into_the_header(trained_run: Path) -> None:
    lines = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()]
    record = load_checkpoint(trained_run / "checkpoints" / "last.safetensors").record
    assert record.epoch == 2
    assert record.metrics == {name: value for name, value in lines[-1].items() if name.startswith("test_")}


@pytest.mark.parametrize(
    ("choice", "name", "epoch"),
    [(None, "best", 1), ("best", "best", 1), ("last", "last", 2), ("epoch-0003.safetensors", "epoch-0003", 3)],
)
@pytest.mark.slow
def test_an_export_names_its_checkpoint_and_passes_parity_with_the_run(
    invoke: Invoke, run: Path, photo_folder: Path, tmp_path: Path, choice: str | None, name: str, epoch: int
) -> None:
    path, told = exported(invoke, run, tmp_path, *(["--checkpoint", choice] if choice else []))
    assert f"{name}.safetensors, epoch {epoch}, test_psnr" in told
    sidecar = read_sidecar(path)
    assert sidecar is not None and sidecar.spec.weights_sha256 == weights(checkpoints(run)[name])
    assert sidecar.build["checkpoint"]["file"] == f"{name}.safetensors"
    assert sidecar.build["checkpoint"]["epoch"] == epoch and sidecar.build["checkpoint"]["metrics"]["test_psnr"]
    assert json.loads(invoke(infer, "info", path, "--json").out)["checkpoint"] == sidecar.build["checkpoint"]
    data = ["--data", photo_folder, "--no-fid", "--device", "cpu"]
    assert invoke(infer, "parity", path, "--reference", run, *data).code == 0
    assert invoke(export, run, "--verify", path).code == 0


def test_of_other_weights_the_best_is_the_reference_and_the_gate_fails(
    invoke: Invoke, run: Path, exported_onnx: Path, photo_folder: Path, tmp_path: Path
) -> None:
    without = Path(shutil.copytree(run, tmp_path / "run"))
    (without / "checkpoints" / "last.safetensors").unlink()
    assert made_of(without, weights(run)) == without / "checkpoints" / "best.safetensors"
    data = ["--data", photo_folder, "--no-fid", "--device", "cpu"]
    error = invoke(infer, "parity", exported_onnx, "--reference", without, *data).error(1)
    assert "best.safetensors (trained weights that it was made from: found" in error


def test_pytorch_and_evaluate_run_the_best_and_say_so(
    invoke: Invoke, run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    said = f"note: {run}: best.safetensors, epoch 1, test_psnr 21, test_l1 0.25"
    with open_model(run, "cpu") as backend:
        assert backend.spec.weights_sha256 == weights(checkpoints(run)["best"])
    assert said in invoke(infer, "folder", photo_folder, tmp_path / "out", "--model", run, "--device", "cpu").err
    result = invoke(infer, "evaluate", run, photo_folder, "--no-fid", "--device", "cpu", "--json", tmp_path / "a.json")
    assert said in result.err and "best.safetensors, epoch 1" in result.out
    assert json.loads((tmp_path / "a.json").read_text())["model"]["checkpoint"]["epoch"] == 1


def test_a_run_without_a_best_checkpoint_falls_to_the_last_with_a_note(
    invoke: Invoke, trained_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    (run / "checkpoints" / "best.safetensors").unlink()
    path, told = exported(invoke, run, tmp_path / "out")
    assert f"note: {run} has no best.safetensors, so last.safetensors stands for it" in told
    sidecar = read_sidecar(path)
    assert sidecar is not None and sidecar.build["checkpoint"]["file"] == "last.safetensors"
    with open_model(run, "cpu") as backend:
        assert backend.note is not None and "has no best.safetensors" in backend.note
    assert "found last.safetensors in" in invoke(
        export, run, "--out", tmp_path / "other", "--checkpoint", "best"
    ).error(2)


def without_record(path: Path) -> None:
    """Make a checkpoint one of those that were written before headers had a record."""
    with safe_open(path, framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != RECORD_KEY}
    save_file(load_file(path), path, metadata)


def test_older_checkpoints_are_looked_up_in_their_run(trained_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    lines = [{"test_psnr": 20.0, "test_l1": 0.2}, {"test_psnr": 19.0, "test_l1": 0.3}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    best, last = (run / "checkpoints" / f"{name}.safetensors" for name in ("best", "last"))
    shutil.copy(last, run / "checkpoints" / "epoch-0001.safetensors")
    for path in (run / "checkpoints").glob("*[a-z0-9].safetensors"):
        if ".training." not in path.name:
            without_record(path)
    found = {path.name: load_checkpoint(path).record for path in (best, last, last.with_name("epoch-0001.safetensors"))}
    assert {name: record.epoch for name, record in found.items()} == {
        "best.safetensors": 1,
        "last.safetensors": 2,
        "epoch-0001.safetensors": 1,
    }
    assert found["best.safetensors"].metrics == lines[0]
    (run / "metrics.jsonl").unlink()
    record = load_checkpoint(best).record
    assert (record.epoch, record.metrics) == (None, {})
    assert described(record.to_json()) == "best.safetensors, epoch and metrics unknown"
    assert described(None) == "checkpoint unknown"


def test_a_sidecar_from_before_still_loads(invoke: Invoke, exported_onnx: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(exported_onnx, tmp_path))
    values = json.loads(sidecar_path(exported_onnx).read_text())
    del values["build"]["checkpoint"]
    sidecar_path(path).write_text(json.dumps(values))
    assert json.loads(invoke(infer, "info", path, "--json").out)["checkpoint"] == "unknown"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("first", r"--checkpoint first: found best\.safetensors, epoch-0003\.safetensors, last\.safetensors in"),
        ("/elsewhere/last.safetensors", r"--checkpoint /elsewhere/last\.safetensors: found best"),
    ],
)
def test_a_checkpoint_that_the_run_does_not_have_is_refused(
    invoke: Invoke, run: Path, tmp_path: Path, choice: str, message: str
) -> None:
    import re

    assert re.search(message, invoke(export, run, "--out", tmp_path / "out", "--checkpoint", choice).error(2))


def test_a_choice_has_no_effect_beside_a_checkpoint(invoke: Invoke, run: Path, tmp_path: Path) -> None:
    file = checkpoints(run)["last"]
    error = invoke(export, file, "--out", tmp_path / "out", "--checkpoint", "best").error(2)
    assert "--checkpoint best: no effect with" in error
