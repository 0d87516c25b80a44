"""Load a photo with all of its pixels, or raise: some of Pillow's decoders fill in missing pixels silently.

Overwritten pixels cannot be detected in formats without checksums: BMP, GIF, PPM, TIFF, WebP.
"""

import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageFile

from cgan import libtiff_messages
from cgan.bmp_runs import RUNS_CODEC
from cgan.jpeg_decoder import JPEG_CODEC, NO_END, MissingPixelsError
from cgan.photo_limits import check_tile, check_time

PNG_SIGNATURE_SIZE = 8
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel of each PNG colour type."""

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, column step and row step of each pass of an interlaced PNG."""

GIF_IMAGE, GIF_EXTENSION, GIF_TRAILER = 0x2C, 0x21, b";"

WIDTH, HEIGHT = 256, 257
STRIP_OFFSETS, SAMPLES_PER_PIXEL, ROWS_PER_STRIP = 273, 277, 278
PLANAR_CONFIGURATION, CHUNKY = 284, 1
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS = 322, 323, 324
"""TIFF tags."""

TIFF_HEADER = 8
"""Bytes of the shortest header."""

PIECE = 2**16
"""Bytes of image data that are decompressed at a time."""

_switch = threading.Lock()
_loading = 0
_was_on = False
"""Number of photos being loaded, and the value of LOAD_TRUNCATED_IMAGES to restore after the last one."""


def load(image: Image.Image) -> tuple[str, ...]:
    """Load an opened image as `image.load()` does, but never with invented pixels.

    Pillow's LOAD_TRUNCATED_IMAGES is off during the call.

    Args:
        image: opened by Pillow, after `draft`. Loaded images, and images that come from no file, stay as they are.

    Returns:
        Notes for the user: a missing end marker, data left over, or errors that libtiff went on after.

    Raises:
        MissingPixelsError: pixels are missing.
        OSError: the file is damaged in another way. Pillow's decoders also raise other types.
    """
    opened: Any = image
    notes: list[str] = []
    content = b""
    if getattr(opened, "tile", None) and opened.fp is not None:
        if opened.tile[0].codec_name == "jpeg" and image.format in ("JPEG", "MPO"):
            opened.tile = [opened.tile[0]._replace(codec_name=JPEG_CODEC, args=(notes, *opened.tile[0].args))]
        elif opened.tile[0].codec_name == "bmp_rle":
            opened.tile = [opened.tile[0]._replace(codec_name=RUNS_CODEC, args=(notes, *opened.tile[0].args))]
        elif image.format == "TIFF":
            check_tiff(opened.tag_v2)
        elif image.format in ("PNG", "GIF"):
            content = _content(opened)
    with _no_truncated_images(), libtiff_messages.collected() as messages:
        try:
            image.load()
        except OSError as error:
            if messages:
                raise OSError("; ".join((str(error), *messages))) from error
            raise
    notes += messages
    if content and image.format == "PNG":
        _check_png(image, content, notes)
    elif content and not _gif_ends(content):
        notes.append(NO_END)
    return tuple(notes)


@contextmanager
def _no_truncated_images() -> Iterator[None]:
    """Switch Pillow's LOAD_TRUNCATED_IMAGES off until the last thread has left the block."""
    global _loading, _was_on
    with _switch:
        _loading += 1
        _was_on = _was_on or ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _switch:
            _loading -= 1
            if not _loading:
                ImageFile.LOAD_TRUNCATED_IMAGES, _was_on = _was_on, False


def _content(image: Any) -> bytes:
    """Return all bytes of an opened image's file; its position is restored."""
    place = image.fp.tell()
    image.fp.seek(0)
    content = bytes(image.fp.read())
    image.fp.seek(place)
    return content


def _check_png(image: Image.Image, content: bytes, notes: list[str]) -> None:
    """Check a PNG that Pillow has decoded: its chunks, and the number of its rows."""
    header, pieces = check_png(content, notes)
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    # Rows that were not decoded are zeros. The last row of an interlaced image may be in any pass.
    if image.info.get("interlace") or last_row.getbbox(alpha_only=False) is None:
        _check_inflated(header, pieces)


