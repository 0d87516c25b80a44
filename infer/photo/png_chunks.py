"""Chunks of a PNG, before and behind its pixels, and the metadata in its texts (PNG, third edition, 11.3.3)."""

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from cgan.photo_limits import MAX_METADATA, LimitError, check_time

XMP_KEY = b"XML:com.adobe.xmp"
RAW_PROFILE = b"Raw profile type "
"""First words of texts in which ImageMagick and exiftool keep EXIF, IPTC and XMP as hexadecimal digits."""

TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
EXIF, DATA, END = b"eXIf", b"IDAT", b"IEND"
PICTURE = frozenset(
    {b"IHDR", b"PLTE", DATA, END, b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"bKGD", b"hIST"}
    | {b"pHYs", b"sPLT", b"acTL", b"fcTL", b"fdAT", b"iDOT"}
)
"""Chunks of pixels, colours, resolution and frames, of which notes tell otherwise."""


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, offset and size of the content of each chunk; the position is moved."""
    place = 8
    while True:
        check_time()
        file.seek(place)
        start = file.read(8)
        if len(start) < 8 or start[4:] == END:
            return
        size = int.from_bytes(start[:4])
        yield start[4:], place + 8, size
        place += 12 + size


def key_of(content: bytes) -> bytes:
    """Return the keyword of a text."""
    return content.split(b"\0", 1)[0]


def text_of(kind: bytes, content: bytes) -> bytes | None:
    """Return the text of a chunk of TEXTS as bytes, None if it is damaged.

    Raises:
        LimitError: it is larger than MAX_METADATA.
    """
    text = content[len(key_of(content)) + 1 :]
    if kind == b"tEXt":
        return text
    is_packed = kind == b"zTXt" or text[:1] == b"\1"
    text = text[1:] if kind == b"zTXt" else (text[2:].split(b"\0", 2) + [b""] * 2)[2]  # behind language and keyword
    if not is_packed:
        return text
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(text, MAX_METADATA)
    except zlib.error:
        return None
    if stream.unconsumed_tail:
        raise LimitError(f"more than {MAX_METADATA} bytes of metadata, the limit")
    return unpacked if stream.eof else None


def raw_profile(text: bytes) -> bytes | None:
    """Return the content of a raw profile: its name, its length, and hexadecimal digits; None if it is damaged."""
    parts = text.split(None, 2)
    try:
        content = bytes.fromhex(parts[2].decode("ascii"))
        return content if len(content) == int(parts[1]) else None
    except (IndexError, ValueError):
        return None
