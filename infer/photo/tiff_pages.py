"""The pages of a TIFF, and the one that is the photo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from PIL import Image, ImageFile

from cgan.jpeg_decoder import MissingPixelsError
from cgan.photo_limits import check_time
from infer.photo import tiff
from infer.photo.refusals import UnreadError

FORMAT = "TIFF_PAGES"
"""Name under which `TiffPages` is registered with Pillow."""

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
FILL_ORDER, OFFSETS, ORIENTATION, CHANNELS, ROWS_PER_STRIP, SIZES, PLANAR = 266, 273, 274, 277, 278, 279, 284
FAX3, FAX4, PREDICTOR, COLORMAP = 292, 293, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES, SUB_DIRECTORIES, INK_SET = 322, 323, 324, 325, 330, 332
EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, JPEG_PROCESS, JPEG_START, JPEG_LENGTH = 338, 339, 347, 512, 513, 514
RESTARTS, QUANTIZATION, DC_TABLES, AC_TABLES = 515, 519, 520, 521
COEFFICIENTS, SUBSAMPLING, REFERENCE = 529, 530, 532
DEPTH, ICC_PROFILE, LERC, DNG_VERSION = 32997, 34675, 50674, 50706
"""Tags."""

SHORTS = frozenset({BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, CHANNELS, PLANAR, PREDICTOR, COLORMAP, INK_SET})
SHORTS |= {EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_PROCESS, RESTARTS, SUBSAMPLING}
LONGS = frozenset({WIDTH, HEIGHT, OFFSETS, ROWS_PER_STRIP, SIZES, FAX3, FAX4, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS})
LONGS |= {TILE_SIZES, JPEG_START, JPEG_LENGTH, QUANTIZATION, DC_TABLES, AC_TABLES, LERC}
OTHERS = frozenset({JPEG_TABLES, COEFFICIENTS, REFERENCE})
"""Tags of the pixels, by the type that readers know: integers of 16 and of 32 bits; of others, such as rationals."""

REDUCED, OLD_REDUCED = 1, 2
"""A thumbnail by NewSubfileType (bit 0) and by SubfileType."""

PLANES = 2
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, SEPARATED, YCBCR = range(7)
USUAL_PHOTOMETRICS = {1: BLACK_IS_ZERO, 2: BLACK_IS_ZERO, 3: RGB}
"""What pixels of so many channels are taken for in a file that does not say it, as older versions of libtiff do; newer
ones take the first of three for gray."""
UNCOMPRESSED, FAX_CODECS = 1, frozenset({2, 3, 4})
OF_OLD_JPEG = frozenset({JPEG_PROCESS, JPEG_START, JPEG_LENGTH, RESTARTS, QUANTIZATION, DC_TABLES, AC_TABLES})
USED_BY_PHOTOMETRIC = {
    PALETTE: frozenset({COLORMAP}),
    SEPARATED: frozenset({INK_SET}),
    YCBCR: frozenset({SUBSAMPLING, COEFFICIENTS, REFERENCE}),
}
USED_BY_COMPRESSION = {3: frozenset({FAX3}), 4: frozenset({FAX4}), 6: OF_OLD_JPEG, 7: frozenset({JPEG_TABLES})}
LAYOUT = (SHORTS | LONGS) - OF_OLD_JPEG - {COLORMAP, INK_SET, SUBSAMPLING, FAX3, FAX4, LERC}
"""Tags that some pixels need, and those that all do: a damaged one that is not needed does no harm."""

RAW_PHOTOMETRICS = {32803: "a colour filter array", 34892: "linear raw data"}

MOST_PAGES = 1000
"""Directories that are searched for the photo."""

LARGEST_THUMBNAIL = 512
"""Longer side of a first page that is a thumbnail without being marked as one."""

ENLARGEMENT = 2
PROPORTION_TOLERANCE = 0.05
"""A later page of the same proportions, and this many times as large, is the photo of an unmarked thumbnail."""

LARGEST_CLASSIC = 2**32 - 2**24
"""Bytes of the largest file that is no BigTIFF and has room for another directory."""


@dataclass(frozen=True)
class Page:
    """A directory of a TIFF: one picture."""

    reader: tiff.Reader
    directory: tiff.Directory

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, 0 if unknown."""
        return self.number(WIDTH), self.number(HEIGHT)

    @property
    def is_reduced(self) -> bool:
        """True if the page is marked as a thumbnail or another part of the photo, such as its mask."""
        return bool(self.number(SUBFILE) & REDUCED) or self.number(OLD_SUBFILE) == OLD_REDUCED

    @property
    def channels(self) -> int:
        """Samples of a pixel."""
        return self.number(CHANNELS, 1)

    @property
    def bits(self) -> int:
        """Bits of a sample."""
        return max(self.numbers(BITS) or (1,))

    @property
    def says_photometric(self) -> bool:
        """True if the file says what the samples mean. libtiff, too, passes over a tag of two values."""
        return len(self.numbers(PHOTOMETRIC)) == 1

    @property
    def photometric(self) -> int | None:
        """What the samples mean; None if the file does not say it and it cannot be guessed."""
        if self.says_photometric:
            return self.number(PHOTOMETRIC)
        if self.number(COMPRESSION, 1) in FAX_CODECS:
            return WHITE_IS_ZERO
        return USUAL_PHOTOMETRICS.get(self.channels - len(self.numbers(EXTRA_SAMPLES)))

    @property
    def rows_per_strip(self) -> int:
        """Rows of a strip; 0, which some programs write, stands for all."""
        return self.number(ROWS_PER_STRIP) or self.size[1]

    @property
    def strip_sizes(self) -> tuple[int, ...]:
        """Bytes of each strip; none if the file does not say them and they cannot be known."""
        return self._sizes(OFFSETS, SIZES)

    @property
    def tile_sizes(self) -> tuple[int, ...]:
        """Bytes of each tile."""
        return self._sizes(TILE_OFFSETS, TILE_SIZES)

    def _sizes(self, offsets: int, sizes: int) -> tuple[int, ...]:
        """Return the bytes of strips or tiles. Samples that are not compressed may reach to the end of the file.

        libtiff, too, reads those whose size is too large, and calculates that of a single strip.
        """
        places, found = self.numbers(offsets), self.numbers(sizes)
        is_plain = self.number(COMPRESSION, 1) == UNCOMPRESSED
        if len(places) == 1 and (not found or is_plain):
            return (max(0, self.reader.size - places[0]),)
        if not is_plain:
            return found
        left = (max(0, self.reader.size - place) for place in places)
        return tuple(map(min, found, left))

    @property
    def is_cut(self) -> bool:
        """True if a strip or a tile does not end in the file."""
        pieces = ((self.numbers(OFFSETS), self.strip_sizes), (self.numbers(TILE_OFFSETS), self.tile_sizes))
        return any(
            place + size > self.reader.size
            for places, sizes in pieces
            for place, size in zip(places, sizes, strict=False)
        )

    @property
    def damaged(self) -> list[int]:
        """Tags of the pixels whose values do not lie in the file, or are of a type that they cannot have."""
        needed = LAYOUT | USED_BY_PHOTOMETRIC.get(self.photometric or 0, frozenset())
        needed |= USED_BY_COMPRESSION.get(self.number(COMPRESSION, 1), frozenset())
        odd = [tag for tag in self.directory.odd if tag in needed]
        entries = (entry for entry in self.directory.entries if entry.tag in needed - OTHERS)
        return odd + [entry.tag for entry in entries if entry.kind not in tiff.INTEGERS]

    def __contains__(self, tag: int) -> bool:
        """Return True if the page has a tag with a value in the file."""
        return self.directory[tag] is not None

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the values of a tag; none if it is missing or holds no integers."""
        entry = self.directory[tag]
        return self.reader.integers(entry) if entry and entry.kind in tiff.INTEGERS else ()

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag, the default if it is missing or holds no integers."""
        found = self.reader.number(self.directory[tag])
        return default if found is None else found

    def reals(self, tag: int) -> tuple[float, ...]:
        """Return the values of a tag; none if it is missing or holds no numbers."""
        entry = self.directory[tag]
        return self.reader.reals(entry) if entry else ()

    def content(self, tag: int) -> bytes:
        """Return the value of a tag as it lies in the file."""
        entry = self.directory[tag]
        return self.reader.value(entry) if entry else b""

    def layout(self) -> dict[int, Any]:
        """Return the tags that tell where the pixels lie, as `cgan.completeness.check_tiff` takes them."""
        tags: dict[int, Any] = {WIDTH: self.size[0], HEIGHT: self.size[1], CHANNELS: self.channels}
        tags |= {ROWS_PER_STRIP: self.rows_per_strip, PLANAR: self.number(PLANAR, 1)}
        tags |= {tag: self.number(tag) for tag in (TILE_WIDTH, TILE_HEIGHT)}
        return tags | {tag: self.numbers(tag) for tag in (OFFSETS, TILE_OFFSETS) if tag in self}


