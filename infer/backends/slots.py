"""Slots: resources for one run of an engine (context, stream, pinned and device buffers, CUDA graph)."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.extras import needed
from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT

SOURCE, TARGET = str(INPUT_CONTRACT["name"]), str(OUTPUT_CONTRACT["name"])

FLOAT_BYTES = 4


class Cuda:
    """The CUDA runtime through cuda-bindings.

    Args:
        extra: extra to name in the error if the package is missing.

    Raises:
        UserError: cuda-bindings is not installed.
    """

    def __init__(self, extra: str) -> None:
        with needed("running engines", extra):
            self.api: Any = import_module("cuda.bindings.runtime")

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function and return its result without the status.

        Raises:
            RuntimeError: the status is not success.
        """
        status, *values = getattr(self.api, function)(*arguments)
        if status != self.api.cudaError_t.cudaSuccess:
            text = self.api.cudaGetErrorString(status)[1].decode()
            raise RuntimeError(f"CUDA failed in {function}: {text} ({status.name})")
        return values[0] if values else None

    @contextmanager
    def reserving(self) -> Iterator[None]:
        """Allow this thread to allocate and free memory while another thread captures a graph, as TensorRT for RTX may.

        By default CUDA prohibits this, because it can invalidate a capture in global mode.
        """
        relaxed = self.api.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        before = self.call("cudaThreadExchangeStreamCaptureMode", relaxed)
        try:
            yield
        finally:
            self.call("cudaThreadExchangeStreamCaptureMode", before)


