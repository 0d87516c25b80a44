"""OpenVINO on the CPU: runs the same ONNX files as ONNX Runtime, faster."""

import os
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.cores import available_cores
from cgan.errors import UserError
from cgan.extras import needed
from cgan.onnx_file import MOST_BYTES, read_contract
from cgan.spec import ModelSpec
from infer.backends.base import Backend
from infer.backends.ort import SOURCE, TARGET

_DTYPES = threading.Lock()
"""Held for the first lookup of a numpy type in OpenVINO, which must happen before threads run a model.

The first lookup builds a table of Python objects in a static variable of the bindings. A thread that loses Python's
lock while it builds the table deadlocks with a thread that waits for the table; found in OpenVINO 2026.4.
"""


_IMPORT = threading.Lock()


def load_openvino() -> ModuleType:
    """Import openvino with its telemetry disabled.

    On import, openvino sends a client id, its version and a usage count to its vendor and stores them in the home
    folder, unless the environment variable CI is set. A program has no other way to disable this.

    Raises:
        UserError: openvino is not installed.
    """
    with _IMPORT:
        before = os.environ.get("CI")
        os.environ["CI"] = "true"
        try:
            with needed("OpenVINO", "openvino"):
                return import_module("openvino")
        finally:
            if before is None:
                del os.environ["CI"]
            else:
                os.environ["CI"] = before


class OpenVinoBackend(Backend):
    """Runs .onnx files in the precision in which they were verified. Device "cuda" is refused.

    By default OpenVINO computes in bf16 on processors that support it. The gate did not verify the model in bf16, so
    bf16 is a backend of its own: `OpenVinoBf16Backend`.
    """

    most_bytes = MOST_BYTES

    hint = "f32"
    """OpenVINO's name of the precision for all operations that are not quantised."""

    def __init__(self, path: Path, device: str = "auto", threads: int = 0) -> None:
        super().__init__(path, device, threads)
        self._model: Any = None
        self._engine_text = ""
        self._idle: list[Any] = []
        """Idle inference requests; each serves one thread at a time."""
        self._lock = threading.Lock()

    @property
    def engine(self) -> str:
        """Version and precision: "OpenVINO 2026.4.1, CPU, f32"."""
        return self._engine_text

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width of the graph's input, which `read_contract` has checked; None if they are symbolic."""
        return self.spec.fixed_size

    def _activate(self) -> ModelSpec:
        if self.device == "cuda":
            raise UserError(f"{self.path}: found --device cuda, expected cpu or auto; OpenVINO runs on the CPU here")
        spec = read_contract(self._content, self.path)
        openvino = load_openvino()
        with _DTYPES:
            openvino.Type.f32.to_dtype()
        core = openvino.Core()
        try:
            model = core.read_model(self._content)
            self._model = core.compile_model(model, "CPU", self._settings())
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-300:]
            raise UserError(f"{self.path}: OpenVINO cannot load it ({reason}); export the model again") from error
        found = str(self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        if found != self.hint:
            raise UserError(
                f"{self.path}: found OpenVINO computing in {found}, expected {self.hint}, which this processor lacks; "
                "use --backend ort"
            )
        version = openvino.__version__.partition("-")[0]
        self._engine_text = f"OpenVINO {version}, CPU, {self.hint}"
        return spec

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.hint, "ENABLE_CPU_PINNING": False}
        if self.threads:
            # Runs at the same time share a pool that is cut into streams of `threads` threads each.
            cores = available_cores()
            settings["INFERENCE_NUM_THREADS"] = max(cores, self.threads)
            settings["NUM_STREAMS"] = max(1, cores // self.threads)
        return settings

    def _deactivate(self) -> None:
        self._idle.clear()
        self._model = None

    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock:
            request = self._idle.pop() if self._idle else self._model.create_infer_request()
        rgb: NDArray[np.float32] = request.infer({SOURCE: gray})[TARGET]
        with self._lock:
            self._idle.append(request)
        return rgb


class OpenVinoBf16Backend(OpenVinoBackend):
    """The same in bf16: half as long on processors that have it, and not the numbers that the gate compared.

    `cgan-infer parity` and `--check-parity` compare it with the trained model.
    """

    hint = "bf16"
    arithmetic = "bf16"
