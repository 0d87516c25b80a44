"""Artefacts: prepare, build, verify and publish an ONNX file or an engine, which gets its name only when verified."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cgan.errors import ChangedFileError, GateError, UserError
from cgan.extras import needed, onnx_runtime
from cgan.files import file_sha256
from cgan.spec import ModelSpec, Precision, Sidecar, read_sidecar, sidecar_path, write_sidecar
from cgan.text import counted
from cgan.training.checkpoint import load_checkpoint, made_of
from export.build_record import EngineRecord, OnnxRecord, Quantisation
from export.calibration import calibration_batches, with_sharper_copies
from export.choices import ONNX_BATCHES, ONNX_SUFFIX, PLAN_SUFFIX, Device, Format, Images, Int8Target
from export.comparison_photos import comparison_photos
from export.engine import Progress, build_engine, find_builder
from export.engine_options import EngineOptions
from export.onnx_model import export_onnx, inspect_onnx
from export.preflight import BATCH, check_model
from export.publish import Publication, publishing
from export.quantize import quantize_int8
from export.stages import BuiltEngine, BuiltOnnx, PreparedOnnx, Verified
from export.tolerance import Tolerance
from export.verify import (
    Gray,
    NotVerified,
    Reference,
    Verdict,
    Verification,
    checkpoint_reference,
    natural_images,
    onnx_reference,
    verify,
)
from infer.backends import open_model
from infer.backends.flavours import FLAVOURS, Gpu, find_gpu, runs_on
from infer.backends.trt import fits, sealed

FEW_PHOTOS = 32
"""With fewer photos to calibrate int8 the worst outputs get worse; see `export.calibration.DEFAULT_LIMIT`."""

NO_VERIFY = NotVerified("--no-verify")

OnStep = Callable[[str, str], None]
"""Called with the name of a step that begins, and what it is about."""


def no_report(_step: str, _about: str) -> None:
    """Ignore a step."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export: the kind of artefact, its comparison and its publication."""

    precision: Precision = "fp32"
    int8_target: Int8Target = "cpu"
    """Engine whose int8 kernels the quantisation suits."""
    dynamic_size: bool = False
    calibration: Path | None = None
    """Folder of photos for int8 and for the comparison."""
    batch_sizes: tuple[int, ...] = ONNX_BATCHES
    """Number of photos in each batch of the comparison."""
    tolerance: Tolerance | None = None
    """Limits of the comparison; the precision sets those that are left open."""
    verify: bool = True
    keep_failed: bool = False
    """Keep an artefact that fails as NAME.failed."""
    overwrite: bool = False
    """Replace an artefact of other weights."""
    on_step: OnStep = no_report
    """Told of each step."""


@dataclass(frozen=True)
class Artefact:
    """A file that was written, with its sidecar."""

    path: Path
    sidecar: Sidecar
    notes: tuple[str, ...] = ()
    """Facts about the export that a user should know, one line each."""


@dataclass(frozen=True)
class PreparedEngine:
    """The ONNX file to build an engine from."""

    onnx: Artefact
    run: Path | None
    """Run or checkpoint that the ONNX file was just exported from; None where the user gave the ONNX file."""


def make_onnx(source: Path, out: Path, options: ExportOptions) -> Artefact:
    """Export a run or checkpoint as an ONNX file.

    Args:
        source: a run folder or a checkpoint.
        out: folder for the artefact; created where it is missing.
        options: see ExportOptions.

    Raises:
        UserError: the source or the calibration folder cannot be used.
        GateError: the model cannot be exported, or the artefact differs from it by more than the tolerance.
    """
    prepared = _prepare_onnx(source, options)
    target = out / artefact_name(prepared.spec, "onnx", options.int8_target)
    with _publishing(target, prepared.spec, options) as publication:
        built = _build_onnx(prepared, options, publication.temporary)
        verified = _verify_onnx(prepared, built, options, target.name)
        publication.vouch_for(verified.sidecar)
    return Artefact(target, verified.sidecar, (*prepared.notes, *built.notes))


