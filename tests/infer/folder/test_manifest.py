"""manifest-sha256.txt and report.csv: complete, true, and no other file is replaced for them."""

import csv
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from infer.folder import manifest
from infer.folder.manifest import COLUMNS, MANIFEST_NAME, NAMES, TABLE_NAME

Color = Callable[..., Any]
BYTES_NAME = os.fsdecode(b"latin-\xe9.png")


@pytest.fixture
def source(tmp_path: Path, gray_photos: Callable[..., Path]) -> Path:
    return gray_photos(tmp_path / "in")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def rows(content: bytes) -> dict[str, dict[str, str]]:
    """Rows of report.csv by input."""
    table = csv.DictReader(content.decode().splitlines(keepends=True))
    assert tuple(table.fieldnames or ()) == COLUMNS
    return {row["input"]: row for row in table}


def checks(folder: Path) -> bool:
    """Return True if sha256sum finds all files of the manifest unchanged."""
    command = ["sha256sum", "--check", "--strict", "--quiet", MANIFEST_NAME]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum of coreutils")
def test_sha256sum_checks_the_outputs_of_this_and_earlier_runs(source: Path, out: Path, color: Color) -> None:
    for name in (BYTES_NAME, "*star.png", " space.png", "back\\slash.png"):
        shutil.copy(source / "000.png", source / name)
    color(source, out)
    shutil.copy(source / "000.png", source / "new.png")
    (source / "bad.png").write_bytes(b"")
    (source / "001.png").unlink()
    ran = color(source, out, "--manifest")
    assert ran.counts == (1, 6, 1)
    lines = (out / MANIFEST_NAME).read_bytes().splitlines()
    outputs = sorted(os.fsencode(path.name) for path in out.glob("*.png"))
    assert [line.split(b"  ", 1)[1] for line in lines] == outputs  # that of 001.png too, whose photo is gone
    assert checks(out)
    (out / "001.png").unlink()
    color(source, out, "--manifest")
    assert checks(out)
    (out / "000.png").write_bytes(b"changed")
    assert not checks(out)


def test_the_table_has_a_row_for_each_photo(source: Path, out: Path, color: Color) -> None:
    (source / "bad.png").write_bytes(b"")
    color(source, out)
    shutil.copy(source / "000.png", source / "=cmd().png")
    shutil.copy(source / "000.png", source / BYTES_NAME)
    color(source, out, "--manifest")
    table = rows((out / TABLE_NAME).read_bytes())
    assert table.keys() == {"000.png", "001.png", "002.png", "bad.png", "'=cmd().png", "latin-\\xe9.png"}
    content = (out / "000.png").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert list(table["000.png"].values()) == ["000.png", "000.png", "skipped", "", str(len(content)), digest]
    assert list(table["'=cmd().png"].values())[1:3] == ["'=cmd().png", "done"]
    assert list(table["bad.png"].values()) == ["bad.png", "", "failed", "the file is empty", "", ""]
    assert table["latin-\\xe9.png"]["notes"] == manifest.NOT_UTF8


def test_photos_that_a_stopped_run_did_not_begin_are_in_the_table(
    source: Path, out: Path, color: Color, unsearchable: Callable[[Path], None]
) -> None:
    unsearchable(source / "closed")
    for name in ("000.png", "001.png"):
        (source / name).write_bytes(b"")
    color(source, out, "--manifest", "--max-failures", 0, "--batch-size", 1)
    states = {name: row["state"] for name, row in rows((out / TABLE_NAME).read_bytes()).items()}
    assert states["closed"] == "failed"
    assert states["002.png"] in ("done", "not begun")


def test_line_ends_and_percent_signs_are_escaped_as_in_bagit() -> None:
    line = manifest._line(("50%\r\n/a.png", "0" * 64))
    assert line == b"0" * 64 + b"  50%25%0D%0A/a.png\n"


def test_earlier_lists_are_replaced_and_nothing_else_is(source: Path, out: Path, color: Color) -> None:
    assert color(source, out, "--manifest").code == 0
    shutil.copy(source / "000.png", source / "new.png")
    assert color(source, out, "--manifest").code == 0
    assert b"new.png" in (out / MANIFEST_NAME).read_bytes() and b"new.png" in (out / TABLE_NAME).read_bytes()
    for name in NAMES:
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole + b"a line of the user's\n")
        error = color(source, out, "--manifest").result.error(2)
        assert f"{name}: found a file that no run wrote as it is" in error
        assert (out / name).read_bytes() == whole + b"a line of the user's\n"
        assert color(source, out, "--manifest", "--overwrite").code == 0
        assert (out / name).read_bytes() == whole
    assert color(source, out).counts == (0, 4, 0)


def test_a_list_of_a_run_that_was_killed_is_replaced(
    source: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("infer.folder.journal.Journal.settle", lambda *_, **__: None)  # as if killed before it
        color(source, out, "--manifest")
    assert color(source, out, "--manifest").code == 0
    assert len((out / MANIFEST_NAME).read_bytes().splitlines()) == 3


def test_a_folder_of_photos_with_the_name_of_a_list_is_refused(source: Path, out: Path, color: Color) -> None:
    (source / "Report.csv").mkdir()
    shutil.copy(source / "000.png", source / "Report.csv" / "a.png")
    assert "found a folder of photos named report.csv" in color(source, out, "--manifest").result.error(2)
    assert list(out.glob("*.png")) == []


def test_a_list_that_cannot_be_written_is_exit_code_1(
    source: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "_csv", full)
    assert "the manifest cannot be written ([Errno 28]" in color(source, out, "--manifest").result.error(1)
    assert len(list(out.glob("*.png"))) == 3
    assert not (out / TABLE_NAME).exists()


def test_a_store_gets_both_lists(source: Path, color: Color, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    target = f"memory://{tmp_path.name}"
    for _ in range(2):
        assert color(source, target, "--manifest").code == 0
    files = MemoryFileSystem()
    for line in files.cat_file(f"/{tmp_path.name}/{MANIFEST_NAME}").decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(files.cat_file(f"/{tmp_path.name}/{name}")).hexdigest() == digest
    assert len(rows(files.cat_file(f"/{tmp_path.name}/{TABLE_NAME}"))) == 3
    files.pipe_file(f"/{tmp_path.name}/{TABLE_NAME}", b"of the user's")
    assert "report.csv: found a file that no run wrote" in color(source, target, "--manifest").result.error(2)
    files.rm(f"/{tmp_path.name}", recursive=True)