def check_png(content: bytes, notes: list[str]) -> tuple[bytes, list[memoryview]]:
    """Check the checksums of image data, which Pillow ignores, and the end marker; return header and image data.

    Raises:
        MissingPixelsError: a checksum is wrong.
    """
    pieces: list[memoryview] = []
    header, ended = b"", False
    for kind, body, checksum in _png_chunks(content):
        if kind == b"IHDR":
            header = bytes(body)
        elif kind == b"IDAT":
            if len(checksum) == 4 and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum):
                raise MissingPixelsError("the image data fail their checksum")
            pieces.append(body)
        ended = ended or kind == b"IEND"
    if not ended:
        notes.append(NO_END)
    return header, pieces


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview, bytes]]:
    """Yield name, body and checksum of each chunk; the last chunk may be truncated."""
    view, place = memoryview(content), PNG_SIGNATURE_SIZE
    while place + 8 <= len(content):
        check_time()
        end = place + 8 + int.from_bytes(content[place : place + 4])
        yield content[place + 4 : place + 8], view[place + 8 : end], content[end : end + 4]
        place = end + 4


def _check_inflated(header: bytes, pieces: list[memoryview]) -> None:
    width, height, interlaced = int.from_bytes(header[:4]), int.from_bytes(header[4:8]), header[12]
    bits = header[8] * PNG_CHANNELS[header[9]]
    wanted = 0
    for x, y, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + -(-columns * bits // 8))
    found, stream = 0, zlib.decompressobj()
    try:
        for piece in pieces:
            rest: bytes | memoryview = piece
            while rest and found < wanted:
                check_time()
                found += len(stream.decompress(rest, PIECE))
                rest = stream.unconsumed_tail
    except zlib.error as error:
        raise MissingPixelsError(f"the image data are damaged ({error})") from error
    if found < wanted:
        raise MissingPixelsError(f"the image data end after {found / wanted:.0%} of its rows")


def check_tiff(tags: Mapping[int, Any]) -> None:
    """Check that no strip or tile of a TIFF is missing, and that tiles are not too large.

    Pillow accepts missing ones, and reads those of offset 0, and others in the file header, from there.

    Raises:
        MissingPixelsError: some are missing, or have no size.
        LimitError: the tiles are too large.
    """
    width, height = tags[WIDTH], tags[HEIGHT]
    if TILE_OFFSETS in tags:
        if not (tags.get(TILE_WIDTH) and tags.get(TILE_LENGTH)):
            raise MissingPixelsError("its tiles have no size")
        offsets, kind = tags[TILE_OFFSETS], "tiles"
        check_tile((tags[TILE_WIDTH], tags[TILE_LENGTH]), (width, height))
        wanted = -(-width // tags[TILE_WIDTH]) * -(-height // tags[TILE_LENGTH])
    elif STRIP_OFFSETS in tags:
        offsets, kind = tags[STRIP_OFFSETS], "strips"
        wanted = -(-height // (tags.get(ROWS_PER_STRIP) or height))
    else:
        return
    if tags.get(PLANAR_CONFIGURATION, CHUNKY) != CHUNKY:
        wanted *= tags.get(SAMPLES_PER_PIXEL, 1)
    found = sum(offset >= TIFF_HEADER for offset in offsets)
    if found < wanted:
        raise MissingPixelsError(f"{wanted - found} of its {wanted} {kind} are not in the file")


def _gif_ends(content: bytes) -> bool:
    """Return True if blocks lead to the trailer of a GIF (GIF89a, section 27)."""
    place = 13 + _color_table(content[10])
    while place + 1 < len(content) and content[place] in (GIF_IMAGE, GIF_EXTENSION):
        if content[place] == GIF_IMAGE:
            if place + 10 >= len(content):
                return False
            place += 11 + _color_table(content[place + 9])  # and the code size
        else:
            place += 2
        while place < len(content) and content[place]:
            check_time()
            place += content[place] + 1
        place += 1
    return content[place : place + 1] == GIF_TRAILER


def _color_table(flags: int) -> int:
    """Return the size in bytes of the colour table that the flags declare."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
