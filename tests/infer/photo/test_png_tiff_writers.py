"""Files of 16 bits a channel: their samples, decoded here without Pillow, and what Pillow makes of them."""

import dataclasses
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, TiffImagePlugin

from cgan.spec import LUMA_REC601
from infer.photo import bands, png_tiff_writers
from infer.photo.decode import Photo, decode, model_input
from infer.photo.encode import write_photo

RNG = np.random.default_rng(0)


def photo_of(luma: np.ndarray, **kept: Any) -> Photo:
    empty = Photo(luma=luma, alpha=None, exif=None, icc_profile=None, dpi=None, notes=())
    return dataclasses.replace(empty, **kept)


def gray16(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 65_536, (height, width)).astype(np.uint16)


def written(photo: Photo, format_: str, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    rgb = rng.random((3, 16, 16), np.float32)
    content, notes = write_photo(photo, rng.random((1, 16, 16), np.float32), rgb.round() if seed % 2 else rgb, format_)
    assert notes == ()
    return bytes(content)


def chunks_of(content: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG, with their check sums checked."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    position, chunks = 8, []
    while position < len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        kind, body = content[position + 4 : position + 8], content[position + 8 : position + 8 + length]
        (check,) = struct.unpack(">I", content[position + 8 + length : position + 12 + length])
        assert check == zlib.crc32(kind + body)
        chunks.append((kind, body))
        position += 12 + length
    assert position == len(content)
    return chunks


def png_samples(content: bytes) -> np.ndarray:
    """Samples of a 16-bit PNG: H x W x 3 or 4."""
    chunks = chunks_of(content)
    width, height, depth, color, compression, method, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (chunks[0][0], depth, compression, method, interlace) == (b"IHDR", 16, 0, 0, 0)
    assert chunks[-1] == (b"IEND", b"")
    channels = {2: 3, 6: 4}[color]
    data = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    rows = np.frombuffer(data, np.uint8).reshape(height, 1 + 2 * channels * width)
    above = np.zeros((width, 2 * channels), np.uint8)
    pixels = []
    for row in rows:
        filtered = row[1:].reshape(width, -1)
        if row[0] == 1:  # sub
            above = np.cumsum(filtered, 0, dtype=np.uint8)
        else:  # up
            assert row[0] == 2
            above = above + filtered
        pixels.append(above)
    return np.stack(pixels).reshape(height, -1).view(">u2").reshape(height, width, channels)


def tiff_samples(content: bytes) -> np.ndarray:
    """Samples of a little-endian TIFF of deflated strips and horizontal differences: H x W x 3 or 4."""
    tags = tags_of(content)
    assert (tags[259], tags[262], tags[284], tags[317]) == (8, 2, 1, 2)
    width, height, channels, rows = tags[256], tags[257], tags[277], tags[278]
    bits = tags[258][0]
    assert tags[258] == (bits,) * channels
    assert tags.get(338, ()) == ((2,) if channels == 4 else ())
    strips = []
    for offset, size in zip(tags[273], tags[279], strict=True):
        data = zlib.decompress(content[offset : offset + size])
        differences = np.frombuffer(data, f"<u{bits // 8}").reshape(-1, width, channels)
        strips.append(np.cumsum(differences, 1, dtype=differences.dtype))
    assert {len(strip) for strip in strips[:-1]} <= {rows}
    assert len(strips[-1]) <= rows
    samples = np.concatenate(strips)
    assert len(samples) == height
    return samples


def tags_of(content: bytes) -> dict[int, Any]:
    return dict(TiffImagePlugin.TiffImageFile(io.BytesIO(content)).tag_v2)


SAMPLES = {"PNG": png_samples, "TIFF": tiff_samples}
sides = st.integers(1, 40)


@pytest.mark.parametrize("format_", SAMPLES)
@settings(max_examples=60, deadline=None)
@given(luma=hnp.arrays(np.uint16, st.tuples(sides, sides)), seed=st.integers(0, 2**32 - 1))
def test_luma_is_kept_within_half_a_sixteen_bit_level(format_: str, luma: np.ndarray, seed: int) -> None:
    samples = SAMPLES[format_](written(photo_of(luma), format_, seed))
    assert samples.dtype.itemsize == 2
    # Rounding of R, G and B: half a level; float32 at 65,535: a hundredth.
    assert np.abs(samples @ np.array(LUMA_REC601) - luma).max() <= 0.52


@pytest.mark.parametrize("format_", SAMPLES)
def test_sixteen_bits_are_the_eight_bits_and_more(format_: str) -> None:
    luma = np.asarray(Image.fromarray(gray16(5, 7)).resize((70, 50), Image.Resampling.BILINEAR))
    photo = photo_of(luma)
    answer = model_input(photo, 16, 16), RNG.random((3, 16, 16), np.float32)
    content, _ = write_photo(photo, *answer, format_)
    samples = SAMPLES[format_](bytes(content))
    eight, _ = write_photo(photo, *answer, "BMP")
    assert np.abs(samples / 257 - np.asarray(Image.open(io.BytesIO(eight)))).max() <= 0.51
    assert len(np.unique(samples % 257)) == 257  # the low bits are in use
    assert np.ptp(samples, axis=-1).max() > 5000  # and so is colour


@pytest.mark.parametrize("format_", SAMPLES)
def test_strongest_colours_do_not_wrap_around(format_: str) -> None:
    luma = np.repeat(np.array([[0, 1, 32_768, 65_534, 65_535]], np.uint16), 4, 0)
    for seed in range(1, 40, 2):  # colours of 0 and 1 only
        samples = SAMPLES[format_](written(photo_of(luma), format_, seed)).astype(int)
        assert np.abs(samples[:, :2]).max() <= 10
        assert samples[:, 3:].min() >= 65_525


@pytest.mark.parametrize("format_", SAMPLES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (7, 3), (3, 7), (301, 444)])
@pytest.mark.parametrize("alpha", [False, True])
def test_pillow_opens_it_with_the_right_pixels(format_: str, shape: tuple[int, int], alpha: bool) -> None:
    mask = Image.fromarray(RNG.integers(0, 256, shape, np.uint8)) if alpha else None
    content = written(photo_of(gray16(*shape), alpha=mask), format_)
    samples = SAMPLES[format_](content)
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.mode, image.size) == (format_, "RGBA" if alpha else "RGB", shape[::-1])
        assert np.array_equal(np.asarray(image), samples >> 8)  # Pillow reads the upper halves
    if mask is not None:
        assert np.array_equal(samples[..., 3], np.asarray(mask).astype(np.uint16) * 257)


