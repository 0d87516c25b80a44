"""Reading of TIFF files of every kind that libtiff decodes.

Pillow reads the tags, and the pixels of codecs that go on after errors: its libtiff reports those. imagecodecs returns
the samples of all other codecs as libtiff decodes them, of any depth, and fails at the first error.
"""

import io
from typing import Any, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from cgan.completeness import check_tiff, load
from cgan.jpeg_decoder import MissingPixelsError
from cgan.photo_limits import MAX_PIXELS, check_size, check_time
from infer.photo import samples as samples_
from infer.photo.color_profile import needs_colors
from infer.photo.formats import ProfileUse
from infer.photo.refusals import UnreadError
from infer.photo.samples import Samples
from infer.photo.tiff_pages import (
    BITS,
    BLACK_IS_ZERO,
    COLORMAP,
    COMPRESSION,
    DEPTH,
    EXTRA_SAMPLES,
    ICC_PROFILE,
    INK_SET,
    JPEG_LENGTH,
    JPEG_START,
    ORIENTATION,
    PALETTE,
    PHOTOMETRIC,
    PLANAR,
    PLANES,
    RGB,
    SAMPLE_FORMAT,
    SEPARATED,
    WHITE_IS_ZERO,
    YCBCR,
    Page,
    TiffTags,
    at_page,
    numbers,
    photo_page,
)
from infer.photo.ycbcr import clump_layout, rgb_of

LAB_KINDS = frozenset({8, 9, 10})
"""CIELab, ICCLab, ITULab."""
CMYK_INKS = 1
MODELS = {RGB: "RGB", YCBCR: "RGB", SEPARATED: "CMYK"}
UNREAD_PHOTOMETRICS = {32844: "LogL", 32845: "LogLuv"}

ASSOCIATED, UNASSOCIATED = 1, 2
UNSIGNED, SIGNED, FLOAT, VOID = 1, 2, 3, 4

OLD_JPEG, JPEG = 6, 7
BY_PILLOW = frozenset({2, 3, 4, 32771, JPEG})
"""CCITT codecs and JPEG. imagecodecs does not report the errors that libtiff goes on after."""

READ = {1: "", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 34925: "LZMA", 50000: "ZSTD", 50001: "WebP"}
READ |= {34887: "LERC"}
UNREAD = {34712: "JPEG 2000", 33003: "JPEG 2000", 33005: "JPEG 2000", 50002: "JPEG XL", 52546: "JPEG XL", 34933: "PNG"}
UNREAD |= {32766: "NeXT", 32809: "ThunderScan", 34676: "SGI LogLuv", 34677: "SGI LogLuv", 34892: "lossy DNG"}
UNREAD |= {34713: "Nikon NEF", 32769: "Epson raw", 65535: "Pentax raw", 34661: "JBIG", 32908: "Pixar film"}
UNREAD |= {32909: "Pixar log", 22610: "JPEG XR", 34934: "JPEG XR", 65000: "Kodak DCR"}
"""Compressions by number."""


def sample_bytes(image: TiffTags) -> int:
    """Return the bytes of memory that the samples of a pixel take."""
    page = photo_page(image, [])
    return page.channels * (1 << max(0, (page.bits - 1).bit_length() - 3))


def read(
    image: TiffTags, notes: list[str], max_pixels: int = MAX_PIXELS, profile: ProfileUse = ProfileUse.CONVERT
) -> tuple[Image.Image | Samples, int]:
    """Decode the photo of a TIFF.

    Args:
        image: opened, with its file; a profile of the photo's own page is put into its `info`.
        notes: list to which notes for the user are appended.
        max_pixels: limit of pixels of the photo, which may be larger than the first page.
        profile: use of an ICC profile, which a JPEG's colours are decoded for, not only its luma.

    Returns:
        A Pillow image of at most 8 bits a channel, or samples; and the orientation, 1 to 8, which is not applied.

    Raises:
        UnreadError: libtiff does not decode this kind of TIFF, or its samples are no gray, RGB, CMYK, YCbCr or Lab.
        LimitError: the photo has too many pixels.
        OSError: the file is damaged or incomplete.
    """
    page = photo_page(image, notes)
    check_size(page.size, max_pixels)
    _check_kind(page)
    check_tiff(page.tags)
    orientation = page.number(ORIENTATION) or image.tag_v2.get(ORIENTATION, 1)
    compression = page.number(COMPRESSION, 1)
    if ICC_PROFILE in page.tags:
        image.info["icc_profile"] = page.tags[ICC_PROFILE]
    in_color = needs_colors(image.info.get("icc_profile"), profile)
    if compression == OLD_JPEG:
        return _old_jpeg(_content(image), page, notes, in_color), orientation
    if compression in BY_PILLOW:
        return _by_pillow(_content(image), page, notes, in_color), orientation
    return _samples(image, page, notes), orientation


