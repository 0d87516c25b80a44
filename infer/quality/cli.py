"""The commands `cgan-infer parity` and `cgan-infer evaluate`. Numpy, torch and engines are imported when they run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cgan.config import INCEPTION
from cgan.documents import check_document, json_with, write_document
from cgan.errors import GateError, UserError, cannot_write
from cgan.extras import needed
from cgan.progress import Progress
from cgan.text import counted, json_text, print_result, say
from cgan.user_folders import cache_folder
from infer.backends.cli_options import BATCH_SIZES, WORKERS, backend_option, device_option, provider_option
from infer.commands.coloring_options import MODEL

if TYPE_CHECKING:
    from cgan.metrics.features import FeatureNetwork
    from infer.quality.parity import Parity

MOST_UNREADABLE = 0.05
"""Share of unreadable photos above which a command fails, because its figures do not represent the given photos."""

IS_FIGURES = json_with(frozenset({"figures", "photos", "failed"}))
"""Recognises an earlier --json file of either command."""

F = TypeVar("F", bound=Callable[..., Any])

_SHARED = [
    backend_option,
    provider_option,
    device_option,
    click.option("--batch-size", type=BATCH_SIZES, help="Photos per batch."),
    click.option("--workers", type=WORKERS, help="Threads.  [default: all cores]"),
    click.option("--no-fid", is_flag=True, help="Leave out FID and KID; no feature network is needed."),
    click.option(
        "--inception-weights",
        type=click.Path(path_type=Path),
        help="Inception v3 state dict for FID and KID.  [default: the one in torch's hub cache]",
    ),
    click.option(
        "--features",
        metavar="NAME",
        default=INCEPTION,
        show_default=True,
        help="Feature network of the distances: inception, efficientnet-lite2, or an ONNX file that maps float32 "
        "N x 3 x H x W in [0, 1] to N features. Only those of inception are called FID and KID.",
    ),
    click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file."),
]


def _shared(function: F) -> F:
    """Add the options that both commands share."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


@click.command()
@click.argument("candidate", type=MODEL)
@click.option("--reference", type=click.Path(path_type=Path), required=True, help="Run or checkpoint of cgan-train.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of photos, searched recursively.")
@click.option("--max-fid-delta", type=float, help="Largest difference of the FIDs to the photos.  [default: 1]")
@click.option("--min-psnr", type=float, help="Least PSNR in dB over all values.  [default: 60, int8 48]")
@click.option(
    "--max-delta-e", type=float, help="Largest 99th percentile of CIEDE2000 over all pixels.  [default: 0.5, int8 2]"
)
@_shared
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with the worst photos to this file.")
@click.option("--quiet", is_flag=True, help="No progress and no table, only the gates that failed.")
def parity(candidate: Path, reference: Path, data: Path, html: Path | None, quiet: bool, **given: Any) -> None:
    """Compare CANDIDATE with the run it was exported from, over the photos in a folder.

    PyTorch on the run and the candidate get the same input from the same code. Exit code 0: every gate passed; 1: at
    least one failed, or more than 5% of the photos cannot be read.
    """
    _check_targets(given["json_file"], html, candidate, reference, Path(given["features"]), given["inception_weights"])
    with needed("measuring models", "train"):
        from infer.photo.decode import use_own_pixel_limit
        from infer.quality.gates import Gates
        from infer.quality.parity import THREADS, check_parity
        from infer.quality.photos import photos_below

    if given["no_fid"] and given["max_fid_delta"] is not None:
        raise UserError(f"--max-fid-delta {given['max_fid_delta']:g}: it has no effect with --no-fid; leave one out")
    if given["features"] != INCEPTION and given["max_fid_delta"] is None and not given["no_fid"]:
        raise UserError(
            f"--features {given['features']}: found no --max-fid-delta, whose default is for Inception alone; give "
            "one, for instance the difference between two epochs of the run"
        )
    gates = Gates(**{name: given[name] for name in ("max_fid_delta", "min_psnr", "max_delta_e")})
    network = _network(given)
    if network and network.name is not None and given["max_fid_delta"] is None:
        raise UserError(
            f"--inception-weights {given['inception_weights']}: found no --max-fid-delta, whose default is for the "
            "published weights alone; give one, for instance the difference between two epochs of the run"
        )
    use_own_pixel_limit()
    with _opened(candidate, given, THREADS) as model, _progress(quiet) as progress:
        result = check_parity(
            model,
            reference,
            photos_below(data),
            gates,
            features=network,
            cache=cache_folder(),
            device=given["device"],
            batch_size=given["batch_size"],
            workers=given["workers"],
            progress=progress,
            pictures=html is not None,
        )
    _report(quiet, result.table(), result.notes(), result.failures)
    if given["json_file"]:
        _write_json(given["json_file"], result.to_json())
    if html:
        _write_html(result, html)
    if not result.passed:
        raise GateError(result.refusal())
    _check_readable(result.photos, result.failures)


