"""The pixels of an opened photo, from the reader that returns all of their bits.

Pillow reads most photos. The others are opened by `infer.photo.headers` and `infer.photo.tiff_pages`, so that Pillow
knows their size and metadata, and decoded by imagecodecs.
"""

import io
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from cgan.completeness import check_png, load
from cgan.jpeg_decoder import MissingPixelsError, decode_whole, gray_at_once
from cgan.photo_limits import MAX_PIXELS
from infer.photo import bmp_fields, newer_formats, png_tone, tiff_pixels, tone
from infer.photo.bmp_fields import BmpFields
from infer.photo.code_points import EXPONENTS, UNNAMED, nclx, unconverted
from infer.photo.color_profile import needs_colors
from infer.photo.formats import ProfileUse
from infer.photo.headers import LOSSLESS, WideJpeg, start_of_frame
from infer.photo.newer_formats import JpegXl
from infer.photo.samples import Array, Samples
from infer.photo.tiff_pages import TiffPages, photo_page

WIDE_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow's modes of gray with more than 8 bits."""

PIXEL_BYTES = 8
DEEP_PIXEL_BYTES = 16
"""With more than 8 bits a channel, and of a TIFF beside its samples."""
COSTLY_PIXEL_BYTES = 24
"""Of progressive JPEGs, which libjpeg keeps as coefficients and `cgan.jpeg_decoder` decodes twice, as it does those in
colour; of CMYK and WebP.

Bytes of memory that a pixel takes from decoding to encoding, without the file; measured, and rounded up."""

NEWER = {"AVIF": "avif", "JPEG2000": "jpeg2k"}
"""Formats that imagecodecs reads where Pillow would not do well, and its names for them."""

SHORT_HEAD = 2**16
"""Bytes of a JPEG that mostly reach its start of frame."""

JPEG_FORMATS = frozenset({"JPEG", "MPO"})
COSTLY_FORMATS = frozenset({"WEBP", "AVIF", "HEIF", "JPEG2000", "JXL"})

PNG_WIDE = {"RGB;16B": 3, "LA;16B": 2, "RGBA;16B": 4}
"""Decoder arguments of Pillow for PNG files of 16 bits a channel of which it reads 8, and their channels."""

PNG_KEY_SCALES = {"L;2": 85, "L;4": 17}
"""Factors for the transparent value of gray PNGs of 2 and 4 bits: Pillow scales their pixels to 8 bits, but not this
value."""

PPM_COMMENT = b"#"


def read(
    image: Image.Image,
    notes: list[str],
    max_pixels: int = MAX_PIXELS,
    profile: ProfileUse = ProfileUse.CONVERT,
) -> tuple[Image.Image | Samples, int | None]:
    """Decode a photo.

    Args:
        image: opened within limits, not loaded.
        notes: list to which notes for the user are appended.
        max_pixels: limit of pixels.
        profile: use of an ICC profile, which a JPEG's colours are decoded for, not only its luma.

    Returns:
        A loaded Pillow image or samples; and the orientation, 1 to 8, where the format has one of its own, else None.

    Raises:
        UnreadError: it is of a kind that is not read.
        LimitError: it exceeds a limit.
        OSError: it is damaged or incomplete. Pillow's decoders also raise other types.
    """
    exponent = tone.settled(_exponent(image, notes), notes)
    decoded, orientation = _read(image, notes, max_pixels, profile)
    return (tone.to_srgb(decoded, exponent) if exponent else decoded), orientation


def _exponent(image: Image.Image, notes: list[str]) -> float | None:
    """Return the power that a file without an ICC profile names as its tone curve, None if it names none."""
    if isinstance(image, JpegXl):
        notes += filter(None, [image.color_note])
        return None
    if image.format == "PNG":
        return png_tone.exponent_of(image, notes)
    if image.format not in ("HEIF", "AVIF") or image.info.get("icc_profile"):
        return None
    primaries, transfer = nclx(_head(image, newer_formats.HEAD)) or (UNNAMED, UNNAMED)
    notes += filter(None, [unconverted(primaries, transfer, "nclx")])
    return EXPONENTS.get(transfer)


