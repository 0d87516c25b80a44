"""TensorRT and TensorRT for RTX on an NVIDIA GPU, through one code path.

A plan is executable content. It is passed to the library only after its sidecar has confirmed the digest of every byte
and the build record in the sidecar matches this machine. Host code in a plan is never allowed to run.
"""

import re
import sysconfig
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from json import dumps, loads
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.errors import UserError
from cgan.files import file_sha256, json_sha256
from cgan.onnx_file import check_self_contained
from cgan.readers import FormatError, typed_field, typed_list
from cgan.spec import ModelSpec, Sidecar
from cgan.text import shown, told_apart
from infer.backends.base import Backend, UnsuitedMachineError
from infer.backends.flavours import FLAVOURS, Gpu, find_gpu, load_flavour, matches, messages, release, runs_on
from infer.backends.slots import Cuda, Slot

SLOTS = 2
"""Number of concurrent runs: while one computes, the other copies."""

SEAL = "seal"
"""Key of the build record that holds the digest of the whole sidecar."""

LEAN_LIBRARIES = "tensorrt_lean_libs"
"""Package with the lean runtime, which loads version-compatible engines of an older TensorRT."""


@dataclass(frozen=True)
class Machine:
    """Properties of this machine that decide which engines run here."""

    version: str
    """Version of the installed flavour."""
    gpu: Gpu | None
    platform: str
    """Such as "linux-x86_64"."""


def sealed(sidecar: Sidecar) -> Sidecar:
    """Return the sidecar of an engine with its own digest in the build record, ready to be written beside the plan."""
    return replace(sidecar, build={**sidecar.build, SEAL: _digest(sidecar)})


def _digest(sidecar: Sidecar) -> str:
    build = {key: value for key, value in sidecar.build.items() if key != SEAL}
    return json_sha256(loads(dumps(replace(sidecar, build=build).to_json())))


def check_sidecar(sidecar: Sidecar | None, plan: Path) -> dict[str, Any]:
    """Return the build record in the sidecar of a plan.

    Raises:
        UserError: the sidecar is missing, does not belong to an engine, or was changed since its export.
    """
    if sidecar is None:
        raise UserError(
            f"{plan}: found no {plan.name}.json beside it, expected the sidecar that verifies it; "
            "a plan is executable content, so copy both or export it again"
        )
    found, needed = sidecar.build.get("flavour"), " or ".join(FLAVOURS)
    if not isinstance(found, str) or found not in FLAVOURS:
        raise UserError(f"{plan}: its sidecar names flavour {shown(found)}, expected {needed}; export it again")
    expected = _digest(sidecar)
    if sidecar.build.get(SEAL) != expected:
        one, other = told_apart(str(sidecar.build.get(SEAL)), expected)
        raise UserError(
            f"{plan}: its sidecar was changed since its export: found seal {one}, its content has {other}; export the "
            "model again"
        )
    try:
        _check_record(sidecar.build)
    except FormatError as error:
        raise UserError(f"{plan}: its sidecar cannot be used ({error}); export the model again") from error
    return sidecar.build


def _check_record(record: dict[str, Any]) -> None:
    """Check the fields of a build record on which the choice of a machine and the size of memory depend.

    Raises:
        FormatError: a field is missing or has another type.
    """
    version = typed_field(record, "tensorrt_version", str)
    targets = typed_list(typed_field(record, "compute_capabilities", list), "compute_capabilities", str)
    for found in (version, *(target.removesuffix("+") for target in targets)):
        if not re.match(r"\d{1,4}\.\d{1,4}(\.|$)", found):
            raise FormatError(f"found the version {shown(found)}, expected one such as 10.12")
    typed_field(record, "platform", str)
    if record.get("gpu", "") is not None:
        typed_field(record, "gpu", str)
    flags = typed_field(record, "flags", dict)
    for name in ("version_compatible", "strip_weights"):
        typed_field(flags, name, bool)
    for profile in typed_list(typed_field(record, "profiles", list), "profiles", dict):
        for name in ("min", "max"):
            shape = typed_list(typed_field(profile, name, list), name, int)
            if len(shape) != 4 or min(shape) < 1:
                raise FormatError(f"found the shape {shown(shape)} in a profile, expected N x 1 x H x W")
    if not record["profiles"]:
        raise FormatError("found no profile, expected at least one")
    typed_field(record, "onnx_sha256", str)


