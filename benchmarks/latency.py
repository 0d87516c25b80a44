"""Latency and accuracy of models by backend and batch size.

    python -m benchmarks latency [MODEL[@BACKEND[:PROVIDER]] ...] [--batch 1,8,64] [--out FOLDER] [--compare OLD.json]

Three kinds of runs are timed. "compute" is one run of a batch that already lies where the engine reads it, the GPU
compute time of trtexec. "copies" includes the copies from and to host memory, the host latency of trtexec. "files" goes
from the bytes of photos to the bytes of coloured JPEGs in one thread: decoding, the run, merging and encoding. All
contestants take turns, in reverse order every second round. A ratio is the median over the rounds, so a machine that is
slower for a while slows both sides of it. Contestants whose ratio is not yet known to within 5% take up to five times
as many rounds. Two rows are therefore of different rounds, and a ratio is not the quotient of their images a second.
Without MODEL the packaged model runs on every installed backend that takes it. Besides the backends of cgan-infer,
BACKEND can be pytorch, pytorch-half (fp16 on a GPU, bf16 on a CPU), pytorch-compiled or pytorch-half-compiled: PyTorch
with its own defaults, on an exported fp32 file or a run.

On a GPU, where PyTorch is installed, the rows of "compute" are compared with the peak of the card: the operations of
the convolutions of the model, times images a second, as a share of the rate of a large fp16 matrix product.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# As `cgan-infer folder` sets it, before numpy reads it: threads of OpenBLAS would take cores from the model.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")

import click
import numpy as np

from benchmarks.accuracy import psnr_of_all
from benchmarks.command import DURATION, benchmark, existing_path
from benchmarks.compute_run import compute_run
from benchmarks.contestants import check_settings, default_contestants, labels, open_contestant
from benchmarks.latency_report import KINDS, PERCENTILES, changes, chart, document, ratios, shares, table
from benchmarks.photos import make_photos
from benchmarks.records import record, write_record
from benchmarks.rounds import interval, rounds_of_turns
from cgan.errors import UserError
from infer.backends.base import Backend
from infer.photo.decode import Photo, decode, model_input
from infer.photo.encode import write_photo

LEAST_SECONDS, LEAST_RUNS = 3.0, 10
"""For each kind, contestant and batch size, over all rounds."""
ROUNDS, MOST_ROUNDS = 10, 50
"""Many and short, because other guests of a shared machine come and go within seconds."""
WARM_UPS = 3
"""Runs before the clock starts: engines prepare a shape in its first run, torch.compile records in the second."""
BATCHES = "1,2,4,8,16,32,64"
PARITY_PHOTOS = 32


File = tuple[str, bytes]
"""Name and content of a photo."""


@dataclass
class Row:
    """Figures of one contestant at one batch size, in one kind."""

    contestant: str
    engine: str
    batch: int
    kind: str
    rounds: dict[int, list[float]] = field(default_factory=dict)
    """Milliseconds of each run, by the number of the round."""
    psnr: float | None = None
    """Against the first contestant on photos, in dB; None where there is no difference."""

    def figures(self, first: "Row | None" = None) -> dict[str, Any]:
        """Return the row as JSON values, with percentiles for the runs and its speed against the first row."""
        times = np.concatenate(list(self.rounds.values()))
        values = {name: value for name, value in asdict(self).items() if name != "rounds"}
        percentiles = {f"p{p}": round(float(np.percentile(times, p)), 4) for p in PERCENTILES}
        return {
            **values,
            "runs": len(times),
            **percentiles,
            "images_per_second": round(self.batch * 1000 * len(times) / times.sum(), 2),
            "variation": round(float(times.std() / times.mean()), 4),
            "speed": self._speed(first) if first else None,
        }

    def _speed(self, first: "Row") -> dict[str, float]:
        """Return the speed in images a second divided by that of the first row: median over rounds and its interval."""
        ratios = self.ratios(first)
        low, high = interval(ratios)
        return {"median": round(float(np.median(ratios)), 4), "low": round(low, 4), "high": round(high, 4)}

    def ratios(self, first: "Row") -> list[float]:
        """Return the median time of the first row divided by that of this row, for each common round."""
        return [float(np.median(first.rounds[n]) / np.median(mine)) for n, mine in self.rounds.items()]


@benchmark
@click.argument("models", nargs=-1, metavar="[MODEL[@BACKEND[:PROVIDER]]]...")
@click.option("--batch", "batches", help=f"Batch sizes.  [default: {BATCHES}]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="What to time; repeatable.  [default: all]"
)
@click.option("--photos", type=existing_path(), help="Folder of photos.  [default: examples/]")
@click.option(
    "--seconds", type=DURATION, help=f"Least time for each figure; up to five times that.  [default: {LEAST_SECONDS:g}]"
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for latency.json, latency.md and latency.png.")
@click.option("--compare", type=existing_path(), help="latency.json of an earlier run.")
@click.option("--quick", is_flag=True, help="Batches 1 and 8 and one second, unless --batch or --seconds is given.")
def main(
    models: tuple[str, ...],
    batches: str | None,
    device: str,
    kinds: tuple[str, ...],
    photos: Path | None,
    seconds: float | None,
    out: Path | None,
    compare: Path | None,
    quick: bool,
) -> None:
    """Time models by backend and batch size.

    Prints a table of latency and PSNR, and the ratios last.
    """
    sizes = _sizes(batches or ("1,8" if quick else BATCHES))
    seconds = seconds if seconds is not None else 1.0 if quick else LEAST_SECONDS
    with ExitStack() as stack:
        contestants = {
            label: stack.enter_context(open_contestant(name, device))
            for label, name in labels(models or default_contestants()).items()
        }
        check_settings(contestants.values())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_photos(photos, folder / "in", max(*sizes, PARITY_PHOTOS))
        files = [(path.name, path.read_bytes()) for path in sorted((folder / "in").iterdir())]
        first = next(iter(contestants))
        rows = figures(measure(contestants, sizes, kinds or KINDS, files, seconds), first)
        values = record(first=first, rows=rows, **of_peak(contestants, rows))
        print(table(rows))
        if out:
            out.mkdir(parents=True, exist_ok=True)
            write_record(out / "latency.json", values)
            (out / "latency.md").write_text(document(values, "\n\n".join(__doc__.split("\n\n")[2:])))
            chart(rows, out / "latency.png")
        for line in [
            *shares(values),
            *ratios(rows, first),
            *(changes(values, json.loads(compare.read_text())) if compare else []),
        ]:
            print(line)


def measure(
    contestants: dict[str, Backend], sizes: list[int], kinds: tuple[str, ...], files: list[File], seconds: float
) -> list[Row]:
    """Time every contestant at every batch size it takes, in every kind.

    Args:
        contestants: entered backends by name; the first is what the others are compared with.
        sizes: photos in a batch.
        kinds: of KINDS.
        files: names and contents of photos, as many as the largest batch.
        seconds: least time for each figure, over all rounds; at least LEAST_RUNS runs in any case.

    Raises:
        UserError: contestants of different sizes, or none that takes any of the batches.
    """
    shapes = {name: backend.own_size for name, backend in contestants.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name}: {height} x {width}" for name, (height, width) in shapes.items())
        raise UserError(f"found models of different render sizes ({found}); give models of one size")
    if not any(_takes(backend, size) for backend in contestants.values() for size in sizes):
        found = ", ".join(f"{name}: {_range(backend)}" for name, backend in contestants.items())
        raise UserError(f"--batch {','.join(map(str, sizes))}: found no model that takes it ({found}); give others")
    parity = _parity(contestants, files)
    rows: list[Row] = []
    for size in sizes:
        taking = {name: b for name, b in contestants.items() if _takes(b, size)}
        if not taking:
            continue
        for kind in kinds:
            runs = {name: _runner(backend, kind, files[:size]) for name, backend in taking.items()}
            timed = {n: Row(n, taking[n].engine, size, kind, psnr=parity[n]) for n in runs}
            for run in runs.values():
                for _ in range(WARM_UPS):
                    run()
            _take_rounds(runs, timed, next(iter(contestants)), seconds)
            rows += timed.values()
    return rows


def _take_rounds(runs: dict[str, Callable[[], None]], rows: dict[str, Row], first: str, seconds: float) -> None:
    """Fill the rows of one batch size and kind; ratios are against `first`, which need not be among the runs."""

    def ratios_of(name: str) -> list[float]:
        return rows[name].ratios(rows[first])

    for number, turns in rounds_of_turns(list(runs), ROUNDS, first, ratios_of, lambda number: number < MOST_ROUNDS):
        for name in turns:
            rows[name].rounds[number] = _time(runs[name], seconds / ROUNDS, -(-LEAST_RUNS // ROUNDS))


def figures(rows: list[Row], first: str) -> list[dict[str, Any]]:
    """Return the rows as JSON values, each with its speed against the first contestant at the same batch and kind."""
    base = {(row.batch, row.kind): row for row in rows if row.contestant == first}
    return [row.figures(base.get((row.batch, row.kind)) if row.contestant != first else None) for row in rows]


def of_peak(contestants: dict[str, Backend], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the share of the GPU's matrix rate that the rows of "compute" use, as JSON values; {} if not measurable.

    Args:
        contestants: entered backends by name.
        rows: as `figures` gives them.
    """
    computed = [row for row in rows if row["kind"] == "compute" and contestants[row["contestant"]].on_gpu]
    if not computed or not find_spec("torch"):
        return {}
    import torch

    from benchmarks.matrix import matrix_product_rate, operations

    if not torch.cuda.is_available():
        return {}
    peak = matrix_product_rate(torch.device("cuda"), torch.float16)
    needed = {
        name: operations(contestants[name].spec, *contestants[name].own_size)
        for name in dict.fromkeys(row["contestant"] for row in computed)
    }
    return {
        "fp16_matrix_product_tflops": round(peak / 1e12, 1),
        "gflop_per_image": {name: round(count / 1e9, 3) for name, count in needed.items()},
        "of_peak": [
            {
                "contestant": row["contestant"],
                "batch": row["batch"],
                "share": round(row["images_per_second"] * needed[row["contestant"]] / peak, 5),
            }
            for row in computed
        ],
    }


