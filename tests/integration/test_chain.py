"""The whole chain as a user runs it: photos -> cgan-train -> cgan-export -> cgan-infer folder, in processes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from cgan.checkpoint_record import BEST_FILE
from cgan.spec import sidecar_path
from cgan.training.checkpoint import GENERATOR_FILE
from tests import warm

pytestmark = pytest.mark.slow

MODULES = {"cgan-train": "cgan.cli", "cgan-export": "export.cli", "cgan-infer": "infer.cli"}


def run(command: str, *arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in its own process and expect an exit code; user errors never show a traceback."""
    program = f"from {MODULES[command]} import main; main()"
    result = warm.run(program, *arguments, environment={**os.environ, "CGAN_CACHE": str(cwd / "cache")}, cwd=cwd)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, run/, out/ and colored/, each made by its command."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "photos" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(12):
        height, width = (96, 128) if i % 2 else (150, 70)
        rows, columns = np.mgrid[0:height, 0:width]
        red = 90 + 60 * np.sin(rows / (5 + i))
        green = 110 + 50 * np.cos(columns / (4 + i))
        blue = 120 + rng.normal(0, 10, (height, width))
        pixels = np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(
            folder / "photos" / ("more" if i > 8 else ".") / f"{i}.{'png' if i % 3 else 'jpg'}"
        )
    run("cgan-train", "photos", "--out", "run", "--width", 8, "--epochs", 1, "--no-fid", "--device", "cpu", cwd=folder)
    run("cgan-export", "run", "--out", "out", "--format", "onnx", "--precision", "fp32", cwd=folder)
    run("cgan-infer", "folder", "photos", "colored", "--model", next((folder / "out").glob("*.onnx")), cwd=folder)
    return folder


def test_the_run_is_complete(chain: Path) -> None:
    config = json.loads((chain / "run" / "config.json").read_text())
    assert (config["width"], config["epochs"], config["fid"]) == (8, 1, False)
    metrics = [json.loads(line) for line in (chain / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in metrics] == [1]
    assert (chain / "run" / "checkpoints" / GENERATOR_FILE).stat().st_size > 4 * 900_000
    with Image.open(chain / "run" / "samples" / "epoch-0001.png") as sheet:
        assert sheet.size == (130, 390)  # one held-out photo: gray, prediction, truth


def test_the_export_is_one_vouched_file(chain: Path) -> None:
    model, sidecar = sorted((chain / "out").iterdir())
    assert (model.name, sidecar.name) == ("unet-w8-rgb-128-fp32.onnx", "unet-w8-rgb-128-fp32.onnx.json")
    verification = json.loads(sidecar.read_text())["verification"]
    assert verification["verified"] is True
    assert {c["batch_size"] for c in verification["comparisons"]} == {1, 3, 8}


def test_every_photo_is_there_at_its_size_with_its_luma_and_not_gray(chain: Path) -> None:
    photos = [path for path in (chain / "photos").rglob("*") if path.is_file()]
    assert len(photos) == 12
    for path in photos:
        with Image.open(path) as before, Image.open(chain / "colored" / path.relative_to(chain / "photos")) as after:
            assert after.size == before.size
            pixels = np.asarray(after.convert("RGB")).astype(int)
            assert np.ptp(pixels, axis=-1).max() > 0
            # a JPEG rounds in YCbCr once more
            tolerance = 1 if path.suffix == ".png" else 4
            difference = np.abs(np.asarray(after.convert("L")).astype(int) - np.asarray(before.convert("L")))
            assert difference.max() <= tolerance


def test_verify_accepts_the_export_and_writes_nothing(chain: Path) -> None:
    before = {path: path.read_bytes() for path in (chain / "out").iterdir()}
    run("cgan-export", "run", "--verify", next((chain / "out").glob("*.onnx")), cwd=chain)
    assert {path: path.read_bytes() for path in (chain / "out").iterdir()} == before


def test_verify_fails_for_one_changed_weight_with_and_without_sidecar(chain: Path, tmp_path: Path) -> None:
    original = next((chain / "out").glob("*.onnx"))
    model = onnx.load(original)
    bias = next(i for i in model.graph.initializer if list(i.dims) == [3])
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 0.05
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    changed = tmp_path / original.name
    onnx.save(model, changed)
    error = run("cgan-export", "run", "--verify", changed, cwd=chain, code=1).stderr
    assert "is not the trained model" in error
    shutil.copy(sidecar_path(original), tmp_path)
    error = run("cgan-export", "run", "--verify", changed, cwd=chain, code=1).stderr
    assert "changed since its export" in error


def test_a_checkpoint_changed_after_training_is_not_exported(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain / "run", tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / BEST_FILE
    content = bytearray(checkpoint.read_bytes())
    content[-100] ^= 0x40
    checkpoint.write_bytes(content)
    error = run("cgan-export", tmp_path / "run", "--out", tmp_path / "out", cwd=tmp_path, code=1).stderr
    assert "weights were changed after training" in error
    assert not list(tmp_path.glob("out/*"))


def test_an_export_of_another_run_fails_the_gate(chain: Path) -> None:
    options = ["--width", 8, "--epochs", 1, "--no-fid", "--seed", 1, "--device", "cpu"]
    run("cgan-train", "photos", "--out", "run2", *options, cwd=chain)
    error = run("cgan-export", "run2", "--verify", next((chain / "out").glob("*.onnx")), cwd=chain, code=1).stderr
    assert "comes from other weights" in error
