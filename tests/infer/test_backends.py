"""The base class's checks and the ONNX Runtime backend."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from cgan.spec import ChangedFileError, ModelSpec, UserError, sidecar_path
from infer.backends import DEFAULT_MODEL, open_model, ort
from infer.backends.base import Backend
from infer.backends.ort import gpu_present


@pytest.fixture
def model(exported_onnx: Path, tmp_path: Path) -> Path:
    """A copy of the exported model with its sidecar, to be spoilt."""
    shutil.copy(sidecar_path(exported_onnx), tmp_path)
    return Path(shutil.copy(exported_onnx, tmp_path))


def gray(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def test_runs_any_batch_and_gives_the_contract(model: Path) -> None:
    with open_model(model, "cpu") as backend:
        size = backend.spec.render_size
        assert backend.fixed_size == (size, size)
        assert backend.sidecar is not None
        assert backend.sidecar.verification["verified"] is True
        assert "CPUExecutionProvider" in backend.engine
        for batch in (1, 5):
            rgb = backend.run(gray(batch, 1, size, size))
            assert rgb.shape == (batch, 3, size, size)
            assert 0 <= rgb.min() <= rgb.max() <= 1


def test_one_photo_alone_or_in_a_batch_is_the_same(model: Path) -> None:
    with open_model(model, "cpu") as backend:
        batch = gray(4, 1, *(backend.fixed_size or ()))
        together = backend.run(batch)
        assert np.abs(together[2:3] - backend.run(batch[2:3])).max() < 1e-5


@pytest.mark.parametrize(
    "wrong",
    [gray(1, 1, 48, 32), gray(1, 3, 32, 32), gray(1, 32, 32), gray(1, 1, 32, 32).astype(float), gray(0, 1, 32, 32)],
    ids=["size", "channels", "axes", "type", "empty"],
)
def test_arrays_outside_the_contract_are_refused(model: Path, wrong: np.ndarray) -> None:
    with open_model(model, "cpu") as backend, pytest.raises(ValueError, match="expected"):
        backend.run(wrong)


def test_use_outside_the_context_is_an_error(model: Path) -> None:
    backend = open_model(model, "cpu")
    with pytest.raises(RuntimeError, match="outside its context"):
        backend.run(gray(1, 1, 32, 32))
    with backend:
        pass
    with pytest.raises(RuntimeError, match="outside its context"):
        _ = backend.spec


@pytest.mark.parametrize("answer", [np.full((1, 3, 32, 32), np.nan, np.float32), np.zeros((1, 1, 32, 32), np.float32)])
def test_an_engine_that_gives_nonsense_is_caught(model: Path, monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    with open_model(model, "cpu") as backend:
        monkeypatch.setattr(backend, "_run", lambda gray: answer)
        with pytest.raises(RuntimeError, match="gave"):
            backend.run(gray(1, 1, 32, 32))


@pytest.mark.skipif(gpu_present(), reason="a GPU is here")
def test_cuda_is_never_replaced_by_the_cpu(model: Path) -> None:
    with pytest.raises(UserError, match="found no NVIDIA GPU"):
        open_model(model, "cuda").__enter__()


@pytest.mark.skipif(gpu_present(), reason="a GPU is here")
def test_a_provider_that_does_not_load_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself goes on with the CPU after a warning."""
    monkeypatch.setattr(ort, "gpu_present", lambda: True)
    with pytest.raises(UserError, match=r"CUDAExecutionProvider is not available.*found CPUExecutionProvider"):
        open_model(model, "cuda").__enter__()


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_present(), reason="needs an NVIDIA GPU")
def test_cuda_agrees_with_the_cpu(model: Path) -> None:
    batch = gray(3, 1, 32, 32)
    answers = []
    for device in ("cpu", "cuda"):
        with open_model(model, device) as backend:
            answers.append(backend.run(batch))
    assert np.abs(answers[0] - answers[1]).max() < 1e-3


@pytest.mark.skipif(gpu_present(), reason="a GPU is here")
def test_auto_goes_on_with_the_cpu_and_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "gpu_present", lambda: True)
    with open_model(model, "auto") as backend:
        assert "CPUExecutionProvider" in backend.engine
        assert backend.note is not None
        assert "going on with the CPU" in backend.note


def test_errors_of_the_engine_become_one_type(model: Path) -> None:
    with open_model(model, "cpu") as backend:
        two_channels = gray(1, 2, 32, 32)
        with pytest.raises(RuntimeError, match="ONNX Runtime failed on a batch of 1"):
            backend._run(two_channels)


def test_a_changed_byte_is_refused(model: Path) -> None:
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(ChangedFileError, match="changed since its export"):
        open_model(model, "cpu").__enter__()


def test_a_changed_sidecar_is_refused(model: Path) -> None:
    path = sidecar_path(model)
    data = json.loads(path.read_text())
    data["spec"]["base_width"] += 1
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="not the one in its sidecar"):
        open_model(model, "cpu").__enter__()
    path.write_text("{")
    with pytest.raises(UserError, match="not a readable sidecar"):
        open_model(model, "cpu").__enter__()


def test_without_sidecar_it_works_unvouched(model: Path) -> None:
    sidecar_path(model).unlink()
    with open_model(model, "cpu") as backend:
        assert backend.sidecar is None


def test_foreign_and_broken_files_are_refused(model: Path, tmp_path: Path) -> None:
    sidecar_path(model).unlink()
    graph = onnx.load(model)
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    (tmp_path / "model.pt").write_bytes(b"x")
    for name, message in {
        "foreign.onnx": "no model contract",
        "broken.onnx": "cannot load it",
        "model.pt": r"found a \.pt file, expected one of \.onnx",
        "none.onnx": "found no such file",
    }.items():
        with pytest.raises(UserError, match=message):
            open_model(tmp_path / name, "cpu").__enter__()


def test_a_model_of_another_contract_is_refused(model: Path) -> None:
    sidecar_path(model).unlink()
    graph = onnx.load(model)
    prop = graph.metadata_props[0]
    values = json.loads(prop.value)
    values["input"]["meaning"] = "CIE L*"
    prop.value = json.dumps(values)
    onnx.save(graph, model)
    with pytest.raises(UserError, match="the model's input is not the one"):
        open_model(model, "cpu").__enter__()


def test_the_model_in_the_package_is_vouched_for() -> None:
    with open_model(DEFAULT_MODEL, "cpu") as backend:
        assert isinstance(backend, Backend)
        assert isinstance(backend.spec, ModelSpec)
        assert backend.sidecar is not None
        assert backend.sidecar.verification["max_difference"] <= backend.sidecar.verification["atol"]
    assert DEFAULT_MODEL.stat().st_size <= 16 * 2**20
