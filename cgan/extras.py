"""Optional packages, with the extra that installs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from cgan.errors import UserError

BUILDS = ("onnxruntime", "onnxruntime-gpu")
"""Packages of ONNX Runtime, for CPUs (extra cpu) and for NVIDIA GPUs (extra gpu); they write the same files."""


@contextmanager
def needed(what: str, extra: str, instead: str = "") -> Iterator[None]:
    """Name the extra to install if an import in the block finds a package missing.

    Args:
        what: the feature that needs the package, for the message: "measuring models".
        extra: the extra of this distribution that installs it: "train".
        instead: another way out: "give an exported model"; empty if there is none.

    Raises:
        UserError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        advice = f"install it with pip install 'cgan[{extra}]'" + (f", or {instead}" if instead else "")
        raise UserError(f"{what} needs the package {error.name}; {advice}") from error


def onnx_runtime() -> ModuleType:
    """Import ONNX Runtime from whichever of its packages is installed.

    Raises:
        UserError: neither is, or both are: the one installed last has replaced parts of the other.
    """
    if all(_installed(build) for build in BUILDS):
        raise UserError(
            f"found {' and '.join(BUILDS)}, which overwrite each other's files, expected one of them; run "
            f"pip uninstall -y {' '.join(BUILDS)}, then pip install 'cgan[cpu]', or 'cgan[gpu]' for an NVIDIA GPU"
        )
    with needed("running models", "cpu", "with an NVIDIA GPU pip install 'cgan[gpu]'"):
        return import_module("onnxruntime")


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
