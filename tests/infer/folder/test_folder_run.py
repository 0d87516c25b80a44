"""A folder run on a model whose colours are known: what is made again, what is left alone, the report."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infer.cli import main
from infer.folder import bookkeeping
from infer.folder.journal import Journal
from infer.folder.journal_row import DONE, JournalError
from infer.folder.local_folder import LocalFolder
from infer.packaged import DEFAULT_MODEL
from infer.quality.gates import DEFAULT_GATES, Gates
from tests.conftest import Tinted

Color = Callable[..., Any]


@pytest.fixture
def photos(tmp_path: Path, gray_photos: Callable[..., Path]) -> Path:
    return gray_photos(tmp_path / "in")  # three


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def changed_outputs(out: Path, before: dict[str, int]) -> set[str]:
    """Outputs that were written since."""
    return {name for name, version in versions(out).items() if before.get(name) != version}


def versions(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in out.glob("*.png")}


def test_the_same_command_again_does_nothing(photos: Path, out: Path, color: Color, tinted: Tinted) -> None:
    assert color(photos, out).counts == (3, 0, 0)
    before = versions(out)
    assert color(photos, out).counts == (0, 3, 0)
    assert versions(out) == before
    assert len(tinted.batches) == 2  # of the first run


def test_only_what_is_missing_is_done(photos: Path, out: Path, color: Color) -> None:
    color(photos, out)
    before = versions(out)
    (out / "001.png").unlink()
    shutil.copy(photos / "000.png", photos / "003.png")
    assert color(photos, out).counts == (2, 2, 0)
    assert changed_outputs(out, before) == {"001.png", "003.png"}


def test_a_changed_photo_is_done_again(photos: Path, out: Path, color: Color) -> None:
    color(photos, out)
    before = versions(out)
    Image.new("L", (50, 20), 99).save(photos / "000.png")
    os.utime(photos / "001.png", ns=(0, 0))
    assert color(photos, out).counts == (2, 1, 0)
    assert changed_outputs(out, before) == {"000.png", "001.png"}
    with Image.open(out / "000.png") as image:
        assert image.size == (50, 20)


def test_with_checksum_a_touched_photo_is_skipped_then_also_without(photos: Path, out: Path, color: Color) -> None:
    color(photos, out, "--checksum")
    os.utime(photos / "001.png", ns=(0, 0))
    assert color(photos, out, "--checksum").counts == (0, 3, 0)
    assert color(photos, out).counts == (0, 3, 0)
    status = (photos / "001.png").stat()
    content = bytearray((photos / "001.png").read_bytes())
    content[-1] ^= 1  # in the end mark's checksum, which Pillow does not look at
    (photos / "001.png").write_bytes(content)
    os.utime(photos / "001.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert color(photos, out).counts == (0, 3, 0)  # size and time are the same
    assert color(photos, out, "--checksum").counts == (1, 2, 0)


def test_a_checksum_that_cannot_be_read_fails_its_file(
    photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    checksum = LocalFolder.checksum

    def refuse(self: LocalFolder, name: str) -> str:
        if name == "001.png":
            raise PermissionError(13, "Permission denied")
        return checksum(self, name)

    monkeypatch.setattr(LocalFolder, "checksum", refuse)
    ran = color(photos, out, "--checksum")
    assert (ran.code, ran.counts) == (1, (2, 0, 1))
    assert "Permission denied" in ran.report["failures"]["001.png"]
    dry = color(photos, out, "--checksum", "--dry-run")
    assert dry.code == 1
    assert "fail 001.png -> 001.png  (Permission denied)" in dry.err


@pytest.mark.parametrize(
    "options",
    [["--quality", 50], ["--no-mark"], ["--resolution", "model"], ["--profile", "keep"], ["--render-size", 64]],
)
def test_options_that_change_the_picture_have_it_done_again(
    photos: Path, out: Path, color: Color, tinted: Any, options: list[object]
) -> None:
    tinted.fixed_size = None
    color(photos, out)
    assert color(photos, out, *options).counts == (3, 0, 0)
    assert color(photos, out, *options).counts == (0, 3, 0)


@pytest.mark.parametrize("options", [["--batch-size", 1], ["--max-failures", 3], ["--max-pixels", 10**6]])
def test_options_that_do_not_change_the_picture_leave_it(
    photos: Path, out: Path, color: Color, options: list[object]
) -> None:
    color(photos, out)
    assert color(photos, out, *options).counts == (0, 3, 0)


def test_another_model_has_all_done_again(photos: Path, out: Path, color: Color, tinted: Any) -> None:
    color(photos, out)
    tinted.weights = "second"
    assert color(photos, out).counts == (3, 0, 0)
    assert color(photos, out).counts == (0, 3, 0)


def test_another_format_has_outputs_of_its_own(photos: Path, out: Path, color: Color) -> None:
    color(photos, out)
    assert color(photos, out, "--format", "jpg").counts == (3, 0, 0)
    assert color(photos, out, "--format", "jpg").counts == (0, 3, 0)
    assert color(photos, out).counts == (0, 3, 0)
    assert len(list(out.glob("*.png"))) == len(list(out.glob("*.jpg"))) == 3


def test_an_output_that_the_user_changed_is_kept_until_overwrite(photos: Path, out: Path, color: Color) -> None:
    color(photos, out)
    (out / "001.png").write_bytes(b"retouched")
    Image.new("L", (50, 20), 99).save(photos / "001.png")
    ran = color(photos, out)
    assert (ran.code, ran.counts) == (1, (0, 2, 1))
    assert "was changed since it was written" in ran.report["failures"]["001.png"]
    assert (out / "001.png").read_bytes() == b"retouched"
    assert color(photos, out, "--overwrite").counts == (3, 0, 0)
    assert (out / "001.png").read_bytes() != b"retouched"
    assert color(photos, out).counts == (0, 3, 0)


def test_a_file_that_no_run_wrote_is_kept_byte_for_byte(photos: Path, out: Path, color: Color) -> None:
    (out / "002.png").mkdir(parents=True)
    (out / "001.png").write_bytes(b"mine")
    for _ in range(2):
        ran = color(photos, out)
        assert ran.code == 1
        assert ran.report["failures"].keys() == {"001.png", "002.png"}
        assert all("no run wrote it; move it away" in reason for reason in ran.report["failures"].values())
        assert (out / "001.png").read_bytes() == b"mine"
    ran = color(photos, out, "--overwrite")
    assert list(ran.report["failures"]) == ["002.png"]  # a folder
    assert (out / "001.png").read_bytes() != b"mine"


def test_an_empty_output_is_done_again(photos: Path, out: Path, color: Color) -> None:
    color(photos, out)
    (out / "001.png").write_bytes(b"")  # as a power cut can leave it
    assert color(photos, out).counts == (1, 2, 0)


def test_photos_of_the_same_names_from_another_folder_are_refused_one_by_one(
    photos: Path, out: Path, color: Color, tmp_path: Path, files_in: Callable[[Path], dict[str, bytes]]
) -> None:
    color(photos, out)
    before = files_in(out)
    other = shutil.copytree(photos, tmp_path / "other")  # with times, so 000.png is the same photo
    Image.new("L", (9, 9)).save(other / "001.png")
    Image.new("L", (9, 9)).save(other / "new.png")
    ran = color(other, out)
    assert (ran.code, ran.counts) == (1, (1, 2, 1))
    assert f"made from another photo of this name, in {photos}" in ran.report["failures"]["001.png"]
    after = files_in(out)
    assert {name: after[name] for name in before if name.endswith(".png")} == {
        name: content for name, content in before.items() if name.endswith(".png")
    }


def test_a_folder_that_was_moved_is_the_same(photos: Path, out: Path, color: Color) -> None:
    color(photos, out)
    assert color(photos.rename(photos.with_name("moved")), out).counts == (0, 3, 0)


def test_a_failed_photo_is_done_when_it_is_mended(photos: Path, out: Path, color: Color) -> None:
    good = (photos / "001.png").read_bytes()
    (photos / "001.png").write_bytes(good[:60])
    assert color(photos, out).counts == (2, 0, 1)
    assert color(photos, out).counts == (0, 2, 1)
    (photos / "001.png").write_bytes(good)
    assert color(photos, out).counts == (1, 2, 0)
    (photos / "001.png").write_bytes(good[:60])  # once more: the picture of the good one stays
    assert color(photos, out).counts == (0, 2, 1)
    with Image.open(out / "001.png") as image:
        image.load()


@pytest.mark.parametrize(("first", "then"), [("a.gif", "a.png"), ("a.png", "a.gif")])
def test_who_comes_later_does_not_move_who_was_first(
    tmp_path: Path, out: Path, color: Color, first: str, then: str
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    outputs = {"a.gif": "a.png" if first == "a.gif" else "a.gif.png"}
    outputs["a.png"] = "a.png" if first == "a.png" else "a.png.png"
    sizes = {"a.gif": (20, 10), "a.png": (10, 20)}
    for name in (first, then):
        Image.new("L", sizes[name], 99).save(source / name)
        assert color(source, out).counts == (1, 0 if name == first else 1, 0)
    assert {path.name for path in out.glob("*.png")} == set(outputs.values())
    for name, output in outputs.items():
        with Image.open(out / output) as image:
            assert image.size == sizes[name]
    (source / first).unlink()
    assert color(source, out).counts == (0, 1, 0)


def test_a_single_photo_is_an_input_too(photos: Path, out: Path, color: Color) -> None:
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    assert color(photos / "001.png", out).counts == (1, 0, 0)
    assert versions(out).keys() == {"001.png"}
    assert color(photos / "001.png", out).counts == (0, 1, 0)
    assert color(photos, out).counts == (2, 1, 0)  # its folder knows it
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_a_single_photo_is_never_overwritten(photos: Path, color: Color, invoke: Callable[..., Any]) -> None:
    before = (photos / "001.png").read_bytes()
    error = invoke(main, "folder", photos / "001.png", photos, "--overwrite").error(2)
    assert "one of the input files" in error
    assert {path.name for path in photos.iterdir()} == {"000.png", "001.png", "002.png"}
    assert (photos / "001.png").read_bytes() == before
    with Image.open(photos / "001.png") as image:
        image.save(photos / "001.gif")
    assert color(photos / "001.gif", photos, "--format", "jpg").counts == (1, 0, 0)
    assert (photos / "001.jpg").is_file()
    assert (photos / "001.png").read_bytes() == before


def test_output_inside_input_is_never_read(photos: Path, color: Color) -> None:
    for _ in range(2):
        assert sum(color(photos, photos / "colored").counts) == 3
    assert not (photos / "colored" / "colored").exists()


KEYS = {
    *("input", "output", "photos", "done", "skipped", "failed", "not_begun", "stopped", "failures", "notes"),
    *("run_notes", "passed_over", "other_files", "seconds", "images_per_second", "stages", "options", "journal"),
    *("model", "version", "report_sha256", "color_photos"),
}


def test_the_report_has_everything_and_its_counts_add_up(photos: Path, out: Path, color: Color) -> None:
    color(photos, out)
    (photos / "002.png").write_bytes(b"")
    Image.new("RGBA", (9, 9)).save(photos / "new.png")
    (photos / "notes.txt").write_text("x")
    (photos / "loop").symlink_to(photos)
    Image.new("L", (5, 5)).save(photos / "a.gif", save_all=True, append_images=[Image.new("L", (5, 5), 9)])
    report = color(photos, out).report
    assert report.keys() == KEYS
    assert (report["photos"], report["done"], report["skipped"], report["failed"]) == (5, 2, 2, 1)
    assert report["done"] + report["skipped"] + report["failed"] + report["not_begun"] == report["photos"]
    assert report["failures"] == {"002.png": "the file is empty"}
    assert (report["notes"], report["color_photos"]) == ({"a.gif": ["first frame of several"]}, 0)
    assert report["passed_over"] == {"loop": "link to a folder, not followed"}
    assert (report["other_files"], report["stopped"], report["run_notes"]) == (1, None, [])
    assert (report["input"], report["output"]) == (str(photos), str(out))
    assert report["journal"] == str(out / ".cgan" / "journal.sqlite")
    assert report["stages"].keys() == {"fetch", "decode", "run", "encode", "publish"}
    assert report["model"].keys() == {"file", "hub", "digest", "engine", "note", "spec"}
    assert report["model"]["digest"] == "first"


def test_a_run_that_stops_says_what_was_not_begun(
    tmp_path: Path, out: Path, color: Color, gray_photos: Callable[..., Path]
) -> None:
    source = gray_photos(tmp_path / "in", 50)
    for number in range(4):
        (source / f"{number:03d}.png").write_bytes(b"")
    ran = color(source, out, "--max-failures", 1)
    report = ran.report
    assert ran.code == 1
    assert "stopped: more than 1 file failed; run the same command again to go on" in ran.err
    assert report["not_begun"] > 0
    assert report["done"] + report["skipped"] + report["failed"] + report["not_begun"] == report["photos"] == 50


def test_an_output_that_cannot_be_written_to_is_one_line(photos: Path, out: Path, color: Color) -> None:
    out.mkdir()
    (out / ".cgan").write_bytes(b"")
    error = color(photos, out).result.error(2)
    assert f"{out}: cannot be written" in error
    (out / ".cgan").unlink()
    (out / ".cgan").mkdir()
    (out / ".cgan" / "journal.sqlite").write_bytes(b"my notes" * 1000)
    for options in ([], ["--dry-run"]):
        error = color(photos, out, *options).result.error(2)
        assert f"{out}/.cgan/journal.sqlite: the journal cannot be used" in error


def test_a_journal_that_fails_in_the_middle_stops_with_a_reason(
    photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Journal.commit

    def fail(self: Journal) -> None:
        if any(row.state == DONE for _, row in list(self.rows())):
            raise JournalError("journal.sqlite: the journal cannot be used (disk I/O error)")
        commit(self)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "commit", fail)
        patch.setattr(bookkeeping, "COMMIT_SECONDS", 0)
        ran = color(photos, out)
    assert (ran.code, ran.report["stopped"] is None) == (1, False)
    assert "stopped: journal.sqlite: the journal cannot be used (disk I/O error)" in ran.err
    assert color(photos, out).code == 0


def test_the_default_model_is_the_one_in_the_package(photos: Path, out: Path, color: Color, tinted: Any) -> None:
    color(photos, out)
    (model, device, _), options = tinted.opened
    assert (model, device, options) == (DEFAULT_MODEL, "auto", {"backend": "auto", "provider": None})


def test_a_model_that_is_not_the_run_stops_before_anything_is_written(
    trained_run: Path,
    exported_onnx: Path,
    photo_folder: Path,
    out: Path,
    invoke: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = ("--model", exported_onnx, "--check-parity", trained_run, "--device", "cpu")
    with monkeypatch.context() as strict:
        strict.setitem(DEFAULT_GATES, "fp32", Gates(max_fid_delta=0, min_psnr=100, max_delta_e=0))
        refused = invoke(main, "folder", photo_folder, out, *check)
    assert "differs too much from the model of" in refused.error(1)
    assert "nothing was written" in refused.err
    assert not out.exists()
    passed = invoke(main, "folder", photo_folder, out, *check)
    assert passed.code == 0, passed.err
    assert "\npass  --min-psnr" in passed.err
    assert "\\n" not in passed.err  # a table, line by line
    assert (out / "report.json").exists()


@pytest.mark.parametrize("place", ["input", "output", "model", "folder"])
def test_a_report_replaces_nothing_but_reports(
    photos: Path, out: Path, color: Color, exported_onnx: Path, tmp_path: Path, place: str
) -> None:
    color(photos, out)
    target = {"input": photos / "001.png", "output": out / "001.png", "folder": tmp_path / "reports"}.get(place)
    if target is None:
        target = Path(shutil.copy(exported_onnx, tmp_path / "m.onnx"))
    if place == "folder":
        target.mkdir()
    before = target.read_bytes() if target.is_file() else b""
    for options in ([], ["--overwrite"]):
        error = color(photos, out, "--report", target, *options).result.error(2)
        assert f"--report {target}: found " in error
    assert (target.read_bytes() if target.is_file() else b"") == before


def test_a_report_replaces_an_earlier_one_and_an_empty_file(
    photos: Path, out: Path, color: Color, tmp_path: Path
) -> None:
    (tmp_path / "r.json").touch()
    for _ in range(2):
        assert color(photos, out, "--report", tmp_path / "r.json").code == 0
    assert json.loads((tmp_path / "r.json").read_text())["skipped"] > 0


def test_a_report_of_someone_else_is_left_alone(photos: Path, out: Path, color: Color) -> None:
    out.mkdir()
    (out / "report.json").write_text('{"mine": 1}')
    assert "found something that this command did not write" in color(photos, out).result.error(2)
    assert (out / "report.json").read_text() == '{"mine": 1}'
    assert color(photos, out, "--overwrite").code == 0
    assert color(photos, out).code == 0  # its own report is replaced


def test_a_checksum_that_comes_later_is_kept(photos: Path, out: Path, color: Color) -> None:
    assert color(photos, out).counts == (3, 0, 0)
    for when in (2, 1):
        assert color(photos, out, "--checksum").counts == (0, 3, 0)
        for path in photos.iterdir():
            os.utime(path, (when, when))
