"""The plan of a folder run."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgan.spec import PHOTO_FORMATS, UserError
from infer.jobs import _output_names, make_plan


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def outputs(source: Path, target: Path, format_: str = "same") -> dict[str, str]:
    plan = make_plan(source, target, format_)
    return {job.name: job.target.relative_to(target).as_posix() for job in plan.jobs}


def test_paths_are_mirrored_and_names_kept(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "b/a.jpg", "b/c/a.JPG", "b/d.tiff", "e.pgm", "f.gif")
    assert outputs(source, tmp_path / "out") == {
        "a.jpg": "a.jpg",
        "b/a.jpg": "b/a.jpg",
        "b/c/a.JPG": "b/c/a.JPG",
        "b/d.tiff": "b/d.tiff",
        "e.pgm": "e.png",  # holds no colour
        "f.gif": "f.png",
    }


def test_photos_that_would_meet_in_one_output_keep_their_suffix(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "a.png", "a.webp", "b.jpg", "c.gif", "c.png")
    assert outputs(source, tmp_path / "out", "png") == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png",
        "a.webp": "a.webp.png",
        "b.jpg": "b.png",
        "c.gif": "c.gif.png",
        "c.png": "c.png",
    }


stems = st.sampled_from(["a", "A", "a.jpg", "a.png", "b", "a.jpg.2", "é"])
photo_names = st.builds(lambda stem, suffix: stem + suffix, stems, st.sampled_from([*PHOTO_FORMATS, ".JPG"]))


@settings(max_examples=300)
@given(st.lists(photo_names, unique=True, min_size=1), st.sampled_from(["same", "jpg", "png", "webp", "tiff"]))
def test_every_input_has_an_output_of_its_own(names: list[str], format_: str) -> None:
    names = sorted(names)
    folded = [output.casefold() for output in _output_names(names, format_)]
    # Inputs whose names differ in case alone can exist only where case distinguishes files.
    if len({name.casefold() for name in names}) == len(names):
        assert len(set(folded)) == len(names)
    assert len(set(_output_names(names, format_))) == len(names)


def test_other_files_are_counted_and_hidden_temporaries_are_no_photos(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "notes.txt", "b/.DS_Store")
    plan = make_plan(source, tmp_path / "out")
    assert [job.name for job in plan.jobs] == ["a.jpg"]
    assert plan.other_files == 2


def test_output_inside_input_is_never_read(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "out/b.jpg")
    assert outputs(source, source / "out") == {"a.jpg": "a.jpg"}


@pytest.mark.parametrize("target", ["in", "."])
def test_output_that_could_overwrite_inputs_is_refused(tmp_path: Path, target: str) -> None:
    source = touch(tmp_path / "in", "a.jpg")
    with pytest.raises(UserError, match="could overwrite the inputs"):
        make_plan(source, tmp_path / target)


def test_output_through_a_link_to_input_is_refused(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg")
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UserError, match="could overwrite the inputs"):
        make_plan(source, tmp_path / "link")


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no such folder"):
        make_plan(tmp_path / "none", tmp_path / "out")
    touch(tmp_path / "in", "notes.txt")
    with pytest.raises(UserError, match="found no photos"):
        make_plan(tmp_path / "in", tmp_path / "out")


def test_hidden_files_are_no_photos(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg", "._a.jpg")
    plan = make_plan(source, tmp_path / "out")
    assert [job.name for job in plan.jobs] == ["a.jpg"]
    assert plan.other_files == 1


def test_an_output_that_is_an_input_through_links_is_refused(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "sub/a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(source / "sub")
    with pytest.raises(UserError, match="is one of the input files"):
        make_plan(source, tmp_path / "out")


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = touch(tmp_path / "in", "a.jpg", "closed/b.jpg")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert make_plan(source, tmp_path / "out").unreadable == {"closed": "folder cannot be read: Permission denied"}


def test_links_and_special_files(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.jpg")
    elsewhere = touch(tmp_path / "elsewhere", "b.jpg")
    (source / "link.jpg").symlink_to(elsewhere / "b.jpg")
    (source / "loop").symlink_to(source)
    (source / "dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(source / "pipe.jpg")
    plan = make_plan(source, tmp_path / "out")
    assert [job.name for job in plan.jobs] == ["a.jpg", "link.jpg"]
    reasons = plan.passed_over
    assert reasons.keys() == {"dead.jpg", "loop", "pipe.jpg"}
    assert "leads nowhere" in reasons["dead.jpg"]
    assert "not followed" in reasons["loop"]
    assert "not a regular file" in reasons["pipe.jpg"]
