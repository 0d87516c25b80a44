"""Writers of PNG and TIFF files with 8 or 16 bits a channel.

Pillow writes no colour of 16 bits and no compressed TIFF with EXIF, and holds Python's lock while it writes PNG. Both
formats are written band by band, without a second full-size copy of the samples. PNG follows the W3C
specification, third edition; TIFF is revision 6.0 with Adobe's Deflate.
"""

import itertools
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from infer.photo import exif, iptc, tiff, xmp
from infer.photo.containers import LAYOUT_TAGS, LEFT_OUT_TAGS, names_of
from infer.photo.decode import Photo, PhotoError
from infer.photo.tiff import Field

Samples = NDArray[np.uint8] | NDArray[np.uint16]
"""A band: rows x width x 3 (RGB) or 4 (RGBA, straight alpha), in the full range of its type."""

COMPRESSION_LEVEL = 3
"""Compression level of zlib, 0 to 9. On coloured photos the default, 6, took 1.7 to 2.8 times as long, for files 5%
smaller to 13% larger."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_RGB, PNG_RGBA = 2, 6
PNG_SUB, PNG_UP = 1, 2
INCHES_PER_METRE = 1 / 0.0254

TIFF_LIMIT = 2**32
"""Largest size of a TIFF in bytes, by its 32-bit offsets."""
TIFF_BYTE, TIFF_UNDEFINED = 1, 7
TIFF_RGB = 2
TIFF_DEFLATE = 8
TIFF_INTERLEAVED = 1
TIFF_HORIZONTAL_DIFFERENCES = 2
TIFF_UNASSOCIATED_ALPHA = 2
TIFF_ICC_PROFILE = 34675
TIFF_OWN_TAGS = frozenset({256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 338, TIFF_ICC_PROFILE})
"""Tags that each TIFF gets here."""
NO_EXIF_TAGS = LAYOUT_TAGS | LEFT_OUT_TAGS
"""Tags of an EXIF block that would describe the pixels of a TIFF."""


def write_png(file: BinaryIO, bands: Iterator[Samples], height: int, photo: Photo) -> None:
    """Write a PNG of 8 or 16 bits a channel.

    Args:
        file: file opened for writing.
        bands: samples from top to bottom.
        height: height of all bands, in pixels.
        photo: source of the metadata.
    """
    band = next(bands)
    _, width, channels = band.shape
    color = PNG_RGB if channels == 3 else PNG_RGBA
    depth = band.dtype.itemsize  # bytes per sample
    file.write(PNG_SIGNATURE)
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * depth, color, 0, 0, 0))
    if photo.icc_profile:
        _chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(photo.icc_profile))
    if photo.dpi:
        x, y = (round(value * INCHES_PER_METRE) for value in photo.dpi)
        _chunk(file, b"pHYs", struct.pack(">IIB", x, y, 1))
    if photo.xmp:
        _chunk(file, *png_xmp(xmp.in_utf8(photo.xmp)))
    for text in photo.texts:
        _chunk(file, *text)
    if photo.iptc:
        _chunk(file, *iptc.png_chunk(photo.iptc))
    if photo.exif:
        _chunk(file, b"eXIf", photo.exif.removeprefix(b"Exif\0\0"))
    compressor = zlib.compressobj(COMPRESSION_LEVEL)
    above = np.zeros(width * channels * depth, np.uint8)
    while True:
        rows = band.astype(f">u{depth}", copy=False).view(np.uint8).reshape(len(band), -1)
        content = compressor.compress(_filtered(rows, above, depth * channels).data)
        if content:
            _chunk(file, b"IDAT", content)
        above = rows[-1]
        following = next(bands, None)
        if following is None:
            break
        band = following
    _chunk(file, b"IDAT", compressor.flush())
    _chunk(file, b"IEND", b"")


def png_xmp(packet: bytes) -> tuple[bytes, bytes]:
    """Return type and content of an uncompressed PNG chunk with XMP (XMP specification part 3, section 1.1.5)."""
    return b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet


def write_tiff(file: BinaryIO, bands: Iterator[Samples], height: int, photo: Photo) -> None:
    """Write a TIFF of 8 or 16 bits a channel, with one strip per band.

    Args:
        file: file opened for writing, at its beginning.
        bands: samples from top to bottom; all bands but the last have the same number of rows.
        height: height of all bands, in pixels.
        photo: source of the metadata.

    Raises:
        PhotoError: the file would exceed 4 GiB.
    """
    first = next(bands)
    rows, width, channels = first.shape
    content, order, fields = _kept_fields(photo)
    strips = deque([_strip(first, order)])
    strips.extend(_strip(band, order) for band in bands)
    sizes = [len(strip) for strip in strips]
    shorts = {
        258: [8 * first.itemsize] * channels,  # BitsPerSample
        259: [TIFF_DEFLATE],
        262: [TIFF_RGB],
        277: [channels],
        284: [TIFF_INTERLEAVED],
        317: [TIFF_HORIZONTAL_DIFFERENCES],
        338: [TIFF_UNASSOCIATED_ALPHA] * (channels - 3),
    }
    fields += [tiff.longs(tag, order, *values, kind=3) for tag, values in shorts.items() if values]
    fields += [tiff.longs(tag, order, value) for tag, value in ((256, width), (257, height), (278, rows))]
    place = _with_directory(bytearray(content), order, [*fields, *_strip_fields(order, 0, sizes)])[1]
    if place + sum(sizes) >= TIFF_LIMIT:
        raise PhotoError(f"{place + sum(sizes)} bytes when compressed, TIFF holds 4 GiB; use --format png")
    file.write(_with_directory(content, order, [*fields, *_strip_fields(order, place, sizes)])[0])
    while strips:  # frees each strip once it is written
        file.write(strips.popleft())


def unheld_tags(block: bytes) -> str:
    """Return the names of an EXIF block's tags that would describe the pixels of a TIFF wrongly, for a note."""
    reader = tiff.Reader(block.removeprefix(exif.IDENTIFIER))
    tags = (entry.tag for entry in reader.directory(reader.first).entries)
    return names_of([tag for tag in tags if tag in NO_EXIF_TAGS - TIFF_OWN_TAGS])


