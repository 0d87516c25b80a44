"""A photo in: its luma, and what the network sees of it."""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infer.commands.coloring_options import FORMAT_CHOICES
from infer.photo import decode as images
from infer.photo.decode import Photo, PhotoError, decode, header_of, model_input, render_size_for
from infer.photo.formats import WRITE_FORMATS
from tests.infer.pictures import chunk, content_of, png_of, saved

RNG = np.random.default_rng(0)


def photo_of(luma: np.ndarray) -> Photo:
    return Photo(luma=luma, alpha=None, exif=None, icc_profile=None, dpi=None, notes=())


def gray_u8(height: int = 24, width: int = 31) -> np.ndarray:
    return RNG.integers(0, 256, (height, width), np.uint8)


def smooth_rgb(height: int = 64, width: int = 96, low: int = 0, high: int = 256) -> Image.Image:
    image = Image.fromarray(RNG.integers(low, high, (height // 8, width // 8, 3), np.uint8))
    return image.resize((width, height), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".pgm", ".gif"])
def test_gray_of_lossless_formats_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    gray = gray_u8()
    path = saved(tmp_path, f"a{suffix}", Image.fromarray(gray))
    assert np.array_equal(decode(path).luma, gray)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P", "YCbCr", "HSV"])
def test_colour_photos_give_pillows_luma(tmp_path: Path, mode: str) -> None:
    """Within a level, by which Pillow's conversion of YCbCr differs from libtiff's."""
    image = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)).convert(mode)
    if mode == "HSV":
        image = image.convert("RGB")
    path = saved(tmp_path, "a.tif" if mode != "P" else "a.png", image)
    expected = np.asarray(Image.open(path).convert("RGB").convert("L")).astype(int)
    assert np.abs(decode(path).luma - expected).max() <= (mode in ("YCbCr", "CMYK"))


def test_progressive_jpeg(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jpg", Image.fromarray(gray_u8()), progressive=True, quality=90)
    assert np.array_equal(decode(path).luma, np.asarray(Image.open(path)))


def test_one_bit(tmp_path: Path) -> None:
    bits = Image.fromarray(gray_u8() > 128)
    path = saved(tmp_path, "a.png", bits)
    assert np.array_equal(decode(path).luma, np.asarray(bits.convert("L")))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_not_cut(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 24 * 31).round().astype(np.uint16).reshape(24, 31)
    photo = decode(saved(tmp_path, f"a{suffix}", Image.fromarray(values)))
    assert photo.luma.dtype == np.uint16
    assert np.array_equal(photo.luma, values)
    assert photo.notes == ()


def test_float_tiff_in_its_natural_range(tmp_path: Path) -> None:
    values = np.linspace(0.25, 0.75, 100, dtype=np.float32).reshape(10, 10)
    photo = decode(saved(tmp_path, "a.tif", Image.fromarray(values)))
    assert np.allclose(photo.luma / 65535, values, atol=1e-5)


def test_float_tiff_out_of_range_is_stretched_and_said(tmp_path: Path) -> None:
    values = np.linspace(-3, 7, 100, dtype=np.float32).reshape(10, 10)
    photo = decode(saved(tmp_path, "a.tif", Image.fromarray(values)))
    assert (photo.luma.min(), photo.luma.max()) == (0, 65535)
    assert any("stretched" in note for note in photo.notes)


def test_float_tiff_with_nan_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.tif", Image.fromarray(np.full((4, 4), np.nan, np.float32)))
    with pytest.raises(PhotoError, match="not finite"):
        decode(path)


def wide_tiff(path: Path, values: np.ndarray, bits: int, photometric: int = 1, packed: bytes | None = None) -> Path:
    """A TIFF that Pillow does not write itself: `bits` a sample, white as 0 where photometric is 0."""
    data = packed or values.astype(f"<u{bits // 8}").tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + bytes(4)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory)
    return path


def test_tiff_whose_white_is_zero(tmp_path: Path) -> None:
    values = (np.arange(48).reshape(6, 8) * 1000).astype(np.uint16)
    photo = decode(wide_tiff(tmp_path / "a.tif", values, 16, photometric=0))
    assert np.array_equal(photo.luma, 65535 - values)


