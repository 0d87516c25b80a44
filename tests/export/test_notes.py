"""Notes of cgan-export on how an artefact was made, and lines of libraries that it keeps off the terminal."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from export.artefact import FEW_PHOTOS, ExportOptions, make_onnx
from export.cli import main

Export = Callable[..., None]


@pytest.fixture
def half_broken(photo_folder: Path, tmp_path: Path) -> Path:
    """`photo_folder` with an empty file and a text beside its 12 photos."""
    folder = shutil.copytree(photo_folder, tmp_path / "photos")
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("not a photo")
    return folder


def expected_notes(folder: Path) -> list[str]:
    reasons = ("empty.jpg: not compared, the file is empty", "text.png: not compared, not an image")
    return [f"{folder}/{reason}" for reason in reasons]


def test_photos_that_cannot_be_read_are_noted(
    stub_export: Export, trained_run: Path, half_broken: Path, photo_folder: Path, tmp_path: Path
) -> None:
    stub_export()
    artefact = make_onnx(trained_run, tmp_path / "out", ExportOptions(calibration=half_broken))
    assert artefact.sidecar.verification["photos"] == 12
    for note, beginning in zip(sorted(artefact.notes), expected_notes(half_broken), strict=True):
        assert note.startswith(beginning)
    assert make_onnx(trained_run, tmp_path / "out", ExportOptions(calibration=photo_folder)).notes == ()
    assert make_onnx(trained_run, tmp_path / "out", ExportOptions()).notes == ()


@pytest.mark.parametrize("options", [(), ("--quiet",)], ids=["shown", "quiet"])
def test_the_command_prints_notes_even_when_quiet(
    invoke: Callable[..., Any],
    stub_export: Export,
    trained_run: Path,
    half_broken: Path,
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    stub_export()
    result = invoke(main, trained_run, "--out", tmp_path / "out", "--calibration", half_broken, *options)
    assert (result.code, result.out) == (0, "")
    lines = result.err.splitlines()
    notes = sorted(line for line in lines if line.startswith("note: "))
    others = [line for line in lines if not line.startswith("note: ")]
    for note, beginning in zip(notes, expected_notes(half_broken), strict=True):
        assert note.startswith(f"note: {beginning}")
    assert bool(others) == (not options)


def test_notes_of_the_file_that_an_engine_was_made_from_are_the_engine_s(
    invoke: Callable[..., Any],
    stub_export: Export,
    stub_build: Callable[..., None],
    trained_run: Path,
    half_broken: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorrt_rtx")
    stub_export()
    stub_build()
    command = (trained_run, "--out", tmp_path / "out", "--format", "tensorrt-rtx", "--precision", "fp32")
    result = invoke(main, *command, "--calibration", half_broken, "--no-verify", "--quiet")
    assert result.code == 0
    for note, beginning in zip(sorted(result.err.splitlines()), expected_notes(half_broken), strict=True):
        assert note.startswith(f"note: {beginning}")


@pytest.mark.parametrize(("count", "noted"), [(FEW_PHOTOS - 1, True), (FEW_PHOTOS, False)])
@pytest.mark.slow
def test_few_photos_to_calibrate_int8_are_noted(
    stub_export: Export,
    trained_run: Path,
    make_photos: Callable[..., Path],
    tmp_path: Path,
    count: int,
    noted: bool,
) -> None:
    stub_export()
    folder = make_photos(tmp_path / "photos", count)
    options = ExportOptions(precision="int8", calibration=folder, verify=False)
    artefact = make_onnx(trained_run, tmp_path / "out", options)
    assert artefact.sidecar.build["calibration_photos"] == count
    assert artefact.notes == (("int8 was calibrated on 31 photos; 32 or more clip less",) if noted else ())


def test_few_photos_to_compare_on_are_not(
    stub_export: Export, trained_run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    stub_export()
    assert make_onnx(trained_run, tmp_path, ExportOptions(calibration=photo_folder)).notes == ()


@pytest.mark.parametrize("pixels", [48 * 40 - 1, 48 * 40 // 2 - 1], ids=["a warning", "an error"])
def test_pillow_s_own_limit_is_not_that_of_calibration_photos(
    invoke: Callable[..., Any],
    stub_export: Export,
    trained_run: Path,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    pixels: int,
) -> None:
    """A photo of more pixels than Pillow's limit warns, one of twice as many is refused."""
    stub_export()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    arguments = (trained_run, "--out", tmp_path, "--calibration", photo_folder, "--quiet")
    assert invoke(main, *arguments) == (0, "", "")
    assert [w for w in recwarn if issubclass(w.category, Image.DecompressionBombWarning)] == []
