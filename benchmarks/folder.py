"""Folder runs against a bare ONNX Runtime loop, and against other ways to colour a folder.

    python benchmarks/folder.py [--photos FOLDER] [--model FILE] [--files 100] [--minutes 8] [--side 1024] [--quick]

All run the same architecture on the same photos with the same number of cores. Each is a process of its own, which
loads its model once; then they take turns, in the other order each second round. A turn is timed from the first photo
to the last file. A ratio is the median over the rounds, so that a machine that is slower for a while slows both of its
sides. After six rounds only those go on whose median is not yet known to within 5%, until the time is up; so medians of
two of them are not of the same rounds, and a ratio is not their quotient. The bare loop is one ONNX Runtime session
with all threads over one batch in memory, as ONNX Runtime comes; it neither reads nor writes files. The peers, in
benchmarks/peers.py, are loops as people write them. Without --photos, crops of the pictures in examples/ are used.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import click
import numpy as np
from PIL import Image

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import arguments, has_bf16, machine
from benchmarks.peers import NEEDED, PEERS
from benchmarks.records import json_option, write_record
from benchmarks.rounds import is_settled, summary, worst
from cgan.formats import PHOTO_FORMATS
from infer.backends import open_model
from infer.backends.base import Backend, available_cores
from infer.folder.journal import Journal
from infer.folder.local_folder import LocalFolder
from infer.folder.options import FolderOptions
from infer.folder.pipeline import Pipeline
from infer.folder.plan import make_plan
from infer.packaged import DEFAULT_MODEL
from infer.photo.decode import decode, model_input

EXAMPLES = Path(__file__).parent.parent / "examples"
BARE_SECONDS = 1.5
CORES = available_cores()
FOLDER, BARE = "cgan-infer folder", "bare ONNX Runtime, no files"
BACKENDS = ("openvino", "openvino-bf16")
"""Backends with which folder runs take part too, where OpenVINO is installed."""
LEAST_PATIENCE, PATIENCE = 120.0, 5.0
"""Seconds for loading, and for each photo of a turn; a process that takes longer hangs, and whoever waits is told."""
LEAST_ROUNDS = 6
MINUTES, QUICK_MINUTES = 8.0, 3.0
WARM_UP = 8
"""Photos that each process colours before the clock starts."""

Run = Callable[[Path, Path], int]
"""What colours the photos of a folder into an empty one, and says how many they were."""


@dataclass
class Measured:
    """One turn of one contestant."""

    images_per_second: float
    cpu_use: float
    """Share of all cores' time that was used."""
    peak_rss_mib: float


@click.command()
@click.option("--photos", type=click.Path(exists=True, path_type=Path), help="Folder of photos, copied and repeated.")
@click.option("--model", type=click.Path(exists=True, path_type=Path), default=DEFAULT_MODEL)
@click.option("--files", type=click.IntRange(min=1), default=100, show_default=True, help="Photos in a turn.")
@click.option("--side", type=click.IntRange(min=16), help="Photos are resized to this height and width first.")
@click.option("--rounds", type=click.IntRange(min=1), default=LEAST_ROUNDS, show_default=True, help="At least so many.")
@click.option("--minutes", type=click.FloatRange(min=0), help=f"No further round begins later.  [default: {MINUTES:g}]")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=CORES, show_default=True)
@click.option("--peers/--no-peers", default=True, show_default=True, help="Whether the peers take part.")
@json_option
@click.option("--quick", is_flag=True, help=f"{QUICK_MINUTES:g} minutes, unless --minutes is given.")
@click.option("--turn", hidden=True, help="Whose turns a process of its own takes.")
@click.option("--folder", "folder_", type=click.Path(path_type=Path), hidden=True)
def main(
    photos: Path | None,
    model: Path,
    files: int,
    side: int | None,
    rounds: int,
    minutes: float | None,
    batch_size: int,
    workers: int,
    peers: bool,
    json_file: Path | None,
    quick: bool,
    turn: str | None,
    folder_: Path | None,
) -> None:
    """Print images a second of all, and the ratios last."""
    if turn and folder_:
        take_turns(turn, folder_, model, batch_size, workers)
        return
    minutes = minutes if minutes is not None else QUICK_MINUTES if quick else MINUTES
    names = [BARE, FOLDER]
    if peers:
        backends = [name for name in BACKENDS if has_bf16() or "bf16" not in name] if find_spec("openvino") else []
        names += [f"{FOLDER} --backend {backend}" for backend in backends]
        names += [name for name, peer in PEERS.items() if find_spec(NEEDED.get(peer, "json"))]
    figures: dict[str, list[Measured]] = {name: [] for name in names}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_photos(photos, folder / "in", files, side)
        make_photos(photos, folder / "few", WARM_UP, side)
        print(
            f"{files} photos{f' of {side} x {side}' if side else ''}, {model.name}, batch {batch_size}, {CORES} cores"
        )
        contestants = [stack.enter_context(Contestant(name, folder, model, batch_size, workers)) for name in figures]
        ratios = take_rounds(contestants, figures, rounds, 60 * minutes)
    if json_file:
        record = {
            "arguments": arguments(),
            "machine": machine(),
            "figures": {name: [asdict(turn) for turn in turns] for name, turns in figures.items()},
            "ratios": ratios,
        }
        write_record(json_file, record)
    for name in names:
        print(f"{name:<40} {line(figures[name])}")
    print(worst(ratios.values()))
    for name, values in ratios.items():
        print(f"{FOLDER} / {name} = {summary(values)}")