def _time(run: Callable[[], None], seconds: float, least: int) -> list[float]:
    """Run at least `least` times and for at least `seconds`, and return the milliseconds of each run."""
    milliseconds: list[float] = []
    began = time.perf_counter()
    while len(milliseconds) < least or time.perf_counter() - began < seconds:
        begun = time.perf_counter()
        run()
        milliseconds.append((time.perf_counter() - begun) * 1000)
    return milliseconds


def _runner(backend: Backend, kind: str, files: list[File]) -> Callable[[], None]:
    gray = _batch(backend, files)
    if kind == "compute":
        return compute_run(backend, gray)
    if kind == "copies":
        return lambda: _discard(backend.run(gray))

    def from_files() -> None:
        photos = [decode(content, name) for name, content in files]
        inputs = [_input(backend, photo) for photo in photos]
        for photo, seen, rgb in zip(photos, inputs, backend.run(np.stack(inputs)), strict=True):
            write_photo(photo, seen, rgb, "JPEG")

    return from_files


def _discard(_: object) -> None:
    pass


def _batch(backend: Backend, files: list[File]) -> np.ndarray:
    return np.stack([_input(backend, decode(content, name)) for name, content in files])


def _input(backend: Backend, photo: Photo) -> np.ndarray:
    return model_input(photo, *backend.own_size)


def _parity(contestants: dict[str, Backend], files: list[File]) -> dict[str, float | None]:
    """Return the PSNR of each contestant against the first, in dB; None where they are equal."""
    answers: dict[str, np.ndarray] = {}
    for name, backend in contestants.items():
        step = backend.batch_range[1] or PARITY_PHOTOS
        gray = _batch(backend, files[:PARITY_PHOTOS])
        answers[name] = np.concatenate([backend.run(gray[i : i + step]) for i in range(0, len(gray), step)])
    first = next(iter(answers.values()))
    found = {name: psnr_of_all(rgb, first) for name, rgb in answers.items()}
    return {name: round(psnr, 1) if math.isfinite(psnr) else None for name, psnr in found.items()}


def _takes(backend: Backend, size: int) -> bool:
    least, most = backend.batch_range
    return least <= size and (most is None or size <= most)


def _range(backend: Backend) -> str:
    least, most = backend.batch_range
    return f"from {least} on" if most is None else f"{least} to {most}"


def _sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.UsageError(f"--batch: found {text}, expected numbers such as 1,8,64")
    return [int(part) for part in parts]
