"""BMP files of 16 or 32 bits a pixel whose channels lie in any bit fields; Pillow reads only common ones."""

import io
import struct
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageFile

from cgan.jpeg_decoder import MissingPixelsError
from cgan.photo_limits import MAX_METADATA
from infer.photo.code_points import POINT_TOLERANCE, SRGB_EXPONENT, TOLERANCE
from infer.photo.refusals import UnreadError
from infer.photo.samples import Samples

FORMAT = "BMP_FIELDS"
"""Name under which `BmpFields` is registered with Pillow."""

FILE_HEADER = 14
OLD_HEADER, MASKS_HEADER, ALPHA_HEADER = 40, 52, 56
"""Sizes of headers without masks, with masks of three colours, and with one of alpha; later ones are larger."""

OS2_HEADER, V4_HEADER, V5_HEADER = 64, 108, 124

FIELDS, ALPHA_FIELDS = 3, 6
UNREAD = {4: "an embedded JPEG", 5: "an embedded PNG"}
OS2_UNREAD = {3: "Huffman compression", 4: "RLE of 24 bits"}
"""Values of the field "compression"; its numbers mean other things in a header of OS/2."""

INCHES_PER_METRE = 1 / 0.0254


CALIBRATED, LINKED, EMBEDDED = bytes(4), b"KNIL", b"DEBM"
"""Colour spaces of headers of version 4 and 5: primaries and curves in the header; a profile in another file, in this
one."""
SRGB_ENDS = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""Chromaticities x, y of red, green and blue of sRGB."""


def is_calibrated(header: bytes) -> bool:
    """Return True if a header, from its size on, gives colours other than sRGB's that Pillow does not convert.

    Fields of zeros, which most programs write, give none.
    """
    if len(header) < V4_HEADER or int.from_bytes(header[:4], "little") < V4_HEADER:
        return False
    if header[56:60] == LINKED:
        return True
    ends, curves = np.frombuffer(header[60:96], "<i4").reshape(3, 3), np.frombuffer(header[96:108], "<u4")
    if header[56:60] != CALIBRATED or not (ends.any() or curves.any()):
        return False
    points = ends[:, :2] / np.maximum(ends.sum(axis=1, keepdims=True), 1)
    is_srgb = np.allclose(points.ravel(), SRGB_ENDS, rtol=0, atol=POINT_TOLERANCE)
    return not (is_srgb and np.allclose(curves / 2**16 * SRGB_EXPONENT, 1, rtol=0, atol=TOLERANCE))


def embedded_profile(header: bytes, file: BinaryIO) -> bytes:
    """Return the ICC profile that a header, from its size on, names in its file; nothing if there is none."""
    if len(header) < V5_HEADER or int.from_bytes(header[:4], "little") < V5_HEADER or header[56:60] != EMBEDDED:
        return b""
    offset, size = struct.unpack("<LL", header[112:120])
    file.seek(FILE_HEADER + offset)
    return file.read(min(size, MAX_METADATA))


class BmpFields(ImageFile.ImageFile):
    """The header of a BMP with bit fields."""

    format = "BMP"
    format_description = "BMP with bit fields"

    def _open(self) -> None:
        file = cast(io.BufferedIOBase, self.fp)
        head = file.read(FILE_HEADER + ALPHA_HEADER)
        (size,) = struct.unpack_from("<I", head, FILE_HEADER)
        if size < OLD_HEADER or len(head) < FILE_HEADER + OLD_HEADER:
            raise SyntaxError("not a BMP with bit fields")
        width, height, _, bits, kind, _, across, down = struct.unpack_from("<iiHHIIii", head, FILE_HEADER + 4)
        if name := (OS2_UNREAD if size == OS2_HEADER else UNREAD).get(kind):
            raise UnreadError(f"a BMP with {name}, which is not read")
        if kind not in (FIELDS, ALPHA_FIELDS) or bits not in (16, 32) or width <= 0 or not height:
            raise SyntaxError("not a BMP with bit fields")
        has_alpha = kind == ALPHA_FIELDS or size >= ALPHA_HEADER
        masks = struct.unpack_from("<4I" if has_alpha else "<3I", head + bytes(4), FILE_HEADER + OLD_HEADER)
        self.masks = masks if masks[-1] or not has_alpha else masks[:3]
        """Bits of red, green, blue and maybe alpha."""
        if not any(self.masks[:3]) or max(self.masks) >= 1 << bits:
            raise UnreadError(f"a BMP with bit fields that do not fit: {', '.join(map(hex, masks))}")
        (self.start,) = struct.unpack_from("<I", head, 10)
        self.bits, self.is_top_down = bits, height < 0
        self._size, self._mode = (width, abs(height)), "RGB"
        if across > 0 and down > 0:
            self.info["dpi"] = (across / INCHES_PER_METRE, down / INCHES_PER_METRE)


Image.register_open(FORMAT, BmpFields, lambda head: head[:2] == b"BM")


def samples_of(image: BmpFields, content: bytes) -> Samples:
    """Return the samples of a BMP with bit fields.

    Raises:
        MissingPixelsError: the file ends before its last row.
    """
    width, height = image.size
    stride = (width * image.bits + 31) // 32 * 4
    data = content[image.start : image.start + stride * height]
    if len(data) < stride * height:
        raise MissingPixelsError(f"the file ends after {len(data) / (stride * height):.0%} of its rows")
    rows = np.frombuffer(data, np.uint8).reshape(height, stride)
    pixels = rows[:, : width * image.bits // 8].view(f"<u{image.bits // 8}")
    if not image.is_top_down:
        pixels = pixels[::-1]
    bits = 8 if all(mask.bit_count() <= 8 for mask in image.masks) else 16
    top = 2**bits - 1
    values = np.empty((height, width, len(image.masks)), np.uint8 if bits == 8 else np.uint16)
    for channel, mask in enumerate(image.masks):
        if not mask:  # a colour that the photo does not have
            values[..., channel] = 0
            continue
        shift = (mask & -mask).bit_length() - 1
        values[..., channel] = np.round(((pixels & mask) >> shift) * (top / (mask >> shift)))
    if len(image.masks) == 4 and not values[..., 3].any():  # programs that name a mask but do not fill it
        values = values[..., :3]
    return Samples(values, "RGB", bits, "straight" if values.shape[2] == 4 else None)
