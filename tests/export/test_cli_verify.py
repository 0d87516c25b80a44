"""The gate, and cgan-export --verify, on files and checkpoints that are not what they were."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cgan.config import TrainConfig
from cgan.errors import GateError, UserError
from cgan.spec import sidecar_path
from cgan.training.checkpoint import load_generator, save_generator
from export.cli import main
from export.verify import Reference, Verification, checkpoint_reference, verify


@pytest.fixture(scope="module")
def reference(trained_run: Path) -> Reference:
    return checkpoint_reference(trained_run)


@pytest.mark.parametrize("position", [100, -100])
def test_a_changed_byte_fails_where_a_sidecar_vouches(
    exported_onnx: Path, reference: Reference, tmp_path: Path, position: int
) -> None:
    artefact = Path(shutil.copy(exported_onnx, tmp_path))
    shutil.copy(sidecar_path(exported_onnx), tmp_path)
    assert isinstance(verify(artefact, reference), Verification)
    content = bytearray(artefact.read_bytes())
    content[position] ^= 1
    artefact.write_bytes(content)
    with pytest.raises(GateError, match="changed since its export") as caught:
        verify(artefact, reference)
    assert caught.value.exit_code == 1


def test_the_artefact_of_another_training_fails(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    generator, spec = load_generator(run)
    bias = generator.body.head.bias
    assert bias is not None
    with torch.no_grad():
        bias += 1e-7  # far below the tolerance: it is the origin that is compared
    save_generator(run / "checkpoints" / "best.safetensors", generator, TrainConfig(width=4, size=32, device="cpu"))
    with pytest.raises(GateError, match=rf"comes from other weights \({spec.weights_sha256[:16]}.*export it again"):
        verify(exported_onnx, checkpoint_reference(run))


def test_a_checkpoint_altered_on_disk_fails(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copy(trained_run / "checkpoints" / "last.safetensors", tmp_path))
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(checkpoint)
    tensors["body.head.bias"][0] += 1e-3
    save_file(tensors, checkpoint, metadata)
    with pytest.raises(GateError, match="changed after training"):
        verify(exported_onnx, checkpoint_reference(checkpoint))


def test_a_file_of_another_make_is_refused(reference: Reference, exported_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(exported_onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="this project did not write it") as caught:
        verify(tmp_path / "model.onnx", reference)
    assert caught.value.exit_code == 2
    (tmp_path / "broken.onnx").write_bytes(exported_onnx.read_bytes()[:1000])
    with pytest.raises(UserError, match="not an ONNX file, or a damaged one"):
        verify(tmp_path / "broken.onnx", reference)
    with pytest.raises(UserError, match="found no such file"):
        verify(tmp_path / "nothing.onnx", reference)
    (tmp_path / "model.bin").write_bytes(exported_onnx.read_bytes())
    with pytest.raises(UserError, match=r"\.bin"):
        verify(tmp_path / "model.bin", reference)


@pytest.fixture
def copied(exported_onnx: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    folder.mkdir()
    shutil.copy(sidecar_path(exported_onnx), folder)
    return Path(shutil.copy(exported_onnx, folder))


def rows(text: str) -> list[list[str]]:
    """The table of what was compared: kind of images, batch size and the rest of each line."""
    return [line.split() for line in text.splitlines() if line.startswith(("  photos", "  random", "  natural"))]


def test_the_table_shows_each_comparison(invoke: Callable[..., Any], trained_run: Path, copied: Path) -> None:
    text = invoke(main, trained_run, "--verify", copied).err
    found = [(row[0], row[1]) for row in rows(text)]
    assert found == [(kind, size) for size in "138" for kind in ("photos", "random")]
    assert all(row[2:5] == ["32", "x", "32"] and float(row[5]) < 1e-4 and float(row[7]) > 80 for row in rows(text))
    assert all(row[8] == "0.00%" for row in rows(text))


def test_the_batch_sizes_are_those_of_the_flag(invoke: Callable[..., Any], trained_run: Path, copied: Path) -> None:
    text = invoke(main, trained_run, "--verify", copied, "--batch", "2,2,5").err
    assert [row[1] for row in rows(text)] == ["2", "2", "2", "2", "5", "5"]


def test_photos_of_a_calibration_folder_change_the_numbers(
    invoke: Callable[..., Any], trained_run: Path, copied: Path, photo_folder: Path
) -> None:
    held_out = rows(invoke(main, trained_run, "--verify", copied).err)
    given = rows(invoke(main, trained_run, "--verify", copied, "--calibration", photo_folder).err)
    assert [row[0] for row in held_out] == [row[0] for row in given]
    assert held_out[0] != given[0]
    few = copied.parent / "few"
    few.mkdir()
    assert "few" in invoke(main, trained_run, "--verify", copied, "--calibration", few).error(2)


@pytest.mark.parametrize(
    ("limit", "passing", "failing"),
    [("--atol", "1e-3", "1e-9"), ("--min-psnr", "60", "300"), ("--max-off", "0.001", None)],
)
def test_each_limit_decides(
    invoke: Callable[..., Any], trained_run: Path, copied: Path, limit: str, passing: str, failing: str | None
) -> None:
    assert invoke(main, trained_run, "--verify", copied, limit, passing).code == 0
    if failing:
        error = invoke(main, trained_run, "--verify", copied, limit, failing).error(1)
        assert "is not the trained model" in error and "allowed is" in error


def test_max_off_decides(invoke: Callable[..., Any], trained_run: Path, copied: Path) -> None:
    model = onnx.load(copied)
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("head.bias")]
    shifted = onnx.numpy_helper.to_array(bias) + np.float32(0.05)
    bias.CopyFrom(onnx.numpy_helper.from_array(shifted, bias.name))
    sidecar_path(copied).unlink()
    onnx.save(model, copied)
    invoke(main, trained_run, "--verify", copied, "--atol", "1", "--max-off", "0.5").error(1)
    assert invoke(main, trained_run, "--verify", copied, "--atol", "1", "--max-off", "1").code == 0