def check_machine(record: dict[str, Any], machine: Machine, plan: Path) -> None:
    """Refuse an engine that was built for another machine.

    Args:
        record: result of `export.engine.build_engine`. A compute capability that ends in "+" includes all higher ones.
        machine: this machine.
        plan: path of the plan, for messages.

    Raises:
        UserError: version, platform or compute capability differ; the message names what was found and needed.
    """
    again = "build it again for this machine"
    built, label = record["tensorrt_version"], FLAVOURS[record["flavour"]].label
    here, then = release(machine.version), release(built)
    if record["flags"]["version_compatible"]:
        fits, needed = here[0] == then[0] and here >= then, f"{then[0]}.{then[1]} or a newer {then[0]}.x"
    else:
        fits, needed = here == then, f"{then[0]}.{then[1]}"
    if not fits:
        raise UserError(f"{plan}: found {label} {machine.version} here, needed {needed} (built with {built}); {again}")
    if record["flavour"] == "tensorrt" and machine.platform != record["platform"]:
        raise UserError(f"{plan}: found platform {machine.platform}, needed {record['platform']}; {again}")
    targets = record["compute_capabilities"]
    needed = f"compute capability {' or '.join(targets)}"
    if machine.gpu is None:
        raise UserError(
            f"{plan}: found no NVIDIA GPU or no driver for it here, needed one of {needed}; run the ONNX file instead"
        )
    found = machine.gpu.compute_capability
    if not runs_on(record["flavour"], machine.gpu):
        raise UserError(
            f"{plan}: found {machine.gpu.name} of compute capability {found}, which {label} does not support; "
            "run the ONNX file, or build with cgan-export --format tensorrt"
        )
    if not matches(found, targets):
        raise UserError(f"{plan}: found {machine.gpu.name} of compute capability {found}, needed {needed}; {again}")


def fits(record: dict[str, Any], gpu: Gpu) -> bool:
    """Return True if an engine with this record runs on the GPU."""
    return runs_on(record["flavour"], gpu) and matches(gpu.compute_capability, record["compute_capabilities"])


