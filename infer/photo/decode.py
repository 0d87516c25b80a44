"""Decoding of one photo to luma, alpha and metadata. `infer.photo.encode` colours and writes it."""

import contextlib
import errno
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from cgan import libtiff_messages
from cgan.completeness import load
from cgan.formats import PHOTO_FORMATS
from cgan.photo_limits import MAX_PIXELS, LimitError, check_time, metadata_of, opened
from infer.photo import metadata, sixteen_bit_color
from infer.photo.pillow_fixes import mend

Floats = NDArray[np.float32]
Luma = NDArray[np.uint8] | NDArray[np.uint16]

WIDE_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow's modes of gray with more than 8 bits."""

READ_FORMATS = tuple(sorted(set(PHOTO_FORMATS.values())))

PIXEL_BYTES = 8
DEEP_PIXEL_BYTES = 16
"""With more than 8 bits a channel."""
COSTLY_PIXEL_BYTES = 24
"""Of progressive JPEGs, which libjpeg keeps as coefficients and `cgan.jpeg_decoder` decodes twice, CMYK and WebP.

Bytes of memory that a pixel takes from decoding to encoding, without the file; measured, and rounded up."""

METADATA_COPIES = 4
"""Copies of the metadata: Pillow's, the photo's, and two in the output while it is put together."""

REDUCING_GAP = 2.0
"""Pillow's reducing_gap. Photos of at least twice this factor times the render size are first reduced by box means to
no less than this factor times the render size: four times as fast at 1,024 pixels, with half a level of difference."""

SAMPLE_FORMAT, UNSIGNED, SIGNED = 339, 1, 2
"""TIFF tag SampleFormat, and its values for integers."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns a photo of each EXIF orientation upright; 1 is upright (Exif 2.32, section 4.6.4)."""

UNMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
"""Modes with premultiplied alpha, and the modes with straight alpha that Pillow's other methods require."""

PNG_DEEP = frozenset({("I;16B",), ("RGB;16B",), ("LA;16B",), ("RGBA;16B",)})
"""Decoder arguments of Pillow for PNG files of 16 bits a channel."""


def use_own_pixel_limit() -> None:
    """Disable Pillow's pixel limit and warnings in a process where `decode` checks `max_pixels`."""
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")  # they do not name the file; serious ones make it fail anyway


class PhotoError(Exception):
    """A photo cannot be coloured; the message is the reason that the report gives."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo, upright."""

    luma: Luma
    """Rec.601 luma, H x W, in the full range of its integer type."""
    alpha: Image.Image | None
    """Mode L, H x W; None if the photo has no transparency."""
    exif: bytes | None
    """EXIF block; its orientation is upright."""
    icc_profile: bytes | None
    dpi: tuple[float, float] | None
    notes: tuple[str, ...]
    """Notes for the user: frames and profiles that were left out, values that were changed."""
    xmp: bytes | None = None
    """XMP without orientation."""
    iptc: bytes | None = None
    comments: tuple[bytes, ...] = ()
    """Comments of a JPEG or a GIF."""
    texts: tuple[tuple[bytes, bytes], ...] = ()
    """Types and contents of a PNG's text chunks."""
    geo: bytes | None = None
    """Tags of GeoTIFF, as an EXIF block."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.luma.shape[0], self.luma.shape[1]


def decode(source: Path | bytes, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode a photo to luma, alpha and metadata.

    Args:
        source: the file, or its content.
        name: name whose suffix gives the expected format; None for the name of the file. Bytes without a name may have
            any supported format.
        max_pixels: limit of pixels, checked on the header; the other limits are in `cgan.photo_limits`.

    Raises:
        PhotoError: the content is empty, not an image, truncated, too large, or in another format than its suffix says.
        OSError: the file cannot be read.
    """
    with _opened(source, name, max_pixels) as image:
        return _decode(image, lambda: _opened(source, name, max_pixels))


def photo_of(image: Image.Image) -> Photo:
    """Return luma and alpha of an image in memory, without applying orientation and without metadata.

    Raises:
        PhotoError: the image has no pixels, or gray values outside the range of its mode.
        OSError: the image is not loaded yet, and its file is damaged.
    """
    if not (image.width and image.height):
        raise PhotoError("the image is empty")
    load(image)
    notes: list[str] = []
    gray, alpha = _split_alpha(image.convert(UNMULTIPLIED[image.mode]) if image.mode in UNMULTIPLIED else image)
    luma = _luma(gray, {}, notes)
    if notes:
        raise PhotoError(f"found {notes[0]}, expected 0 to {1 if gray.mode == 'F' else 65535} in mode {gray.mode}")
    return Photo(luma, alpha, exif=None, icc_profile=None, dpi=None, notes=())


@dataclass(frozen=True)
class Header:
    """Size of a photo that is not decoded yet."""

    size: tuple[int, int]
    """Height and width in pixels, before orientation is applied."""
    memory: int
    """Largest number of bytes that it takes at a time; `infer.photo.encode.encoding_bytes` adds to them."""

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.size[0] * self.size[1]


