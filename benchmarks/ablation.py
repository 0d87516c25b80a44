"""Experiments of the original report, each a run of cgan-train.

    python -m benchmarks ablation PHOTOS --out FOLDER [--rows comparison,weight-8] [--pictures FOLDER] [--quick] \\
        [-- OPTIONS OF CGAN-TRAIN]

FOLDER gets a run folder for each row and, after every row, ablation.md, ablation.json and ablation.png with the numbers
of the original report beside the measured ones, and grids/ with the last sample grids of each row: the first 20
held-out photos and the next 20. With --pictures, pictures/ gets a strip of other photos for each row. The same command
continues where it stopped, also where only request.json and metrics.jsonl of finished rows were brought from another
machine; other rows can be added, other photos and options are refused. --quick trains small networks on at most 300
photos: it shows that every row runs, not which row is better.
"""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure

from benchmarks.ablation_pictures import draw_strip
from benchmarks.command import benchmark
from benchmarks.records import record
from cgan.data.scan import scan
from cgan.errors import UserError
from cgan.files import atomic_path
from cgan.metrics.measurement import DISTANCES
from cgan.training.figures import scalar

QUICK_PHOTOS = 300
QUICK_OPTIONS = ("--width", "8", "--size", "64", "--batch-size", "16", "--test-fraction", "0.1")
REQUEST_FILE = "request.json"
"""File in --out with the options that its runs were started with."""
REPORT_TEST_PHOTOS = 164
"""Held-out photos behind the FID of the original report."""


@dataclass(frozen=True)
class Row:
    """One experiment of the original report."""

    group: str
    name: str
    """Name of its run folder."""
    title: str
    options: tuple[str, ...]
    epochs: int
    report_fid: float | None
    """FID in the original report, None where it has none."""


def train_options(color_space: str, discriminator: str, l1_weight: float, *more: str) -> tuple[str, ...]:
    """Return options of cgan-train for a row."""
    return (
        *("--color-space", color_space, "--discriminator", discriminator, "--l1-weight", f"{l1_weight:g}"),
        *more,
    )


def report_rows() -> list[Row]:
    """Return every experiment of the original report, in its order."""
    bce = {
        "dense": {"rgb": 68.78, "hsv": 64.45, "ycbcr": 62.7},
        "patch": {"rgb": 55.38, "hsv": 68.42, "ycbcr": 59.67},
        "unet": {"rgb": 59.8, "hsv": 92.19, "ycbcr": 54.73},
    }
    wasserstein = {"patch": {"rgb": 71.78, "ycbcr": 66.23}, "unet": {"rgb": 75.19, "ycbcr": 52.77}}
    rows = []
    for group, loss, table in (("comparison", "bce", bce), ("wasserstein", "wasserstein", wasserstein)):
        for discriminator, spaces in table.items():
            for space, fid in spaces.items():
                options = train_options(space, discriminator, 100, "--gan-loss", loss)
                title = f"{discriminator}, {space}" + (", Wasserstein" if loss == "wasserstein" else "")
                rows.append(Row(group, f"{discriminator}-{space}-{loss}", title, options, 10, fid))
    no_gan = ("--discriminator", "none", "--l1-weight", "100", "--batch-size", "32")
    rows.append(Row("no-gan", "l1-only", "no GAN, rgb, L1 only", no_gan, 30, 87.99))
    for weight in (2**power for power in range(11)):
        options = train_options("rgb", "unet", weight)
        reported = 54.2 if weight == 512 else None
        rows.append(Row("weights", f"weight-{weight}", f"unet, rgb, L1 weight {weight}", options, 10, reported))
    for name, title, *more in VARIANTS:
        rows.append(Row("variants", name, f"unet, rgb, {title}", train_options("rgb", "unet", 100, *more), 10, None))
    for space in ("hsv", "ycbcr"):
        options = train_options(space, "unet", 100, "--loss-space", "rgb")
        rows.append(Row("rgb-loss", f"unet-{space}-rgb-loss", f"unet, {space}, losses in RGB", options, 10, None))
    projected = ("--discriminator", "projected")  # with its own weight of L1
    rows.append(Row("projected", "projected", "projected, rgb", projected, 10, None))
    rows.append(Row("final", "final", "unet, rgb, L1 weight 512, final", train_options("rgb", "unet", 512), 100, 39.51))
    return rows


VARIANTS = (
    ("deeper", "two blocks a scale", "--blocks", "2", "--discriminator-blocks", "2"),
    ("truncated", "discriminator of 3 scales", "--discriminator-scales", "3"),
    ("wider", "discriminator of width 64", "--discriminator-width", "64"),
    ("r1", "R1 penalty", "--r1", "10"),
    ("spectral-norm", "spectral norm", "--spectral-norm"),
)
"""Name, title and options of changes to the U-Net discriminator. The report tried the first three, and published no
figures of them; the others are known remedies."""

