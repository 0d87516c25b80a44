"""One photo out: bring the network's colours to the photo's own resolution, and encode it.

The photo is worked on in bands of rows that fit into a processor's cache, in float32 and in levels of the
output: 0 to 255, or 0 to 65535.
"""

import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from cgan.spec import LUMA_REC601
from infer.photo import iptc
from infer.photo import png_tiff as deep
from infer.photo.chroma import BAND_ROWS, color_maps, interpolation
from infer.photo.decode import Floats, Photo, PhotoError

BAND_PIXELS = 2**16
"""Full-size pixels worked on at a time: 256 KiB a plane in float32, and few enough calls that threads seldom wait for
Python's lock."""

CHROMA_ZERO = 128 + 0.4999
"""What is added to a chroma difference before its fraction is cut off. Blue and red at just their own luma are at 127.5
above 128, and with the whole half would become 256, which is 0 in 8 bits."""

GAMUT_SHARE = 0.2
"""Share of a band's pixels out of gamut above which it is faster to work on all of them."""

ALPHA_FORMATS = frozenset({"PNG", "WEBP", "TIFF"})
DEEP_FORMATS = frozenset({"PNG", "TIFF"})
"""Formats that hold 16 bits a channel."""

SIDE_LIMITS = {"JPEG": 65_500, "WEBP": 16_383}
"""Pixels a side that the formats' libraries write: JPEG_MAX_DIMENSION, WEBP_MAX_DIMENSION."""

METADATA = {"exif": "EXIF", "xmp": "XMP", "icc_profile": "ICC profile", "iptc": "IPTC captions", "comment": "comment"}
"""What is kept beside a photo, by its field in `Photo`, and what notes call it."""

NOT_HELD = {
    "PNG": frozenset({"iptc", "comment"}),
    "WEBP": frozenset({"iptc", "comment"}),
    "TIFF": frozenset({"comment"}),
    "BMP": frozenset(METADATA),
}
"""Of these, those that a format has no place for."""

JPEG_LIMITS = {
    "exif": 65_533,
    "xmp": 65_533 - 29,
    "icc_profile": 255 * (65_533 - 14),
    "iptc": iptc.JPEG_LIMIT,
    "comment": 65_533,
}
"""Bytes that fit into a JPEG: one segment less the name in it, and for a profile 255 of them."""

Encoded = memoryview | bytes
Differences = tuple[Floats, Floats, Floats]
"""R - Y, G - Y and B - Y, each rows x width."""
Band = tuple[slice, Floats, Differences]
"""Rows, their luma Y, rows x width, and their colour."""


def write_photo(
    photo: Photo, gray: Floats, rgb: Floats, format_: str, *, quality: int = 95, raw: bool = False
) -> tuple[Encoded, tuple[str, ...]]:
    """A photo in colour, encoded, with the metadata of its source.

    Where a colour does not fit into the gamut at the photo's luma it is drawn towards gray until it does. So
    luma holds: in RGB that of the output is within half a level of the input's before it is rounded, of 8 or
    16 bits. A JPEG is given the photo's luma itself, and colours that leave RGB by less than a level.

    Args:
        photo: from `infer.photo.decode.decode`.
        gray: what the network saw, 1 x h x w in [0, 1].
        rgb: what it answered, 3 x h x w in [0, 1].
        format_: Pillow's name of the format: JPEG, PNG, WEBP, TIFF or BMP.
        quality: of JPEG and WebP, 1 to 100.
        raw: write the network's own answer, of its size and 8 bits a channel.

    Returns:
        The whole file, and notes on what the format could not hold.

    Raises:
        PhotoError: the format does not hold a photo of this size.
    """
    height, width = rgb.shape[1:] if raw else photo.size
    if max(height, width) > SIDE_LIMITS.get(format_, max(height, width)):
        raise PhotoError(f"{width} x {height} pixels, {format_} holds {SIDE_LIMITS[format_]} a side; use --format png")
    kept, notes = _holdable(photo, format_)
    is_deep = photo.luma.dtype == np.uint16 and not raw
    if is_deep and format_ not in DEEP_FORMATS:
        notes.append(f"written with 8 bits a channel: {format_} cannot hold 16")
    if format_ in DEEP_FORMATS:
        bands = iter([np.asarray(_raw_image(rgb, kept.alpha))]) if raw else _interleaved(kept, gray, rgb)
        file = io.BytesIO()
        (deep.write_png if format_ == "PNG" else deep.write_tiff)(file, bands, height, kept)
        return file.getbuffer(), tuple(notes)
    if raw:
        image = _raw_image(rgb, kept.alpha)
    else:
        image = _ycbcr_image(photo, gray, rgb) if format_ == "JPEG" else rgb_image(kept, gray, rgb)
    return _encoded(image, kept, format_, quality), tuple(notes)


