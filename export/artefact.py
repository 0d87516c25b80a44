"""From a run or checkpoint to a verified artefact under its final name, or to nothing at all."""

import shutil
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cgan.errors import ChangedFileError, GateError, UserError
from cgan.files import file_sha256
from cgan.spec import ModelSpec, Sidecar, read_sidecar, sidecar_path, write_sidecar
from cgan.training.checkpoint import held_out_photos, load_checkpoint, made_of
from export.calibration import calibration_batches, with_sharper_copies
from export.engine import EngineOptions, Progress, build_engine, find_builder
from export.onnx_model import export_onnx, inspect_onnx
from export.preflight import check_model
from export.publish import Publication, publishing
from export.quantize import quantize_int8
from export.verify import Reference, Tolerance, checkpoint_reference, natural_images, onnx_reference, verify
from infer.backends import open_model
from infer.backends.flavours import FLAVOURS, Gpu, find_gpu, runs_on
from infer.backends.trt import fits, sealed

COMPARED_PHOTOS = 64
"""Photos of a calibration folder on which an artefact is compared; those that calibrate int8 come from the other end
of the same random order, so only a folder smaller than both lends a photo to both."""

FEW_PHOTOS = 32
"""With fewer photos to calibrate int8 the worst outputs get worse; see `export.calibration.DEFAULT_LIMIT`."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to make, and what it is held to."""

    precision: str = "fp32"
    int8_target: str = "cpu"
    """Engine whose int8 kernels the quantisation suits, "cpu" or "tensorrt"."""
    dynamic_size: bool = False
    calibration: Path | None = None
    """Folder of photos for int8 and for the comparison."""
    batch_sizes: tuple[int, ...] = (1, 3, 8)
    """Photos in each batch of the comparison."""
    tolerance: Tolerance | None = None
    """Limits of the comparison; those it leaves open are the precision's own."""
    verify: bool = True
    keep_failed: bool = False
    overwrite: bool = False
    """Whether an artefact of other weights is replaced."""


@dataclass(frozen=True)
class Artefact:
    """A file that was written, with its sidecar."""

    path: Path
    sidecar: Sidecar
    notes: tuple[str, ...] = ()
    """What a user should know of how it was made."""


def make_onnx(source: Path, out: Path, options: ExportOptions) -> Artefact:
    """Export SOURCE as ONNX; the file takes its name only after it was compared with the trained model.

    Args:
        source: a run folder or a checkpoint.
        out: folder for the artefact; made where it is missing.
        options: see ExportOptions.

    Raises:
        UserError: a source or a calibration folder that cannot be used.
        GateError: the model cannot be exported, or the artefact differs from it by more than the tolerance.
    """
    if options.precision == "int8" and options.calibration is None:
        raise UserError(
            "--precision int8: found no --calibration FOLDER, expected photos like those that the model will colour"
        )
    generator, spec, record = load_checkpoint(source)
    created = {**spec.created_with, **{name: version(name) for name in ("onnx", "onnxscript")}}
    if options.precision == "int8":
        created["onnxruntime"] = onnxruntime.__version__  # from the package or from its GPU build
    spec = replace(spec, precision=options.precision, dynamic_size=options.dynamic_size, created_with=created)
    photos, notes = comparison_photos(source, spec, options.calibration)
    if record.note:
        notes = (record.note, *notes)
    check_model(generator, natural_images(8, spec.render_size, 0) if photos is None else photos, spec.precision)
    target = out / artefact_name(spec, "onnx", options.int8_target)
    with _publishing(target, spec, options) as publication:
        temporary = publication.temporary
        build: dict[str, Any] = {"checkpoint": record.to_json()}
        if spec.precision == "int8":
            with tempfile.TemporaryDirectory() as folder:
                full = Path(folder) / "fp32.onnx"
                export_onnx(generator, replace(spec, precision="fp32"), full)
                assert options.calibration is not None
                calibration = calibration_batches(options.calibration, spec.render_size)
                shown = with_sharper_copies(calibration.gray, spec.input_blur > 0)
                quantize_int8(full, spec, shown, options.int8_target, temporary)
                notes = (*notes, *(f"{path}: not calibrated on, {reason}" for path, reason in calibration.failures))
                count = len(calibration.photos)
                build |= {"int8_target": options.int8_target, "calibration_photos": count}
                if count < FEW_PHOTOS:
                    notes = (*notes, f"int8 was calibrated on {count} photos; {FEW_PHOTOS} or more clip less")
        else:
            export_onnx(generator, spec, temporary)
        # The checkpoint as it lies on disk now: one that changed meanwhile is not what was exported.
        reference = checkpoint_reference(record.path) if options.verify else None
        numbers = _compared(temporary, reference, photos, options, target.name)
        sidecar = Sidecar(
            spec=spec,
            file_sha256=file_sha256(temporary),
            verification=numbers,
            build={**build, "onnx": inspect_onnx(temporary)},
        )
        publication.vouch_for(sidecar)
    return Artefact(target, sidecar, notes)


