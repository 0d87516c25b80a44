"""How plans run: on stubs of TensorRT and CUDA, since CI has no GPU.

The stubs keep "device" memory on the host and do the work of a stream only when it is waited for. On the real modules
the same is run by the tests marked gpu in test_trt.py.
"""

import ctypes
import sys
import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cgan.spec import ModelSpec, Sidecar, UserError, file_sha256, write_sidecar
from infer.backends import open_model, trt
from infer.backends.trt import Gpu, TrtBackend, messages, sealed

A10 = Gpu("NVIDIA A10", "8.6")
FLAGS = {"version_compatible": False, "strip_weights": False}
RECORD = {
    "flavour": "tensorrt-rtx",
    "tensorrt_version": "1.7.1.116",
    "compute_capabilities": ["8.0+"],
    "gpu": None,
    "platform": "linux-x86_64",
    "onnx_sha256": "",
    "profiles": [{"min": [1, 1, 32, 32], "opt": [2, 1, 32, 32], "max": [4, 1, 32, 32]}],
    "flags": FLAGS,
}
SPEC = ModelSpec(
    model="unet",
    color_space="rgb",
    render_size=32,
    base_width=4,
    parameters=1000,
    config_sha256="",
    weights_sha256="",
)


def gray(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def write_record(plan: Path, **changes: Any) -> None:
    build = {**RECORD, **changes}
    write_sidecar(plan, sealed(Sidecar(spec=SPEC, file_sha256=file_sha256(plan), verification={}, build=build)))


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.plan"
    path.write_bytes(b"a plan")
    write_record(path)
    return path


def refusal(plan: Path) -> str:
    """The one line with which a plan is refused."""
    with pytest.raises(UserError) as refused:
        open_model(plan).__enter__()
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix(f"{plan}: ")


class Cuda(ModuleType):
    """cuda.bindings.runtime with "device" memory on the host; a stream's work is done when it is waited for."""

    cudaStreamNonBlocking = 1  # noqa: N815

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.cudaError_t = Enum("cudaError_t", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2})
        self.cudaMemcpyKind = Enum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
        self.memory: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] = []
        self.streams: set[int] = set()
        self.most = 10**9

    def result(self, *values: Any) -> tuple[Any, ...]:
        return self.cudaError_t.cudaSuccess, *values

    def cudaGetErrorString(self, status: Any) -> tuple[Any, bytes]:  # noqa: N802
        return self.cudaError_t.cudaSuccess, b"out of memory"

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        if size > self.most:
            return self.cudaError_t.cudaErrorMemoryAllocation, 0
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return self.result(ctypes.addressof(buffer))

    def cudaFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        del self.memory[address]
        return self.result()

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert flags == self.cudaStreamNonBlocking
        self.streams.add(7)
        return self.result(7)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.streams.remove(stream)
        return self.result()

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert stream in self.streams
        device = target if kind is self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert len(self.memory[device]) >= size
        self.queue.append(lambda: ctypes.memmove(target, source, size) and None)
        return self.result()

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        while self.queue:
            self.queue.pop(0)()
        return self.result()


class Library(ModuleType):
    """A flavour's module whose engines give (gray, 1 - gray, gray / 2)."""

    def __init__(self, name: str, version: str, cuda: Cuda) -> None:
        super().__init__(name)
        self.__version__ = version
        self.refused: set[str] = set()
        self.leans: list[str | None] = []
        """Path of the lean runtime, None for the library's own, of each runtime made."""
        self.released: list[str] = []
        self.refitted: list[str] = []
        library = self

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        class Counted:
            def __del__(self) -> None:
                library.released.append(type(self).__name__)

        class Context(Counted):
            def __init__(self) -> None:
                self.addresses: dict[str, int] = {}

            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                self.shape = tuple(shape)
                return name == "gray" and "shape" not in library.refused

            def set_tensor_address(self, name: str, address: int) -> bool:
                self.addresses[name] = address
                return address in cuda.memory

            def execute_async_v3(self, stream: int) -> bool:
                assert stream in cuda.streams
                if "execute" in library.refused:
                    library.log.log(ILogger.ERROR, "IExecutionContext::enqueueV3: no")
                    return False
                count, _, height, width = self.shape
                addresses = dict(self.addresses)

                def work() -> None:
                    pixels = count * height * width
                    floats = ctypes.POINTER(ctypes.c_float)
                    source = np.ctypeslib.as_array(ctypes.cast(addresses["gray"], floats), (pixels,))
                    target = np.ctypeslib.as_array(ctypes.cast(addresses["rgb"], floats), (3 * pixels,))
                    values = source.reshape(count, 1, height, width)
                    target[:] = np.concatenate([values, 1 - values, values / 2], axis=1).ravel()

                cuda.queue.append(work)
                return True

        class Engine(Counted):
            def create_execution_context(self) -> Context | None:
                return None if "context" in library.refused else Context()

        class Runtime(Counted):
            engine_host_code_allowed: bool | None = None

            def __init__(self, log: Any, lean: str | None = None) -> None:
                library.log = log
                library.leans.append(lean)

            def load_runtime(self, path: str) -> "Runtime | None":
                return None if "lean" in library.refused else Runtime(library.log, path)

            def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
                assert self.engine_host_code_allowed is False
                if "engine" in library.refused:
                    library.log.log(ILogger.ERROR, "IRuntime::deserializeCudaEngine: version tag does not match")
                    return None
                return Engine()

        class Refitter:
            def __init__(self, engine: Engine, log: Any) -> None: ...

            def refit_cuda_engine(self) -> bool:
                return "refit" not in library.refused

        class OnnxParserRefitter:
            def __init__(self, refitter: Refitter, log: Any) -> None: ...

            def refit_from_file(self, path: str) -> bool:
                library.refitted.append(Path(path).name)
                return True

        self.ILogger, self.Runtime = ILogger, Runtime
        self.Refitter, self.OnnxParserRefitter = Refitter, OnnxParserRefitter