class Slot:
    """Runs batches one after another on its own stream, so that two slots overlap copies with computation.

    Batches are copied through page-locked memory, which makes copies fast and asynchronous. Buffers grow with the
    batches and are kept.

    Args:
        cuda: the runtime.
        context: an execution context of TensorRT for this slot alone.
        log: logger of the flavour, see `infer.backends.flavours.messages`.
        graphs: whether to capture and replay the engine's work for a batch shape as a CUDA graph.
        on_graph_failure: called once with the reason if capture fails; the slot then runs without graphs.
    """

    def __init__(
        self, cuda: Cuda, context: Any, log: Any, graphs: bool, on_graph_failure: Callable[[str], None]
    ) -> None:
        self._cuda = cuda
        self._context = context
        self._log = log
        self._graphs = graphs
        self._on_graph_failure = on_graph_failure
        self._shape: tuple[int, ...] | None = None
        """Shape of the batches that the context is set up for."""
        self._graph: Any = None
        """Captured graph for batches of `_shape`."""
        self._pinned: dict[str, tuple[int, int]] = {}
        self._device: dict[str, tuple[int, int]] = {}
        """Address and size in bytes of the memory of each tensor."""
        # The default stream synchronises with all other streams of the process.
        self._stream = cuda.call("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking)

    def run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        """Colour a batch. Only one thread may call this at a time.

        Args:
            gray: N x 1 x H x W float32, contiguous.

        Returns:
            N x 3 x H x W float32.

        Raises:
            RuntimeError: the engine or CUDA failed, or memory ran out; the buffers are then freed.
        """
        try:
            return self._run(gray)
        except (RuntimeError, MemoryError):
            with suppress(RuntimeError):  # the first failure is the one to report
                self._cuda.call("cudaStreamSynchronize", self._stream)  # nothing may still use the buffers
                self._drop_buffers()
            raise

    def close(self) -> None:
        """Release everything; TensorRT requires the context to go first."""
        self._drop_graph()
        self._context = None
        self._drop_buffers()
        stream, self._stream = self._stream, None
        if stream is not None:
            self._cuda.call("cudaStreamDestroy", stream)

    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        if gray.shape != self._shape:
            self._set_up(gray.shape)
        count, _, height, width = gray.shape
        host_gray, host_rgb = (
            self._pinned_array(SOURCE, gray.shape),
            self._pinned_array(TARGET, (count, 3, height, width)),
        )
        kinds = self._cuda.api.cudaMemcpyKind
        host_gray[...] = gray
        self._copy(self._device[SOURCE][0], self._pinned[SOURCE][0], gray.nbytes, kinds.cudaMemcpyHostToDevice)
        self._compute(count)
        self._copy(self._pinned[TARGET][0], self._device[TARGET][0], host_rgb.nbytes, kinds.cudaMemcpyDeviceToHost)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        rgb = host_rgb.copy()
        if self._graphs and self._graph is None:
            self._capture(count)
        return rgb

    def _compute(self, count: int) -> None:
        """Enqueue the engine's work on the batch in device memory."""
        if self._graph is None:
            self._enqueue(count)
        else:
            self._cuda.call("cudaGraphLaunch", self._graph, self._stream)

    def _set_up(self, shape: tuple[int, ...]) -> None:
        """Allocate memory for batches of a shape and set the shape in the context."""
        # A graph is valid only for the state of the context at its capture.
        self._drop_graph()
        self._shape = None
        count, _, height, width = shape
        with self._cuda.reserving():
            for tensor, channels in ((SOURCE, 1), (TARGET, 3)):
                size = FLOAT_BYTES * count * channels * height * width
                self._reserve(self._pinned, tensor, size, "cudaMallocHost", "cudaFreeHost")
                self._reserve(self._device, tensor, size, "cudaMalloc", "cudaFree")
        self._log.clear()
        accepted = (
            self._context.set_input_shape(SOURCE, shape)
            and self._context.set_tensor_address(SOURCE, self._device[SOURCE][0])
            and self._context.set_tensor_address(TARGET, self._device[TARGET][0])
        )
        self._refuse_failure(accepted, count)
        self._shape = shape

    def _enqueue(self, count: int) -> None:
        self._log.clear()
        self._refuse_failure(self._context.execute_async_v3(int(self._stream)), count)

    def _refuse_failure(self, accepted: bool, count: int) -> None:
        if not accepted:
            raise RuntimeError(f"TensorRT failed on a batch of {count}: {self._log.reason()}")

    def _capture(self, count: int) -> None:
        """Keep the engine's work on batches of this shape as a graph; a plain run has just warmed it up."""
        cuda = self._cuda
        graph: Any = None
        try:
            # Only this thread's calls count: another slot may reserve memory meanwhile.
            mode = cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            cuda.call("cudaStreamBeginCapture", self._stream, mode)
            try:
                self._enqueue(count)
            except RuntimeError:
                graph = cuda.api.cudaStreamEndCapture(self._stream)[-1]  # it has failed too, and says less
                raise
            graph = cuda.call("cudaStreamEndCapture", self._stream)
            if not cuda.api.cudaGraphGetNodes(graph)[-1]:
                raise RuntimeError("the graph is empty")  # the engine ran on another stream or device
            self._graph = cuda.call("cudaGraphInstantiate", graph, 0)
        except RuntimeError as error:
            self._graphs = False
            cuda.api.cudaGetLastError()  # or the engine's next call would find this failure
            self._on_graph_failure(str(error))
        finally:
            if graph is not None:
                cuda.call("cudaGraphDestroy", graph)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._cuda.call("cudaMemcpyAsync", target, source, size, kind, self._stream)

    def _pinned_array(self, tensor: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the page-locked memory of a tensor as an array."""
        floats = (ctypes.c_float * prod(shape)).from_address(self._pinned[tensor][0])
        array: NDArray[np.float32] = np.ctypeslib.as_array(floats).reshape(shape)
        return array

    def _reserve(
        self, buffers: dict[str, tuple[int, int]], tensor: str, size: int, allocate: str, release: str
    ) -> None:
        """Ensure a buffer of at least `size` bytes for a tensor."""
        address, reserved = buffers.get(tensor, (0, 0))
        if reserved < size:
            if buffers.pop(tensor, None):
                self._cuda.call(release, address)
            buffers[tensor] = int(self._cuda.call(allocate, size)), size

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self._cuda.call("cudaGraphExecDestroy", graph)

    def _drop_buffers(self) -> None:
        """Free all memory; the stream must be idle."""
        self._drop_graph()
        self._shape = None
        with self._cuda.reserving():
            for buffers, release in ((self._pinned, "cudaFreeHost"), (self._device, "cudaFree")):
                while buffers:
                    _, (address, _) = buffers.popitem()
                    self._cuda.call(release, address)