def make_engine(
    source: Path,
    out: Path,
    options: ExportOptions,
    engine: EngineOptions,
    on_progress: Progress | None = None,
) -> Artefact:
    """Build a TensorRT engine from a run, a checkpoint, or an ONNX file of this project.

    The ONNX file it is made from is compared with the trained model first. The engine itself is compared where a GPU
    can run it; where none is, its sidecar says so.

    Args:
        source: a run folder, a checkpoint or an ONNX file with its sidecar.
        out: folder for the plan; made where it is missing.
        options: see ExportOptions; of an ONNX file the precision is its own.
        engine: how to build.
        on_progress: called with (phase, steps done, steps in all).

    Raises:
        UserError: a source that cannot be used, or a builder that is not here.
        GateError: the model cannot be exported, or a file differs from it by more than the tolerance.
    """
    find_builder(engine)  # before the minutes that the export may take
    with tempfile.TemporaryDirectory() as folder:
        if source.suffix.lower() == ".onnx":
            made = _existing_onnx(source, options)
        else:
            made = make_onnx(source, Path(folder), replace(options, int8_target="tensorrt", keep_failed=False))
        onnx, sidecar, notes = made.path, made.sidecar, made.notes
        target = out / artefact_name(sidecar.spec, engine.flavour, "tensorrt")
        with _publishing(target, sidecar.spec, options) as publication:
            temporary = publication.temporary
            record = build_engine(onnx, sidecar.spec, engine, temporary, on_progress)
            if record["onnx_sha256"] != sidecar.file_sha256:
                raise GateError(f"{onnx}: changed while the engine was built from it; build it again")
            record["checkpoint"] = sidecar.build.get("checkpoint")
            gpu = find_gpu()
            reason = _why_not_compared(record, gpu) if options.verify else "--no-verify"
            numbers = {
                "verified": False,
                "reason": f"not verified: {reason or 'not yet'}",
                "onnx": sidecar.verification,
            }
            voucher = sealed(
                Sidecar(spec=sidecar.spec, file_sha256=file_sha256(temporary), verification=numbers, build=record)
            )
            if reason is None:
                reference = onnx_reference(onnx) if onnx == source else checkpoint_reference(_source_of(made, source))
                photos, unread = comparison_photos(source, sidecar.spec, options.calibration)
                notes = tuple(dict.fromkeys((*notes, *unread)))
                weights = onnx if engine.strip_weights else None
                found = _verified_on_gpu(temporary, target.name, weights, reference, photos, voucher, options)
                numbers = {**found, "onnx": sidecar.verification}
                voucher = sealed(replace(voucher, verification=numbers))
            if engine.strip_weights and onnx.parent.resolve() != out.resolve():
                # The loader refits the weights from this file, which it looks for beside the plan.
                with _publishing(out / onnx.name, sidecar.spec, options) as copy:
                    _copy_weights(onnx, sidecar, copy)
                notes = (*notes, f"{out / onnx.name} holds its weights: keep it beside the plan")
            publication.vouch_for(voucher)
    return Artefact(target, voucher, notes)


def _why_not_compared(record: dict[str, Any], gpu: Gpu | None) -> str | None:
    """What keeps an engine with this record from running here, None where a GPU can run it."""
    if gpu is None:
        return "no GPU here"
    if fits(record, gpu):
        return None
    if runs_on(record["flavour"], gpu):
        return f"built for other GPUs than the {gpu.name} here"
    return f"{FLAVOURS[record['flavour']].label} does not run on {gpu.name}"


