"""IPTC captions and credits in JPEG, PNG and TIFF files.

The data set (IPTC-NAA Information Interchange Model) is copied unchanged. A JPEG holds it as resource 0x0404 of a
Photoshop block in segment APP13 (Adobe Photoshop File Formats Specification, "Image Resource Blocks"), a TIFF in tag
33723, and a PNG as ImageMagick and exiftool do: as hexadecimal digits in a text.
"""

import struct
import zlib
from collections.abc import Iterator

RESOURCE = 0x0404
THUMBNAILS = frozenset({0x0409, 0x040C})
"""Resources with a small copy of the photo."""
TIFF_TAG = 33723
TIFF_RESOURCES = 34377
"""Tag of a TIFF with Photoshop's image resources."""
FIRST_BYTE = b"\x1c"

JPEG_HEADER = b"Photoshop 3.0\0"
SEGMENT = 65_533
"""Largest content of a JPEG's segment in bytes (ITU-T T.81, B.1.1.4)."""
JPEG_LIMIT = SEGMENT - len(JPEG_HEADER) - 12 - 1
"""Largest data set in bytes: a segment without its header, the header of the resource and its padding."""

PNG_NOTE = "IPTC captions are in a raw profile, which few programs read in a PNG"


def resources(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of Photoshop's image resources; what is damaged ends them."""
    place = 0
    while content[place : place + 4] == b"8BIM" and place + 12 <= len(content):
        (resource,) = struct.unpack(">H", content[place + 4 : place + 6])
        place += 6 + (content[place + 6] + 2) // 2 * 2  # a name of even length with its own length
        if place + 4 > len(content):
            return
        size = int.from_bytes(content[place : place + 4])
        yield resource, content[place + 4 : place + 4 + size]
        place += 4 + size + size % 2


def jpeg_segment(content: bytes) -> bytes:
    """Return segment APP13 of a JPEG with a data set of at most JPEG_LIMIT bytes."""
    padded = content + bytes(len(content) % 2)
    body = JPEG_HEADER + b"8BIM" + struct.pack(">HHL", RESOURCE, 0, len(content)) + padded
    return b"\xff\xed" + struct.pack(">H", 2 + len(body)) + body


def png_chunk(content: bytes) -> tuple[bytes, bytes]:
    """Return type and content of a PNG chunk with a data set."""
    text = f"\niptc\n{len(content):8}\n{content.hex()}\n".encode()
    return b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text)