def take_rounds(
    contestants: list["Contestant"], figures: dict[str, list[Measured]], least: int, seconds: float
) -> dict[str, list[float]]:
    """Have the contestants take turns.

    Args:
        contestants: folder runs and others.
        figures: by name; each turn is added.
        least: rounds of all contestants.
        seconds: after those, no round of contestants that are not settled begins later.

    Returns:
        Folder runs' images a second over each other one's, of every round that it took part in.
    """
    ratios: dict[str, list[float]] = {name: [] for name in figures if name != FOLDER}
    began, number = time.monotonic(), 0
    while True:
        unsettled = [name for name, values in ratios.items() if number < least or not is_settled(values)]
        if number >= least and (not unsettled or time.monotonic() - began >= seconds):
            return ratios
        taking = [contestant for contestant in contestants if contestant.name in (FOLDER, *unsettled)]
        for contestant in taking if number % 2 == 0 else reversed(taking):
            figures[contestant.name].append(contestant.turn())
        for name in unsettled:
            ratios[name].append(figures[FOLDER][-1].images_per_second / figures[name][-1].images_per_second)
        number += 1
        speeds = (f"{contestant.name} {figures[contestant.name][-1].images_per_second:.1f}" for contestant in taking)
        print(f"round {number}, images/s: {', '.join(speeds)}", flush=True)


def line(turns: list[Measured]) -> str:
    """Medians of a contestant."""
    speed, cpu, rss = (
        statistics.median(getattr(turn, field) for turn in turns)
        for field in ("images_per_second", "cpu_use", "peak_rss_mib")
    )
    return f"{speed:8.1f} images/s  {cpu:4.0%} of {CORES} cores  {rss:6.0f} MiB"


