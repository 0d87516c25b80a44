"""Which backend runs what, the checks of the base class, and what vouches for a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from cgan.errors import ChangedFileError, UserError
from cgan.spec import ModelSpec, sidecar_path
from export.cli import main as export
from infer.backends import ARTEFACTS, BACKENDS, open_model
from infer.backends.base import Backend, OutOfMemory
from infer.backends.ort import OrtBackend
from infer.backends.pytorch import TorchBackend
from infer.backends.trt import TrtBackend
from infer.packaged import MODELS, PACKAGED_MODELS

Array = Callable[..., np.ndarray]


def test_runs_any_batch_and_gives_the_contract(model: Path, gray: Array) -> None:
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


def test_one_photo_alone_or_in_a_batch_is_the_same(model: Path, gray: Array) -> None:
    with open_model(model, "cpu") as backend:
        batch = gray(4, 1, *(backend.fixed_size or ()))
        together = backend.run(batch)
        assert np.abs(together[2:3] - backend.run(batch[2:3])).max() < 1e-5


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1, 48, 32), np.float32),
        ((1, 3, 32, 32), np.float32),
        ((1, 32, 32), np.float32),
        ((1, 1, 32, 32), np.float64),
        ((0, 1, 32, 32), np.float32),
    ],
    ids=["size", "channels", "axes", "type", "empty"],
)
def test_arrays_outside_the_contract_are_refused(model: Path, shape: tuple[int, ...], dtype: type) -> None:
    with open_model(model, "cpu") as backend, pytest.raises(ValueError, match="expected"):
        backend.run(np.zeros(shape, dtype))


def test_use_outside_the_context_is_an_error(model: Path, gray: Array) -> None:
    backend = open_model(model, "cpu")
    with pytest.raises(RuntimeError, match="outside its context"):
        backend.run(gray(1, 1, 32, 32))
    with backend:
        pass
    with pytest.raises(RuntimeError, match="outside its context"):
        _ = backend.spec


class Tint(Backend):
    """Gives gray as red, green and blue; what it is on and how it fails can be set."""

    gpu = False
    limits: tuple[int, int | None] = (1, None)
    error: Exception | None = None
    answer: np.ndarray | None = None

    def __init__(self, model: Path, **values: object) -> None:
        super().__init__(model)
        self.batches: list[np.ndarray] = []
        self.released = 0
        for name, value in values.items():
            setattr(self, name, value)

    @property
    def engine(self) -> str:
        return "Tint"

    @property
    def on_gpu(self) -> bool:
        return self.gpu

    @property
    def batch_range(self) -> tuple[int, int | None]:
        return self.limits

    @property
    def fixed_size(self) -> None:
        return None

    def _activate(self) -> ModelSpec:
        if self.error:
            raise self.error
        with open_model(self.path, "cpu") as backend:
            return backend.spec

    def _deactivate(self) -> None:
        self.released += 1

    def _run(self, gray: np.ndarray) -> np.ndarray:
        self.batches.append(gray)
        if self.error:
            raise self.error
        return np.repeat(gray, 3, axis=1) if self.answer is None else self.answer


@pytest.mark.parametrize("answer", [np.full((1, 3, 32, 32), np.nan, np.float32), np.zeros((1, 1, 32, 32), np.float32)])
def test_an_engine_that_gives_nonsense_is_caught(model: Path, gray: Array, answer: np.ndarray) -> None:
    with Tint(model, answer=answer) as backend, pytest.raises(RuntimeError, match="gave"):
        backend.run(gray(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("values", "batch_size", "count", "ran"),
    [
        ({"gpu": True}, 8, 3, 8),
        ({"gpu": True}, 8, 8, 8),
        ({"gpu": True}, 8, 9, 9),
        ({"gpu": True}, None, 3, 3),
        ({"gpu": False}, 8, 3, 3),
        ({"gpu": True, "limits": (2, 6)}, 64, 1, 6),
        ({"gpu": True, "limits": (2, 6)}, None, 1, 2),
        ({"gpu": False, "limits": (4, None)}, 2, 3, 4),
    ],
    ids=str,
)
def test_batches_are_filled_where_a_new_shape_costs(
    model: Path, gray: Array, values: dict[str, object], batch_size: int | None, count: int, ran: int
) -> None:
    with Tint(model, **values) as backend:
        backend.batch_size = batch_size
        image = gray(count, 1, 32, 32)
        assert np.array_equal(backend.run(image), np.repeat(image, 3, axis=1))
        (batch,) = backend.batches
        assert len(batch) == ran
        assert all(np.array_equal(photo, image[-1]) for photo in batch[count:])


def test_values_in_the_filling_are_nobodys_concern(model: Path, gray: Array) -> None:
    answer = np.zeros((4, 3, 32, 32), np.float32)
    answer[1:] = np.nan
    with Tint(model, gpu=True, answer=answer) as backend:
        backend.batch_size = 4
        assert not backend.run(gray(1, 1, 32, 32)).any()


@pytest.mark.parametrize(
    ("values", "batch"),
    [
        ({}, 4),
        ({"gpu": True}, 64),
        ({"gpu": True, "limits": (1, 16)}, 16),
        ({"gpu": True, "limits": (100, 128)}, 100),
        ({"limits": (1, 2)}, 2),
    ],
)
def test_the_batch_to_take_when_nothing_is_asked_for(model: Path, values: dict[str, object], batch: int) -> None:
    assert Tint(model, **values).default_batch == batch


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError("Unable to allocate 3.00 GiB"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 7"), True),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), True),
        (RuntimeError("CUDA failed in cudaMalloc (cudaErrorMemoryAllocation)"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("an illegal memory access was encountered"), False),
        (RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"), False),
    ],
    ids=str,
)
def test_memory_that_runs_out_is_told_from_other_failures(
    model: Path, gray: Array, error: Exception, memory: bool
) -> None:
    with Tint(model) as backend:
        backend.error = error
        with pytest.raises(RuntimeError) as failed:
            backend.run(gray(1, 1, 32, 32))
        assert isinstance(failed.value, OutOfMemory) is memory
        assert str(error) in str(failed.value)


def test_what_loading_took_is_released_when_it_fails(model: Path) -> None:
    backend = Tint(model, error=UserError("no"))
    with pytest.raises(UserError, match="no"):
        backend.__enter__()
    assert backend.released == 1
    backend.error = None
    with backend:
        assert backend.released == 1
    assert backend.released == 2


def test_the_artefact_decides_on_the_backend(model: Path, trained_run: Path, tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.touch()
    checkpoint = trained_run / "checkpoints" / "last.safetensors"
    kinds = {model: OrtBackend, plan: TrtBackend, trained_run: TorchBackend, checkpoint: TorchBackend}
    names = {OrtBackend: "ort", TrtBackend: "tensorrt", TorchBackend: "torch"}
    assert set(names.values()) == set(BACKENDS) - {"openvino", "openvino-bf16"}  # those are in test_ov.py
    for path, kind in kinds.items():
        for backend in ("auto", names[kind]):
            assert type(open_model(path, backend=backend)) is kind
        for other in set(BACKENDS) - {names[kind], *ARTEFACTS.get(path.suffix, ())}:
            with pytest.raises(UserError, match=f"and --backend {other}, which runs .*use --backend {names[kind]}"):
                open_model(path, backend=other)
        if kind is not OrtBackend:
            with pytest.raises(
                UserError,
                match=r"found --provider cpu with --backend .*, expected it with an \.onnx file.*leave --provider out",
            ):
                open_model(path, provider="cpu")
    temporary = tmp_path / "temporary"
    temporary.touch()
    assert type(open_model(temporary, suffix=".PLAN")) is TrtBackend


def test_an_int8_model_runs_on_the_cpu(
    trained_run: Path, photo_folder: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    arguments = ("--out", tmp_path, "--precision", "int8", "--calibration", photo_folder, "--no-verify", "--quiet")
    assert invoke(export, trained_run, *arguments).code == 0
    (artefact,) = tmp_path.glob("*.onnx")
    photos = [Image.open(path).convert("L").resize((32, 32)) for path in sorted(photo_folder.rglob("*.*"))[:3]]
    image = np.stack([np.asarray(photo, np.float32)[None] / 255 for photo in photos]).astype(np.float32)
    with open_model(artefact, "cpu") as backend, open_model(trained_run, "cpu") as reference:
        assert backend.spec.precision == "int8"
        difference = np.abs(backend.run(image) - reference.run(image))
        assert 0 < difference.mean() < 0.05, difference.mean()


@pytest.mark.slow
def test_a_model_of_dynamic_size_takes_other_sizes_and_reads_no_shapes(
    trained_run: Path, tmp_path: Path, invoke: Callable[..., Any], gray: Array
) -> None:
    """Nodes that compute with shapes would run on the CPU beside a GPU, which is refused there."""
    assert invoke(export, trained_run, "--out", tmp_path, "--dynamic-size", "--quiet").code == 0
    (artefact,) = tmp_path.glob("*.onnx")
    with open_model(artefact, "cpu") as backend, open_model(trained_run, "cpu") as reference:
        assert (backend.fixed_size, backend.size_range) == (None, None)
        image = gray(2, 1, 48, 64)
        assert np.abs(backend.run(image) - reference.run(image)).max() < 1e-4
    assert not {"Shape", "Size"} & {node.op_type for node in onnx.load(artefact).graph.node}


def test_a_changed_byte_is_refused(model: Path) -> None:
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(ChangedFileError, match="changed since its export"):
        open_model(model, "cpu").__enter__()


def test_a_changed_sidecar_is_refused(model: Path) -> None:
    path = sidecar_path(model)
    data = json.loads(path.read_text())
    data["spec"]["render_size"] += 16
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
        "broken.onnx": "not an ONNX file, or a damaged one",
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


@pytest.mark.parametrize("name", PACKAGED_MODELS)
def test_the_models_in_the_package_are_vouched_for(name: str) -> None:
    with open_model(PACKAGED_MODELS[name], "cpu") as backend:
        assert isinstance(backend, Backend)
        assert backend.spec.precision == ("int8" if name.endswith("int8") else "fp32")
        assert backend.sidecar is not None
        found = backend.sidecar.verification
        assert found["verified"]
        if backend.spec.precision == "fp32":
            assert found["max_difference"] <= found["tolerance"]["atol"] == 1e-4
        else:
            assert found["min_psnr"] >= found["tolerance"]["min_psnr"] == 40


def test_the_models_in_the_package_are_one_model_and_small() -> None:
    specs = []
    for path in PACKAGED_MODELS.values():
        with open_model(path, "cpu") as backend:
            specs.append(backend.spec)
    assert len({spec.weights_sha256 for spec in specs}) == 1
    assert {path.name for path in MODELS.glob("*.onnx")} == {path.name for path in PACKAGED_MODELS.values()}
    assert sum(path.stat().st_size for path in PACKAGED_MODELS.values()) <= 32 * 2**20
