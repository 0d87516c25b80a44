"""Boxes of JPEG 2000 (ISO/IEC 15444-1, annex I) and JPEG XL (ISO/IEC 18181-2), and the metadata in them."""

import io
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from cgan.photo_limits import MAX_METADATA, LimitError, check_time
from infer.photo.exif import IDENTIFIER

SIGNATURES = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x0cJXL \r\n\x87\n")
"""First boxes of files in boxes; others are bare codestreams."""

MOST_BOXES = 10_000

LAYOUT = frozenset(
    {b"jP  ", b"ftyp", b"rreq", b"jp2h", b"jp2c", b"free", b"JXL ", b"jxlc", b"jxlp", b"jxll", b"jxli", b"jbrd"}
)
"""Boxes of the pixels, and of their layout."""

COMPRESSED = b"brob"
MOST_UNPACKED = 2**24
"""Largest metadata in bytes that are unpacked from a box, since their size is not known before."""

UUIDS = {
    b"JpgTiffExif->JP2": "exif",
    bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): "xmp",
    bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"): "iptc",
    bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"): "place on earth (GeoJP2)",
}
"""Identifiers of metadata in boxes "uuid"."""

ENUMERATED, PROFILES = 1, (2, 3)
"""Methods of a JP2's colours: a number of a colour space; a restricted profile, any profile."""
SRGB, GRAY, SYCC = 16, 17, 18
UNDERSTOOD = frozenset({SRGB, GRAY, SYCC})
"""Numbers of colour spaces that decoders turn into sRGB or gray."""
OTHER_MODELS = {1: "YCbCr", 3: "YCbCr", 4: "YCbCr", 9: "PhotoYCC", 11: "CMY", 13: "YCCK", 14: "Lab", 19: "Jab"}
OTHER_MODELS |= {22: "YPbPr", 23: "YPbPr", 24: "e-sYCC"}
"""Numbers of colour spaces whose channels are no red, green and blue, and that decoders leave as they are
(ISO/IEC 15444-2, table M.25)."""


STREAM = b"\xff\x4f"
"""Start of a JPEG 2000 codestream."""
MARKER, COMMENT, TILE = 0xFF, 0x64, 0x90
MOST_SEGMENTS = 1000
"""Segments of a main header that are looked at; encoders write about ten."""
ENCODERS = re.compile(rb"OpenJPEG|Kakadu|kdu_|JasPer", re.IGNORECASE)
"""Encoders that sign their codestreams, which would be untrue of the coloured photo."""


class Box(NamedTuple):
    """A box of a file."""

    kind: bytes
    start: int
    """Offset of its content."""
    size: int
    """Bytes of its content."""


def boxes(file: BinaryIO, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yield the boxes of a file, or those between two offsets; none of a bare codestream. The position is moved."""
    if end is None:
        end = file.seek(0, io.SEEK_END)
        file.seek(0)
        if file.read(12) not in SIGNATURES:
            return
    for _ in range(MOST_BOXES):
        check_time()
        file.seek(start)
        head = file.read(16)
        if start + 8 > end or len(head) < 8:
            return
        size, first = int.from_bytes(head[:4]), 8
        if size == 1:
            size, first = int.from_bytes(head[8:16]), 16
        size = min(size or end, end - start)  # 0: to the end
        if size < first:
            return
        yield Box(head[4:8], start + first, size - first)
        start += size


def metadata_of(file: BinaryIO, box: Box) -> tuple[str, bytes]:
    """Return the kind of the metadata in a box, "exif", "xmp" or "iptc", and their bytes.

    Of other and of damaged boxes nothing is returned but their name, for a note.

    Raises:
        LimitError: they are larger than MAX_METADATA.
    """
    if box.kind not in (COMPRESSED, b"Exif", b"xml ", b"uuid"):
        return _named(box.kind), b""
    if box.size > MAX_METADATA:
        raise LimitError(f"{box.size} bytes of metadata, the limit is {MAX_METADATA}")
    file.seek(box.start)
    kind, content = box.kind, file.read(box.size)
    if kind == COMPRESSED:
        kind, content = content[:4], _unpacked(content[4:])
    if kind == b"uuid":
        return UUIDS.get(content[:16], "uuid"), content[16:]
    if kind == b"Exif":
        block = content[4 + int.from_bytes(content[:4]) :]
        return ("exif", IDENTIFIER + block) if block else ("Exif", b"")
    if kind == b"xml " and (b"xmpmeta" in content or b"rdf:RDF" in content):
        return "xmp", content
    return _named(kind), b""


def color_of(file: BinaryIO) -> Box | None:
    """Return the box "colr" of a JP2, the first of which counts (ISO/IEC 15444-1, I.5.3.3); None if it has none."""
    for box in boxes(file):
        if box.kind == b"jp2h":
            inner = boxes(file, box.start, box.start + box.size)
            return next((found for found in inner if found.kind == b"colr" and found.size > 3), None)
    return None


def comments(file: BinaryIO) -> Iterator[bytes]:
    """Yield the comments of a JPEG 2000's main header but those that name its encoder; the position is moved.

    (ISO/IEC 15444-1, A.9.2.)
    """
    file.seek(next((box.start for box in boxes(file) if box.kind == b"jp2c"), 0))
    if file.read(2) != STREAM:
        return
    for _ in range(MOST_SEGMENTS):
        head = file.read(4)
        size = int.from_bytes(head[2:]) - 2
        if size < 0 or head[0] != MARKER or head[1] == TILE:
            return
        content = file.read(size)
        if head[1] == COMMENT and not ENCODERS.search(content):
            yield content[2:]  # behind their kind, binary or text


def other_model(content: bytes) -> str | None:
    """Return the name of the colour space of a JP2 whose samples are no gray, RGB or CMYK, None for all others."""
    color = color_of(io.BytesIO(content))
    if color is None or content[color.start] != ENUMERATED:
        return None
    return OTHER_MODELS.get(int.from_bytes(content[color.start + 3 : color.start + 7]))


def without_profile(content: bytes) -> bytes:
    """Return a JP2 that names sRGB or gray in place of its profile, from which OpenJPEG would convert its samples."""
    color = color_of(io.BytesIO(content))
    if color is None or content[color.start] not in PROFILES or color.size < 3 + 128:
        return content
    profile = content[color.start + 3 :][: color.size - 3]
    space = GRAY if profile[16:20] == b"GRAY" else SRGB
    named = struct.pack(">BHL", ENUMERATED, 0, space)
    return content[: color.start] + named + content[color.start + len(named) :]


def _named(kind: bytes) -> str:
    return kind.decode("ascii", "replace").strip()


def _unpacked(content: bytes) -> bytes:
    """Return the content of a box "brob"; nothing if it is damaged or larger than MOST_UNPACKED."""
    import imagecodecs

    try:
        return bytes(imagecodecs.brotli_decode(content, out=MOST_UNPACKED))
    except imagecodecs.BrotliError:  # the caller names the box
        return b""
