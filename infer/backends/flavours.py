"""TensorRT and TensorRT for RTX: loading the libraries, their messages, and the GPU that the driver reports."""

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
from cgan.extras import needed


@dataclass(frozen=True)
class Flavour:
    """A library that builds and runs engines. The Python modules of all flavours have the same interface."""

    module: str
    label: str
    """Name for messages."""
    oldest: tuple[int, int]
    """Oldest supported release: from TensorRT 10.12 on only the types of the network set the precision."""
    gpus: tuple[str, ...] | None = None
    """Supported compute capabilities, see `matches`; None for all."""
    own_graphs: bool = False
    """True if the library captures CUDA graphs itself. TensorRT for RTX compiles kernels for a shape at run time, so
    only it knows when a graph is final, and its engines cannot be captured from outside by default."""


FLAVOURS = {
    "tensorrt": Flavour("tensorrt", "TensorRT", (10, 12)),
    "tensorrt-rtx": Flavour(
        "tensorrt_rtx",
        "TensorRT for RTX",
        (1, 7),
        gpus=("7.5", "8.0", "8.6", "8.9", "12.0+"),  # from the error of 1.7.1 on an H200, which has 9.0
        own_graphs=True,
    ),
}
"""Flavours by the name of the export format and of the extra to install."""


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as reported by its driver."""

    name: str
    compute_capability: str
    """Such as "8.6"."""


def runs_on(flavour: str, gpu: Gpu) -> bool:
    """Return True if a flavour runs on a GPU."""
    gpus = FLAVOURS[flavour].gpus
    return gpus is None or matches(gpu.compute_capability, gpus)


def matches(compute_capability: str, targets: Iterable[str]) -> bool:
    """Return True if a compute capability is one of the targets; "8.0+" means 8.0 or higher."""
    here = release(compute_capability)
    return any(here >= release(of[:-1]) if of.endswith("+") else here == release(of) for of in targets)


def load_flavour(name: str) -> ModuleType:
    """Import the module of a flavour.

    Raises:
        UserError: the module is not installed, cannot be loaded, or is too old.
    """
    flavour = FLAVOURS[name]
    install = f"install it with pip install 'cgan[{name}]'"
    try:
        with needed(flavour.label, name):
            module = import_module(flavour.module)
    except (ImportError, OSError, RuntimeError) as error:  # its shared libraries
        raise UserError(f"{flavour.label} cannot be loaded ({_line(str(error))}); {install}") from error
    if release(module.__version__) < flavour.oldest:
        oldest = ".".join(map(str, flavour.oldest))
        raise UserError(f"found {flavour.label} {module.__version__}, expected {oldest} or newer; {install}")
    return module


def release(version: str) -> tuple[int, int]:
    """Return major and minor number of a version such as "10.12.0.36" or of a compute capability."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


@cache
def messages(trt: ModuleType) -> Any:
    """Return the logger of a flavour. It prints nothing and collects errors and warnings for error messages.

    There is one per process, because TensorRT keeps using the first logger that it gets. Call `clear()` before an
    operation; `reason()` then returns in one line why the operation failed.
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
    """Return the first GPU that the NVIDIA driver reports, None if there is no driver or no GPU."""
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
