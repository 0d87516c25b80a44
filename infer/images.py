"""One photo: decode to luma, colour at the photo's own resolution, encode.

The network colours a small copy. Its colour differences are brought up to the photo's size with the fast
guided filter (He and Sun 2015, "Fast guided filter"): linear coefficients between luma and colour are
found at the small size, enlarged, and applied to the photo's own luma, so colours end where edges are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cgan.spec import LUMA_REC601, PHOTO_FORMATS

Floats = NDArray[np.float32]
Luma = NDArray[np.uint8] | NDArray[np.uint16]

WIDE_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow's modes of gray with more than 8 bits."""

READ_FORMATS = tuple(sorted(set(PHOTO_FORMATS.values())))

WRITE_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}
"""Choices of --format, with Pillow's names."""

ALPHA_FORMATS = frozenset({"PNG", "WEBP", "TIFF"})
MAX_PIXELS = 2**28
"""Larger photos are refused before they are decoded: 268 megapixels, 16,384 x 16,384."""

GUIDED_RADIUS = 3
"""Radius of the guided filter's window, in pixels of the render size."""
GUIDED_EPSILON = 1e-3
"""Regularisation of the guided filter: luma variance below this (in [0, 1] squared) counts as flat."""

BAND_PIXELS = 2**20
"""Full-size pixels merged at a time, so that memory does not grow with the photo."""

SAMPLE_FORMAT, UNSIGNED = 339, 1
"""TIFF tag, and its value for unsigned integers."""

TIFF_DESCRIPTIVE_TAGS = frozenset(
    {
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.Copyright,
        ExifTags.Base.ExifOffset,
        ExifTags.Base.GPSInfo,
    }
)
"""Of a TIFF's tags, those that describe the photo; the others lay out the file."""


class PhotoError(Exception):
    """A photo cannot be coloured; the message is the reason that the report gives."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo, upright."""

    luma: Luma
    """H x W, Rec.601, the full range of its integer type."""
    alpha: Image.Image | None
    """Mode L, H x W, where the photo has transparency."""
    exif: bytes | None
    """Without orientation, which is already applied."""
    icc_profile: bytes | None
    dpi: tuple[float, float] | None
    notes: tuple[str, ...]
    """What a user should know of: frames left out, profiles dropped."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.luma.shape[0], self.luma.shape[1]


def decode(path: Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photo's luma and what is kept beside it.

    Args:
        path: the file.
        max_pixels: larger photos are refused from their header alone.

    Raises:
        PhotoError: empty, not an image, truncated, content that its suffix denies, or too large.
    """
    if path.stat().st_size == 0:
        raise PhotoError("the file is empty")
    expected = PHOTO_FORMATS[path.suffix.lower()]
    try:
        with Image.open(path, formats=READ_FORMATS) as image:
            found = "JPEG" if image.format == "MPO" else image.format  # a JPEG with further pictures in it
            if found != expected:
                raise PhotoError(f"its content is {found} but its name says {expected}; rename it")
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise PhotoError(
                    f"{image.width} x {image.height} pixels, the limit is {max_pixels}; raise --max-pixels"
                )
            return _decode(image)
    except UnidentifiedImageError as error:
        raise PhotoError(f"not an image, or a kind of {expected} that Pillow cannot read") from error
    except (Image.DecompressionBombError, SyntaxError, EOFError, ValueError) as error:
        raise PhotoError(f"{type(error).__name__}: {error}") from error


def model_input(photo: Photo, height: int, width: int) -> Floats:
    """The photo's luma squashed to the render size, 1 x height x width float32 in [0, 1]."""
    image = Image.fromarray(photo.luma if photo.luma.dtype == np.uint8 else photo.luma.astype(np.float32))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    small = np.asarray(image, np.float32) / np.float32(np.iinfo(photo.luma.dtype).max)
    clipped: Floats = np.clip(small, 0, 1)[None]
    return clipped


def merge(photo: Photo, gray: Floats, rgb: Floats) -> Image.Image:
    """The photo in colour, at its own size and with its own luma.

    Args:
        photo: the photo.
        gray: what the network saw, 1 x h x w in [0, 1].
        rgb: what it answered, 3 x h x w in [0, 1].

    Returns:
        An RGB image of the photo's size. Where a colour does not fit into the gamut at the photo's luma it
        is drawn towards gray until it does, so |luma out - luma in| is at most one 8-bit level.
    """
    height, width = photo.size
    scale = np.float32(1 / np.iinfo(photo.luma.dtype).max)
    out = np.empty((height, width, 3), np.uint8)
    for rows, difference_r, difference_b in _difference_bands(photo.luma, scale, gray, rgb):
        _fill_rgb(photo.luma[rows] * scale, difference_r, difference_b, out[rows])
    return Image.fromarray(out)


