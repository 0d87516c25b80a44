"""The command cgan-export."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgan.checkpoint_record import checkpoint_of, described
from cgan.command import run_command
from cgan.errors import UserError
from cgan.extras import needed

if TYPE_CHECKING:
    from export.artefact import ExportOptions
    from export.engine import EngineOptions
    from export.search import Trial

FORMATS = ("onnx", "tensorrt", "tensorrt-rtx")
PRECISION_CHOICES = ("fp32", "fp16", "int8", "auto")
INT8_TARGETS = ("cpu", "tensorrt")
ONNX_BATCHES = (1, 3, 8)
ENGINE_BATCHES = (1, 16, 64)


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click alone
    """Three whole numbers that do not fall: min,opt,max."""

    name = "min,opt,max"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        numbers = [part for part in str(value).split(",") if part.isdecimal() and int(part) > 0]
        found = tuple(map(int, numbers))
        if len(found) != 3 or len(str(value).split(",")) != 3 or list(found) != sorted(found):
            flag = param.opts[0] if param else "value"
            raise UserError(f"{flag}: found {value}, expected three numbers that do not fall, such as 1,16,64")
        return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the artefact.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Kind of file.  [default: onnx]")
@click.option(
    "--precision",
    type=click.Choice(PRECISION_CHOICES),
    help="auto: the smallest or fastest that reaches --min-psnr.  [default: fp32; engines: fp16]",
)
@click.option(
    "--checkpoint",
    metavar="last|best|FILE",
    help="Checkpoint of SOURCE, a run: one of these or a file in it.  [default: best]",
)
@click.option("--prefer", type=click.Choice(("size", "speed")), help="What auto looks for.  [default: size]")
@click.option("--batch", type=_Numbers(), help="Photos in a batch.  [default: 1,3,8; engines: 1,16,64]")
@click.option("--dynamic-size", is_flag=True, help="Any height and width in multiples of 16.")
@click.option("--size", "sizes", type=_Numbers(), help="Height and width of an engine of dynamic size.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder of photos for int8 and the comparison.")
@click.option("--int8-target", type=click.Choice(INT8_TARGETS), help="Engine that int8 is for.  [default: cpu]")
@click.option("--atol", type=float, help="Allowed absolute difference.  [default: 1e-4 for fp32]")
@click.option("--rtol", type=float, help="Allowed relative difference, with --atol.  [default: 0]")
@click.option("--min-psnr", type=float, help="Least PSNR in dB.  [default: fp16 60, int8 40]")
@click.option(
    "--max-off", type=float, help="Largest share of values more than 1/255 off.  [default: fp16 0.001, int8 0.6]"
)
@click.option("--no-verify", is_flag=True, help="Write the artefact without comparing it; its sidecar says so.")
@click.option("--keep-failed", is_flag=True, help="Keep an artefact that failed, as NAME.failed.")
@click.option("--overwrite", is_flag=True, help="Replace an artefact of other weights.")
@click.option("--workspace", type=click.IntRange(min=1), help="Engines: limit of scratch memory in MiB.")
@click.option("--optimization-level", type=click.IntRange(0, 5), help="Engines: how long the builder searches.")
@click.option("--version-compatible", is_flag=True, help="Engines: load on newer runtimes of the same major version.")
@click.option("--hardware-compatible", is_flag=True, help="Engines: run on other GPUs, Ampere and newer.")
@click.option("--compute-capability", multiple=True, help="Engines for tensorrt-rtx: target such as 8.6; repeatable.")
@click.option("--strip-weights", is_flag=True, help="Engines: leave the weights out, to be refitted from the ONNX.")
@click.option("--detailed-profiling", is_flag=True, help="Engines: keep layer names and types for the inspector.")
@click.option(
    "--timing-cache", type=click.Path(path_type=Path), help="Engines: file of kernel timings, kept and reused."
)
@click.option(
    "--verify",
    "existing",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare FILE with SOURCE; write nothing.",
)
@click.option("--inspect", type=click.Path(path_type=Path), metavar="FILE", help="Print what FILE is, as JSON.")
@click.option("--quiet", is_flag=True, help="Only notes and errors.")
@click.version_option(package_name="cgan")
def command(source: Path | None, out: Path | None, existing: Path | None, inspect: Path | None, **given: Any) -> None:
    """Turn SOURCE, a run of cgan-train or a checkpoint, into a file to deploy.

    The file takes its name only after it was compared with the trained model. For the TensorRT formats SOURCE can also
    be an ONNX file of this command.
    """
    if sum(choice is not None for choice in (out, existing, inspect)) != 1:
        raise UserError(
            "give --out DIR to export, --verify FILE to compare or --inspect FILE to look, one of the three"
        )
    if (source is None) != (inspect is not None):
        raise UserError("expected SOURCE, a run or a checkpoint, with --out and --verify, and none with --inspect")
    from_onnx = source is not None and source.suffix.lower() == ".onnx"
    _check_options(given, existing is not None, inspect is not None, from_onnx)
    with needed("export", "export"):
        from export import artefact as pipeline
        from export import inspection
        from export.engine import find_builder
        from infer.photo.decode import use_own_pixel_limit
    if inspect:
        print(json.dumps(inspection.inspect_artefact(inspect), indent=2))
        return
    assert source is not None
    if given["checkpoint"] is not None:
        source = checkpoint_of(source, given["checkpoint"])
    use_own_pixel_limit()
    options = _export_options(given)
    if existing:
        numbers, notes = pipeline.compare(existing, source, options)
        _note(notes)
        _say(given["quiet"], f"{source}: {described(numbers['checkpoint'])}\n{_table(existing, numbers)}")
        return
    assert out is not None
    engine = _engine_options(given) if given["format_"] not in (None, "onnx") else None
    if given["precision"] == "auto":
        if engine:
            find_builder(engine)  # before the minutes that the search may take
        options = _search(source, options, given)
    if engine is None:
        artefact = pipeline.make_onnx(source, out, options)
    else:
        with _BuildProgress(given["quiet"]) as progress:
            artefact = pipeline.make_engine(source, out, options, engine, progress.update)
    _note(artefact.notes)
    _say(given["quiet"], f"{source}: {described(artefact.sidecar.build.get('checkpoint'))}")
    _say(given["quiet"], _table(artefact.path, artefact.sidecar.verification))


_ENGINE_ONLY = (
    "sizes",
    "workspace",
    "optimization_level",
    "version_compatible",
    "hardware_compatible",
    "compute_capability",
    "strip_weights",
    "detailed_profiling",
    "timing_cache",
)
_LIMITS = ("atol", "rtol", "min_psnr", "max_off")
_OF_A_COMPARISON = frozenset({*_LIMITS, "batch", "calibration", "checkpoint"})


def _check_options(given: dict[str, Any], compares: bool, looks: bool, from_onnx: bool) -> None:
    """Refuse options that would have no effect beside the others."""
    # By identity: a limit of 0 is not the same as none.
    used = {name for name, value in given.items() if value is not None and value is not False and value != ()}
    used -= {"quiet"}
    if compares and (idle := used - _OF_A_COMPARISON):
        _refuse(idle, "--verify, which writes nothing")
    if looks and (idle := used | ({"quiet"} if given["quiet"] else set())):
        _refuse(idle, "--inspect, which only looks")
    engine = given["format_"] not in (None, "onnx")
    if not engine:
        _needs(used, _ENGINE_ONLY, "--format tensorrt or tensorrt-rtx")
    elif "int8_target" in used:
        _refuse({"int8_target"}, f"--format {given['format_']}, whose int8 is always for TensorRT")
    if from_onnx and (idle := used & {"precision", "dynamic_size", "checkpoint"}):
        _refuse(idle, "SOURCE, an ONNX file whose own counts")
    if not (given["dynamic_size"] or from_onnx):
        _needs(used, ("sizes",), "--dynamic-size")
    if given["precision"] == "auto" and given["calibration"] is None:
        _needs(used, ("int8_target",), "--calibration, without which auto does not try int8")
    elif given["precision"] not in ("int8", "auto"):
        _needs(used, ("int8_target",), "--precision int8")
    if given["precision"] != "auto":
        _needs(used, ("prefer",), "--precision auto")
    elif given["min_psnr"] is None:
        raise UserError("--precision auto: found no --min-psnr, expected the least PSNR in dB that it has to reach")
    if given["no_verify"]:
        _needs(
            used,
            (*_LIMITS, "keep_failed", *(() if engine else ("batch",))),
            "a comparison, which --no-verify leaves out",
        )
        if given["precision"] == "auto":
            raise UserError("--precision auto chooses by comparison, which --no-verify leaves out; drop one")
    if "atol" not in used:
        _needs(used, ("rtol",), "--atol")


def _needs(used: set[str], names: tuple[str, ...], needed: str) -> None:
    if idle := used & set(names):
        raise UserError(f"{_flags(idle)}: no effect without {needed}; leave it out")


def _refuse(idle: set[str], beside: str) -> None:
    raise UserError(f"{_flags(idle)}: no effect beside {beside}; leave it out")


def _flags(names: set[str]) -> str:
    return ", ".join(
        sorted({"sizes": "--size", "format_": "--format"}.get(name, f"--{name.replace('_', '-')}") for name in names)
    )


def _export_options(given: dict[str, Any]) -> "ExportOptions":
    from export.artefact import ExportOptions
    from export.verify import Tolerance

    engine = given["format_"] not in (None, "onnx")
    limits = {name: given[name] for name in _LIMITS if given[name] is not None}
    return ExportOptions(
        precision=given["precision"] or ("fp16" if engine else "fp32"),
        int8_target=given["int8_target"] or ("tensorrt" if engine else "cpu"),
        dynamic_size=given["dynamic_size"],
        calibration=given["calibration"],
        batch_sizes=given["batch"] or (ENGINE_BATCHES if engine else ONNX_BATCHES),
        tolerance=Tolerance(**limits) if limits else None,
        verify=not given["no_verify"],
        keep_failed=given["keep_failed"],
        overwrite=given["overwrite"],
    )


def _engine_options(given: dict[str, Any]) -> "EngineOptions":
    from export.engine import EngineOptions

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
    """The options with the precision that --precision auto stands for."""
    from dataclasses import replace

    from cgan.errors import GateError
    from export.search import search_precision

    chosen, trials = search_precision(source, options, given["prefer"] or "size")
    _say(given["quiet"], _trials(trials))
    if chosen is None:
        tried = ", ".join(trial.precision for trial in trials)
        raise GateError(f"none of {tried} keeps {options.tolerance}; allow a larger difference")
    return replace(options, precision=chosen)


def _trials(trials: list["Trial"]) -> str:
    lines = ["precision       MB  images/s   PSNR"]
    for trial in trials:
        if trial.failure is None:
            psnr = "equal" if trial.psnr is None else f"{trial.psnr:.1f}"
            lines.append(f"{trial.precision:<9} {trial.megabytes:8.1f} {trial.images_per_second:9.1f} {psnr:>6}")
        else:
            lines.append(f"{trial.precision:<9} {trial.failure}")
    return "\n".join(lines)


def _table(path: Path, numbers: dict[str, Any]) -> str:
    """What was compared, for people."""
    if not numbers["verified"]:
        lines = [f"{path}: written, {numbers['reason'].upper()[:3]}{numbers['reason'][3:]}"]
        if "onnx" in numbers and numbers["onnx"]["verified"]:
            lines += ["the ONNX file that it was built from agrees with the trained model:", *_rows(numbers["onnx"])]
        return "\n".join(lines)
    return "\n".join([f"{path}: agrees with the trained model", *_rows(numbers)])


def _rows(numbers: dict[str, Any]) -> list[str]:
    return [
        "  images    batch  size         max       mean      PSNR   >1/255 off",
        *map(_row, numbers["comparisons"]),
    ]


def _row(c: dict[str, Any]) -> str:
    psnr = "equal" if c["psnr"] is None else f"{c['psnr']:.1f}"
    return (
        f"  {c['images']:<8} {c['batch_size']:>6}  {c['height']:>4} x {c['width']:<4} {c['max_difference']:9.2e} "
        f"{c['mean_difference']:9.2e}  {psnr:>6}  {c['off']:8.2%}"
    )


class _BuildProgress:
    """A bar for the phase that the engine builder is in, on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.shown = not quiet and sys.stderr.isatty()
        self.bar: Any = None
        self.phase = ""

    def __enter__(self) -> "_BuildProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.close()

    def update(self, phase: str, done: int, total: int) -> None:
        """Show how far a phase is."""
        if not self.shown:
            return
        from tqdm import tqdm

        if phase != self.phase:
            if self.bar:
                self.bar.close()
            self.bar, self.phase = tqdm(total=total, desc=phase, leave=False), phase
        self.bar.update(done - self.bar.n)


def _note(notes: tuple[str, ...]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of cgan-export."""
    run_command(command, arguments, "cgan-export")
