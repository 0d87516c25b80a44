"""Encoding of one photo: the bands of `infer.photo.bands` as a file with the photo's metadata."""

import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infer.photo import exif, iptc, png_tiff_writers
from infer.photo.bands import RGB, YCBCR, bands, green_of, in_gamut
from infer.photo.chroma import MAP_BYTES, small_luma, with_strength
from infer.photo.decode import Floats, Photo, PhotoError
from infer.photo.formats import QUALITY, PillowFormat
from infer.photo.jpeg_writer import ICC_LIMIT, Plane, encoded, write_jpeg
from infer.photo.mark import Mark, marked
from infer.photo.tiff import listed

ALPHA_FORMATS = frozenset({PillowFormat.PNG, PillowFormat.WEBP, PillowFormat.TIFF})
MARKED_FORMATS = frozenset({PillowFormat.JPEG, PillowFormat.PNG, PillowFormat.WEBP, PillowFormat.TIFF})
"""Formats that hold XMP."""
EXIF_RESOLUTION = frozenset({PillowFormat.WEBP, PillowFormat.TIFF})
"""Formats that hold resolution only in the tags of EXIF."""
DEEP_FORMATS = frozenset({PillowFormat.PNG, PillowFormat.TIFF})
"""Formats that hold 16 bits a channel."""

SIDE_LIMITS = {"JPEG": 65_500, "WEBP": 16_383}
"""Largest side in pixels that the libraries write: JPEG_MAX_DIMENSION, WEBP_MAX_DIMENSION."""

ENCODER_BYTES = {"WEBP": 40}
"""Bytes of memory a pixel that a library's encoder takes beside the photo, where they are many; measured."""

METADATA = {
    "exif": "EXIF",
    "xmp": "XMP",
    "icc_profile": "ICC profile",
    "iptc": "IPTC captions",
    "comments": "comment",
    "texts": "PNG text",
    "geo": "place on earth (GeoTIFF)",
}
"""Fields of `Photo` that hold metadata, and their names in notes."""

NOT_HELD = {
    "JPEG": frozenset({"texts", "geo"}),
    "PNG": frozenset({"comments", "geo"}),
    "WEBP": frozenset({"iptc", "comments", "texts", "geo"}),
    "TIFF": frozenset({"comments", "texts"}),
    "BMP": frozenset(METADATA),
}
"""Metadata that a format cannot hold."""

JPEG_LIMITS = {
    "exif": iptc.SEGMENT,
    "icc_profile": ICC_LIMIT,
    "iptc": iptc.JPEG_LIMIT,
    "comments": iptc.SEGMENT,
}
"""Largest metadata of a JPEG in bytes."""

Encoded = memoryview | bytes