class TiffPages(ImageFile.ImageFile):
    """A TIFF of any kind, opened for its tags."""

    format = "TIFF"
    reader: tiff.Reader

    def _open(self) -> None:
        try:
            self.reader = tiff.Reader(cast(BinaryIO, self.fp))
            first = self.first
        except ValueError as error:  # so that Pillow tries other formats
            raise SyntaxError(str(error)) from error
        if not min(first.size):
            raise SyntaxError("it has no size")
        self._size, self._mode, self.tile = first.size, "L", []
        if profile := first.content(ICC_PROFILE):
            self.info["icc_profile"] = profile

    @property
    def first(self) -> Page:
        """The first page."""
        return Page(self.reader, self.reader.directory(self.reader.first))


Image.register_open(FORMAT, TiffPages, lambda head: head[:4] in (*tiff.STARTS, *tiff.BIG_STARTS))


def photo_page(image: TiffPages, notes: list[str]) -> Page:
    """Return the page with the photo: the first, or the largest one of which the first is a thumbnail.

    Raises:
        UnreadError: the photo is raw data of a camera.
    """
    first = image.first
    pages = [first, *_other_pages(first)]
    whole = [page for page in pages[1:] if not page.is_reduced and min(page.size)]
    if not first.is_reduced:
        whole = [page for page in whole if _is_enlargement(page, first)]
    page = max(whole, key=lambda page: page.size[0] * page.size[1], default=first)
    if page is first and any(not other.is_reduced for other in pages[1:]):
        notes.append("first frame of several")
    if page is not first:
        notes.append(f"its first page is a thumbnail; the page of {page.size[0]} x {page.size[1]} pixels is coloured")
    elif first.is_reduced:
        notes.append(f"only a thumbnail of {first.size[0]} x {first.size[1]} pixels is in the file")
    if kind := RAW_PHOTOMETRICS.get(page.number(PHOTOMETRIC)):
        raise UnreadError(f"it holds raw data of a camera ({kind}), which are not developed; convert it first")
    return page


