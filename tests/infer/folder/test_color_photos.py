"""`--color-photos`: colour photos among gray ones are coloured anew, skipped or copied, and always named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infer.folder.journal import Journal
from infer.folder.output_names import copy_name, output_names
from infer.photo.formats import ColorPhotos
from tests.conftest import FolderRun, PipelineRun, Tinted
from tests.infer.pictures import tiff_of

Color = Callable[..., FolderRun]
Files = Callable[[Path], dict[str, bytes]]

COLORED = {"palette.png", "cmyk.tif", "deep.tif", "photo.webp", "photo.gif", "sub/photo.jpg"}
GRAY = {"gray.png", "sepia.jpg", "gray.gif"}


def blotches() -> Image.Image:
    small = np.random.default_rng(1).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def mixed_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, photo = tmp_path_factory.mktemp("mixed"), blotches()
    (folder / "sub").mkdir()
    photo.quantize(64).save(folder / "palette.png")
    photo.convert("CMYK").save(folder / "cmyk.tif")
    (folder / "deep.tif").write_bytes(tiff_of(np.asarray(photo).astype(np.uint16) * 257))
    photo.save(folder / "photo.webp")
    photo.quantize(128).save(folder / "photo.gif")
    photo.save(folder / "sub" / "photo.jpg")
    luma = np.asarray(photo.convert("L"))
    for name in ("gray.png", "gray.gif"):
        Image.fromarray(luma).save(folder / name)
    toned = np.minimum(luma[..., None] * np.array([1.351, 1.203, 0.937]), 255).round().astype(np.uint8)
    Image.fromarray(toned).save(folder / "sepia.jpg")
    return folder


@pytest.fixture
def mixed(mixed_files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mixed_files, tmp_path / "in"))


def noted(run: FolderRun) -> dict[str, list[str]]:
    """Notes on colour photos."""
    notes = {name: [note for note in found if "colour photo" in note] for name, found in run.report["notes"].items()}
    return {name: found for name, found in notes.items() if found}


def rows(target: Path) -> dict[str, str]:
    journal = Journal(target / ".cgan" / "journal.sqlite")
    try:
        found = {output: journal.find(output) for _, output in journal.outputs()}
        return {output: row.state for output, row in found.items() if row}
    finally:
        journal.close()


@pytest.mark.parametrize("choice", ColorPhotos)
def test_a_mixed_folder(choice: ColorPhotos, mixed: Path, tmp_path: Path, color: Color, tinted: Tinted) -> None:
    out = tmp_path / "out"
    run = color(mixed, out, "--color-photos", choice)
    skipped = len(COLORED) if choice is ColorPhotos.SKIP else 0
    assert (run.code, run.counts) == (0, (9 - skipped, skipped, 0))
    assert noted(run) == {name: [choice.note] for name in COLORED}
    assert run.report["color_photos"] == 6
    assert run.report["options"]["color_photos"] == choice
    assert f"; 6 colour photos {choice.note.removeprefix('a colour photo, ')}; " in run.err
    made = {str(path.relative_to(out)) for path in out.rglob("*.*") if ".cgan" not in path.parts} - {"report.json"}
    gray_outputs = {"gray.png", "sepia.jpg", "gray.gif.png"}
    if choice is ColorPhotos.RECOLOR:
        assert made == gray_outputs | COLORED - {"photo.gif"} | {"photo.png"}
    else:
        assert made == gray_outputs | (COLORED if choice is ColorPhotos.COPY else set())
        assert sum(shape[0] for shape in tinted.batches) == len(GRAY)  # the model saw no other photo
    for name in COLORED if choice is ColorPhotos.COPY else ():
        assert (out / name).read_bytes() == (mixed / name).read_bytes()


@pytest.mark.parametrize("choice", ColorPhotos)
def test_an_idle_run_decodes_nothing_and_says_the_same(
    choice: ColorPhotos, mixed: Path, tmp_path: Path, color: Color, files_in: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = color(mixed, out, "--color-photos", choice)
    notes, states, files = first.report["notes"], rows(out), files_in(out)
    assert set(states.values()) == ({"done", "left"} if choice is ColorPhotos.SKIP else {"done"})
    monkeypatch.delattr("infer.folder.photo_stages.decode")
    again = color(mixed, out, "--color-photos", choice, "--log-json")
    assert (again.code, again.counts) == (0, (0, 9, 0))
    assert (again.report["notes"], again.report["color_photos"]) == (notes, 6)
    assert rows(out) == states
    assert {**files_in(out), "report.json": b""} == {**files, "report.json": b""}
    events = {event["name"]: event for event in again.events if event["event"] == "file"}
    assert events["photo.gif"]["output"] == {"recolor": "photo.png", "skip": None, "copy": "photo.gif"}[choice]
    assert events["photo.gif"]["reason"] == (choice.note if choice is ColorPhotos.SKIP else "")
    assert again.events[-1]["color_photos"] == 6


@pytest.mark.parametrize("choice", ColorPhotos)
def test_a_dry_run_says_what_a_run_then_does(
    choice: ColorPhotos, mixed: Path, tmp_path: Path, color: Color, files_in: Files
) -> None:
    out, options = tmp_path / "out", ("--color-photos", choice, "--log-json")
    for expected in ("do", "skip"):  # before and after the run
        plan = color(mixed, out, *options, "--dry-run")
        assert plan.code == 0
        planned = {event["name"]: (event["output"], event["verdict"]) for event in plan.events}
        before = files_in(out) if out.exists() else {}
        done = {
            e["name"]: (e["output"], e["state"]) for e in color(mixed, out, *options).events if e["event"] == "file"
        }
        words = {"do": "done", "skip": "skipped"}
        assert {name: (output, words[verdict]) for name, (output, verdict) in planned.items()} == done
        assert planned["gray.png"] == ("gray.png", expected)
        assert expected == "do" or before.keys() == files_in(out).keys()


def test_another_choice_does_the_photos_again(mixed: Path, tmp_path: Path, color: Color) -> None:
    out = tmp_path / "out"
    color(mixed, out)
    recolored = (out / "palette.png").read_bytes()
    skipping = color(mixed, out, "--color-photos", "skip")
    assert (skipping.code, skipping.counts) == (0, (3, 6, 0))
    assert (out / "palette.png").read_bytes() == recolored  # nothing in OUTPUT is deleted
    copying = color(mixed, out, "--color-photos", "copy")
    assert (copying.code, copying.counts) == (0, (9, 0, 0))
    assert (out / "palette.png").read_bytes() == (mixed / "palette.png").read_bytes()
    back = color(mixed, out)
    assert (back.code, back.counts) == (0, (9, 0, 0))
    assert (out / "palette.png").read_bytes() == recolored


def test_a_photo_that_changes_between_gray_and_colour(mixed: Path, tmp_path: Path, color: Color) -> None:
    source, out = tmp_path / "one", tmp_path / "out"
    source.mkdir()
    shutil.copy(mixed / "photo.gif", source / "a.gif")
    assert color(source, out, "--color-photos", "copy").counts == (1, 0, 0)
    assert rows(out) == {"a.gif": "done"}
    shutil.copy(mixed / "gray.gif", source / "a.gif")
    assert color(source, out, "--color-photos", "copy").counts == (1, 0, 0)
    assert rows(out) == {"a.gif": "done", "a.png": "done"}
    assert (out / "a.png").exists()
    assert color(source, out, "--color-photos", "copy").counts == (0, 1, 0)


def test_with_another_format_a_copy_keeps_its_own(mixed: Path, tmp_path: Path, color: Color) -> None:
    out = tmp_path / "out"
    (mixed / "photo.png").write_bytes((mixed / "gray.png").read_bytes())
    run = color(mixed, out, "--color-photos", "copy", "--format", "jpg")
    assert (run.code, run.counts) == (0, (10, 0, 0))
    assert {path.name for path in out.glob("photo*")} == {"photo.gif.gif", "photo.webp.webp", "photo.png.jpg"}
    assert (out / "photo.gif.gif").read_bytes() == (mixed / "photo.gif").read_bytes()
    assert (out / "palette.png").read_bytes() == (mixed / "palette.png").read_bytes()
    assert not (out / "palette.jpg").exists()
    assert color(mixed, out, "--color-photos", "copy", "--format", "jpg").counts == (0, 10, 0)


@pytest.mark.parametrize("format_", ["same", "jpg", "png", "webp", "tiff"])
def test_no_two_files_of_a_run_can_have_one_name(format_: str) -> None:
    stems = ("a", "A", "a.png", "a.gif", "a.jpg", "a.gif.2")
    names = [
        f"{stem}{suffix}" for stem in stems for suffix in (".gif", ".jpg", ".jpeg", ".png", ".webp", ".tif", ".bmp")
    ]
    outputs = output_names(names, format_, ())
    copies = [copy_name(name, output, format_) for name, output in zip(names, outputs, strict=True)]
    everything = [output.casefold() for output in [*outputs, *filter(None, copies)]]
    assert len(set(everything)) == len(everything)


def test_a_copy_replaces_no_file_of_others(mixed: Path, tmp_path: Path, color: Color) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "photo.gif").write_bytes(b"mine")
    options = ("--color-photos", "copy")
    planned = color(mixed, out, *options, "--dry-run")
    run = color(mixed, out, *options)
    for found in (planned, run):
        assert found.code == 1
        assert "photo.gif" in found.err
        assert "no run wrote" in found.err
    assert run.counts == (8, 0, 1)
    assert (out / "photo.gif").read_bytes() == b"mine"
    assert color(mixed, out, *options, "--overwrite").counts == (9, 0, 0)
    assert (out / "photo.gif").read_bytes() == (mixed / "photo.gif").read_bytes()


def test_a_copy_replaces_no_output_of_another_photo(mixed: Path, tmp_path: Path, color: Color) -> None:
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    first.mkdir()
    second.mkdir()
    shutil.copy(mixed / "gray.png", first / "photo.png")
    shutil.copy(mixed / "sub" / "photo.jpg", second)
    color(first, out, "--format", "jpg")
    made, options = (out / "photo.jpg").read_bytes(), ("--format", "png", "--color-photos", "copy")
    (first / "photo.png").unlink()
    for found in (color(second, out, *options, "--dry-run"), color(second, out, *options)):
        assert found.code == 1
        assert "photo.jpg was made from photo.png" in found.err
    assert (out / "photo.jpg").read_bytes() == made
    assert rows(out) == {"photo.jpg": "done", "photo.png": "failed"}


@pytest.mark.parametrize("choice", ColorPhotos)
def test_a_run_that_was_killed_goes_on_with_its_notes(
    choice: ColorPhotos, mixed: Path, tmp_path: Path, run: PipelineRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr(run.journal, "settle", die)  # the outputs are there, and their ends are not noted
    with pytest.raises(Killed):
        run(color_photos=choice)
    monkeypatch.undo()
    again = run(color_photos=choice)
    assert (again.failed, again.settled, again.color_photos()) == ({}, 9, 6)
    assert run(color_photos=choice).skipped == 9


def test_stores_and_archives_too(mixed: Path, tmp_path: Path, color: Color) -> None:
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", mixed)
    run = color(f"zip://::file://{archive}", tmp_path / "out", "--color-photos", "copy")
    assert (run.code, run.report["color_photos"]) == (0, 6)
    assert (tmp_path / "out" / "photo.gif").read_bytes() == (mixed / "photo.gif").read_bytes()
    import fsspec

    store = fsspec.filesystem("memory")
    for choice, names in (("copy", {"photo.gif", "photo.webp"}), ("skip", set())):
        target = f"memory://{tmp_path.name}-{choice}"
        for _ in range(2):
            ran = color(mixed, target, "--color-photos", choice).result
            assert (ran.code, ran.err.count("6 colour photos")) == (0, 1)
        found = {Path(path).name for path in store.glob(f"{target}/photo*")}
        assert found == names
        store.rm(target, recursive=True)


def test_strength_is_in_the_recipe_and_in_the_files(mixed: Path, tmp_path: Path, color: Color) -> None:
    out = tmp_path / "out"
    color(mixed / "gray.png", out)
    normal = np.asarray(Image.open(out / "gray.png").convert("RGB"), np.int16)
    assert color(mixed / "gray.png", out, "--strength", 1).counts == (0, 1, 0)
    run = color(mixed / "gray.png", out, "--strength", 0.5)
    assert run.counts == (1, 0, 0)
    assert run.report["options"]["strength"] == 0.5
    half = np.asarray(Image.open(out / "gray.png").convert("RGB"), np.int16)
    assert 0 < np.ptp(half, axis=2).mean() < np.ptp(normal, axis=2).mean()
    color(mixed / "gray.png", out, "--strength", 0, "--resolution", "model")
    gray = np.asarray(Image.open(out / "gray.png").convert("RGB"), np.int16)
    assert gray.shape == (32, 32, 3)
    assert np.ptp(gray, axis=2).max() == 0


@pytest.mark.parametrize("strength", ["-0.5", "2.1", "nan", "inf"])
def test_a_strength_out_of_range_is_refused(strength: str, mixed: Path, tmp_path: Path, color: Color) -> None:
    error = color(mixed, tmp_path / "out", "--strength", strength).result.error(2)
    assert error.startswith("error: --strength: found ")
    assert not (tmp_path / "out").exists()
