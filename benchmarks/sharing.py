"""Speed of one folder run, of two shards at once and of two actors of a Ray cluster on one machine.

    python -m benchmarks sharing PHOTOS [--rounds 3] [--json FILE]

The contestants take turns. Each colours all photos with the same number of threads in all: all cores in one run, half
of them in each shard or actor. "With start" counts from the call of the command to its end, with imports, model and
cluster; "alone" what the reports say: from the first photo to the last one. Needs the extra "ray".
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.command import COUNTS, benchmark, existing_path
from benchmarks.records import json_option, record, write_record
from cgan.cores import available_cores
from cgan.errors import GateError

PARTS = 2
"""Shards and actors."""

COMMAND = (sys.executable, "-c", "from infer.cli import main; main()", "folder")


@benchmark
@click.argument("photos", type=existing_path(resolve=True))
@click.option("--rounds", type=COUNTS, default=3, show_default=True, help="Turns of each contestant.")
@json_option
def main(photos: Path, rounds: int, json_file: Path | None) -> None:
    """Measure folder runs of PHOTOS on one machine, in one process and shared among several."""
    half = str(max(1, available_cores() // PARTS))
    ray = ("--engine", "ray", "--actors", str(PARTS), "--cpus-per-actor", half)
    contestants: dict[str, list[tuple[str, ...]]] = {
        "one run": [()],
        f"{PARTS} shards at once": [("--shard", f"{k}/{PARTS}", "--workers", half) for k in range(1, PARTS + 1)],
        f"Ray, {PARTS} actors": [ray],
    }
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, runs in contestants.items():
                turns[name].append(_turn(photos, Path(folder, "out"), runs))
    for name, found in turns.items():
        start, alone = (statistics.median(turn[key] for turn in found) for key in ("with_start", "alone"))
        print(f"{name:<20} {start:7.1f} images/s with start, {alone:7.1f} alone", flush=True)
    write_record(json_file, record(images_per_second=turns))


def _turn(photos: Path, out: Path, runs: list[tuple[str, ...]]) -> dict[str, float]:
    """Run commands at once, and return their common speed in images/s.

    Raises:
        GateError: one of them failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    given = (*COMMAND, str(photos), str(out), "--quiet")
    commands = [subprocess.Popen([*given, *options], env={**os.environ, "RAY_ADDRESS": ""}) for options in runs]
    codes = [command.wait() for command in commands]
    if any(codes):
        raise GateError(f"{photos}: a run failed; its message is above")
    seconds = time.perf_counter() - started
    reports = [json.loads(path.read_text()) for path in out.glob("report*.json")]
    done = sum(report["done"] for report in reports)
    return {"with_start": done / seconds, "alone": done / max(report["seconds"] for report in reports)}
