"""The command cgan-infer. Numpy, Pillow and the engines are imported only by the work itself."""

import json
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgan.spec import GateError, atomic_path, cannot_write, exit_on_user_error

if TYPE_CHECKING:
    from infer.backends.base import Backend
    from infer.jobs import Plan
    from infer.pipeline import FolderOptions, Outcome

PLAIN_SECONDS = 30
"""Where there is no terminal, a line of progress is printed this often."""

SHOWN_FAILURES = 20
"""Failures listed on screen; the report has all."""

CPU_BATCH, GPU_BATCH = 4, 64

FORMAT_CHOICES = ("same", "jpg", "png", "webp", "tiff")
""""same" and the keys of `infer.images.WRITE_FORMATS`, repeated so that --help stays quick (a test compares them)."""

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the model runs; auto is cuda where a GPU is present. A device that is not here is an error.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cgan")
def command() -> None:
    """Colour grayscale photos with an exported model."""


@command.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUTPUT", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Model file.  [default: the one in the package]")
@device_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help=f"Photos in a run of the model.  [default: up to {CPU_BATCH}, on a GPU {GPU_BATCH}]",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Threads that decode, run the model and encode.  [default: all cores]"
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMAT_CHOICES),
    default="same",
    show_default=True,
    help="Output format; with same, formats without colour become png.",
)
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of JPEG and WebP outputs.")
@click.option(
    "--resolution",
    type=click.Choice(["original", "model"]),
    default="original",
    show_default=True,
    help="The photo's own size and luma, or the network's raw output.",
)
@click.option("--overwrite", is_flag=True, help="Make outputs again that are there.")
@click.option("--report", type=click.Path(path_type=Path), help="JSON report.  [default: OUTPUT/report.json]")
@click.option("--max-failures", type=click.IntRange(min=0), help="Stop after more failed files than this.")
@click.option("--max-pixels", type=click.IntRange(min=1), help="Refuse larger photos.  [default: 268435456]")
@click.option("--quiet", is_flag=True, help="Only failures and errors.")
def folder(
    source: Path,
    target: Path,
    model: Path | None,
    device: str,
    batch_size: int | None,
    workers: int | None,
    format_: str,
    quality: int,
    resolution: str,
    overwrite: bool,
    report: Path | None,
    max_failures: int | None,
    max_pixels: int | None,
    quiet: bool,
) -> None:
    """Colour every photo below INPUT into the same place below OUTPUT.

    Photos whose output is there are skipped. Exit code 1 means that some files failed; OUTPUT/report.json
    names each with the reason.
    """
    from PIL import Image

    from infer.backends import DEFAULT_MODEL, open_model
    from infer.images import MAX_PIXELS
    from infer.jobs import make_plan
    from infer.pipeline import FolderOptions, color_folder

    Image.MAX_IMAGE_PIXELS = None  # --max-pixels takes the place of Pillow's own limit
    warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file; what matters fails the file
    try:
        plan = make_plan(source, target, format_)
    except KeyboardInterrupt:
        sys.exit(130)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or cores
    threads = max(1, cores // workers)
    with open_model(model or DEFAULT_MODEL, device, threads) as backend, _stop_on_interrupt() as stop:
        on_gpu = "CPU" not in backend.engine
        # No worker should be without a batch while another has several photos.
        share = -(-len(plan.jobs) // workers)
        options = FolderOptions(
            batch_size=batch_size or (GPU_BATCH if on_gpu else min(CPU_BATCH, share)),
            workers=workers,
            streams=1 if on_gpu else workers + 1,  # one that waits, for the worker that is ready first
            quality=quality,
            resolution=resolution,
            overwrite=overwrite,
            max_failures=max_failures,
            max_pixels=max_pixels or MAX_PIXELS,
        )
        report = report or target / "report.json"
        _check_writable(target, report)
        _announce(plan, backend, options, quiet)
        with _Progress(len(plan.jobs), quiet) as progress:
            try:
                outcome = color_folder(plan.jobs, target, backend, options, progress.update, stop.event)
            except OSError as error:
                raise cannot_write(target, error) from error
        outcome.failed.update(plan.unreadable)
        _summary(plan, outcome, report, quiet)
        _write_report(report, _report(plan, outcome, backend, options, format_))
    if stop.event.is_set():
        sys.exit(130)
    if outcome.failed or outcome.stopped:
        sys.exit(1)


@command.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@device_option
def info(model: Path | None, device: str) -> None:
    """Print the contract of MODEL (default: the one in the package) and what would run it here, as JSON."""
    from infer.backends import DEFAULT_MODEL, open_model

    with open_model(model or DEFAULT_MODEL, device) as backend:
        values: dict[str, Any] = {
            "file": str(backend.path),
            "bytes": backend.path.stat().st_size,
            "engine": backend.engine,
            "note": backend.note,
            "fixed_size": backend.fixed_size,
            "spec": backend.spec.to_json(),
            "sidecar": backend.sidecar
            and {name: value for name, value in backend.sidecar.to_json().items() if name != "spec"},
        }
    print(json.dumps(values, indent=2))


class _stop_on_interrupt:  # noqa: N801 (used like a function)
    """The first Ctrl-C sets an event, so that files under way are finished; the second interrupts."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __enter__(self) -> "_stop_on_interrupt":
        self.previous = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.previous)

    def _interrupt(self, *_: object) -> None:
        self.event.set()
        _say("finishing the photos under way; Ctrl-C again to stop at once")
        signal.signal(signal.SIGINT, self.previous)


class _Progress:
    """A tqdm bar on a terminal, otherwise a line each PLAIN_SECONDS."""

    def __init__(self, total: int, quiet: bool) -> None:
        from tqdm import tqdm

        self.total = total
        self.lines = not quiet and not sys.stderr.isatty()
        self.bar = tqdm(total=total, unit="img", disable=quiet or self.lines)
        self.last_line = time.monotonic()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, outcome: "Outcome") -> None:
        """Count one more file."""
        done, skipped, failed = len(outcome.done), len(outcome.skipped), len(outcome.failed)
        if not self.bar.disable:
            self.bar.set_postfix(skipped=skipped, failed=failed, refresh=False)
            self.bar.update(1)
        elif self.lines and time.monotonic() - self.last_line > PLAIN_SECONDS:
            self.last_line = time.monotonic()
            _say(f"{done + skipped + failed}/{self.total}  done {done}  skipped {skipped}  failed {failed}")


def _announce(plan: "Plan", backend: "Backend", options: "FolderOptions", quiet: bool) -> None:
    """What is about to happen, and on what; a device other than the one that "auto" stands for is said in any case."""
    if backend.note:
        _say(f"note: {backend.note}")
    if quiet:
        return
    _say(
        f"{len(plan.jobs)} photos; {backend.path.name} on {backend.engine}; "
        f"batch {options.batch_size}, {options.workers} workers"
    )
    if backend.sidecar is None:
        _say(f"note: no {backend.path.name}.json beside the model, so nothing vouches for it")


def _report(
    plan: "Plan", outcome: "Outcome", backend: "Backend", options: "FolderOptions", format_: str
) -> dict[str, Any]:
    from dataclasses import asdict

    from cgan import __version__

    begun = len(outcome.done) + len(outcome.skipped) + len(outcome.failed) - len(plan.unreadable)
    return {
        "photos": len(plan.jobs),
        "done": len(outcome.done),
        "skipped": len(outcome.skipped),
        "failed": len(outcome.failed),
        "not_begun": len(plan.jobs) - begun,
        "stopped": outcome.stopped,
        "failures": outcome.failed,
        "notes": outcome.notes,
        "passed_over": plan.passed_over,
        "other_files": plan.other_files,
        "seconds": round(outcome.seconds, 3),
        "images_per_second": round(len(outcome.done) / outcome.seconds, 2),
        "options": {**asdict(options), "format": format_},
        "model": {
            "file": str(backend.path),
            "engine": backend.engine,
            "note": backend.note,
            "spec": backend.spec.to_json(),
        },
        "version": __version__,
    }


def _write_report(path: Path, values: dict[str, Any]) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise GateError(f"{path}: the report cannot be written ({error}); the photos above are done") from error


def _check_writable(target: Path, report: Path) -> None:
    """Before the first photo, so that a night's work does not end without its report."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=report.parent):
            pass
    except OSError as error:
        raise cannot_write(report.parent, error) from error


def _summary(plan: "Plan", outcome: "Outcome", report: Path, quiet: bool) -> None:
    for number, (name, reason) in enumerate(outcome.failed.items()):
        if number == SHOWN_FAILURES:
            _say(f"failed: {len(outcome.failed) - number} more, see {report}")
            break
        _say(f"failed: {name}: {reason}")
    if outcome.stopped:
        _say(f"stopped: {outcome.stopped}; run the same command again to go on")
    if not quiet:
        for name, reason in plan.passed_over.items():
            _say(f"passed over: {name}: {reason}")
        speed = len(outcome.done) / outcome.seconds
        _say(
            f"done {len(outcome.done)}, skipped {len(outcome.skipped)}, failed {len(outcome.failed)}"
            f"; {speed:.1f} images/s; {plan.other_files} other files left alone; report in {report}"
        )


def _say(line: str) -> None:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)
    print(shown, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of cgan-infer."""
    with exit_on_user_error():
        command(arguments, prog_name="cgan-infer")
