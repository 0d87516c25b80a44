"""Engines that run a model, behind one base class; no photos and no folders.

Public: `open_model`, which chooses the backend for a file; `base.Backend`, the interface of all of them; `names`, the
names of devices, backends and providers. One module per engine: `ort`, `trt` (with `flavours` and `slots`), `pytorch`,
`ov`.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from cgan.errors import UserError
from infer.backends.names import AUTO, BackendName, Device

if TYPE_CHECKING:  # so that the commands' --help needs no numpy
    from infer.backends.base import Backend

BACKENDS = {
    BackendName.ORT: "infer.backends.ort:OrtBackend",
    BackendName.TENSORRT: "infer.backends.trt:TrtBackend",
    BackendName.TORCH: "infer.backends.pytorch:TorchBackend",
    BackendName.OPENVINO: "infer.backends.ov:OpenVinoBackend",
    BackendName.OPENVINO_BF16: "infer.backends.ov:OpenVinoBf16Backend",
}
"""Class of each backend, imported when it is needed."""

ARTEFACTS = {
    ".onnx": (BackendName.ORT, BackendName.OPENVINO, BackendName.OPENVINO_BF16),
    ".plan": (BackendName.TENSORRT,),
}
"""Backends for each suffix that cgan-export writes; the first one is the default."""

CHECKPOINT_SUFFIX = ".safetensors"

SOURCES = {
    BackendName.ORT: "an .onnx file",
    BackendName.TENSORRT: "a .plan file",
    BackendName.TORCH: f"a run folder or a {CHECKPOINT_SUFFIX} checkpoint",
    BackendName.OPENVINO: "an .onnx file",
    BackendName.OPENVINO_BF16: "an .onnx file",
}
"""Kind of model that each backend runs, for messages."""


def open_model(
    path: Path,
    device: str = "auto",
    threads: int = 0,
    suffix: str | None = None,
    *,
    backend: str = "auto",
    provider: str | None = None,
) -> "Backend":
    """Return the backend for a model; the model is loaded when the backend is entered as a context.

    Args:
        path: an artefact of cgan-export, or a run folder or checkpoint of cgan-train.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads for one run; 0 leaves the choice to the engine.
        suffix: suffix that stands for the kind of file, for a file under a temporary name.
        backend: "auto", which chooses by the kind of file, or a `BackendName`.
        provider: execution provider of ONNX Runtime, a `Provider`; None chooses by the device.

    Raises:
        UserError: there is no model at `path`, no backend runs this kind of file, or the given backend does not.
    """
    if backend not in (AUTO, *BACKENDS):
        raise UserError(f"backend: found {backend!r}, expected auto or one of {', '.join(BACKENDS)}")
    if device not in list(Device):
        raise UserError(f"device: found {device!r}, expected one of {', '.join(Device)}")
    if threads < 0:
        raise UserError(f"threads: found {threads}, expected 0, which leaves the choice to the engine, or more")
    suited = _backends_for(path, suffix)
    if backend not in (AUTO, *suited):
        raise UserError(
            f"{path}: found {SOURCES[suited[0]]} and --backend {backend}, which runs {SOURCES[BackendName(backend)]}; "
            f"give that, or use --backend {suited[0]}"
        )
    found = suited[0] if backend == AUTO else BackendName(backend)
    if provider is not None and found is not BackendName.ORT:
        raise UserError(
            f"{path}: found --provider {provider} with --backend {found}, expected it with "
            f"{SOURCES[BackendName.ORT]} and --backend ort, which alone has providers; leave --provider out"
        )
    module, name = BACKENDS[found].split(":")
    chosen = {} if provider is None else {"provider": provider}
    opened: Backend = getattr(import_module(module), name)(path, device, threads, **chosen)
    return opened


def _backends_for(path: Path, suffix: str | None) -> tuple[BackendName, ...]:
    """Return the backends that run the model at `path`, the default one first."""
    if path.is_dir() and not (path / "checkpoints").is_dir():
        raise UserError(f"{path}: found a folder that is no run of cgan-train, expected one, or a model of cgan-export")
    if path.is_dir():
        return (BackendName.TORCH,)
    if not path.is_file():
        raise UserError(f"{path}: found no such file, expected a model that cgan-export wrote or a run of cgan-train")
    suffix = (suffix or path.suffix).lower()
    kinds = {**ARTEFACTS, CHECKPOINT_SUFFIX: (BackendName.TORCH,)}
    if suffix not in kinds:
        raise UserError(
            f"{path}: found a {suffix or 'nameless'} file, expected one of {', '.join(kinds)}, or a run folder"
        )
    return kinds[suffix]
