"""IPTC captions and credits in JPEG and TIFF files.

The data set (IPTC-NAA Information Interchange Model) is copied unchanged. A JPEG holds it as resource 0x0404 of a
Photoshop block in segment APP13 (Adobe Photoshop File Formats Specification, "Image Resource Blocks"), a TIFF in tag
33723.
"""

import struct
from typing import Any

from PIL import Image

RESOURCE = 0x0404
TIFF_TAG = 33723

JPEG_HEADER = b"Photoshop 3.0\0"
JPEG_LIMIT = 65_533 - len(JPEG_HEADER) - 12 - 1
"""Largest data set in bytes: a segment without its header, the header of the resource and its padding."""


def read(image: Image.Image) -> bytes | None:
    """Return the data set of an opened image, None if there is none."""
    if image.format == "TIFF":
        # The raw bytes: some programs declare them as 32-bit numbers, of which Pillow returns only the first.
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        found = tags._tagdata.get(TIFF_TAG)
    else:
        resources = image.info.get("photoshop")
        found = resources.get(RESOURCE) if isinstance(resources, dict) else None
    return bytes(found) if isinstance(found, bytes) and found else None


def jpeg_segment(content: bytes) -> bytes:
    """Return segment APP13 of a JPEG with a data set of at most JPEG_LIMIT bytes."""
    padded = content + bytes(len(content) % 2)
    body = JPEG_HEADER + b"8BIM" + struct.pack(">HHL", RESOURCE, 0, len(content)) + padded
    return b"\xff\xed" + struct.pack(">H", 2 + len(body)) + body
