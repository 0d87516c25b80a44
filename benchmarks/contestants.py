"""Contestants of `python -m benchmarks latency`, named MODEL[@BACKEND[:PROVIDER]]."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.machine import has_bf16
from cgan.errors import UserError
from infer.backends import open_model
from infer.backends.base import Backend
from infer.packaged import DEFAULT_MODEL

PYTORCH = "pytorch"
"""Prefix of the names in `benchmarks.pytorch.WAYS`."""


def open_contestant(name: str, device: str) -> Backend:
    """Return the backend of a contestant, not yet entered.

    Raises:
        UserError: the name stands for nothing that can run.
    """
    path, _, backend = name.partition("@")
    backend, _, provider = backend.partition(":")
    if not backend.startswith(PYTORCH):
        return open_model(Path(path), device, backend=backend or "auto", provider=provider or None)
    try:
        from benchmarks.pytorch import WAYS, open_pytorch
    except ModuleNotFoundError as error:
        raise UserError(f"@{backend}: found no package {error.name}; pip install 'cgan[train,export]'") from error
    if backend not in WAYS:
        raise UserError(f"@{backend}: expected one of {', '.join(WAYS)}")
    if provider:
        raise UserError(f"@{backend}:{provider}: PyTorch has no providers; leave :{provider} out")
    return open_pytorch(Path(path), device, backend)


def check_settings(backends: Iterable[Backend]) -> None:
    """Refuse contestants that need different settings of the whole process.

    Raises:
        UserError: the exact backend "torch" and PyTorch with its own defaults, both on a GPU.
    """
    if {"TorchBackend", "PyTorch"} <= {type(backend).__name__ for backend in backends if backend.on_gpu}:
        raise UserError(
            "found RUN@torch and a model @pytorch on a GPU, where the settings of one slow the other; "
            "time them in two runs"
        )


def labels(names: Iterable[str]) -> dict[str, str]:
    """Return the contestants by label, which is the name without the folders of its path.

    Raises:
        UserError: two contestants have the same label.
    """
    found: dict[str, str] = {}
    for name in names:
        label = Path(name).name
        if label in found:
            raise UserError(f"found {found[label]} and {name}, which tables cannot tell apart; rename one")
        found[label] = name
    return found


def default_contestants() -> list[str]:
    """Return the packaged model on each installed backend that takes it."""
    names = [str(DEFAULT_MODEL)]
    if find_spec("openvino"):
        names += [f"{DEFAULT_MODEL}@openvino", *([f"{DEFAULT_MODEL}@openvino-bf16"] if has_bf16() else [])]
    return names
