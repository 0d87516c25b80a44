"""Writers of PNG and TIFF files with 8 or 16 bits a channel.

Pillow writes no colour of 16 bits and no compressed TIFF with EXIF, and holds Python's lock while it writes PNG. Both
formats are written band by band, without a second full-size copy of the samples. PNG follows the W3C
specification, third edition; TIFF is revision 6.0 with Adobe's Deflate, and Pillow packs its directory.
"""

import struct
import zlib
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, TiffTags

from infer.photo import iptc
from infer.photo.decode import Photo, PhotoError

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
TIFF_INCH = 2
TIFF_RGB = 2
TIFF_HORIZONTAL_DIFFERENCES = 2
TIFF_UNASSOCIATED_ALPHA = 2
TIFF_LAYOUT_TAGS = frozenset(
    {
        *range(254, 267),  # from NewSubfileType to FillOrder
        *(TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.SAMPLESPERPIXEL),
        *range(278, 282),  # from RowsPerStrip to MaxSampleValue
        TiffImagePlugin.PLANAR_CONFIGURATION,
        *range(288, 292),  # free space, and the curve of gray
        TiffImagePlugin.TRANSFERFUNCTION,
        *range(317, 326),  # from Predictor to TileByteCounts
        *range(330, 348),  # from SubIFDs to JPEGTables
        *range(512, 533),  # JPEG streams and YCbCr
        TiffImagePlugin.XMP,
        TiffImagePlugin.ICCPROFILE,
        iptc.TIFF_TAG,
    }
)
"""Tags that describe the layout of a file. They do not belong in an EXIF block, and would be wrong in a new file."""


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
        _chunk(file, *png_xmp(photo.xmp))
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


def png_xmp(xmp: bytes) -> tuple[bytes, bytes]:
    """Return type and content of an uncompressed PNG chunk with XMP (XMP specification part 3, section 1.1.5)."""
    return b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp


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
    strips = deque([_strip(first)])
    strips.extend(_strip(band) for band in bands)
    sizes = [len(strip) for strip in strips]
    directory = _exif_directory(photo.exif)
    if photo.xmp:
        _set(directory, TiffImagePlugin.XMP, TiffTags.BYTE, photo.xmp)
    if photo.iptc:
        _set(directory, iptc.TIFF_TAG, TiffTags.UNDEFINED, photo.iptc)
    if photo.icc_profile:
        _set(directory, TiffImagePlugin.ICCPROFILE, TiffTags.UNDEFINED, photo.icc_profile)
    if photo.dpi:
        directory[TiffImagePlugin.X_RESOLUTION], directory[TiffImagePlugin.Y_RESOLUTION] = photo.dpi
        directory[TiffImagePlugin.RESOLUTION_UNIT] = TIFF_INCH
    directory[TiffImagePlugin.IMAGEWIDTH], directory[TiffImagePlugin.IMAGELENGTH] = width, height
    directory[TiffImagePlugin.BITSPERSAMPLE] = (8 * first.itemsize,) * channels
    directory[TiffImagePlugin.COMPRESSION] = TiffImagePlugin.COMPRESSION_INFO_REV["tiff_adobe_deflate"]
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = TIFF_RGB
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    directory[TiffImagePlugin.PLANAR_CONFIGURATION] = 1
    directory[TiffImagePlugin.PREDICTOR] = TIFF_HORIZONTAL_DIFFERENCES
    if channels == 4:
        directory[TiffImagePlugin.EXTRASAMPLES] = TIFF_UNASSOCIATED_ALPHA
    directory[TiffImagePlugin.ROWSPERSTRIP] = rows
    # The directory comes first in the file; Pillow adds its length to the offsets of the strips.
    offsets = np.cumsum([0, *sizes[:-1]])
    if offsets[-1] + sizes[-1] >= TIFF_LIMIT - 2**24:  # room for metadata
        raise PhotoError(f"{sum(sizes)} bytes when compressed, TIFF holds 4 GiB; use --format png")
    _set(directory, TiffImagePlugin.STRIPOFFSETS, TiffTags.LONG, tuple(map(int, offsets)))
    _set(directory, TiffImagePlugin.STRIPBYTECOUNTS, TiffTags.LONG, tuple(sizes))
    directory.save(file)
    while strips:  # frees each strip once it is written
        file.write(strips.popleft())


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


def _strip(band: Samples) -> bytes:
    """Return a compressed, little-endian strip of a TIFF, with horizontal differences."""
    differences = np.diff(band, axis=1, prepend=band.dtype.type(0))
    return zlib.compress(differences.astype(band.dtype.newbyteorder("<"), copy=False).data, COMPRESSION_LEVEL)


def _exif_directory(exif: bytes | None) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return a little-endian TIFF directory with the tags and sub-directories of an EXIF block."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=TiffImagePlugin.II)
    tags = Image.Exif()
    tags.load(exif or b"")
    for tag, value in tags.items():
        if tag not in TIFF_LAYOUT_TAGS:
            directory[tag] = tags.get_ifd(tag) if tag in TiffTags.TAGS_V2_GROUPS else value
    return directory


def _set(directory: TiffImagePlugin.ImageFileDirectory_v2, tag: int, kind: int, value: object) -> None:
    """Set a tag whose type does not follow from its value."""
    directory.tagtype[tag] = kind
    directory[tag] = value
