"""Decoding of one photo to luma, alpha and metadata. `infer.photo.encode` colours and writes it."""

import contextlib
import errno
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, MAX_TEXT_MEMORY

from cgan.completeness import load
from cgan.errors import UserError
from cgan.formats import PHOTO_FORMATS, READABLE_FORMATS
from cgan.jpeg_decoder import MissingPixelsError
from cgan.photo_limits import MAX_PIXELS, LimitError, check_file_size, check_size, metadata_of, opened
from infer.photo import color_profile, exif, metadata, newer_formats, pixels
from infer.photo.bmp_fields import FORMAT as BMP_FIELDS
from infer.photo.color_spread import COLOR_SPREAD, color_spread, jpeg_spread
from infer.photo.formats import ProfileUse
from infer.photo.headers import WIDE_JPEG, PlainJpeg, plain_jpeg
from infer.photo.refusals import SIGNATURE_SIZE, UnreadError, name_of, unidentified
from infer.photo.samples import Convert, Luma, Samples, bands, luma_and_alpha
from infer.photo.tiff_pages import FORMAT as TIFF_PAGES

Floats = NDArray[np.float32]

READ_FORMATS = tuple(sorted(set(PHOTO_FORMATS.values())))

OPENERS = (BMP_FIELDS, *sorted({*READABLE_FORMATS.values()} - {"HEIF", "TIFF"}), WIDE_JPEG, TIFF_PAGES)
"""Names under which Pillow knows the parsers of headers."""

METADATA_COPIES = 4
"""Copies of the metadata: Pillow's, the photo's, and two in the output while it is put together."""

JPEG_HEAD = 2**14
"""Bytes of a JPEG that are searched for its header; a longer one is left to the parser."""

REDUCING_GAP = 2.0
"""Pillow's reducing_gap. Photos of at least twice this factor times the render size are first reduced by box means to
no less than this factor times the render size: four times as fast at 1,024 pixels, with half a level of difference."""

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
    color_spread: float = 0.0
    """See `infer.photo.color_spread.spread_of`; 0 for gray photos and images in memory."""

    @property
    def was_color(self) -> bool:
        """True if the file holds a colour photo, not a gray one that may have a cast or a toning."""
        return self.color_spread > COLOR_SPREAD

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.luma.shape[0], self.luma.shape[1]


def decode(
    source: Path | bytes,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    profile: ProfileUse = ProfileUse.CONVERT,
) -> Photo:
    """Decode a photo to luma, alpha and metadata.

    Args:
        source: the file, or its content.
        name: name whose suffix gives the expected format; None for the name of the file. Bytes without a name may have
            any supported format.
        max_pixels: limit of pixels, checked on the header; the other limits are in `cgan.photo_limits`.
        profile: use of an ICC profile for RGB; photos in gray and CMYK are always converted from theirs.

    Raises:
        PhotoError: the content is empty, not an image, truncated, too large, or in another format than its suffix says.
        OSError: the file cannot be read.
    """
    with _opened(source, name, max_pixels) as image:
        return _decode(image, max_pixels, profile)


