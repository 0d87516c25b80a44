"""IPTC captions and credits in JPEG, PNG and TIFF files.

The data set (IPTC-NAA Information Interchange Model) is copied unchanged. A JPEG holds it as resource 0x0404 of a
Photoshop block in segment APP13 (Adobe Photoshop File Formats Specification, "Image Resource Blocks"), a TIFF in tag
33723, and a PNG as ImageMagick and exiftool do: as hexadecimal digits in a text.
"""

import struct
import zlib

RESOURCE = 0x0404
THUMBNAILS = frozenset({0x0409, 0x040C})
"""Resources with a small copy of the photo."""
TIFF_TAG = 33723
TIFF_RESOURCES = 34377
"""Tag of a TIFF with Photoshop's image resources."""
FIRST_BYTE = b"\x1c"

JPEG_HEADER = b"Photoshop 3.0\0"
HEADERS = (JPEG_HEADER, b"Adobe_Photoshop2.5:")
"""First bytes of segments with image resources."""
SIGNATURES = frozenset({b"8BIM", b"MeSa", b"AgHg", b"PHUT", b"DCSR"})
"""Signatures of resources: Photoshop's, and those of other programs between them."""
SEGMENT = 65_533
"""Largest content of a JPEG's segment in bytes (ITU-T T.81, B.1.1.4)."""
JPEG_LIMIT = SEGMENT - len(JPEG_HEADER) - 12 - 1
"""Largest data set in bytes: a segment without its header, the header of the resource and its padding."""

PNG_NOTE = "IPTC captions are in a raw profile, which few programs read in a PNG"


def resources(content: bytes) -> tuple[list[tuple[int, bytes]], bool]:
    """Return number and content of Photoshop's image resources; and False if they are damaged at the end."""
    found: list[tuple[int, bytes]] = []
    place = 0
    while content[place : place + 4] in SIGNATURES and place + 12 <= len(content):
        (resource,) = struct.unpack(">H", content[place + 4 : place + 6])
        place += 6 + (content[place + 6] + 2) // 2 * 2  # a name of even length with its own length
        if place + 4 > len(content):
            return found, False
        size = int.from_bytes(content[place : place + 4])
        place += 4
        found.append((resource, content[place : place + size]))
        if place + size > len(content):
            return found, False
        place += size + size % 2
    return found, not content[place:].strip(b"\0")


def in_order(content: bytes, are_numbers: bool) -> bytes:
    """Return a data set of a TIFF, whose bytes some programs swap because they call them numbers of 32 bits."""
    swapped = content[3:4] == FIRST_BYTE != content[:1]
    if not (are_numbers and swapped):
        return content
    count = len(content) // 4
    return struct.pack(f"<{count}L", *struct.unpack(f">{count}L", content))


def jpeg_segment(content: bytes) -> bytes:
    """Return segment APP13 of a JPEG with a data set of at most JPEG_LIMIT bytes."""
    padded = content + bytes(len(content) % 2)
    body = JPEG_HEADER + b"8BIM" + struct.pack(">HHL", RESOURCE, 0, len(content)) + padded
    return b"\xff\xed" + struct.pack(">H", 2 + len(body)) + body


def png_chunk(content: bytes) -> tuple[bytes, bytes]:
    """Return type and content of a PNG chunk with a data set."""
    text = f"\niptc\n{len(content):8}\n{content.hex()}\n".encode()
    return b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text)