class Contestant:
    """A process of its own that takes turns, so that nobody inherits another's memory or threads."""

    def __init__(self, name: str, folder: Path, model: Path, batch_size: int, workers: int) -> None:
        self.name = name
        self._patience = LEAST_PATIENCE + PATIENCE * len(list((folder / "in").iterdir()))
        options = ["--turn", name, "--folder", folder, "--model", model, "--batch-size", batch_size]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, options), "--workers", str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # as `cgan-infer folder` sets it
        )

    def __enter__(self) -> Self:
        """Wait until it is ready: one that still loads would slow whoever has its turn."""
        try:
            self._answer("while it loaded")
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        try:
            self._process.communicate(timeout=self._patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise SystemExit(f"{self.name} did not end within {self._patience:g} s: while it exited") from error
        if error is None and self._process.returncode:
            raise SystemExit(f"{self.name} failed with exit code {self._process.returncode}")

    def turn(self) -> Measured:
        """Have it colour the photos once."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended, which the answer says
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return Measured(**json.loads(self._answer("at work")))

    def _answer(self, where: str) -> str:
        assert self._process.stdout is not None
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            self._process.kill()

        late = threading.Timer(self._patience, give_up)
        late.daemon = True
        late.start()
        try:
            line = self._process.stdout.readline()
        finally:
            late.cancel()
        if line:
            return line
        code = self._process.wait()
        reason = f"did not answer within {self._patience:g} s" if hung.is_set() else f"failed with exit code {code}"
        raise SystemExit(f"{self.name} {reason}: {where}")


def take_turns(name: str, folder: Path, model: Path, batch_size: int, workers: int) -> None:
    """Get ready and say so; then colour the photos of folder/in once for each line of standard input."""
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with answers, ExitStack() as stack:
        color = prepared(stack, name, folder / "few", model, batch_size, workers)
        with tempfile.TemporaryDirectory(dir=folder) as target:
            color(folder / "few", Path(target))
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            with tempfile.TemporaryDirectory(dir=folder) as target:
                clock = Clock()
                images = color(folder / "in", Path(target))
                measured = clock.measured(images)
            print(json.dumps(asdict(measured)), file=answers, flush=True)


class Clock:
    """Wall and processor time from its making."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()

    def measured(self, images: int) -> Measured:
        """What so many images took."""
        wall, cpu = time.perf_counter() - self.wall, cpu_seconds() - self.cpu
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Measured(images / wall, cpu / wall / CORES, rss)


def cpu_seconds() -> float:
    """Of this process and of children that ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def prepared(stack: ExitStack, name: str, few: Path, model: Path, batch_size: int, workers: int) -> Run:
    """What a contestant does in its turns, with its model loaded."""
    if name == BARE:
        return bare_loop(model, few, batch_size)
    if name.startswith(FOLDER):
        backend = name.removeprefix(FOLDER).rpartition(" ")[2] or "auto"
        opened = stack.enter_context(open_model(model, "cpu", max(1, CORES // workers), backend=backend))
        return folder_run(opened, FolderOptions(batch_size=batch_size, workers=workers, streams=workers + 1))
    color = PEERS[name](model, CORES)

    def run(source: Path, target: Path) -> int:
        color(source, target)
        return len(list(target.iterdir()))

    return run


def folder_run(backend: Backend, options: FolderOptions) -> Run:
    """What the command does between loading the model and writing the report; every file has to come through."""

    def run(source: Path, target: Path) -> int:
        inputs, outputs = LocalFolder(source), LocalFolder(target)
        plan = make_plan(inputs, outputs)
        with closing(Journal(target / "journal.sqlite")) as journal:
            outcome = Pipeline(inputs, outputs, backend, options, journal, "benchmark").color(plan.jobs)
        if outcome.done != len(plan.jobs):
            raise SystemExit(f"{len(outcome.failed)} files failed: {outcome.failed}")
        return outcome.done

    return run


def bare_loop(model: Path, photos: Path, batch_size: int) -> Run:
    """ONNX Runtime as it comes, with nothing but the number of threads set, over one batch in memory."""
    import onnxruntime as ort  # after cgan, which keeps it from reporting

    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[2:]
    paths = sorted(photos.iterdir())
    batch = np.stack([model_input(decode(paths[i % len(paths)]), height, width) for i in range(batch_size)])

    def run(_source: Path, _target: Path) -> int:
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < BARE_SECONDS:
            session.run(None, {"gray": batch})
            done += batch_size
        return done

    return run


def make_photos(photos: Path | None, target: Path, count: int, side: int | None = None) -> None:
    """Fill `target` with `count` JPEGs: copies of the photos, or 128 x 128 crops of the examples."""
    target.mkdir()
    if photos:
        found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in PHOTO_FORMATS)
        for i in range(count):
            path = found[i % len(found)]
            if side is None:
                shutil.copyfile(path, target / f"{i:06d}{path.suffix}")
            else:
                photo = Image.open(path).convert("L").resize((side, side), Image.Resampling.BICUBIC)
                photo.save(target / f"{i:06d}.jpg", quality=90)
        return
    rng = np.random.default_rng(0)
    images = [Image.open(path).convert("L") for path in sorted(EXAMPLES.glob("*.*")) if path.suffix in PHOTO_FORMATS]
    for i in range(count):
        image = images[i % len(images)]
        left, top = (int(rng.integers(length - 127)) for length in image.size)
        crop = image.crop((left, top, left + 128, top + 128))
        crop = crop if side is None else crop.resize((side, side), Image.Resampling.BICUBIC)
        crop.save(target / f"{i:06d}.jpg", quality=90)


if __name__ == "__main__":
    main()
