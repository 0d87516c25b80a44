"""Files in OUTPUT that no run wrote: none is changed, whenever it appears; links are never written through."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infer.folder.journal import Journal
from infer.folder.journal_row import BEGUN, Row
from infer.folder.local_folder import LocalFolder

MINE = b"mine, and nobody else's"


@pytest.fixture
def photos(tmp_path: Path, gray_photos: Any) -> Path:
    """Three photos in tmp_path / "in"."""
    folder: Path = gray_photos(tmp_path / "in")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def killed(row: Row, **changes: Any) -> Row:
    """A row as a kill leaves it while an output is made for the first time."""
    return row._replace(**{"state": BEGUN, "size": 0, "digest": "", "publishing": "", **changes})


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "folder"])
def test_what_appears_while_a_photo_is_coloured_stays(run: Any, gray_photos: Any, tmp_path: Path, kind: str) -> None:
    gray_photos(run.source.path, 12)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(MINE)
    there: dict[str, Path] = {}

    def appear(name: str) -> None:
        path = there[name] = run.target.path / name
        if kind == "file":
            path.write_bytes(MINE)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")

    run.target.before = appear
    outcome = run()
    assert (outcome.done, len(outcome.failed)) == (0, 12)
    assert all("which no run wrote as it is now" in reason for reason in outcome.failed.values())
    assert elsewhere.read_bytes() == MINE
    assert not (tmp_path / "nowhere").exists()
    for path in there.values():
        assert path.is_symlink() or path.is_dir() or path.read_bytes() == MINE
    assert not list((run.target.path / ".cgan").rglob("*.*"))  # nothing half-written


def test_a_dangling_link_at_an_output_stays(run: Any, gray_photos: Any, tmp_path: Path) -> None:
    gray_photos(run.source.path, 2)
    run.target.path.mkdir()
    link = run.target.path / "000.png"
    link.symlink_to(tmp_path / "nowhere")
    assert "no run wrote it" in run().failed["000.png"]
    assert link.readlink() == tmp_path / "nowhere"


@pytest.mark.parametrize("recipe", ["recipe", "another"])
@pytest.mark.parametrize("noted", [False, True])
def test_a_file_at_the_place_of_an_output_that_a_killed_run_had_begun_stays(
    run: Any, gray_photos: Any, recipe: str, noted: bool
) -> None:
    gray_photos(run.source.path, 3)
    run()
    rows = {name: run.journal.find(name) for name in run.states()}
    digest = rows["000.png"].digest if noted else ""
    run.journal.begin([("000.png", killed(rows["000.png"], publishing=digest))])
    (run.target.path / "000.png").write_bytes(MINE)
    run.recipe = recipe
    for _ in range(2):
        outcome = run()
        assert list(outcome.failed) == ["000.png"]
        assert (run.target.path / "000.png").read_bytes() == MINE
    (run.target.path / "000.png").unlink()
    assert run().done == 1
    assert not run().failed


def test_after_a_power_cut_an_equal_output_is_its_own(run: Any, gray_photos: Any, files_in: Any) -> None:
    gray_photos(run.source.path, 4)
    run()
    before = files_in(run.target.path)
    run.journal.begin([(name, killed(run.journal.find(name))) for name in run.states()])
    times = {path: path.stat().st_mtime_ns for path in run.target.path.glob("*.png")}
    outcome = run()
    assert (outcome.done, outcome.failed) == (4, {})
    assert files_in(run.target.path) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times  # left as they were
    assert run().skipped == 4


def test_an_output_that_was_edited_at_equal_size_is_not_replaced(run: Any, gray_photos: Any) -> None:
    gray_photos(run.source.path, 3)
    run()
    path = run.target.path / "001.png"
    edited = path.read_bytes()[:-1] + b"!"
    path.write_bytes(edited)
    run.recipe = "another"
    outcome = run()
    assert (outcome.done, list(outcome.failed)) == (2, ["001.png"])
    assert path.read_bytes() == edited
    outcome = run(overwrite=True)
    assert outcome.done == 3
    assert path.read_bytes() != edited


def test_an_output_that_is_edited_during_the_run_is_not_replaced(run: Any, gray_photos: Any) -> None:
    gray_photos(run.source.path, 3)
    run()
    run.recipe = "another"
    run.target.before = lambda name: (run.target.path / name).write_bytes(MINE)
    assert len(run().failed) == 3
    assert {path.read_bytes() for path in run.target.path.glob("*.png")} == {MINE}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_became_a_link_is_not_followed(
    run: Any, gray_photos: Any, tmp_path: Path, overwrite: bool
) -> None:
    gray_photos(run.source.path / "sub", 4)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "000.png").write_bytes(MINE)
    run.target.path.mkdir()
    (run.target.path / "sub").symlink_to(elsewhere)
    outcome = run(overwrite=overwrite)
    assert len(outcome.failed) == 4
    assert overwrite or "no run wrote it" in outcome.failed["sub/000.png"]
    assert "links are not followed" in outcome.failed["sub/001.png"]
    assert [path.name for path in elsewhere.iterdir()] == ["000.png"]
    assert (elsewhere / "000.png").read_bytes() == MINE


def test_an_output_folder_that_is_swapped_during_the_run_is_not_left(
    run: Any, gray_photos: Any, tmp_path: Path
) -> None:
    gray_photos(run.source.path, 8)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = tmp_path / "moved"

    def swap(name: str) -> None:
        if not moved.exists():
            run.target.path.rename(moved)
            run.target.path.symlink_to(elsewhere)

    run.target.before = swap
    run(workers=1, batch_size=1)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("place", [".cgan", ".cgan/journal.sqlite", ".cgan/work"])
def test_links_in_the_place_of_its_own_folder_are_refused(
    photos: Path, out: Path, color: Any, tmp_path: Path, place: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "work").mkdir(parents=True)
    (elsewhere / "work" / "precious").write_bytes(MINE)
    link = out / place
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    for options in ([], ["--overwrite"]):
        assert "link" in color(photos, out, *options).result.error(2)
    assert (elsewhere / "work" / "precious").read_bytes() == MINE
    assert sorted(path.name for path in elsewhere.rglob("*")) == ["precious", "work"]


def test_files_that_look_like_temporary_ones_stay(photos: Path, out: Path, color: Any) -> None:
    out.mkdir()
    for name in (".cgan-0123456789ab.tmp", ".cgan-notes.tmp"):
        (out / name).write_bytes(MINE)
    (out / ".cgan" / "work").mkdir(parents=True)
    (out / ".cgan" / "work" / "precious").write_bytes(MINE)
    assert color(photos, out).code == 0
    assert {path.read_bytes() for path in (*out.glob(".cgan-*"), *(out / ".cgan" / "work").iterdir())} == {MINE}


@pytest.mark.parametrize("name", ["../escaped.png", "/abs.png", "a/../../escaped.png", "a//b.png"])
def test_a_journal_that_names_an_output_elsewhere_is_refused(photos: Path, out: Path, color: Any, name: str) -> None:
    assert color(photos, out).code == 0
    with closing(sqlite3.connect(out / ".cgan" / "journal.sqlite")) as database:
        database.execute("UPDATE files SET output = ? WHERE name = ?", (name.encode(), b"001.png"))
        database.commit()
    (out / "001.png").unlink()
    assert "which is not in OUTPUT, so it is damaged" in color(photos, out).result.error(2)
    assert not list(out.parent.glob("escaped.png"))
    with pytest.raises(OSError, match="leads out"):
        LocalFolder(out).publish(name, b"")


def test_a_journal_of_the_former_schema_is_taken_over(photos: Path, out: Path, color: Any) -> None:
    assert color(photos, out).code == 0
    path = out / ".cgan" / "journal.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "ALTER TABLE files DROP COLUMN digest; ALTER TABLE files DROP COLUMN publishing; DROP TABLE marks;"
            "PRAGMA user_version = 1;"
        )
    assert color(photos, out).counts == (0, 3, 0)
    before = {path: path.read_bytes() for path in out.glob("*.png")}
    again = color(photos, out, "--resolution", "model")  # whether the outputs were edited is not known
    assert again.counts == (0, 0, 3)
    assert {path: path.read_bytes() for path in before} == before
    assert color(photos, out, "--resolution", "model", "--overwrite").counts == (3, 0, 0)
    assert color(photos, out, "--resolution", "original").counts == (3, 0, 0)
    with closing(Journal(path)) as journal:
        assert all(len(journal.find(name).digest) == 64 for name in ("000.png", "001.png"))  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["000.png", "sub/../000.png"])
def test_a_report_at_the_place_of_an_output_is_refused(photos: Path, out: Path, color: Any, name: str) -> None:
    (out / "sub").mkdir(parents=True)
    assert "found the name of a photo or an output" in color(photos, out, "--report", out / name).result.error(2)
    assert not (out / "000.png").exists()


def test_a_report_goes_through_a_link_to_a_file(photos: Path, out: Path, color: Any, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "real.json")
    for _ in range(2):
        assert color(photos, out, "--report", link).code == 0
        assert link.is_symlink()
        assert json.loads((tmp_path / "real.json").read_text())["photos"] == 3
    (tmp_path / "real.json").write_bytes(MINE)
    assert "did not write" in color(photos, out, "--report", link).result.error(2)
    assert (tmp_path / "real.json").read_bytes() == MINE


def test_a_report_on_a_full_device_is_one_line(photos: Path, out: Path, color: Any) -> None:
    done = color(photos, out, "--report", "/dev/full")
    assert done.code == 1
    assert "error: /dev/full: the report cannot be written" in done.err
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("redirected", ["file", "pipe"])
@pytest.mark.slow
def test_a_report_on_standard_output(photos: Path, out: Path, tmp_path: Path, redirected: str) -> None:
    command = [
        sys.executable,
        "-c",
        "from infer.cli import main; main()",
        "folder",
        str(photos),
        str(out),
        "--report",
        "/dev/stdout",
        "--device",
        "cpu",
    ]
    file = tmp_path / "stdout"
    with file.open("wb") as stdout:
        process = subprocess.run(
            command, stdout=stdout if redirected == "file" else subprocess.PIPE, stderr=subprocess.PIPE, check=False
        )
    content = file.read_bytes() if redirected == "file" else process.stdout
    assert process.returncode == 0, process.stderr
    assert json.loads(content)["done"] == 3
    assert Path("/dev/stdout").is_symlink()


def test_an_edited_report_is_the_user_s(photos: Path, out: Path, color: Any) -> None:
    assert color(photos, out).code == 0
    report = out / "report.json"
    values = json.loads(report.read_text())
    report.write_text(json.dumps({**values, "my_notes": "kept"}))
    assert "did not write" in color(photos, out).result.error(2)
    assert json.loads(report.read_text())["my_notes"] == "kept"
    del values["report_sha256"]  # as earlier versions wrote it
    report.write_text(json.dumps(values))
    assert color(photos, out).code == 0


def test_a_foreign_database_is_not_touched(photos: Path, out: Path, color: Any) -> None:
    path = out / ".cgan" / "journal.sqlite"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE songs (title TEXT)")
        database.commit()
    before = path.read_bytes()
    assert "not a journal" in color(photos, out).result.error(2)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("own", [False, True])
def test_what_a_kill_left_in_the_middle_of_replacing_is_kept_unless_it_is_known(
    run: Any, gray_photos: Any, own: bool
) -> None:
    gray_photos(run.source.path, 1)
    run()
    mark = "2" * 32
    run.journal.former_marks = (mark,)
    left = run.target.path / ".cgan" / "work" / f".cgan-{mark}-0.tmp.exchanged"
    left.parent.mkdir()
    left.write_bytes((run.target.path / "000.png").read_bytes() if own else MINE)
    outcome = run()
    assert any(str(left) in note for note in outcome.run_notes) is not own
    assert left.exists() is not own


def test_a_report_for_a_closed_standard_output(photos: Path, out: Path) -> None:
    command = f"{sys.executable} -c 'from infer.cli import main; main()' folder {photos} {out} --device cpu "
    done = subprocess.run(
        ["sh", "-c", f"{command} --quiet --report /dev/stderr >&-"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr)["done"] == 3


def test_a_fifo_that_nobody_reads_ends_in_a_line(
    photos: Path, out: Path, color: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgan.documents.READER_SECONDS", 0.2)
    os.mkfifo(tmp_path / "fifo")
    done = color(photos, out, "--report", tmp_path / "fifo")
    assert done.code == 1
    assert "the report cannot be written" in done.err


def test_a_journal_knows_that_it_was_removed(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "out" / "journal.sqlite")) as journal:
        assert journal.is_there()
        shutil.rmtree(tmp_path / "out")
        assert not journal.is_there()
    with closing(Journal(None)) as journal:
        assert journal.is_there()


def test_a_store_that_refuses_is_one_line(photos: Path, color: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Forbidden")

    monkeypatch.setattr("infer.folder.remote.RemoteFolder.fetch", refuse)
    assert "cannot be written ([Errno 13] Forbidden)" in color(photos, "memory://refused/out").result.error(2)
