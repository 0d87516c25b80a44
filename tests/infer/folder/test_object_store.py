"""Folder runs from and to an object store that is slow, throttled, cut off or down; what a photo costs in requests."""

import base64
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import pytest
from s3fs import S3FileSystem

from cgan.files import OccupiedError
from infer.folder import bookkeeping, filesystems
from infer.folder.bookkeeping import Bookkeeper
from infer.folder.credentials import Credentials
from infer.folder.filesystems import S3_CONFIG
from infer.folder.journal import Journal
from infer.folder.local_folder import LocalFolder
from infer.folder.open_storage import open_storage
from infer.folder.options import FolderOptions, Outcome
from infer.folder.photo_item import Item
from infer.folder.plan import Job, make_plan
from infer.photo.decode import PhotoError
from infer.photo.formats import PillowFormat
from tests.infer import fake_s3
from tests.infer.fake_s3 import Answer, FakeS3, settings, started

ROOT = Path(__file__).parents[3]
IN, OUT = "s3://bucket/in", "s3://bucket/out"
PHOTOS = 6
Color = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeS3]:
    with started() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in settings(server.url).items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield server
        S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(
    server: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gray_photos: Callable[..., Path]
) -> Iterator[FakeS3]:
    """The server with some photos; pauses between tries take no time."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    photos = gray_photos(tmp_path / "photos", PHOTOS)
    server.objects = {f"bucket/in/{path.name}": path.read_bytes() for path in photos.iterdir()}
    server.requests = []
    yield server
    server.fault = lambda method, path: None


def report(s3: FakeS3) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(s3.objects["bucket/out/report.json"])
    return values


def counts(s3: FakeS3) -> tuple[int, ...]:
    return tuple(report(s3)[name] for name in ("done", "skipped", "failed"))


def requests_for(s3: FakeS3, name: str) -> dict[str, int]:
    """Number of requests by method and side for a photo and its output."""
    found = Counter(f"{method} {path.split('/')[1]}" for method, path in s3.requests if path.endswith(name))
    s3.requests = []
    return dict(found)


def test_requests_for_a_photo_are_as_few_as_can_be(s3: FakeS3, color: Color) -> None:
    assert color(IN, OUT).code == 0
    assert counts(s3) == (PHOTOS, 0, 0)
    assert requests_for(s3, "/000.png") == {"GET in": 1, "PUT out": 1}
    assert color(IN, OUT).code == 0
    assert requests_for(s3, "/000.png") == {}
    s3.objects["bucket/in/000.png"] = s3.objects["bucket/in/001.png"]
    assert color(IN, OUT).code == 0
    assert counts(s3) == (1, PHOTOS - 1, 0)
    assert requests_for(s3, "/000.png") == {"GET in": 1, "HEAD out": 1, "GET out": 1, "PUT out": 1}


def test_what_fails_once_is_tried_again(s3: FakeS3, color: Color) -> None:
    tried: set[tuple[str, str]] = set()
    faults: Iterator[Answer] = cycle([500, 502, 503, 504, "cut"])

    def once(method: str, path: str) -> Answer:
        is_new = (method, path) not in tried
        tried.add((method, path))
        fault = next(faults) if is_new else None
        return 503 if fault == "cut" and method not in ("GET", "PUT") else fault

    s3.fault = once
    assert color(IN, OUT).code == 0
    assert counts(s3) == (PHOTOS, 0, 0)
    assert s3.count("GET", "bucket/in/000.png") == 2


def test_what_fails_for_ever_fails_its_photo_and_the_others_go_on(s3: FakeS3, color: Color) -> None:
    faults: dict[tuple[str, str], Answer] = {
        ("GET", "bucket/in/000.png"): 503,
        ("GET", "bucket/in/001.png"): "cut",
        ("PUT", "bucket/out/002.png"): 500,
        ("PUT", "bucket/out/003.png"): "cut",
    }
    s3.fault = lambda method, path: faults.get((method, path))
    assert color(IN, OUT).code == 1
    assert counts(s3) == (2, 0, 4)
    failures = report(s3)["failures"]
    assert "SlowDown" in failures["000.png"] or "told to" in failures["000.png"]
    assert sorted(failures) == ["000.png", "001.png", "002.png", "003.png"]
    assert not {"bucket/out/002.png", "bucket/out/003.png"} & s3.objects.keys()
    assert s3.count("GET", "bucket/in/000.png") <= 16
    assert s3.count("PUT", "bucket/out/002.png") <= 8
    s3.fault = lambda method, path: None
    assert color(IN, OUT).code == 0
    assert counts(s3) == (4, 2, 0)


def test_a_cut_upload_leaves_the_former_output(s3: FakeS3, color: Color) -> None:
    color(IN, OUT)
    before = s3.objects["bucket/out/000.png"]
    s3.objects["bucket/in/000.png"] = s3.objects["bucket/in/001.png"]
    s3.fault = lambda method, path: "cut" if (method, path) == ("PUT", "bucket/out/000.png") else None
    assert color(IN, OUT).code == 1
    assert s3.objects["bucket/out/000.png"] == before
    s3.fault = lambda method, path: None
    assert color(IN, OUT).code == 0
    assert s3.objects["bucket/out/000.png"] == s3.objects["bucket/out/001.png"]


def test_a_store_that_does_not_answer_fails_the_photo(
    s3: FakeS3, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(S3_CONFIG, "read_timeout", 0.05)
    monkeypatch.setitem(S3_CONFIG, "retries", {"mode": "standard", "total_max_attempts": 1})
    s3.fault = lambda method, path: "hang" if (method, path) == ("GET", "bucket/in/000.png") else None
    assert color(IN, OUT).code == 1
    assert counts(s3) == (PHOTOS - 1, 0, 1)
    assert "ReadTimeoutError" in report(s3)["failures"]["000.png"]


def test_options_of_the_user_come_first(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 61}})
    files, _ = filesystems.opened(IN, Credentials(IN))
    config = files.s3.meta.config
    assert (config.read_timeout, config.connect_timeout, config.retries["total_max_attempts"]) == (61, 5, 4)


@pytest.mark.parametrize("place", ["in", "out"])
@pytest.mark.slow
def test_a_store_that_is_down_stops_the_run(
    s3: FakeS3, color: Color, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    monkeypatch.setattr(bookkeeping, "STORE_FAILURES", 3)
    monkeypatch.setattr(filesystems, "S3_ROUNDS", 1)
    photo = s3.objects["bucket/in/000.png"]
    s3.objects |= {f"bucket/in/more/{number:03d}.png": photo for number in range(200)}
    s3.fault = lambda method, path: 503 if path.startswith(f"bucket/{place}/") and path.endswith(".png") else None
    ran = color(IN, OUT, "--report", tmp_path / "report.json")
    assert ran.code == 1
    assert "stopped: the store failed 3 photos in a row, the last with: " in ran.err
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["done"] == 0
    assert found["not_begun"] > 50  # up to 64 are being published


def test_only_failures_in_a_row_stop_the_run(s3: FakeS3, tmp_path: Path) -> None:
    options = FolderOptions(batch_size=1, workers=1)
    parts: Any = dict.fromkeys(("on_event", "pools"))
    with closing(Journal(None)) as journal:
        books = Bookkeeper(
            source=open_storage(IN),
            target=LocalFolder(tmp_path),
            options=options,
            journal=journal,
            recipe="",
            outcome=Outcome(),
            stop=threading.Event(),
            **parts,
        )
        job = Job("a.png", "a.png", PillowFormat.PNG, "1:1")
        for error in (None, PhotoError("bad"), OccupiedError("a", "b"), FileNotFoundError(2, "gone")):
            for _ in range(bookkeeping.STORE_FAILURES - 1):
                books.failed(job, OSError(5, "down"))
            if error:
                books.failed(job, error)
            else:
                books.done(Item(job))
            assert books.outcome.stopped is None
        for _ in range(bookkeeping.STORE_FAILURES):
            books.failed(job, OSError(5, "down"))
        assert books.outcome.stopped == "the store failed 20 photos in a row, the last with: down"


def test_a_journal_that_cannot_be_written_stops_the_run(s3: FakeS3, color: Color) -> None:
    s3.fault = lambda method, path: 500 if method == "PUT" and path.endswith("00000002.jsonl.gz") else None
    ran = color(IN, OUT)
    assert ran.code == 1
    assert "stopped: s3://bucket/out/.cgan/journal: the journal cannot be written (" in ran.err
    assert not [name for name in s3.objects if name.startswith("bucket/out/0")]
    s3.fault = lambda method, path: None
    assert color(IN, OUT).code == 0
    assert counts(s3) == (PHOTOS, 0, 0)


def test_a_store_that_ignores_conditions_is_looked_at_before_each_write(s3: FakeS3, color: Color) -> None:
    s3.honours_conditions = False
    try:
        assert color(IN, OUT).code == 0
        assert requests_for(s3, "/000.png")["HEAD out"] == 1
    finally:
        s3.honours_conditions = True


def test_all_pages_of_a_listing_are_planned_once(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_s3, "PAGE", 7)
    s3.objects = {f"bucket/in/{number % 3}/{number:03d}.png": b"x" for number in range(100)}
    s3.objects["bucket/in/folder/"] = b""
    s3.objects["bucket/in2/other.png"] = b"x"
    plan = make_plan(open_storage(IN), open_storage(OUT))
    assert sorted(job.name for job in plan.jobs) == sorted(f"{number % 3}/{number:03d}.png" for number in range(100))
    assert s3.count("LIST", "bucket/in/") == 15


def test_no_credential_is_shown_or_stored(s3: FakeS3, color: Color, tmp_path: Path) -> None:
    faults: dict[str, Answer] = {"000.png": 403, "001.png": 503, "002.png": "cut"}
    seen = ""
    for method in ("GET", "PUT"):
        s3.fault = lambda tried, path: faults.get(path[-7:]) if tried == method else None  # noqa: B023
        for options in ((), ("--log-json", "--overwrite", "--manifest")):
            result = color(IN, OUT, *options).result
            assert result.code == 1
            seen += result.out + result.err
    s3.fault = lambda method, path: 403
    seen += color(IN, OUT).result.error(2)
    stored = [gzip.decompress(content) if name.endswith(".gz") else content for name, content in s3.objects.items()]
    stored += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    everything = b"".join([seen.encode(), *stored])
    assert b"AccessDenied" in everything or b"told to" in everything
    secrets = settings("")
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        for form in (secrets[name], quote(secrets[name], safe=""), base64.b64encode(secrets[name].encode()).decode()):
            assert form.encode() not in everything


KILLED = """
import os, signal, infer.folder.remote
publish = infer.folder.remote.RemoteFolder.publish
names = set()
def count(self, name, *arguments):
    publish(self, name, *arguments)
    names.add(name)
    if len(names) == 10:
        os.kill(os.getpid(), signal.SIGKILL)
