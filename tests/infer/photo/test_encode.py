"""A photo out: what of its source each format is given, and what is said of the rest."""

import dataclasses
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import TiffImageFile

from infer.photo import encode as render
from infer.photo.decode import Photo, PhotoError, decode
from infer.photo.encode import write_photo

RNG = np.random.default_rng(0)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">caf\xc3\xa9</x:xmpmeta>'
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF"]


def exif_block(**strings: str) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = strings.get("maker", "maker")
    exif.get_ifd(0x8769)[0x9003] = "2001:02:03 04:05:06"
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes()


def photo_of(luma: np.ndarray, **kept: Any) -> Photo:
    empty = Photo(luma=luma, alpha=None, exif=None, icc_profile=None, dpi=None, notes=())
    return dataclasses.replace(empty, **kept)


def gray(height: int = 24, width: int = 31, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, (height, width), dtype, endpoint=True)


def written(photo: Photo, format_: str, **options: Any) -> tuple[Image.Image, tuple[str, ...]]:
    """The output photo, opened, and the notes on it; its colours are those of a random answer."""
    answer = np.random.default_rng(1)
    seen, rgb = answer.random((1, 16, 16), np.float32), answer.random((3, 16, 16), np.float32)
    content, notes = write_photo(photo, seen, rgb, format_, **options)
    image = Image.open(io.BytesIO(content))
    image.load()
    return image, notes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("format_", FORMATS)
def test_metadata_is_kept(format_: str, dtype: type) -> None:
    photo = photo_of(gray(dtype=dtype), exif=exif_block(), icc_profile=PROFILE, dpi=(300.0, 150.0), xmp=XMP)
    found, notes = written(photo, format_)
    assert [note for note in notes if "8 bits" not in note] == []
    assert found.info["icc_profile"] == PROFILE
    assert found.info["xmp"] == XMP
    exif = found.getexif()
    assert exif[0x010F] == "maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2001:02:03 04:05:06"
    assert exif.get_ifd(0x8825)[1] == "N"
    resolution = (exif[282], exif[283]) if format_ == "WEBP" else found.info["dpi"]
    assert np.allclose([float(d) for d in resolution], (300, 150), atol=0.1)


@pytest.mark.parametrize("format_", FORMATS)
def test_metadata_survive_a_whole_round(tmp_path: Path, format_: str) -> None:
    """An output reads as its source does."""
    photo = photo_of(gray(), exif=exif_block(), icc_profile=PROFILE, xmp=XMP, dpi=(300.0, 300.0))
    for _ in range(2):
        content, _ = write_photo(photo, np.zeros((1, 4, 4), np.float32), np.zeros((3, 4, 4), np.float32), format_)
        photo = decode(bytes(content), f"a.{format_.lower()}")
        assert photo.icc_profile == PROFILE
        assert photo.xmp == XMP
        tags = Image.Exif()
        tags.load(photo.exif or b"")
        assert tags[0x010F] == "maker"
        assert tags.get_ifd(0x8769)[0x9003] == "2001:02:03 04:05:06"


def test_bmp_says_what_it_leaves_out() -> None:
    alpha = Image.new("L", (31, 24), 7)
    kept = {"exif": exif_block(), "icc_profile": PROFILE, "xmp": XMP, "iptc": b"caption", "comments": (b"note",)}
    photo = photo_of(gray(), **kept, dpi=(300.0, 300.0), alpha=alpha)
    found, notes = written(photo, "BMP")
    kinds = ("EXIF", "ICC profile", "XMP", "IPTC captions", "comment", "transparency")
    expected = {f"{what} left out: BMP cannot hold it" for what in kinds}
    assert set(notes) == expected
    assert np.allclose([float(d) for d in found.info["dpi"]], 300, atol=0.1)


@pytest.mark.parametrize(
    ("field", "content", "what"),
    [
        ("exif", exif_block(maker="x" * 65_536), "EXIF"),
        ("icc_profile", PROFILE[:16] + b"RGB " + bytes(render.JPEG_LIMITS["icc_profile"]), "ICC profile"),
    ],
)
def test_what_is_too_large_for_jpeg_is_left_out_and_said(field: str, content: bytes, what: str) -> None:
    photo = photo_of(gray(), **{field: content})
    found, notes = written(photo, "JPEG")
    assert notes == (f"{what} left out: {len(content)} bytes, JPEG holds {render.JPEG_LIMITS[field]}",)
    assert field not in found.info
    assert written(photo, "TIFF")[1] == ()
    fitting = {"exif": exif_block(maker="x" * 65_000), "icc_profile": content[:-128]}
    found, notes = written(photo_of(gray(), **{field: fitting[field]}), "JPEG")
    assert notes == ()
    assert len(found.info[field]) == len(fitting[field])


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "BMP"])
def test_sixteen_bits_become_eight_with_a_note(format_: str) -> None:
    found, notes = written(photo_of(gray(dtype=np.uint16)), format_)
    assert notes == (f"written with 8 bits a channel: {format_} cannot hold 16",)
    assert found.mode == "RGB"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("format_", "held"), [("PNG", True), ("TIFF", True), ("WEBP", True), ("JPEG", False)])