Stubs = SimpleNamespace


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Stubs:
    """Stubs of CUDA and TensorRT for RTX in the place of the modules, and an NVIDIA A10."""
    cuda = Cuda()
    library = Library("tensorrt_rtx", str(RECORD["tensorrt_version"]), cuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)
    monkeypatch.setattr(trt, "find_gpu", lambda: A10)
    return Stubs(cuda=cuda, library=library)


def expected(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image, 1 - image, image / 2], axis=1)


def test_batches_run_one_after_another_and_all_is_released(plan: Path, stubs: Stubs) -> None:
    with open_model(plan) as backend:
        assert isinstance(backend, TrtBackend)
        assert backend.engine == f"TensorRT for RTX {stubs.library.__version__}, NVIDIA A10"
        assert (backend.fixed_size, backend.batch_range) == ((32, 32), (1, 4))
        assert backend.note is None
        assert backend.spec.render_size == 32
        for count in (2, 1, 4, 3):
            image = gray(count, 1, 32, 32)
            assert np.array_equal(backend.run(image), expected(image))
        assert sorted(len(buffer) for buffer in stubs.cuda.memory.values()) == [4 * 4 * 32**2, 3 * 4 * 4 * 32**2]
        assert not stubs.cuda.queue
        assert stubs.library.released == []
    assert stubs.library.released == ["Context", "Engine", "Runtime"]
    assert (stubs.cuda.memory, stubs.cuda.streams) == ({}, set())
    with pytest.raises(RuntimeError, match="outside its context"):
        backend.run(gray(1, 1, 32, 32))
    with backend:  # and again
        assert backend.run(gray(1, 1, 32, 32)).shape == (1, 3, 32, 32)


def test_threads_share_one_context_in_turn(plan: Path, stubs: Stubs) -> None:
    images = [gray(1 + i % 4, 1, 32, 32) * i / 16 for i in range(16)]
    answers: dict[int, np.ndarray] = {}
    with open_model(plan) as backend:

        def work(i: int) -> None:
            answers[i] = backend.run(images[i].astype(np.float32))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(np.array_equal(answers[i], expected(images[i].astype(np.float32))) for i in range(len(images)))


def test_batches_and_sizes_outside_the_profile_are_refused(plan: Path, stubs: Stubs) -> None:
    profile = {"min": [2, 1, 16, 32], "opt": [2, 1, 32, 32], "max": [4, 1, 64, 48]}
    write_record(plan, profiles=[profile])
    with open_model(plan) as backend:
        assert isinstance(backend, TrtBackend)
        assert (backend.fixed_size, backend.batch_range) == (None, (2, 4))
        for count in (1, 5):
            with pytest.raises(ValueError, match=f"expected a batch of 2 to 4, found {count}"):
                backend.run(gray(count, 1, 32, 32))
        for size in ((80, 32), (16, 16), (64, 64)):
            wrong = rf"expected height and width from \(16, 32\) to \(64, 48\), found \({size[0]}, {size[1]}\)"
            with pytest.raises(ValueError, match=wrong):
                backend.run(gray(2, 1, *size))
        with pytest.raises(ValueError, match="multiples of 16"):
            backend.run(gray(2, 1, 33, 32))
        for size in ((16, 32), (64, 48), (32, 48)):
            image = gray(3, 1, *size)
            assert np.array_equal(backend.run(image), expected(image))


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
def test_what_tensorrt_refuses_is_one_line(plan: Path, stubs: Stubs, refused: str, line: str) -> None:
    stubs.library.refused.add(refused)
    with pytest.raises(UserError, match=rf"model\.plan: TensorRT for RTX [\d.]+, NVIDIA A10 {line}") as error:
        open_model(plan).__enter__()
    assert "\n" not in str(error.value)
    assert (stubs.cuda.memory, stubs.cuda.streams) == ({}, set())


