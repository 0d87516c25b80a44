"""Encoding of one photo: the network's colours at the size of the photo, merged with its luma.

The photo is processed in bands of rows that fit into the CPU cache, in float32 and in levels of the output: 0 to 255,
or 0 to 65535.
"""

import dataclasses
import io
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cgan.photo_limits import check_time
from cgan.spec import LUMA_REC601
from infer.photo import exif, iptc, png_tiff_writers
from infer.photo.chroma import BAND_ROWS, MAP_BYTES, color_maps, interpolation, small_luma, with_strength
from infer.photo.containers import XMP_EXTENSION
from infer.photo.decode import Floats, Photo, PhotoError
from infer.photo.formats import PillowFormat
from infer.photo.mark import Mark, guid, marked, split
from infer.photo.tiff import listed

BAND_PIXELS = 2**16
"""Full-size pixels that are processed at a time: 256 KiB per plane in float32, in calls long enough that threads seldom
wait for Python's lock."""

CHROMA_ZERO = 128 + 0.4999
"""Offset that is added to a chroma difference before it is truncated to 8 bits. Pure blue and red have a difference of
127.5; with an offset of 128.5 they would become 256, which wraps to 0."""

GAMUT_SHARE = 0.2
"""Share of out-of-gamut pixels in a band above which processing all pixels is faster."""

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

XMP_LIMIT = 65_533 - 29
"""Largest main packet of a JPEG's XMP in bytes; a larger one is split."""
XMP_PART = 65_000
"""Bytes of an extension of XMP in one segment."""

JPEG_LIMITS = {
    "exif": 65_533,
    "icc_profile": 255 * (65_533 - 14),
    "iptc": iptc.JPEG_LIMIT,
    "comments": 65_533,
}
"""Largest metadata of a JPEG in bytes: one segment without its identifier, 255 segments for a profile."""

Encoded = memoryview | bytes
Differences = tuple[Floats, Floats, Floats]
"""R - Y, G - Y and B - Y, each rows x width."""
Band = tuple[slice, Floats, Differences]
"""Rows, their luma Y as rows x width, and their colour differences."""


