"""Bounds of a folder run: threads that hang, photos in hand when it stops, contents that are fetched, permissions."""

import errno
import os
import stat
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cgan.photo_limits import check_time
from infer.folder import folder_run, photo_stages, pipeline, scheduler
from infer.folder.archive import ArchiveFolder
from infer.folder.journal_row import BEGUN, JournalError
from infer.folder.pipeline import PhotoWork
from infer.photo import encode
from infer.photo.decode import header_of

Photos = Callable[..., Path]
Color = Callable[..., Any]


class Hang:
    """A stage that does not return for some photos, as a call of a C library may, until the test ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stage: str, names: set[str]) -> None:
        self.over, self.returned = threading.Event(), threading.Semaphore(0)
        self.names = names
        self._stage, self._work = stage, getattr(photo_stages, stage)
        monkeypatch.setattr(photo_stages, stage, self)

    def __call__(self, source: Any, name: str = "", *arguments: Any, **options: Any) -> Any:
        if name in self.names:
            assert self.over.wait(60)
            self.returned.release()
        return self._work(source, name, *arguments, **options)


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hang]]:
    """`hang(stage, names)`: let a stage hang for some photos."""
    made: list[Hang] = []

    def make(stage: str, *names: str) -> Hang:
        made.append(Hang(monkeypatch, stage, set(names)))
        return made[-1]

    yield make
    for each in made:
        each.over.set()


@pytest.mark.parametrize("stage", ["header_of", "decode"])
def test_a_photo_whose_thread_hangs_fails_and_the_run_goes_on(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch, hang: Callable[..., Hang], stage: str
) -> None:
    gray_photos(run.source.path, 12)
    monkeypatch.setattr(photo_stages, "HANGING_SECONDS", 0.0)
    hung = hang(stage, "001.png", "005.png")
    outcome = run(workers=1, timeout=0.5)
    reason = "not done after 0.5 s; raise --timeout"
    assert outcome.failed == {"001.png": reason, "005.png": reason}
    assert outcome.done == 10
    hung.over.set()
    for _ in hung.names:
        assert hung.returned.acquire(timeout=20)
    assert len(run.outputs()) == 10  # what comes late is not published


def test_a_step_that_takes_too_long_ends_by_itself(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    gray_photos(run.source.path, 3)
    write = encode.write_photo

    def slow(photo: Any, *arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and "slow" not in seen:
            seen.append("slow")
            while True:
                check_time()
        return write(photo, *arguments, **options)

    seen: list[str] = []
    monkeypatch.setattr(photo_stages, "write_photo", slow)
    outcome = run(timeout=0.2)
    assert list(outcome.failed.values()) == ["not done after 0.2 s; raise --timeout"]
    assert outcome.done == 2


def test_without_a_limit_nothing_is_given_up(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch, hang: Callable[..., Hang]
) -> None:
    gray_photos(run.source.path, 3)
    monkeypatch.setattr(photo_stages, "HANGING_SECONDS", 0.0)
    hung = hang("decode", "001.png")
    threading.Timer(0.6, hung.over.set).start()
    assert run(timeout=0).done == 3


def test_a_stop_does_not_wait_for_a_thread_that_hangs(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch, hang: Callable[..., Hang]
) -> None:
    gray_photos(run.source.path, 30)
    monkeypatch.setattr(scheduler, "GRACE_SECONDS", 0.0)
    hung = hang("decode", "000.png", "005.png")
    run.on_event = lambda event, outcome: run.stop.set()
    first = run(workers=4)
    assert (first.failed, first.stopped) == ({}, "interrupted")
    assert hung.names.isdisjoint(run.outputs())
    assert BEGUN not in run.states().values()
    run.stop.clear()
    run.on_event = lambda event, outcome: None
    hung.names.clear()
    assert first.done + run(workers=2).done == 30


def test_after_a_stop_only_photos_in_hand_are_finished(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 60)
    run.on_event = lambda event, outcome: run.stop.set()
    outcome = run(batch_size=4, workers=1, streams=1)
    ((settled, in_hand),) = run.in_hand
    assert outcome.settled == settled + in_hand
    assert in_hand <= 4 + 4 + 1  # written, in the engine, in the worker
    assert len(run.outputs()) == outcome.done


def test_photos_in_hand_are_finished_after_a_stop(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    gray_photos(run.source.path, 20)
    encode = PhotoWork.encode

    def stopping(work: PhotoWork, item: Any) -> None:
        encode(work, item)
        run.stop.set()  # photos that no thread is processing are dropped, but for encoded ones

    monkeypatch.setattr(PhotoWork, "encode", stopping)
    outcome = run(batch_size=1, workers=1)
    assert outcome.done >= 1
    assert not outcome.failed


def test_contents_that_wait_are_bounded_by_their_bytes(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in sorted(gray_photos(run.source.path, 12).iterdir()):
        path.write_bytes(path.read_bytes() + bytes(100_000))
    monkeypatch.setattr(pipeline, "MEMORY_UNDER_WAY", 250_000)
    lock, held, most = threading.Lock(), set[str](), [0]
    fetch, decode = PhotoWork.fetch, PhotoWork.decode

    def fetching(work: PhotoWork, item: Any) -> None:
        with lock:
            held.add(item.job.name)
            most[0] = max(most[0], len(held))
        fetch(work, item)

    def decoding(work: PhotoWork, item: Any) -> None:
        with lock:
            held.discard(item.job.name)
        decode(work, item)

    monkeypatch.setattr(PhotoWork, "fetch", fetching)
    monkeypatch.setattr(PhotoWork, "decode", decoding)
    assert run(workers=1).done == 12
    assert most[0] <= 2 + 2  # two fetched, and two admitted to decoding that have not begun


def test_metadata_and_file_count_as_memory(run: Any, gray_photos: Photos, tmp_path: Path) -> None:
    with Image.open(gray_photos(tmp_path / "x", 1) / "000.png") as image:
        image.convert("RGB").save(tmp_path / "a.tif", icc_profile=bytes(50_000))
        image.convert("RGB").save(tmp_path / "b.tif")
    a, b = (header_of(tmp_path / name) for name in ("a.tif", "b.tif"))
    assert a.pixels == b.pixels == 40 * 30
    assert a.memory >= b.memory + 4 * 50_000


def test_an_entry_of_an_archive_above_the_limit_is_not_read(
    tmp_path: Path, gray_photos: Photos, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(gray_photos(tmp_path / "in", 1) / "000.png", "good.png")
        archive.writestr("bomb.png", bytes(100_000))
    monkeypatch.setattr("cgan.photo_limits.MAX_METADATA", 50_000)
    read: list[str] = []
    fetch = ArchiveFolder.fetch

    def noted(self: ArchiveFolder, name: str) -> bytes:
        read.append(name)
        return fetch(self, name)

    monkeypatch.setattr(ArchiveFolder, "fetch", noted)
    for options in ((), ("--checksum",)):
        out = tmp_path / f"out{len(options)}"
        ran = color(f"zip://::file://{tmp_path}/x.zip", out, "--max-pixels", 1200, *options)
        assert ran.report["failures"] == {"bomb.png": "100000 bytes, the limit is 59600; raise --max-pixels"}
        assert ran.counts == (1, 0, 1)
    assert set(read) == {"good.png"}


@pytest.mark.parametrize(
    ("mode", "umask", "expected"),
    [
        (0o600, 0o022, 0o600),
        (0o640, 0o022, 0o640),
        (0o666, 0o022, 0o644),
        (0o664, 0o002, 0o664),
        (0o755, 0o022, 0o644),
        (0o444, 0o022, 0o444),
        (0o644, 0o077, 0o600),
    ],
)
def test_outputs_are_no_more_open_than_inputs(
    tmp_path: Path, gray_photos: Photos, color: Color, mode: int, umask: int, expected: int
) -> None:
    photo = gray_photos(tmp_path / "in", 1) / "000.png"
    photo.chmod(mode)
    before = os.umask(umask)
    try:
        for options in ((), ("--overwrite",)):
            assert color(tmp_path / "in", tmp_path / "out", *options).counts == (1, 0, 0)
            assert stat.S_IMODE((tmp_path / "out" / "000.png").stat().st_mode) == expected
    finally:
        os.umask(before)


def test_more_workers_than_cores_are_taken_with_a_note(
    tmp_path: Path, gray_photos: Photos, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_run, "available_cores", lambda: 1)
    ran = color(gray_photos(tmp_path / "in", 1), tmp_path / "out")
    assert "note: --workers 2: this process may use 1 cores" in ran.err
    assert ran.report["options"]["workers"] == 2


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_folder_with_the_name_of_the_report_is_refused_before_the_run(
    tmp_path: Path, gray_photos: Photos, color: Color, options: tuple[str, ...]
) -> None:
    gray_photos(tmp_path / "in" / "report.json", 1)
    ran = color(tmp_path / "in", tmp_path / "out", *options)
    assert ran.code == 2
    assert "found a folder of photos of this name" in ran.err
    assert "--report" in ran.err
    assert not (tmp_path / "out" / "report.json").exists()
    if not options:
        assert color(tmp_path / "in", tmp_path / "out", "--report", tmp_path / "r.json").code == 0
        assert (tmp_path / "out" / "report.json" / "000.png").is_file()


@pytest.mark.parametrize("place", ["", "file://", "local://", "filecache::", "simplecache://", "filecache::file://"])
def test_a_place_without_a_path_is_refused(tmp_path: Path, gray_photos: Photos, color: Color, place: str) -> None:
    photos = gray_photos(tmp_path / "in", 1)
    for source, target in ((place, tmp_path / "out"), (photos, place)):
        ran = color(source, target)
        assert ran.code == 2
        assert ran.err.count("\n") == 1


def test_an_archive_in_an_archive_is_refused(tmp_path: Path, color: Color) -> None:
    ran = color(f"tar://::zip://::file://{tmp_path}/x.zip", tmp_path / "out")
    assert ran.code == 2
    assert "found an archive in an archive" in ran.err


def test_a_journal_that_finds_a_full_disk_is_no_fault_of_the_request(
    tmp_path: Path, gray_photos: Photos, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def unopened(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(tempfile, "TemporaryFile", full)
        raise JournalError("the journal cannot be used (unable to open database file)")

    monkeypatch.setattr("infer.folder.request.Journal", unopened)
    ran = color(gray_photos(tmp_path / "in", 1), tmp_path / "out")
    assert ran.code == 1
    assert "unable to open database file" in ran.err


def test_an_archive_that_cannot_be_unpacked_to_a_full_disk_is_no_fault_of_the_request(
    tmp_path: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Iterator[None]:
        raise OSError(errno.ENOSPC, "TMPDIR is too small")

    (tmp_path / "x.tar").touch()
    monkeypatch.setattr("infer.folder.archive._opened", full)
    ran = color(f"tar://::file://{tmp_path}/x.tar", tmp_path / "out")
    assert (ran.code, ran.err.count("TMPDIR is too small")) == (1, 1)