@click.command()
@click.argument("model", type=MODEL)
@click.argument("data", type=click.Path(path_type=Path))
@_shared
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Earlier --json file of the same photos; print the differences from it.",
)
@click.option("--quiet", is_flag=True, help="No progress and no table.")
def evaluate(model: Path, data: Path, against: Path | None, quiet: bool, **given: Any) -> None:
    """Measure how close the colours of MODEL are to those of the photos in the folder DATA.

    MODEL is a run, a checkpoint, an ONNX file, an engine, the name of a packaged model or hf://OWNER/NAME. Use photos
    that it was not trained on. Exit code 1: more than 5% of the photos cannot be read.
    """
    _check_targets(given["json_file"], None, model, Path(given["features"]), given["inception_weights"])
    with needed("measuring models", "train"):
        from infer.photo.decode import use_own_pixel_limit
        from infer.quality.evaluate import evaluate as measure
        from infer.quality.evaluate import read_figures
        from infer.quality.photos import photos_below
    network = _network(given)
    former = read_figures(against) if against else {}
    use_own_pixel_limit()
    with _opened(model, given, 1) as backend, _progress(quiet) as progress:
        result = measure(
            backend,
            photos_below(data),
            features=network,
            cache=cache_folder(),
            batch_size=given["batch_size"],
            workers=given["workers"],
            progress=progress,
        )
    values = result.to_json()
    table = result.table()
    refusal: UserError | None = None
    if against:
        try:
            values["differences"] = result.against(former)
            table += ["", f"minus {against}", *(f"{n:<30}{d:+.6g}" for n, d in values["differences"].items())]
        except UserError as error:  # the figures are printed and written all the same
            refusal = error
    _report(quiet, table, result.notes(), result.failures)
    if given["json_file"]:
        _write_json(given["json_file"], values)
    if refusal:
        raise UserError(f"--against {against}: {refusal}") from refusal
    _check_readable(result.photos, result.failures)


def _check_targets(json_file: Path | None, html: Path | None, *others: Path | None) -> None:
    """Check, before anything slow begins, that the outputs can be written and replace only earlier outputs.

    Args:
        json_file: value of --json.
        html: value of --html.
        others: files that the command reads.

    Raises:
        UserError: an output cannot be written, or would replace another file.
        GateError: the disk is full.
    """
    read = [path for path in others if path is not None]
    if json_file is not None:
        check_document(json_file, IS_FIGURES, "--json", read)
    if html is not None:
        with needed("--html", "train"):
            from infer.quality.page import is_page
        check_document(html, is_page, "--html", [*read, *filter(None, [json_file])])


def _check_readable(photos: int, failures: dict[str, str]) -> None:
    """Check that nearly all photos were measured.

    Raises:
        GateError: the share of unreadable photos exceeds MOST_UNREADABLE.
    """
    if len(failures) > MOST_UNREADABLE * (total := photos + len(failures)):
        raise GateError(
            f"{len(failures)} of {counted(total, 'photo')} cannot be read, more than {MOST_UNREADABLE:.0%}, so the "
            "figures do not represent these photos; repair the photos or remove them"
        )


def _network(given: dict[str, Any]) -> "FeatureNetwork | None":
    """Load the requested feature network, None with --no-fid.

    Raises:
        UserError: options contradict each other, or the network cannot be loaded.
    """
    if given["no_fid"]:
        for name, default in (("features", INCEPTION), ("inception_weights", None)):
            if given[name] != default:
                raise UserError(
                    f"--{name.replace('_', '-')} {given[name]}: it has no effect with --no-fid; leave one out"
                )
    from cgan.metrics.features import load_features

    return None if given["no_fid"] else load_features(given["inception_weights"], given["features"])


@contextmanager
def _opened(path: Path, given: dict[str, Any], threads: int) -> Iterator[Any]:
    """Enter the model; its note is printed on exit."""
    from infer.backends import open_model

    with open_model(path, given["device"], threads, backend=given["backend"], provider=given["provider"]) as model:
        if model.pads:
            model.batch_size = given["batch_size"]
        yield model
        if model.note:
            say(f"note: {model.note}")


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield the callback that shows progress."""
    with Progress(quiet) as progress:
        yield lambda done, total: progress.update(done, total, f"{done}/{counted(total, 'photo')}")


def _report(quiet: bool, table: list[str], notes: list[str], failures: dict[str, str]) -> None:
    from infer.folder.console import SHOWN_FAILURES

    if not quiet:
        print_result(*table)
        say(*(f"note: {note}" for note in notes))
    for name, reason in list(failures.items())[:SHOWN_FAILURES]:
        say(f"warning: passed over {name}: {reason}")
    if len(failures) > SHOWN_FAILURES:
        say(f"warning: and {len(failures) - SHOWN_FAILURES} more, all of them in --json")


def _write_html(result: "Parity", path: Path) -> None:
    from infer.quality.page import write_html  # needs jinja2, which only --html asks for

    write_html(result, path, click.get_current_context().obj)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    try:
        write_document(path, (json_text(values, indent=2) + "\n").encode(), IS_FIGURES)
    except OSError as error:
        raise cannot_write(path, error) from error
