"""Colour JPEG of 12 bits in a TIFF, for which Pillow has no mode and imagecodecs' libtiff no decoder."""

from collections.abc import Iterator

import numpy as np

from cgan.jpeg_decoder import MissingPixelsError, decode_whole
from infer.photo import tiff_pages as tiff
from infer.photo.samples import Array, Samples
from infer.photo.tiff_pages import Page

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
BITS, COLORS = 12, 3


def is_wide_color(page: Page) -> bool:
    """Return True for RGB or YCbCr of 12 bits, side by side."""
    is_color = page.photometric in (tiff.RGB, tiff.YCBCR) and page.channels == COLORS
    return is_color and page.bits == BITS and page.number(tiff.PLANAR, 1) != tiff.PLANES


def samples_of(content: bytes, page: Page, notes: list[str]) -> Samples:
    """Return RGB of strips or tiles, each of which is a JPEG; tables that they share come before it.

    Args:
        content: the file.
        page: one of its pages, for which `is_wide_color` returns True.
        notes: list to which notes are appended.

    Raises:
        MissingPixelsError: a strip or a tile is damaged, or smaller than the page says.
    """
    width, height = page.size
    tables = page.content(tiff.JPEG_TABLES).removeprefix(SOI).removesuffix(EOI)
    stored = "RGB" if page.photometric == tiff.RGB else "YCBCR"
    values = np.empty((height, width, COLORS), np.uint16)
    found: list[str] = []
    for rows, columns, place, size in _pieces(page):
        stream = SOI + tables + content[place : place + size].removeprefix(SOI)
        piece = decode_whole(stream, lambda data: _decoded(data, stored), found)
        target = values[rows, columns]
        piece = piece[: target.shape[0], : target.shape[1]]
        if piece.shape != target.shape:
            raise MissingPixelsError("a strip or a tile is smaller than its page says")
        target[:] = piece
    notes += dict.fromkeys(found)
    return Samples(values, "RGB", BITS)


def _pieces(page: Page) -> Iterator[tuple[slice, slice, int, int]]:
    """Yield rows, columns, offset and size of each strip or tile."""
    width, height = page.size
    if tiff.TILE_OFFSETS in page:
        places, sizes = page.numbers(tiff.TILE_OFFSETS), page.tile_sizes
        across, down = page.number(tiff.TILE_WIDTH), page.number(tiff.TILE_HEIGHT)
    else:
        places, sizes = page.numbers(tiff.OFFSETS), page.strip_sizes
        across, down = width, page.rows_per_strip
    in_a_row = -(-width // across)
    for i in range(in_a_row * -(-height // down)):
        row, column = divmod(i, in_a_row)
        yield slice(row * down, (row + 1) * down), slice(column * across, (column + 1) * across), places[i], sizes[i]


def _decoded(stream: bytes, stored: str) -> Array:
    import imagecodecs

    try:
        values: Array = imagecodecs.jpeg8_decode(stream, colorspace=stored, outcolorspace="RGB")
    except (RuntimeError, ValueError, MemoryError) as error:  # its own errors are RuntimeErrors
        raise MissingPixelsError(f"the image data are damaged ({error})") from error
    if values.dtype != np.uint16 or values.ndim != 3:
        raise MissingPixelsError("a strip or a tile has other channels or bits than its page says")
    return values
