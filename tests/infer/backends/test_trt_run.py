"""Plans are loaded and run, on the stubs of gpu_stubs.py; slots and CUDA graphs are in test_trt_slots.py."""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cgan.errors import UserError
from cgan.files import file_sha256
from infer.backends import open_model
from infer.backends.base import OutOfMemory
from infer.backends.flavours import messages
from infer.backends.trt import TrtBackend

Array = Callable[..., np.ndarray]
Write = Callable[..., None]
EMPTY_ONNX = b"\x3a\x00"
"""An ONNX file of a graph without nodes."""
FLAGS = {"version_compatible": False, "strip_weights": False}


def refusal(plan: Path) -> str:
    """The one line with which a plan is refused."""
    with pytest.raises(UserError) as refused:
        open_model(plan).__enter__()
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix(f"{plan}: ")


@pytest.mark.parametrize("flavour", ["tensorrt-rtx", "tensorrt"])
def test_batches_run_one_after_another_and_all_is_released(
    stub_plan: Path, stubs: SimpleNamespace, gray: Array, write_record: Write, flavour: str
) -> None:
    write_record(stub_plan, flavour)
    library = stubs.rtx if flavour == "tensorrt-rtx" else stubs.tensorrt
    with open_model(stub_plan) as backend:
        assert isinstance(backend, TrtBackend)
        assert backend.engine.endswith(f" {library.__version__}, NVIDIA A10")
        assert (backend.fixed_size, backend.size_range, backend.batch_range) == ((32, 32), None, (1, 4))
        assert (backend.on_gpu, backend.pads, backend.default_batch) == (True, True, 4)
        assert backend.note is None
        assert backend.spec.render_size == 32
        for count in (2, 1, 4, 3, 3, 3):
            image = (gray(count, 1, 32, 32) / (1 + len(library.shapes))).astype(np.float32)
            assert np.array_equal(backend.run(image), stubs.expected(image))
        assert library.released == []
    assert library.released == ["Context", "Context", "Engine", "Runtime"]
    assert stubs.cuda.left() == {}
    with pytest.raises(RuntimeError, match="outside its context"):
        backend.run(gray(1, 1, 32, 32))
    with backend:  # and again
        assert backend.run(gray(1, 1, 32, 32)).shape == (1, 3, 32, 32)
    assert stubs.cuda.left() == {}


def test_batches_and_sizes_outside_the_profile_are_refused(
    stub_plan: Path, stubs: SimpleNamespace, gray: Array, write_record: Write
) -> None:
    write_record(stub_plan, profiles=[{"min": [2, 1, 16, 32], "opt": [2, 1, 32, 32], "max": [4, 1, 64, 48]}])
    with open_model(stub_plan) as backend:
        assert (backend.fixed_size, backend.size_range, backend.batch_range) == (None, (32, 48), (2, 4))
        with pytest.raises(ValueError, match="expected a batch of at most 4, found 5"):
            backend.run(gray(5, 1, 32, 32))
        for size in ((80, 32), (16, 16), (64, 64)):
            wrong = rf"expected height and width from \(16, 32\) to \(64, 48\), found \({size[0]}, {size[1]}\)"
            with pytest.raises(ValueError, match=wrong):
                backend.run(gray(2, 1, *size))
        with pytest.raises(ValueError, match="multiples of 16"):
            backend.run(gray(2, 1, 33, 32))
        for size in ((16, 32), (64, 48), (32, 48)):
            image = gray(3, 1, *size)
            assert np.array_equal(backend.run(image), stubs.expected(image))


def test_a_batch_below_the_profile_is_filled_up(
    stub_plan: Path, stubs: SimpleNamespace, gray: Array, write_record: Write
) -> None:
    write_record(stub_plan, profiles=[{"min": [3, 1, 32, 32], "opt": [8, 1, 32, 32], "max": [8, 1, 32, 32]}])
    with open_model(stub_plan) as backend:
        assert backend.default_batch == 8
        for wanted, count, ran in ((None, 1, 3), (None, 5, 5), (6, 2, 6), (6, 7, 7), (64, 1, 8), (1, 2, 3)):
            backend.batch_size = wanted
            image = gray(count, 1, 32, 32)
            assert np.array_equal(backend.run(image), stubs.expected(image))
            assert stubs.rtx.shapes[-1] == (ran, 1, 32, 32)


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        (
            "engine",
            r"cannot load it \(IRuntime::deserializeCudaEngine: version tag does not match\); it was built with 1\.",
        ),
        ("context", "cannot prepare it to run"),
    ],
)
def test_what_tensorrt_refuses_is_one_line(stub_plan: Path, stubs: SimpleNamespace, refused: str, line: str) -> None:
    stubs.rtx.refused.add(refused)
    with pytest.raises(UserError, match=rf"model\.plan: TensorRT for RTX [\d.]+, NVIDIA A10 {line}") as error:
        open_model(stub_plan).__enter__()
    assert "\n" not in str(error.value)
    assert stubs.cuda.left() == {}