@pytest.mark.parametrize(("refused", "line"), [("execute", "enqueueV3: no"), ("shape", "gave no reason")])
def test_a_batch_that_fails_is_a_runtime_error(plan: Path, stubs: Stubs, refused: str, line: str) -> None:
    with open_model(plan) as backend:
        stubs.library.refused.add(refused)
        stubs.library.log.log(stubs.library.ILogger.ERROR, "IRuntime::another: long ago")
        with pytest.raises(RuntimeError, match=rf"NVIDIA A10 failed on a batch of 2: .*{line}"):
            backend.run(gray(2, 1, 32, 32))


def test_a_cuda_error_is_a_runtime_error_and_what_was_taken_is_released(plan: Path, stubs: Stubs) -> None:
    with open_model(plan) as backend:
        stubs.cuda.most = 3 * 4 * 32**2
        small = gray(1, 1, 32, 32)
        assert np.array_equal(backend.run(small), expected(small))
        found = r"CUDA failed in cudaMalloc: out of memory \(cudaErrorMemoryAllocation\)"
        with pytest.raises(RuntimeError, match=found):
            backend.run(gray(4, 1, 32, 32))
        assert np.array_equal(backend.run(small), expected(small))
    assert stubs.cuda.memory == {}


def test_a_stripped_engine_takes_its_weights_from_the_file_it_was_built_from(plan: Path, stubs: Stubs) -> None:
    onnx_file = plan.parent / "renamed.onnx"
    onnx_file.write_bytes(b"weights")
    write_record(plan, flags={**FLAGS, "strip_weights": True}, onnx_sha256=file_sha256(onnx_file))
    onnx_file.unlink()
    assert refusal(plan).startswith("its weights were stripped: found no ONNX file beside it, needed the ONNX file")
    (plan.parent / "another.onnx").write_bytes(b"other weights")
    assert refusal(plan).startswith("its weights were stripped: found another.onnx beside it")
    onnx_file.write_bytes(b"weights")
    with open_model(plan):
        assert stubs.library.refitted == ["renamed.onnx"]
    stubs.library.refused.add("refit")
    assert "cannot take its weights from renamed.onnx" in refusal(plan)


def test_an_older_version_compatible_engine_needs_its_lean_runtime(
    plan: Path, stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {**FLAGS, "version_compatible": True}
    write_record(plan, flags=flags)
    with open_model(plan):
        assert stubs.library.leans == [None]
    write_record(plan, flags=flags, tensorrt_version="1.2.0.54")
    assert refusal(plan).startswith("found no lean runtime here, needed that of TensorRT 1.2, which built it")
    package = tmp_path / "site" / "tensorrt_lean_libs"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "libnvinfer_lean.so.1").touch()
    monkeypatch.syspath_prepend(package.parent)
    with open_model(plan) as backend:
        assert stubs.library.leans[-2:] == [None, str(package / "libnvinfer_lean.so.1")]
        stubs.library.released.clear()
        assert backend.run(gray(1, 1, 32, 32)).shape == (1, 3, 32, 32)
        assert stubs.library.released == []
    stubs.library.refused.add("lean")
    assert "cannot load the lean runtime for it" in refusal(plan)


def test_a_new_logger_has_no_messages(stubs: Stubs) -> None:
    log = messages(stubs.library)
    assert (log.errors, log.warnings, log.reason()) == ([], [], "tensorrt_rtx gave no reason")


def test_another_gpu_of_the_same_kind_is_noted(plan: Path, stubs: Stubs) -> None:
    write_record(plan, gpu="NVIDIA GeForce RTX 3090")
    with open_model(plan) as backend:
        assert backend.note is not None
        assert backend.note.startswith("built on NVIDIA GeForce RTX 3090, found NVIDIA A10")


def test_the_stubs_have_the_names_of_the_modules(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what the stubs prove holds for the stubs alone."""
    monkeypatch.undo()
    import tensorrt_rtx
    from cuda.bindings import runtime

    names = [name for name in dir(Cuda) if name.startswith("cuda")]
    assert len(names) == 8
    assert all(hasattr(runtime, name) for name in (*names, "cudaError_t", "cudaMemcpyKind"))
    for kind in ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"):
        assert hasattr(runtime.cudaMemcpyKind, kind)
    for name in ("Runtime", "Refitter", "OnnxParserRefitter"):
        stub = getattr(stubs.library, name)
        assert {n for n in vars(stub) if n[0] != "_"} <= set(dir(getattr(tensorrt_rtx, name)))
    context = {"set_input_shape", "set_tensor_address", "execute_async_v3"}
    assert context <= set(dir(tensorrt_rtx.IExecutionContext))