def photo_of(image: Image.Image, profile: ProfileUse = ProfileUse.CONVERT) -> Photo:
    """Return luma, alpha and profile of an image in memory, without applying orientation and without other metadata.

    Raises:
        PhotoError: the image has no pixels, or gray values outside the range of its mode.
        OSError: the image is not loaded yet, and its file is damaged.
    """
    if not (image.width and image.height):
        raise PhotoError("the image is empty")
    load(image)
    notes: list[str] = []
    image = image.convert(UNMULTIPLIED[image.mode]) if image.mode in UNMULTIPLIED else image
    convert, kept = color_profile.settle(image.info.get("icc_profile"), pixels.model_of(image), profile, [])
    try:
        luma, alpha = _luma_and_alpha(image, notes, convert)
    except UnreadError as error:
        raise PhotoError(str(error)) from error
    if notes:
        raise PhotoError(f"found {notes[0]}, expected 0 to {1 if image.mode == 'F' else 65535} in mode {image.mode}")
    return Photo(luma, alpha, exif=None, icc_profile=kept, dpi=None, notes=())


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
    length = source.stat().st_size if isinstance(source, Path) else len(source)
    named = source.name if name is None and isinstance(source, Path) else name
    is_jpeg = named is not None and READABLE_FORMATS.get(Path(named).suffix.lower()) == "JPEG"
    if is_jpeg and (plain := plain_jpeg(_head_of(source, JPEG_HEAD))):  # a parser takes ten times as long
        return _header_of_jpeg(plain, length, max_pixels)
    with _opened(source, name, max_pixels) as image:
        width, height = pixels.size_of(image)
        memory = height * width * pixels.pixel_bytes(image)
        return Header((height, width), memory + length + METADATA_COPIES * metadata_of(image))


def _header_of_jpeg(found: PlainJpeg, length: int, max_pixels: int) -> Header:
    """Return the header of a JPEG of `length` bytes."""
    try:
        check_file_size(length, max_pixels)
        check_size((found.width, found.height), max_pixels)
    except LimitError as error:
        raise PhotoError(reason_of(error)) from error
    pixel_bytes = pixels.COSTLY_PIXEL_BYTES if found.is_progressive else pixels.PIXEL_BYTES
    memory = found.height * found.width * pixel_bytes
    return Header((found.height, found.width), memory + length + METADATA_COPIES * found.metadata)


def reason_of(error: Exception) -> str:
    """Return the reason of a failure as text for the report."""
    if isinstance(error, LimitError):
        return f"{error}; raise {error.option}" if error.option else str(error)
    if isinstance(error, OSError) and error.strerror:  # without its path, which may be a temporary one
        return error.strerror
    return str(error) if isinstance(error, PhotoError | UnreadError) else f"{type(error).__name__}: {error}"


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
        with opened(source, _openers(expected), max_pixels) as image:
            found = name_of(str(image.format))
            if expected and found != name_of(expected):
                pixels.size_of(image)  # raises for raw data of a camera, which the other name would not help
                raise PhotoError(f"its content is {found} but its name says {name_of(expected)}; rename it")
            yield image
    except LimitError as error:
        raise PhotoError(reason_of(error)) from error
    except UnreadError as error:
        raise PhotoError(str(error)) from error
    except UnidentifiedImageError as error:
        raise PhotoError(unidentified(_head_of(source), expected)) from error
    except (Image.DecompressionBombError, SyntaxError, EOFError, ValueError) as error:
        raise PhotoError(_damage(error)) from error
    except (AssertionError, LookupError, TypeError, ArithmeticError, RuntimeError, struct.error) as error:
        raise PhotoError(f"damaged: {type(error).__name__} {error}".rstrip()) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL comes from seeking before the start of the file
            raise  # an error of the disk or the network
        if "upported" in str(error) and not isinstance(
            error, MissingPixelsError
        ):  # Pillow's words for what it does not read
            raise PhotoError(f"a kind of {expected or 'image'} that is not read: {error}") from error
        raise PhotoError(f"damaged: {error}") from error


def _damage(error: Exception) -> str:
    """Return the reason in an error of Pillow, which names constants of its own for limits on the texts of a PNG."""
    if "PngImagePlugin.MAX_TEXT_CHUNK" in str(error):
        return f"a text of more than {MAX_TEXT_CHUNK} bytes in its metadata, the limit"
    if "MAX_TEXT_MEMORY" in str(error):
        return f"more than {MAX_TEXT_MEMORY} bytes of texts in its metadata, the limit"
    if isinstance(error, Image.DecompressionBombError):  # of a process that did not call use_own_pixel_limit
        return str(error)
    return f"damaged: {error}".rstrip(": ")