def _check_kind(page: Page) -> None:
    compression, photometric = page.number(COMPRESSION, 1), page.number(PHOTOMETRIC)
    if name := UNREAD_PHOTOMETRICS.get(photometric):
        raise UnreadError(f"a TIFF in {name}, which is not read; expected gray, RGB, CMYK, YCbCr or Lab")
    if compression not in READ and compression not in BY_PILLOW and compression != OLD_JPEG:
        name = UNREAD.get(compression) or f"number {compression}"
        raise UnreadError(f"a TIFF with a compression that is not read: {name}; save it with LZW or Deflate")
    if photometric not in {*range(YCBCR + 1), *LAB_KINDS}:
        raise UnreadError(f"a TIFF of photometric interpretation {photometric}, which is not read")
    if page.number(DEPTH, 1) > 1:
        raise UnreadError("a TIFF of a volume with several slices, which is not read")
    if photometric == SEPARATED and page.number(INK_SET, CMYK_INKS) != CMYK_INKS:
        raise UnreadError("a TIFF of inks other than CMYK, which is not read")
    if len(set(numbers(page.tags.get(BITS)))) > 1:
        raise UnreadError("a TIFF of channels with different numbers of bits, which is not read")
    if page.channels < samples_.COLORS[_model(page)]:
        raise UnreadError(f"a TIFF with {page.channels} channels, expected {samples_.COLORS[_model(page)]}")
    kind = page.number(SAMPLE_FORMAT, UNSIGNED)
    if kind not in (UNSIGNED, SIGNED, FLOAT, VOID) or page.bits > 64:
        raise UnreadError(f"a TIFF with samples of format {kind} and {page.bits} bits, which is not read")
    if kind == FLOAT and page.bits not in (16, 32, 64):
        raise UnreadError(f"a TIFF with floats of {page.bits} bits, which is not read; expected 16, 32 or 64")


def _model(page: Page) -> Any:
    return MODELS.get(page.number(PHOTOMETRIC), "L")


def _content(image: TiffTags) -> bytes:
    check_time()
    file = cast(io.BufferedIOBase, image.fp)
    file.seek(0)
    return file.read()


def _samples(image: TiffTags, page: Page, notes: list[str]) -> Samples:
    """Return the samples of a codec that fails at its first error."""
    photometric = page.number(PHOTOMETRIC)
    changes: dict[int, int] = {}
    if photometric == SEPARATED:
        changes[PHOTOMETRIC] = BLACK_IS_ZERO  # imagecodecs would ask for RGB of 8 bits
    elif photometric == YCBCR:
        changes = clump_layout(page)
    if page.number(SAMPLE_FORMAT, UNSIGNED) == VOID:
        changes[SAMPLE_FORMAT] = UNSIGNED
    values = decoded(at_page(_content(image), page, changes), page)
    if photometric == YCBCR:
        return Samples(rgb_of(values, page), "RGB", 8)
    if photometric in LAB_KINDS:  # decoded again, as RGB: this time libtiff would go on after an error
        return Samples(_as_rgb(_content(image), page), "RGB", 8)
    alpha, kind = _alpha(page, notes)
    if photometric == PALETTE:
        return _of_palette(values, page, kind if alpha else None)
    return Samples(values, _model(page), page.bits, kind if alpha else None, photometric == WHITE_IS_ZERO)


