"""JPEG 2000, AVIF, HEIC and JPEG XL, with all of their bits."""

import io
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import (
    AvifImagePlugin,  # noqa: F401  # registered here, or Pillow would import all of its plugins to find these two
    Image,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
)

from cgan.extras import needed
from cgan.jpeg_decoder import MissingPixelsError
from infer.photo.boxes import boxes, other_model, without_profile
from infer.photo.code_points import EXPONENTS, SRGB_EXPONENT, TOLERANCE, unconverted
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
STREAM_HEAD = 256
"""Bytes of a codestream that hold size, depth and colours."""
JXL_GRAY, JXL_CUSTOM, JXL_D65, JXL_SRGB = 1, 2, 1, 1
"""Colour space of gray; custom white or primaries; white and primaries of sRGB."""
JXL_ALPHA, JXL_SPOT, JXL_FILTER_ARRAY = 0, 2, 5
"""Kinds of extra channels whose headers have further fields."""


def depth_of(image: Image.Image, head: bytes) -> int:
    """Return the bits a channel of a JPEG 2000 or AVIF.

    Raises:
        UnreadError: the channels have different numbers of bits.
    """
    if image.format == "JPEG2000":
        depths = {(depth & 0x7F) + 1 for depth in _components(head)[::3]} or {8}
        if len(depths) > 1:
            found = " and ".join(map(str, sorted(depths)))
            raise UnreadError(
                f"a JPEG 2000 of channels with {found} bits, which is not read; expected as many for each"
            )
        return depths.pop()
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


def check_colors(content: bytes) -> None:
    """Check that a JPEG 2000 with several channels has those of RGB or CMYK.

    Raises:
        UnreadError: it has others.
    """
    if name := other_model(content):
        raise UnreadError(f"a JPEG 2000 in {name}, which is not read; expected gray, RGB or CMYK")


def samples_of(values: Array, bits: int, is_cmyk: bool = False) -> Samples:
    """Return decoded samples, H x W x C, as gray, RGB or CMYK, with alpha if there is one channel more.

    Raises:
        MissingPixelsError: there are more than four channels.
    """
    channels = values.shape[2]
    if channels > 4 + is_cmyk:
        raise MissingPixelsError(f"{channels} channels, expected 1 to 4")
    if values.dtype.kind == "i":  # signed components of a JPEG 2000 are those of gray less its middle
        values = (values.astype(np.int32) + (1 << bits - 1)).astype(np.uint16)
    if is_cmyk:
        return Samples(values, "CMYK", bits, "straight" if channels == 5 else None)
    return Samples(values, "L" if channels < 3 else "RGB", bits, "straight" if channels in (2, 4) else None)


def open_heic() -> None:
    """Let Pillow open HEIC files.

    Raises:
        UserError: pillow-heif is not installed.
    """
    with needed("reading HEIC", "heic"):
        import pillow_heif

    pillow_heif.register_heif_opener()


def restore_avif_exif(image: Image.Image) -> None:
    """Give an AVIF its EXIF block as it lies, and the orientation by its boxes irot and imir, in `info`.

    EXIF's own orientation does not count (ISO/IEC 23000-22, 7.3.6.7). Where it differs, Pillow writes the block anew,
    without the offsets that maker notes depend on.
    """
    *_, block, orientation, _ = cast(Any, image)._decoder.get_info()
    image.info["exif"], image.info["orientation"] = block, orientation


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
            for box in boxes(cast(BinaryIO, file)):
                if box.kind in (b"jxlc", b"jxlp") and not stream:
                    file.seek(box.start)
                    stream = file.read(min(box.size, STREAM_HEAD))[(4 if box.kind == b"jxlp" else 0) + 2 :]
        if len(stream) < 10:
            raise SyntaxError("it has no codestream")
        header = _Bits(stream)
        self._size, self._mode, self.tile = header.size(), "RGB", []
        self.depth = header.depth()
        self.is_animated = header.is_animated
        self.color_note = header.color_note()
        """A note on colours that are not converted to sRGB, None for those of sRGB."""