def write_photo(
    photo: Photo,
    gray: Floats,
    rgb: Floats,
    format_: str,
    *,
    quality: int = QUALITY,
    strength: float = 1.0,
    raw: bool = False,
    mark: Mark | None = None,
) -> tuple[Encoded, tuple[str, ...]]:
    """Merge the network's colours with the luma of a photo, and encode the result with the photo's metadata.

    A colour outside the RGB gamut at the photo's luma is moved towards gray until it fits. So the luma is kept: before
    rounding to 8 or 16 bits, the RGB output is within half a level of it. A JPEG stores the photo's luma unchanged,
    and its colours exceed RGB by less than a level.

    Args:
        photo: result of `infer.photo.decode.decode`.
        gray: input of the network, 1 x h x w in [0, 1].
        rgb: output of the network, 3 x h x w in [0, 1].
        format_: Pillow's name of the format: JPEG, PNG, WEBP, TIFF or BMP.
        quality: quality of JPEG and WebP, 1 to 100.
        strength: factor of chroma, 0 to 2; luma and hue stay.
        raw: write the output of the network at its own size, with 8 bits a channel.
        mark: the model, to be named in XMP; None for no mark.

    Returns:
        The content of the file, and notes on metadata and properties that the format cannot hold.

    Raises:
        PhotoError: the photo is too large for the format.
    """
    height, width = rgb.shape[1:] if raw else photo.size
    if max(height, width) > SIDE_LIMITS.get(format_, max(height, width)):
        raise PhotoError(f"{width} x {height} pixels, {format_} holds {SIDE_LIMITS[format_]} a side; use --format png")
    rgb = with_strength(rgb, strength)
    kept, notes = _holdable(photo, format_, raw)
    if strength == 0:
        notes.append("gray, because strength is 0")
        mark = None  # it would say that the photo is coloured
    if mark and format_ in MARKED_FORMATS:
        kept = dataclasses.replace(kept, xmp=marked(kept.xmp, mark, notes))
    elif mark:
        notes.append(f"mark of a coloured photo left out: {format_} cannot hold XMP")
    is_deep = photo.luma.dtype == np.uint16 and not raw
    if is_deep and format_ not in DEEP_FORMATS:
        notes.append(f"written with 8 bits a channel: {format_} cannot hold 16")
    if format_ in DEEP_FORMATS:
        bands = iter([np.asarray(_raw_image(rgb, kept.alpha))]) if raw else _interleaved(kept, gray, rgb)
        file = io.BytesIO()
        (png_tiff_writers.write_png if format_ == "PNG" else png_tiff_writers.write_tiff)(file, bands, height, kept)
        return file.getbuffer(), tuple(notes)
    if format_ == "JPEG":
        return write_jpeg(_raw_image(rgb, None) if raw else _planes(photo, gray, rgb), kept, quality), tuple(notes)
    image = _raw_image(rgb, kept.alpha) if raw else rgb_image(kept, gray, rgb)
    return _encoded(image, kept, format_, quality), tuple(notes)


def encoding_bytes(size: tuple[int, int], rows: int, format_: str) -> int:
    """Return the bytes of memory that encoding a photo takes beside the photo itself.

    Args:
        size: height and width of the photo.
        rows: height of the network's output.
        format_: Pillow's name of the format.
    """
    height, width = size
    return height * width * ENCODER_BYTES.get(format_, 0) + width * min(height, rows) * MAP_BYTES


def _holdable(photo: Photo, format_: str, raw: bool) -> tuple[Photo, list[str]]:
    """Return the photo without the metadata that the format cannot hold, and a note on each omission."""
    notes: list[str] = []
    changes: dict[str, Any] = {}

    def drop(field: str, what: str, why: str = f"{format_} cannot hold it") -> None:
        changes[field] = () if field in ("comments", "texts") else None
        notes.append(f"{what} left out: {why}")

    if photo.alpha is not None and format_ not in ALPHA_FORMATS:
        changes["alpha"] = None
        if photo.alpha.getextrema() != (255, 255):
            drop("alpha", "transparency")
    for field, what in METADATA.items():
        content = getattr(photo, field)
        if content and field in NOT_HELD.get(format_, ()):
            drop(field, f"PNG text {_keywords(photo.texts)}" if field == "texts" else what)
        elif content and format_ == "JPEG" and field in JPEG_LIMITS:
            size = max(len(part) for part in content) if isinstance(content, tuple) else len(content)
            if size > JPEG_LIMITS[field]:
                drop(field, what, f"{size} bytes, JPEG holds {JPEG_LIMITS[field]}")
    if raw and photo.geo and format_ == "TIFF":
        drop("geo", METADATA["geo"], "the output has another size")
    if photo.iptc and format_ == "PNG":
        notes.append(iptc.PNG_NOTE)
    if photo.exif and format_ == "TIFF" and (tags := png_tiff_writers.unheld_tags(photo.exif)):
        notes.append(f"EXIF tags left out: {tags}, which would describe the pixels of the TIFF")
    if photo.dpi and photo.exif and format_ in EXIF_RESOLUTION:
        own = exif.resolution(photo.exif) or photo.dpi
        if any(abs(a - b) > 1 for a, b in zip(own, photo.dpi, strict=True)):
            notes.append("resolution of {:g} x {:g} dots per inch left out: EXIF has another one".format(*photo.dpi))
    if photo.dpi and format_ == "WEBP":  # holds resolution only in EXIF
        changes["exif"] = exif.with_resolution(photo.exif, photo.dpi)
    has_new_directory = format_ == "TIFF" or changes.get("exif") not in (None, photo.exif)
    if photo.exif and has_new_directory and (tags := exif.unreadable(photo.exif)):
        notes.append(f"EXIF tags left out: {tags}, whose values cannot be read")
    return dataclasses.replace(photo, **changes), notes


