"""The command cgan-infer. Numpy, Pillow and engines are imported only when a command runs."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from cgan.command import run_command
from cgan.errors import UserError
from cgan.options_file import config_option
from cgan.text import print_json
from infer.backends.cli_options import BATCH_SIZES, WORKERS, backend_option, device_option, provider_option
from infer.packaged import DEFAULT_MODEL, model_path
from infer.photo.formats import QUALITY, SAME, WRITE_FORMATS, ColorPhotos, ProfileUse, Resolution, check_strength
from infer.quality.cli import evaluate, parity

MOST = 10**12
"""Largest value of limits: more than any run reaches, and a number that reports and clocks can hold."""

FORMAT_CHOICES = (SAME, *WRITE_FORMATS)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
@click.version_option(package_name="cgan")
def command() -> None:
    """Colour grayscale photos with an exported model."""


@command.command()
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT")
@click.option(
    "--model",
    type=model_path,
    metavar="MODEL",
    default=str(DEFAULT_MODEL),
    help="File, run, or name of a packaged model: flowers or flowers-int8.  [default: flowers]",
)
@backend_option
@provider_option
@device_option
@click.option("--batch-size", type=BATCH_SIZES, help="Photos per batch.  [default: 4, on a GPU 64]")
@click.option("--workers", type=WORKERS, help="Threads that decode, run the model and encode.  [default: all cores]")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMAT_CHOICES),
    default=SAME,
    show_default=True,
    help="Output format; same keeps the format of each photo if it holds colour, else writes png.",
)
@click.option(
    "--quality", type=click.IntRange(1, 100), default=QUALITY, show_default=True, help="Quality of JPEG and WebP."
)
@click.option(
    "--strength",
    type=float,
    default=1.0,
    show_default=True,
    callback=lambda _, option, value: check_strength(value, option.opts[0]),
    help="Factor of the colours, 0 (gray) to 2; luma and hue stay.",
)
@click.option(
    "--color-photos",
    type=click.Choice([choice.value for choice in ColorPhotos]),
    default=ColorPhotos.RECOLOR.value,
    show_default=True,
    help="Photos in colour: colour them anew, write no output, or copy the file as it is, with its own suffix whatever "
    "--format is. A gray photo with a cast or in sepia is not in colour.",
)
@click.option(
    "--resolution",
    type=click.Choice([resolution.value for resolution in Resolution]),
    default=Resolution.ORIGINAL.value,
    show_default=True,
    help="Size and luma of the photo, or the raw output of the network.",
)
@click.option(
    "--render-size",
    type=click.IntRange(min=1),
    help="Longest side of the input of a model of dynamic size, aspect kept.  [default: the model's size, square]",
)
@click.option(
    "--profile",
    type=click.Choice([use.value for use in ProfileUse]),
    default=ProfileUse.CONVERT.value,
    show_default=True,
    help="Convert photos with an RGB profile other than sRGB to sRGB, or keep their luma and profile.",
)
@click.option(
    "--mark/--no-mark",
    default=True,
    show_default=True,
    help="Say in the XMP of outputs that a model has coloured them, and which.",
)
@click.option("--overwrite", is_flag=True, help="Make all outputs again, and replace files that no run wrote.")
@click.option("--checksum", is_flag=True, help="Detect changed photos by content, not by size and time.")
@click.option(
    "--check-parity",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="First compare the model with RUN on photos of INPUT; write nothing if they differ.",
)
@click.option("--report", type=click.Path(path_type=Path), help="JSON report.  [default: OUTPUT/report.json]")
@click.option("--max-failures", type=click.IntRange(0, MOST), help="Stop when more files than this have failed.")
@click.option("--max-pixels", type=click.IntRange(1, MOST), help="Refuse larger photos.  [default: 268435456]")
@click.option(
    "--timeout",
    type=click.IntRange(0, MOST),
    metavar="SECONDS",
    help="Fail photos that take longer to open, decode and encode; 0 for no limit.  [default: 300]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be done with each file; write nothing.")
@click.option("--watch", is_flag=True, help="Keep running, and colour files as they arrive.")
@click.option("--log-json", is_flag=True, help="Write JSON objects to standard output, one per line, for programs.")
@click.option("--quiet", is_flag=True, help="Print only failures and errors.")
def folder(
    source: str,
    target: str,
    model: Path,
    format_: str,
    render_size: int | None,
    max_pixels: int | None,
    timeout: int | None,
    max_failures: int | None,
    dry_run: bool,
    watch: bool,
    log_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Colour every photo below INPUT into the same place below OUTPUT.

    INPUT is a folder or a single photo; INPUT and OUTPUT can be fsspec URLs such as s3://bucket/photos. A journal in
    OUTPUT records finished photos: the same command again colours only missing ones, and those for which the photo, the
    model or options have changed. Exit code 1: some files failed; OUTPUT/report.json lists them with reasons.
    """
    others = {"--watch": watch, "--check-parity": given["check_parity"], "--report": given["report"]}
    if dry_run and (other := next((option for option, value in others.items() if value), None)):
        raise UserError(f"{other}: it has no effect with --dry-run; leave one out")

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the workers already use all cores
    from cgan.photo_limits import MAX_PIXELS, MAX_SECONDS
    from infer.folder.console import Console
    from infer.folder.dry_run import show_plan
    from infer.folder.folder_run import run_folder
    from infer.folder.request import FolderRequest

    request = FolderRequest(
        source=source,
        target=target,
        model=model,
        format=format_,
        resolution=Resolution(given.pop("resolution")),
        profile=ProfileUse(given.pop("profile")),
        color_photos=ColorPhotos(given.pop("color_photos")),
        render_longest=render_size,
        max_failures=max_failures,
        max_pixels=max_pixels or MAX_PIXELS,
        timeout=MAX_SECONDS if timeout is None else timeout,
        watch=watch,
        **given,
    )
    sys.exit((show_plan if dry_run else run_folder)(request, Console(quiet, log_json)))


@command.command()
@click.argument("model", type=model_path, default=str(DEFAULT_MODEL))
@backend_option
@provider_option
@device_option
def info(model: Path, backend: str, provider: str | None, device: str) -> None:
    """Print the contract of MODEL (default: the packaged model flowers) and its engine on this machine, as JSON.

    Of an engine that this machine cannot run, "engine" is null and "note" says why.
    """
    from infer.backends import open_model
    from infer.backends.base import UnsuitedMachineError

    opened = open_model(model, device, backend=backend, provider=provider)
    with ExitStack() as stack:
        try:
            spec, engine = stack.enter_context(opened).spec, opened.engine
            note = opened.note
        except UnsuitedMachineError as error:  # the sidecar has vouched for the file
            assert opened.sidecar is not None
            spec, engine = opened.sidecar.spec, None
            note = f"cannot run here: {error}"
        values: dict[str, Any] = {
            "file": str(opened.path),
            "bytes": opened.path.stat().st_size if opened.path.is_file() else None,
            "engine": engine,
            "note": note,
            "fixed_size": opened.fixed_size,
            "checkpoint": opened.checkpoint or "unknown",
            "spec": spec.to_json(),
            "sidecar": opened.sidecar
            and {name: value for name, value in opened.sidecar.to_json().items() if name != "spec"},
        }
    print_json(values)


command.add_command(parity)
command.add_command(evaluate)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of cgan-infer."""
    run_command(command, arguments, "cgan-infer")
