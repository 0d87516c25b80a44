"""ONNX Runtime, on the CPU or on an NVIDIA GPU through one of its providers."""

import contextlib
import re
import sys
import threading
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.errors import UserError
from cgan.extras import onnx_runtime
from cgan.onnx_file import MOST_BYTES, read_contract
from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, ModelSpec, Precision
from cgan.user_folders import cache_folder
from infer.backends.base import Backend
from infer.backends.flavours import find_gpu
from infer.backends.names import Provider

PROVIDERS: dict[str, str] = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.TENSORRT: "TensorrtExecutionProvider",
    Provider.NV_TENSORRT_RTX: "NvTensorRTRTXExecutionProvider",
}
"""ONNX Runtime's name of each provider."""

NEEDS: dict[str, str] = {
    Provider.CUDA: "install 'onnxruntime-gpu[cuda,cudnn]' in place of onnxruntime, and an NVIDIA driver",
    Provider.TENSORRT: (
        "install 'onnxruntime-gpu[cuda,cudnn]' in place of onnxruntime, 'tensorrt-cu13==10.*' and an NVIDIA driver"
    ),
    Provider.NV_TENSORRT_RTX: (
        "export an engine with --format tensorrt-rtx, or install an ONNX Runtime built with this provider"
    ),
}
"""Advice that makes each provider available."""

BOUND = (Provider.CUDA, Provider.TENSORRT)
"""Providers that read and write bound CUDA memory. Builds with NvTensorRTRTX offer no allocator for it in Python."""

SOURCE, TARGET = str(INPUT_CONTRACT["name"]), str(OUTPUT_CONTRACT["name"])

FATAL_ONLY = 4
"""Log severity of ONNX Runtime; its errors are raised too, and it prints what a model file says as it is."""

LONGEST_REASON = 600
"""Most characters of a message of ONNX Runtime; those of its arena name a path and a signature before the cause."""

_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
"""Beginning of ONNX Runtime's messages; its status means nothing to users."""


class ProviderError(UserError):
    """The provider of the requested device is missing or cannot be loaded."""