def _keywords(texts: tuple[tuple[bytes, bytes], ...]) -> str:
    return listed(sorted({content.split(b"\0")[0].decode("latin-1") for _, content in texts}))


def _encoded(image: Image.Image, kept: Photo, format_: str, quality: int) -> Encoded:
    """Encode an image with Pillow; the format must be able to hold all metadata of `kept`."""
    options = {"quality": quality} if format_ == "WEBP" else {}
    options |= {field: value for field in ("exif", "icc_profile", "dpi", "xmp") if (value := getattr(kept, field))}
    return encoded(image, format_, **options)


def _raw_image(rgb: Floats, alpha: Image.Image | None) -> Image.Image:
    """Return the output of the network, 3 x h x w, as an image, with alpha scaled to its size."""
    if rgb.min() < 0 or rgb.max() > 1:  # of a strength above 1
        luma = small_luma(rgb)
        red, blue = in_gamut(RGB, 1, luma, rgb[0], rgb[2])
        rgb = np.clip(np.stack([red, green_of(luma, red, blue), blue]), 0, 1)
    image = Image.fromarray((rgb.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8))
    if alpha is not None:
        image.putalpha(alpha.resize(image.size))
    return image


def _planes(photo: Photo, gray: Floats, rgb: Floats) -> tuple[Plane, Plane, Plane]:
    """Return Y, Cb and Cr of the coloured photo as stored in a JPEG; 8-bit luma is unchanged."""
    own = photo.luma if photo.luma.dtype == np.uint8 else None
    luma = np.empty(photo.size, np.uint8) if own is None else own.astype(np.uint8, copy=False)
    chroma_b, chroma_r = np.empty((2, *photo.size), np.uint8)
    for band in bands(photo, gray, rgb, 255, YCBCR):
        chroma_b[band.rows], chroma_r[band.rows] = band.blue, band.red
        if own is None:
            luma[band.rows] = _rounded(band.luma)
    return luma, chroma_b, chroma_r


def rgb_image(photo: Photo, gray: Floats, rgb: Floats) -> Image.Image:
    """Return the coloured photo with 8 bits a channel: RGB, or RGBA if it has alpha."""
    height, width = photo.size
    image = Image.new("RGB" if photo.alpha is None else "RGBA", (width, height))
    for band in bands(photo, gray, rgb, 255, RGB):
        planes = [Image.fromarray(_rounded(color)) for color in (band.red, band.green(), band.blue)]
        if photo.alpha is not None:
            planes.append(photo.alpha.crop((0, band.rows.start, width, band.rows.stop)))
        image.paste(Image.merge(image.mode, planes), (0, band.rows.start))
    return image


def _interleaved(photo: Photo, gray: Floats, rgb: Floats) -> Iterator[png_tiff_writers.Samples]:
    """Yield bands of the coloured photo, rows x width x 3 or 4, in the type of its luma."""
    width = photo.size[1]
    dtype = photo.luma.dtype
    top = np.iinfo(dtype).max
    for band in bands(photo, gray, rgb, top, RGB):
        samples = np.empty((*band.luma.shape, 3 if photo.alpha is None else 4), dtype)
        for channel, color in enumerate((band.red, band.green(), band.blue)):
            samples[..., channel] = _rounded(color, dtype)
        if photo.alpha is not None:
            alpha = np.asarray(photo.alpha.crop((0, band.rows.start, width, band.rows.stop)))
            np.multiply(alpha, top // 255, out=samples[..., 3], dtype=dtype)
        yield samples


def _rounded(values: Floats, dtype: Any = np.uint8) -> NDArray[Any]:
    """Round non-negative values to the nearest integers; overwrites `values`."""
    values += np.float32(0.5)
    return values.astype(dtype)