class TrtBackend(Backend):
    """Runs .plan files with the flavour that built them; device "cpu" is refused."""

    def __init__(self, path: Path, device: str = "auto", threads: int = 0) -> None:
        super().__init__(path, device, threads)
        self._record: dict[str, Any] = {}
        self._engine_text = ""
        self._log: Any = None
        self._runtimes: list[Any] = []
        self._engine: Any = None
        self._config: Any = None
        self._opened = ExitStack()
        """Closes all slots."""
        self._free: SimpleQueue[Slot] = SimpleQueue()
        """Slots that no run is using."""
        self._graph_failures: list[str] = []

    @property
    def engine(self) -> str:
        """Flavour, version and GPU: "TensorRT for RTX 1.7.1.116, NVIDIA GeForce RTX 3090"."""
        return self._engine_text

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width that the engine was built for, None if its profile spans a range."""
        low, high = self._profile["min"], self._profile["max"]
        return (low[2], low[3]) if low[2:] == high[2:] else None

    @property
    def size_range(self) -> tuple[int, int] | None:
        """Least and largest side of a square within the profile, None if it has one size."""
        low, high = self._profile["min"], self._profile["max"]
        return None if self.fixed_size else (max(low[2:]), min(high[2:]))

    @property
    def batch_range(self) -> tuple[int, int]:
        """Smallest and largest batch that the engine was built for."""
        return self._profile["min"][0], self._profile["max"][0]

    @property
    def on_gpu(self) -> bool:
        """True: engines run only on a GPU."""
        return True

    @property
    def _profile(self) -> dict[str, list[int]]:
        profile: dict[str, list[int]] = self._record["profiles"][0]
        return profile

    def _activate(self) -> ModelSpec:
        self._record = check_sidecar(self.sidecar, self.path)
        assert self.sidecar is not None
        if self.device == "cpu":
            raise UserError(f"{self.path}: found --device cpu, expected cuda or auto; a plan runs on an NVIDIA GPU")
        try:
            trt = load_flavour(self._record["flavour"])
            machine = Machine(trt.__version__, find_gpu(), sysconfig.get_platform())
            check_machine(self._record, machine, self.path)
        except UserError as error:
            raise UnsuitedMachineError(str(error)) from error
        assert machine.gpu is not None
        self._engine_text = f"{FLAVOURS[self._record['flavour']].label} {machine.version}, {machine.gpu.name}"
        if self._record["gpu"] not in (None, machine.gpu.name):
            self._add_note(f"built on {self._record['gpu']}, found {machine.gpu.name}: one built here may be faster")
        cuda = Cuda(extra=self._record["flavour"])
        self._log = messages(trt)
        self._log.clear()
        self._load(trt)
        self._open_slots(trt, cuda)
        return self.sidecar.spec

    def _load(self, trt: ModuleType) -> None:
        runtime = trt.Runtime(self._log)
        self._runtimes = [runtime]
        if release(self._record["tensorrt_version"]) != release(trt.__version__):
            runtime = runtime.load_runtime(str(_lean_library(self._record["tensorrt_version"], self.path)))
            self._refuse_none(runtime, "load the lean runtime for it")
            self._runtimes.append(runtime)
        runtime.engine_host_code_allowed = False
        self._engine = runtime.deserialize_cuda_engine(self._content)
        self._refuse_none(self._engine, "load it")
        if self._record["flags"]["strip_weights"]:
            self._refit(trt)

    def _open_slots(self, trt: ModuleType, cuda: Cuda) -> None:
        own_graphs = FLAVOURS[self._record["flavour"]].own_graphs
        if own_graphs:
            self._config = self._engine.create_runtime_config()
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        for number in range(SLOTS):
            context = self._engine.create_execution_context(*([self._config] if own_graphs else []))
            if context is None and number:
                self._add_note(f"copies do not overlap: no room for another execution context ({self._log.reason()})")
                return
            self._refuse_none(context, "prepare it to run")
            slot = Slot(cuda, context, self._log, not own_graphs, self._note_graph_failure)
            self._opened.callback(slot.close)
            self._free.put(slot)

    def _note_graph_failure(self, reason: str) -> None:
        self._graph_failures.append(reason)
        if len(self._graph_failures) == 1:  # each slot reports its own
            self._add_note(f"runs without CUDA graphs, which failed ({reason})")

    def _refit(self, trt: ModuleType) -> None:
        """Refit a stripped engine with the weights of the ONNX file that it was built from, found by its digest."""
        needed = self._record["onnx_sha256"]
        files = sorted(path for path in self.path.parent.glob("*.onnx") if path.is_file())
        weights = _file_of(needed, files)
        if weights is None:
            found = ", ".join(path.name for path in files) or "no ONNX file"
            raise UserError(
                f"{self.path}: its weights were stripped: found {found} beside it, needed the ONNX file it was built "
                f"from (sha256 {needed[:16]}...); copy that there"
            )
        refitter = trt.Refitter(self._engine, self._log)
        parser = trt.OnnxParserRefitter(refitter, self._log)
        onnx_file, content = weights
        check_self_contained(content, onnx_file)  # the digest does not cover external data
        fitted = parser.refit_from_bytes(content) and refitter.refit_cuda_engine()
        self._refuse_none(fitted or None, f"take its weights from {onnx_file.name}")

    def _refuse_none(self, result: object, deed: str) -> None:
        if result is None:
            raise UserError(
                f"{self.path}: {self._engine_text} cannot {deed} ({self._log.reason()}); "
                f"it was built with {self._record['tensorrt_version']}; build it again for this machine"
            )

    def _deactivate(self) -> None:
        self._free = SimpleQueue()
        self._graph_failures.clear()
        try:
            self._opened.close()
        finally:
            # After the contexts: TensorRT requires objects to be freed before the object that created them.
            self._config = self._engine = None
            self._runtimes = []

    def _check(self, gray: NDArray[np.float32]) -> None:
        super()._check(gray)
        height, width = gray.shape[2:]
        small, large = self._profile["min"][2:], self._profile["max"][2:]
        if not (small[0] <= height <= large[0] and small[1] <= width <= large[1]):
            raise ValueError(f"expected height and width from {tuple(small)} to {tuple(large)}, found {height, width}")

    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        slot = self._free.get()
        try:
            return slot.run(gray)
        finally:
            self._free.put(slot)


def _file_of(digest: str, files: list[Path]) -> tuple[Path, bytes] | None:
    """Return the first file whose content has this SHA-256, with the content."""
    for path in files:
        if file_sha256(path) == digest:
            return path, path.read_bytes()
    return None


def _lean_library(version: str, plan: Path) -> Path:
    """Return the path of the lean runtime, which loads version-compatible engines of another TensorRT."""
    package = find_spec(LEAN_LIBRARIES)
    folders = list(package.submodule_search_locations or []) if package else []
    files = [path for folder in folders for path in Path(folder).glob("*nvinfer_lean*")]
    if not files:
        major, minor = release(version)
        raise UserError(
            f"{plan}: found no lean runtime here, needed that of TensorRT {major}.{minor}, which built it; "
            f"install it with pip install 'tensorrt-lean=={major}.{minor}.*' or build it again for this machine"
        )
    return files[0]
