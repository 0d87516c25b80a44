"""ONNX Runtime, on the CPU or on an NVIDIA GPU."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, ModelSpec, UserError
from infer.backends.base import Backend

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERRORS_ONLY, FATAL_ONLY = 3, 4
"""Log severities of ONNX Runtime."""


class ProviderError(UserError):
    """The provider for the device that was asked for is not here or does not load."""


class OrtBackend(Backend):
    """Runs .onnx files. Device "auto" is cuda where a GPU is present and usable, else cpu, and `note` says why."""

    def __init__(self, path: Path, device: str = "auto", threads: int = 0) -> None:
        super().__init__(path, device, threads)
        self._session: Any = None
        self._version = ""

    @property
    def engine(self) -> str:
        """Version and provider of the session."""
        return f"ONNX Runtime {self._version}, {self._session.get_providers()[0]}"

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width in the graph's input, None where they are symbolic."""
        height, width = self._session.get_inputs()[0].shape[2:]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def _activate(self) -> ModelSpec:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library loads
        import onnxruntime as ort

        self._version = ort.__version__
        device = ("cuda" if gpu_present() else "cpu") if self.device == "auto" else self.device
        try:
            return self._load(ort, device)
        except ProviderError as error:
            if self.device != "auto":
                raise
            self.note = f"{error}; going on with the CPU"
            return self._load(ort, "cpu")

    def _load(self, ort: ModuleType, device: str) -> ModelSpec:
        if device == "cuda":
            if not gpu_present():
                raise ProviderError(
                    "--device cuda: found no NVIDIA GPU or no driver for it here; use --device cpu or auto"
                )
            if hasattr(ort, "preload_dlls"):
                with contextlib.redirect_stdout(sys.stderr):  # it prints; standard output is for our own JSON
                    ort.preload_dlls(directory="")  # CUDA and cuDNN from their Python packages
            ort.set_default_logger_severity(FATAL_ONLY)  # whether the provider loaded is asserted below
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = self.threads
        # Threads that spin between two runs take the cores from decoding and encoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(self.path), options, providers=[PROVIDERS[device]])
        except Exception as error:  # the binding raises its own types, one for each status code
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.path}: ONNX Runtime cannot load it ({reason}); export the model again") from error
        self._assert_provider(device, ort.get_available_providers())
        spec = ModelSpec.from_metadata(self._session.get_modelmeta().custom_metadata_map, self.path)
        names = [i.name for i in self._session.get_inputs()], [o.name for o in self._session.get_outputs()]
        if names != ([INPUT_CONTRACT["name"]], [OUTPUT_CONTRACT["name"]]):
            raise UserError(f"{self.path}: found inputs and outputs {names}, expected gray and rgb; export it again")
        return spec

    def _deactivate(self) -> None:
        self._session = None

    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            rgb: NDArray[np.float32] = self._session.run([OUTPUT_CONTRACT["name"]], {INPUT_CONTRACT["name"]: gray})[0]
        except Exception as error:  # as in _activate
            raise RuntimeError(f"ONNX Runtime failed on a batch of {len(gray)}: {error}") from error
        return rgb

    def _assert_provider(self, device: str, compiled_in: list[str]) -> None:
        """ONNX Runtime falls back to the CPU with no more than a warning; here that is an error."""
        found = self._session.get_providers()[0]
        if found == PROVIDERS[device]:
            return
        self._session = None
        hint = (
            "its CUDA 13 and cuDNN 9 libraries or the driver cannot be loaded"
            if PROVIDERS[device] in compiled_in
            else f"this build of ONNX Runtime has only {', '.join(compiled_in)}"
        )
        raise ProviderError(
            f"{PROVIDERS[device]} is not available ({hint}), found {found}; "
            "install 'onnxruntime-gpu[cuda,cudnn]' and an NVIDIA driver, or use --device cpu"
        )


def gpu_present() -> bool:
    """Whether the NVIDIA driver is installed and shows at least one GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