def raw_output(rgb: Floats) -> Image.Image:
    """The network's own answer, 3 x h x w in [0, 1], as an RGB image of that size."""
    return Image.fromarray((rgb.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8))


def encode(image: Image.Image, photo: Photo, file: BinaryIO, format_: str, quality: int = 95) -> tuple[str, ...]:
    """Write a coloured photo with the metadata of its source.

    Args:
        image: RGB.
        photo: where EXIF, ICC profile, alpha and DPI come from.
        file: opened for writing.
        format_: Pillow's name of the format.
        quality: of JPEG and WebP, 1 to 100.

    Returns:
        Notes on what the format could not hold.
    """
    notes: list[str] = []
    settings: dict[str, dict[str, Any]] = {
        # Full-resolution chroma: subsampling would blur the colours again.
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        # On coloured photos the default, 6, took 1.7 to 2.8 times as long, for files 5% smaller to 13% larger.
        "PNG": {"compress_level": 3},
        "TIFF": {"compression": "tiff_adobe_deflate"},
        "BMP": {},
    }
    options = settings[format_]
    if photo.alpha is not None:
        if format_ in ALPHA_FORMATS:
            image = image.copy()
            image.putalpha(photo.alpha if photo.alpha.size == image.size else photo.alpha.resize(image.size))
        elif photo.alpha.getextrema() != (255, 255):
            notes.append(f"transparency left out: {format_} cannot hold it")
    if photo.icc_profile:
        options["icc_profile"] = photo.icc_profile
    if photo.dpi:
        options["dpi"] = photo.dpi
    if photo.exif:
        try:
            image.save(file, format_, **{**options, **_exif_options(photo.exif, format_)})
            return tuple(notes)
        except Exception as error:  # too large for JPEG, or damage that only writing meets: never worth the photo
            notes.append(f"EXIF left out: {format_} cannot hold it ({error})")
            file.seek(0)
            file.truncate()
    image.save(file, format_, **options)
    return tuple(notes)


def _exif_options(exif: bytes, format_: str) -> dict[str, Any]:
    tags = Image.Exif()
    tags.load(exif)
    # Pillow cannot write a TIFF's EXIF folders through libtiff, so such a file stays uncompressed.
    raw = format_ == "TIFF" and (ExifTags.Base.ExifOffset in tags or ExifTags.Base.GPSInfo in tags)
    return {"exif": exif, "compression": "raw"} if raw else {"exif": exif}


def _decode(image: Image.Image) -> Photo:
    notes: list[str] = []
    if getattr(image, "is_animated", False):
        notes.append("first frame of several")
    profile = image.info.get("icc_profile") or None
    # An ICC header names its colour space in bytes 16 to 19; a gray or CMYK profile cannot describe RGB.
    if profile and profile[16:20] != b"RGB ":
        notes.append(f"ICC profile left out: it is for {profile[16:20].decode('ascii', 'replace').strip()}, not RGB")
        profile = None
    dpi = image.info.get("dpi")
    layout: dict[int, Any] = dict(getattr(image, "tag_v2", {}))
    image, exif = _upright(image, notes)
    image, alpha = _split_alpha(image)
    luma, luma_notes = _luma(image, layout)
    return Photo(
        luma=luma,
        alpha=alpha,
        exif=exif,
        icc_profile=profile,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
        notes=(*notes, *luma_notes),
    )