@pytest.mark.parametrize(
    ("refused", "count", "line"),
    [("execute", 2, "enqueueV3: no"), ("execute", 3, "enqueueV3"), ("shape", 3, "no reason")],
)
def test_a_batch_that_fails_is_a_runtime_error(
    stub_plan: Path, stubs: SimpleNamespace, gray: Array, refused: str, count: int, line: str
) -> None:
    with open_model(stub_plan) as backend:
        for _ in range(2):  # both slots are set up for two photos
            backend.run(gray(2, 1, 32, 32))
        stubs.rtx.refused.add(refused)
        stubs.rtx.log.log(stubs.rtx.ILogger.ERROR, "IRuntime::another: long ago")
        with pytest.raises(RuntimeError, match=rf"TensorRT failed on a batch of {count}: .*{line}") as failed:
            backend.run(gray(count, 1, 32, 32))
        assert not isinstance(failed.value, OutOfMemory)
        stubs.rtx.refused.clear()
        image = gray(2, 1, 32, 32)
        assert np.array_equal(backend.run(image), stubs.expected(image))
    assert stubs.cuda.left() == {}


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost"])
def test_a_batch_too_large_for_the_memory_says_so_and_gives_back_what_it_took(
    stub_plan: Path, stubs: SimpleNamespace, gray: Array, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    allocate = getattr(stubs.cuda, function)

    def limited(size: int) -> object:
        too_large = stubs.cuda.cudaError_t.cudaErrorMemoryAllocation, None
        return too_large if size > 3 * 4 * 32**2 else allocate(size)

    monkeypatch.setattr(stubs.cuda, function, limited)
    with open_model(stub_plan) as backend:
        small = gray(1, 1, 32, 32)
        with pytest.raises(OutOfMemory, match=rf"CUDA failed in {function}: out of memory \(cudaErrorMemoryAlloc"):
            backend.run(gray(4, 1, 32, 32))
        assert not stubs.cuda.device
        assert not stubs.cuda.pinned
        assert np.array_equal(backend.run(small), stubs.expected(small))
    assert stubs.cuda.left() == {}


def test_a_stripped_engine_takes_its_weights_from_the_file_it_was_built_from(
    stub_plan: Path, stubs: SimpleNamespace, write_record: Write
) -> None:
    onnx_file = stub_plan.parent / "renamed.onnx"
    onnx_file.write_bytes(EMPTY_ONNX)
    write_record(stub_plan, flags={**FLAGS, "strip_weights": True}, onnx_sha256=file_sha256(onnx_file))
    onnx_file.unlink()
    assert refusal(stub_plan).startswith("its weights were stripped: found no ONNX file beside it, needed the ONNX")
    (stub_plan.parent / "another.onnx").write_bytes(EMPTY_ONNX + EMPTY_ONNX)
    assert refusal(stub_plan).startswith("its weights were stripped: found another.onnx beside it")
    onnx_file.write_bytes(EMPTY_ONNX)
    with open_model(stub_plan):
        assert stubs.rtx.refitted == [EMPTY_ONNX]
    stubs.rtx.refused.add("refit")
    assert "cannot take its weights from renamed.onnx" in refusal(stub_plan)


def test_an_older_version_compatible_engine_needs_its_lean_runtime(
    stub_plan: Path,
    stubs: SimpleNamespace,
    gray: Array,
    write_record: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = {**FLAGS, "version_compatible": True}
    write_record(stub_plan, flags=flags)
    with open_model(stub_plan):
        assert stubs.rtx.leans == [None]
    write_record(stub_plan, flags=flags, tensorrt_version="1.2.0.54")
    assert refusal(stub_plan).startswith("found no lean runtime here, needed that of TensorRT 1.2, which built it")
    package = tmp_path / "site" / "tensorrt_lean_libs"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "libnvinfer_lean.so.1").touch()
    monkeypatch.syspath_prepend(package.parent)
    with open_model(stub_plan) as backend:
        assert stubs.rtx.leans[-2:] == [None, str(package / "libnvinfer_lean.so.1")]
        gc.collect()  # the runtime of the refusal above lives on in its traceback
        stubs.rtx.released.clear()
        assert backend.run(gray(1, 1, 32, 32)).shape == (1, 3, 32, 32)
        assert stubs.rtx.released == []
    stubs.rtx.refused.add("lean")
    assert "cannot load the lean runtime for it" in refusal(stub_plan)


def test_a_new_logger_has_no_messages(stubs: SimpleNamespace) -> None:
    log = messages(stubs.rtx)
    assert (log.errors, log.warnings, log.reason()) == ([], [], "tensorrt_rtx gave no reason")


def test_another_gpu_of_the_same_kind_is_noted(stub_plan: Path, stubs: SimpleNamespace, write_record: Write) -> None:
    write_record(stub_plan, gpu="NVIDIA GeForce RTX 3090")
    with open_model(stub_plan) as backend:
        assert backend.note is not None
        assert backend.note.startswith("built on NVIDIA GeForce RTX 3090, found NVIDIA A10")


def test_the_stubs_have_the_names_of_the_modules(stubs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what the stubs prove holds for the stubs alone."""
    monkeypatch.undo()
    import tensorrt_rtx
    from cuda.bindings import runtime

    names = [name for name in {*dir(type(stubs.cuda)), *vars(stubs.cuda)} if name.startswith("cuda")]
    assert len(names) == 22
    assert all(hasattr(runtime, name) for name in names)
    for kind in ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"):
        values = getattr(stubs.cuda, kind)
        assert all(getattr(getattr(runtime, kind), value.name) == value.value for value in values)
    for name in ("Runtime", "Refitter", "OnnxParserRefitter", "IExecutionContext", "ICudaEngine"):
        stub = getattr(stubs.rtx, name)
        stub = stub.func if isinstance(stub, partial) else stub
        public = {n for n, value in vars(stub).items() if n[0] != "_" and (callable(value) or n.startswith("engine"))}
        assert public
        assert public <= set(dir(getattr(tensorrt_rtx, name)))
    assert hasattr(tensorrt_rtx.IRuntimeConfig, "cuda_graph_strategy")
    assert hasattr(tensorrt_rtx.CudaGraphStrategy, stubs.rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE)
