"""Stubs of CUDA and TensorRT, since CI has no GPU.

They keep "device" and page-locked memory on the host and do a stream's work only when it is waited for. They fail where
the real ones would do something undefined. On the real modules the same is run by the tests marked gpu.
"""

import ctypes
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


def answer(image: np.ndarray) -> np.ndarray:
    """Output of the engines of the stubs."""
    return np.concatenate([image, 1 - image, image / 2], axis=1)


def enum(name: str, members: dict[str, int]) -> Any:
    return Enum(name, members)


class Work:
    """Something that a stream does later."""

    def __init__(self, do: Callable[[], object], uses: Iterable[int], context: object = None) -> None:
        self.do = do
        self.uses = set(uses)
        """Addresses of the memory that it needs."""
        self.context = context
        """The execution context that enqueued it."""


class Cuda(ModuleType):
    """cuda.bindings.runtime. Each thing that was made is in one of the dicts until it is released, exactly once."""

    cudaStreamNonBlocking = 1  # noqa: N815

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        errors = {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorStreamCaptureUnsupported": 900}
        self.cudaError_t = enum("cudaError_t", errors)
        self.cudaMemcpyKind = enum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
        modes = ("Global", "ThreadLocal", "Relaxed")
        numbers = {f"cudaStreamCaptureMode{mode}": number for number, mode in enumerate(modes)}
        self.cudaStreamCaptureMode = enum("cudaStreamCaptureMode", numbers)
        self.modes = threading.local()
        """`now` is the capture mode of the calling thread."""
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.captures: dict[int, tuple[int, list[Work]]] = {}
        """The thread that captures a stream, and what it captured."""
        self.most = 10**9
        """Bytes of the largest allocation."""
        self.failing: set[str] = set()
        """Functions that give an error."""
        self.calls = Counter[str]()
        self.handles = iter(range(1000, 10**9))

    def left(self) -> dict[str, int]:
        """Count of what is not yet released, by kind."""
        kinds = ("device", "pinned", "streams", "graphs", "executables", "captures")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}

    def result(self, function: str, *values: Any) -> tuple[Any, ...]:
        self.calls[function] += 1
        if function in self.failing:
            return self.cudaError_t.cudaErrorStreamCaptureUnsupported, None
        return self.cudaError_t.cudaSuccess, *values

    def cudaGetErrorString(self, status: Any) -> tuple[Any, bytes]:  # noqa: N802
        texts = {"cudaErrorMemoryAllocation": b"out of memory"}
        return self.cudaError_t.cudaSuccess, texts.get(status.name, b"operation not permitted")

    def cudaGetLastError(self) -> tuple[Any, ...]:  # noqa: N802
        self.calls["cudaGetLastError"] += 1
        return (self.cudaError_t.cudaErrorStreamCaptureUnsupported,)

    def cudaThreadExchangeStreamCaptureMode(self, mode: Any) -> tuple[Any, ...]:  # noqa: N802
        before = self.mode()
        self.modes.now = mode
        return self.result("cudaThreadExchangeStreamCaptureMode", before)

    def mode(self) -> Any:
        return getattr(self.modes, "now", self.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal)

    def check_may_reserve(self) -> None:
        """Another thread may be capturing at any moment, and this one must not."""
        assert self.mode() is self.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        assert threading.get_ident() not in {thread for thread, _ in self.captures.values()}

    def allocate(self, memory: dict[int, Any], size: int) -> tuple[Any, ...]:
        self.check_may_reserve()
        if size > self.most:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        buffer = ctypes.create_string_buffer(size)
        memory[ctypes.addressof(buffer)] = buffer
        return self.cudaError_t.cudaSuccess, ctypes.addressof(buffer)

    def release(self, function: str, things: dict[int, Any], handle: int) -> tuple[Any, ...]:
        waiting = [work for works in self.streams.values() for work in works]
        assert handle not in {address for work in waiting for address in work.uses}, "something still uses it"
        assert not self.streams.get(handle), "the stream is at work"
        del things[handle]
        return self.result(function)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        return self.allocate(self.device, size)

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        return self.allocate(self.pinned, size)

    def cudaFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        self.check_may_reserve()
        return self.release("cudaFree", self.device, address)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        self.check_may_reserve()
        return self.release("cudaFreeHost", self.pinned, address)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert flags == self.cudaStreamNonBlocking
        stream = next(self.handles)
        self.streams[stream] = []
        return self.result("cudaStreamCreateWithFlags", stream)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self.release("cudaStreamDestroy", self.streams, stream)

    def enqueue(self, stream: int, work: Work) -> None:
        (self.captures[stream][1] if stream in self.captures else self.streams[stream]).append(work)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any, ...]:  # noqa: N802
        there = kind is self.cudaMemcpyKind.cudaMemcpyHostToDevice
        host, device = (source, target) if there else (target, source)
        assert min(len(self.pinned[host]), len(self.device[device])) >= size
        self.enqueue(stream, Work(lambda: ctypes.memmove(target, source, size), (target, source)))
        return self.result("cudaMemcpyAsync")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert stream not in self.captures
        works = self.streams[stream]
        while works:
            works.pop(0).do()
        return self.result("cudaStreamSynchronize")

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:  # noqa: N802
        assert mode is self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert self.mode() is self.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal, "left as it was found"
        if "cudaStreamBeginCapture" not in self.failing:
            self.captures[stream] = threading.get_ident(), []
        return self.result("cudaStreamBeginCapture")

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        thread, works = self.captures.pop(stream)
        assert thread == threading.get_ident()
        if "cudaStreamEndCapture" in self.failing:
            return self.result("cudaStreamEndCapture")
        graph = next(self.handles)
        self.graphs[graph] = works
        return self.result("cudaStreamEndCapture", graph)

    def cudaGraphGetNodes(self, graph: int, numNodes: int = 0) -> tuple[Any, ...]:  # noqa: N802, N803
        return self.result("cudaGraphGetNodes", [], len(self.graphs[graph]))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        if "cudaGraphInstantiate" in self.failing:
            return self.result("cudaGraphInstantiate")
        executable = next(self.handles)
        self.executables[executable] = self.graphs[graph]
        return self.result("cudaGraphInstantiate", executable)

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        del self.graphs[graph]
        return self.result("cudaGraphDestroy")

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:  # noqa: N802
        del self.executables[executable]
        return self.result("cudaGraphExecDestroy")

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.streams[stream].extend(self.executables[executable])
        return self.result("cudaGraphLaunch")


