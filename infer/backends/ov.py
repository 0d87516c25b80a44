"""OpenVINO on the CPU, which it serves faster than ONNX Runtime does, from the same ONNX files."""

import os
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.errors import UserError
from cgan.extras import needed
from cgan.onnx_file import check_self_contained
from cgan.spec import ModelSpec
from infer.backends.base import Backend, available_cores
from infer.backends.ort import SOURCE, TARGET, read_contract

_DTYPES = threading.Lock()
"""Held by who asks OpenVINO for a numpy type, which has to happen before threads run a model.

On the first such question its bindings build a table in a function's static variable, from Python objects. A thread
that loses Python's lock while it builds waits for one that waits for the table, for ever; found in OpenVINO 2026.4.
"""


_IMPORT = threading.Lock()


def load_openvino() -> ModuleType:
    """The module openvino, which reports to nobody.

    When it is imported it posts a client id, the version and a count of uses to its vendor and keeps them in the home
    folder, unless the variable CI says that nobody sits here. It has no other switch that a program can set.

    Raises:
        UserError: it is not installed.
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
    """Runs .onnx files in the precision that they were compared in. Device "cuda" is refused.

    Left alone OpenVINO computes in bf16 on processors that have it. That is another model than the one that passed the
    gate, so it has to be asked for: see `OpenVinoBf16Backend`.
    """

    hint = "f32"
    """OpenVINO's name of the precision for everything that the file does not quantise."""

    def __init__(self, path: Path, device: str = "auto", threads: int = 0) -> None:
        super().__init__(path, device, threads)
        self._model: Any = None
        self._engine_text = ""
        self._idle: list[Any] = []
        """Inference requests that no thread is using; each serves one thread at a time."""
        self._lock = threading.Lock()

    @property
    def engine(self) -> str:
        """Version and precision: "OpenVINO 2026.4.1, CPU, f32"."""
        return self._engine_text

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width in the graph's input, None where they are symbolic."""
        height, width = list(self._model.input(0).get_partial_shape())[2:]
        return (height.get_length(), width.get_length()) if height.is_static and width.is_static else None

    def _activate(self) -> ModelSpec:
        if self.device == "cuda":
            raise UserError(f"{self.path}: found --device cuda, expected cpu or auto; OpenVINO runs on the CPU here")
        check_self_contained(self._content, self.path)
        openvino = load_openvino()
        with _DTYPES:
            openvino.Type.f32.to_dtype()
        spec = read_contract(self._content, self.path)
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
