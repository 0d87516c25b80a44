"""The journal of an OUTPUT in a store: several machines, lost machines, damaged logs."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cgan.errors import UserError
from infer.cli import main
from infer.folder import folder_run, shared_journal
from infer.folder.journal import Journal
from infer.folder.journal_files import journal_path
from infer.folder.journal_log import Head, JournalLog
from infer.folder.journal_row import BEGUN, DONE, FAILED, JournalError, Row
from infer.folder.local_folder import LocalFolder
from infer.folder.remote import RemoteFolder
from infer.folder.shared_journal import SharedJournal, open_shared, read_journal
from tests.infer.stores import ftp_server

OUT = "memory://out"
LOG = "/out/.cgan/journal"
BYTES_NAME = os.fsdecode(b"latin-\xe9\nline.png")
ROW = Row("a.gif", "10:1", "c", "recipe", f"/in/{BYTES_NAME}", BEGUN, 7, "first\nsecond", "d", "p")
FIRST = Head("mark", "host", 1, "2026-01-01T00:00:00+00:00", False, 0)
Color = Callable[..., Any]
Machine = Callable[[str], None]


@pytest.fixture(autouse=True)
def store() -> Iterator[MemoryFileSystem]:
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """`machine(name)`: go on at a machine of this name, which is one with state files of its own."""

    def go_to(name: str) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / name))

    go_to("first")
    return go_to


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases have ended."""
    monkeypatch.setattr(shared_journal, "LEASE_SECONDS", 0.0)


def opened(url: str = OUT, part: str = "") -> SharedJournal:
    target = RemoteFolder(url)
    target.part = part
    target.prepare()
    return open_shared(target)


def lose(journal: Journal) -> None:
    """End as if the machine were switched off."""
    journal._database.close()


def rows_in(url: str = OUT) -> dict[str, Row]:
    with closing(opened(url)) as journal:
        return dict(journal.rows())


def objects() -> list[str]:
    return sorted(path.rpartition("/")[2] for path in MemoryFileSystem().find(LOG))


def test_another_machine_has_all_rows_exactly(machine: Machine) -> None:
    left = ROW._replace(name=BYTES_NAME)
    with closing(opened()) as journal:
        journal.begin([("a.png", ROW), (BYTES_NAME, left), ("gone.png", ROW)])
        journal.settle("a.png", DONE, size=5, digest="e", reason="note")
        journal.restore({"gone.png": None})
        journal.refresh(BYTES_NAME, "10:2", "")
    machine("second")
    done = ROW._replace(state=DONE, size=5, digest="e", publishing="", reason="note")
    assert rows_in() == {"a.png": done, BYTES_NAME: left._replace(identity="10:2")}


def test_a_run_on_another_machine_is_refused_until_its_lease_ends(machine: Machine, tmp_path: Path) -> None:
    with closing(opened()) as journal:
        journal.begin([("a.png", ROW)])
        machine("second")
        with pytest.raises(UserError, match=r"^memory://out/.cgan/journal: another run is .* in \d+ s$"):
            opened()
    assert rows_in() == {"a.png": ROW}


@pytest.mark.usefixtures("patient")
def test_a_run_that_was_taken_over_writes_nothing_more(machine: Machine) -> None:
    first = opened()
    first.begin([("a.png", ROW)])
    machine("second")
    with closing(opened()) as second:
        assert dict(second.rows()) == {"a.png": ROW}
        second.begin([("b.png", ROW)])
        with pytest.raises(JournalError, match="another run has begun there and goes on with it"):
            first.begin([("c.png", ROW)])
        assert first.overtaken
        first.close()
    assert rows_in() == {"a.png": ROW, "b.png": ROW}


@pytest.mark.usefixtures("patient")
def test_a_run_that_slept_finds_that_its_number_was_removed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_journal, "MOST_OBJECTS", 1)
    first = opened()
    first.begin([("a.png", ROW)])
    machine("second")
    for _ in range(3):
        opened().close()
    assert f"{first._log.number + 1:08d}.jsonl.gz" not in objects()
    with pytest.raises(JournalError, match="another run has begun there"):
        first.begin([("c.png", ROW)])


def test_of_two_runs_that_begin_at_once_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write = JournalLog.write

    def beaten(log: JournalLog, *arguments: Any) -> None:
        monkeypatch.setattr(JournalLog, "write", write)
        JournalLog(log.target, "").write(replace(FIRST, run="another"), ())
        log.write(*arguments)

    monkeypatch.setattr(JournalLog, "write", beaten)
    with pytest.raises(UserError, match="another run has begun there"):
        opened()


def test_a_killed_run_goes_on_at_once_at_its_machine_with_all_that_it_noted() -> None:
    journal = opened()
    journal.begin([("a.png", ROW)])
    journal.publishing([("a.png", "new digest", "")])
    lose(journal)
    assert rows_in()["a.png"].publishing == "new digest"