GROUPS = tuple(dict.fromkeys(row.group for row in report_rows()))


@benchmark
@click.argument("photos", type=click.Path(path_type=Path))
@click.argument("train_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for runs, table and chart.")
@click.option(
    "--rows",
    "wanted",
    default=",".join(group for group in GROUPS if group != "final"),
    show_default=True,
    help=f"Experiments to run: groups, of {', '.join(GROUPS)}, or names of rows, such as weight-8.",
)
@click.option("--fid/--no-fid", default=True, help="Measure FID and KID; needs Inception v3 weights.")
@click.option("--pictures", type=click.Path(path_type=Path), help="Photos that every row colours, for OUT/pictures.")
@click.option("--quick", is_flag=True, help=f"At most {QUICK_PHOTOS} photos, small networks, one epoch for ten.")
def main(
    photos: Path,
    train_options: tuple[str, ...],
    out: Path,
    wanted: str,
    fid: bool,
    pictures: Path | None,
    quick: bool,
) -> None:
    """Train every experiment on PHOTOS and write the table; options after -- go to cgan-train."""
    rows = chosen_rows(wanted.split(","))
    paths = scan(photos)
    extra = (*(QUICK_OPTIONS if quick else ()), *(() if fid else ("--no-fid",)), *train_options)
    refuse_bad_options(photos, out, extra)
    begin(out, {"photos": digest_of(photos, paths), "quick": quick, "fid": fid, "options": list(train_options)})
    if quick:
        photos = sample(photos, out / "photos")
    failures: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        print(f"{number}/{len(rows)} {row.title}", flush=True)
        epochs = max(1, row.epochs // 10) if quick else row.epochs
        if problem := train(row, photos, out / "runs" / row.name, epochs, extra):
            failures[row.name] = problem
            print(f"  failed: {problem}", flush=True)
        elif pictures and (out / "runs" / row.name / "checkpoints").is_dir():
            draw_strip(out / "runs" / row.name, pictures, out / "pictures" / f"{row.name}.jpg")
        copy_grids(out / "runs" / row.name, out / "grids")
        write_results(out, rows[:number], failures, quick)
    print((out / "ablation.md").read_text())
    sys.exit(1 if failures else 0)


def chosen_rows(wanted: Sequence[str]) -> list[Row]:
    """Return the experiments of some groups, and those of some names, in the order of the report.

    Raises:
        UserError: there is no such group or row.
    """
    rows = report_rows()
    if unknown := sorted(set(wanted) - set(GROUPS) - {row.name for row in rows}):
        names = ", ".join(row.name for row in rows)
        raise UserError(f"--rows: found {', '.join(unknown)}, expected some of {', '.join(GROUPS)}, or of {names}")
    return [row for row in rows if {row.group, row.name} & set(wanted)]


def digest_of(folder: Path, paths: Sequence[Path]) -> str:
    """Return a digest of names and sizes of photos, which is the same wherever the folder lies."""
    lines = (f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def begin(out: Path, request: dict[str, Any]) -> None:
    """Make the folder, or continue in one with the same request, where finished rows are kept.

    Raises:
        UserError: the folder has runs of another request, or is a file.
    """
    file = out / REQUEST_FILE
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: found a file, expected a folder; choose another")
    if any(out.glob("runs/*/config.json")):
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError):
            found = None
        if found != request:
            what = "that nobody knows" if found is None else json.dumps(found)
            raise UserError(
                f"--out {out}: found runs of a request {what}, asked was {json.dumps(request)}; ask for the same or "
                "choose another folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as path:
        path.write_text(json.dumps(request, indent=2) + "\n")


def sample(photos: Path, folder: Path) -> Path:
    """Fill a folder with links to QUICK_PHOTOS photos, the same ones each time, and return it."""
    if not folder.exists():
        folder.mkdir()
        found = scan(photos)
        for i, path in enumerate(random.Random(0).sample(found, min(QUICK_PHOTOS, len(found)))):
            (folder / f"{i:04d}{path.suffix}").symlink_to(path.resolve())
    return folder


def train(row: Row, photos: Path, run: Path, epochs: int, extra: Sequence[str]) -> str | None:
    """Train or resume the run of a row; return the reason if that failed, else None."""
    if len(history_of(run)) >= epochs:
        return None
    resume = ["--resume"] if (run / "config.json").exists() else []
    # Options of the user come last, so they override those of the row.
    arguments = [photos, "--out", run, "--epochs", epochs, *row.options, *extra, *resume, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "cgan", *map(str, arguments)], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode in (130, -2):
        raise KeyboardInterrupt
    return done.stderr.strip().splitlines()[-1].removeprefix("error: ") if done.returncode else None


def refuse_bad_options(photos: Path, out: Path, extra: Sequence[str]) -> None:
    """Try the options of all rows, and the feature network, with a dry run.

    Raises:
        UserError: cgan-train refuses them; its last line is the reason.
    """
    arguments = [photos, "--out", out / "runs" / ".options", *extra, "--dry-run", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "cgan", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))


def copy_grids(run: Path, folder: Path) -> None:
    """Copy the sample grids of a run's last epoch, if it has any: RUN.png and RUN-next.png."""
    for kind in ("", "-next"):
        if grids := sorted((run / "samples").glob(f"epoch-[0-9]*[0-9]{kind}.png")):
            folder.mkdir(exist_ok=True)
            with atomic_path(folder / f"{run.name}{kind}.png") as path:
                shutil.copyfile(grids[-1], path)


def history_of(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of the finished epochs of a run."""
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write_results(out: Path, rows: list[Row], failures: dict[str, str], quick: bool) -> None:
    """Write table, JSON and chart of the rows so far."""
    measured = {row.name: history_of(out / "runs" / row.name)[-1:] for row in rows}
    results = [(row, measured[row.name][0] if measured[row.name] else None) for row in rows]
    values = [
        {"name": row.name, "title": row.title, "options": row.options, "report_fid": row.report_fid, "metrics": metrics}
        | ({"failed": failures[row.name]} if row.name in failures else {})
        for row, metrics in results
    ]
    with atomic_path(out / "ablation.json") as path:
        path.write_text(json.dumps(record(quick=quick, rows=values), indent=2) + "\n")
    with atomic_path(out / "ablation.md") as path:
        path.write_text(markdown(results, failures))
    with atomic_path(out / "ablation.png") as path:
        chart(results, path)


def markdown(results: list[tuple[Row, dict[str, Any] | None]], failures: dict[str, str]) -> str:
    """Return the table, and a line that says how FID was measured."""
    measured = [metrics for _, metrics in results if metrics]
    fid_name, kid_name = (_name(measured, kind) for kind in ("fid", "kid"))
    lines = [
        f"| experiment | epochs | {fid_name} | FID in the original report | {kid_name} | L1 | PSNR, dB "
        "| colourfulness / real | images/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    fingerprint = "FID and KID were not measured."
    for row, metrics in results:
        report = "" if row.report_fid is None else f"{row.report_fid}"
        if metrics is None:
            lines.append(f"| {row.title} | failed: {failures.get(row.name, 'not run')} | | {report} | | | | | |")
            continue
        fid, kid = _distance(metrics, "fid"), _distance(metrics, "kid")
        if fid:
            fingerprint = (
                f"{fid_name} and {kid_name} on {fid['photos']} held-out photos, {fid['network']}, weights sha256 "
                f"{fid['weights_sha256'][:16]}, {fid['resize']}; "
                f"that of the original report on {REPORT_TEST_PHOTOS} other photos."
            )
        cells = [
            row.title,
            f"{metrics['epoch']}",
            f"{fid['value']:.2f}" if fid else "",
            report,
            f"{kid['value']:.4f}" if kid else "",
            f"{metrics['test_l1']:.4f}",
            f"{metrics['test_psnr']:.2f}" if metrics["test_psnr"] is not None else "",
            f"{metrics['test_colorfulness'] / metrics['test_real_colorfulness']:.2f}",
            f"{metrics['images_per_second']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", fingerprint, ""])


def _distance(metrics: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """Return FID or KID, or the same distance over the features of another network, which its "metric" names."""
    found: dict[str, Any] | None = metrics.get(f"test_{kind}") or metrics.get(f"test_{DISTANCES[kind][1]}")
    return found


def _name(measured: list[dict[str, Any]], kind: str) -> str:
    """Return the name of a distance in the rows that have it."""
    found = next(filter(None, (_distance(metrics, kind) for metrics in measured)), None)
    return found["metric"] if found else DISTANCES[kind][0]


def chart(results: list[tuple[Row, dict[str, Any] | None]], path: Path) -> None:
    """Draw the measured FID, or else PSNR, beside the FID of the original report."""
    rows = [(row, metrics) for row, metrics in results if metrics]
    distances = [_distance(metrics, "fid") for _, metrics in rows]
    with_fid = any(distances)
    label = f"{_name([metrics for _, metrics in rows], 'fid')} here" if with_fid else "PSNR here, dB"
    values = distances if with_fid else [metrics["test_psnr"] for _, metrics in rows]
    titles = [row.title for row, _ in rows]
    figure = Figure(figsize=(10, 1 + 0.3 * len(rows)), layout="constrained")
    here, report = figure.subplots(1, 2, sharey=True)
    here.barh(titles, [scalar(value or 0.0) for value in values])
    here.set_xlabel(label)
    here.invert_yaxis()
    report.barh(titles, [row.report_fid or 0.0 for row, _ in rows], color="tab:gray")
    report.set_xlabel("FID in the original report")
    figure.savefig(path, format="png", dpi=100)
