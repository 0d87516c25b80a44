"""Limits on the memory and time of one photo, for training and folder runs alike."""

import io
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from cgan import photo_limits
from cgan.completeness import load
from cgan.data.resize import resized_rgb
from cgan.jpeg_scans import MAX_SCANS, layout_of
from cgan.photo_limits import (
    LimitError,
    check_exif,
    check_file_size,
    check_tile,
    check_time,
    metadata_of,
    opened,
    time_limit,
)

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8))


def content_of(format_: str, image: Image.Image = NOISE, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def thin_png(width: int, height: int) -> bytes:
    """A black PNG whose sides can be as long as the format allows, without its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def refusal(content: bytes, **options: int) -> str:
    with pytest.raises(LimitError) as caught, opened(content, FORMATS, **options):
        pass
    return str(caught.value)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("from_file", [True, False])
def test_photos_within_the_limits_are_as_pillow_reads_them(tmp_path: Path, format_: str, from_file: bool) -> None:
    content = content_of(format_)
    path = tmp_path / "photo"
    path.write_bytes(content)
    with opened(path if from_file else content, FORMATS) as image, Image.open(io.BytesIO(content)) as expected:
        load(image)
        assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize(("width", "height"), [(50_000_000, 1), (1, 2**28 - 1), (65_501, 2)])
def test_a_side_is_limited_before_its_rows_are_allocated(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert refusal(thin_png(width, height)) == f"{width} x {height} pixels, the limit is 65500 a side"


def test_the_largest_side_is_taken() -> None:
    with opened(thin_png(65_500, 2), FORMATS) as image:
        assert image.size == (65_500, 2)


def test_pixels_are_limited() -> None:
    assert refusal(content_of("PNG"), max_pixels=48 * 64 - 1) == "64 x 48 pixels, the limit is 3071"


def test_a_comment_is_limited_by_its_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_limits, "MAX_HEADER_READS", 200)
    within, beyond = (b"P5\n#" + b"x" * length + b"\n2 2 255\n\0\0\0\0" for length in (100, 300))
    with opened(within, FORMATS) as image:
        assert image.size == (2, 2)
    assert refusal(beyond) == "more than 200 parts before its pixels, the limit of a header"


def test_chunks_before_the_pixels_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_limits, "MAX_HEADER_READS", 200)
    content = content_of("PNG")
    assert "200 parts" in refusal(content[:33] + 200 * chunk(b"prVt", b"") + content[33:])


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_metadata_are_counted_and_limited(monkeypatch: pytest.MonkeyPatch, format_: str) -> None:
    content = content_of(format_, NOISE.convert("RGB"), icc_profile=bytes(20_000))
    with opened(content, FORMATS) as image:
        assert 20_000 <= metadata_of(image) < 22_000
    monkeypatch.setattr(photo_limits, "MAX_METADATA", 15_000)
    assert "15000" in refusal(content)


def test_compressed_metadata_are_counted_as_they_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_limits, "MAX_METADATA", 15_000)
    text = PngInfo()
    text.add_text("Comment", "x" * 20_000, zip=True)
    content = content_of("PNG", pnginfo=text)
    assert len(content) < 10_000
    assert "bytes of metadata, the limit is 15000" in refusal(content)


def test_a_file_is_limited_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_limits, "MAX_METADATA", 1000)
    check_file_size(8 * 100 + 1000, max_pixels=100)
    path = tmp_path / "sparse.png"
    path.write_bytes(content_of("PNG"))
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(LimitError, match=f"{2**40} bytes, the limit is {8 * 2**28 + 1000}"), opened(path, FORMATS):
        pass


def directory(place: int, entries: list[tuple[int, int, int]], values: bytes = b"", next_to: int = 0) -> bytes:
    """A directory at `place`; tag, type and count of each entry, whose values or one number are `values` behind it."""
    behind = place + 2 + 12 * len(entries) + 4
    body = b"".join(struct.pack("<HHII", tag, kind, count, next_to or behind) for tag, kind, count in entries)
    return struct.pack("<H", len(entries)) + body + bytes(4) + values


RATIONAL, LONG, UNDEFINED = 5, 4, 7


@pytest.mark.parametrize(("kind", "size", "count"), [(RATIONAL, 8, 600_000), (LONG, 4, 1_200_000)])
@pytest.mark.parametrize("below", [None, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo])
def test_numbers_in_exif_are_limited_before_they_are_read(kind: int, size: int, count: int, below: int | None) -> None:
    def exif_of(count: int, kind: int) -> Image.Exif:
        values = directory(26 if below else 8, [(50_000, kind, count)], bytes(size * count))
        exif = Image.Exif()
        exif.load(b"II*\0\x08\0\0\0" + (directory(8, [(below, LONG, 1)], next_to=26) if below else b"") + values)
        return exif

    with pytest.raises(LimitError, match=rf"^{size * count} bytes of numbers in its metadata, the limit is 4194304$"):
        check_exif(exif_of(count, kind))
    check_exif(exif_of(1000, kind))
    check_exif(exif_of(count, UNDEFINED))


def test_training_reads_no_exif_beyond_the_limit() -> None:
    entries = struct.pack("<HHHIHHHHI", 2, 274, 3, 1, 6, 0, 50_000, RATIONAL, 600_000) + struct.pack("<II", 38, 0)
    exif = chunk(b"eXIf", b"II*\0\x08\0\0\0" + entries + bytes(600_000 * 8))
    content = content_of("PNG")
    with (
        opened(content[:33] + exif + content[33:], FORMATS) as image,
        pytest.raises(LimitError, match=r"^4800000 bytes of numbers in its metadata, the limit is 4194304$"),
    ):
        resized_rgb(image, 32, 32)


@pytest.mark.slow
def test_numbers_in_a_tiff_are_limited_before_they_are_read() -> None:
    content = content_of("TIFF", tiffinfo={50_000: tuple(range(1_100_000))})
    assert refusal(content).endswith(" bytes of numbers in its metadata, the limit is 4194304")


def test_tiles_far_larger_than_their_picture_are_refused() -> None:
    check_tile((4096, 4096), (1, 1))
    check_tile((20_000, 10_000), (19_990, 9_990))
    values = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: 16_384, 323: 16_384, 324: 8, 325: 1}
    entries = b"".join(struct.pack("<HHII", tag, LONG, 1, value) for tag, value in values.items())
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", len(values)) + entries + bytes(4)
    reason = r"^tiles of 16384 x 16384 pixels, the limit is 16777216$"
    with opened(content, FORMATS) as image, pytest.raises(LimitError, match=reason):
        load(image)


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan header is repeated until there are so many scans."""
    content = content_of("JPEG", progressive=True)
    found = len(layout_of(content).scans)
    last = content[content.rindex(b"\xff\xda") :][:10]
    return content[:-2] + (count - found) * last + content[-2:]


def test_scans_are_limited() -> None:
    assert len(layout_of(with_scans(MAX_SCANS)).scans) == MAX_SCANS
    with pytest.raises(LimitError, match=f"more than {MAX_SCANS} scans"):
        layout_of(with_scans(MAX_SCANS + 1))
    with opened(with_scans(MAX_SCANS + 1), FORMATS) as image, pytest.raises(LimitError):
        load(image)


def test_a_run_of_fill_bytes_is_passed_over_once() -> None:
    content = content_of("JPEG")
    end = layout_of(content).scans[0].end
    many = content[:end] + b"\xff" * 2**18  # a search that tries all lengths takes minutes
    assert layout_of(many + b"\x00").scans[0].end >= end
    assert layout_of(many + content[end:]).scans[0].end == end


def test_restart_markers_are_kept_for_the_units_that_there_are() -> None:
    content = content_of("JPEG", restart_marker_blocks=1)
    scan = layout_of(content).scans[0]
    assert len(scan.restarts) == 6 * 8 - 1
    assert len(layout_of(content[: scan.end] + b"\xff\xd0" * 10_000 + b"\xff\xd9").scans[0].restarts) == 6 * 8


def test_time_is_limited_and_counts_what_was_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    check_time()
    with time_limit(10, spent=4):
        now += 6
        check_time()
        now += 1
        with pytest.raises(LimitError, match="not done after 10 s"):
            check_time()
        other = threading.Thread(target=check_time)  # of another photo
        other.start()
        other.join()
    check_time()
    with time_limit(0):
        now += 1e9
        check_time()


def slow_scans() -> bytes:
    return with_scans(20)


@pytest.mark.parametrize(
    "make", [lambda: content_of("PNG"), lambda: content_of("GIF"), slow_scans, lambda: content_of("TIFF")]
)
def test_decoding_looks_at_the_time(monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes]) -> None:
    content = make()
    with opened(content, FORMATS) as image:
        ticks = iter(range(10**6))
        monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
        with time_limit(0.5), pytest.raises(LimitError, match="not done after"):
            load(image)


def test_parts_of_exif_are_limited(tmp_path: Path) -> None:
    plain = content_of("JPEG", Image.new("L", (8, 8)))
    part = b"\xff\xe1" + (2 + 6 + 20).to_bytes(2) + b"Exif\0\0" + bytes(20)
    path = tmp_path / "a.jpg"
    path.write_bytes(plain[:2] + part * 64 + plain[2:])
    with photo_limits.opened(path, ("JPEG",)):
        pass
    path.write_bytes(plain[:2] + part * 65 + plain[2:])
    with pytest.raises(LimitError, match="more than 64 parts of EXIF"), photo_limits.opened(path, ("JPEG",)):
        pass