def decoded(content: bytes, page: Page) -> samples_.Array:
    """Return the samples of the first page as H x W x C."""
    import imagecodecs

    try:
        values = imagecodecs.tiff_decode(content)
    except (imagecodecs.TiffError, ValueError, MemoryError) as error:
        raise MissingPixelsError(f"libtiff: {error or 'a tile cannot be decoded'}") from error
    if values.ndim == 2:
        return values[..., None]
    return np.moveaxis(values, 0, -1) if page.number(PLANAR) == PLANES and page.channels > 1 else values


def _as_rgb(content: bytes, page: Page) -> samples_.Array:
    import imagecodecs

    try:
        return imagecodecs.tiff_decode(at_page(content, page, {}), asrgb=True)[..., :3]
    except imagecodecs.TiffError as error:
        raise UnreadError(f"a TIFF in Lab of a kind that is not read ({error})") from error


def _alpha(page: Page, notes: list[str]) -> tuple[bool, Any]:
    """Return True and the kind of alpha if the channel after the colours is alpha."""
    count = page.channels - samples_.COLORS[_model(page)]
    if count <= 0:
        return False, None
    extra = numbers(page.tags.get(EXTRA_SAMPLES)) or [UNASSOCIATED]  # a missing tag means alpha to most programs
    kind = {ASSOCIATED: "premultiplied", UNASSOCIATED: "straight"}.get(extra[0])
    left_out = count - (kind is not None)
    if left_out:
        notes.append(f"{left_out} of its {page.channels} channels left out: no colour, no transparency")
    return kind is not None, kind


def _of_palette(values: samples_.Array, page: Page, alpha: Any) -> Samples:
    """Return the colours of indices; a colour map without a value above 255 is one of 8 bits, as libtiff has it."""
    colors = np.array(numbers(page.tags.get(COLORMAP)))
    if len(colors) != 3 << page.bits or page.bits > 16:
        raise MissingPixelsError(f"its colour map has {len(colors)} values, expected {3 << min(page.bits, 16)}")
    table = (colors if colors.max() < 256 else colors >> 8).astype(np.uint8).reshape(3, -1).T
    rgb = table[values[..., 0].astype(np.intp)]
    if alpha is None or values.dtype != np.uint8:
        return Samples(rgb, "RGB", 8)
    return Samples(np.concatenate([rgb, values[..., 1:2]], axis=-1), "RGB", 8, alpha)


def _by_pillow(content: bytes, page: Page, notes: list[str], in_color: bool) -> Image.Image:
    """Decode with Pillow, which collects what libtiff reports."""
    changes = {ORIENTATION: 1} if ORIENTATION in page.tags else {}  # Pillow would turn the picture upright
    try:
        image = Image.open(io.BytesIO(at_page(content, page, changes)), formats=("TIFF",))
    except UnidentifiedImageError as error:
        name = "JPEG" if page.number(COMPRESSION) == JPEG else "CCITT fax"
        kind = f"{page.channels} channels of {page.bits} bits"
        raise UnreadError(f"a TIFF with {name} compression and {kind}, which is not read") from error
    with image:
        if not in_color:
            image.draft("L", None)
        notes += load(image)
        return image.convert("L") if image.mode == "1" else image


def _old_jpeg(content: bytes, page: Page, notes: list[str], in_color: bool) -> Image.Image:
    """Decode the one JPEG stream of a TIFF with old-style JPEG compression (TIFF 6.0, section 22)."""
    start, length = page.number(JPEG_START), page.number(JPEG_LENGTH)
    stream = content[start : start + length] if length else content[start:]
    try:
        image = Image.open(io.BytesIO(stream), formats=("JPEG",))
        if image.size != page.size:
            raise UnreadError("a TIFF with old-style JPEG compression in several streams, which is not read")
    except UnidentifiedImageError as error:
        raise UnreadError("a TIFF with old-style JPEG compression without a JPEG stream, which is not read") from error
    with image:
        if not in_color:
            image.draft("L", None)
        notes += load(image)
        return image