def _is_enlargement(page: Page, first: Page) -> bool:
    (width, height), (small_width, small_height) = page.size, first.size
    if max(first.size) > LARGEST_THUMBNAIL or width < ENLARGEMENT * small_width:
        return False
    return abs(width * small_height / (height * small_width) - 1) < PROPORTION_TOLERANCE


def _other_pages(first: Page) -> list[Page]:
    """Return the later pages and all sub-directories; a damaged one ends the search."""
    places = [*first.numbers(SUB_DIRECTORIES), first.directory.next]
    pages: list[Page] = []
    seen = {0, first.directory.place}
    while places and len(pages) < MOST_PAGES:
        check_time()
        place = places.pop(0)
        if place in seen:
            continue
        seen.add(place)
        try:
            page = Page(first.reader, first.reader.directory(place))
        except ValueError:  # what cannot be read is no photo that could be chosen
            continue
        pages.append(page)
        places += [*page.numbers(SUB_DIRECTORIES), page.directory.next]
    return pages


def alone(content: bytearray, page: Page, changes: Mapping[int, Sequence[int]] = {}) -> bytearray:
    """Make a page of a file its only one, whose directory has the tags of the pixels and no others; return the file.

    Readers know its layout and types whatever those of the file are: BigTIFF, integers of 8 bits, missing tags.

    Args:
        content: the file, which is changed.
        page: one of its pages, which is not cut: what is appended could be taken for its pixels.
        changes: other values of tags of integers; no value takes a tag away.

    Raises:
        MissingPixelsError: a value is larger than its type.
        UnreadError: the file has no room for another directory.
    """
    order, big = page.reader.order, len(content) > LARGEST_CLASSIC
    if big and not page.reader.big:
        raise UnreadError(f"a TIFF of {len(content)} bytes, the limit is {LARGEST_CLASSIC} for all but BigTIFF")
    photometric = page.photometric
    known: dict[int, Sequence[int]] = {BITS: [page.bits] * page.channels}
    if TILE_OFFSETS in page:
        known[TILE_SIZES] = page.tile_sizes
    if OFFSETS in page:
        known |= {ROWS_PER_STRIP: [page.rows_per_strip], SIZES: page.strip_sizes}
    if photometric is not None:
        known[PHOTOMETRIC] = [photometric]
    fields = []
    for tag in SHORTS | LONGS:
        values = changes.get(tag, known.get(tag) or page.numbers(tag))
        kind = tiff.SHORT if tag in SHORTS else tiff.LONG8 if big else tiff.LONG
        if values and not 0 <= min(values) <= max(values) < 1 << 8 * tiff.KIND_SIZES[kind]:
            raise MissingPixelsError(f"its tag {tag} has the value {max(values, key=abs)}")
        fields += [tiff.longs(tag, order, *values, kind=kind)] if values else []
    for tag in OTHERS:
        if entry := page.directory[tag]:
            value = entry.value_place if entry.size > 8 or (entry.size > 4 and not big) else page.content(tag)
            fields.append(tiff.Field(tag, entry.kind, entry.length, value))
    head = tiff.header(order, tiff.append_directory(content, order, fields, big), big)
    content[: len(head)] = head
    return content
