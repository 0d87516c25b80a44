"""Headers of photos that Pillow does not open: it reads their size and metadata here, and none of their pixels."""

import io
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple, cast

from PIL import Image, JpegImagePlugin

from infer.photo.refusals import UnreadError

WIDE_JPEG = "WIDE_JPEG"
"""Name under which `WideJpeg` is registered with Pillow."""

LOSSLESS = 0xC3
"""Marker of a lossless JPEG with Huffman codes."""

NOT_FRAMES = frozenset({0xC4, 0xC8, 0xCC})
"""Markers from 0xC0 to 0xCF that start no frame: tables and a reserved one."""

ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a segment."""


END_OF_IMAGE = 0xD9
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Markers other than restarts, which lie between image data, as do stuffed zeros."""

BASELINE, PROGRESSIVE = 0xC0, 0xC2
"""Markers of the frames of almost all JPEGs."""

START_OF_SCAN, COMMENT = 0xDA, 0xFE
APPLICATION = range(0xE0, 0xF0)
"""Markers of segments of metadata."""


class Frame(NamedTuple):
    """Start of a JPEG's frame."""

    kind: int
    """Its marker, 0xC0 to 0xCF; 0 if there is none."""
    precision: int
    """Bits a sample."""
    place: int
    """Offset of the precision."""


class PlainJpeg(NamedTuple):
    """What the header of a JPEG of 8 bits says."""

    width: int
    height: int
    components: int
    is_progressive: bool
    metadata: int
    """Bytes of its metadata."""


def start_of_frame(head: bytes) -> Frame:
    """Return the start of frame in the first part of a JPEG (ITU T.81, section B.2.2)."""
    for marker, place, _ in _segments(head):
        if 0xC0 <= marker <= 0xCF and marker not in NOT_FRAMES and place + 1 < len(head):
            return Frame(marker, head[place], place)
    return Frame(0, 8, 0)


def plain_jpeg(head: bytes) -> PlainJpeg | None:
    """Return what the first part of a JPEG says up to its first scan.

    None stands for any other file, which a parser has to look at: one without a whole header, of other than 8 bits,
    with another number of components than 1 or 3, or with a profile or several pictures (both in APP2).
    """
    if head[:2] != b"\xff\xd8":
        return None
    found, metadata = None, 0
    for marker, place, end in _segments(head):
        if marker == START_OF_SCAN:
            return found and found._replace(metadata=metadata)
        if marker in (BASELINE, PROGRESSIVE) and found is None and end - place >= 6:
            precision, height, width, components = struct.unpack_from(">BHHB", head, place)
            if precision != 8 or components not in (1, 3) or not (height and width):
                return None
            found = PlainJpeg(width, height, components, marker == PROGRESSIVE, 0)
        elif marker == APPLICATION[2] or (0xC0 <= marker <= 0xCF and marker not in NOT_FRAMES):
            return None
        elif marker in APPLICATION or marker == COMMENT:
            metadata += end - place
    return None


def end_of(content: bytes) -> int:
    """Return the offset behind the end marker of a JPEG; its length if it has none."""
    place = 2
    while match := MARKER.search(content, place):
        marker, place = content[match.start() + 1], match.end()
        if marker == END_OF_IMAGE:
            return place
        if marker not in ALONE:
            place += int.from_bytes(content[place : place + 2])
    return len(content)


def _segments(head: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end of the content of each segment of a JPEG; bytes between them are passed over."""
    place = 2
    while place + 4 <= len(head):
        if head[place] != 0xFF or head[place + 1] == 0xFF:
            place += 1
            continue
        marker = head[place + 1]
        if marker in ALONE:
            place += 2
            continue
        end = place + 2 + int.from_bytes(head[place + 2 : place + 4])
        yield marker, place + 4, end
        place = end


class WideJpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG with other than 8 bits a sample; to Pillow's header parser it says 8."""

    HEAD = 2**24
    """Bytes that are searched for the start of frame: more than the largest profile."""

    precision = 8

    def _open(self) -> None:
        file = cast(io.BufferedIOBase, self.fp)
        head = bytearray(file.read(self.HEAD))
        frame = start_of_frame(bytes(head))
        if frame.kind and head[frame.place + 1 : frame.place + 3] == bytes(2):
            raise UnreadError("a JPEG that says its height behind its pixels (DNL), which is not read")
        if not frame.kind or frame.precision == 8:
            raise SyntaxError("not a JPEG of other than 8 bits")
        self.precision = frame.precision
        head[frame.place] = 8
        self._original, self.fp = file, io.BytesIO(head)
        super()._open()
        self.tile = []

    def content(self) -> bytes:
        """Return the file."""
        self._original.seek(0)
        return self._original.read()


Image.register_open(WIDE_JPEG, WideJpeg, lambda head: head[:3] == b"\xff\xd8\xff")
