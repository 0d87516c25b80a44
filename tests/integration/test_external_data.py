"""A model whose weights lie in a second file is refused by everything that takes an ONNX file."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest

from cgan.cli import main as train
from cgan.files import file_sha256
from cgan.spec import Sidecar, read_sidecar, write_sidecar
from export.cli import main as export
from infer.cli import main as infer

Invoke = Callable[..., Any]


@pytest.fixture(scope="module")
def split(exported_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`exported_onnx` with its weights beside it, and a sidecar that vouches for what is left of it."""
    folder = tmp_path_factory.mktemp("split")
    path = folder / "split.onnx"
    onnx.save_model(
        onnx.load(exported_onnx), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    before = read_sidecar(exported_onnx)
    assert before is not None and (folder / "weights.bin").stat().st_size > 10_000
    write_sidecar(
        path, Sidecar(spec=before.spec, file_sha256=file_sha256(path), verification=before.verification, build={})
    )
    return path


@pytest.fixture
def beside(split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in the current folder, where engines look for what belongs to a model that they got as bytes."""
    folder = shutil.copytree(split.parent, tmp_path / "current")
    monkeypatch.chdir(folder)
    return folder / split.name


REFUSED = "found a tensor whose data lie in another file"

BACKENDS = ["ort", *(["openvino", "openvino-bf16"] if find_spec("openvino") else [])]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_refuses_it(
    invoke: Invoke, beside: Path, trained_run: Path, photo_folder: Path, tmp_path: Path, backend: str
) -> None:
    data, chosen = ["--data", photo_folder], ["--backend", backend, "--device", "cpu"]
    commands: list[list[Any]] = [
        ["folder", photo_folder, tmp_path / "out", "--model", beside],
        ["info", beside],
        ["parity", beside, "--reference", trained_run, *data, "--no-fid"],
        ["evaluate", beside, photo_folder, "--no-fid"],
    ]
    for command in commands:
        assert invoke(infer, *command, *chosen).error(2).startswith(f"error: {beside}: {REFUSED}"), command
    assert not (tmp_path / "out").exists()


def test_cgan_export_refuses_it(invoke: Invoke, beside: Path, trained_run: Path, tmp_path: Path) -> None:
    assert REFUSED in invoke(export, trained_run, "--verify", beside).error(2)
    assert REFUSED in invoke(export, "--inspect", beside).error(2)
    if find_spec("tensorrt_rtx"):
        engine = invoke(export, beside, "--out", tmp_path / "out", "--format", "tensorrt-rtx", "--batch", "1,2,4")
        assert REFUSED in engine.error(2)


def test_cgan_train_does_not_begin_with_it(invoke: Invoke, beside: Path, photo_folder: Path, tmp_path: Path) -> None:
    options = ["--out", tmp_path / "run", "--width", "4", "--size", "32", "--no-fid", "--device", "cpu"]
    assert REFUSED in invoke(train, photo_folder, *options, "--init", beside).error(2)
    assert not (tmp_path / "run").exists()


def test_it_extracts_no_features(
    invoke: Invoke, beside: Path, exported_onnx: Path, photo_folder: Path, trained_run: Path
) -> None:
    given = ["--reference", trained_run, "--data", photo_folder, "--features", beside, "--max-fid-delta", "1"]
    assert REFUSED in invoke(infer, "parity", exported_onnx, *given).error(2)