infer.folder.remote.RemoteFolder.publish = count
infer.folder.shared_journal.LEASE_SECONDS = 0
"""


@pytest.mark.slow
def test_killed_on_several_machines_it_goes_on(s3: FakeS3, tmp_path: Path, gray_photos: Callable[..., Path]) -> None:
    def ran(target: object, machine: int, setup: str = "") -> int:
        program = f"import infer.folder.shared_journal\n{setup}\nfrom infer.cli import main; main()"
        state = {**os.environ, "XDG_STATE_HOME": str(tmp_path / str(machine))}
        command = [sys.executable, "-c", program, "folder", IN, str(target), "--device", "cpu", "--batch-size", "1"]
        return subprocess.run(command, cwd=ROOT, env=state).returncode

    for path in gray_photos(tmp_path / "more", 30, (60, 50)).iterdir():
        s3.objects[f"bucket/in/more/{path.name}"] = path.read_bytes()
    assert ran(tmp_path / "right", 0) == 0
    for machine in (1, 2):
        assert ran(OUT, machine, KILLED) == -signal.SIGKILL
    s3.requests = []
    assert ran(OUT, 3, "infer.folder.shared_journal.LEASE_SECONDS = 0") == 0
    assert sum(counts(s3)) == counts(s3)[0] + counts(s3)[1] == PHOTOS + 30
    assert counts(s3)[1] + 20 >= PHOTOS + 30 - counts(s3)[0]
    for path in (tmp_path / "right").rglob("*.png"):
        assert s3.objects[f"bucket/out/{path.relative_to(tmp_path / 'right')}"] == path.read_bytes()