def test_twelve_bits_fill_the_range(tmp_path: Path) -> None:
    values = np.array([[0, 4095, 2048, 1024]])
    packed = bytes.fromhex("000fff800400")
    photo = decode(wide_tiff(tmp_path / "a.tif", values, 12, packed=packed))
    assert np.allclose(photo.luma / 65535, values / 4095, atol=1e-4)


@pytest.mark.parametrize("unit, is_stretched", [(1, False), (2**16, True), (2**29, False)])
def test_thirty_two_unsigned_bits_keep_their_order(unit: int, is_stretched: bool, tmp_path: Path) -> None:
    """Values of 16 bits and those that fill the range are as light as they say; others are in an unknown unit."""
    values = unit * np.array([[1, 3, 5, 7]], np.uint32)
    photo = decode(wide_tiff(tmp_path / "a.tif", values, 32))
    low, high = (unit, 7 * unit) if is_stretched else (0, 65_535 if unit == 1 else 2**32 - 1)
    assert np.allclose(photo.luma / 65535, (values - low) / (high - low), atol=1e-4)
    assert any("stretched" in note for note in photo.notes) == is_stretched


def test_pixel_limit_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, "a.png", Image.new("1", (3000, 3000)))
    monkeypatch.setattr(images, "_decode", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(PhotoError, match=r"3000 x 3000 pixels, the limit is 1000000; raise --max-pixels"):
        decode(path, max_pixels=1_000_000)


# luma of JPEGs


def luma_from_rgb(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB").convert("L")).astype(int)


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_luma_of_a_jpeg_is_that_of_its_colours(subsampling: int, progressive: bool) -> None:
    image = smooth_rgb(low=64, high=192)  # in gamut: where RGB would be clipped, luma from it is further off
    content = content_of(image, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    luma = decode(content, "a.jpg").luma
    assert luma.shape == (64, 96)
    assert np.abs(luma - luma_from_rgb(content)).max() <= 1


def test_luma_of_a_jpeg_is_its_first_component() -> None:
    """Whatever the colours: at quality 100 what was written as Y comes back, also where RGB would be clipped."""
    luma, noise = np.asarray(smooth_rgb().convert("L")), smooth_rgb()
    planes = [Image.fromarray(luma), noise.getchannel(0), noise.getchannel(1)]
    content = content_of(Image.merge("YCbCr", planes), "JPEG", quality=100, subsampling=0)
    assert np.abs(decode(content, "a.jpg").luma.astype(int) - luma).max() <= 1
    assert np.abs(luma_from_rgb(content) - luma).max() > 10


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_jpegs_without_luma_give_that_of_their_colours(mode: str) -> None:
    """RGB and CMYK as Adobe stores them: luma is no component of theirs."""
    content = content_of(smooth_rgb().convert(mode), "JPEG", quality=95, keep_rgb=True)
    with Image.open(io.BytesIO(content)) as image:
        assert image.info.get("adobe_transform", 0) == 0
    assert np.abs(decode(content, "a.jpg").luma - luma_from_rgb(content)).max() <= 1


def test_large_jpeg_keeps_its_size(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jpg", Image.new("RGB", (2311, 1999), "red"))
    photo = decode(path)
    assert photo.size == (1999, 2311)
    assert np.abs(photo.luma.astype(int) - 76).max() <= 1


# depth


def test_eight_bits_are_no_reason_for_a_note(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.ppm", "a.jpg", "a.bmp", "a.webp", "a.gif"):
        assert decode(saved(tmp_path, name, smooth_rgb())).notes == (), name


# sources


def test_content_is_as_good_as_a_file(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(gray_u8()))
    assert np.array_equal(decode(path.read_bytes(), "far/away/a.png").luma, decode(path).luma)
    assert header_of(path) == header_of(path.read_bytes(), "a.png")
    assert np.array_equal(decode(path.read_bytes()).luma, decode(path).luma)
    assert header_of(path.read_bytes()).pixels == 24 * 31
    with pytest.raises(PhotoError, match="not an image"):
        decode(b"no photo")


@pytest.mark.parametrize("call", [decode, header_of])
def test_hostile_files_give_a_reason(tmp_path: Path, call: object) -> None:
    good = content_of(Image.fromarray(gray_u8(64, 64)), "JPEG")
    cases = {
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"hello, not a photo", "not an image, or of a format that is not known; expected JPEG"),
        "other.png": (good, "its content is JPEG but its name says PNG"),
        "notes.txt": (good, r"ends in '.txt', expected one of .bmp, "),
        "none": (good, "ends in ''"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        for source in (tmp_path / name, content):
            with pytest.raises(PhotoError, match=reason):
                call(source, name)  # type: ignore[operator]
    with pytest.raises(FileNotFoundError):
        call(tmp_path / "gone.jpg")  # type: ignore[operator]


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_truncated_content_is_refused_and_costs_no_other_exception(format_: str) -> None:
    content = content_of(smooth_rgb(), format_)
    name = f"a.{format_.lower()}"
    reasons = set()
    for length in range(0, len(content) - len(content) // 3, max(1, len(content) // 60)):
        with pytest.raises(PhotoError) as refusal:
            decode(content[:length], name)
        reasons.add(str(refusal.value))
    assert "the file is empty" in reasons


@pytest.mark.parametrize(
    ("before_data", "reason"),
    [
        (chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))), "a text of more than 1048576 bytes in its metadata"),
        (65 * chunk(b"tEXt", b"a\0" + bytes(2**20)), "bytes of texts in its metadata|of metadata"),
        (chunk(b"IHDR", b"short"), "^damaged: Truncated IHDR chunk$"),
    ],
)
def test_reasons_are_not_those_of_a_library(before_data: bytes, reason: str) -> None:
    with pytest.raises(PhotoError, match=reason):
        decode(png_of(gray_u8()[..., None], 0, before_data), "a.png")


def test_header_is_read_quickly(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jpg", Image.fromarray(gray_u8(2000, 2000)))
    seconds = []
    for call in (header_of, decode) * 5:
        started = time.perf_counter()
        call(path)
        seconds.append(time.perf_counter() - started)
    assert min(seconds[::2]) < min(seconds[1::2]) / 10


# the size that a model sees


def test_render_sizes() -> None:
    assert render_size_for((3000, 4000), 512, 8) == (384, 512)
    assert render_size_for((4000, 3000), 512, 8) == (512, 384)
    assert render_size_for((100, 100), 256, 32) == (256, 256)
    assert render_size_for((1, 10_000), 256, 32) == (32, 256)
    assert render_size_for((1, 1), 1, 32) == (32, 32)
    assert render_size_for((300, 200), 100, 16) == (96, 64)  # 100 x 66.7


@given(st.integers(1, 70_000), st.integers(1, 70_000), st.integers(1, 2048), st.sampled_from([1, 8, 16, 32]))
def test_render_size_keeps_proportions(height: int, width: int, longest: int, multiple: int) -> None:
    sides = render_size_for((height, width), longest, multiple)
    for side, own in zip(sides, (height, width), strict=True):
        assert side % multiple == 0
        assert side >= multiple
        assert abs(side - max(own * longest / max(height, width), multiple)) <= multiple / 2


# the network's input


def test_model_input_of_equal_size_is_the_luma(tmp_path: Path) -> None:
    gray = gray_u8(32, 32)
    assert np.array_equal(model_input(photo_of(gray), 32, 32)[0], gray.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(("size", "short_cut"), [((500, 300), True), ((255, 120), False)])
def test_model_input_of_large_photos_is_near_the_filter_over_all_pixels(size: tuple[int, int], short_cut: bool) -> None:
    photo = Image.fromarray(RNG.integers(0, 256, (24, 31), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    found = model_input(photo_of(np.asarray(photo)), 64, 64)[0] * 255
    exact = np.asarray(photo.resize((64, 64), Image.Resampling.BICUBIC), np.float32)
    assert np.sqrt(np.square(found - exact).mean()) <= (1 if short_cut else 1e-3)
    assert np.array_equal(found.round(), exact) != short_cut


def test_model_input_of_sixteen_bits_agrees_with_eight() -> None:
    gray = np.asarray(Image.fromarray(gray_u8(6, 8)).resize((80, 60), Image.Resampling.BILINEAR))
    eight = model_input(photo_of(gray), 32, 32)
    sixteen = model_input(photo_of(gray.astype(np.uint16) * 257), 32, 32)
    assert np.abs(eight - sixteen).max() <= 1.5 / 255  # Pillow rounds 8 bits in both directions of a resize
    assert 0 <= sixteen.min() <= sixteen.max() <= 1


def test_choices_of_the_command_are_the_formats() -> None:
    assert ("same", *WRITE_FORMATS) == FORMAT_CHOICES
