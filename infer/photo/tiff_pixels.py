"""Reading of TIFF files of every kind that libtiff decodes.

Pillow reads the tags, and the pixels of codecs that go on after errors: its libtiff reports those. imagecodecs returns
the samples of all other codecs as libtiff decodes them, of any depth, and fails at the first error.
"""

import io
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from PIL import Image, TiffTags, UnidentifiedImageError

from cgan.completeness import check_tiff, load
from cgan.jpeg_decoder import MissingPixelsError
from cgan.photo_limits import MAX_PIXELS, check_size, check_time
from infer.photo import lab, packed_bits, tiff_wide_jpeg
from infer.photo import samples as samples_
from infer.photo.color_profile import needs_colors
from infer.photo.formats import ProfileUse
from infer.photo.headers import start_of_frame
from infer.photo.old_jpeg import stream_of
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
    OFFSETS,
    ORIENTATION,
    PALETTE,
    PHOTOMETRIC,
    PLANAR,
    PLANES,
    RGB,
    SAMPLE_FORMAT,
    SEPARATED,
    SUBSAMPLING,
    TILE_OFFSETS,
    WHITE_IS_ZERO,
    YCBCR,
    Page,
    TiffPages,
    alone,
    photo_page,
)
from infer.photo.tiff_pieces import check_plain, cut_deflate
from infer.photo.ycbcr import clump_layout, rgb_of

GUESSES: dict[int | None, str] = {WHITE_IS_ZERO: "gray, 0 is white", BLACK_IS_ZERO: "gray, 0 is black", RGB: "RGB"}
LAB_KINDS = frozenset({lab.CIE, lab.ICC})
CMYK_INKS = 1
MODELS = {RGB: "RGB", YCBCR: "RGB", SEPARATED: "CMYK", lab.CIE: "RGB", lab.ICC: "RGB"}
UNREAD_PHOTOMETRICS = {10: "ITU Lab", 32844: "LogL", 32845: "LogLuv"}

ASSOCIATED, UNASSOCIATED = 1, 2
UNSIGNED, SIGNED, FLOAT, VOID = 1, 2, 3, 4
MOST_PALETTE_BITS = 16
MOST_CHANNELS = 65_535

OLD_JPEG, JPEG = 6, 7
JPEG_BITS = {8: (1, 2, 3, 4), 12: (1, 3)}
"""Channels that are read, by the bits of their samples."""
JPEG_HEAD = 2**16
FIRST_SAMPLING = 7
"""Bytes between the precision of a frame and the sampling factors of its first component."""
BY_PILLOW = frozenset({2, 3, 4, 32771, JPEG})
"""CCITT codecs and JPEG. imagecodecs does not report the errors that libtiff goes on after."""

READ = {1: "", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 34925: "LZMA", 50000: "ZSTD", 50001: "WebP"}
READ |= {34887: "LERC"}
UNREAD = dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000") | {50002: "JPEG XL", 52546: "JPEG XL", 34933: "PNG"}
UNREAD |= {32766: "NeXT", 32809: "ThunderScan", 34676: "SGI LogLuv", 34677: "SGI LogLuv", 34892: "lossy DNG"}
UNREAD |= {34713: "Nikon NEF", 32769: "Epson raw", 65535: "Pentax raw", 34661: "JBIG", 32908: "Pixar film"}
UNREAD |= {32909: "Pixar log", 22610: "JPEG XR", 34934: "JPEG XR", 65000: "Kodak DCR"}
"""Compressions by number."""


def sample_bytes(image: TiffPages) -> int:
    """Return the bytes of memory that the samples of a pixel take."""
    page = photo_page(image, [])
    return page.channels * (1 << max(0, (page.bits - 1).bit_length() - 3))