class Logger:
    """Severities; the project derives its own from it."""

    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class Counted:
    """Something of a library, which notes its release."""

    def __init__(self, library: "Library") -> None:
        self.library = library

    def __del__(self) -> None:
        self.library.released.append(type(self).__name__)


class Context(Counted):
    def __init__(self, library: "Library") -> None:
        super().__init__(library)
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        captured = {work.context for works in self.library.cuda.executables.values() for work in works}
        assert self not in captured, "a graph of this context is still there"
        self.shape = tuple(shape)
        return name == "gray" and "shape" not in self.library.refused

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.library.cuda.device

    def execute_async_v3(self, stream: int) -> bool:
        if "execute" in self.library.refused or (
            "capture" in self.library.refused and stream in self.library.cuda.captures
        ):
            self.library.log.log(Logger.ERROR, "IExecutionContext::enqueueV3: no")
            return False
        if "stream" not in self.library.refused:
            shape, addresses = self.shape, dict(self.addresses)
            work = Work(lambda: self.library.compute(shape, addresses), addresses.values(), self)
            self.library.cuda.enqueue(stream, work)
        return True


class Engine(Counted):
    contexts = 0

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(cuda_graph_strategy="DISABLED")

    def create_execution_context(self, config: Any = None) -> Context | None:
        self.contexts += 1
        if config is not None:
            self.library.strategies.append(config.cuda_graph_strategy)
        refused = "context" in self.library.refused or ("second context" in self.library.refused and self.contexts > 1)
        return None if refused else Context(self.library)


class Runtime(Counted):
    engine_host_code_allowed: bool | None = None

    def __init__(self, library: "Library", log: Any, lean: str | None = None) -> None:
        super().__init__(library)
        library.log = log
        library.leans.append(lean)

    def load_runtime(self, path: str) -> "Runtime | None":
        return None if "lean" in self.library.refused else Runtime(self.library, self.library.log, path)

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        assert self.engine_host_code_allowed is False
        if "engine" in self.library.refused:
            self.library.log.log(Logger.ERROR, "IRuntime::deserializeCudaEngine: version tag does not match")
            return None
        return Engine(self.library)


class Refitter:
    def __init__(self, library: "Library", engine: Engine, log: Any) -> None:
        self.library = library

    def refit_cuda_engine(self) -> bool:
        return "refit" not in self.library.refused


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, log: Any) -> None:
        self.library = refitter.library

    def refit_from_bytes(self, model: bytes) -> bool:
        self.library.refitted.append(model)
        return True


class Library(ModuleType):
    """A flavour's module."""

    def __init__(self, name: str, version: str, cuda: Cuda) -> None:
        super().__init__(name)
        self.__version__ = version
        self.log: Any = None
        """The logger of the runtime made last."""
        self.refused: set[str] = set()
        """Step that fails: engine, context, second context, execute, capture, shape, lean, refit."""
        self.leans: list[str | None] = []
        """Path of the lean runtime, None for the library's own, of each runtime made."""
        self.released: list[str] = []
        self.refitted: list[bytes] = []
        self.strategies: list[str] = []
        """CUDA graph strategy of each context that was given a configuration."""
        self.shapes: list[tuple[int, ...]] = []
        """Of each batch that ran."""
        self.meanwhile: Callable[[], object] = lambda: None
        """Called while the engine computes."""
        self.cuda = cuda
        self.ILogger, self.Runtime = Logger, partial(Runtime, self)
        self.IExecutionContext, self.ICudaEngine = Context, Engine
        self.Refitter, self.OnnxParserRefitter = partial(Refitter, self), OnnxParserRefitter
        self.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE")

    def compute(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        """Compute the output, as the engine does on the device."""
        self.meanwhile()
        self.shapes.append(shape)
        count, _, height, width = shape
        pixels = count * height * width
        floats = ctypes.POINTER(ctypes.c_float)
        source = np.ctypeslib.as_array(ctypes.cast(addresses["gray"], floats), (pixels,)).reshape(shape)
        target = np.ctypeslib.as_array(ctypes.cast(addresses["rgb"], floats), (3 * pixels,))
        target[:] = answer(source).ravel()