def test_alpha_where_the_format_holds_it(format_: str, held: bool, dtype: type) -> None:
    alpha = gray(6, 5)
    found, notes = written(photo_of(gray(6, 5, dtype), alpha=Image.fromarray(alpha)), format_)
    assert ("A" in found.getbands()) == held
    assert ("transparency left out: JPEG cannot hold it" in notes) != held
    if held:
        assert np.array_equal(np.asarray(found.getchannel("A")), alpha)


def test_alpha_that_hides_nothing_costs_no_note() -> None:
    photo = photo_of(gray(), alpha=Image.new("L", (31, 24), 255))
    assert written(photo, "JPEG")[1] == ()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("format_", [*FORMATS, "BMP"])
def test_raw_is_the_networks_own_answer(format_: str, dtype: type) -> None:
    rgb = RNG.random((3, 20, 16), np.float32)
    photo = photo_of(gray(dtype=dtype), exif=exif_block(), alpha=Image.new("L", (31, 24), 9))
    content, notes = write_photo(photo, rgb[:1], rgb, format_, raw=True, quality=100)
    assert [note for note in notes if "8 bits" in note] == []
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (16, 20)
        if format_ in {"PNG", "TIFF"}:
            assert np.array_equal(np.asarray(image.convert("RGB")), (rgb.transpose(1, 2, 0) * 255).round())
            assert image.getchannel("A").getextrema() == (9, 9)
            assert image.getexif()[0x010F] == "maker"


MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
from infer.photo.decode import decode, model_input
from infer.photo.encode import write_photo

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

answer = np.full((3, 64, 64), 0.5, np.float32)
write_photo(decode(Path(sys.argv[1])), answer[:1], answer, sys.argv[3])
before = peak()
photo = decode(Path(sys.argv[2]))
write_photo(photo, model_input(photo, 64, 64), answer, sys.argv[3])
print((peak() - before) / photo.luma.size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("format_", "limit"), [("JPEG", 8.5), ("PNG", 6.5), ("TIFF", 5.5)])
@pytest.mark.slow
def test_memory_in_bytes_a_pixel(tmp_path: Path, format_: str, limit: float) -> None:
    for name, side in (("small.jpg", 8), ("large.jpg", 4000)):
        Image.new("L", (side, side), 99).save(tmp_path / name)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "small.jpg"), str(tmp_path / "large.jpg"), format_]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < limit


def test_quality_changes_the_size_of_jpeg_and_webp() -> None:
    photo, rgb = photo_of(gray(64, 64)), RNG.random((3, 16, 16), np.float32)
    for format_, changes in (("JPEG", True), ("WEBP", True), ("PNG", False)):
        low, high = (len(write_photo(photo, rgb[:1], rgb, format_, quality=q)[0]) for q in (30, 95))
        assert (low < high) == changes


@pytest.mark.parametrize(("format_", "side"), [("JPEG", 65_500), ("WEBP", 16_383)])
def test_sides_that_a_format_does_not_hold(format_: str, side: int) -> None:
    assert written(photo_of(gray(1, side)), format_)[0].size == (side, 1)
    with pytest.raises(PhotoError, match=rf"{side + 1} x 1 pixels, {format_} holds {side} a side; use --format png"):
        written(photo_of(gray(1, side + 1)), format_)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
def test_damaged_exif_costs_the_exif_and_not_the_photo() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif.get_ifd(0x8769)[0x9003] = "2001:02:03 04:05:06"
    file = io.BytesIO()
    Image.fromarray(gray()).save(file, "JPEG", exif=exif)
    content = file.getvalue()
    start = content.index(b"Exif")
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(start + 6, start + len(exif.tobytes()), 3):
            damaged[position] = rng.integers(256)
        photo = decode(bytes(damaged), "a.jpg")
        for format_ in ("JPEG", "PNG", "TIFF"):
            found, notes = written(photo, format_)
            assert found.size == photo.size[::-1]
            outcomes.add((photo.exif is not None, format_, bool(notes)))
    assert {(True, "TIFF", False), (False, "TIFF", False)} <= outcomes


def test_layout_tags_of_an_exif_block_do_not_lay_out_a_tiff() -> None:
    exif = Image.Exif()
    for tag, value in {256: 1, 257: 1, 259: 7, 277: 1, 322: 16, 323: 16, 0x010E: "a view"}.items():
        exif[tag] = value
    found, notes = written(photo_of(gray(), exif=exif.tobytes()), "TIFF")
    assert notes == ("EXIF tags left out: TileWidth, TileLength, which would describe the pixels of the TIFF",)
    assert found.size == (31, 24)
    assert isinstance(found, TiffImageFile) and 322 not in found.tag_v2
    assert found.getexif()[0x010E] == "a view"