class OrtBackend(Backend):
    """Runs .onnx files. Device "auto" is cuda if a GPU is present and usable, else cpu with the reason in `note`.

    Args:
        path: the model file.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads for one run; 0 leaves the choice to ONNX Runtime.
        provider: a `Provider`, which is then the only one tried; None chooses by the device.
    """

    most_bytes = MOST_BYTES

    def __init__(self, path: Path, device: str = "auto", threads: int = 0, provider: str | None = None) -> None:
        super().__init__(path, device, threads)
        self.provider = provider
        self._chosen = "cpu"
        self._session: Any = None
        self._version = ""
        self._bindings: dict[tuple[int, ...], list[_Binding]] = {}
        """Idle device buffers by the shape of the batch."""
        self._lock = threading.Lock()

    @property
    def engine(self) -> str:
        """Version and provider of the session."""
        return f"ONNX Runtime {self._version}, {self._session.get_providers()[0]}"

    @property
    def on_gpu(self) -> bool:
        """True if the loaded model runs on a GPU."""
        return self._chosen != "cpu"

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width of the graph's input, which `read_contract` has checked; None if they are symbolic."""
        return self.spec.fixed_size

    def _activate(self) -> ModelSpec:
        wanted = self._wanted()
        spec = read_contract(self._content, self.path)
        ort = onnx_runtime()

        self._version = ort.__version__
        try:
            self._load(ort, wanted or ("cuda" if gpu_present() else "cpu"), spec.precision)
        except ProviderError as error:
            if wanted:
                raise
            self._add_note(f"{error}; going on with the CPU")
            self._load(ort, "cpu", spec.precision)
        return spec

    def _wanted(self) -> str | None:
        """The provider that was asked for by its name or by the device; None leaves the choice."""
        if self.provider is None:
            return None if self.device == "auto" else self.device
        if self.provider not in PROVIDERS:
            raise UserError(f"--provider: found {self.provider}, expected one of {', '.join(PROVIDERS)}")
        if self.device not in ("auto", "cpu" if self.provider == "cpu" else "cuda"):
            raise UserError(
                f"--device {self.device}: found --provider {self.provider}, which does not run there; "
                "leave one of the two out"
            )
        return self.provider

    def _load(self, ort: ModuleType, provider: str, precision: Precision) -> None:
        options, settings = ort.SessionOptions(), {}
        options.log_severity_level = FATAL_ONLY
        ort.set_default_logger_severity(FATAL_ONLY)
        options.intra_op_num_threads = self.threads
        # Threads that spin between two runs take the cores from decoding and encoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider != "cpu":
            self._prepare_gpu(ort, provider)
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            settings = provider_settings(provider, self.digest, precision)
        self._session = _open(ort, self._content, self.path, options, provider, settings)
        self._assert_provider(provider)
        self._chosen = provider

    def _prepare_gpu(self, ort: ModuleType, provider: str) -> None:
        """Refuse a provider that cannot be here, and load the libraries it needs."""
        asked = f"--provider {provider}" if self.provider else f"--device {provider}"
        if not gpu_present():
            raise ProviderError(f"{asked}: found no NVIDIA GPU or no driver for it here; use --device cpu or auto")
        here = ort.get_available_providers()
        if PROVIDERS[provider] not in here:
            raise ProviderError(
                f"{PROVIDERS[provider]} is not available: found {', '.join(here)} in this build of ONNX Runtime; "
                f"{NEEDS[provider]}, or use --device cpu"
            )
        if hasattr(ort, "preload_dlls"):
            with contextlib.redirect_stdout(sys.stderr):  # it prints, and standard output is reserved for JSON
                ort.preload_dlls(directory="")  # CUDA and cuDNN from their Python packages
        if provider == "tensorrt":
            with contextlib.suppress(ImportError, OSError, RuntimeError):
                import_module("tensorrt")  # loads the libraries in its package, which the dynamic loader does not find

    def _assert_provider(self, provider: str) -> None:
        """Check that no node runs on another provider; ONNX Runtime only warns when it falls back to the CPU.

        Raises:
            ProviderError: the provider is not available, or leaves nodes to the CPU.
        """
        wanted = PROVIDERS[provider]
        found = self._session.get_providers()[0]
        if found != wanted:
            raise ProviderError(
                f"{wanted} is not available (its libraries or the driver cannot be loaded), found {found}; "
                f"{NEEDS[provider]}, or use --device cpu"
            )
        # Releases before 1.24 do not report the assignment of nodes.
        if provider != "cpu" and hasattr(self._session, "get_provider_graph_assignment_info"):
            parts = self._session.get_provider_graph_assignment_info()
            elsewhere = Counter(node.op_type for part in parts if part.ep_name != wanted for node in part.get_nodes())
            if elsewhere:
                raise ProviderError(
                    f"{self.path}: {wanted} leaves nodes to the CPU: found {dict(elsewhere)}, expected none; "
                    "use another --provider or --device cpu"
                )

    def _deactivate(self) -> None:
        self._bindings.clear()
        self._session = None

    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            if self._chosen in BOUND:
                return self._run_bound(gray)
            rgb: NDArray[np.float32] = self._session.run([TARGET], {SOURCE: gray})[0]
        except Exception as error:  # as in _load
            raise RuntimeError(f"ONNX Runtime failed on a batch of {len(gray)}: {_reason(error)}") from error
        return rgb

    def _run_bound(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run on device buffers, kept for later batches of this shape; each serves one thread at a time."""
        with self._lock:
            free = self._bindings.get(gray.shape)
            binding = free.pop() if free else None
        try:
            binding = binding or _Binding(self._session, gray.shape)
            rgb = binding.run(gray)
        except Exception:
            with self._lock:
                self._bindings.clear()  # frees memory for a smaller batch
            raise
        with self._lock:
            self._bindings.setdefault(gray.shape, []).append(binding)
        return rgb


class _Binding:
    """Device buffers for batches of one shape, bound to the input and output of a session."""

    def __init__(self, session: Any, shape: tuple[int, ...]) -> None:
        ort = onnx_runtime()
        count, _, height, width = shape
        make = ort.OrtValue.ortvalue_from_shape_and_type
        self.session = session
        self.gray = make(list(shape), np.float32, "cuda", 0)
        self.rgb = make([count, 3, height, width], np.float32, "cuda", 0)
        self.binding = session.io_binding()
        self.binding.bind_ortvalue_input(SOURCE, self.gray)
        self.binding.bind_ortvalue_output(TARGET, self.rgb)

    def run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        """Copy the batch to the device, run, and copy the result back."""
        self.gray.update_inplace(gray)
        self.session.run_with_iobinding(self.binding)  # returns when the device is done
        rgb: NDArray[np.float32] = self.rgb.numpy()
        return rgb


def provider_settings(provider: str, digest: str, precision: Precision) -> dict[str, str]:
    """Return the options of a GPU provider for a model.

    Args:
        provider: a key of PROVIDERS.
        digest: digest of the file, for the cache of its engines.
        precision: precision of the file.
    """
    if provider == Provider.NV_TENSORRT_RTX:
        return {"nv_runtime_cache_path": str(engine_cache(digest, provider))}
    if provider == Provider.CUDA:
        # The gate verified fp32 without TF32. For fp16, disabling TF32 would only keep cuDNN off tensor cores;
        # benchmarks/results/latency-h200-no-tf32.json has the measurement.
        return {"use_tf32": str(int(precision == "fp16"))}
    folder = str(engine_cache(digest, provider))
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
        # The provider builds weakly typed networks, in which half precision and integers must be enabled.
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
    }


def _open(ort: ModuleType, content: bytes, path: Path, options: Any, provider: str, settings: dict[str, str]) -> Any:
    """Return a session on a provider with a model loaded from memory."""
    try:
        # With enable_fallback the CPU would silently replace a provider that fails, now or in a run.
        return ort.InferenceSession(
            content, options, providers=[(PROVIDERS[provider], settings)], enable_fallback=False
        )
    except Exception as error:  # the bindings raise a type per status code
        reason = _reason(error)
        if provider == "cpu":
            raise UserError(
                f"{path}: no ONNX model that ONNX Runtime {ort.__version__} can load, or a damaged one ({reason}); "
                "export the model again"
            ) from error
        raise ProviderError(
            f"{path}: {PROVIDERS[provider]} cannot load it ({reason}); {NEEDS[provider]}, or use --device cpu"
        ) from error


def _reason(error: Exception) -> str:
    """Return the message of an error of ONNX Runtime in one line, without its status."""
    return _STATUS.sub("", " ".join(str(error).split()))[:LONGEST_REASON]


def gpu_present() -> bool:
    """Return True if the NVIDIA driver is installed and shows at least one GPU."""
    return find_gpu() is not None


def engine_cache(digest: str, provider: str) -> Path:
    """Return the folder for a provider's engines of the model with this SHA-256, below `cache_folder()`.

    Engines are executable content, so only the user may write there.

    Raises:
        UserError: the folder cannot be created.
    """
    folder = cache_folder() / "engines" / provider / digest
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot keep engines there ({error}); make it writable or set CGAN_CACHE to another folder"
        ) from error
    return folder
