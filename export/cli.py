"""The command cgan-export."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cgan.spec import (
    ModelSpec,
    Sidecar,
    UserError,
    atomic_path,
    cannot_write,
    exit_on_user_error,
    file_sha256,
    write_sidecar,
)

FORMATS = ("onnx",)
PRECISION_CHOICES = ("fp32",)
SUFFIXES = {"onnx": ".onnx"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the artefact.")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="onnx", show_default=True)
@click.option("--precision", type=click.Choice(PRECISION_CHOICES), default="fp32", show_default=True)
@click.option("--atol", type=click.FloatRange(0, 1), help="Allowed absolute difference.  [default: 1e-4]")
@click.option("--rtol", type=click.FloatRange(0, 1), help="Allowed relative difference.  [default: 0]")
@click.option("--no-verify", is_flag=True, help="Write the artefact without comparing it; its sidecar says so.")
@click.option(
    "--verify",
    "existing",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare an existing artefact with SOURCE and write nothing.",
)
@click.option("--quiet", is_flag=True, help="Only errors.")
@click.version_option(package_name="cgan")
def command(
    source: Path,
    out: Path | None,
    format_: str,
    precision: str,
    atol: float | None,
    rtol: float | None,
    no_verify: bool,
    existing: Path | None,
    quiet: bool,
) -> None:
    """Turn SOURCE, a run of cgan-train or a checkpoint, into a file to deploy.

    The file takes its name only after it was compared with the trained model.
    """
    if (out is None) == (existing is None):
        raise UserError("give --out DIR to export, or --verify FILE to compare an existing artefact, and not both")
    if no_verify and (existing or atol is not None or rtol is not None):
        raise UserError("--no-verify leaves nothing for --verify, --atol or --rtol to do; drop one")
    try:
        from export import onnx_model, verify
    except ModuleNotFoundError as error:
        raise UserError(f"export needs the package {error.name}; install it with pip install 'cgan[export]'") from error
    atol = verify.DEFAULT_ATOL if atol is None else atol
    rtol = verify.DEFAULT_RTOL if rtol is None else rtol
    if existing:
        _say(quiet, _table(existing, verify.verify(existing, source, atol, rtol)))
        return
    assert out is not None
    from cgan.checkpoint import load_generator

    generator, spec = load_generator(source)
    spec = replace(spec, precision=precision, created_with={**spec.created_with, **_versions()})
    target = out / artefact_name(spec, format_)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            onnx_model.export_onnx(generator, spec, temporary)
            numbers: dict[str, Any] = {"verified": False}
            if not no_verify:
                numbers = verify.verify(temporary, source, atol, rtol, target.name)
            # The sidecar first: a kill between the two leaves a file that is refused, never one without a voucher.
            write_sidecar(target, Sidecar(spec=spec, file_sha256=file_sha256(temporary), verification=numbers))
    except OSError as error:
        raise cannot_write(out, error) from error
    _say(quiet, _table(target, numbers))


def artefact_name(spec: ModelSpec, format_: str) -> str:
    """File name that says model, colour space, size and precision: unet-w32-rgb-128-fp32.onnx."""
    return f"{spec.model}-w{spec.base_width}-{spec.color_space}-{spec.render_size}-{spec.precision}{SUFFIXES[format_]}"


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("onnx", "onnxscript")}


def _table(path: Path, numbers: dict[str, Any]) -> str:
    if not numbers["verified"]:
        return f"{path}: written, NOT compared with the trained model"
    rows = [
        f"  {c['images']:<8} batch {c['batch_size']:<3} max {c['max_difference']:.2e}  mean {c['mean_difference']:.2e}"
        for c in numbers["comparisons"]
    ]
    return "\n".join(
        [f"{path}: equals the trained model within {numbers['atol']:g} + {numbers['rtol']:g} x |reference|", *rows]
    )


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of cgan-export."""
    with exit_on_user_error():
        command(arguments, prog_name="cgan-export")
