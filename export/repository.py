"""Model repositories of NVIDIA Triton: a folder for each model, which appears whole or not at all.

OUT/NAME/config.pbtxt           see `export.triton_config`
OUT/NAME/1/model.onnx           or model.plan
OUT/NAME/1/model.onnx.json      its sidecar, with the digests of the other two
"""

import errno
import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cgan.errors import GateError, UserError, cannot_write
from cgan.files import OccupiedError, atomic_path, file_sha256, look_at, read_regular, temporary_name
from cgan.readers import SMALL_BYTES, FormatError, parse_json, typed_field
from cgan.spec import Sidecar, read_sidecar, sidecar_path, write_sidecar
from export.artefact import Artefact, ExportOptions, artefact_name, check_verified, existing_onnx, make_onnx
from export.choices import ONNX_SUFFIX, PLAN_SUFFIX, Sizes
from export.triton_config import triton_config
from infer.backends.flavours import FLAVOURS
from infer.backends.trt import check_sidecar, sealed

CONFIG = "config.pbtxt"
VERSION = "1"
"""Folder of the model's only version."""

DIGESTS = "repository"
"""Key of the build record that holds the digests of the files beside the model, by name."""


class _Served(NamedTuple):
    """A verified file, and the batches that a server may put together."""

    artefact: Artefact
    name: str
    batches: Sizes


def make_repository(source: Path, out: Path, options: ExportOptions) -> Artefact:
    """Write a verified model into a model repository.

    Args:
        source: a run or a checkpoint, which is exported to ONNX as `make_onnx` does; or an ONNX file or an engine of
            TensorRT that was exported before.
        out: the repository; created where it is missing.
        options: see ExportOptions; least, preferred and largest batch of ONNX files are the three `batch_sizes`.

    Returns:
        The model's folder, with the sidecar in it.

    Raises:
        UserError: the source cannot be used, or its name in the repository is taken by another model or another
            program's files.
        GateError: the model cannot be exported, or differs from the trained one by more than the tolerance.
    """
    with tempfile.TemporaryDirectory() as folder:
        served = _served(source, options, Path(folder))
        artefact = served.artefact
        target = out / served.name
        options.on_step("publish", str(target))
        try:
            sidecar = _publish(served, target, options.overwrite)
        except OccupiedError as error:
            raise UserError(
                f"{target}: found something else of that name, expected none or an unchanged export of the same "
                "weights; choose another --out, or replace another export with --overwrite"
            ) from error
        except OSError as error:
            raise cannot_write(out, error) from error
    return Artefact(target, sidecar, artefact.notes)


def _served(source: Path, options: ExportOptions, folder: Path) -> _Served:
    """Return the file to serve: the one that the user gave, or an export of the run or checkpoint in `folder`."""
    suffix = source.suffix.lower()
    if suffix == PLAN_SUFFIX:
        return _existing_plan(source, options)
    artefact = existing_onnx(source, options) if suffix == ONNX_SUFFIX else make_onnx(source, folder, options)
    sidecar = artefact.sidecar
    name = artefact_name(sidecar.spec, "onnx", sidecar.build.get("int8_target", options.int8_target))
    least, preferred, most = options.batch_sizes
    return _Served(artefact, name.removesuffix(ONNX_SUFFIX), (least, preferred, most))


