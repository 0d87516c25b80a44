"""Which photos calibrate an int8 model, and that the network sees them as in a folder run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgan.errors import UserError
from export.calibration import DEFAULT_LIMIT, LEAST_PHOTOS, calibration_batches, with_sharper_copies
from infer.photo.decode import decode, model_input


def test_photos_are_what_a_folder_run_feeds_the_network(photo_folder: Path) -> None:
    found = calibration_batches(photo_folder, 32)
    assert found.gray.shape == (12, 1, 32, 32)
    assert found.gray.dtype == np.float32
    assert len(found.photos) == 12
    assert not found.failures
    for gray, path in zip(found.gray, found.photos, strict=True):
        assert np.array_equal(gray, model_input(decode(path), 32, 32))
    assert found.gray.std() > 0.1


def test_orientation_and_depth_are_those_of_the_product(tmp_path: Path, photo_folder: Path) -> None:
    shutil.copytree(photo_folder, tmp_path / "photos")
    ramp = np.linspace(0, 65535, 48 * 40).reshape(40, 48).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "photos" / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray((ramp >> 8).astype(np.uint8)).save(tmp_path / "photos" / "turned.jpg", exif=exif)
    found = calibration_batches(tmp_path / "photos", 32)
    by_name = {path.name: gray[0] for gray, path in zip(found.gray, found.photos, strict=True)}
    assert np.abs(by_name["deep.png"].mean() - 0.5) < 0.01
    assert len(np.unique(by_name["deep.png"])) > 256  # not cut to 8 bits
    horizontal, vertical = (np.abs(np.diff(by_name["turned.jpg"].mean(axis))).mean() for axis in (0, 1))
    assert horizontal > 5 * vertical


def test_the_choice_is_of_the_seed_and_the_names(tmp_path: Path, photo_folder: Path) -> None:
    def names(folder: Path, seed: int) -> list[str]:
        found = calibration_batches(folder, 16, limit=8, seed=seed)
        assert len(found.gray) == len(found.photos) == 8
        return [path.relative_to(folder).as_posix() for path in found.photos]

    shutil.copytree(photo_folder, tmp_path / "elsewhere")
    first = names(photo_folder, 0)
    assert names(tmp_path / "elsewhere", 0) == first
    assert set(names(photo_folder, 1)) != set(first)
    assert first != sorted(first)  # not the first of a folder, which are of one kind in many an archive
    assert len(set(first)) == 8


def test_choices_from_both_ends_share_no_photo_of_a_large_folder(
    tmp_path: Path, make_photos: Callable[..., Path]
) -> None:
    folder = make_photos(tmp_path, 17)
    first, last = calibration_batches(folder, 16, limit=8), calibration_batches(folder, 16, limit=8, from_end=True)
    assert (len(first.photos), len(last.photos)) == (8, 8)
    assert set(first.photos).isdisjoint(last.photos)
    # The same order, tried from its two ends.
    whole = calibration_batches(folder, 16)
    assert whole.photos[:8] == first.photos
    assert whole.photos[::-1][:8] == last.photos
    assert np.array_equal(whole.gray[::-1][:8], last.gray)


def test_limit_by_default(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    assert len(calibration_batches(make_photos(tmp_path, DEFAULT_LIMIT + 3), 16).photos) == DEFAULT_LIMIT


def test_unreadable_photos_are_named_and_others_take_their_place(tmp_path: Path, photo_folder: Path) -> None:
    shutil.copytree(photo_folder, tmp_path / "photos")
    broken = {tmp_path / "photos" / name for name in ("empty.jpg", "text.png", "other.jpg", "short.jpg")}
    (tmp_path / "photos" / "empty.jpg").touch()
    (tmp_path / "photos" / "text.png").write_text("not a photo")
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "other.jpg", "PNG")
    whole = (photo_folder / "a" / "photo-00.jpg").read_bytes()
    (tmp_path / "photos" / "short.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos" / "notes.txt").write_text("no photo, and no failure either")
    found = calibration_batches(tmp_path / "photos", 32, limit=12)
    assert len(found.gray) == len(found.photos) == 12
    assert set(found.photos).isdisjoint(broken)
    assert {path for path, _ in found.failures} <= broken
    everything = calibration_batches(tmp_path / "photos", 32, limit=100)
    reasons = {path.name: reason for path, reason in everything.failures}
    assert reasons.keys() == {path.name for path in broken}
    assert reasons["empty.jpg"] == "the file is empty"
    assert "rename it" in reasons["other.jpg"]
    assert all(reasons.values())


def test_too_few_photos(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    make_photos(tmp_path, LEAST_PHOTOS - 1)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(UserError) as caught:
        calibration_batches(tmp_path, 32)
    message = str(caught.value)
    assert f"found {LEAST_PHOTOS - 1} readable photos and 1 other (empty.jpg: the file is empty)" in message
    assert f"at least {LEAST_PHOTOS}" in message
    assert "\n" not in message
    make_photos(tmp_path, LEAST_PHOTOS)
    assert len(calibration_batches(tmp_path, 32).photos) == LEAST_PHOTOS


def test_no_folder_and_no_photos(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no such folder"):
        calibration_batches(tmp_path / "missing", 32)
    with pytest.raises(UserError, match="found no photos"):
        calibration_batches(tmp_path, 32)


def test_a_limit_below_the_least(photo_folder: Path) -> None:
    with pytest.raises(ValueError, match=f"limit is 7, expected at least {LEAST_PHOTOS}"):
        calibration_batches(photo_folder, 32, limit=7)


def test_sharper_copies_come_after_the_photos(photo_folder: Path) -> None:
    gray = calibration_batches(photo_folder, 32).gray
    both, behind_a_blur = (with_sharper_copies(gray, blurred) for blurred in (False, True))
    assert both.shape == (24, 1, 32, 32) and both.dtype == np.float32
    assert np.array_equal(both[:12], gray)
    assert np.array_equal(both, both.clip(0, 1))

    def contrast(photos: np.ndarray) -> np.ndarray:
        """Mean difference of neighbours, N."""
        means: np.ndarray = np.abs(np.diff(photos, axis=3)).mean(axis=(1, 2, 3))
        return means

    assert (contrast(both[12:]) > 1.1 * contrast(gray)).all()
    assert (contrast(gray) < contrast(behind_a_blur[12:])).all()
    assert (contrast(behind_a_blur[12:]) < contrast(both[12:])).all()
    flat = np.full((1, 1, 32, 32), 0.25, np.float32)
    assert np.allclose(with_sharper_copies(flat, False), 0.25)
