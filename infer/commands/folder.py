"""The command `cgan-infer folder`."""

import os
import sys
from pathlib import Path, PurePath
from typing import Any

import click

from cgan.errors import UserError
from infer.backends.cli_options import NumberRange
from infer.commands.coloring_options import MOST, ShardType, coloring_options, request_values
from infer.commands.photos import STREAM, names_from

MOST_ACTORS = 10_000
SHARE = NumberRange(0.01, 1024)


@click.command()
@click.argument("sources", nargs=-1, type=click.Path(), metavar="INPUT...")
@click.argument("target", type=click.Path(), metavar="OUTPUT")
@coloring_options
@click.option("--overwrite", is_flag=True, help="Make all outputs again, and replace files that no run wrote.")
@click.option("--checksum", is_flag=True, help="Detect changed photos by content, not by size and time.")
@click.option(
    "--check-parity",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="First compare the model with RUN on photos of INPUT; write nothing if they differ.",
)
@click.option("--report", type=click.Path(path_type=Path), help="JSON report.  [default: OUTPUT/report.json]")
@click.option("--manifest", is_flag=True, help="Write OUTPUT/manifest-sha256.txt and OUTPUT/report.csv too.")
@click.option("--max-failures", type=click.IntRange(0, MOST), help="Stop when more files than this have failed.")
@click.option(
    "--shard",
    type=ShardType(),
    metavar="K/N",
    help="Colour the K-th of N shares of the photos; merge-reports sums up the reports of all.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Colour in this process, or in the processes of a Ray cluster, which share INPUT and OUTPUT.",
)
@click.option("--ray-address", metavar="HOST:PORT", help="The cluster.  [default: $RAY_ADDRESS, or this machine alone]")
@click.option("--actors", type=click.IntRange(1, MOST_ACTORS), help="Processes.  [default: as many as find room]")
@click.option("--cpus-per-actor", type=SHARE, help="CPUs of each.  [default: all of a machine, or its share of a GPU]")
@click.option("--gpus-per-actor", type=SHARE, help="GPUs of each.  [default: 1 where there are GPUs, else 0]")
@click.option("--dry-run", is_flag=True, help="Print what would be done with each file; write nothing.")
@click.option("--watch", is_flag=True, help="Keep running, and colour files as they arrive.")
@click.option("--log-json", is_flag=True, help="Write JSON objects to standard output, one per line, for programs.")
def folder(
    sources: tuple[str, ...],
    target: str,
    files_from: str | None,
    null: bool,
    dry_run: bool,
    log_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Colour every photo below INPUT into the same place below OUTPUT.

    INPUT is a folder or a photo, or several, which keep their places below the folder that they share. INPUT and OUTPUT
    can be fsspec URLs such as s3://bucket/photos. For one photo, OUTPUT can be the name of a file, such as out.jpg. A
    journal in OUTPUT records finished photos: the same command again colours only missing ones, and those for which
    the photo, the model or options have changed. Exit code 1: some files failed; OUTPUT/report.json lists them with
    reasons.
    """
    inputs = (*sources, *names_from(files_from, null))
    if not inputs:
        raise UserError(f"found only {target}, expected INPUT and OUTPUT: cgan-infer folder {target} OUTPUT")
    if model := next((name for name in sources if PurePath(name).suffix in (".onnx", ".plan")), None):
        raise UserError(f"{model}: found a model, expected photos; does a pattern for --model match several files?")
    if STREAM in inputs:
        raise UserError("-: found standard input, expected files and folders; write cgan-infer - < PHOTO > OUTPUT")
    _refuse_useless(given, "--dry-run", ("watch", "check_parity", "report", "manifest"), dry_run)

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the workers already use all cores
    from infer.folder.console import Console
    from infer.folder.dry_run import show_plan
    from infer.folder.folder_run import run_folder
    from infer.folder.photo_run import color_one, is_for_one_photo
    from infer.folder.request import ColoringRequest, FolderRequest

    ray = _ray_options(given)
    console, values = Console(quiet, log_json), request_values(given)
    if is_for_one_photo(inputs, target):
        of_folders = ("watch", "check_parity", "report", "manifest", "checksum", "shard")
        of_runs = {"dry_run": dry_run, "engine ray": ray is not None}
        _refuse_useless(given | of_runs, "a file as OUTPUT", (*of_folders, *of_runs))
        request = ColoringRequest(**{name: value for name, value in values.items() if name not in of_folders})
        sys.exit(color_one(request, inputs[0], target, console))
    request = FolderRequest(sources=inputs, target=target, ray=ray, **values)
    sys.exit((show_plan if dry_run else run_folder)(request, console))


def _ray_options(given: dict[str, Any]) -> Any:
    """Take the options of a cluster out of those given; return None for a run in this process."""
    from infer.folder.request import RayOptions

    names = {"ray_address": "address", "actors": "actors", "cpus_per_actor": "cpus", "gpus_per_actor": "gpus"}
    engine = given.pop("engine")
    _refuse_useless(given, "--engine local", tuple(names), engine == "local")
    options = {field: given.pop(name) for name, field in names.items()}
    return RayOptions(**options) if engine == "ray" else None


def _refuse_useless(given: dict[str, Any], beside: str, names: tuple[str, ...], here: bool = True) -> None:
    """Refuse the first of some options that was given, if it has no effect beside what is here.

    Raises:
        UserError: one was given.
    """
    if here and (name := next((name for name in names if given[name]), None)):
        raise UserError(f"--{name.replace('_', '-')}: it has no effect with {beside}; leave one out")
