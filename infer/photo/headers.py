"""Headers of photos that Pillow does not open: it reads their size and metadata here, and none of their pixels."""

import io
from typing import NamedTuple, cast

from PIL import Image, JpegImagePlugin

WIDE_JPEG = "WIDE_JPEG"
"""Name under which `WideJpeg` is registered with Pillow."""

LOSSLESS = 0xC3
"""Marker of a lossless JPEG with Huffman codes."""

NOT_FRAMES = frozenset({0xC4, 0xC8, 0xCC})
"""Markers from 0xC0 to 0xCF that start no frame: tables and a reserved one."""

ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a segment."""


class Frame(NamedTuple):
    """Start of a JPEG's frame."""

    kind: int
    """Its marker, 0xC0 to 0xCF; 0 if there is none."""
    precision: int
    """Bits a sample."""
    place: int
    """Offset of the precision."""


def start_of_frame(head: bytes) -> Frame:
    """Return the start of frame in the first part of a JPEG (ITU T.81, section B.2.2)."""
    place = 2
    while place + 5 <= len(head):
        if head[place] != 0xFF or head[place + 1] == 0xFF:
            place += 1
            continue
        marker = head[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in NOT_FRAMES:
            return Frame(marker, head[place + 4], place + 4)
        place += 2 if marker in ALONE else 2 + int.from_bytes(head[place + 2 : place + 4])
    return Frame(0, 8, 0)


class WideJpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG with other than 8 bits a sample; to Pillow's header parser it says 8."""

    HEAD = 2**24
    """Bytes that are searched for the start of frame: more than the largest profile."""

    precision = 8

    def _open(self) -> None:
        file = cast(io.BufferedIOBase, self.fp)
        head = bytearray(file.read(self.HEAD))
        frame = start_of_frame(bytes(head))
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
