"""Speed of folder runs against a bare ONNX Runtime loop and other ways to colour a folder.

    python -m benchmarks folder [--photos FOLDER] [--model FILE] [--files 100] [--minutes 8] [--side 1024] [--quick]

All contestants run the same architecture on the same photos with the same number of cores. Each is a process that loads
its model once; then they take turns, in reverse order every second round. A turn is timed from the first photo to the
last file. A ratio is the median over the rounds, so a machine that is slower for a while slows both sides of it. After
six rounds only contestants go on whose median is not yet known to within 5%, until the time is up. Medians of two
contestants are therefore of different rounds, and a ratio is not their quotient. The bare loop is one ONNX Runtime
session with all threads and default settings over one batch in memory; it neither reads nor writes files. The peers, in
benchmarks/peers.py, are loops as people write them. Without --photos, crops of the pictures in examples/ are used.
"""

import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import click

from benchmarks.command import COUNTS, DURATION, benchmark, existing_path
from benchmarks.folder_contestants import BARE, CORES, FOLDER, Contestant, Measured, take_turns
from benchmarks.machine import has_bf16
from benchmarks.peers import NEEDED, PEERS
from benchmarks.photos import make_photos
from benchmarks.records import json_option, record, write_record
from benchmarks.rounds import rounds_of_turns, summary, worst
from cgan.spec import MOST_SIZE
from infer.backends.cli_options import BATCH_SIZES, WORKERS
from infer.packaged import DEFAULT_MODEL

BACKENDS = ("openvino", "openvino-bf16")
"""Backends with which folder runs take part too, where OpenVINO is installed."""
LEAST_ROUNDS = 6
MINUTES, QUICK_MINUTES = 8.0, 3.0
WARM_UP = 8
"""Photos that each process colours before the clock starts."""


@benchmark
@click.option("--photos", type=existing_path(), help="Folder of photos, copied and repeated.")
@click.option("--model", type=existing_path(), default=DEFAULT_MODEL, help="ONNX file.  [default: the packaged model]")
@click.option("--files", type=COUNTS, default=100, show_default=True, help="Photos in a turn.")
@click.option("--side", type=click.IntRange(16, MOST_SIZE), help="Photos are resized to this height and width first.")
@click.option("--rounds", type=COUNTS, default=LEAST_ROUNDS, show_default=True, help="Least number of rounds.")
@click.option("--minutes", type=DURATION, help=f"Time after which no further round begins.  [default: {MINUTES:g}]")
@click.option("--batch-size", type=BATCH_SIZES, default=4, show_default=True, help="Photos in a batch.")
@click.option("--workers", type=WORKERS, default=CORES, show_default=True, help="Threads for decoding and encoding.")
@click.option("--peers/--no-peers", default=True, show_default=True, help="Include the peers.")
@json_option
@click.option("--quick", is_flag=True, help=f"{QUICK_MINUTES:g} minutes, unless --minutes is given.")
@click.option("--turn", hidden=True, help="Serve as the process of this contestant.")
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
    """Time folder runs against a bare ONNX Runtime loop and other ways to colour a folder.

    Prints images a second of all contestants, and the ratios last.
    """
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
    turns = {name: [asdict(turn) for turn in turns] for name, turns in figures.items()}
    write_record(json_file, record(figures=turns, ratios=ratios))
    for name in names:
        print(f"{name:<40} {line(figures[name])}")
    print(worst(ratios.values()))
    for name, values in ratios.items():
        print(f"{FOLDER} / {name} = {summary(values)}")


def take_rounds(
    contestants: list[Contestant], figures: dict[str, list[Measured]], least: int, seconds: float
) -> dict[str, list[float]]:
    """Have the contestants take turns, and print a line for each round.

    Args:
        contestants: folder runs and others.
        figures: by name; each turn is added.
        least: rounds of all contestants.
        seconds: time after which no round beyond those begins.

    Returns:
        By name of each other contestant, the images a second of folder runs divided by its own, one value a round.
    """
    ratios: dict[str, list[float]] = {name: [] for name in figures if name != FOLDER}
    known = {contestant.name: contestant for contestant in contestants}
    began = time.monotonic()

    def has_time(_number: int) -> bool:
        return time.monotonic() - began < seconds

    for number, turns in rounds_of_turns(list(known), least, FOLDER, ratios.__getitem__, has_time):
        for name in turns:
            figures[name].append(known[name].turn())
        for name in turns:
            if name != FOLDER:
                ratios[name].append(figures[FOLDER][-1].images_per_second / figures[name][-1].images_per_second)
        speeds = (f"{name} {figures[name][-1].images_per_second:.1f}" for name in known if name in turns)
        print(f"round {number + 1}, images/s: {', '.join(speeds)}", flush=True)
    return ratios


def line(turns: list[Measured]) -> str:
    """Return the medians of a contestant as text."""
    speed, cpu, rss = (
        statistics.median(getattr(turn, field) for turn in turns)
        for field in ("images_per_second", "cpu_use", "peak_rss_mib")
    )
    return f"{speed:8.1f} images/s  {cpu:4.0%} of {CORES} cores  {rss:6.0f} MiB"
