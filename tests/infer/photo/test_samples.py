"""Colour of 16 bits a channel, against luma summed here from the samples that were written."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cgan.spec import LUMA_REC601
from infer.photo import samples as samples_
from infer.photo.decode import PhotoError, decode
from infer.photo.encode import write_photo
from tests.infer.pictures import chunk, png_of, saved, tiff_of

RNG = np.random.default_rng(0)
RGB, GRAY_ALPHA, RGB_ALPHA = 2, 4, 6
"""Colour types of PNG."""


def noise(channels: int, height: int = 11, width: int = 14) -> np.ndarray:
    return RNG.integers(0, 65_536, (height, width, channels)).astype(np.uint16)


def luma_of(samples: np.ndarray) -> np.ndarray:
    luma: np.ndarray = samples[..., :3] @ np.array(LUMA_REC601)
    return luma


def eight_bits(values: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.round(values / 257).astype(np.uint8)
    return rounded


def deviation(luma: np.ndarray, samples: np.ndarray) -> float:
    """Largest difference from exact luma, in levels of 16 bits."""
    assert luma.dtype == np.uint16
    return float(np.abs(luma - luma_of(samples)).max())


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color_type", "channels"), [(RGB, 3), (RGB_ALPHA, 4)])
def test_png_in_colour(color_type: int, channels: int, interlaced: bool) -> None:
    samples = noise(channels)
    photo = decode(png_of(samples, color_type, interlaced=interlaced), "a.png")
    assert deviation(photo.luma, samples) < 1
    if channels == 4:
        assert np.array_equal(np.asarray(photo.alpha), eight_bits(samples[..., 3]))
        assert photo.notes == ("transparency read with 8 of its 16 bits",)
    else:
        assert photo.alpha is None
        assert photo.notes == ()


@pytest.mark.parametrize("interlaced", [False, True])
def test_png_in_gray_with_alpha(interlaced: bool) -> None:
    samples = noise(2)
    photo = decode(png_of(samples, GRAY_ALPHA, interlaced=interlaced), "a.png")
    assert photo.luma.dtype == np.uint16
    assert np.array_equal(photo.luma, samples[..., 0])
    assert np.array_equal(np.asarray(photo.alpha), eight_bits(samples[..., 1]))


def test_alpha_of_8_bits_widened_loses_nothing() -> None:
    samples = noise(4)
    samples[..., 3] = samples[..., 3] // 257 * 257
    assert decode(png_of(samples, RGB_ALPHA), "a.png").notes == ()


def test_a_transparent_colour_is_one_of_all_16_bits() -> None:
    samples = np.full((3, 4, 3), (1000, 2000, 3000), np.uint16)
    samples[1, 2] = 1001, 2000, 3000  # of the same high bytes
    key = chunk(b"tRNS", struct.pack(">HHH", 1001, 2000, 3000))
    alpha = decode(png_of(samples, RGB, before_data=key), "a.png").alpha
    assert alpha is not None
    expected = np.full((3, 4), 255)
    expected[1, 2] = 0
    assert np.array_equal(np.asarray(alpha), expected)


@pytest.mark.parametrize("compressed, planar", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_tiff(byte_order: str, compressed: bool, planar: bool) -> None:
    samples = noise(3)
    photo = decode(tiff_of(samples, byte_order, planar, compressed), "a.tif")
    assert photo.notes == ()
    assert deviation(photo.luma, samples) < 1


def test_a_tiff_of_several_strips_and_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that this project writes and libtiff decodes."""
    monkeypatch.setattr("infer.photo.bands.BAND_PIXELS", 14 * 3)
    gray = noise(1)[..., 0]
    first = decode(saved(tmp_path, "a.png", Image.fromarray(gray)))
    content, _ = write_photo(first, np.zeros((1, 16, 16), np.float32), np.zeros((3, 16, 16), np.float32), "TIFF")
    assert np.array_equal(decode(bytes(content), "b.tif").luma, gray)


def test_ppm() -> None:
    samples = noise(3)
    content = b"P6 14 11 65535\n" + samples.astype(">u2").tobytes()
    photo = decode(content, "a.ppm")
    assert photo.notes == ()
    assert deviation(photo.luma, samples) < 1


def test_planes_that_are_compressed() -> None:
    samples = noise(3)
    photo = decode(tiff_of(samples, planar=True, compressed=True), "a.tif")
    assert photo.notes == ()
    assert deviation(photo.luma, samples) < 1


@pytest.mark.parametrize("highest", [256, 1023, 4095, 65_535])
@pytest.mark.parametrize("plain", [False, True])
def test_ppm_of_any_highest_value(plain: bool, highest: int) -> None:
    samples = RNG.integers(0, highest + 1, (11, 14, 3)).astype(np.uint16)
    if plain:
        content = b"P3 14 11 %d\n# no numbers: 1 2 3\n" % highest + b"\n".join(b"%d" % v for v in samples.flat)
    else:
        content = b"P6 14 11 %d\n" % highest + samples.astype(">u2").tobytes()
    photo = decode(content, "a.ppm")
    assert photo.notes == ()
    assert deviation(photo.luma, samples * (65_535 / highest)) < 1.1


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    samples = noise(4)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = png_of(samples, RGB_ALPHA, before_data=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    photo = decode(content, "a.png")
    assert deviation(photo.luma, np.rot90(samples, -1)) < 1
    assert photo.alpha is not None
    assert np.array_equal(np.asarray(photo.alpha), np.rot90(eight_bits(samples[..., 3]), -1))


@pytest.mark.parametrize("rows", [1, 4, 11])
def test_bands_leave_no_seam(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    content = png_of(noise(4), RGB_ALPHA)
    whole = decode(content, "a.png")
    monkeypatch.setattr(samples_, "BAND_PIXELS", rows * 14)
    parts = decode(content, "a.png")
    assert np.array_equal(parts.luma, whole.luma)
    assert np.array_equal(np.asarray(parts.alpha), np.asarray(whole.alpha))


@given(st.integers(0, 65_535))
def test_gray_in_colour_is_its_own_luma(level: int) -> None:
    samples = np.full((1, 2, 3), level, np.uint16)
    assert (decode(png_of(samples, RGB), "a.png").luma == level).all()


def test_from_file_to_file_in_16_bits(tmp_path: Path) -> None:
    """Luma within a level of the 65,536, where colours are in gamut."""
    samples = (16_384 + noise(3) / 2).astype(np.uint16)
    photo = decode(png_of(samples, RGB), "a.png")
    gray = np.full((1, 16, 16), 0.5, np.float32)
    rgb = gray + np.array([0.02, -0.01, 0.01], np.float32)[:, None, None]
    for format_, name in (("PNG", "b.png"), ("TIFF", "b.tif")):
        content, notes = write_photo(photo, gray, rgb, format_)
        assert notes == ()
        again = decode(bytes(content), name).luma.astype(int)
        assert np.abs(again - photo.luma).max() <= 1


def test_damage_is_a_reason_like_any_other() -> None:
    content = png_of(noise(3, 200, 200), RGB)
    with pytest.raises(PhotoError, match="image data are damaged"):
        decode(content[: len(content) // 2], "a.png")
