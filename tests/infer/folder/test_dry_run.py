"""cgan-infer folder --dry-run: the run's own verdicts, and nothing written."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infer.folder.journal import Journal
from infer.folder.journal_row import RowState

Color = Callable[..., Any]


@pytest.fixture
def photos(tmp_path: Path, gray_photos: Callable[..., Path]) -> Path:
    return gray_photos(tmp_path / "in", 4)


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """All that is below a folder, with times and sizes."""
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def verdicts(ran: Any) -> dict[str, str]:
    return {event["name"]: event["verdict"] for event in ran.events if event["event"] == "plan"}


def test_nothing_at_all_is_written(photos: Path, tmp_path: Path, color: Color, tinted: Any) -> None:
    before = everything(tmp_path)
    ran = color(photos, tmp_path / "out", "--dry-run")
    assert ran.code == 0
    assert everything(tmp_path) == before
    assert tinted.batches == []
    lines = ran.err.splitlines()
    assert lines[0] == "do   000.png -> 000.png  (no output yet)"
    assert lines[-1] == "to do 4, to skip 0, would fail 0; nothing written"
    color(photos, tmp_path / "out")
    before = everything(tmp_path)
    again = color(photos, tmp_path / "out", "--dry-run")
    assert "skip 000.png -> 000.png\n" in again.err
    assert again.code == 0
    assert everything(tmp_path) == before


def test_verdicts_are_those_of_the_run(photos: Path, tmp_path: Path, color: Color) -> None:
    out = tmp_path / "out"
    color(photos, out)
    Image.new("L", (8, 8)).save(photos / "000.png")
    (out / "001.png").write_bytes(b"retouched")
    (out / "002.png").unlink()
    Image.new("L", (8, 8)).save(photos / "new.gif")
    (photos / "loop").symlink_to(photos)
    ran = color(photos, out, "--dry-run", "--log-json")
    assert ran.code == 1
    assert ran.err == ""
    expected = {"000.png": "do", "001.png": "fail", "002.png": "do", "003.png": "skip", "new.gif": "do"}
    assert verdicts(ran) == expected
    assert [event["output"] for event in ran.events if event["name"] == "new.gif"] == ["new.png"]
    assert all(event.keys() == {"event", "time", "name", "output", "verdict", "reason"} for event in ran.events[:-1])
    assert (ran.events[-1]["event"], ran.events[-1]["name"]) == ("passed over", "loop")
    text = color(photos, out, "--dry-run")
    assert "pass loop  (link to a folder, not followed)" in text.err
    assert "to do 3, to skip 1, would fail 1; nothing written" in text.err
    ended = {event["name"]: event["state"] for event in color(photos, out, "--log-json").events if "state" in event}
    states = {"do": "done", "skip": "skipped", "fail": "failed"}
    assert ended == {name: states[verdict] for name, verdict in expected.items()}


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ([], "skip"),
        (["--overwrite"], "do"),
        (["--quality", 50], "do"),
        (["--no-mark"], "do"),
        (["--format", "jpg"], "do"),
    ],
)
def test_options_count(photos: Path, tmp_path: Path, color: Color, options: list[object], verdict: str) -> None:
    color(photos, tmp_path / "out")
    ran = color(photos, tmp_path / "out", "--dry-run", "--log-json", *options)
    assert set(verdicts(ran).values()) == {verdict}


def test_checksums_count(photos: Path, tmp_path: Path, color: Color) -> None:
    color(photos, tmp_path / "out", "--checksum")
    (photos / "000.png").touch()
    assert verdicts(color(photos, tmp_path / "out", "--dry-run", "--log-json"))["000.png"] == "do"
    ran = color(photos, tmp_path / "out", "--dry-run", "--log-json", "--checksum")
    assert verdicts(ran)["000.png"] == "skip"


def test_it_looks_on_while_a_run_is_under_way(photos: Path, tmp_path: Path, color: Color) -> None:
    color(photos, tmp_path / "out")
    with closing(Journal(tmp_path / "out" / ".cgan" / "journal.sqlite")) as journal:
        journal.settle("001.png", RowState.FAILED, reason="x")
        journal.commit()  # in the write-ahead log alone
        before = everything(tmp_path)
        ran = color(photos, tmp_path / "out", "--dry-run", "--log-json")
        assert verdicts(ran) == {"000.png": "skip", "001.png": "do", "002.png": "skip", "003.png": "skip"}
        assert everything(tmp_path) == before
        assert "another run is writing there" in color(photos, tmp_path / "out").result.error(2)


def test_a_journal_of_another_kind_is_named_by_its_own_path(photos: Path, tmp_path: Path, color: Color) -> None:
    color(photos, tmp_path / "out")
    path = tmp_path / "out" / ".cgan" / "journal.sqlite"
    shutil.copy(photos / "000.png", path)
    assert str(path) in color(photos, tmp_path / "out", "--dry-run").result.error(2)


def test_what_the_header_tells_against_a_photo_is_foreseen(photos: Path, tmp_path: Path, color: Color) -> None:
    (photos / "empty.png").touch()
    (photos / "text.jpg").write_text("no photo")
    Image.new("L", (200, 50)).save(photos / "large.png")
    ran = color(photos, tmp_path / "out", "--dry-run", "--log-json", "--max-pixels", 5000)
    assert ran.code == 1
    reasons = {event["name"]: event["reason"] for event in ran.events if event["verdict"] == "fail"}
    assert reasons.keys() == {"empty.png", "large.png", "text.jpg"}
    assert reasons["large.png"] == "200 x 50 pixels, the limit is 5000; raise --max-pixels"
    assert color(photos, tmp_path / "out", "--max-pixels", 5000).report["failures"] == reasons


def test_quiet_tells_only_of_failures(photos: Path, tmp_path: Path, color: Color) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "001.png").write_bytes(b"mine")
    ran = color(photos, tmp_path / "out", "--dry-run", "--quiet")
    assert (ran.code, ran.result.out) == (1, "")
    assert ran.err.startswith("fail 001.png -> 001.png  (001.png is there and no run wrote it;")
    assert ran.err.count("\n") == 1
    events = color(photos, tmp_path / "out", "--dry-run", "--quiet", "--log-json").events
    assert [event["name"] for event in events] == ["001.png"]


def test_folders_that_cannot_be_searched_count_as_failures(
    photos: Path, tmp_path: Path, color: Color, unsearchable: Callable[[Path], None]
) -> None:
    unsearchable(photos / "closed")
    ran = color(photos, tmp_path / "out", "--dry-run", "--quiet")
    assert ran.code == 1
    assert ran.err.startswith("fail closed  (")
    assert "to do 4, to skip 0, would fail 1" in color(photos, tmp_path / "out", "--dry-run").err
    events = color(photos, tmp_path / "out", "--dry-run", "--log-json", "--quiet").events
    assert [(event["name"], event["verdict"]) for event in events] == [("closed", "fail")]


def test_a_file_in_the_place_of_the_report_is_foreseen(photos: Path, tmp_path: Path, color: Color) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("mine")
    for options in ([], ["--dry-run"]):
        assert "that this command did not write" in color(photos, tmp_path / "out", *options).result.error(2)


def test_pixels_are_limited_by_the_option_and_not_by_pillow(
    photos: Path, tmp_path: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    ran = color(photos, tmp_path / "out", "--dry-run")
    assert (ran.code, Image.MAX_IMAGE_PIXELS) == (0, None)


def test_an_output_that_cannot_be_made_is_foreseen(photos: Path, tmp_path: Path, color: Color) -> None:
    (tmp_path / "file").touch()
    error = color(photos, tmp_path / "file" / "out", "--dry-run").result.error(2)
    assert f"{tmp_path / 'file'}: found a file and no folder" in error
    assert color(photos, tmp_path / "a" / "new" / "out", "--dry-run").code == 0
    assert not (tmp_path / "a").exists()