def make_engine(
    source: Path,
    out: Path,
    options: ExportOptions,
    engine: EngineOptions,
    on_progress: Progress | None = None,
) -> Artefact:
    """Build an engine from a run, a checkpoint, or an ONNX file of this project.

    The ONNX file is compared with the trained model before the build. The engine is compared where a GPU can run it;
    elsewhere its sidecar says why it was not.

    Args:
        source: a run folder, a checkpoint or an ONNX file with its sidecar.
        out: folder for the plan; created where it is missing.
        options: see ExportOptions; an ONNX file keeps its own precision.
        engine: settings of the builder.
        on_progress: called with (phase, steps done, steps in all).

    Raises:
        UserError: the source cannot be used, or the builder is missing.
        GateError: the model cannot be exported, or a file differs from it by more than the tolerance.
    """
    find_builder(engine)  # before the minutes that the export may take
    with tempfile.TemporaryDirectory() as folder:
        prepared = _prepare_engine(source, options, Path(folder))
        spec = prepared.onnx.sidecar.spec
        target = out / artefact_name(spec, engine.flavour, "tensorrt")
        with _publishing(target, spec, options) as publication:
            options.on_step("build", f"an engine of {engine.flavour}")
            built = _build_engine(prepared, engine, publication.temporary, on_progress)
            verified = _verify_engine(prepared, built, options, target.name)
            weights = _publish_weights(prepared, out, options) if engine.strip_weights else ()
            publication.vouch_for(verified.sidecar)
    notes = dict.fromkeys((*prepared.onnx.notes, *verified.notes))
    return Artefact(target, verified.sidecar, (*notes, *weights))


def compare(artefact: Path, source: Path, options: ExportOptions) -> tuple[Verification, tuple[str, ...]]:
    """Compare an existing artefact with a run or checkpoint.

    Of a run, the checkpoint that the artefact was made of counts, or the best one if it was made of none.

    Returns:
        The verification, and notes on photos that cannot be read.

    Raises:
        UserError: the source or the artefact cannot be used.
        GateError: the artefact differs from the trained model by more than the tolerance.
    """
    try:
        sidecar = read_sidecar(artefact) if artefact.is_file() else None
    except ChangedFileError as error:
        raise GateError(str(error)) from error
    reference = checkpoint_reference(made_of(source, sidecar.spec.weights_sha256 if sidecar else None))
    photos, notes = comparison_photos(source, reference.spec.render_size, options.calibration)
    device: Device = "cuda" if artefact.suffix.lower() == PLAN_SUFFIX else "cpu"
    return _compared(artefact, reference, photos, options, device=device), notes


def artefact_name(spec: ModelSpec, format_: Format, int8_target: Int8Target) -> str:
    """Return the file name, which gives model, colour space, size and precision: unet-w32-rgb-128-fp32.onnx."""
    size = f"{spec.render_size}{'-dynamic' if spec.dynamic_size else ''}"
    precision = f"{spec.precision}-{int8_target}" if spec.precision == "int8" and format_ == "onnx" else spec.precision
    ending = ONNX_SUFFIX if format_ == "onnx" else f"-{format_}{PLAN_SUFFIX}"
    blocks = f"b{spec.blocks}" if spec.blocks > 1 else ""
    return f"{spec.model}-w{spec.base_width}{blocks}-{spec.color_space}-{size}-{precision}{ending}"


# The steps of an ONNX file


def _prepare_onnx(source: Path, options: ExportOptions) -> PreparedOnnx:
    """Load and check the generator of a run or checkpoint, and choose the photos to compare on."""
    if options.precision == "int8" and options.calibration is None:
        raise UserError(
            "--precision int8: found no --calibration FOLDER, expected photos like those that the model will colour"
        )
    runtime = onnx_runtime()  # compares the file, and makes int8
    with needed("export", "export"):
        import onnxscript  # noqa: F401  # torch's exporter needs it
    options.on_step("load", str(source))
    generator, spec, checkpoint = load_checkpoint(source)
    created = {**spec.created_with, **{name: version(name) for name in ("onnx", "onnxscript")}}
    if options.precision == "int8":
        created["onnxruntime"] = runtime.__version__  # from the package or from its GPU build
    spec = replace(spec, precision=options.precision, dynamic_size=options.dynamic_size, created_with=created)
    photos, unread = comparison_photos(source, spec.render_size, options.calibration)
    notes = (checkpoint.note, *unread) if checkpoint.note else unread
    check_model(generator, natural_images(BATCH, spec.render_size, 0) if photos is None else photos, spec.precision)
    return PreparedOnnx(generator, spec, checkpoint, photos, notes)


