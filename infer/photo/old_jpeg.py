"""The JPEG stream of a TIFF with old-style JPEG compression (TIFF 6.0, section 22), of one of three layouts.

The whole stream lies at JPEGInterchangeFormat; or its header lies there and its data in the strips; or its tables are
in tags, too. What is not a whole stream is put together here, so that it is checked as every other JPEG is.
"""

import struct
from collections.abc import Iterator, Sequence

from infer.photo import tiff_pages as tiff
from infer.photo.refusals import UnreadError
from infer.photo.tiff_pages import Page

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
DHT, SOF0, SOS, DQT, DRI, ADOBE, RST0 = 0xC4, 0xC0, 0xDA, 0xDB, 0xDD, 0xEE, 0xD0
KEPT = frozenset({DHT, DQT, DRI, ADOBE, *range(0xC0, 0xD0)})

BASELINE = 1
"""JPEGProc; 14 stands for lossless."""
TABLE = 64
"""Bytes of a quantisation table."""
COUNTS = 16
"""Bytes of a Huffman table before its symbols."""
AC = 0x10
ADOBE_RGB = b"Adobe\0\x64\0\0\0\0\0"
"""An Adobe segment that says that colours are not transformed."""


def stream_of(content: bytes, page: Page) -> bytes:
    """Return the JPEG of a page.

    Args:
        content: the file.
        page: one of its pages.

    Raises:
        UnreadError: it has tiles or planes, lacks tables, or is lossless.
    """
    start, length = page.number(tiff.JPEG_START), page.number(tiff.JPEG_LENGTH)
    at_start = content[start : start + length] if length else content[start:]
    strips = [
        content[place : place + size]
        for place, size in zip(page.numbers(tiff.OFFSETS), page.numbers(tiff.SIZES), strict=False)
    ]
    first = (page.numbers(tiff.OFFSETS) or (start,))[0]
    if start and (not strips or start <= first < start + len(at_start)):
        return at_start
    if len(strips) == 1 and strips[0].startswith(SOI):
        return strips[0]
    if not strips or any(strip.startswith(SOI) for strip in strips):
        raise UnreadError("a TIFF with old-style JPEG compression in several streams, which is not read")
    if page.number(tiff.JPEG_PROCESS, BASELINE) != BASELINE or page.number(tiff.PLANAR, 1) == tiff.PLANES:
        raise UnreadError("a TIFF with old-style JPEG compression that is lossless or in planes, which is not read")
    header = _of_interchange(at_start) if start else _of_tables(content, page)
    interval = page.number(tiff.RESTARTS) or (len(strips) > 1 and _units_of_strip(page))
    restarts = _segment(DRI, struct.pack(">H", interval)) if interval else b""
    scan = _segment(SOS, bytes([page.channels, *_scan_tables(page.channels), 0, 63, 0]))
    return SOI + header + restarts + scan + _joined(strips) + EOI


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _of_interchange(stream: bytes) -> bytes:
    """Return the tables and the frame of a header."""
    return b"".join(_segment(marker, body) for marker, body in _segments(stream) if marker in KEPT)


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment before the first scan."""
    place = len(SOI)
    while place + 4 <= len(stream) and stream[place] == 0xFF and stream[place + 1] != SOS:
        end = place + 2 + int.from_bytes(stream[place + 2 : place + 4])
        yield stream[place + 1], stream[place + 4 : end]
        place = end


def _of_tables(content: bytes, page: Page) -> bytes:
    """Return segments with the tables that tags name, and a frame."""
    header = _segment(ADOBE, ADOBE_RGB) if page.photometric == tiff.RGB else b""
    header += b"".join(
        _segment(DQT, bytes([i]) + content[place : place + TABLE]) for i, place in _tables(page, tiff.QUANTIZATION)
    )
    for tag, kind in ((tiff.DC_TABLES, 0), (tiff.AC_TABLES, AC)):
        for i, place in _tables(page, tag):
            symbols = sum(content[place : place + COUNTS])
            header += _segment(DHT, bytes([kind | i]) + content[place : place + COUNTS + symbols])
    width, height = page.size
    across, down = _sampling(page)
    parts = [(1, across << 4 | down, 0), *((i + 1, 0x11, i) for i in range(1, page.channels))]
    body = struct.pack(">BHHB", 8, height, width, page.channels) + b"".join(bytes(part) for part in parts)
    return header + _segment(SOF0, body)


def _tables(page: Page, tag: int) -> Sequence[tuple[int, int]]:
    """Return index and offset of the table of each channel."""
    places = page.numbers(tag)
    if len(places) < page.channels:
        raise UnreadError(
            "a TIFF with old-style JPEG compression without a JPEG stream or its tables, which is not read"
        )
    return [*enumerate(places[: page.channels])]


def _sampling(page: Page) -> tuple[int, int]:
    found = page.numbers(tiff.SUBSAMPLING)
    if page.photometric != tiff.YCBCR:
        return 1, 1
    return (found[0], found[1]) if len(found) == 2 else (2, 2)


def _scan_tables(channels: int) -> Iterator[int]:
    for i in range(channels):
        yield from (i + 1, i << 4 | i)


def _units_of_strip(page: Page) -> int:
    """Return the minimum coded units of a strip, between which libjpeg expects a restart marker."""
    across, down = _sampling(page)
    return -(-page.size[0] // (8 * across)) * -(-page.rows_per_strip // (8 * down))


def _joined(strips: Sequence[bytes]) -> bytes:
    """Return the data of strips, with restart markers between them where they have none."""
    joined = bytearray()
    for number, strip in enumerate(strips):
        data = strip.removesuffix(EOI)
        is_marked = number == len(strips) - 1 or (data[-2:-1] == b"\xff" and data[-1] & 0xF8 == RST0)
        joined += data if is_marked else data + bytes([0xFF, RST0 | number % 8])
    return bytes(joined)