def _read(
    image: Image.Image, notes: list[str], max_pixels: int, profile: ProfileUse
) -> tuple[Image.Image | Samples, int | None]:
    """Decode a photo in the tone curve that its file has; arguments, results and errors are those of `read`."""
    if isinstance(image, TiffPages):
        return tiff_pixels.read(image, notes, max_pixels, profile)
    if isinstance(image, BmpFields):
        return bmp_fields.samples_of(image, content_of(image)), None
    if isinstance(image, WideJpeg):
        return _wide_jpeg(image, notes), None
    if isinstance(image, JpegXl):
        values = newer_formats.decoded("jpegxl", content_of(image))
        return newer_formats.samples_of(values, image.depth), 1  # libjxl turns it upright
    if image.format == "HEIF":
        image.info = {key: value for key, value in image.info.items() if value is not None}
    if image.format == "AVIF":
        newer_formats.restore_avif_exif(image)
    if image.format == "HEIF" and image.info.get("bit_depth", 8) > 8:
        return newer_formats.heic_samples(content_of(image)), 1
    if (name := NEWER.get(str(image.format))) and (samples := _newer(image, name)):
        return samples, None
    if image.format == "PNG":
        return _png(image, notes), None
    if image.format == "PPM" and image.mode == "RGB" and _highest(image) > 255:
        return _wide_ppm(image), None
    # A JPEG stores luma as a plane of its own: this decodes only that plane, at full size. If the JPEG stores RGB,
    # libjpeg computes luma; CMYK is not affected. A lossless JPEG has no such plane.
    if not needs_colors(image.info.get("icc_profile"), profile) and not _is_lossless_jpeg(image):
        is_jpeg = image.format in JPEG_FORMATS and image.mode in ("L", "RGB")
        # An array: making one of a Pillow image takes as long as a third of decoding it.
        if is_jpeg and (gray := gray_at_once(content_of(image))) is not None:
            return Samples(gray, bits=8), None
        image.draft("L", None)
    notes += load(image)
    return image, 1 if image.format == "HEIF" else None  # libheif turns it upright


def model_of(decoded: Image.Image | Samples) -> Literal["L", "RGB", "CMYK"]:
    """Return the colour model of pixels: L, RGB or CMYK."""
    if isinstance(decoded, Samples):
        return decoded.model
    if decoded.mode == "CMYK":
        return "CMYK"
    return "L" if decoded.mode in {"1", "L", "LA", *WIDE_MODES} else "RGB"


def _newer(image: Image.Image, name: str) -> Samples | None:
    """Return the samples of an AVIF or a JPEG 2000; None of one that Pillow decodes as well.

    Pillow shifts values of less than 8 bits of a JPEG 2000: white becomes gray, and the numbers of a palette change.
    """
    head = _head(image, newer_formats.HEAD)
    bits = newer_formats.depth_of(image, head)
    if image.format == "JPEG2000" and image.mode not in ("L", "LA"):
        newer_formats.check_colors(content_of(image))
    if bits == 8 and not newer_formats.is_plain_jpeg2000(image, head):
        return None
    values = newer_formats.decoded(name, content_of(image))
    if image.mode in ("P", "PA"):  # decoded to its colours
        bits = 8 * values.dtype.itemsize
    return newer_formats.samples_of(values, bits, image.mode == "CMYK")


def _is_lossless_jpeg(image: Image.Image) -> bool:
    if image.format not in JPEG_FORMATS:
        return False
    frame = start_of_frame(_head(image, SHORT_HEAD))
    return (frame.kind or start_of_frame(_head(image, WideJpeg.HEAD)).kind) == LOSSLESS


def size_of(image: Image.Image) -> tuple[int, int]:
    """Return width and height of the photo in an opened file, before orientation is applied.

    Raises:
        UnreadError: it is raw data of a camera.
    """
    return photo_page(image, []).size if isinstance(image, TiffPages) else image.size


def pixel_bytes(image: Image.Image) -> int:
    """Return the bytes of memory a pixel of an image that is not loaded yet."""
    if isinstance(image, TiffPages):
        return DEEP_PIXEL_BYTES + tiff_pixels.sample_bytes(image)
    is_color_jpeg = image.format in ("JPEG", "MPO") and image.mode == "RGB"
    in_color = is_color_jpeg and needs_colors(image.info.get("icc_profile"), ProfileUse.CONVERT)
    if image.mode == "CMYK" or image.format in COSTLY_FORMATS or "progressive" in image.info or in_color:
        return COSTLY_PIXEL_BYTES
    is_wide = image.mode in WIDE_MODES or isinstance(image, WideJpeg | JpegXl)
    is_wide = is_wide or (image.format == "PNG" and _arguments(image)[0] in PNG_WIDE)
    return DEEP_PIXEL_BYTES if is_wide or (image.format == "PPM" and _highest(image) > 255) else PIXEL_BYTES