def header_of(source: Path | bytes, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Header:
    """Return the size of a photo from its header, without decoding. Arguments and errors are those of `decode`."""
    with _opened(source, name, max_pixels) as image:
        length = source.stat().st_size if isinstance(source, Path) else len(source)
        pixels = image.height * image.width * _pixel_bytes(image)
        return Header((image.height, image.width), pixels + length + METADATA_COPIES * metadata_of(image))


def reason_of(error: Exception) -> str:
    """Return the reason of a failure as text for the report."""
    if isinstance(error, LimitError):
        return f"{error}; raise {error.option}" if error.option else str(error)
    return str(error) if isinstance(error, PhotoError) else f"{type(error).__name__}: {error}"


def model_input(photo: Photo, height: int, width: int) -> Floats:
    """Return the luma squashed to the render size, 1 x height x width float32 in [0, 1]."""
    image = Image.fromarray(photo.luma)
    if image.size != (width, height):
        gap = REDUCING_GAP if image.mode == "L" else None  # Pillow cannot do this with 16 bits
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=gap)
    small: Floats = np.asarray(image, np.float32)[None] / np.float32(np.iinfo(photo.luma.dtype).max)
    return small


def render_size_for(photo_size: tuple[int, int], longest: int, multiple: int) -> tuple[int, int]:
    """Return the render size of a photo for a model of dynamic size.

    Args:
        photo_size: height and width of the photo.
        longest: longer side of the render size, before rounding.
        multiple: number that each side must be a multiple of.

    Returns:
        Height and width in the proportions of the photo, each rounded to the nearest multiple, and at least `multiple`.
    """
    # In integers: side * longest / max(photo_size) / multiple, rounded half up.
    denominator = max(photo_size) * multiple
    height, width = ((2 * side * longest + denominator) // (2 * denominator) for side in photo_size)
    return max(height, 1) * multiple, max(width, 1) * multiple


@contextlib.contextmanager
def _opened(source: Path | bytes, name: str | None, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image and read its header; errors of Pillow on its content are raised as PhotoError."""
    if name is None and isinstance(source, Path):
        name = source.name
    expected = _format_of(name) if name is not None else None
    if not (source.stat().st_size if isinstance(source, Path) else source):
        raise PhotoError("the file is empty")
    try:
        with opened(source, READ_FORMATS, max_pixels) as image:
            found = "JPEG" if image.format == "MPO" else image.format  # MPO is a JPEG with more than one picture
            if expected and found != expected:
                raise PhotoError(f"its content is {found} but its name says {expected}; rename it")
            mend(image)
            yield image
    except LimitError as error:
        raise PhotoError(reason_of(error)) from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"not an image, or a kind of {expected or 'image'} that Pillow cannot read") from error
    except (Image.DecompressionBombError, SyntaxError, EOFError, ValueError) as error:
        raise PhotoError(f"{type(error).__name__}: {error}") from error
    except (AssertionError, LookupError, TypeError, ArithmeticError, struct.error) as error:
        raise PhotoError(f"damaged: {type(error).__name__} {error}".rstrip()) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL comes from seeking before the start of the file
            raise  # an error of the disk or the network
        raise PhotoError(f"damaged: {error}") from error


def _format_of(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix not in PHOTO_FORMATS:
        raise PhotoError(f"found a name that ends in {suffix!r}, expected one of {', '.join(PHOTO_FORMATS)}")
    return PHOTO_FORMATS[suffix]


def _decode(image: Image.Image, again: Callable[[], AbstractContextManager[Image.Image]]) -> Photo:
    """Decode an image that is not loaded yet; `again` opens it a second time."""
    notes: list[str] = []
    file = image.fp  # type: ignore[attr-defined]
    if getattr(image, "is_animated", False):
        notes.append("first frame of several")
    bits, layout = _source_bits(image), dict(getattr(image, "tag_v2", {}))
    wide = sixteen_bit_color.reading_of(image)
    if wide:
        image.tile = wide.first  # type: ignore[attr-defined]
    # A JPEG stores luma as a plane of its own: this decodes only that plane, at full size. If the JPEG stores RGB,
    # libjpeg computes luma; CMYK is not affected.
    image.draft("L", None)
    notes += load(image)
    if bits > 8 and image.mode not in WIDE_MODES and not wide:
        notes.append(f"read with 8 of its {bits} bits a channel, all that Pillow reads of this kind of {image.format}")
    kept = metadata.read(image, file, notes)
    profile = metadata.rgb_profile(image, notes)
    gray, alpha = _split_wide(image, wide, again, notes) if wide else _split_alpha(image)
    if gray.mode not in WIDE_MODES:
        gray = _eight_bit_luma(gray)  # transposing one plane takes a third of the time of three
    turn = UPRIGHT.get(kept.orientation) if image.format != "TIFF" else None  # which Pillow turns when it loads it
    if turn is not None:
        gray = gray.transpose(turn)
        alpha = alpha and alpha.transpose(turn)
    return Photo(
        luma=_luma(gray, layout, notes),
        alpha=alpha,
        exif=kept.exif,
        icc_profile=profile,
        dpi=kept.dpi,
        notes=tuple(notes),
        xmp=kept.xmp,
        iptc=kept.iptc,
        comments=kept.comments,
        texts=kept.texts,
        geo=kept.geo,
    )


def _tile_arguments(image: Image.Image) -> tuple[Any, ...]:
    """Return the arguments of Pillow's decoder for an image that is not loaded yet, such as ("RGB;16B",)."""
    tile = getattr(image, "tile", None)
    arguments = tile[0].args if tile else ()
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _source_bits(image: Image.Image) -> int:
    """Return the bits a channel in the file of an image that is not loaded yet; Pillow's mode does not give them."""
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(ExifTags.Base.BitsPerSample, (1,))))  # type: ignore[attr-defined]
    arguments = _tile_arguments(image)
    if image.format == "PPM":  # mode and highest value, where that is not 255
        return 16 if arguments[-1] in range(256, 65_536) else 8
    return 16 if image.format == "PNG" and arguments in PNG_DEEP else 8