def _existing_plan(path: Path, options: ExportOptions) -> _Served:
    """Return an engine of an earlier export, once its sidecar vouches for it and Triton can run it."""
    sidecar = read_sidecar(path) if path.is_file() else None
    record = check_sidecar(sidecar, path)
    assert sidecar is not None
    check_verified(path, sidecar, options)
    if record["flavour"] != "tensorrt":
        raise UserError(
            f"{path}: found an engine of {FLAVOURS[record['flavour']].label}, expected one of TensorRT, which Triton "
            "runs; build it with --format tensorrt"
        )
    if record["flags"]["strip_weights"]:
        raise UserError(f"{path}: found an engine without weights, which Triton cannot run; build it with them")
    shapes = record["profiles"][0]
    least, preferred, most = (shapes[name][0] for name in ("min", "opt", "max"))
    if least != 1:
        raise UserError(f"{path}: found batches of {least} to {most}, expected 1 or more; build it with --batch 1,...")
    notes = [f"the server needs TensorRT {record['tensorrt_version']} and a GPU like the {record['gpu']}"]
    if record["flags"]["version_compatible"]:
        notes.append("start tritonserver with --backend-config=tensorrt,version-compatible=true")
    name = artefact_name(sidecar.spec, "tensorrt", "tensorrt").removesuffix(PLAN_SUFFIX)
    return _Served(Artefact(path, sidecar, tuple(notes)), name, (least, preferred, most))


def _publish(served: _Served, target: Path, overwrite: bool) -> Sidecar:
    """Write the model's folder under a temporary name, then rename it.

    Raises:
        OccupiedError: something else has the name.
    """
    weights = None if overwrite else served.artefact.sidecar.spec.weights_sha256
    _check_own(target, weights)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(temporary_name())
    try:
        sidecar = _write(served, temporary)
        _place(temporary, target, weights)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sidecar


def _write(served: _Served, folder: Path) -> Sidecar:
    """Write all files of a model, and return the sidecar."""
    artefact = served.artefact
    model = folder / VERSION / f"model{artefact.path.suffix.lower()}"
    model.parent.mkdir(parents=True)
    config = triton_config(served.name, artefact.sidecar, served.batches).encode()
    with atomic_path(folder / CONFIG) as path:
        path.write_bytes(config)
    with atomic_path(model) as path:
        shutil.copyfile(artefact.path, path)
        if file_sha256(path) != artefact.sidecar.file_sha256:
            raise GateError(f"{artefact.path}: changed while it was copied; export it again")
    digests = {CONFIG: hashlib.sha256(config).hexdigest()}
    sidecar = replace(artefact.sidecar, build={**artefact.sidecar.build, DIGESTS: digests})
    if model.suffix == PLAN_SUFFIX:
        sidecar = sealed(sidecar)
    write_sidecar(model, sidecar)
    return sidecar


def _place(temporary: Path, target: Path, weights: str | None) -> None:
    """Rename the finished folder. An earlier export is moved aside, checked again, and only then removed."""
    try:
        temporary.rename(target)  # fails if there is a file, or a folder with files
        return
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
    aside = target.with_name(temporary_name())
    target.rename(aside)
    try:
        _check_own(aside, weights)
        temporary.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


def _check_own(folder: Path, weights: str | None) -> None:
    """Check that a folder is missing or empty, or holds an unchanged export and nothing else.

    Args:
        folder: a model's folder.
        weights: digest of the weights that the export must have; None for any.

    Raises:
        OccupiedError: it is anything else.
    """
    try:
        if folder.is_symlink() or (folder.exists() and any(folder.iterdir()) and not _is_own(folder, weights)):
            raise OccupiedError(folder, "another model")
    except (FormatError, NotADirectoryError, FileNotFoundError):
        raise OccupiedError(folder, "something that no export wrote") from None


def _is_own(folder: Path, weights: str | None) -> bool:
    version = folder / VERSION
    models = [version / f"model{suffix}" for suffix in (ONNX_SUFFIX, PLAN_SUFFIX)]
    model = next((path for path in models if path.is_file()), models[0])
    if _names(folder) != {CONFIG, VERSION} or _names(version) != {model.name, sidecar_path(model).name}:
        return False
    values = parse_json(read_regular(sidecar_path(model), SMALL_BYTES) or b"")
    config = typed_field(typed_field(typed_field(values, "build", dict), DIGESTS, dict), CONFIG, str)
    expected = {model: typed_field(values, "file_sha256", str), folder / CONFIG: config}
    found = {path: content.sha256 for path in expected if (content := look_at(path))}
    known = typed_field(typed_field(values, "spec", dict), "weights_sha256", str)
    return found == expected and weights in (None, known)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
