"""JPEG 2000, AVIF, HEIC and JPEG XL, with all of their bits."""

import io
from typing import Any, cast

import numpy as np
from PIL import (
    AvifImagePlugin,  # noqa: F401  # registered here, or Pillow would import all of its plugins to find these two
    Image,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
)

from cgan.extras import needed
from cgan.jpeg_decoder import MissingPixelsError
from infer.photo.refusals import UnreadError
from infer.photo.samples import Array, Samples

JPEG_XL = "JXL"
"""Name under which `JpegXl` is registered with Pillow."""

SIZES = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream: SOC, and the SIZ segment with the depth of each component (ITU T.800, A.5.1)."""
COMPONENTS_AT = 40
"""Offset of their number from SIZES."""

AV1_CONFIGURATION = b"av1C"
"""Box of an AVIF with its depth (AV1 in ISO media, section 2.3.3)."""

HEAD = 2**16
"""Bytes of a file that are searched for its depth."""

JXL_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
JXL_STREAM = b"\xff\x0a"
JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height (ISO 18181-1, section D.2)."""
MOST_BOXES = 10_000
STREAM_HEAD = 64
"""Bytes of a codestream that hold size and depth."""


def depth_of(image: Image.Image, head: bytes) -> int:
    """Return the bits a channel of a JPEG 2000 or AVIF."""
    if image.format == "JPEG2000":
        return max(((depth & 0x7F) + 1 for depth in _components(head)[::3]), default=8)
    if image.format == "AVIF" and (place := head.find(AV1_CONFIGURATION)) >= 0:
        flags = head[place + 6]
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    return 8