def _pixel_bytes(image: Image.Image) -> int:
    """Return the bytes of memory a pixel of an image that is not loaded yet."""
    if image.mode == "CMYK" or image.format == "WEBP" or "progressive" in image.info:
        return COSTLY_PIXEL_BYTES
    return DEEP_PIXEL_BYTES if _source_bits(image) > 8 or image.mode in WIDE_MODES else PIXEL_BYTES


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the image, and its alpha in mode L or None."""
    if not image.has_transparency_data and "transparency" not in image.info:
        return image, None
    if image.mode in WIDE_MODES:  # one value is transparent; converting these modes to RGBA would clip them
        opaque = np.asarray(image) != image.info["transparency"]
        return image, Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8))
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")
    return image, image.getchannel("A")


def _split_wide(
    image: Image.Image,
    reading: sixteen_bit_color.Reading,
    again: Callable[[], AbstractContextManager[Image.Image]],
    notes: list[str],
) -> tuple[Image.Image, Image.Image | None]:
    """Return luma of 16 bits, and alpha in mode L or None."""
    transparent = image.info.get("transparency")
    with contextlib.ExitStack() as stack:
        low = None
        check_time()
        if reading.second:
            low = stack.enter_context(again())
            low.tile = reading.second  # type: ignore[attr-defined]
            with libtiff_messages.collected():  # the same as those of the first pass
                low.load()
        luma, alpha, cut = sixteen_bit_color.luma_and_alpha(image, low, transparent)
    if cut:
        notes.append("transparency read with 8 of its 16 bits")
    return luma, alpha


def _luma(image: Image.Image, layout: dict[int, Any], notes: list[str]) -> Luma:
    """Return Rec.601 luma of an image of any mode; arguments are those of `_wide_luma`."""
    if image.mode in WIDE_MODES:
        return _wide_luma(np.asarray(image), layout, notes)
    if image.mode == "L" and layout.get(SAMPLE_FORMAT) == (SIGNED,):  # which Pillow ignores
        return _wide_luma(np.asarray(image).view(np.int8), layout, notes)
    return np.asarray(_eight_bit_luma(image))


def _eight_bit_luma(image: Image.Image) -> Image.Image:
    """Return Rec.601 luma of a mode of at most 8 bits a channel, ignoring alpha."""
    if image.mode == "L":
        return image  # convert() would copy it
    if image.mode not in ("1", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    return image.convert("L")


def _wide_luma(values: NDArray[Any], layout: dict[int, Any], notes: list[str]) -> NDArray[np.uint16]:
    """Return luma of gray with more than 8 bits; values outside the natural range are stretched from lowest to highest.

    Args:
        values: H x W, as read by Pillow.
        layout: tags of a TIFF.
        notes: list to which a note on stretching is appended.
    """
    bits = layout.get(ExifTags.Base.BitsPerSample, (16,))[0]
    if values.dtype == np.int32 and layout.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED and bits == 32:
        values = values.view(np.uint32)  # Pillow reads both kinds as signed
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise PhotoError("it has values that are not finite numbers")
    natural = 1.0 if values.dtype.kind == "f" else 2.0 ** (bits if bits <= 16 else 16) - 1
    offset = 0.0
    if low < 0 or high > natural:
        notes.append(f"values from {low:g} to {high:g} stretched to the range of gray")
        offset, natural = low, (high - low) or 1.0
    scaled: NDArray[np.uint16] = values
    if values.dtype != np.uint16 or natural != 65535 or offset != 0:
        scaled = np.empty(values.shape, np.uint16)
        for row, out in zip(values, scaled, strict=True):  # row by row, because float64 takes four times the memory
            out[:] = np.round((row.astype(np.float64) - offset) * (65535.0 / natural))
    white_is_zero = layout.get(ExifTags.Base.PhotometricInterpretation) == 0  # Pillow inverts only 8 bits
    return 65535 - scaled if white_is_zero else scaled
