"""TensorRT and TensorRT for RTX as libraries: which is installed, its messages, and the GPU that the driver shows."""

import ctypes
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from cgan.errors import UserError


@dataclass(frozen=True)
class Flavour:
    """One of the libraries that build and run engines; their Python modules have the same names in them."""

    module: str
    label: str
    """Its name, for people."""
    oldest: tuple[int, int]
    """Oldest release that works: TensorRT 10.12 is the first where only the types of the network decide."""
    gpus: tuple[str, ...] | None = None
    """Compute capabilities of the GPUs that it runs on, see `matches`; None where the library is for all."""
    own_graphs: bool = False
    """Whether the library captures CUDA graphs itself. TensorRT for RTX compiles kernels for a shape while it runs, so
    only it knows when a graph is worth keeping, and its engines cannot be captured from outside unless built so."""


FLAVOURS = {
    "tensorrt": Flavour("tensorrt", "TensorRT", (10, 12)),
    "tensorrt-rtx": Flavour(
        "tensorrt_rtx",
        "TensorRT for RTX",
        (1, 7),
        gpus=("7.5", "8.0", "8.6", "8.9", "12.0+"),  # as 1.7.1 told an H200, which is 9.0
        own_graphs=True,
    ),
}
"""The flavours by the name of the export format, which is also that of the extra to install."""


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver describes it."""

    name: str
    compute_capability: str
    """Such as "8.6"."""


def runs_on(flavour: str, gpu: Gpu) -> bool:
    """Whether a flavour runs on a GPU."""
    gpus = FLAVOURS[flavour].gpus
    return gpus is None or matches(gpu.compute_capability, gpus)


def matches(compute_capability: str, targets: Iterable[str]) -> bool:
    """Whether a compute capability is one of the targets; "8.0+" stands for any from 8.0 on."""
    here = release(compute_capability)
    return any(here >= release(of[:-1]) if of.endswith("+") else here == release(of) for of in targets)


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
