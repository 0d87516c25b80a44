"""Metadata and colours in the boxes of JPEG 2000, JPEG XL and AVIF."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from infer.photo import newer_formats
from infer.photo.color_profile import profile_of
from infer.photo.decode import decode
from tests.infer.photo import icc_profiles as icc
from tests.infer.photo.exif_blocks import SHORT, Structure, described, exif_block
from tests.infer.pictures import content_of

GRAY = np.arange(24 * 31, dtype=np.uint16).reshape(24, 31).astype(np.uint8)
COLORS = np.stack([GRAY, 255 - GRAY, GRAY // 2], -1)
BLOCK, UPRIGHT = (exif_block(orientation=orientation, thumbnail=False) for orientation in (6, 1))
CAPTIONS = b"\x1c\x02\x78\x00\x06Fishes"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
UUIDS = ("be7acfcb97a942e89c71999491e3afac", "33c7a4d2b81d4723a0baf1a3e097ad38", "b14bf8bd083d4b43a5ae8cd7d5a6ce03")


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", 8 + len(content)) + kind + content


def jp2(values: np.ndarray, *further: bytes, color: bytes = b"") -> bytes:
    """A JPEG 2000 with further boxes, and maybe with another content of its box of colours."""
    content = bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="JP2"))
    header, old = (content.index(kind) - 4 for kind in (b"jp2h", b"colr"))
    new = box(b"colr", color) if color else content[old : old + 15]
    size = struct.pack(">L", int.from_bytes(content[header : header + 4]) + len(new) - 15)
    content = content[:header] + size + content[header + 4 : old] + new + content[old + 15 :]
    stream = content.index(b"jp2c") - 4
    return content[:stream] + b"".join(further) + content[stream:]


def jxl(*further: bytes, values: np.ndarray = GRAY) -> bytes:
    stream = bytes(imagecodecs.jpegxl_encode(values, lossless=True, usecontainer=False))
    return b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ") + b"".join(further) + box(b"jxlc", stream)


def test_metadata_of_a_jpeg_2000_are_kept_or_named() -> None:
    xmp, iptc, geo = map(bytes.fromhex, UUIDS)
    further = [b"JpgTiffExif->JP2" + BLOCK[6:], xmp + XMP, iptc + CAPTIONS, geo + b"II*\0", bytes(16)]
    photo = decode(jp2(GRAY, *(box(b"uuid", content) for content in further), box(b"xml ", b"<a/>")), "a.jp2")
    assert (photo.xmp, photo.iptc) == (XMP, CAPTIONS)
    assert photo.exif is not None
    assert len(photo.exif) == len(BLOCK)
    assert photo.size == (31, 24)
    assert photo.notes == ("boxes left out: place on earth (GeoJP2), uuid, xml",)


@pytest.mark.parametrize(
    ("values", "profile"),
    [
        (COLORS, icc.ADOBE),
        (COLORS.astype(np.uint16) * 257, icc.ADOBE),
        (GRAY, icc.DOT_GAIN_20),
        (GRAY.astype(np.uint16) * 257, icc.DOT_GAIN_20),
    ],
)
def test_a_jpeg_2000_is_converted_from_its_profile_once(values: np.ndarray, profile: bytes) -> None:
    photo = decode(jp2(values, color=b"\2\0\0" + profile), "a.jp2")
    converted = profile_of(profile).convert(values if values.ndim == 3 else values[..., None])
    levels = 255 if values.dtype == np.uint8 else 65_535
    luma = converted @ np.array([0.299, 0.587, 0.114]) if converted.shape[2] == 3 else converted[..., 0]
    assert np.abs(photo.luma - luma).max() / levels < 1 / 255
    assert [note.split(":")[0] for note in photo.notes] == ["converted from its ICC profile to sRGB"]


@pytest.mark.parametrize(("space", "noted"), [(16, False), (18, False), (20, True), (21, True)])
def test_colour_spaces_of_jpeg_2000_that_are_not_converted_are_noted(space: int, noted: bool) -> None:
    photo = decode(jp2(COLORS, color=struct.pack(">BHL", 1, 0, space)), "a.jp2")
    assert photo.notes == (f"its colours, of colour space {space} by JPEG 2000, are not converted to sRGB",) * noted


@pytest.mark.parametrize("offset", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("packed", [False, True])
def test_metadata_of_a_jpeg_xl_are_kept_packed_or_not(packed: bool, offset: bytes) -> None:
    further = {b"Exif": struct.pack(">L", len(offset)) + offset + UPRIGHT[6:], b"xml ": XMP}
    if packed:
        boxes = [box(b"brob", kind + bytes(imagecodecs.brotli_encode(part))) for kind, part in further.items()]
    else:
        boxes = [box(kind, part) for kind, part in further.items()]
    photo = decode(jxl(*boxes), "a.jxl")
    assert (photo.exif, photo.xmp, photo.notes) == (UPRIGHT, XMP, ())


def test_other_boxes_of_a_jpeg_xl_are_named() -> None:
    damaged = box(b"brob", b"Exif" + b"no brotli")
    photo = decode(jxl(box(b"jumb", b"credentials"), box(b"jhgm", b"gain map"), damaged), "a.jxl")
    assert photo.notes == ("boxes left out: jumb, jhgm, Exif",)


def test_the_first_frame_of_a_jpeg_xl_is_noted() -> None:
    photo = decode(jxl(values=np.stack([COLORS, 255 - COLORS])), "a.jxl")
    assert photo.notes == ("first frame of several",)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_of_an_avif_keeps_its_bytes_where_its_orientation_does_not_count(orientation: int) -> None:
    structure = Structure("<")
    entries = [*described(structure), (0x0113, SHORT, orientation)]  # Pillow removes 0x0112
    structure.begin_at(structure.directory(entries))
    block = b"Exif\0\0" + bytes(structure.content)
    other, real = (struct.pack("<HHL", tag, SHORT, 1) for tag in (0x0113, 0x0112))
    content = content_of(Image.fromarray(COLORS), "AVIF", exif=block)
    assert content.count(other) == 1
    photo = decode(content.replace(other, real), "a.avif")
    assert photo.size == GRAY.shape
    assert photo.exif == block.replace(other + bytes([orientation]), real + b"\1")


def jxl_head(*fields: tuple[int, int]) -> bytes:
    """The head of a codestream of 8 x 8 pixels: values and numbers of bits of a ColourEncoding."""
    size, metadata = ((1, 1), (0, 5), (1, 3)), ((0, 1), (0, 1), (0, 1), (0, 2), (1, 1), (0, 2), (0, 1))
    bits, place = 0, 0
    for value, count in (*size, *metadata, *fields):
        bits |= value << place
        place += count
    return b"\xff\x0a" + bits.to_bytes(64, "little")


RGB_OF = ((0, 1), (0, 1), (0, 2))  # not the default, no profile, RGB


def enum(value: int) -> tuple[int, int]:
    """An Enum: 0 and 1, or 2 and four bits for 2 to 17."""
    return (value, 2) if value < 2 else (2 | (value - 2) << 2, 6)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        (((1, 1),), None),
        (((0, 1), (1, 1)), "ICC profile left out: those of JPEG XL are not read"),
        ((*RGB_OF, enum(1), enum(1), (0, 1), enum(13)), None),
        ((*RGB_OF, enum(1), enum(11), (0, 1), enum(13)), "primaries 11 by JPEG XL"),
        ((*RGB_OF, enum(1), enum(9), (0, 1), enum(16)), "tone curve PQ"),
        ((*RGB_OF, enum(1), enum(1), (1, 1), (5_555_556, 24)), "tone curve of gamma 0.556"),
        ((*RGB_OF, enum(1), enum(1), (1, 1), (4_545_455, 24)), None),
        ((*RGB_OF, enum(1), enum(2), *((9, 21),) * 6, (0, 1), enum(13)), "primaries of its own"),
        (((0, 1), (0, 1), enum(1), enum(1), (0, 1), enum(8)), "tone curve of gamma 1"),
    ],
)
def test_colours_of_a_jpeg_xl_are_noted_by_its_header(fields: tuple[tuple[int, int], ...], note: str | None) -> None:
    with Image.open(io.BytesIO(jxl_head(*fields)), formats=["JXL"]) as image:
        assert isinstance(image, newer_formats.JpegXl)
        assert (image.size, image.depth) == ((8, 8), 8)
        assert (note or "") in (image.color_note or "")
        assert bool(image.color_note) == bool(note)