def wide_samples(image: Image.Image) -> Samples:
    """Return the samples of a loaded image of one of WIDE_MODES."""
    key = image.info.get("transparency")
    return Samples(np.asarray(image)[..., None], transparent=(key,) if isinstance(key, int) else None)


def _arguments(image: Image.Image) -> tuple[Any, ...]:
    """Return the arguments of Pillow's decoder for an image that is not loaded yet, such as ("RGB;16B",)."""
    tile = getattr(image, "tile", None)
    arguments = tile[0].args if tile else ()
    return (arguments if isinstance(arguments, tuple) else (arguments,)) or (None,)


def _highest(image: Image.Image) -> int:
    """Return the highest value of a PPM: the last argument of Pillow's decoder where that is not 255."""
    last = _arguments(image)[-1]
    return last if isinstance(last, int) and last else 255


def _head(image: Image.Image, size: int) -> bytes:
    file = cast(io.BufferedIOBase, cast(Any, image).fp)
    place = file.tell()
    file.seek(0)
    head = file.read(size)
    file.seek(place)
    return head


def content_of(image: Image.Image) -> bytes:
    """Return the whole file of an opened image."""
    file = cast(io.BufferedIOBase, cast(Any, image).fp)
    file.seek(0)
    return file.read()


def _decoded(name: str, content: bytes) -> Array:
    """Decode with imagecodecs; returns H x W x C."""
    import imagecodecs

    try:
        values: Array = getattr(imagecodecs, f"{name}_decode")(content)
    except (RuntimeError, ValueError, MemoryError) as error:  # its own errors are RuntimeErrors
        raise MissingPixelsError(f"the image data are damaged ({error})") from error
    return values[..., None] if values.ndim == 2 else values


def _wide_jpeg(image: WideJpeg, notes: list[str]) -> Samples:
    content = image.content()
    values = decode_whole(content, lambda data: _decoded("jpeg8", data), notes)
    if values.shape[2] not in (1, 3):
        raise MissingPixelsError(f"a JPEG of {values.shape[2]} channels of {image.precision} bits, expected 1 or 3")
    return Samples(values, "L" if values.shape[2] == 1 else "RGB", image.precision)


def _png(image: Image.Image, notes: list[str]) -> Image.Image | Samples:
    arguments = _arguments(image)[0]
    if arguments in PNG_WIDE:
        return _wide_png(image, notes)
    if isinstance(key := image.info.get("transparency"), int):
        image.info["transparency"] = key * PNG_KEY_SCALES.get(arguments, 1)
    notes += load(image)
    return wide_samples(image) if image.mode in WIDE_MODES else image


def _wide_png(image: Image.Image, notes: list[str]) -> Samples:
    content = content_of(image)
    values = _decoded("png", content)
    check_png(content, notes)
    channels = PNG_WIDE[_arguments(image)[0]]
    key = image.info.get("transparency")
    return Samples(
        values[..., :channels],
        "L" if channels == 2 else "RGB",
        alpha=None if channels == 3 else "straight",
        transparent=key if isinstance(key, tuple) else None,
    )


def _wide_ppm(image: Image.Image) -> Samples:
    """Return the samples of a PPM of more than 8 bits: big-endian, or text."""
    (codec, _, offset, _), (width, height) = cast(Any, image).tile[0], image.size
    data, highest = content_of(image)[offset:], _highest(image)
    count = 3 * width * height
    if codec == "ppm_plain":
        lines = (line.partition(PPM_COMMENT)[0] for line in data.splitlines())
        values = np.array(b" ".join(lines).split()[:count], np.float64)
    else:
        values = np.frombuffer(data, ">u2", min(count, len(data) // 2))
    if len(values) < count:
        raise MissingPixelsError(f"the image data end after {len(values) / count:.0%} of its samples")
    if values.max() > highest:
        raise MissingPixelsError(f"it has a value of {values.max():.0f}, its header says {highest} at most")
    return Samples(np.round(values.reshape(height, width, 3) * (65_535 / highest)).astype(np.uint16), "RGB")
