"""Time and memory of planning, of an idle rerun and of merging shards at very many names.

    python -m benchmarks scale [--names 1000000 ...] [--shards 20] [--json FILE]

INPUT and OUTPUT are stand-ins that list names and hold no files. Journals and reports are real: those of a run that has
coloured all photos, made beforehand. Each step runs in a process of its own, so that its peak of memory is its own.
"""

import hashlib
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import click

from benchmarks.command import benchmark
from benchmarks.records import json_option, record, write_record
from cgan.files import json_sha256
from cgan.text import json_text
from infer.folder import merged_shards
from infer.folder.bookkeeping import Bookkeeper
from infer.folder.journal import Journal
from infer.folder.journal_files import journal_path
from infer.folder.journal_row import DONE, Row
from infer.folder.local_folder import LocalFolder
from infer.folder.options import FolderOptions, Outcome
from infer.folder.plan import make_plan
from infer.folder.report import REPORT_NAME, SEAL
from infer.folder.request import work_folder
from infer.folder.shard import Shard
from infer.folder.storage import Entry, Status, Storage, numbered
from infer.folder.thread_pools import Dispatcher

SIZE, OUTPUT_SIZE = 200_000, 250_000
"""Bytes of each photo and output."""

DIGEST = hashlib.sha256(b"output").hexdigest()
FOLDER = 1000
"""Photos in a folder."""

MOST_NAMES = 10**7
CHUNK = 1000


class Names(LocalFolder):
    """An INPUT of so many photos, or the OUTPUT of them; there are no files."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        self.count = count

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """Yield the photos."""
        for i in range(self.count):
            yield Entry(_name(i), Status(SIZE + i % 1000, str(1_700_000_000_000_000_000 + i)))

    def all_names(self) -> Collection[str]:
        """Return the outputs, which have the names of the photos."""
        return set(map(_name, range(self.count)))

    def status(self, name: str) -> Status:
        """Return the status of an output."""
        return Status(OUTPUT_SIZE, "1")


def _name(i: int) -> str:
    return f"box-{i // FOLDER:05d}/scan-{i:08d}.jpg"


@dataclass(frozen=True)
class Trial:
    """Names, and the folder of journals and reports."""

    folder: Path
    count: int
    shards: int

    @property
    def source(self) -> Names:
        """INPUT."""
        return Names(self.folder / "in", self.count)

    @property
    def target(self) -> Names:
        """OUTPUT."""
        return Names(self.folder / "out", self.count)

    def make(self) -> None:
        """Write the journals and reports of a run that has coloured everything, and of one in shards."""
        self.source.path.mkdir()
        self.target.path.mkdir()
        jobs, root = make_plan(self.source, self.target).jobs, self.source.identity
        for shard in (None, *(Shard(number, self.shards) for number in range(1, self.shards + 1))):
            mine = [job for job in jobs if shard is None or shard.holds(job.name)]
            with closing(Journal(self.journal(shard))) as journal:
                for start in range(0, len(mine), CHUNK):
                    row = (
                        (job.output, Row(job.name, job.identity, "", "recipe", root, DONE, OUTPUT_SIZE, "", DIGEST))
                        for job in mine[start : start + CHUNK]
                    )
                    journal.begin(row)
            if shard:
                counts = dict.fromkeys(merged_shards.COUNTS, 0) | {"photos": len(mine), "done": len(mine)}
                values = {
                    **counts,
                    **{name: {} for name in merged_shards.BY_NAME},
                    "input": str(self.source),
                    "version": "",
                }
                sealed = {**values, "stopped": None, SEAL: json_sha256({**values, "stopped": None})}
                (self.target.path / numbered(REPORT_NAME, shard.part)).write_text(json_text(sealed))

    def journal(self, shard: Shard | None) -> Path:
        """Return the path of a journal; that of the run without shards lies elsewhere, because it excludes them."""
        if shard is None:
            return self.folder / "journal.sqlite"
        return journal_path(self.target.identity, work_folder(self.target), shard.part)

    def plan(self) -> int:
        """Plan a first run; return the number of photos."""
        return len(make_plan(self.source, self.target).jobs)

    def rerun(self) -> int:
        """Plan and judge a run that has nothing to do; return the number of photos that it passes over."""
        outcome, target = Outcome(), self.target
        with closing(Journal(self.journal(None))) as journal, Dispatcher(1, {}) as pools:
            jobs = make_plan(self.source, target, known=list(journal.outputs())).jobs
            options = FolderOptions(batch_size=1, workers=1)
            books = Bookkeeper(self.source, target, options, journal, "recipe", outcome, None, pools, Event())
            assert next(books.to_do(jobs), None) is None
        return outcome.skipped

    def merge(self) -> int:
        """Merge the reports of the shards; return the number of photos that are settled."""
        merged = merged_shards.read_reports(self.target)
        merged_shards.compare(merged, self.source, self.target)
        return merged.settled


STEPS: dict[str, Callable[[Trial], int]] = {"plan": Trial.plan, "rerun": Trial.rerun, "merge": Trial.merge}


@benchmark
@click.option(
    "--names",
    "counts",
    type=click.IntRange(1, MOST_NAMES),
    multiple=True,
    default=(100_000, 1_000_000),
    show_default=True,
    help="Number of photos.",
)
@click.option("--shards", type=click.IntRange(1, 1000), default=20, show_default=True, help="Shards to merge.")
@json_option
def main(counts: tuple[int, ...], shards: int, json_file: Path | None) -> None:
    """Measure planning, an idle rerun and the merging of shards at each number of names."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(Path(folder), count, shards)
            _apart(Trial.make, trial)
            for name, step in STEPS.items():
                found, seconds, memory = _apart(step, trial)
                assert found == count, f"{name}: {found} of {count} photos"
                row: dict[str, Any] = {
                    "step": name,
                    "names": count,
                    "seconds": round(seconds, 1),
                    "peak_mib": round(memory),
                }
                print("{step:<6} {names:>9,} names {seconds:7.1f} s {peak_mib:6d} MiB".format(**row), flush=True)
                rows.append(row)
    write_record(json_file, record(rows=rows))


def _apart(step: Callable[[Trial], Any], trial: Trial) -> tuple[Any, float, float]:
    """Return the result of a step in a new process, its time in seconds and the process's peak memory in MiB."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (step, trial))


def _measured(step: Callable[[Trial], Any], trial: Trial) -> tuple[Any, float, float]:
    started = time.perf_counter()
    found = step(trial)
    return found, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
