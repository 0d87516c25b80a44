"""Time and memory of large journals and listings in a store, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.infer.fake_s3 import settings, started

ROOT = Path(__file__).parents[3]

MEASURE = """
import resource, sys, time
def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
def measured(call):
    before, began = memory(), time.process_time()
    result = call()
    print(f"{time.process_time() - began:.1f} s of CPU time, {memory() - before} MiB more", file=sys.stderr)
    print(memory() - before)
    return result
"""

JOURNAL = """
import hashlib
from infer.folder.journal_log import Head, JournalLog
from infer.folder.journal_row import DONE, Row
from infer.folder.remote import RemoteFolder
from infer.folder.shared_journal import PIECE, open_shared
target = RemoteFolder("memory://out")
log = JournalLog(target, "")
def row(number):
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    name = f"albums/{number // 1000:05d}/photo-{number:08d}.jpg"
    version = f'{number}:"{digest[:32]}"'
    return name, Row(name, version, "", "0" * 64, "s3://bucket/photos", DONE, number, "", digest[::-1])
count = int(sys.argv[1])
for first in range(0, count, PIECE):
    head = Head("mark", "host", 1, "2026-01-01T00:00:00+00:00", first + PIECE >= count, 0)
    log.write(head, map(row, range(first, first + PIECE)))
journal = measured(lambda: open_shared(target))
assert sum(1 for _ in journal.rows()) == count
journal.close()
"""

LISTING = """
from infer.folder.open_storage import open_storage
from infer.folder.plan import make_plan
source = open_storage("s3://bucket/in")
source.names_in("none")
plan = measured(lambda: make_plan(source, open_storage("s3://bucket/out")))
assert len({job.name for job in plan.jobs}) == len(plan.jobs) == int(sys.argv[1])
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    """`run(code, count, environment)`: run a program and return the MiB of memory that it measured."""

    def call(code: str, count: int, environment: dict[str, str]) -> int:
        command = [sys.executable, "-c", MEASURE + code, str(count)]
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), **environment}
        return int(subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout)

    return call


@pytest.mark.slow
def test_a_journal_towards_a_million_rows_streams(run: Callable[..., int]) -> None:
    assert run(JOURNAL, 200_000, {}) < 150


@pytest.mark.slow
def test_a_listing_of_many_pages_is_whole_and_small(run: Callable[..., int]) -> None:
    with started() as server:
        server.objects = {f"bucket/in/{number // 500:05d}/{number:07d}.jpg": b"x" for number in range(100_000)}
        assert run(LISTING, 100_000, settings(server.url)) < 200
        assert len(server.requests) < 110
