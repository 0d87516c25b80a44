"""TensorRT and TensorRT for RTX on an NVIDIA GPU, through one code path.

A plan is executable content, so nothing of it reaches the library before its sidecar vouched for every byte and
the sidecar's build record fits this machine. Host code in a plan is never allowed to run.
"""

import ctypes
import os
import re
import sysconfig
import threading
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from json import dumps, loads
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, ModelSpec, Sidecar, UserError, file_sha256, json_sha256
from infer.backends.base import Backend

SEAL = "seal"
"""Key of the build record under which the digest of the whole sidecar lies."""

LEAN_LIBRARIES = "tensorrt_lean_libs"
"""Package with the lean runtime that loads version compatible engines of an older TensorRT."""


@dataclass(frozen=True)
class Flavour:
    """One of the libraries that build and run engines; their Python modules have the same names in them."""

    module: str
    label: str
    """Its name, for people."""
    oldest: tuple[int, int]
    """Oldest release that works: TensorRT 10.12 is the first where only the types of the network decide."""


FLAVOURS = {
    "tensorrt": Flavour("tensorrt", "TensorRT", (10, 12)),
    "tensorrt-rtx": Flavour("tensorrt_rtx", "TensorRT for RTX", (1, 7)),
}
"""The flavours by the name of the export format, which is also that of the extra to install."""


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver describes it."""

    name: str
    compute_capability: str
    """Such as "8.6"."""


@dataclass(frozen=True)
class Machine:
    """What decides whether an engine runs here."""

    version: str
    """Version of the flavour's module that is installed."""
    gpu: Gpu | None
    platform: str
    """Such as "linux-x86_64"."""


def load_flavour(name: str) -> ModuleType:
    """The module of a flavour.

    Raises:
        UserError: it is not installed, cannot be loaded, or is too old.
    """
    flavour = FLAVOURS[name]
    install = f"install it with pip install 'cgan[{name}]'"
    try:
        module = import_module(flavour.module)
    except ModuleNotFoundError as error:
        raise UserError(f"{flavour.label} needs the package {error.name}; {install}") from error
    except (ImportError, OSError, RuntimeError) as error:  # its shared libraries
        raise UserError(f"{flavour.label} cannot be loaded ({_line(str(error))}); {install}") from error
    if release(module.__version__) < flavour.oldest:
        oldest = ".".join(map(str, flavour.oldest))
        raise UserError(f"found {flavour.label} {module.__version__}, expected {oldest} or newer; {install}")
    return module


def release(version: str) -> tuple[int, int]:
    """Major and minor number of a version such as "10.12.0.36" or of a compute capability."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


@cache
def messages(trt: ModuleType) -> Any:
    """The logger of a flavour. It shows nothing and keeps errors and warnings, for the line of an error.

    One for the whole process, because TensorRT goes on with the first logger that it was given. Call its `clear()`
    before an operation; `reason()` is then why it failed, as one line.
    """

    class Messages(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.clear()

        def clear(self) -> None:
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(_line(text))
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(_line(text))

        def reason(self) -> str:
            calls = [error for error in self.errors if re.match(r"I\w+::", error)]  # what failed, such as IBuilder::
            return (calls or self.errors or [f"{trt.__name__} gave no reason"])[0]

    return Messages()


def _line(text: str) -> str:
    return " ".join(text.split())[:400]


def find_gpu() -> Gpu | None:
    """The first GPU that the NVIDIA driver shows, or None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # ..._MINOR
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def sealed(sidecar: Sidecar) -> Sidecar:
    """The sidecar of an engine with the digest of all of it in the build record; write this one beside the plan."""
    return replace(sidecar, build={**sidecar.build, SEAL: _digest(sidecar)})


def _digest(sidecar: Sidecar) -> str:
    build = {key: value for key, value in sidecar.build.items() if key != SEAL}
    return json_sha256(loads(dumps(replace(sidecar, build=build).to_json())))


