"""The command cgan-export."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgan.checkpoint_record import checkpoint_of, described
from cgan.command import run_command
from cgan.errors import UserError
from cgan.extras import needed
from cgan.options_file import config_option
from cgan.progress import Progress
from cgan.spec import MOST_BATCH, MOST_SIZE, SIZE_MULTIPLE
from cgan.text import print_json, say
from export.choices import (
    ENGINE_BATCHES,
    FORMATS,
    INT8_TARGETS,
    ONNX_BATCHES,
    PRECISION_CHOICES,
    PREFERENCES,
    TRITON,
    TRITON_BATCHES,
    Sizes,
)
from export.option_checks import LIMITS, check_options, is_engine
from export.tables import artefact_table, trials_table
from export.tolerance import TOLERANCES, Tolerance

if TYPE_CHECKING:
    from export.artefact import Artefact, ExportOptions
    from export.engine_options import EngineOptions


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click alone
    """Three non-decreasing positive integers: min,opt,max.

    Args:
        most: the largest number.
    """

    name = "min,opt,max"

    def __init__(self, most: int) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sizes:
        """Return the numbers; raise UserError where the value is anything else."""
        parts = str(value).split(",")
        short = [int(part) for part in parts if part.isdecimal() and len(part) <= len(str(self.most))]
        numbers = [number for number in short if 0 < number <= self.most]
        if len(parts) != 3 or len(numbers) != 3 or numbers != sorted(numbers):
            flag = param.opts[0] if param else "value"
            raise UserError(
                f"{flag}: found {str(value)[:80]}, expected three non-decreasing numbers up to {self.most}, such as "
                "1,16,64"
            )
        return numbers[0], numbers[1], numbers[2]


def _listed(numbers: Sizes) -> str:
    return ",".join(map(str, numbers))


BATCH_HELP = (
    "Batch sizes to compare with; of engines and servers, also the batch sizes that they accept.  "
    f"[default: {_listed(ONNX_BATCHES)}; engines: {_listed(ENGINE_BATCHES)}; triton: {_listed(TRITON_BATCHES)}]"
)
MOST_WORKSPACE = 2**20
"""Largest --workspace in MiB: 1 TiB, more than a GPU has."""

FP16, INT8 = TOLERANCES["fp16"], TOLERANCES["int8"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the artefact.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="Format of the artefact; triton: a folder for NVIDIA Triton in the model repository --out.  [default: onnx]",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISION_CHOICES),
    help="auto: the smallest or the fastest that reaches --min-psnr.  [default: fp32; engines: fp16]",
)
@click.option(
    "--checkpoint",
    metavar="last|best|FILE",
    help="Checkpoint of the run SOURCE to export; FILE lies in its checkpoints folder.  [default: best]",
)
@click.option("--prefer", type=click.Choice(PREFERENCES), help="Criterion of --precision auto.  [default: size]")
@click.option("--batch", type=_Numbers(MOST_BATCH), help=BATCH_HELP)
@click.option("--dynamic-size", is_flag=True, help=f"Accept any height and width in multiples of {SIZE_MULTIPLE}.")
@click.option(
    "--size", "sizes", type=_Numbers(MOST_SIZE), help="Engines of dynamic size: heights and widths in pixels."
)
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="Folder of photos to calibrate int8 and to compare on."
)
@click.option(
    "--int8-target", type=click.Choice(INT8_TARGETS), help="Engine that will run the int8 file.  [default: cpu]"
)
@click.option("--atol", type=float, help=f"Allowed absolute difference.  [default: fp32 {TOLERANCES['fp32'].atol}]")
@click.option("--rtol", type=float, help="Allowed relative difference, added to --atol.  [default: 0]")
@click.option(
    "--min-psnr",
    type=float,
    help=f"Lowest allowed PSNR in dB.  [default: fp16 {FP16.min_psnr:g}, int8 {INT8.min_psnr:g}]",
)
@click.option(
    "--max-off",
    type=float,
    help="Largest allowed share of values that differ by more than 1/255.  "
    f"[default: fp16 {FP16.max_off}, int8 {INT8.max_off}]",
)
@click.option("--no-verify", is_flag=True, help="Do not compare the artefact with the model; its sidecar records that.")
@click.option("--keep-failed", is_flag=True, help="Keep an artefact that fails the comparison as NAME.failed.")
@click.option("--overwrite", is_flag=True, help="Replace an existing artefact of other weights.")
@click.option(
    "--workspace",
    type=click.IntRange(1, MOST_WORKSPACE),
    help="Engines: limit on the scratch memory of a layer in MiB.",
)
@click.option(
    "--optimization-level", type=click.IntRange(0, 5), help="Engines: effort of the search for faster kernels."
)
@click.option("--version-compatible", is_flag=True, help="Engines: load on newer runtimes of the same major version.")
@click.option("--hardware-compatible", is_flag=True, help="Engines: run on every GPU from Ampere on.")
@click.option("--compute-capability", multiple=True, help="tensorrt-rtx: GPU to build for, such as 8.6; repeatable.")
@click.option(
    "--strip-weights", is_flag=True, help="Engines: store no weights; the ONNX file beside the plan provides them."
)
@click.option("--detailed-profiling", is_flag=True, help="Engines: keep names and types of layers for profilers.")
@click.option(
    "--timing-cache", type=click.Path(path_type=Path), help="Engines: file of kernel timings to reuse and update."
)
@click.option(
    "--verify",
    "existing",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare the artefact FILE with SOURCE; write nothing.",
)
@click.option(
    "--inspect",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Print contract, precision and verification of the artefact FILE as JSON.",
)
@click.option("--push", metavar="hf://OWNER/NAME", help="Upload the verified artefact to the Hugging Face Hub too.")
@config_option
@click.option("--quiet", is_flag=True, help="Print only notes and errors.")
@click.version_option(package_name="cgan")
def command(source: Path | None, out: Path | None, existing: Path | None, inspect: Path | None, **given: Any) -> None:
    """Export SOURCE, a run of cgan-train or a checkpoint, to an artefact for deployment.

    The artefact gets its name only after it was compared with the trained model. For engines SOURCE can also be an
    ONNX file that this command wrote.
    """
    if sum(choice is not None for choice in (out, existing, inspect)) != 1:
        raise UserError(
            "give --out DIR to export, --verify FILE to compare or --inspect FILE to print facts, one of the three"
        )
    if (source is None) != (inspect is not None):
        raise UserError("expected SOURCE, a run or a checkpoint, with --out or --verify, and no SOURCE with --inspect")
    check_options(given, existing is not None, inspect is not None, source.suffix.lower() if source else "")
    with needed("export", "export"):
        from export import artefact as pipeline
        from export import inspection
        from infer.photo.decode import use_own_pixel_limit
    if inspect:
        print_json(inspection.inspect_artefact(inspect))
        return
    assert source is not None
    if given["checkpoint"] is not None:
        source = checkpoint_of(source, given["checkpoint"])
    use_own_pixel_limit()
    options = _export_options(given)
    if existing:
        verification, notes = pipeline.compare(existing, source, options)
        numbers = verification.to_json()
        say(*(f"note: {note}" for note in notes))
        if not given["quiet"]:
            say(f"{source}: {described(numbers['checkpoint'])}", *artefact_table(existing, numbers))
        return
    assert out is not None
    _export(source, out, options, given)


def _export(source: Path, out: Path, options: "ExportOptions", given: dict[str, Any]) -> None:
    """Write the artefact, upload it if that was asked for, and say what was made."""
    from export.hub_upload import find_destination, push

    engine = _engine_options(given) if is_engine(given) else None
    destination = find_destination(given["push"]) if given["push"] else None
    if given["precision"] == "auto":
        if engine:
            from export.engine import find_builder

            find_builder(engine)  # before the minutes that the search may take
        options = _search(source, options, given)
    artefact = _made(source, out, options, engine, given)
    say(*(f"note: {note}" for note in artefact.notes))
    if not given["quiet"]:
        made = described(artefact.sidecar.build.get("checkpoint"))
        say(f"{source}: {made}", *artefact_table(artefact.path, artefact.sidecar.verification))
    if destination:
        options.on_step("upload", destination.address.given)
        pushed = push(artefact, destination)
        if not given["quiet"]:
            say(f"uploaded as {pushed}")
    if not given["quiet"]:
        say(f"next: {_next(out, artefact, given)}")


def _made(
    source: Path, out: Path, options: "ExportOptions", engine: "EngineOptions | None", given: dict[str, Any]
) -> "Artefact":
    if given["format_"] == TRITON:
        from export.repository import make_repository

        return make_repository(source, out, options)
    from export.artefact import make_engine, make_onnx

    if engine is None:
        return make_onnx(source, out, options)
    with Progress(given["quiet"], say=None, unit="it") as progress:
        return make_engine(
            source, out, options, engine, lambda phase, done, total: progress.update(done, total, label=phase)
        )


def _next(out: Path, artefact: "Artefact", given: dict[str, Any]) -> str:
    """Return the command that uses the artefact."""
    if given["format_"] == TRITON:
        return f"tritonserver --model-repository {shlex.quote(str(out.absolute()))}"
    return f"cgan-infer folder PHOTOS colored --model {shlex.quote(str(artefact.path))}"


def _export_options(given: dict[str, Any]) -> "ExportOptions":
    from export.artefact import ExportOptions, no_report

    engine = is_engine(given)
    default_batches = ENGINE_BATCHES if engine else TRITON_BATCHES if given["format_"] == TRITON else ONNX_BATCHES
    limits = {name: given[name] for name in LIMITS if given[name] is not None}
    return ExportOptions(
        precision=given["precision"] or ("fp16" if engine else "fp32"),
        int8_target=given["int8_target"] or ("tensorrt" if engine else "cpu"),
        dynamic_size=given["dynamic_size"],
        calibration=given["calibration"],
        batch_sizes=given["batch"] or default_batches,
        tolerance=Tolerance(**limits) if limits else None,
        verify=not given["no_verify"],
        keep_failed=given["keep_failed"],
        overwrite=given["overwrite"],
        on_step=no_report if given["quiet"] else lambda step, about: say(f"{step:<9} {about}"),
    )


def _engine_options(given: dict[str, Any]) -> "EngineOptions":
    from export.engine_options import EngineOptions

    return EngineOptions(
        flavour=given["format_"],
        batch=given["batch"] or ENGINE_BATCHES,
        sizes=given["sizes"],
        workspace_mib=given["workspace"],
        optimization_level=given["optimization_level"],
        version_compatible=given["version_compatible"],
        hardware_compatible=given["hardware_compatible"],
        strip_weights=given["strip_weights"],
        detailed_profiling=given["detailed_profiling"],
        compute_capabilities=given["compute_capability"],
        timing_cache=given["timing_cache"],
    )


def _search(source: Path, options: "ExportOptions", given: dict[str, Any]) -> "ExportOptions":
    """Return the options with the precision that the search of --precision auto chose."""
    from dataclasses import replace

    from cgan.errors import GateError
    from export.search import search_precision

    chosen, trials = search_precision(source, options, given["prefer"] or "size")
    if not given["quiet"]:
        say(*trials_table(trials))
    if chosen is None:
        tried = ", ".join(trial.precision for trial in trials)
        raise GateError(f"none of {tried} is within the tolerance ({options.tolerance}); allow a larger difference")
    return replace(options, precision=chosen)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of cgan-export."""
    run_command(command, arguments, "cgan-export")