def test_rows_of_groups_go_to_the_store_now_and_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    with closing(opened()) as journal:
        journal.begin([(f"{number}.png", ROW) for number in range(100)])
        before = len(objects())
        for number in range(100):
            journal.publishing([(f"{number}.png", "digest", "")])
            journal.settle(f"{number}.png", DONE, size=5, digest="digest")
            journal.commit()
        assert len(objects()) == before
        monkeypatch.setattr("time.time", lambda: now + 11)
        journal.commit()
        journal.commit()
        assert len(objects()) == before + 1
        journal.publishing([("0.png", "again", "")])
        monkeypatch.setattr("time.time", lambda: now + 22)
        journal.commit()
        copy = read_journal(RemoteFolder(OUT), None, "", tmp_path)
        assert copy is not None
        assert dict(copy.rows())["0.png"].publishing == "again"
        copy.close()
        monkeypatch.setattr("time.time", lambda: now + 90)
        journal.commit()  # says that the run is alive
        assert len(objects()) == before + 3


class LostError(Exception):
    """The machine is gone."""


@pytest.mark.usefixtures("patient")
def test_no_row_is_lost_wherever_the_beginning_of_a_run_ends(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, store: MemoryFileSystem
) -> None:
    monkeypatch.setattr(shared_journal, "PIECE", 2)
    expected = {}
    for number in range(5):
        with closing(opened()) as journal:
            expected[f"{number}.png"] = ROW._replace(name=f"{number}.gif")
            journal.begin([(f"{number}.png", expected[f"{number}.png"]), ("gone.png", ROW)])
            journal.restore({"gone.png": None})
    monkeypatch.setattr(shared_journal, "MOST_OBJECTS", 4)
    before = dict(store.store)
    for steps in range(90):
        store.store.clear()
        store.store.update(before)
        machine(f"lost {steps}")
        left = steps

        def step(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                if left <= 0:
                    raise LostError
                left -= 1
                return method(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(RemoteFolder, "write_own", step(RemoteFolder.write_own))
            patch.setattr(RemoteFolder, "remove", step(RemoteFolder.remove))
            try:
                lose(opened())
                ended = True
            except LostError:
                ended = False
        machine(f"next {steps}")
        assert rows_in() == expected
        if ended:
            break
    assert ended
    assert steps > 10
    assert len(objects()) <= 6


def test_a_journal_of_an_earlier_version_is_taken_in(machine: Machine) -> None:
    path = journal_path(RemoteFolder(OUT).identity, None)
    with closing(Journal(path)) as earlier:
        earlier.begin([("a.png", ROW)])
    assert rows_in() == {"a.png": ROW}
    assert not path.exists()
    machine("second")
    assert rows_in() == {"a.png": ROW}


def test_state_files_that_cannot_be_written_are_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = journal_path(RemoteFolder(OUT).identity, None)
    with closing(Journal(path)) as earlier:
        earlier.begin([("a.png", ROW)])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    assert rows_in() == {"a.png": ROW}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_log_without_outputs_is_removed() -> None:
    with closing(opened()) as journal:
        journal.begin([("a.png", ROW._replace(size=0, digest=""))])
        journal.settle("a.png", FAILED, reason="bad")
    assert objects() == []


def test_a_store_without_conditional_writes_has_a_log_too(tmp_path: Path, machine: Machine) -> None:
    (tmp_path / "root").mkdir()
    with ftp_server(tmp_path / "root") as url:
        with closing(opened(f"{url}/out")) as journal:
            journal.begin([("a.png", ROW)])
            machine("second")
            with pytest.raises(UserError, match="another run is writing there"):
                opened(f"{url}/out")
        assert rows_in(f"{url}/out") == {"a.png": ROW}
        assert {entry.name for entry in RemoteFolder(f"{url}/out").walk()} == set()
    names = sorted(path.name for path in (tmp_path / "root" / "out" / ".cgan" / "journal").iterdir())
    assert names == [f"{number:08d}.jsonl.gz" for number in range(1, 6)]


def report(name: str = "report.json") -> dict[str, Any]:
    values: dict[str, Any] = json.loads(MemoryFileSystem().cat_file(f"/out/{name}"))
    return values


@pytest.mark.usefixtures("patient")
def test_after_a_lost_machine_another_one_settles_all_photos(
    tmp_path: Path, machine: Machine, color: Color, gray_photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where outputs of an earlier run were replaced: their new digests were not in the store yet."""
    photos = gray_photos(tmp_path / "in", 12)
    assert color(photos, OUT, "--strength", "0.5").code == 0
    color(photos, tmp_path / "right")
    pipe, close = MemoryFileSystem.pipe_file, SharedJournal.close
    written: list[str] = []

    class SwitchedOff(BaseException):
        pass

    def count(self: Any, path: str, *arguments: Any, **options: Any) -> None:
        if len(written) == 6:
            raise SwitchedOff
        pipe(self, path, *arguments, **options)
        if path.endswith(".png"):
            written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", count)
        patch.setattr(SharedJournal, "close", lose)
        with pytest.raises(SwitchedOff):
            color(photos, OUT)
    assert SharedJournal.close is close
    machine("second")
    planned = color(photos, OUT, "--dry-run")
    assert planned.code == 0
    assert "(not known to be finished)" in planned.err
    ran = color(photos, OUT)
    assert ran.code == 0, ran.err
    assert (report()["done"], report()["skipped"], report()["failed"]) == (12, 0, 0)
    for path in photos.iterdir():
        output = MemoryFileSystem().cat_file(f"/out/{path.name}")
        assert output == (tmp_path / "right" / path.name).read_bytes()


@pytest.mark.usefixtures("patient")
def test_a_run_that_was_overtaken_stops_and_leaves_the_report(
    tmp_path: Path, machine: Machine, color: Color, tinted: Any, gray_photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = gray_photos(tmp_path / "in", 6)
    color(photos, OUT)
    before = MemoryFileSystem().cat_file("/out/report.json")
    monkeypatch.setattr(SharedJournal, "chunk", 2)

    def take_over(_: object) -> None:
        tinted.before = lambda gray: None
        machine("second")
        lose(opened())

    tinted.before = take_over
    error = color(photos, OUT, "--overwrite", "--batch-size", 1).result.error(1)
    assert error.endswith("another run has begun there and goes on with it, so this one ends")
    assert MemoryFileSystem().cat_file("/out/report.json") == before


def test_shards_of_several_machines_are_merged_on_any(
    tmp_path: Path,
    machine: Machine,
    color: Color,
    invoke: Any,
    gray_photos: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = gray_photos(tmp_path / "in", 6)
    for number in (1, 2):
        machine(f"shard {number}")
        assert color(photos, OUT, "--shard", f"{number}/2").code == 0
    machine("third")
    for options in ((), ("--dry-run",), ("--shard", "1/3")):
        error = color(photos, OUT, *options).result.error(2)
        assert error.startswith("error: memory://out: found the journal of a run with --shard K/2; run it so again")
    before = sorted(MemoryFileSystem().find("/out"))
    ran = color(photos, OUT, "--shard", "1/2", "--dry-run")
    assert "to do 0, to skip" in ran.err
    assert sorted(MemoryFileSystem().find("/out")) == before
    MemoryFileSystem().rm_file("/out/report-2-of-2.json")
    assert "shard 2/2: ended without a report" in invoke(main, "merge-reports", OUT).err
    assert (report("report-merged.json")["missing"], report("report-merged.json")["without_report"]) == ([], [2])
    with closing(opened(part="-2-of-2")):
        assert "shard 2/2: at work" in invoke(main, "merge-reports", OUT).err
    MemoryFileSystem().rm_file("/out/003.png")
    searches, search = itertools.count(), RemoteFolder._search_all
    monkeypatch.setattr(RemoteFolder, "_search_all", lambda self: (next(searches), search(self))[1])
    assert "gone: 003.png, recorded as done" in invoke(main, "merge-reports", OUT).err
    assert next(searches) == 1


def test_an_output_in_a_store_is_no_input_of_another_run(tmp_path: Path, color: Color, gray_photos: Any) -> None:
    photos = gray_photos(tmp_path / "in", 2)
    color(photos, "memory://in/sub/colored")
    MemoryFileSystem().pipe_file("/in/a.png", (photos / "000.png").read_bytes())
    ran = color("memory://in", OUT)
    assert (report()["photos"], report()["other_files"]) == (1, 0)
    assert "passed over: sub/colored: another OUTPUT, whose photos are coloured already" in ran.err
    color("memory://in/sub/colored", "memory://out/of-output")
    assert color("memory://in/sub/colored", OUT, "--dry-run").code == 0
    names = [entry.name for entry in RemoteFolder("memory://in/sub/colored").walk()]
    assert names == ["000.png", "001.png", "report.json"]


def test_a_run_without_work_writes_one_object_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_journal, "RENEW_SECONDS", -1.0)
    with closing(opened()) as journal:
        contents = set()
        for _ in range(4):
            journal.commit()
            contents.add(MemoryFileSystem().cat_file(f"{LOG}/00000002.jsonl.gz"))
        assert (len(objects()), len(contents)) == (2, 4)
        journal.begin([("a.png", ROW)])
        for _ in range(2):
            journal.commit()
        assert len(objects()) == 4  # rows are never replaced
        journal.settle("a.png", DONE, size=5, digest="e")
    machine("second")
    assert rows_in()["a.png"].state is DONE


@pytest.mark.usefixtures("patient")
def test_a_watching_run_says_that_it_is_alive_and_finds_that_it_was_overtaken(
    tmp_path: Path, machine: Machine, color: Color, gray_photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_journal, "RENEW_SECONDS", 0.0)
    searches = 0
    search = LocalFolder.walk

    def walk(self: LocalFolder, leave_out: Any = None) -> Any:
        nonlocal searches
        searches += 1
        if searches == 4:
            machine("second")
            lose(opened())
        return search(self, leave_out)

    monkeypatch.setattr(LocalFolder, "walk", walk)
    monkeypatch.setattr(folder_run, "WATCH_SECONDS", 0.0)
    error = color(gray_photos(tmp_path / "in"), OUT, "--watch").result.error(1)
    assert error.endswith("another run has begun there and goes on with it, so this one ends")
    assert report()["done"] == 3
    assert searches == 4