def is_plain_jpeg2000(image: Image.Image, head: bytes) -> bool:
    """Return True for a JPEG 2000 of which imagecodecs decodes the same as Pillow, which keeps Python's lock meanwhile.

    All of its channels have 8 bits without a sign and the full size, and they are no numbers of a palette.
    """
    components = _components(head)
    is_whole = bool(components) and components == b"\7\1\1" * (len(components) // 3)
    return image.format == "JPEG2000" and image.mode in ("L", "LA", "RGB", "RGBA") and is_whole


def _components(head: bytes) -> bytes:
    """Return depth, horizontal and vertical step of each channel of a JPEG 2000; nothing if its head has none."""
    if (place := head.find(SIZES)) < 0:
        return b""
    place += COMPONENTS_AT
    return head[place + 2 :][: 3 * int.from_bytes(head[place : place + 2])]


def samples_of(values: Array, bits: int) -> Samples:
    """Return decoded samples, H x W x C, as gray or RGB, with alpha if there is one channel more.

    Raises:
        MissingPixelsError: there are more than four channels.
    """
    channels = values.shape[2]
    if channels > 4:
        raise MissingPixelsError(f"{channels} channels, expected 1 to 4")
    if values.dtype.kind == "i":  # signed components of a JPEG 2000 are those of gray less its middle
        values = (values.astype(np.int32) + (1 << bits - 1)).astype(np.uint16)
    return Samples(values, "L" if channels < 3 else "RGB", bits, "straight" if channels in (2, 4) else None)


def open_heic() -> None:
    """Let Pillow open HEIC files.

    Raises:
        UserError: pillow-heif is not installed.
    """
    with needed("reading HEIC", "heic"):
        import pillow_heif

    pillow_heif.register_heif_opener()


def heic_samples(content: bytes) -> Samples:
    """Return the upright samples of a HEIC of more than 8 bits; libheif applies its rotation."""
    import pillow_heif

    image = pillow_heif.open_heif(content, convert_hdr_to_8bit=False)
    values = np.asarray(image)
    return samples_of(values[..., None] if values.ndim == 2 else values, 8 * values.dtype.itemsize)


class JpegXl(ImageFile.ImageFile):
    """The header of a JPEG XL; Pillow has no plugin for it."""

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        file = cast(io.BufferedIOBase, self.fp)
        stream = b""
        if file.read(2) == JXL_STREAM:
            stream = file.read(STREAM_HEAD)
        else:
            file.seek(0)
            for kind, size in self._boxes(file):
                if kind in (b"jxlc", b"jxlp") and not stream:
                    stream = file.read(min(size, STREAM_HEAD))[(4 if kind == b"jxlp" else 0) + 2 :]
                elif kind == b"Exif":
                    self.info["exif"] = b"Exif\0\0" + file.read(size)[4:]
                elif kind == b"xml ":
                    self.info["xmp"] = file.read(size)
        if len(stream) < 10:
            raise SyntaxError("it has no codestream")
        header = _Bits(stream)
        self._size, self._mode, self.tile = header.size(), "RGB", []
        self.depth = header.depth()

    @staticmethod
    def _boxes(file: Any) -> Any:
        """Yield type and size of the content of each box; the file is at its content."""
        place = 0
        for _ in range(MOST_BOXES):
            file.seek(place)
            head = file.read(16)
            if len(head) < 8:
                return
            size = int.from_bytes(head[:4])
            start = 16 if size == 1 else 8
            size = int.from_bytes(head[8:16]) if size == 1 else size or 2**63
            if size < start:
                return
            file.seek(place + start)
            yield head[4:8], size - start
            place += size
            if size >= 2**63:
                return


class _Bits:
    """Bits of the header of a JPEG XL codestream, read from the lowest on (ISO 18181-1, annexes B to D)."""

    def __init__(self, stream: bytes) -> None:
        self.left = int.from_bytes(stream, "little")

    def read(self, count: int) -> int:
        """Return the next bits as a number."""
        value = self.left & (1 << count) - 1
        self.left >>= count
        return value

    def choose(self, *sizes: tuple[int, int]) -> int:
        """Return one of four numbers, each given by a base and the bits that are added to it."""
        base, count = sizes[self.read(2)]
        return base + self.read(count)

    def size(self) -> tuple[int, int]:
        """Return width and height of a SizeHeader."""
        is_small = bool(self.read(1))

        def side() -> int:
            return 8 * (1 + self.read(5)) if is_small else self.choose((1, 9), (1, 13), (1, 18), (1, 30))

        height = side()
        if not (ratio := self.read(3)):
            return side(), height
        across, down = JXL_RATIOS[ratio - 1]
        return height * across // down, height

    def depth(self) -> int:
        """Return the bits a channel of an ImageMetadata."""
        if self.read(1):  # all values are the default ones
            return 8
        if self.read(1):
            self.read(3)  # orientation
            if self.read(1):
                self.size()
            if self.read(1):
                raise UnreadError("a JPEG XL with a preview, which is not read")
            if self.read(1):  # animation
                self.choose((100, 0), (1000, 0), (1, 10), (1, 30))
                self.choose((1, 0), (1001, 0), (1, 8), (1, 10))
                self.choose((0, 0), (0, 3), (0, 16), (0, 32))
                self.read(1)
        is_float = bool(self.read(1))
        return (
            self.choose((32, 0), (16, 0), (24, 0), (1, 6))
            if is_float
            else self.choose((8, 0), (10, 0), (12, 0), (1, 6))
        )


Image.register_open(JPEG_XL, JpegXl, lambda head: head[:2] == JXL_STREAM or head[:12] == JXL_CONTAINER)


def decoded(name: str, content: bytes) -> Array:
    """Decode with imagecodecs; returns H x W x C.

    Args:
        name: avif, jpeg2k or jpegxl.
        content: the file.

    Raises:
        MissingPixelsError: the file is damaged.
        UnreadError: it is an animation of a kind that is not read.
    """
    import imagecodecs

    first = {} if name == "jpeg2k" else {"index": 0}
    try:
        values: Array = getattr(imagecodecs, f"{name}_decode")(content, numthreads=1, **first)
    except (RuntimeError, ValueError, MemoryError) as error:  # its own errors are RuntimeErrors
        raise MissingPixelsError(f"the image data are damaged ({error})") from error
    if values.ndim == 4:
        raise UnreadError("an animation, which is not read")
    return values[..., None] if values.ndim == 2 else values