def _upright(image: Image.Image, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    """The image with its orientation applied, and the rest of its EXIF; damaged EXIF is left out with a note."""
    image.load()
    try:
        exif = image.getexif()
        upright = ImageOps.exif_transpose(image)
        upright.info.update({key: image.info[key] for key in ("transparency",) if key in image.info})
        for tag in list(exif):
            if tag == ExifTags.Base.Orientation or (image.format == "TIFF" and tag not in TIFF_DESCRIPTIVE_TAGS):
                del exif[tag]
        return upright, exif.tobytes() if len(exif) else None
    except Exception as error:  # Pillow's parser raises whatever the damage leads to
        notes.append(f"EXIF and orientation left out: damaged ({error})")
        return image, None


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The image without its transparency, and that as mode L or None."""
    if not image.has_transparency_data and "transparency" not in image.info:
        return image, None
    if image.mode in WIDE_MODES:  # one value is transparent; converting these modes to RGBA would clip them
        opaque = np.asarray(image) != image.info["transparency"]
        return image, Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8))
    image = image.convert("RGBA")
    return image.convert("RGB"), image.getchannel("A")


def _luma(image: Image.Image, layout: dict[int, Any]) -> tuple[Luma, tuple[str, ...]]:
    """Rec.601 luma of an image of any mode; more than 8 bits become uint16. `layout` holds a TIFF's tags."""
    if image.mode in WIDE_MODES:
        return _wide_luma(np.asarray(image), layout)
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return np.asarray(image.convert("L")), ()


def _wide_luma(values: NDArray[Any], layout: dict[int, Any]) -> tuple[Luma, tuple[str, ...]]:
    """Gray of more than 8 bits: taken as it is in its natural range, else stretched from lowest to highest."""
    bits = layout.get(ExifTags.Base.BitsPerSample, (16,))[0]
    if values.dtype == np.int32 and layout.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED and bits == 32:
        values = values.view(np.uint32)  # Pillow reads both kinds as signed
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise PhotoError("it has values that are not finite numbers")
    natural = 1.0 if values.dtype.kind == "f" else 2.0 ** (bits if bits <= 16 else 16) - 1
    notes = ["written with 8 bits a channel"]
    if low < 0 or high > natural:
        notes.append(f"values from {low:g} to {high:g} stretched to the range of gray")
        values, natural = values - low, (high - low) or 1.0
    scaled = np.round(values * (65535.0 / natural)).astype(np.uint16)
    white_is_zero = layout.get(ExifTags.Base.PhotometricInterpretation) == 0  # Pillow inverts only 8 bits
    return 65535 - scaled if white_is_zero else scaled, tuple(notes)


def _difference_bands(
    luma: Luma, scale: np.float32, gray: Floats, rgb: Floats
) -> Iterator[tuple[slice, Floats, Floats]]:
    """Bands of rows with their full-size colour differences R - Y and B - Y, each rows x width."""
    height, width = luma.shape
    small_luma = sum(np.float32(w) * plane for w, plane in zip(LUMA_REC601, rgb, strict=True))
    differences = [rgb[0] - small_luma, rgb[2] - small_luma]
    enlarged = height > gray.shape[1] or width > gray.shape[2]
    maps = [_guided_coefficients(gray[0], d) if enlarged else (None, d) for d in differences]
    step = max(1, BAND_PIXELS // width)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        band = []
        for slope, offset in maps:
            full = _enlarge(offset, rows, height, width)
            if slope is not None:
                full = full + _enlarge(slope, rows, height, width) * (luma[rows] * scale)
            band.append(full)
        yield rows, band[0], band[1]


def _guided_coefficients(guide: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Slope and offset with which values is locally a linear function of guide (He et al. 2013, equations 5, 6, 8)."""
    mean_guide, mean_values = _box_mean(guide), _box_mean(values)
    covariance = _box_mean(guide * values) - mean_guide * mean_values
    variance = _box_mean(guide * guide) - mean_guide * mean_guide
    slope = covariance / (np.maximum(variance, 0) + np.float32(GUIDED_EPSILON))
    return _box_mean(slope), _box_mean(mean_values - slope * mean_guide)


def _box_mean(values: NDArray[np.floating[Any]]) -> Floats:
    """Mean over the window of GUIDED_RADIUS around each pixel, cut off at the borders."""
    for axis in (0, 1):
        length = values.shape[axis]
        sums = np.cumsum(values, axis=axis, dtype=np.float64)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
        positions = np.arange(length)
        low = np.maximum(positions - GUIDED_RADIUS, 0)
        high = np.minimum(positions + GUIDED_RADIUS + 1, length)
        counts = (high - low).reshape(-1, 1) if axis == 0 else high - low
        values = (sums.take(high, axis) - sums.take(low, axis)) / counts
    return values.astype(np.float32)


def _enlarge(values: Floats, rows: slice, height: int, width: int) -> Floats:
    """The given rows of values resized to height x width; bilinear, so bands fit together seamlessly."""
    small_height, small_width = values.shape
    if (small_height, small_width) == (height, width):
        return values[rows]
    box = (0, rows.start * small_height / height, small_width, rows.stop * small_height / height)
    band = Image.fromarray(values).resize((width, rows.stop - rows.start), Image.Resampling.BILINEAR, box)
    return np.asarray(band)


def _fill_rgb(luma: Floats, difference_r: Floats, difference_b: Floats, out: NDArray[np.uint8]) -> None:
    """Write Y + s (R - Y, G - Y, B - Y) into out, with the largest s <= 1 that stays inside [0, 1]."""
    weight_r, weight_g, weight_b = (np.float32(w) for w in LUMA_REC601)
    # luma of the differences is zero, which gives the third from the other two
    difference_g = -(weight_r * difference_r + weight_b * difference_b) / weight_g
    differences = (difference_r, difference_g, difference_b)
    highest = np.maximum(np.maximum(difference_r, difference_g), difference_b)
    lowest = np.minimum(np.minimum(difference_r, difference_g), difference_b)
    tiny = np.float32(1e-6)
    strength = np.minimum((1 - luma) / np.maximum(highest, tiny), luma / np.maximum(-lowest, tiny))
    np.minimum(strength, 1, out=strength)
    for channel, difference in enumerate(differences):
        out[..., channel] = (luma + strength * difference) * 255 + np.float32(0.5)
