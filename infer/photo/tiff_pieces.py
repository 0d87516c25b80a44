"""Strips and tiles of a TIFF whose sizes are not those that its page needs, which libtiff reads without a word."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cgan.jpeg_decoder import MissingPixelsError
from cgan.photo_limits import check_time
from infer.photo import tiff_pages as tiff
from infer.photo.tiff_pages import Page

Layout = Mapping[int, Sequence[int]]
"""Values of tags by which libtiff reads the pixels in place of those of the page."""

DEFLATE = frozenset({8, 32946})


class Piece(NamedTuple):
    """A strip or a tile."""

    place: int
    """Offset in the file."""
    size: int
    """Bytes in the file."""
    needed: int
    """Bytes of its samples."""
    full: int
    """Bytes of the samples of a strip that has as many rows as the others."""


def check_plain(page: Page, layout: Layout, notes: list[str]) -> None:
    """Check that samples which are not compressed are in the file, wherever libtiff thinks that a strip ends.

    Args:
        page: the photo.
        layout: changes of its tags.
        notes: list to which a note is appended if sizes were wrong.

    Raises:
        MissingPixelsError: the file ends before the last sample.
    """
    if page.number(tiff.COMPRESSION, 1) != tiff.UNCOMPRESSED:
        return
    stated = page.numbers(tiff.SIZES) if tiff.OFFSETS in page else page.numbers(tiff.TILE_SIZES)
    for number, piece in enumerate(_pieces(page, layout)):
        if piece.place + piece.needed > page.reader.size:
            raise MissingPixelsError("its samples go on behind the end of the file")
        if number < len(stated) and 0 < stated[number] < piece.needed:
            notes.append("the sizes of its strips are too small, and were calculated")
            return


def cut_deflate(content: bytearray, page: Page, layout: Layout, notes: list[str]) -> dict[int, Sequence[int]]:
    """Shorten Deflate streams with more samples than their strip or tile has, such as a last strip that was filled up.

    libtiff leaves out the last samples of such a stream, or all of them (LIBDEFLATE_INSUFFICIENT_SPACE in tif_zip.c).

    Args:
        content: the file, to which shorter streams are appended.
        page: the photo.
        layout: changes of its tags.
        notes: list to which a note is appended if samples are left over.

    Returns:
        Tags with the offsets and sizes of the streams; none if all were right.
    """
    import imagecodecs

    if page.number(tiff.COMPRESSION, 1) not in DEFLATE:
        return {}
    places, sizes, left_over = [], [], False
    changed = False
    for piece in _pieces(page, layout):
        check_time()
        stream = content[piece.place : piece.place + piece.size]
        place, size = piece.place, piece.size
        try:
            imagecodecs.deflate_decode(stream, out=piece.needed)
        except imagecodecs.DeflateError as error:
            if "INSUFFICIENT_SPACE" in str(error):
                samples = zlib.decompressobj().decompress(stream, piece.full + 1)
                left_over = left_over or len(samples) > piece.full
                shorter = zlib.compress(samples[: piece.needed], 1)
                place, size, changed = len(content), len(shorter), True
                content += shorter
        places.append(place)
        sizes.append(size)
    if left_over:
        notes.append("samples behind the last row of a strip or tile left out")
    tags = (tiff.TILE_OFFSETS, tiff.TILE_SIZES) if tiff.TILE_OFFSETS in page else (tiff.OFFSETS, tiff.SIZES)
    return dict(zip(tags, (places, sizes), strict=True)) if changed else {}


def _pieces(page: Page, layout: Layout) -> Iterator[Piece]:
    """Yield the strips or tiles in the order of the file's tags."""

    def number(tag: int, default: int = 0) -> int:
        return layout[tag][0] if layout.get(tag) else page.number(tag, default)

    in_planes = number(tiff.PLANAR) == tiff.PLANES
    channels = number(tiff.CHANNELS, 1)
    bits = (layout[tiff.BITS][0] if tiff.BITS in layout else page.bits) * (1 if in_planes else channels)
    width, height = number(tiff.WIDTH), number(tiff.HEIGHT)
    if tiff.TILE_OFFSETS in page:
        places, sizes = page.numbers(tiff.TILE_OFFSETS), page.tile_sizes
        needed = -(-number(tiff.TILE_WIDTH) * bits // 8) * number(tiff.TILE_HEIGHT)
        yield from (Piece(*piece, needed, needed) for piece in zip(places, sizes, strict=False))
        return
    places, sizes = page.numbers(tiff.OFFSETS), page.strip_sizes
    rows = layout[tiff.ROWS_PER_STRIP][0] if tiff.ROWS_PER_STRIP in layout else page.rows_per_strip
    row_bytes, strips = -(-width * bits // 8), -(-height // rows)
    for i, piece in enumerate(zip(places, sizes, strict=False)):
        if i >= strips * (channels if in_planes else 1):
            return
        yield Piece(*piece, row_bytes * min(rows, height - i % strips * rows), row_bytes * rows)
