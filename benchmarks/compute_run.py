"""Runs of a model on a batch that already lies where the engine reads it, without copies to and from a GPU.

Backends copy with each run, so on a GPU the model is loaded a second time here, on the same device and with the same
settings.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.errors import UserError
from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT
from infer.backends.base import Backend
from infer.backends.ort import PROVIDERS, OrtBackend, provider_settings
from infer.backends.trt import TrtBackend, check_sidecar

Gray = NDArray[np.float32]
SOURCE, TARGET = str(INPUT_CONTRACT["name"]), str(OUTPUT_CONTRACT["name"])


def compute_run(backend: Backend, gray: Gray) -> Callable[[], None]:
    """Return a function that runs the model once on a batch and returns when the engine is done.

    Args:
        backend: entered. On a CPU its own `run` is called, since the engine reads what it is given.
        gray: N x 1 x H x W float32 in [0, 1], a batch that the engine takes as it is.

    Raises:
        UserError: an engine that cannot be loaded a second time.
    """
    if not backend.on_gpu:
        return lambda: _discard(backend.run(gray))
    if isinstance(backend, OrtBackend):
        return _onnx_run(backend, gray)
    if isinstance(backend, TrtBackend):
        return _engine_run(backend, gray)
    return _torch_run(backend, gray)


def _discard(_: object) -> None:
    """Ignore a result."""


def _torch_run(backend: Backend, gray: Gray) -> Callable[[], None]:
    """Run PyTorch on a batch in GPU memory."""
    import torch

    from cgan.networks import GrayToRGB
    from cgan.training.exported import load_network

    network = getattr(backend, "network", None)  # of `benchmarks.pytorch.PyTorch`, which need not be loaded again
    if network is None:
        generator, spec = load_network(backend.path)
        network = GrayToRGB(generator, spec.color_space).eval().to("cuda")
    batch = torch.tensor(gray, device="cuda")

    def run() -> None:
        with torch.inference_mode():
            network(batch)
        torch.cuda.synchronize()

    return run


def _onnx_run(backend: OrtBackend, gray: Gray) -> Callable[[], None]:
    """Run ONNX Runtime with its input and output bound to GPU memory."""
    import onnxruntime as ort

    provider = backend.engine.rpartition(", ")[2]
    (name,) = (name for name, full in PROVIDERS.items() if full == provider)
    settings = provider_settings(name, backend.digest, backend.spec.precision)
    session = ort.InferenceSession(backend.path, providers=[(provider, settings)], enable_fallback=False)
    count, _, height, width = gray.shape
    given = ort.OrtValue.ortvalue_from_numpy(gray, "cuda", 0)
    made = ort.OrtValue.ortvalue_from_shape_and_type([count, 3, height, width], np.float32, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(SOURCE, given)
    binding.bind_ortvalue_output(TARGET, made)
    return lambda: session.run_with_iobinding(binding)  # returns when the device is done


def _engine_run(backend: TrtBackend, gray: Gray) -> Callable[[], None]:
    """Run an engine of TensorRT on buffers of its own, as a CUDA graph."""
    from infer.backends.flavours import FLAVOURS, load_flavour, messages, release
    from infer.backends.slots import Cuda

    build = check_sidecar(backend.sidecar, backend.path)
    trt = load_flavour(build["flavour"])
    if build["flags"]["strip_weights"] or release(build["tensorrt_version"]) != release(trt.__version__):
        raise UserError(
            f"{backend.path}: found an engine without weights or of another TensorRT, whose runs cannot be timed "
            "without copies; use --kind copies"
        )
    cuda, log = Cuda(extra=build["flavour"]), messages(trt)
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(backend.path.read_bytes())
    own_graphs = FLAVOURS[build["flavour"]].own_graphs
    config: list[Any] = []
    if own_graphs:
        config = [engine.create_runtime_config()]
        config[0].cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    context = engine.create_execution_context(*config)
    stream = cuda.call("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking)
    source, target = (cuda.call("cudaMalloc", gray.nbytes * channels) for channels in (1, 3))
    to_device = cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
    cuda.call("cudaMemcpy", source, np.ascontiguousarray(gray).ctypes.data, gray.nbytes, to_device)
    context.set_input_shape(SOURCE, gray.shape)
    context.set_tensor_address(SOURCE, int(source))
    context.set_tensor_address(TARGET, int(target))

    def enqueue() -> None:
        if not context.execute_async_v3(int(stream)):
            raise RuntimeError(f"TensorRT failed on a batch of {len(gray)}: {log.reason()}")

    enqueue()
    cuda.call("cudaStreamSynchronize", stream)
    graph = None if own_graphs else _captured(cuda, stream, enqueue)
    kept = runtime, engine  # as long as the function that is returned

    def run() -> None:
        assert kept
        if graph is None:
            enqueue()
        else:
            cuda.call("cudaGraphLaunch", graph, stream)
        cuda.call("cudaStreamSynchronize", stream)

    return run


def _captured(cuda: Any, stream: Any, enqueue: Callable[[], None]) -> Any:
    """Return the work that `enqueue` puts into a stream as a CUDA graph, None where it cannot be captured."""
    mode = cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    cuda.call("cudaStreamBeginCapture", stream, mode)
    try:
        enqueue()
        return cuda.call("cudaGraphInstantiate", cuda.call("cudaStreamEndCapture", stream), 0)
    except RuntimeError:
        with suppress(RuntimeError):  # the capture may have ended with the failure
            cuda.call("cudaStreamEndCapture", stream)
        return None
