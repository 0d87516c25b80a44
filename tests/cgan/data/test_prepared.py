"""Preparation of photos: size, modes, orientation, and files that cannot be read."""

import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgan.data import prepared as prepared_module
from cgan.data.prepared import DECODED_BYTES, prepare
from cgan.data.scan import scan
from cgan.errors import UserError
from cgan.memory_budget import MemoryBudget

MakePhotos = Callable[..., Path]


@pytest.fixture
def photos(tmp_path: Path, make_photos: MakePhotos) -> Path:
    """Six photos that a test may change."""
    return make_photos(tmp_path / "photos", 6)


def test_photos_are_squashed_to_the_size(tmp_path: Path) -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :40] = [250, 10, 20]
    picture[:, 40:] = [30, 40, 240]
    Image.fromarray(picture).save(tmp_path / "halves.png")
    pixels = prepare(tmp_path, 32).pixels
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert pixels[0, :, 16, 4].tolist() == [250, 10, 20]  # nothing is cropped: both halves are there
    assert pixels[0, :, 16, 28].tolist() == [30, 40, 240]


@pytest.mark.parametrize(("mode", "color"), [("L", 77), ("P", 3), ("RGBA", (9, 8, 7, 0)), ("CMYK", (0, 255, 255, 0))])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, color: Any) -> None:
    image = Image.new(mode, (20, 20), color)
    if mode == "P":
        image.putpalette([*range(30)])
    image.save(tmp_path / "photo.tif")
    expected = image.convert("RGB").getpixel((0, 0))
    assert isinstance(expected, tuple)
    assert prepare(tmp_path, 32).pixels[0, :, 5, 5].tolist() == list(expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    corners = np.zeros((32, 32, 3), np.uint8)
    corners[:16, :16], corners[:16, 16:], corners[16:, :16] = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    upright = Image.fromarray(corners)
    T = Image.Transpose  # noqa: N806
    # what a camera held that way stores: the inverse of how a viewer has to turn it
    stored = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90}
    stored |= {7: T.TRANSVERSE, 8: T.ROTATE_270}
    image = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(prepare(tmp_path, 32).pixels[0].permute(1, 2, 0).numpy(), corners)


def test_names_digests_and_pixels_belong_together(photos: Path) -> None:
    prepared = prepare(photos, 32)
    assert list(prepared.names) == sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    for i, name in enumerate(prepared.names):
        with Image.open(photos / name) as image:
            expected = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
        assert np.array_equal(prepared.pixels[i].permute(1, 2, 0).numpy(), expected)
        assert prepared.sha256[i] == prepared_module._digest_or_empty(photos / name)
    assert len(set(prepared.sha256)) == 6