def read(
    image: TiffPages, notes: list[str], max_pixels: int = MAX_PIXELS, profile: ProfileUse = ProfileUse.CONVERT
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
    check_tiff(page.layout())
    if not page.says_photometric:
        notes.append(f"it does not say what its samples mean; taken for {GUESSES[page.photometric]}")
    if page.is_cut and page.number(COMPRESSION, 1) != OLD_JPEG:
        raise MissingPixelsError("its samples go on behind the end of the file")
    orientation = page.number(ORIENTATION) or image.first.number(ORIENTATION, 1)
    compression = page.number(COMPRESSION, 1)
    if profile_of_page := page.content(ICC_PROFILE):
        image.info["icc_profile"] = profile_of_page
    in_color = needs_colors(image.info.get("icc_profile"), profile)
    if compression == OLD_JPEG:
        return _old_jpeg(bytes(_content(image)), page, notes, in_color), orientation
    if compression == JPEG and tiff_wide_jpeg.is_wide_color(page):
        return tiff_wide_jpeg.samples_of(bytes(_content(image)), page, notes), orientation
    if compression in BY_PILLOW:
        return _by_pillow(_content(image), page, notes, in_color), orientation
    return _samples(image, page, notes), orientation


def _check_kind(page: Page) -> None:
    """Raise for a photo that cannot be read, with the reason."""
    if damaged := page.damaged:
        names = ", ".join(TiffTags.lookup(tag).name for tag in damaged)
        raise MissingPixelsError(f"tags that describe its pixels cannot be read: {names}")
    compression, photometric = page.number(COMPRESSION, 1), page.photometric
    if photometric is None:
        raise UnreadError(f"a TIFF that does not say what its {page.channels} channels mean")
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
    if len(set(page.numbers(BITS))) > 1:
        raise UnreadError("a TIFF of channels with different numbers of bits, which is not read")
    if len(set(page.numbers(SAMPLE_FORMAT))) > 1:
        raise UnreadError("a TIFF of channels with different sample formats, which is not read")
    if not samples_.COLORS[_model(page)] <= page.channels <= MOST_CHANNELS:
        raise UnreadError(f"a TIFF with {page.channels} channels, expected {samples_.COLORS[_model(page)]}")
    has_sizes = len(page.strip_sizes) >= len(page.numbers(OFFSETS))
    has_sizes = has_sizes and len(page.tile_sizes) >= len(page.numbers(TILE_OFFSETS))
    if not has_sizes and compression != OLD_JPEG:  # whose stream tells where it ends
        raise MissingPixelsError("it does not say how many bytes its strips or tiles have")
    _check_samples(page, compression, photometric)


def _check_samples(page: Page, compression: int, photometric: int) -> None:
    """Raise for samples of a type that cannot be read."""
    kind, bits = page.number(SAMPLE_FORMAT, UNSIGNED), page.bits
    if kind not in (UNSIGNED, SIGNED, FLOAT, VOID) or not (1 <= bits <= 32 or bits == 64):
        raise UnreadError(f"a TIFF with samples of format {kind} and {bits} bits, which is not read")
    if kind == FLOAT and bits not in (16, 32, 64):
        raise UnreadError(f"a TIFF with floats of {bits} bits, which is not read; expected 16, 32 or 64")
    if photometric in LAB_KINDS and (bits not in (8, 16) or kind == FLOAT):
        raise UnreadError(f"a TIFF in Lab of {bits} bits, which is not read; expected integers of 8 or 16")
    if compression == JPEG and page.channels not in JPEG_BITS.get(bits, ()):
        raise UnreadError(
            f"a TIFF with JPEG compression and {page.channels} channels of {bits} bits, which is not read"
        )
    if compression == JPEG and not page.says_photometric and page.channels > 1:
        raise UnreadError(f"a TIFF with JPEG compression that does not say what its {page.channels} channels mean")
    if photometric == PALETTE and len(page.numbers(COLORMAP)) != 3 << min(bits, MOST_PALETTE_BITS):
        raise MissingPixelsError(
            f"its colour map has {len(page.numbers(COLORMAP))} values, expected {3 << min(bits, MOST_PALETTE_BITS)}"
        )


def _model(page: Page) -> Any:
    return MODELS.get(page.photometric or 0, "L")


def _content(image: TiffPages) -> bytearray:
    check_time()
    file = cast(io.BufferedIOBase, image.fp)
    content = bytearray(file.seek(0, io.SEEK_END))
    file.seek(0)
    file.readinto(content)
    return content


def _samples(image: TiffPages, page: Page, notes: list[str]) -> Samples:
    """Return the samples of a codec that fails at its first error."""
    photometric = page.photometric
    changes: dict[int, Sequence[int]] = {}
    if photometric == SEPARATED or photometric in LAB_KINDS:
        changes[PHOTOMETRIC] = [BLACK_IS_ZERO]  # imagecodecs would ask for RGB of 8 bits
    elif photometric == YCBCR:
        changes = clump_layout(page)
    is_packed = packed_bits.is_packed(page)
    if is_packed:
        changes |= packed_bits.layout_of(page)
    if page.number(SAMPLE_FORMAT, UNSIGNED) == VOID or photometric in LAB_KINDS:
        changes[SAMPLE_FORMAT] = [UNSIGNED]
    check_plain(page, changes, notes)
    content = _content(image)
    changes |= cut_deflate(content, page, changes, notes)
    values = decoded(alone(content, page, changes), page)
    if is_packed:
        values = packed_bits.unpacked(values, page)
    if photometric == YCBCR:
        return Samples(rgb_of(values, page), "RGB", 8)
    alpha, kind = _alpha(page, notes)
    if photometric == PALETTE:
        return _of_palette(values, page, alpha)
    if photometric in LAB_KINDS:
        rgb = lab.rgb_of(values[..., :3], photometric)
        values = np.concatenate([rgb, values[..., 3:4]], axis=-1) if alpha else rgb
    return Samples(values, _model(page), page.bits, kind if alpha else None, photometric == WHITE_IS_ZERO)


def decoded(content: bytes | bytearray, page: Page) -> samples_.Array:
    """Return the samples of the first page as H x W x C."""
    import imagecodecs

    try:
        values = imagecodecs.tiff_decode(content)
    except IndexError as error:
        raise MissingPixelsError("libtiff does not understand its tags") from error
    except (imagecodecs.TiffError, ValueError, MemoryError) as error:
        raise MissingPixelsError(f"libtiff: {error or 'a tile cannot be decoded'}") from error
    if values.ndim == 2:
        return values[..., None]
    return np.moveaxis(values, 0, -1) if page.number(PLANAR) == PLANES and page.channels > 1 else values


def _alpha(page: Page, notes: list[str]) -> tuple[bool, Any]:
    """Return True and the kind of alpha if the channel after the colours is alpha."""
    count = page.channels - samples_.COLORS[_model(page)]
    if count <= 0:
        return False, None
    extra = page.numbers(EXTRA_SAMPLES) or (UNASSOCIATED,)  # a missing tag means alpha to most programs
    kind = {ASSOCIATED: "premultiplied", UNASSOCIATED: "straight"}.get(extra[0])
    left_out = count - (kind is not None)
    if left_out:
        notes.append(f"{left_out} of its {page.channels} channels left out: no colour, no transparency")
    return kind is not None, kind


def _of_palette(values: samples_.Array, page: Page, alpha: bool) -> Samples:
    """Return the colours of indices; a colour map without a value above 255 is one of 8 bits, as libtiff has it.

    Alpha of any kind is not in the colours, since nothing can be multiplied into an index.
    """
    colors = np.array(page.numbers(COLORMAP))
    table = (colors if colors.max() < 256 else colors >> 8).astype(np.uint8).reshape(3, -1).T
    rgb = table[values[..., 0].astype(np.intp)]
    if not alpha or values.dtype != np.uint8:
        return Samples(rgb, "RGB", 8)
    return Samples(np.concatenate([rgb, values[..., 1:2]], axis=-1), "RGB", 8, "straight")


def _by_pillow(content: bytearray, page: Page, notes: list[str], in_color: bool) -> Image.Image | Samples:
    """Decode with Pillow, which collects what libtiff reports."""
    changes: dict[int, Sequence[int]] = {}
    if page.number(COMPRESSION) == JPEG:
        changes = {SUBSAMPLING: _subsampling(content, page)}
    is_wide = page.bits > 8
    if is_wide:
        changes[PHOTOMETRIC] = [BLACK_IS_ZERO]  # Pillow inverts 8 bits only
    try:
        image = Image.open(io.BytesIO(alone(content, page, changes)), formats=("TIFF",))
    except UnidentifiedImageError as error:
        name = "JPEG" if page.number(COMPRESSION) == JPEG else "CCITT fax"
        kind = f"{page.channels} channels of {page.bits} bits"
        raise UnreadError(f"a TIFF with {name} compression and {kind}, which is not read") from error
    with image:
        if not in_color:
            image.draft("L", None)
        notes += load(image)
        if is_wide:
            white_is_zero = page.photometric == WHITE_IS_ZERO
            return Samples(np.asarray(image)[..., None], bits=page.bits, white_is_zero=white_is_zero)
        return image.convert("L") if image.mode == "1" else image


def _subsampling(content: bytearray, page: Page) -> Sequence[int]:
    """Return the columns and rows of pixels that share one Cb and one Cr, which tags may say wrong, by the data."""
    places = page.numbers(TILE_OFFSETS) or page.numbers(OFFSETS)
    head = bytes(content[places[0] : places[0] + JPEG_HEAD]) if places else b""
    frame = start_of_frame(head)
    if page.photometric == YCBCR and frame.kind and frame.place + FIRST_SAMPLING < len(head):
        sampling = head[frame.place + FIRST_SAMPLING]
        return sampling >> 4, sampling & 15
    return page.numbers(SUBSAMPLING)


def _old_jpeg(content: bytes, page: Page, notes: list[str], in_color: bool) -> Image.Image:
    """Decode the JPEG stream of a TIFF with old-style JPEG compression."""
    try:
        image = Image.open(io.BytesIO(stream_of(content, page)), formats=("JPEG",))
        if image.size != page.size:
            raise UnreadError("a TIFF with old-style JPEG compression in several streams, which is not read")
    except UnidentifiedImageError as error:
        raise UnreadError("a TIFF with old-style JPEG compression without a JPEG stream, which is not read") from error
    with image:
        if not in_color:
            image.draft("L", None)
        notes += load(image)
        return image