@pytest.mark.parametrize("format_", SAMPLES)
@pytest.mark.parametrize("rows", [1, 5, 7, 100])
def test_bands_leave_no_seam(monkeypatch: pytest.MonkeyPatch, format_: str, rows: int) -> None:
    photo = photo_of(gray16(35, 20))
    whole = SAMPLES[format_](written(photo, format_)).astype(int)
    monkeypatch.setattr(bands, "BAND_PIXELS", 20 * rows)
    content = written(photo, format_)
    assert np.abs(SAMPLES[format_](content) - whole).max() <= 1
    if format_ == "TIFF":
        assert len(tags_of(content)[273]) == -(-35 // rows)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_photo_of_sixteen_bits_from_file_to_file(suffix: str) -> None:
    luma = gray16(40, 60)
    file = io.BytesIO()
    Image.fromarray(luma).save(file, "PNG" if suffix == "png" else "TIFF")
    photo = decode(file.getvalue(), f"a.{suffix}")
    assert photo.notes == ()
    content = written(photo, "PNG" if suffix == "png" else "TIFF")
    again = decode(content, f"a.{suffix}")
    assert again.notes == ()
    assert again.luma.dtype == np.uint16
    # Three channels that were each rounded, and luma that is; in wider integers, or differences would wrap.
    assert np.abs(again.luma.astype(int) - luma).max() <= 1


def test_png_has_its_chunks_in_order_and_once() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    kept = {"exif": exif.tobytes(), "icc_profile": b"profile", "dpi": (300.0, 72.0), "xmp": b"<x/>"}
    chunks = chunks_of(written(photo_of(gray16(9, 9), **kept), "PNG"))
    kinds = [kind for kind, _ in chunks if kind != b"IDAT"]
    assert kinds == [b"IHDR", b"iCCP", b"pHYs", b"iTXt", b"eXIf", b"IEND"]
    assert {kind for kind, _ in chunks[5:-1]} == {b"IDAT"}
    bodies = dict(chunks)
    assert bodies[b"pHYs"] == struct.pack(">IIB", 11_811, 2835, 1)  # pixels a metre
    assert bodies[b"eXIf"] == exif.tobytes().removeprefix(b"Exif\0\0")
    assert zlib.decompress(bodies[b"iCCP"].split(b"\0", 2)[2]) == b"profile"
    assert bodies[b"iTXt"].split(b"\0")[0::5] == [b"XML:com.adobe.xmp", b"<x/>"]


def test_png_rows_are_filtered_by_what_suits_them() -> None:
    noise = RNG.integers(0, 256, 600, np.uint8)
    flat, repeated = np.full(600, 200, np.uint8), noise
    rows = np.stack([noise, repeated, flat, flat])
    filtered = png_tiff_writers._filtered(rows, np.zeros(600, np.uint8), 6)
    assert filtered[1:, 0].tolist() == [png_tiff_writers.PNG_UP, png_tiff_writers.PNG_SUB, png_tiff_writers.PNG_UP]
    assert not filtered[1, 1:].any()
    assert not filtered[2, 7:].any()


def test_resolution_of_a_tiff_is_that_of_its_exif() -> None:
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 118.0, 118.0, 3  # centimetres
    content = written(photo_of(gray16(3, 3), exif=exif.tobytes(), dpi=(299.72, 299.72)), "TIFF")
    assert (tags_of(content)[282], tags_of(content)[296]) == (118, 3)
    content = written(photo_of(gray16(3, 3), dpi=(300.0, 150.0)), "TIFF")
    assert Image.open(io.BytesIO(content)).info["dpi"] == (300, 150)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_long_metadata_of_a_tiff_does_not_move_its_strips(dtype: type) -> None:
    """One strip and several, whose offsets are beyond what 16 bits hold."""
    for height, width in ((4, 4), (400, 400)):
        luma = RNG.integers(0, np.iinfo(dtype).max, (height, width), dtype)
        bare, laden = photo_of(luma), photo_of(luma, xmp=bytes(70_001), icc_profile=bytes(30_001))
        assert np.array_equal(tiff_samples(written(bare, "TIFF")), tiff_samples(written(laden, "TIFF")))


@pytest.mark.parametrize("format_", SAMPLES)
def test_differences_make_files_smaller(format_: str) -> None:
    luma = np.asarray(Image.fromarray(gray16(9, 9)).resize((300, 300), Image.Resampling.BICUBIC))
    photo, answer = photo_of(luma), RNG.random((3, 16, 16), np.float32)
    content, _ = write_photo(photo, answer[:1], answer, format_)
    plain = zlib.compress(SAMPLES[format_](bytes(content)).tobytes(), png_tiff_writers.COMPRESSION_LEVEL)
    assert len(content) < 0.9 * len(plain)
