"""Facts about an artefact: contract, precision by node type, sizes, verification, and the devices that run it."""

from pathlib import Path
from typing import Any

from cgan.errors import UserError
from cgan.onnx_file import read_contract, read_onnx
from cgan.spec import read_sidecar
from export.choices import DEVICES, ONNX_SUFFIX, PLAN_SUFFIX, Device
from infer.backends import ARTEFACTS, open_model
from infer.backends.trt import check_sidecar


def inspect_artefact(path: Path) -> dict[str, Any]:
    """Return the facts about an ONNX file or an engine that can be found on this machine, as JSON values.

    Args:
        path: an artefact of cgan-export.

    Returns:
        file, bytes; onnx: see `export.onnx_model.inspect_onnx`, for ONNX files only;
        runs_here: for each device the engine that runs the file, or "no: " and the reason;
        spec: the contract;
        verification, build: those of the sidecar.

    Raises:
        UserError: there is no such file, it is of another kind, or this project did not write it.
    """
    from export.onnx_model import inspect_onnx

    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: found {found}, expected a file that cgan-export wrote")
    if path.suffix.lower() not in ARTEFACTS:
        raise UserError(f"{path}: found a {path.suffix or 'nameless'} file, expected one of {', '.join(ARTEFACTS)}")
    sidecar = read_sidecar(path)
    if path.suffix.lower() == PLAN_SUFFIX:
        check_sidecar(sidecar, path)
    facts: dict[str, Any] = {"file": str(path), "bytes": path.stat().st_size}
    if path.suffix.lower() == ONNX_SUFFIX:
        spec = read_contract(read_onnx(path), path)
        facts["onnx"] = inspect_onnx(path)
    else:
        assert sidecar is not None
        spec = sidecar.spec
    facts["runs_here"] = {device: _tried(path, device) for device in DEVICES}
    facts["spec"] = spec.to_json()
    facts["verification"] = sidecar.verification if sidecar else "no sidecar beside it, so not verified"
    facts["build"] = sidecar.build if sidecar else None
    return facts


def _tried(path: Path, device: Device) -> str:
    """Return the engine that runs the file on a device, or "no: " and the reason why none does."""
    try:
        with open_model(path, device) as backend:
            return backend.engine
    except UserError as error:
        return f"no: {error}"
