"""Writer of JPEG files with full-resolution chroma and the metadata of a photo."""

import io
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infer.photo import iptc
from infer.photo.containers import ICC_SEGMENT, XMP_EXTENSION, XMP_MAIN
from infer.photo.decode import Photo
from infer.photo.iptc import SEGMENT
from infer.photo.mark import guid, split

Plane = NDArray[np.uint8]

EXACT_QUALITY = 96
"""Lowest quality at which simplejpeg's encoder of planes uses libjpeg's exact transform, and writes the same bytes as
Pillow. It takes two thirds of Pillow's time, which interleaves the planes first."""

XMP_LIMIT = SEGMENT - len(XMP_MAIN)
"""Largest main packet of XMP in bytes; a larger one is split."""
XMP_PART = 65_000
"""Bytes of an extension of XMP in one segment."""
ICC_PART = SEGMENT - len(ICC_SEGMENT) - 2
"""Bytes of an ICC profile in one segment, beside their number and count."""
ICC_LIMIT = 255 * ICC_PART

APP1, APP2, COMMENT = 0xE1, 0xE2, 0xFE
JFIF_END = 20
"""Length of the start of image and of the JFIF segment."""
JFIF_DENSITY = 13
"""Place of the unit and the numbers of pixels of that unit (JFIF 1.02, page 5)."""
PER_INCH = 1


def write_jpeg(picture: Image.Image | tuple[Plane, Plane, Plane], photo: Photo, quality: int) -> bytes:
    """Encode a picture with the metadata of a photo, all of which a JPEG must be able to hold.

    Args:
        picture: an RGB image, or planes of Y, Cb and Cr, each H x W.
        photo: source of the metadata.
        quality: 1 to 100.
    """
    if isinstance(picture, Image.Image):
        content = _by_pillow(picture, quality)
    elif quality < EXACT_QUALITY:
        content = _by_pillow(Image.merge("YCbCr", [Image.fromarray(plane) for plane in picture]), quality)
    else:
        import simplejpeg

        content = simplejpeg.encode_jpeg_yuv_planes(*picture, quality=quality)
    start = bytearray(content[:JFIF_END])
    if photo.dpi:
        struct.pack_into(">BHH", start, JFIF_DENSITY, PER_INCH, *(_density(value) for value in photo.dpi))
    return b"".join([start, *_segments(photo), memoryview(content)[JFIF_END:]])


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    """Encode an image with Pillow, whose encoders release Python's lock only when they write to a file descriptor."""
    if not hasattr(os, "memfd_create"):
        buffer = io.BytesIO()
        image.save(buffer, format_, **options)
        return buffer.getvalue()
    with os.fdopen(os.memfd_create("cgan"), "w+b") as file:
        image.save(file, format_, **options)
        file.seek(0)
        return file.read()


def _by_pillow(image: Image.Image, quality: int) -> bytes:
    return encoded(image, "JPEG", quality=quality, subsampling=0)  # other subsampling would blur the colours again


def _density(value: float) -> int:
    return min(max(round(value), 1), 0xFFFF)


def _segments(photo: Photo) -> Iterator[bytes]:
    """Yield the segments of a photo's metadata."""
    if photo.exif:
        yield _segment(APP1, photo.exif)
    packet, extension = split(photo.xmp, XMP_LIMIT) if photo.xmp else (b"", b"")
    if packet:
        yield _segment(APP1, XMP_MAIN + packet)
    for place in range(0, len(extension), XMP_PART):
        part = struct.pack(">LL", len(extension), place) + extension[place : place + XMP_PART]
        yield _segment(APP1, XMP_EXTENSION + guid(extension).encode() + part)
    if photo.iptc:
        yield iptc.jpeg_segment(photo.iptc)
    profile = photo.icc_profile or b""
    count = -(-len(profile) // ICC_PART)
    for number in range(count):
        part = profile[number * ICC_PART : (number + 1) * ICC_PART]
        yield _segment(APP2, ICC_SEGMENT + bytes([number + 1, count]) + part)
    for comment in photo.comments:
        yield _segment(COMMENT, comment)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body
