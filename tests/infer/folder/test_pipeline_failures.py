"""The pipeline where something fails or ends it, and what the journal is told."""

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infer.folder import bookkeeping, pipeline
from infer.folder.journal_row import BEGUN, DONE, FAILED, JournalError, Row
from infer.folder.options import FolderOptions
from infer.folder.pipeline import PhotoWork, Pipeline
from infer.folder.scheduler import Scheduler
from infer.photo.decode import header_of

Photos = Callable[..., Path]


def test_one_bad_file_does_not_end_the_run(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 6)
    (run.source.path / "002.png").write_bytes(b"")
    (run.source.path / "004.png").write_bytes(b"nonsense")
    outcome = run()
    assert outcome.done == 4
    assert outcome.failed.keys() == {"002.png", "004.png"}
    assert outcome.failed["002.png"] == "the file is empty"
    assert run.outputs() == ["000.png", "001.png", "003.png", "005.png"]
    assert [name for name, state in run.states().items() if state == FAILED] == ["002.png", "004.png"]


@pytest.mark.parametrize("stage", ["fetch", "decode", "encode", "publish"])
def test_photos_that_share_a_task_fail_one_by_one(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    gray_photos(run.source.path, 4)
    monkeypatch.setattr(Scheduler, "_share", 4)
    work = getattr(PhotoWork, stage)

    def failing(self: PhotoWork, item: Any) -> None:
        if item.job.name == "001.png":
            raise ValueError(stage)
        work(self, item)

    monkeypatch.setattr(PhotoWork, stage, failing)
    outcome = run()
    assert outcome.failed == {"001.png": f"ValueError: {stage}"}
    assert run.outputs() == ["000.png", "002.png", "003.png"]


def test_more_failures_than_photos_under_way_leave_room_for_the_rest(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = sorted(gray_photos(run.source.path, 60).iterdir())
    monkeypatch.setattr(pipeline, "MEMORY_UNDER_WAY", 2 * header_of(photos[0]).memory)
    for path in photos[:55]:
        path.write_bytes(path.read_bytes()[:600])  # its header is whole
    outcome = run(batch_size=2, workers=1)
    assert (outcome.done, len(outcome.failed), outcome.stopped) == (5, 55, None)
    assert all("truncated" in reason for reason in outcome.failed.values())


def test_too_many_failures_stop_the_run(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 40)
    for i in range(5):
        (run.source.path / f"{i:03d}.png").write_bytes(b"")
    outcome = run(max_failures=2)
    assert outcome.stopped == "more than 2 files failed"
    assert outcome.done < 35
    outcome = run(max_failures=5)
    assert outcome.stopped is None
    assert outcome.settled == 40


def test_stop_finishes_what_is_under_way(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 60)
    run.on_event = lambda event, outcome: run.stop.set()
    outcome = run()
    assert outcome.stopped == "interrupted"
    assert 0 < outcome.done < 60
    assert len(run.outputs()) == outcome.done
    assert sorted(run.outputs()) == sorted(event.job.name for event in run.events)


def test_what_was_only_fetched_when_the_run_stops_is_not_begun(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 60)
    run.on_event = lambda event, outcome: run.stop.set()
    outcome = run(batch_size=1, workers=1)
    assert outcome.settled <= 2 * 5 + 2  # decoded when the first was done
    assert set(run.states()) == set(run.outputs())


def test_file_that_vanishes_fails_with_the_reason(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 3)
    fetch = run.source.fetch

    def vanish(name: str) -> Path:
        if name == "001.png":
            (run.source.path / name).unlink()
        found: Path = fetch(name)
        return found

    run.source.fetch = vanish
    outcome = run()
    assert outcome.done == 2
    assert "No such file" in outcome.failed["001.png"]
    assert outcome.missing == {"001.png"}


def test_out_of_memory_halves_the_batch_and_says_so_once(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 20)

    def before(gray: np.ndarray) -> None:
        if len(gray) > 2:
            raise RuntimeError("CUDA out of memory")

    run.backend.before = before
    outcome = run(batch_size=4, streams=2)
    assert (outcome.done, outcome.failed) == (20, {})
    assert set(run.batch_sizes) == {2}
    assert outcome.run_notes == ["CUDA out of memory; going on with batches of 2"]
    assert run.backend.batch_size == 2  # what a GPU backend fills batches up to


def test_out_of_memory_with_one_photo_fails_it(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 5)
    Image.new("L", (40, 30), 255).save(run.source.path / "002.png")

    def before(gray: np.ndarray) -> None:
        if gray.max() == 1:
            raise MemoryError

    run.backend.before = before
    outcome = run(batch_size=4)
    assert outcome.done == 4
    assert list(outcome.failed) == ["002.png"]
    assert "no memory for a batch of 1" in outcome.failed["002.png"]


def test_in_a_batch_only_the_photo_at_fault_fails(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 10)
    Image.new("L", (32, 32), 255).save(run.source.path / "004.png")

    def before(gray: np.ndarray) -> None:
        if (gray.min(axis=(1, 2, 3)) == 1).any():
            raise RuntimeError("kernel crashed")

    run.backend.before = before
    outcome = run(batch_size=4)
    assert outcome.failed == {"004.png": "RuntimeError: kernel crashed"}
    assert outcome.done == 9


def test_a_padded_batch_is_halved_though_it_has_one_photo(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    gray_photos(run.source.path, 1)
    monkeypatch.setattr(type(run.backend), "pads", True)

    def before(gray: np.ndarray) -> None:
        if len(gray) > 8:
            raise RuntimeError("CUDA out of memory")

    run.backend.before = before
    run.backend.batch_size = 64
    outcome = run(batch_size=64)
    assert (outcome.done, outcome.failed) == (1, {})
    assert [note.rpartition(" ")[2] for note in outcome.run_notes] == ["32", "16", "8"]


def test_what_was_begun_and_not_come_to_is_put_back(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 40)
    assert run().done == 40
    run.recipe = "another"
    run.on_event = lambda event, outcome: run.stop.set()
    outcome = run(batch_size=1)
    assert 0 < outcome.done < 40
    assert set(run.states().values()) == {DONE}
    run.journal.restore({"000.png": None})
    assert run.journal.find("000.png") is None


def test_a_bug_that_is_no_exception_of_a_file_ends_the_run(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 3)

    def before(gray: np.ndarray) -> None:
        raise KeyboardInterrupt

    run.backend.before = before
    with pytest.raises(KeyboardInterrupt):
        run()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_full_disk_stops_the_run_and_leaves_nothing_partial(run: Any, gray_photos: Photos, code: int) -> None:
    gray_photos(run.source.path, 40)
    published: list[str] = []

    def full(name: str) -> None:
        published.append(name)
        if len(published) > 3:
            raise OSError(code, os.strerror(code))

    told = threading.Event()

    def before(gray: np.ndarray) -> None:
        if run.backend.batches:  # the first batch has gone through, and its last file found no room
            assert told.wait(60)

    run.target.before, run.backend.before = full, before
    run.on_event = lambda event, outcome: told.set() if event.state == "failed" else None
    outcome = run()
    assert outcome.stopped is not None
    assert os.strerror(code) in outcome.stopped
    assert outcome.done == 3
    assert outcome.settled < 40
    assert run.outputs() == sorted(published[:3])
    run.target.before = run.backend.before = lambda *_: None
    outcome = run()
    assert (outcome.done, outcome.skipped, outcome.stopped) == (37, 3, None)


def test_another_error_of_the_output_fails_its_file_alone(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 5)

    def refuse(name: str) -> None:
        if name == "001.png":
            raise PermissionError(errno.EACCES, "Permission denied")

    run.target.before = refuse
    outcome = run()
    assert outcome.done == 4
    assert outcome.failed == {"001.png": "Permission denied"}


def test_an_output_that_cannot_be_looked_at_fails_its_file_alone(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 3)
    status = run.target.status

    def refuse(name: str) -> Any:
        if name == "001.png":
            raise TimeoutError("no answer")
        return status(name)

    run.target.status = refuse
    outcome = run()
    assert (outcome.done, outcome.failed) == (2, {"001.png": "TimeoutError: no answer"})


def test_a_photo_is_begun_in_the_journal_before_its_output_appears(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 6)
    missing: list[str] = []

    def look(name: str) -> None:
        wal = (run.target.path.parent / "journal.sqlite-wal").read_bytes()
        if name.encode() not in wal:
            missing.append(name)

    run.target.before = look
    run()
    assert missing == []
    assert set(run.states().values()) == {DONE}


def killed(row: Row) -> Row:
    """A row as a kill leaves it just before or after the output appears for the first time."""
    return row._replace(state=BEGUN, size=0, digest="", publishing=row.digest)


def test_what_a_kill_left_without_its_note_is_not_done_again(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 4)
    run()
    done = {name: run.journal.find(name) for name in run.states()}
    run.journal.begin([(name, killed(row)) for name, row in done.items()])
    run.target.path.joinpath("002.png").unlink()
    outcome = run()
    assert (outcome.done, outcome.skipped) == (1, 3)
    assert {name: run.journal.find(name) for name in run.states()} == done


def test_done_is_flushed_to_disk_within_a_second(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    gray_photos(run.source.path, 8)
    monkeypatch.setattr(bookkeeping, "COMMIT_SECONDS", 0.01)
    commits: list[int] = []
    commit = run.journal.commit

    def counted() -> None:
        commits.append(sum(event.state == "done" for event in run.events))
        commit()

    run.journal.commit = counted
    run.target.before = lambda name: time.sleep(0.02)
    run(batch_size=1)
    assert any(0 < done < 8 for done in commits)


@pytest.mark.parametrize("method", ["find", "begin", "settle", "commit"])
def test_a_journal_that_fails_stops_the_run(run: Any, gray_photos: Photos, method: str) -> None:
    gray_photos(run.source.path, 30)

    def fail(*_: object, **__: object) -> None:
        raise JournalError("disk I/O error")

    setattr(run.journal, method, fail)
    outcome = run()
    assert outcome.stopped == "disk I/O error"
    assert outcome.settled == 0 or method == "commit"
    delattr(run.journal, method)
    again = run()
    assert (again.stopped, again.failed, again.settled) == (None, {}, 30)
    assert set(run.states().values()) == {DONE}
    assert len(run.outputs()) == len(run.states()) == 30


def test_an_output_that_cannot_be_prepared_is_an_error_before_the_first_photo(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 1)
    run.target.path.write_bytes(b"")
    options = FolderOptions(batch_size=1, workers=1)
    made = Pipeline(run.source, run.target, run.backend, options, run.journal, "recipe")
    with pytest.raises(FileExistsError):
        made.color(())