def _build_onnx(prepared: PreparedOnnx, options: ExportOptions, file: Path) -> BuiltOnnx:
    """Write the ONNX file."""
    quantisation: Quantisation | None = None
    notes: tuple[str, ...] = ()
    if prepared.spec.precision == "int8":
        quantisation, notes = _export_int8(prepared, options, file)
    else:
        export_onnx(prepared.generator, prepared.spec, file, options.on_step)
    record = OnnxRecord(checkpoint=prepared.checkpoint, quantisation=quantisation, onnx=inspect_onnx(file))
    return BuiltOnnx(file, record, notes)


def _export_int8(prepared: PreparedOnnx, options: ExportOptions, file: Path) -> tuple[Quantisation, tuple[str, ...]]:
    """Write the int8 ONNX file and return how it was quantised, with notes on the calibration."""
    assert options.calibration is not None
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "fp32.onnx"
        export_onnx(prepared.generator, replace(prepared.spec, precision="fp32"), fp32, options.on_step)
        options.on_step("quantise", f"int8 for {options.int8_target}, on photos of {options.calibration}")
        calibration = calibration_batches(options.calibration, prepared.spec.render_size)
        gray = with_sharper_copies(calibration.gray, prepared.spec.input_blur > 0)
        quantize_int8(fp32, prepared.spec, gray, options.int8_target, file)
    count = len(calibration.photos)
    notes = [f"{path}: not calibrated on, {reason}" for path, reason in calibration.failures]
    if count < FEW_PHOTOS:
        notes.append(f"int8 was calibrated on {counted(count, 'photo')}; {FEW_PHOTOS} or more clip less")
    return Quantisation(options.int8_target, count), tuple(notes)


def _verify_onnx(prepared: PreparedOnnx, built: BuiltOnnx, options: ExportOptions, name: str) -> Verified:
    """Compare the ONNX file with the checkpoint as it is on disk now; one that changed since is not what it holds."""
    verdict: Verdict = NO_VERIFY
    if options.verify:
        reference = checkpoint_reference(prepared.checkpoint.path)
        verdict = _compared(built.file, reference, prepared.photos, options, name=name)
    sidecar = Sidecar(
        spec=prepared.spec,
        file_sha256=file_sha256(built.file),
        verification=verdict.to_json(),
        build=built.record.to_json(),
    )
    return Verified(sidecar)


# The steps of an engine


def _prepare_engine(source: Path, options: ExportOptions, folder: Path) -> PreparedEngine:
    """Check the ONNX file that the user gave, or export the run or checkpoint to one in `folder`."""
    if source.suffix.lower() == ONNX_SUFFIX:
        return PreparedEngine(existing_onnx(source, options), None)
    return PreparedEngine(
        make_onnx(source, folder, replace(options, int8_target="tensorrt", keep_failed=False)), source
    )


def existing_onnx(path: Path, options: ExportOptions) -> Artefact:
    """Return an ONNX file of an earlier export, once its sidecar vouches for it.

    Raises:
        UserError: the file cannot be used, or it was not compared with its model, and `options.verify` asks for that.
    """
    with open_model(path, "cpu") as backend:
        sidecar = backend.sidecar
    if sidecar is None:
        raise UserError(f"{path}: found no sidecar beside it, expected {sidecar_path(path).name}; export it again")
    check_verified(path, sidecar, options)
    return Artefact(path, sidecar)


def check_verified(path: Path, sidecar: Sidecar, options: ExportOptions) -> None:
    """Check that an earlier export was compared with its model.

    Raises:
        UserError: it was not, and `options.verify` asks for that.
    """
    if options.verify and not sidecar.verification.get("verified"):
        raise UserError(
            f"{path}: found it {sidecar.verification.get('reason', 'not verified')}, expected one that was compared "
            "with its model; export it again, or use it with --no-verify"
        )


def _build_engine(
    prepared: PreparedEngine, engine: EngineOptions, file: Path, on_progress: Progress | None
) -> BuiltEngine:
    """Write the plan, from the very bytes for which the sidecar of the ONNX file vouches."""
    onnx = prepared.onnx
    record = build_engine(onnx.path, onnx.sidecar.spec, engine, file, on_progress)
    if record.onnx_sha256 != onnx.sidecar.file_sha256:
        raise _changed_during_build(onnx.path)
    return BuiltEngine(file, record)