class _Bits:
    """Bits of the header of a JPEG XL codestream, read from the lowest on (ISO 18181-1, annexes B to D)."""

    def __init__(self, stream: bytes) -> None:
        self.left = int.from_bytes(stream, "little")
        self.is_default = self.is_animated = False

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
            self.is_default = True
            return 8
        if self.read(1):
            self.read(3)  # orientation
            if self.read(1):
                self.size()
            if self.read(1):
                raise UnreadError("a JPEG XL with a preview, which is not read")
            if self.read(1):
                self.is_animated = True
                self.choose((100, 0), (1000, 0), (1, 10), (1, 30))
                self.choose((1, 0), (1001, 0), (1, 8), (1, 10))
                self.choose((0, 0), (0, 3), (0, 16), (0, 32))
                self.read(1)
        return self.bit_depth()

    def bit_depth(self) -> int:
        """Return the bits of a BitDepth."""
        if not self.read(1):
            return self.choose((8, 0), (10, 0), (12, 0), (1, 6))
        bits = self.choose((32, 0), (16, 0), (24, 0), (1, 6))
        self.read(4)  # those of the exponent
        return bits

    def color_note(self) -> str | None:
        """Return a note on a ColourEncoding other than sRGB's, which follows the depth; None for sRGB's.

        Its numbers of white, primaries and curve are those of ITU-T H.273, but for 2, custom ones. A curve is noted
        only: encoders that were told none name light itself for samples of more than 8 bits of any curve.
        """
        if self.is_default:
            return None
        self.read(1)  # width of buffers
        for _ in range(self.choose((0, 0), (1, 0), (2, 4), (1, 12))):
            self.extra_channel()
        self.read(1)  # transform to XYB
        if self.read(1):
            return None
        if self.read(1):
            return "ICC profile left out: those of JPEG XL are not read"
        is_gray = self.enum() == JXL_GRAY
        white = self.enum()
        self.points(1 if white == JXL_CUSTOM else 0)
        primaries = JXL_SRGB if is_gray else self.enum()
        self.points(3 if primaries == JXL_CUSTOM else 0)
        if self.read(1):
            transfer, exponent = 0, self.read(24) / 1e7
        else:
            transfer = self.enum()
            exponent = EXPONENTS.get(transfer, 0.0)
        if white != JXL_D65 or primaries == JXL_CUSTOM:
            return "its colours, of primaries of its own by JPEG XL, are not converted to sRGB"
        if note := unconverted(primaries, transfer, "JPEG XL"):
            return note
        if exponent and abs(exponent / SRGB_EXPONENT - 1) > TOLERANCE:
            return f"its tone curve of gamma {exponent:.3g} is not converted"
        return None

    def extra_channel(self) -> None:
        """Pass over an ExtraChannelInfo."""
        if self.read(1):
            return
        kind = self.enum()
        self.bit_depth()
        self.choose((0, 0), (3, 0), (4, 0), (1, 3))
        self.read(8 * self.choose((0, 0), (0, 4), (16, 5), (48, 10)))  # name
        if kind == JXL_ALPHA:
            self.read(1)
        elif kind == JXL_SPOT:
            self.read(4 * 16)
        elif kind == JXL_FILTER_ARRAY:
            self.choose((1, 0), (0, 2), (3, 4), (19, 8))

    def enum(self) -> int:
        """Return a number of an Enum."""
        return self.choose((0, 0), (1, 0), (2, 4), (18, 6))

    def points(self, count: int) -> None:
        """Pass over chromaticities."""
        for _ in range(2 * count):
            self.choose((0, 19), (2**19, 19), (2**20, 20), (2**21, 21))


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
    if name == "jpeg2k":
        content = without_profile(content)
    try:
        values: Array = getattr(imagecodecs, f"{name}_decode")(content, numthreads=1, **first)
    except (RuntimeError, ValueError, MemoryError) as error:  # its own errors are RuntimeErrors
        raise MissingPixelsError(f"the image data are damaged ({error})") from error
    if values.ndim == 4:
        raise UnreadError("an animation, which is not read")
    return values[..., None] if values.ndim == 2 else values