def _kept_fields(photo: Photo) -> tuple[bytearray, str, list[Field]]:
    """Return the beginning of a TIFF, its byte order, and the fields of the photo's metadata.

    The beginning is the EXIF block as it lies, so that everything in it keeps its offset.
    """
    content = (photo.exif or photo.geo or b"").removeprefix(exif.IDENTIFIER) or tiff.header("<", 8) + bytes(6)
    reader = tiff.Reader(content)
    fields = exif.fields_at_their_place(reader, reader.directory(reader.first), NO_EXIF_TAGS)
    if photo.geo and photo.exif:
        geo = tiff.Reader(photo.geo.removeprefix(exif.IDENTIFIER))
        entries = geo.directory(geo.first).entries
        fields += [Field(entry.tag, entry.kind, entry.length, geo.value(entry)) for entry in entries]
    kept = ((xmp.TIFF_TAG, TIFF_BYTE, photo.xmp), (iptc.TIFF_TAG, TIFF_UNDEFINED, photo.iptc))
    for tag, kind, value in (*kept, (TIFF_ICC_PROFILE, TIFF_UNDEFINED, photo.icc_profile)):
        if value:
            fields.append(Field(tag, kind, len(value), value))
    if photo.dpi and not {exif.X_RESOLUTION, exif.Y_RESOLUTION} <= {field.tag for field in fields}:
        fields = [field for field in fields if field.tag not in exif.RESOLUTION]
        fields += exif.resolution_fields(reader.order, photo.dpi)
    return bytearray(content), reader.order, fields


def _strip_fields(order: str, place: int, sizes: list[int]) -> list[Field]:
    """Return the fields of strips that follow each other from an offset on."""
    offsets = [place + before for before in itertools.accumulate(sizes[:-1], initial=0)]
    return [tiff.longs(273, order, *offsets), tiff.longs(279, order, *sizes)]


def _with_directory(content: bytearray, order: str, fields: list[Field]) -> tuple[bytearray, int]:
    """Append the first directory of a TIFF to its content; return the content and its length."""
    content[:8] = tiff.header(order, tiff.append_directory(content, order, fields))
    return content, len(content)


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    """Write one chunk of a PNG: length, type, content and checksum."""
    file.write(struct.pack(">I", len(content)) + kind)
    file.write(content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], pixel: int) -> NDArray[np.uint8]:
    """Filter rows of a PNG by the difference from the pixel to the left or above, whichever has the smaller sum.

    Args:
        rows: n x bytes.
        above: the row before the first one.
        pixel: bytes per pixel.

    Returns:
        n x (1 + bytes); the first column is the filter type.
    """
    sub, up = rows.copy(), rows.copy()
    sub[:, pixel:] -= rows[:, :-pixel]
    up[0] -= above
    up[1:] -= rows[:-1]
    # The specification's heuristic (section 12.7): bytes count as signed, and the smallest sum wins.
    costs = [np.abs(differences.view(np.int8).astype(np.int16)).sum(1, dtype=np.int64) for differences in (sub, up)]
    is_sub = costs[0] < costs[1]
    filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = np.where(is_sub, PNG_SUB, PNG_UP)
    filtered[:, 1:] = up
    filtered[is_sub, 1:] = sub[is_sub]
    return filtered


def _strip(band: Samples, order: str) -> bytes:
    """Return a compressed strip of a TIFF in a byte order, with horizontal differences."""
    differences = np.diff(band, axis=1, prepend=band.dtype.type(0))
    return zlib.compress(differences.astype(f"{order}u{band.dtype.itemsize}", copy=False).data, COMPRESSION_LEVEL)
