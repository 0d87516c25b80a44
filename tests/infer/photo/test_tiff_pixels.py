"""Photos that Pillow by itself reads wrong."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from cgan.data.prepared import prepare
from infer.photo.decode import PhotoError, decode
from tests.infer.pictures import chunk, gray_tiff_of, saved

RNG = np.random.default_rng(0)
ORIENTATION = 274


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "CMYK"])
def test_uncompressed_tiffs_on_their_side(tmp_path: Path, mode: str, orientation: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 65_536, (20, 31)).astype(np.uint16))
    else:
        image = Image.fromarray(RNG.integers(0, 256, (20, 31, 4), np.uint8)).convert(mode)
    path = saved(tmp_path, "a.tif", image, tiffinfo={ORIENTATION: orientation})
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    upright = ImageOps.exif_transpose(image)
    expected = upright if mode == "I;16" else upright.convert("RGB").convert("L")
    assert np.array_equal(decode(path).luma, np.asarray(expected))


def test_uncompressed_tiffs_on_their_side_are_trained_on_upright(tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (20, 31, 4), np.uint8))
    for folder, compression in (("raw", None), ("lzw", "tiff_lzw")):
        (tmp_path / folder).mkdir()
        saved(tmp_path / folder, "a.tif", image, tiffinfo={ORIENTATION: 6}, compression=compression)
    raw, lzw = (prepare(tmp_path / folder, 32, tmp_path / "cache").pixels for folder in ("raw", "lzw"))
    assert (raw == lzw).all()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4"])
def test_a_tiffs_byte_order_changes_nothing(dtype: str, compressed: bool) -> None:
    values = np.linspace(0, 1 if dtype == "f4" else 200, 20 * 30).reshape(20, 30).astype(dtype)
    contents = (gray_tiff_of(values, "<", compressed), gray_tiff_of(values, ">", compressed))
    little, big = (decode(content, "a.tif") for content in contents)
    assert np.array_equal(little.luma, big.luma)
    assert little.notes == big.notes
    ranks = np.unique(values, return_inverse=True)[1]
    assert np.array_equal(np.unique(big.luma, return_inverse=True)[1], ranks)


def test_signed_bytes_are_stretched_and_said() -> None:
    photo = decode(gray_tiff_of(np.array([[-128, -1, 0, 127]], np.int8)), "a.tif")
    assert photo.luma.tolist() == [[0, round(127 / 255 * 65_535), round(128 / 255 * 65_535), 65_535]]
    assert photo.notes == ("values from -128 to 127 stretched to the range of gray",)
    assert decode(gray_tiff_of(np.array([[0, 127]], np.int8)), "a.tif").notes == ()


def test_floats_of_the_widest_range_keep_their_order() -> None:
    values = np.array([[-3.4e38, 0, 3.4e38]], np.float32)
    assert decode(gray_tiff_of(values), "a.tif").luma.tolist() == [[0, 32_767, 65_535]]


def test_a_palette_image_without_a_palette_is_a_photo_that_failed() -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 8, 3, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    with pytest.raises(PhotoError, match=r"^damaged: AssertionError$"):
        decode(b"\x89PNG\r\n\x1a\n" + chunks, "a.png")