def test_progress_counts_to_the_number_of_photos(photos: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare(photos, 32, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def broken_content(kind: str, photo: bytes) -> bytes:
    """A file that cannot be decoded; "exif" has an orientation behind a tag whose stored type is nonsense."""
    if kind == "exif":
        entries = (
            b"\x01\x3e\x00\x02\x00\x00\x00\x06\x00\x00\x00\x26" + b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
        )
        exif = b"Exif\0\0MM\0*\0\0\0\x08\x00\x02" + entries + b"\0\0\0\0hello\0"
        return photo[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + photo[2:]
    return {"empty": b"", "text": b"not a photo", "truncated": photo[: len(photo) // 2], "header": photo[:20]}[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "header", "exif"])
def test_a_broken_photo_is_listed_and_passed_over(tmp_path: Path, make_photos: MakePhotos, kind: str) -> None:
    folder = make_photos(tmp_path / "photos", 24)
    photo = (folder / "a" / "photo-00.jpg").read_bytes()
    (folder / "a" / "photo-03b.jpg").write_bytes(broken_content(kind, photo))
    for _ in range(2):  # from the photos, then from the cache
        prepared = prepare(folder, 32)
        assert list(prepared.unreadable) == ["a/photo-03b.jpg"]
        assert prepared.unreadable["a/photo-03b.jpg"]
        assert "a/photo-03b.jpg" not in prepared.names
        assert len(prepared.pixels) == len(prepared.names) == len(prepared.sha256) == 24
        assert prepared.sha256 == tuple(prepared_module._digest_or_empty(folder / name) for name in prepared.names)
        after = prepared.names.index("a/photo-04.jpg")  # what follows the gap is still under its own name
        with Image.open(folder / "a" / "photo-04.jpg") as image:
            expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
        assert np.array_equal(prepared.pixels[after].permute(1, 2, 0).numpy(), expected)


def test_a_photo_that_lacks_pixels_is_passed_over_and_one_without_its_end_marker_is_not(
    tmp_path: Path, make_photos: MakePhotos
) -> None:
    folder = make_photos(tmp_path / "photos", 24)
    whole = (folder / "a" / "photo-00.jpg").read_bytes()
    scan = whole.index(b"\xff\xda") + 14
    (folder / "cut.jpg").write_bytes(whole[: (scan + len(whole)) // 2] + b"\xff\xd9")
    (folder / "endless.jpg").write_bytes(whole[:-2])
    prepared = prepare(folder, 32)
    assert list(prepared.unreadable) == ["cut.jpg"]
    assert prepared.unreadable["cut.jpg"].startswith("the file ends after ")
    endless, first = (prepared.names.index(name) for name in ("endless.jpg", "a/photo-00.jpg"))
    assert torch.equal(prepared.pixels[endless], prepared.pixels[first])


@pytest.mark.parametrize("error", [OSError, ValueError, TypeError, KeyError, IndexError, EOFError, MemoryError])
def test_whatever_the_decoder_raises_costs_one_photo(
    tmp_path: Path, make_photos: MakePhotos, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    folder = make_photos(tmp_path / "photos", 24)
    real, broken = Image.open, (folder / "a" / "photo-02.jpg").read_bytes()

    def fails_once(file: BytesIO, **options: Any) -> Image.Image:
        if file.getvalue() == broken:
            raise error("broken")
        return real(file, **options)

    monkeypatch.setattr(Image, "open", fails_once)
    assert list(prepare(folder, 32).unreadable) == ["a/photo-02.jpg"]


def test_gray_of_16_bits_is_passed_over_rather_than_clipped_to_white(tmp_path: Path, make_photos: MakePhotos) -> None:
    folder = make_photos(tmp_path / "photos", 24)
    Image.fromarray(np.full((20, 20), 30000, np.uint16)).save(folder / "deep.png")
    assert "more than 8 bits" in prepare(folder, 32).unreadable["deep.png"]


def test_a_decompression_bomb_is_passed_over(
    tmp_path: Path, make_photos: MakePhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_photos(tmp_path / "photos", 24)
    Image.new("RGB", (400, 400)).save(folder / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 400 // 2 - 1)
    (reason,) = prepare(folder, 32).unreadable.values()
    assert "Bomb" in reason


@pytest.mark.parametrize(("broken", "refused"), [(1, False), (2, True)])
def test_more_than_a_twentieth_unreadable_is_an_error(
    tmp_path: Path, make_photos: MakePhotos, broken: int, refused: bool
) -> None:
    folder = make_photos(tmp_path / "photos", 20 - broken)
    for i in range(broken):
        (folder / f"broken-{i}.jpg").write_bytes(b"not a photo")
    if not refused:
        assert len(prepare(folder, 32).unreadable) == broken
        return
    with pytest.raises(UserError, match=r"2 of 20 photos cannot be read, more than 5% \(first: broken-0\.jpg: "):
        prepare(folder, 32)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_photo_without_permission_is_passed_over(tmp_path: Path, make_photos: MakePhotos) -> None:
    folder = make_photos(tmp_path / "photos", 24)
    (folder / "a" / "photo-00.jpg").chmod(0)
    assert "PermissionError" in prepare(folder, 32).unreadable["a/photo-00.jpg"]


def test_a_format_that_is_no_photo_is_not_decoded_whatever_its_suffix(tmp_path: Path, make_photos: MakePhotos) -> None:
    folder = make_photos(tmp_path / "photos", 24)
    Image.new("RGB", (20, 20)).save(tmp_path / "photo.eps")  # Pillow would start Ghostscript on it
    shutil.move(tmp_path / "photo.eps", folder / "photo.jpg")
    assert prepare(folder, 32).unreadable["photo.jpg"] == "UnidentifiedImageError: cannot identify image file"


def test_limits_of_photos_hold_in_training(tmp_path: Path, make_photos: MakePhotos) -> None:
    folder = make_photos(tmp_path / "photos", 40)
    Image.new("RGB", (70_000, 2)).save(folder / "wide.png")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    reasons = prepare(folder, 32).unreadable
    assert reasons["wide.png"] == "70000 x 2 pixels, the limit is 65500 a side"
    assert "1099511627776 bytes, the limit is" in reasons["sparse.png"]


def test_photos_wait_for_memory(tmp_path: Path, make_photos: MakePhotos, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    class Noted(MemoryBudget):
        def taken(self, size: int) -> Any:
            taken.append(size)
            return super().taken(size)

    monkeypatch.setattr(prepared_module, "_contents", Noted(1))
    monkeypatch.setattr(prepared_module, "_memory", Noted(1))
    folder = make_photos(tmp_path / "photos", 5)
    assert len(prepare(folder, 32).names) == 5
    paths = scan(folder)
    with Image.open(paths[0]) as image:
        pixels = image.width * image.height
    assert sorted(taken) == sorted([*(path.stat().st_size for path in paths), *[pixels * DECODED_BYTES] * 5])
