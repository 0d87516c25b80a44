"""The journal of an OUTPUT: what it keeps, what survives a kill, and who is kept out."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgan.errors import UserError
from infer.folder.journal import Journal
from infer.folder.journal_files import journal_path
from infer.folder.journal_row import BEGUN, DONE, FAILED, JournalError, Row

ROOT = Path(__file__).parents[3]
ROW = Row("a.gif", "10:1", "", "recipe", "/in", BEGUN, 0, "")
BYTES_NAME = os.fsdecode(b"latin-\xe9\nline.png")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / ".cgan" / "journal.sqlite"


def begin_one(path: Path) -> None:
    """A journal with one output; one without any would be removed."""
    with closing(Journal(path)) as journal:
        journal.begin([("a.png", ROW)])


@contextmanager
def process_with(path: Path, then: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that opens the journal, runs some code, says so and waits to be killed."""
    row = ROW._replace(state=ROW.state.value)  # type: ignore[arg-type]  # so that its repr is an expression
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom infer.folder.journal import *\n"
        "from infer.folder.journal_row import *\n"
        f"journal = Journal(Path(sys.argv[1]))\nrow = {row!r}\n{then}\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_rows_that_are_read_ahead_follow_later_changes(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.begin([("a.png", ROW), (BYTES_NAME, ROW._replace(size=9))])
        journal.look_ahead(["a.png", BYTES_NAME, "none.png"])
        journal._database.execute("DELETE FROM files WHERE output = ?", (os.fsencode(BYTES_NAME),))
        assert journal.find(BYTES_NAME) == ROW._replace(size=9)  # from memory
        journal.settle("a.png", FAILED, reason="changed")
        found = journal.find("a.png")
        assert found and found.reason == "changed"
        assert journal.find("none.png") is None


@pytest.mark.parametrize("name", ["a.png", "new\nline.png", BYTES_NAME, "sub/ü.png"])
def test_rows_come_back_as_they_were_written(path: Path, name: str) -> None:
    row = Row(f"{name}.gif", "5:x", "c" * 64, "r", f"/in/{BYTES_NAME}", BEGUN, 7, "")
    with closing(Journal(path)) as journal:
        assert journal.find(name) is None
        journal.begin([(name, row), ("other.png", ROW)])
    with closing(Journal(path)) as journal:
        assert journal.find(name) == row
        assert dict(journal.outputs()) == {f"{name}.gif": name, "a.gif": "other.png"}


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_any_file_name_can_be_a_key(name: bytes) -> None:
    with closing(Journal(None)) as journal:
        journal.begin([(os.fsdecode(name), ROW)])
        assert journal.find(os.fsdecode(name)) == ROW
        assert journal.find(os.fsdecode(name + b"x")) is None