def _holdable(photo: Photo, format_: str) -> tuple[Photo, list[str]]:
    """The photo as the format holds it, and a note on each thing that it does not hold."""
    notes: list[str] = []
    changes: dict[str, Any] = {}

    def drop(field: str, what: str, why: str = f"{format_} cannot hold it") -> None:
        changes[field] = None
        notes.append(f"{what} left out: {why}")

    if photo.alpha is not None and format_ not in ALPHA_FORMATS:
        changes["alpha"] = None
        if photo.alpha.getextrema() != (255, 255):
            drop("alpha", "transparency")
    for field, what in METADATA.items():
        content = getattr(photo, field)
        if content and field in NOT_HELD.get(format_, ()):
            drop(field, what)
        elif content and format_ == "JPEG" and len(content) > JPEG_LIMITS[field]:
            drop(field, what, f"{len(content)} bytes, JPEG holds {JPEG_LIMITS[field]}")
    if photo.dpi and format_ == "WEBP":  # has no place of its own for it
        changes["exif"] = _with_resolution(photo.exif, photo.dpi)
    return dataclasses.replace(photo, **changes), notes


def _with_resolution(exif: bytes | None, dpi: tuple[float, float]) -> bytes:
    tags = Image.Exif()
    tags.load(exif or b"")
    tags[ExifTags.Base.XResolution], tags[ExifTags.Base.YResolution] = dpi
    tags[ExifTags.Base.ResolutionUnit] = 2  # inches
    return tags.tobytes()


def _encoded(image: Image.Image, kept: Photo, format_: str, quality: int) -> Encoded:
    """What Pillow writes of an image and metadata that the format holds."""
    settings: dict[str, dict[str, Any]] = {
        # Full-resolution chroma: subsampling would blur the colours again.
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "BMP": {},
    }
    options = settings[format_]
    for field in ("exif", "icc_profile", "dpi", "xmp", "comment"):
        if value := getattr(kept, field):
            options[field] = value
    if kept.iptc:
        options["extra"] = iptc.jpeg_segment(kept.iptc)
    if not hasattr(os, "memfd_create"):
        buffer = io.BytesIO()
        image.save(buffer, format_, **options)
        return buffer.getbuffer()
    # Pillow's encoders let other threads run only while they write to a file descriptor.
    with os.fdopen(os.memfd_create("cgan"), "w+b") as file:
        image.save(file, format_, **options)
        file.seek(0)
        return file.read()


def _raw_image(rgb: Floats, alpha: Image.Image | None) -> Image.Image:
    """The network's own answer, 3 x h x w in [0, 1], with alpha of its size where there is one."""
    image = Image.fromarray((rgb.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8))
    if alpha is not None:
        image.putalpha(alpha.resize(image.size))
    return image


def _ycbcr_image(photo: Photo, gray: Floats, rgb: Floats) -> Image.Image:
    """The photo in colour as a JPEG stores it (JFIF 1.02, page 3), with its own luma byte for byte."""
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
    """The photo in colour with 8 bits a channel: RGB, or RGBA where it has transparency."""
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


def _interleaved(photo: Photo, gray: Floats, rgb: Floats) -> Iterator[deep.Samples]:
    """Bands of the photo in colour, rows x width x 3 or 4, of the type of its luma."""
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
    """Values that are not negative as the nearest integers; overwrites them."""
    values += np.float32(0.5)
    return values.astype(dtype)


def _bands(photo: Photo, gray: Floats, rgb: Floats, top: int) -> Iterator[Band]:
    """Bands of full-size colour that fits into the gamut, in levels from 0 to `top`.

    Each band lies where the one before it lay, and may be written over: fresh memory costs more than the sums.
    """
    height, width = photo.size
    own_top = np.iinfo(photo.luma.dtype).max
    maps = color_maps(photo.size, gray, rgb, np.float32(top))
    step = min(height, max(1, BAND_PIXELS // width), BAND_ROWS)
    memory = np.empty(7 * step * width, np.float32)
    for rows, source, weights in interpolation(maps.shape[1], height, step):
        planes = memory[: 7 * (rows.stop - rows.start) * width].reshape(7, -1, width)
        luma, red, blue, *others = planes  # slopes, and then room for the sums
        np.copyto(luma, photo.luma[rows])  # multiplying integers takes twice as long
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
    """s (R - Y, G - Y, B - Y) with the largest s <= 1 for which each plus Y stays within 0 and `top`.

    Overwrites the differences `red` and `blue`, and all of scratch.
    """
    weight_r, weight_g, weight_b = (np.float32(w) for w in LUMA_REC601)
    green, above, below, room, *_ = scratch
    # luma of the differences is zero, which gives the third from the other two
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
    """The largest s <= 1 for which s `above` fits into `room` and s `below` into `luma`; overwrites the last two."""
    tiny = np.float32(1e-3)  # of a level: where there is no colour there is no limit to it
    for difference, limit in ((above, room), (below, luma)):
        np.maximum(difference, tiny, out=difference)
        np.divide(limit, difference, out=difference)
    np.minimum(above, below, out=above)
    np.minimum(above, 1, out=above)
    return above