def _format_of(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix not in READABLE_FORMATS:
        raise PhotoError(f"found a name that ends in {suffix!r}, expected one of {', '.join(READABLE_FORMATS)}")
    return READABLE_FORMATS[suffix]


def _openers(expected: str | None) -> tuple[str, ...]:
    if expected != "HEIF":
        return OPENERS
    try:
        newer_formats.open_heic()
    except UserError as error:
        raise PhotoError(str(error)) from error
    return ("HEIF", *OPENERS)


def _head_of(source: Path | bytes, size: int = SIGNATURE_SIZE) -> bytes:
    if isinstance(source, bytes):
        return source[:size]
    with source.open("rb", buffering=0) as file:
        return file.read(size)


def _decode(image: Image.Image, max_pixels: int, use: ProfileUse) -> Photo:
    """Decode an image that is not loaded yet."""
    notes: list[str] = []
    file = image.fp  # type: ignore[attr-defined]
    if getattr(image, "is_animated", False) and image.format != "TIFF":
        notes.append("first frame of several")
    mode = image.mode
    decoded, own_orientation = pixels.read(image, notes, max_pixels, use)
    kept = metadata.read(image, file, notes)
    convert, profile = color_profile.settle(image.info.get("icc_profile"), pixels.model_of(decoded), use, notes)
    luma, alpha = _luma_and_alpha(decoded, notes, convert)
    if convert:
        kept = metadata.in_srgb(kept, notes)
    elif not image.info.get("icc_profile") and kept.exif and exif.says_adobe_rgb(kept.exif):
        notes.append("EXIF says Adobe RGB, but there is no profile: its luma is taken as that of sRGB")
    luma_alone = image.format in pixels.JPEG_FORMATS and mode == "RGB" and pixels.model_of(decoded) == "L"
    spread = jpeg_spread(image, file) if luma_alone else color_spread(decoded)
    orientation = own_orientation or kept.orientation
    if orientation in UPRIGHT:
        luma = np.asarray(Image.fromarray(luma).transpose(UPRIGHT[orientation]))
        alpha = alpha and alpha.transpose(UPRIGHT[orientation])
    return Photo(
        luma=luma,
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
        color_spread=spread,
    )


def _luma_and_alpha(
    decoded: Image.Image | Samples, notes: list[str], convert: Convert | None
) -> tuple[Luma, Image.Image | None]:
    """Return Rec.601 luma, of colours that are converted if asked for, and alpha in mode L or None."""
    if isinstance(decoded, Image.Image) and decoded.mode in pixels.WIDE_MODES:
        decoded = pixels.wide_samples(decoded)
    if isinstance(decoded, Samples):
        return luma_and_alpha(decoded, notes, convert)
    gray, alpha = _split_alpha(decoded)
    if convert and pixels.model_of(gray) != "L":
        return _converted_luma(gray, convert), alpha
    luma = np.asarray(_eight_bit_luma(gray))
    return (convert(luma[..., None])[..., 0] if convert else luma), alpha


def _converted_luma(image: Image.Image, convert: Convert) -> Luma:
    """Return Rec.601 luma of colours, or of gray with alpha in RGBA, after their conversion to sRGB, ignoring alpha."""
    luma = np.empty(image.size[::-1], np.uint8)
    for rows in bands(luma):
        band = image.crop((0, rows.start, image.width, min(rows.stop, image.height)))
        values = np.asarray(band if band.mode == "CMYK" else band.convert("RGB"))
        luma[rows] = Image.fromarray(convert(values)).convert("L")
    return luma


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the image, and its alpha in mode L or None."""
    if not image.has_transparency_data and "transparency" not in image.info:
        return image, None
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")
    return image, image.getchannel("A")


def _eight_bit_luma(image: Image.Image) -> Image.Image:
    """Return Rec.601 luma of a mode of at most 8 bits a channel, ignoring alpha."""
    if image.mode == "L":
        return image  # convert() would copy it
    if image.mode not in ("1", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    return image.convert("L")
