"""Engines that run a model, behind one base class."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from cgan.errors import UserError

if TYPE_CHECKING:  # so that the commands' --help needs no numpy
    from infer.backends.base import Backend

BACKENDS = {
    "ort": "infer.backends.ort:OrtBackend",
    "tensorrt": "infer.backends.trt:TrtBackend",
    "torch": "infer.backends.pytorch:TorchBackend",
    "openvino": "infer.backends.ov:OpenVinoBackend",
    "openvino-bf16": "infer.backends.ov:OpenVinoBf16Backend",
}
"""Classes by the name of the backend, imported when they are needed."""

ARTEFACTS = {".onnx": ("ort", "openvino", "openvino-bf16"), ".plan": ("tensorrt",)}
"""Backends for each kind of file that cgan-export writes, the one that "auto" stands for first."""

CHECKPOINT_SUFFIX = ".safetensors"

SOURCES = {
    "ort": "an .onnx file",
    "tensorrt": "a .plan file",
    "torch": f"a run folder or a {CHECKPOINT_SUFFIX} checkpoint",
    "openvino": "an .onnx file",
    "openvino-bf16": "an .onnx file",
}
"""What each backend runs, for people."""


DEVICES = ("auto", "cpu", "cuda")


def open_model(
    path: Path,
    device: str = "auto",
    threads: int = 0,
    suffix: str | None = None,
    *,
    backend: str = "auto",
    provider: str | None = None,
) -> "Backend":
    """The backend for a model; nothing is loaded before it is entered as a context.

    Args:
        path: an artefact of cgan-export, or a run folder or checkpoint of cgan-train.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads for one run; 0 leaves the choice to the engine.
        suffix: kind of file, where its (temporary) name does not say it.
        backend: "auto", which goes by the kind of file, or one of BACKENDS.
        provider: of ONNX Runtime, one of `infer.backends.ort.PROVIDERS`; None goes by the device.

    Raises:
        UserError: nothing there, no backend runs this kind of file, or not the one that was asked for.
    """
    if backend not in ("auto", *BACKENDS):
        raise UserError(f"backend: found {backend!r}, expected auto or one of {', '.join(BACKENDS)}")
    if device not in DEVICES:
        raise UserError(f"device: found {device!r}, expected one of {', '.join(DEVICES)}")
    if threads < 0:
        raise UserError(f"threads: found {threads}, expected 0, which leaves it to the engine, or more")
    suited = _backends_for(path, suffix)
    if backend not in ("auto", *suited):
        raise UserError(
            f"{path}: found {SOURCES[suited[0]]} and --backend {backend}, which runs {SOURCES[backend]}; "
            f"give that, or use --backend {suited[0]}"
        )
    found = suited[0] if backend == "auto" else backend
    if provider is not None and found != "ort":
        raise UserError(
            f"{path}: found --provider {provider} with --backend {found}, expected it with {SOURCES['ort']} and "
            "--backend ort, whose providers they are; leave --provider out"
        )
    module, name = BACKENDS[found].split(":")
    chosen = {} if provider is None else {"provider": provider}
    opened: Backend = getattr(import_module(module), name)(path, device, threads, **chosen)
    return opened


def _backends_for(path: Path, suffix: str | None) -> tuple[str, ...]:
    """The backends that run what lies at `path`, the usual one first."""
    if path.is_dir() and not (path / "checkpoints").is_dir():
        raise UserError(f"{path}: found a folder that is no run of cgan-train, expected one, or a model of cgan-export")
    if path.is_dir():
        return ("torch",)
    if not path.is_file():
        raise UserError(f"{path}: found no such file, expected a model that cgan-export wrote or a run of cgan-train")
    suffix = (suffix or path.suffix).lower()
    kinds = {**ARTEFACTS, CHECKPOINT_SUFFIX: ("torch",)}
    if suffix not in kinds:
        raise UserError(
            f"{path}: found a {suffix or 'nameless'} file, expected one of {', '.join(kinds)}, or a run folder"
        )
    return kinds[suffix]
