"""Engines that run an exported model, behind one base class."""

from importlib import import_module
from pathlib import Path

from cgan.spec import UserError
from infer.backends.base import Backend

BACKENDS = {".onnx": "infer.backends.ort:OrtBackend", ".plan": "infer.backends.trt:TrtBackend"}
"""Class that runs a file of this suffix, imported when it is needed."""

DEFAULT_MODEL = Path(__file__).parent.parent / "models" / "flowers.onnx"
"""The model that ships inside the package; models/MODEL_CARD.md says how it was made."""


def open_model(path: Path, device: str = "auto", threads: int = 0, suffix: str | None = None) -> Backend:
    """The backend for a model file; nothing is loaded before it is entered as a context.

    Args:
        path: an artefact of cgan-export.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads for one run; 0 leaves the choice to the engine.
        suffix: kind of file, where its (temporary) name does not say it.

    Raises:
        UserError: no such file, or no backend runs this kind of file.
    """
    if not path.is_file():
        raise UserError(f"{path}: found no such file, expected a model that cgan-export wrote")
    suffix = (suffix or path.suffix).lower()
    if suffix not in BACKENDS:
        raise UserError(f"{path}: found a {suffix or 'nameless'} file, expected one of {', '.join(BACKENDS)}")
    module, name = BACKENDS[suffix].split(":")
    backend: Backend = getattr(import_module(module), name)(path, device, threads)
    return backend