def check_sidecar(sidecar: Sidecar | None, plan: Path) -> dict[str, Any]:
    """The build record of the sidecar of a plan.

    Raises:
        UserError: there is no sidecar, it is not that of an engine, or it was changed since its export.
    """
    if sidecar is None:
        raise UserError(
            f"{plan}: found no {plan.name}.json beside it, expected the sidecar that vouches for it; "
            "a plan is executable content, so copy both or export it again"
        )
    found, needed = sidecar.build.get("flavour"), " or ".join(FLAVOURS)
    if found not in FLAVOURS:
        raise UserError(f"{plan}: its sidecar names flavour {found!r}, expected {needed}; export it again")
    expected = _digest(sidecar)
    if sidecar.build.get(SEAL) != expected:
        raise UserError(
            f"{plan}: its sidecar was changed since its export: found seal {str(sidecar.build.get(SEAL))[:16]}..., "
            f"its content has {expected[:16]}...; export the model again"
        )
    return sidecar.build


def check_machine(record: dict[str, Any], machine: Machine, plan: Path) -> None:
    """Refuse an engine that was built for another machine.

    Args:
        record: what `export.engine.build_engine` gave. A compute capability that ends in "+" means any from it on.
        machine: what is here.
        plan: for messages.

    Raises:
        UserError: another TensorRT, platform or compute capability, with what was found and what was needed.
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
    here = release(found)
    if not any(here >= release(of[:-1]) if of.endswith("+") else here == release(of) for of in targets):
        raise UserError(f"{plan}: found {machine.gpu.name} of compute capability {found}, needed {needed}; {again}")


class TrtBackend(Backend):
    """Runs .plan files with the flavour that built them; device "cpu" is refused."""

    def __init__(self, path: Path, device: str = "auto", threads: int = 0) -> None:
        super().__init__(path, device, threads)
        self._record: dict[str, Any] = {}
        self._engine_text = ""
        self._log: Any = None
        self._cuda: Any = None
        self._runtimes: list[Any] = []
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._buffers: dict[str, tuple[int, int]] = {}
        """Address and size in bytes of the device memory of each tensor."""
        self._lock = threading.Lock()  # an execution context serves one thread at a time

    @property
    def engine(self) -> str:
        """Flavour, version and GPU: "TensorRT for RTX 1.7.1.116, NVIDIA GeForce RTX 3090"."""
        return self._engine_text

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width that the engine was built for, None where its profile spans several."""
        low, high = self._profile["min"], self._profile["max"]
        return (low[2], low[3]) if low[2:] == high[2:] else None

    @property
    def batch_range(self) -> tuple[int, int]:
        """Smallest and largest batch that the engine was built for."""
        return self._profile["min"][0], self._profile["max"][0]

    @property
    def _profile(self) -> dict[str, list[int]]:
        profile: dict[str, list[int]] = self._record["profiles"][0]
        return profile

    def _activate(self) -> ModelSpec:
        self._record = check_sidecar(self.sidecar, self.path)
        assert self.sidecar is not None
        if self.device == "cpu":
            raise UserError(f"{self.path}: found --device cpu, expected cuda or auto; a plan runs on an NVIDIA GPU")
        trt = load_flavour(self._record["flavour"])
        machine = Machine(trt.__version__, find_gpu(), sysconfig.get_platform())
        check_machine(self._record, machine, self.path)
        assert machine.gpu is not None
        self._engine_text = f"{FLAVOURS[self._record['flavour']].label} {machine.version}, {machine.gpu.name}"
        if self._record["gpu"] not in (None, machine.gpu.name):
            self.note = f"built on {self._record['gpu']}, found {machine.gpu.name}: one built here may be faster"
        self._cuda = _load_cuda(self._record["flavour"])
        self._log = messages(trt)
        self._log.clear()
        try:
            self._load(trt)
        except BaseException:
            self._deactivate()
            raise
        return self.sidecar.spec

    def _load(self, trt: ModuleType) -> None:
        runtime = trt.Runtime(self._log)
        self._runtimes = [runtime]
        if release(self._record["tensorrt_version"]) != release(trt.__version__):
            runtime = runtime.load_runtime(str(_lean_library(self._record["tensorrt_version"], self.path)))
            self._refuse_none(runtime, "load the lean runtime for it")
            self._runtimes.append(runtime)
        runtime.engine_host_code_allowed = False
        self._engine = runtime.deserialize_cuda_engine(self.path.read_bytes())
        self._refuse_none(self._engine, "load it")
        if self._record["flags"]["strip_weights"]:
            self._refit(trt)
        self._context = self._engine.create_execution_context()
        self._refuse_none(self._context, "prepare it to run")
        # The default stream would wait for all others of the process at each step.
        self._stream = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)

    def _refit(self, trt: ModuleType) -> None:
        """Give a stripped engine the weights of the very ONNX file that it was built from."""
        needed = self._record["onnx_sha256"]
        files = sorted(self.path.parent.glob("*.onnx"))
        onnx_file = next((path for path in files if file_sha256(path) == needed), None)
        if onnx_file is None:
            found = ", ".join(path.name for path in files) or "no ONNX file"
            raise UserError(
                f"{self.path}: its weights were stripped: found {found} beside it, needed the ONNX file it was built "
                f"from (sha256 {needed[:16]}...); copy that there"
            )
        refitter = trt.Refitter(self._engine, self._log)
        parser = trt.OnnxParserRefitter(refitter, self._log)
        fitted = parser.refit_from_file(str(onnx_file)) and refitter.refit_cuda_engine()
        self._refuse_none(fitted or None, f"take its weights from {onnx_file.name}")

    def _refuse_none(self, result: object, deed: str) -> None:
        if result is None:
            raise UserError(
                f"{self.path}: {self._engine_text} cannot {deed} ({self._log.reason()}); "
                f"it was built with {self._record['tensorrt_version']}; build it again for this machine"
            )

    def _deactivate(self) -> None:
        self._context = self._engine = None
        self._runtimes = []  # only after the engine: TensorRT wants each object gone before the one that made it
        buffers, self._buffers = self._buffers, {}
        for address, _ in buffers.values():
            self._call("cudaFree", address)
        stream, self._stream = self._stream, None
        if stream is not None:
            self._call("cudaStreamDestroy", stream)

    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        count, _, height, width = gray.shape
        self._check_profile(count, height, width)
        rgb = np.empty((count, 3, height, width), np.float32)
        source, target = str(INPUT_CONTRACT["name"]), str(OUTPUT_CONTRACT["name"])
        to_device = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        to_host = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        with self._lock:
            gray_address, rgb_address = self._reserve(source, gray.nbytes), self._reserve(target, rgb.nbytes)
            self._call("cudaMemcpyAsync", gray_address, gray.ctypes.data, gray.nbytes, to_device, self._stream)
            self._log.clear()
            started = (
                self._context.set_input_shape(source, gray.shape)
                and self._context.set_tensor_address(source, gray_address)
                and self._context.set_tensor_address(target, rgb_address)
                and self._context.execute_async_v3(int(self._stream))
            )
            if not started:
                raise RuntimeError(f"{self._engine_text} failed on a batch of {count}: {self._log.reason()}")
            self._call("cudaMemcpyAsync", rgb.ctypes.data, rgb_address, rgb.nbytes, to_host, self._stream)
            self._call("cudaStreamSynchronize", self._stream)
        return rgb

    def _check_profile(self, count: int, height: int, width: int) -> None:
        (few, _, *small), (many, _, *large) = self._profile["min"], self._profile["max"]
        if not few <= count <= many:
            raise ValueError(f"expected a batch of {few} to {many}, found {count}")
        if not (small[0] <= height <= large[0] and small[1] <= width <= large[1]):
            raise ValueError(f"expected height and width from {tuple(small)} to {tuple(large)}, found {height, width}")

    def _reserve(self, tensor: str, size: int) -> int:
        """The address of at least `size` bytes of device memory that belong to a tensor."""
        address, reserved = self._buffers.get(tensor, (0, 0))
        if reserved < size:
            if self._buffers.pop(tensor, None):
                self._call("cudaFree", address)
            address = int(self._call("cudaMalloc", size))
            self._buffers[tensor] = address, size
        return address

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call the CUDA runtime and return what it gives beside its status.

        Raises:
            RuntimeError: the status is not success.
        """
        status, *values = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            text = self._cuda.cudaGetErrorString(status)[1].decode()
            raise RuntimeError(f"CUDA failed in {function}: {text} ({status.name})")
        return values[0] if values else None


def _load_cuda(flavour: str) -> ModuleType:
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UserError(f"engines need the package cuda-bindings; pip install 'cgan[{flavour}]'") from error


def _lean_library(version: str, plan: Path) -> Path:
    """The lean runtime that loads version compatible engines of another TensorRT."""
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
