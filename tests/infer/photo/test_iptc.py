"""IPTC captions and comments: from file to file."""

import dataclasses
import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, IptcImagePlugin

from infer.photo import iptc
from infer.photo.decode import Photo, decode
from infer.photo.encode import write_photo

CAPTION = b"\x1c\x02\x78\x00\x0fA rose in winter"[:20] + b"\x1c\x02\x50\x00\x05Flora"
"""Two data sets of record 2: caption (120) and by-line (80)."""

GRAY = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
PLAIN = Photo(luma=np.asarray(GRAY), alpha=None, exif=None, icc_profile=None, dpi=None, notes=())


def colored(photo: Photo, format_: str) -> tuple[bytes, tuple[str, ...]]:
    content, notes = write_photo(photo, np.zeros((1, 4, 4), np.float32), np.zeros((3, 4, 4), np.float32), format_)
    return bytes(content), notes


def jpeg(**options: Any) -> bytes:
    buffer = io.BytesIO()
    GRAY.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("content", [CAPTION, CAPTION + b"\0"], ids=["odd", "even"])
def test_captions_go_from_file_to_file(format_: str, content: bytes) -> None:
    photo = decode(jpeg(extra=iptc.jpeg_segment(content)), "a.jpg")
    assert photo.iptc == content
    for _ in range(2):
        output, notes = colored(photo, format_)
        assert notes == ((iptc.PNG_NOTE,) if format_ == "PNG" else ())
        photo = decode(output, f"a.{format_.lower()}")
        assert photo.iptc == content


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_pillow_reads_the_captions(format_: str) -> None:
    output, _ = colored(dataclasses.replace(PLAIN, iptc=CAPTION), format_)
    found = IptcImagePlugin.getiptcinfo(Image.open(io.BytesIO(output)))
    assert found is not None
    assert found[2, 80] == b"Flora"


def test_captions_that_a_tiff_calls_numbers_are_read_as_bytes() -> None:
    content = CAPTION + bytes(-len(CAPTION) % 4)
    tiff, _ = colored(dataclasses.replace(PLAIN, iptc=content), "TIFF")
    kinds = (7, len(content)), (4, len(content) // 4)  # type and count: undefined, 32-bit numbers
    undefined, numbers = (struct.pack("<HHL", iptc.TIFF_TAG, *kind) for kind in kinds)
    assert tiff.count(undefined) == 1
    assert decode(tiff.replace(undefined, numbers), "a.tiff").iptc == content
    swapped = b"".join(content[i : i + 4][::-1] for i in range(0, len(content), 4))
    assert decode(tiff.replace(undefined, numbers).replace(content, swapped), "a.tiff").iptc == content


def test_a_comment_goes_from_jpeg_to_jpeg() -> None:
    photo = decode(jpeg(comment=b"from the attic"), "a.jpg")
    output, notes = colored(photo, "JPEG")
    assert notes == ()
    assert Image.open(io.BytesIO(output)).info["comment"] == b"from the attic"


@pytest.mark.parametrize(
    ("format_", "missing"),
    [("PNG", ["comment"]), ("WEBP", ["IPTC captions", "comment"]), ("TIFF", ["comment"])],
)
def test_what_a_format_has_no_place_for_is_said(format_: str, missing: list[str]) -> None:
    _, notes = colored(dataclasses.replace(PLAIN, iptc=CAPTION, comments=(b"note",)), format_)
    assert [note for note in notes if note != iptc.PNG_NOTE] == [
        f"{what} left out: {format_} cannot hold it" for what in missing
    ]


def test_captions_as_long_as_a_segment_are_kept_and_longer_ones_said() -> None:
    fits = dataclasses.replace(PLAIN, iptc=b"x" * iptc.JPEG_LIMIT)
    output, notes = colored(fits, "JPEG")
    assert notes == ()
    assert decode(output, "a.jpg").iptc == fits.iptc
    output, notes = colored(dataclasses.replace(PLAIN, iptc=b"x" * (iptc.JPEG_LIMIT + 1)), "JPEG")
    assert notes == (f"IPTC captions left out: {iptc.JPEG_LIMIT + 1} bytes, JPEG holds {iptc.JPEG_LIMIT}",)
    assert decode(output, "a.jpg").iptc is None


@given(st.binary(min_size=1, max_size=400))
def test_any_content_survives_a_segment(content: bytes) -> None:
    assert decode(jpeg(extra=iptc.jpeg_segment(content)), "a.jpg").iptc == content


def test_photos_without_have_none() -> None:
    assert decode(jpeg(), "a.jpg").iptc is None
    assert decode(jpeg(), "a.jpg").comments == ()
    assert decode(jpeg(extra=b"\xff\xed\0\x06none"), "a.jpg").iptc is None