def test_an_input_is_begun_then_done_or_failed(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.begin([("a.png", ROW), ("b.png", ROW._replace(size=9))])
        journal.settle("a.png", DONE, size=123)
        journal.settle("b.png", FAILED, reason=f"{BYTES_NAME} is bad")
        assert journal.find("a.png") == ROW._replace(state=DONE, size=123)
        failed = journal.find("b.png")
        assert failed is not None
        # the size of what lay there before stays
        assert (failed.state, failed.size, failed.reason) == (FAILED, 9, "latin-?\nline.png is bad")
        journal.refresh("a.png", "10:2", "")
        journal.begin([("b.png", ROW)])
    with closing(Journal(path)) as journal:
        assert journal.find("a.png") == ROW._replace(identity="10:2", state=DONE, size=123)
        assert journal.find("b.png") == ROW


@pytest.mark.parametrize(
    ("identity", "checksum", "same"),
    [("10:1", "", True), ("10:2", "", False), ("10:2", "abc", True), ("10:1", "abd", False)],
)
def test_content_decides_over_time_where_both_are_known(identity: str, checksum: str, same: bool) -> None:
    assert ROW._replace(checksum="abc").is_of(identity, checksum) is same
    assert ROW.is_of(identity, checksum) is (identity == "10:1")  # without a checksum in the journal


def test_what_was_committed_survives_a_kill_and_nothing_else_does(path: Path) -> None:
    then = (
        "journal.begin([('a.png', row), ('b.png', row)])\n"
        "journal.settle('a.png', DONE, size=5)\njournal.commit()\njournal.settle('b.png', DONE, size=6)"
    )
    with process_with(path, then) as process:
        process.kill()
        process.wait()
    with closing(Journal(path)) as journal:
        assert journal.find("a.png") == ROW._replace(state=DONE, size=5)
        assert journal.find("b.png") == ROW  # begun was committed, done was not
    assert [file.name for file in path.parent.iterdir()] == ["journal.sqlite"]


def test_one_run_at_a_time(path: Path) -> None:
    with process_with(path, "") as process:
        with pytest.raises(UserError) as error:
            Journal(path)
        assert str(error.value) == f"{path}: another run is writing there; wait for it or stop it"
        process.kill()
        process.wait()
        Journal(path).close()


def test_a_database_of_something_else_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE songs (title TEXT)")
        database.execute("INSERT INTO songs VALUES ('x')")
        database.commit()
    with pytest.raises(UserError, match="not a journal of schema 2"):
        Journal(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT * FROM songs").fetchall() == [("x",)]
        assert database.execute("PRAGMA application_id").fetchone() == (0,)


def test_a_journal_without_outputs_is_removed(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.begin([("a.png", ROW)])
        journal.settle("a.png", FAILED, reason="bad")
    assert not path.parent.exists()
    with closing(Journal(path)) as journal:
        journal.begin([("a.png", ROW._replace(size=9))])  # there is an earlier output
        journal.settle("a.png", FAILED, reason="bad")
    assert path.exists()


@pytest.mark.parametrize("pragma", ["user_version = 3", "application_id = 7"])
def test_a_journal_of_another_version_is_refused(path: Path, pragma: str) -> None:
    begin_one(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA {pragma}")
    with pytest.raises(UserError, match=r"journal\.sqlite: found a database that is not a journal of schema 2"):
        Journal(path)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"my notes" * 1000)
    with pytest.raises(JournalError, match=r"cannot be used \(file is not a database\); move it away"):
        Journal(path)
    assert path.read_bytes() == b"my notes" * 1000


def test_a_journal_that_was_cut_off_is_an_error_with_advice(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.begin((f"{number:0100d}.png", ROW) for number in range(50))
    whole = path.read_bytes()
    for size in range(4096, len(whole), 500):
        path.write_bytes(whole[:size])
        with pytest.raises((JournalError, UserError), match="move it away"), closing(Journal(path)) as journal:
            list(journal.outputs())
            for number in range(50):
                journal.find(f"{number:0100d}.png")


def test_messages_on_a_copy_name_the_journal_itself(path: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(b"my notes" * 1000)
    with pytest.raises(JournalError, match=str(path)):
        Journal(tmp_path / "copy", path)


def test_errors_of_the_database_are_journal_errors(path: Path) -> None:
    journal = Journal(path)
    journal._database.execute("PRAGMA max_page_count = 5")  # a full disk
    rows = ((f"{number:0900d}.png", ROW) for number in range(100))
    with pytest.raises(JournalError, match=r"full\); make room"):
        journal.begin(rows)
    journal.close()
    for use in (lambda: journal.find("a"), journal.commit, lambda: list(journal.outputs())):
        with pytest.raises(JournalError):
            use()


def test_the_journal_lies_in_output_or_among_the_user_s_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert journal_path("/out", tmp_path / ".cgan") == tmp_path / ".cgan" / "journal.sqlite"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first = journal_path("s3://bucket/a", None)
    assert first.parent == tmp_path / "state" / "cgan"
    assert journal_path("s3://bucket/a", None) == first != journal_path("s3://bucket/b", None)
    journal_path(os.fsdecode(b"s3://bucket/\xe9"), None)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert journal_path("s3://bucket/a", None).parent == tmp_path / "home" / ".local" / "state" / "cgan"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE files SET name = 'text'",
        "UPDATE files SET size = 'many'",
        "UPDATE files SET reason = x'00'",
        "UPDATE files SET state = 'other'",
        "UPDATE files SET recipe = CAST(x'ff' AS TEXT)",
        "UPDATE files SET output = 5",
        "UPDATE files SET output = x'610062'",
        "UPDATE files SET name = x'610062'",
        "INSERT INTO marks VALUES (x'61')",
    ],
)
def test_values_of_other_types_are_errors_with_advice(path: Path, statement: str) -> None:
    with closing(Journal(path)) as journal:
        journal.begin([("a.png", ROW)])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
    with pytest.raises(JournalError, match=r"journal.sqlite: the journal cannot be used \(.*; move it away"):  # noqa: SIM117
        with closing(Journal(path)) as journal:
            journal.find("a.png")
            list(journal.outputs())


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON marks BEGIN DELETE FROM files; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE other (x)",
        "DROP TABLE marks",
    ],
)
def test_a_journal_with_other_contents_is_refused_before_it_is_changed(path: Path, statement: str) -> None:
    with closing(Journal(path)) as journal:
        journal.begin([("a.png", ROW)])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
    with pytest.raises(UserError, match="not a journal of schema 2"):
        Journal(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM files").fetchone() == (1,)


def test_a_row_that_claims_to_be_huge_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Journal(path)) as journal:
        journal.begin([("a.png", ROW._replace(reason="x" * 5000))])
    monkeypatch.setattr("infer.folder.journal.LONGEST_ROW", 1000)
    with closing(Journal(path)) as journal, pytest.raises(JournalError, match="too big"):
        journal.find("a.png")


def test_a_schema_that_is_no_text_is_an_error(path: Path) -> None:
    """Damage after which sqlite3 raises a UnicodeDecodeError, because it decodes the message strictly."""
    begin_one(path)
    content = path.read_bytes()
    assert content.count(b"CREATE TABLE files (") == 1
    path.write_bytes(content.replace(b"CREATE TABLE files (", b"CREATE TABLE \x9b\xff\xa6(((("))
    with pytest.raises(JournalError, match="the journal cannot be used"):
        Journal(path)


def test_a_fifo_for_a_journal_is_refused_at_once(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(OSError, match="found a folder or a device there"):
        Journal(path)