def write_photo(
    photo: Photo,
    gray: Floats,
    rgb: Floats,
    format_: str,
    *,
    quality: int = 95,
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
    if raw:
        image = _raw_image(rgb, kept.alpha)
    else:
        image = _ycbcr_image(photo, gray, rgb) if format_ == "JPEG" else rgb_image(kept, gray, rgb)
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
    return dataclasses.replace(photo, **changes), notes


def _keywords(texts: tuple[tuple[bytes, bytes], ...]) -> str:
    return listed(sorted({content.split(b"\0")[0].decode("latin-1") for _, content in texts}))


def _jpeg_segments(kept: Photo) -> tuple[bytes | None, bytes]:
    """Return the main packet of XMP, and the segments of a JPEG that Pillow does not write."""
    segments = [b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment for comment in kept.comments]
    if kept.iptc:
        segments.append(iptc.jpeg_segment(kept.iptc))
    packet, extension = split(kept.xmp, XMP_LIMIT) if kept.xmp else (None, b"")
    for place in range(0, len(extension), XMP_PART):
        part = struct.pack(">LL", len(extension), place) + extension[place : place + XMP_PART]
        body = XMP_EXTENSION + guid(extension).encode() + part
        segments.append(b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body)
    return packet, b"".join(segments)


def _encoded(image: Image.Image, kept: Photo, format_: str, quality: int) -> Encoded:
    """Encode an image with Pillow; the format must be able to hold all metadata of `kept`."""
    settings: dict[str, dict[str, Any]] = {
        # Full-resolution chroma: subsampling would blur the colours again.
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "BMP": {},
    }
    options = settings[format_]
    for field in ("exif", "icc_profile", "dpi", "xmp"):
        if value := getattr(kept, field):
            options[field] = value
    if format_ == "JPEG":
        packet, options["extra"] = _jpeg_segments(kept)
        options |= {"xmp": packet} if packet else {}
    if not hasattr(os, "memfd_create"):
        buffer = io.BytesIO()
        image.save(buffer, format_, **options)
        return buffer.getbuffer()
    # Pillow's encoders release Python's lock only when they write to a file descriptor.
    with os.fdopen(os.memfd_create("cgan"), "w+b") as file:
        image.save(file, format_, **options)
        file.seek(0)
        return file.read()


def _raw_image(rgb: Floats, alpha: Image.Image | None) -> Image.Image:
    """Return the output of the network, 3 x h x w, as an image, with alpha scaled to its size."""
    if rgb.min() < 0 or rgb.max() > 1:  # of a strength above 1
        luma = small_luma(rgb) * np.float32(255)
        red, _, blue = rgb * np.float32(255) - luma
        scratch: Any = np.empty((4, *luma.shape), np.float32)
        differences = np.stack(_in_gamut(luma, red, blue, np.float32(255), scratch), dtype=np.float32)
        rgb = (luma + differences) / np.float32(255)
    image = Image.fromarray((rgb.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8))
    if alpha is not None:
        image.putalpha(alpha.resize(image.size))
    return image


def _ycbcr_image(photo: Photo, gray: Floats, rgb: Floats) -> Image.Image:
    """Return the coloured photo in YCbCr as stored in a JPEG (JFIF 1.02, page 3); 8-bit luma is unchanged."""
    weight_r, _, weight_b = LUMA_REC601
    own = photo.luma if photo.luma.dtype == np.uint8 else np.empty(photo.size, np.uint8)
    chroma_b, chroma_r = np.empty((2, *photo.size), np.uint8)
    for rows, luma, (red, _, blue) in _bands(photo, gray, rgb, 255):
        for difference, weight, chroma in ((red, weight_r, chroma_r), (blue, weight_b, chroma_b)):
            difference *= np.float32(0.5 / (1 - weight))
            difference += np.float32(CHROMA_ZERO)
            chroma[rows] = difference
        if own is not photo.luma:
            own[rows] = _rounded(luma)
    return Image.merge("YCbCr", [Image.fromarray(plane) for plane in (own, chroma_b, chroma_r)])


def rgb_image(photo: Photo, gray: Floats, rgb: Floats) -> Image.Image:
    """Return the coloured photo with 8 bits a channel: RGB, or RGBA if it has alpha."""
    height, width = photo.size
    image = Image.new("RGB" if photo.alpha is None else "RGBA", (width, height))
    for rows, luma, differences in _bands(photo, gray, rgb, 255):
        for difference in differences:
            difference += luma
        planes = [Image.fromarray(_rounded(channel)) for channel in differences]
        if photo.alpha is not None:
            planes.append(photo.alpha.crop((0, rows.start, width, rows.stop)))
        image.paste(Image.merge(image.mode, planes), (0, rows.start))
    return image


def _interleaved(photo: Photo, gray: Floats, rgb: Floats) -> Iterator[png_tiff_writers.Samples]:
    """Yield bands of the coloured photo, rows x width x 3 or 4, in the type of its luma."""
    width = photo.size[1]
    dtype = photo.luma.dtype
    top = np.iinfo(dtype).max
    for rows, luma, differences in _bands(photo, gray, rgb, top):
        samples = np.empty((*luma.shape, 3 if photo.alpha is None else 4), dtype)
        for channel, difference in enumerate(differences):
            difference += luma
            samples[..., channel] = _rounded(difference, dtype)
        if photo.alpha is not None:
            alpha = np.asarray(photo.alpha.crop((0, rows.start, width, rows.stop)))
            np.multiply(alpha, top // 255, out=samples[..., 3], dtype=dtype)
        yield samples


def _rounded(values: Floats, dtype: Any = np.uint8) -> NDArray[Any]:
    """Round non-negative values to the nearest integers; overwrites `values`."""
    values += np.float32(0.5)
    return values.astype(dtype)


def _bands(photo: Photo, gray: Floats, rgb: Floats, top: int) -> Iterator[Band]:
    """Yield bands of in-gamut colour at full size, in levels from 0 to `top`.

    All bands share one buffer, which the caller may overwrite: allocating memory costs more than the arithmetic.
    """
    height, width = photo.size
    own_top = np.iinfo(photo.luma.dtype).max
    maps = color_maps(photo.size, gray, rgb, np.float32(top))
    step = min(height, max(1, BAND_PIXELS // width), BAND_ROWS)
    memory = np.empty(7 * step * width, np.float32)
    for rows, source, weights in interpolation(maps.shape[1], height, step):
        check_time()
        planes = memory[: 7 * (rows.stop - rows.start) * width].reshape(7, -1, width)
        luma, red, blue, *others = planes  # slopes, later scratch memory
        np.copyto(luma, photo.luma[rows])  # converting first is twice as fast as multiplying integers
        if own_top != top:
            luma *= np.float32(top / own_top)
        if maps.shape[1] == height:
            np.copyto(planes[1 : 1 + len(maps)], maps[:, rows])
        else:
            np.matmul(weights, maps[:, source], out=planes[1 : 1 + len(maps)])
        if len(maps) == 4:
            for difference, slope in ((red, others[0]), (blue, others[1])):
                slope *= luma
                difference += slope
        yield rows, luma, _in_gamut(luma, red, blue, np.float32(top), others)


def _in_gamut(luma: Floats, red: Floats, blue: Floats, top: np.float32, scratch: Sequence[Floats]) -> Differences:
    """Return s (R - Y, G - Y, B - Y) with the largest s <= 1 for which R, G and B stay in [0, `top`].

    Overwrites `red`, `blue` and all of `scratch`.
    """
    weight_r, weight_g, weight_b = (np.float32(w) for w in LUMA_REC601)
    green, above, below, room, *_ = scratch
    # the luma of the differences is zero, which determines green
    np.multiply(red, -weight_r / weight_g, out=green)
    np.multiply(blue, -weight_b / weight_g, out=room)
    green += room
    np.maximum(red, blue, out=above)
    np.maximum(above, green, out=above)
    np.minimum(red, blue, out=below)
    np.minimum(below, green, out=below)
    np.negative(below, out=below)
    np.subtract(top, luma, out=room)
    outside = above > room
    outside |= below > luma
    found = np.count_nonzero(outside)
    if found > GAMUT_SHARE * outside.size:
        strength = _fitting(luma, room, above, below)
        for difference in (red, green, blue):
            difference *= strength
    elif found:
        places = np.flatnonzero(outside)
        strength = _fitting(*(plane.reshape(-1)[places] for plane in (luma, room, above, below)))
        for difference in (red, green, blue):
            difference.reshape(-1)[places] *= strength
    return red, green, blue


def _fitting(luma: Floats, room: Floats, above: Floats, below: Floats) -> Floats:
    """Return the largest s <= 1 with s * above <= room and s * below <= luma; overwrites `above` and `below`."""
    tiny = np.float32(1e-3)  # of a level; avoids division by zero where there is no colour
    for difference, limit in ((above, room), (below, luma)):
        np.maximum(difference, tiny, out=difference)
        np.divide(limit, difference, out=difference)
    np.minimum(above, below, out=above)
    np.minimum(above, 1, out=above)
    return above
