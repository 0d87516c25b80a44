"""The log of a journal in a store: what is refused."""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from infer.folder import shared_journal
from infer.folder.journal_log import JournalLog
from infer.folder.journal_row import BEGUN, JournalError, Row
from infer.folder.remote import RemoteFolder
from infer.folder.shared_journal import SharedJournal, open_shared, read_journal

LOG = "/out/.cgan/journal"
ROW = Row("a.gif", "10:1", "c", "recipe", "/in", BEGUN, 7, "first\nsecond", "d", "p")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def opened() -> SharedJournal:
    return open_shared(RemoteFolder("memory://out"))


def rows_in() -> dict[str, Row]:
    with closing(opened()) as journal:
        return dict(journal.rows())


def objects() -> list[str]:
    return sorted(path.rpartition("/")[2] for path in MemoryFileSystem().find(LOG))


def change(path: str, edit: Callable[[bytes], bytes]) -> None:
    files = MemoryFileSystem()
    files.pipe_file(path, gzip.compress(edit(gzip.decompress(files.cat_file(path)))))


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda text: text.replace(b'"a.gif"', b'"b.gif"'), "do not fit their sha256"),
        (lambda text: text.replace(b'"cgan_journal":1', b'"cgan_journal":9'), "expected schema 1 and number 2"),
        (lambda text: text.replace(b'"number":2', b'"number":3'), "expected schema 1 and number 2"),
        (lambda text: b"notes\n" + text, "found no JSON"),
        (lambda text: b"{}\n", "found no field cgan_journal"),
        (lambda text: text.replace(b'"run":"', b'"walk":"'), "found no field run"),
    ],
)
def test_a_damaged_object_is_one_line(edit: Callable[[bytes], bytes], problem: str) -> None:
    with closing(opened()) as journal:
        journal.begin([("a.png", ROW)])
    change(f"{LOG}/00000002.jsonl.gz", edit)
    with pytest.raises(JournalError, match=rf"00000002\.jsonl\.gz: .* cannot be used \(.*{problem}.*\); move "):
        opened()


@pytest.mark.parametrize(
    "content", [b"my notes", b"", gzip.compress(b"x" * 1000, mtime=0)[:20]], ids=["text", "empty", "cut"]
)
def test_an_object_of_something_else_is_refused_and_left(content: bytes, store: MemoryFileSystem) -> None:
    store.pipe_file(f"{LOG}/00000001.jsonl.gz", content)
    with pytest.raises(JournalError, match=r"00000001\.jsonl\.gz: the journal cannot be used"):
        opened()
    assert store.cat_file(f"{LOG}/00000001.jsonl.gz") == content


@pytest.mark.parametrize(
    "row",
    [
        '["a.png", "a.gif"]',
        '["a.png", "a.gif", 1, "", "", "", "done", 7, "", "", ""]',
        '["a.png", "a.gif", "", "", "", "", "odd", 7, "", "", ""]',
        '["a.png", "a.gif", "", "", "", "", "done", true, "", "", ""]',
        "[]",
        "{}",
    ],
)
def test_values_of_other_types_are_refused(row: str) -> None:
    with closing(opened()) as journal:
        journal.begin([("a.png", ROW)])

    def edit(text: bytes) -> bytes:
        values = json.loads(text.split(b"\n")[0])
        body = f"{row}\n".encode()
        return json.dumps({**values, "sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n" + body

    change(f"{LOG}/00000002.jsonl.gz", edit)
    with pytest.raises(JournalError, match=r"00000002\.jsonl\.gz: the journal cannot be used \(found "):
        opened()


def test_a_log_without_its_beginning_is_refused_and_what_lies_before_a_gap_is_passed_over(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened()) as journal:
        journal.begin([("a.png", ROW)])
    first = store.cat_file(f"{LOG}/00000001.jsonl.gz")
    store.rm_file(f"{LOG}/00000001.jsonl.gz")
    with pytest.raises(JournalError, match="found objects from 2 on, expected those before it too"):
        opened()
    store.pipe_file(f"{LOG}/00000001.jsonl.gz", first)
    monkeypatch.setattr(shared_journal, "MOST_OBJECTS", 1)
    assert rows_in() == {"a.png": ROW}  # with a snapshot
    store.pipe_file(f"{LOG}/00000001.jsonl.gz", first)
    for _ in range(2):
        assert rows_in() == {"a.png": ROW}
    assert "00000001.jsonl.gz" not in objects()


def test_a_log_that_is_rewritten_meanwhile_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with closing(opened()) as journal:
        journal.begin([("a.png", ROW)])
    monkeypatch.setattr(JournalLog, "numbers", lambda log: [1, 2, 3, 4])
    with pytest.raises(JournalError, match="/journal: found a run that began meanwhile; try again later"):
        read_journal(RemoteFolder("memory://out"), None, "", tmp_path)


def test_reading_writes_nothing(tmp_path: Path) -> None:
    with closing(opened()) as journal:
        journal.begin([("a.png", ROW)])
        before = objects()
        copy = read_journal(RemoteFolder("memory://out"), None, "", tmp_path)
        assert copy is not None
        with closing(copy):
            assert dict(copy.rows()) == {"a.png": ROW}
        assert objects() == before
