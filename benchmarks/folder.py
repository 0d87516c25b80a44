"""Folder runs against a bare ONNX Runtime loop, and against other ways to colour a folder.

    python benchmarks/folder.py [--photos FOLDER] [--model FILE] [--files 1000] [--side 1024] [--quick]

All run the same architecture on the same photos with the same number of cores, by turns over several rounds. The bare
loop is one ONNX Runtime session with all threads over one batch in memory, as ONNX Runtime comes; it neither reads nor
writes files. The peers, in benchmarks/peers.py, are loops as people write them. Each peer and each folder run is a
process of its own, timed from the first photo to the last file, imports and loading left out. Without --photos, crops
of the pictures in examples/ are used.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
from PIL import Image

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import arguments, machine
from benchmarks.peers import NEEDED, PEERS
from cgan.spec import PHOTO_FORMATS
from infer.backends import open_model
from infer.backends.base import available_cores
from infer.images import decode, model_input
from infer.jobs import make_plan
from infer.journal import Journal
from infer.packaged import DEFAULT_MODEL
from infer.pipeline import FolderOptions, Pipeline
from infer.storage import LocalFolder

EXAMPLES = Path(__file__).parent.parent / "examples"
BARE_SECONDS = 5.0
CORES = available_cores()
FOLDER, BARE = "cgan-infer folder", "bare ONNX Runtime, no files"
BACKENDS = ("openvino", "openvino-bf16")
"""Backends with which folder runs take part too, where OpenVINO is installed."""
TURN_SECONDS = 1800
"""A turn that takes longer hangs, and whoever waits is told which."""
WARM_UP = 8
"""Photos that each process colours before the clock starts."""


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
@click.option("--files", type=click.IntRange(min=1), default=1000, show_default=True, help="Photos in a turn.")
@click.option("--side", type=click.IntRange(min=16), help="Photos are resized to this height and width first.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=CORES, show_default=True)
@click.option("--peers/--no-peers", default=True, show_default=True, help="Whether the peers take part.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--quick", is_flag=True, help="200 files, one round.")
@click.option("--turn", hidden=True, help="What a process of its own is to measure.")
@click.option("--folder", "folder_", type=click.Path(path_type=Path), hidden=True)
def main(
    photos: Path | None,
    model: Path,
    files: int,
    side: int | None,
    rounds: int,
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
        print(json.dumps(asdict(measure(turn, folder_, model, batch_size, workers))))
        return
    if quick:
        files, rounds = 200, 1
    names = [BARE, FOLDER]
    if peers:
        names += [f"{FOLDER} --backend {backend}" for backend in BACKENDS if find_spec("openvino")]
        names += [name for name, peer in PEERS.items() if find_spec(NEEDED.get(peer, "json"))]
    figures: dict[str, list[Measured]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        make_photos(photos, Path(folder) / "in", files, side)
        print(
            f"{files} photos{f' of {side} x {side}' if side else ''}, {model.name}, batch {batch_size}, {CORES} cores"
        )
        for number in range(rounds):
            # Every other round backwards, so that a machine that drifts favours no one.
            for name in names if number % 2 == 0 else reversed(names):
                figures[name].append(in_process(name, Path(folder), model, batch_size, workers))
            speeds = (f"{name} {figures[name][-1].images_per_second:.1f}" for name in names)
            print(f"round {number + 1}, images/s: {', '.join(speeds)}")
    ratios = {
        name: [a.images_per_second / b.images_per_second for a, b in zip(figures[FOLDER], figures[name], strict=True)]
        for name in names
        if name != FOLDER
    }
    if json_file:
        record = {
            "arguments": arguments(),
            "machine": machine(),
            "figures": {name: [asdict(turn) for turn in turns] for name, turns in figures.items()},
            "ratios": ratios,
        }
        json_file.write_text(json.dumps(record, indent=2) + "\n")
    for name in names:
        print(f"{name:<40} {line(figures[name])}")
    for name, values in ratios.items():
        spread = f" ({min(values):.2f} to {max(values):.2f})" if rounds > 1 else ""
        print(f"{FOLDER} / {name} = {statistics.median(values):.2f}{spread}")


def line(turns: list[Measured]) -> str:
    """Medians of a contestant."""
    speed, cpu, rss = (
        statistics.median(getattr(turn, field) for turn in turns)
        for field in ("images_per_second", "cpu_use", "peak_rss_mib")
    )
    return f"{speed:8.1f} images/s  {cpu:4.0%} of {CORES} cores  {rss:6.0f} MiB"


def in_process(name: str, folder: Path, model: Path, batch_size: int, workers: int) -> Measured:
    """One turn in a process of its own, so that nobody inherits another's memory or threads."""
    arguments = ["--turn", name, "--folder", folder, "--model", model, "--batch-size", batch_size, "--workers", workers]
    command = [sys.executable, __file__, *map(str, arguments)]
    try:
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as `cgan-infer folder` sets it
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TURN_SECONDS, env=environment)
    except subprocess.TimeoutExpired as error:
        where = "while it exited" if error.stdout else "at work"
        raise SystemExit(f"{name} did not end within {TURN_SECONDS} s: {where}") from error
    if done.returncode:
        raise SystemExit(f"{name} failed with exit code {done.returncode}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, folder: Path, model: Path, batch_size: int, workers: int) -> Measured:
    """Colour the photos of folder/in into a fresh folder, once a few for warm-up and then all."""
    source, few = folder / "in", folder / "few"
    shutil.rmtree(few, ignore_errors=True)
    few.mkdir()
    for path in sorted(source.iterdir())[:WARM_UP]:
        shutil.copyfile(path, few / path.name)
    if name == BARE:
        return bare_loop(model, few, batch_size)
    with tempfile.TemporaryDirectory(dir=folder) as outputs:
        if name.startswith(FOLDER):
            backend = name.removeprefix(FOLDER).rpartition(" ")[2] or "auto"
            return folder_run(source, few, Path(outputs), model, backend, batch_size, workers)
        peer = PEERS[name]
        (Path(outputs) / "few").mkdir()
        (Path(outputs) / "all").mkdir()
        peer(few, Path(outputs) / "few", model, CORES)
        began = Clock()
        peer(source, Path(outputs) / "all", model, CORES)
        return began.measured(len(list((Path(outputs) / "all").iterdir())))


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


def folder_run(
    source: Path, few: Path, outputs: Path, model: Path, name: str, batch_size: int, workers: int
) -> Measured:
    """What the command does between loading the model and writing the report; every file has to come through."""
    options = FolderOptions(batch_size=batch_size, workers=workers, streams=workers + 1)
    with open_model(model, "cpu", max(1, CORES // workers), backend=name) as backend:
        for folder in (few, source):
            began = Clock()
            inputs, target = LocalFolder(folder), LocalFolder(outputs / folder.name)
            target.path.mkdir()
            plan = make_plan(inputs, target)
            with closing(Journal(target.path / "journal.sqlite")) as journal:
                outcome = Pipeline(inputs, target, backend, options, journal, "benchmark").color(plan.jobs)
            if outcome.done != len(plan.jobs):
                raise SystemExit(f"{len(outcome.failed)} files failed: {outcome.failed}")
        return began.measured(outcome.done)


def bare_loop(model: Path, photos: Path, batch_size: int) -> Measured:
    """ONNX Runtime as it comes, with nothing but the number of threads set, over one batch in memory."""
    import onnxruntime as ort  # after cgan, which keeps it from reporting

    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[2:]
    paths = sorted(photos.iterdir())
    batch = np.stack([model_input(decode(paths[i % len(paths)]), height, width) for i in range(batch_size)])
    warm_up = Clock()
    while time.perf_counter() - warm_up.wall < BARE_SECONDS / 5:
        session.run(None, {"gray": batch})
    began, done = Clock(), 0
    while time.perf_counter() - began.wall < BARE_SECONDS:
        session.run(None, {"gray": batch})
        done += batch_size
    return began.measured(done)


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
