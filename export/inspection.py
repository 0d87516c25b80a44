"""What an artefact is: contract, precision by node type, sizes, how it was verified, and where it can run."""

from pathlib import Path
from typing import Any

from cgan.errors import UserError
from cgan.spec import ModelSpec, read_sidecar
from infer.backends import ARTEFACTS, open_model
from infer.backends.trt import check_sidecar


def inspect_artefact(path: Path) -> dict[str, Any]:
    """Everything that can be told of an ONNX file or an engine on this machine, as JSON values.

    Args:
        path: an artefact of cgan-export.

    Raises:
        UserError: no such file, another kind of file, or one that this project did not write.
    """
    from export.onnx_model import inspect_onnx

    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: found {found}, expected a file that cgan-export wrote")
    if path.suffix.lower() not in ARTEFACTS:
        raise UserError(f"{path}: found a {path.suffix or 'nameless'} file, expected one of {', '.join(ARTEFACTS)}")
    sidecar = read_sidecar(path)
    if path.suffix.lower() == ".plan":
        check_sidecar(sidecar, path)
    facts: dict[str, Any] = {"file": str(path), "bytes": path.stat().st_size}
    spec: ModelSpec | None = sidecar.spec if sidecar else None
    if path.suffix.lower() == ".onnx":
        facts["onnx"] = inspect_onnx(path)
    facts["runs_here"] = {device: _tried(path, device) for device in ("cpu", "cuda")}
    if spec is None:
        with open_model(path, "cpu") as backend:
            spec = backend.spec
    facts["spec"] = spec.to_json()
    facts["verification"] = sidecar.verification if sidecar else "no sidecar beside it: nothing vouches for the file"
    facts["build"] = sidecar.build if sidecar else None
    return facts


def _tried(path: Path, device: str) -> str:
    """What runs the file on a device, or why nothing does."""
    try:
        with open_model(path, device) as backend:
            return backend.engine
    except UserError as error:
        return f"no: {error}"