def compare(artefact: Path, source: Path, options: ExportOptions) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Compare an existing artefact with SOURCE, a run or checkpoint; the numbers, as `verify` gives them, and notes.

    Of a run it is the checkpoint that the artefact was made of, and the best one if it was made of none.

    Raises:
        UserError: a source or an artefact that cannot be used.
        GateError: the artefact differs from the trained model by more than the tolerance.
    """
    try:
        sidecar = read_sidecar(artefact) if artefact.is_file() else None
    except ChangedFileError as error:
        raise GateError(str(error)) from error
    reference = checkpoint_reference(made_of(source, sidecar.spec.weights_sha256 if sidecar else None))
    photos, notes = comparison_photos(source, reference.spec, options.calibration)
    device = "cuda" if artefact.suffix.lower() == ".plan" else "cpu"
    return verify(artefact, reference, photos, options.tolerance, options.batch_sizes, device=device), notes


def comparison_photos(
    source: Path, spec: ModelSpec, calibration: Path | None
) -> tuple[NDArray[np.float32] | None, tuple[str, ...]]:
    """Photos to compare on, N x 1 x size x size: of the calibration folder, else the run's held-out ones, else None.

    With them come notes on photos of the folder that cannot be read.
    """
    if calibration:
        chosen = calibration_batches(calibration, spec.render_size, COMPARED_PHOTOS, from_end=True)
        notes = (f"{path}: not compared, {reason}" for path, reason in chosen.failures)
        return chosen.gray, tuple(notes)
    return (held_out_photos(source, spec.render_size) if source.suffix.lower() != ".onnx" else None), ()


def artefact_name(spec: ModelSpec, format_: str, int8_target: str) -> str:
    """File name that says model, colour space, size and precision: unet-w32-rgb-128-fp32.onnx."""
    size = f"{spec.render_size}{'-dynamic' if spec.dynamic_size else ''}"
    precision = f"{spec.precision}-{int8_target}" if spec.precision == "int8" and format_ == "onnx" else spec.precision
    ending = ".onnx" if format_ == "onnx" else f"-{format_}.plan"
    blocks = f"b{spec.blocks}" if spec.blocks > 1 else ""
    return f"{spec.model}-w{spec.base_width}{blocks}-{spec.color_space}-{size}-{precision}{ending}"


def _compared(
    artefact: Path, reference: Reference | None, photos: NDArray[np.float32] | None, options: ExportOptions, name: str
) -> dict[str, Any]:
    if reference is None:
        return {"verified": False, "reason": "not verified: --no-verify"}
    return verify(artefact, reference, photos, options.tolerance, options.batch_sizes, name=name)


def _existing_onnx(path: Path, options: ExportOptions) -> Artefact:
    """An ONNX file of an earlier export, once its sidecar vouches for it."""
    with open_model(path, "cpu") as backend:
        sidecar = backend.sidecar
    if sidecar is None:
        raise UserError(f"{path}: found no sidecar beside it, expected {sidecar_path(path).name}; export it again")
    if options.verify and not sidecar.verification.get("verified"):
        raise UserError(
            f"{path}: found it {sidecar.verification.get('reason', 'not verified')}, expected one that was compared "
            "with its model; export it again, or build from it with --no-verify"
        )
    return Artefact(path, sidecar)


def _publishing(target: Path, spec: ModelSpec, options: ExportOptions) -> AbstractContextManager[Publication]:
    return publishing(target, spec, options.overwrite, options.keep_failed)


def _source_of(made: Artefact, source: Path) -> Path:
    """The checkpoint of a run that an artefact was just made of."""
    return made_of(source, made.sidecar.spec.weights_sha256)


def _copy_weights(onnx: Path, sidecar: Sidecar, copy: Publication) -> None:
    """Copy the ONNX file that an engine takes its weights from, once it is the one that the sidecar vouches for."""
    shutil.copyfile(onnx, copy.temporary)
    if file_sha256(copy.temporary) != sidecar.file_sha256:
        raise GateError(f"{onnx}: changed while the engine was built from it; build it again")
    copy.vouch_for(sidecar)


def _verified_on_gpu(
    plan: Path,
    name: str,
    weights: Path | None,
    reference: Reference,
    photos: NDArray[np.float32] | None,
    voucher: Sidecar,
    options: ExportOptions,
) -> dict[str, Any]:
    """The plan compared on this machine's GPU.

    An engine is only ever loaded with a sidecar beside it, and one without weights with the ONNX file that has them.
    """

    def compared(file: Path) -> dict[str, Any]:
        write_sidecar(file, voucher)
        try:
            return verify(file, reference, photos, options.tolerance, options.batch_sizes, device="cuda", name=name)
        finally:
            sidecar_path(file).unlink()

    if weights is None:
        return compared(plan)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(weights, Path(folder) / weights.name)
        return compared(Path(shutil.copyfile(plan, Path(folder) / plan.name)))