def _verify_engine(prepared: PreparedEngine, built: BuiltEngine, options: ExportOptions, name: str) -> Verified:
    """Compare the engine with its origin where the GPU here can run it."""
    reason = _why_not_compared(built.record, find_gpu()) if options.verify else NO_VERIFY.reason
    onnx, run = prepared.onnx, prepared.run
    sidecar = sealed(
        Sidecar(
            spec=onnx.sidecar.spec,
            file_sha256=file_sha256(built.file),
            verification=_engine_verification(NotVerified(reason or "not yet"), onnx),
            build={**built.record.to_json(), "checkpoint": onnx.sidecar.build.get("checkpoint")},
        )
    )
    if reason is not None:
        return Verified(sidecar)
    if run is None:
        reference = onnx_reference(onnx.path)
    else:
        reference = checkpoint_reference(made_of(run, onnx.sidecar.spec.weights_sha256))
    photos, notes = comparison_photos(run, onnx.sidecar.spec.render_size, options.calibration)
    weights = onnx.path if built.record.flags.strip_weights else None
    with _loadable(built.file, sidecar, weights) as plan:
        verdict = _compared(plan, reference, photos, options, device="cuda", name=name)
    return Verified(sealed(replace(sidecar, verification=_engine_verification(verdict, onnx))), notes)


def _engine_verification(verdict: Verdict, onnx: Artefact) -> dict[str, Any]:
    """Return the verification of an engine's sidecar, which includes that of the ONNX file it was built from."""
    return {**verdict.to_json(), "onnx": onnx.sidecar.verification}


def _why_not_compared(record: EngineRecord, gpu: Gpu | None) -> str | None:
    """Return the reason why this GPU cannot run an engine with this record, None where it can."""
    if gpu is None:
        return "no GPU here"
    if fits(record.to_json(), gpu):
        return None
    if runs_on(record.flavour, gpu):
        return f"built for other GPUs than the {gpu.name} here"
    return f"{FLAVOURS[record.flavour].label} does not run on {gpu.name}"


@contextmanager
def _loadable(plan: Path, sidecar: Sidecar, weights: Path | None) -> Iterator[Path]:
    """Yield the plan with its sidecar beside it; if it holds no weights, a copy beside the ONNX file with them."""
    with tempfile.TemporaryDirectory() as folder:
        if weights:
            shutil.copyfile(weights, Path(folder) / weights.name)
            plan = Path(shutil.copyfile(plan, Path(folder) / plan.name))
        write_sidecar(plan, sidecar)
        try:
            yield plan
        finally:
            sidecar_path(plan).unlink()


def _publish_weights(prepared: PreparedEngine, out: Path, options: ExportOptions) -> tuple[str, ...]:
    """Publish the ONNX file beside a plan without weights, where the loader looks for them, unless it is there."""
    onnx = prepared.onnx
    if onnx.path.parent.resolve() == out.resolve():
        return ()
    target = out / onnx.path.name
    with _publishing(target, onnx.sidecar.spec, options) as publication:
        shutil.copyfile(onnx.path, publication.temporary)
        if file_sha256(publication.temporary) != onnx.sidecar.file_sha256:
            raise _changed_during_build(onnx.path)
        publication.vouch_for(onnx.sidecar)
    return (f"{target} holds its weights: keep it beside the plan",)


def _changed_during_build(onnx: Path) -> GateError:
    return GateError(f"{onnx}: changed while the engine was built from it; build it again")


def _compared(
    file: Path, reference: Reference, photos: Gray | None, options: ExportOptions, **more: Any
) -> Verification:
    """Compare a file with its reference as the options say; see `verify`."""
    shown = {"photos": "photos", "natural": "noise with the spectrum of photos", "random": "uniform noise"}

    def on_batch(images: Images, count: int) -> None:
        options.on_step("compare", f"batch {count}, {shown[images]}")

    return verify(file, reference, photos, options.tolerance, options.batch_sizes, on_batch=on_batch, **more)


def _publishing(target: Path, spec: ModelSpec, options: ExportOptions) -> AbstractContextManager[Publication]:
    return publishing(target, spec, options.overwrite, options.keep_failed)
