"""The pages of a TIFF, and the one that is the photo."""

import io
import struct
from dataclasses import dataclass
from typing import IO, Any, cast

from PIL import Image, TiffImagePlugin

from cgan.photo_limits import LimitError, check_time
from infer.photo.refusals import UnreadError

FORMAT = "TIFF_TAGS"
"""Name under which `TiffTags` is registered with Pillow."""

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
ORIENTATION, CHANNELS, ROWS_PER_STRIP, PLANAR, PREDICTOR, COLORMAP = 274, 277, 278, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, SUB_DIRECTORIES, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 330, 332, 338, 339
JPEG_START, JPEG_LENGTH, DEPTH, ICC_PROFILE, DNG_VERSION = 513, 514, 32997, 34675, 50706
"""Tags."""

REDUCED, OLD_REDUCED = 1, 2
"""A thumbnail by NewSubfileType (bit 0) and by SubfileType."""

PLANES = 2
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, SEPARATED, YCBCR = range(7)
RAW_PHOTOMETRICS = {32803: "a colour filter array", 34892: "linear raw data"}

MOST_PAGES = 1000
"""Directories that are searched for the photo."""

LARGEST_THUMBNAIL = 512
"""Longer side of a first page that is a thumbnail without being marked as one."""

ENLARGEMENT = 2
PROPORTION_TOLERANCE = 0.05
"""A later page of the same proportions, and this many times as large, is the photo of an unmarked thumbnail."""


class TiffTags(TiffImagePlugin.TiffImageFile):
    """Pillow's TIFF without its pixels, so that a file of any kind can be opened for its tags."""

    def _setup(self) -> None:
        tags = self.tag_v2
        width, height = tags.get(WIDTH), tags.get(HEIGHT)
        if not isinstance(width, int) or not isinstance(height, int) or not (width and height):
            raise SyntaxError("it has no size")
        self._size, self._mode, self.tile = (width, height), "L", []
        self._planar_configuration = tags.get(PLANAR, 1)
        if ICC_PROFILE in tags:
            self.info["icc_profile"] = tags[ICC_PROFILE]
        across, down = (tags.get(tag, 1) for tag in (TiffImagePlugin.X_RESOLUTION, TiffImagePlugin.Y_RESOLUTION))
        unit = {None: 1.0, 2: 1.0, 3: 2.54}.get(tags.get(TiffImagePlugin.RESOLUTION_UNIT))
        if unit and across and down:
            self.info["dpi"] = (across * unit, down * unit)


Image.register_open(FORMAT, TiffTags, TiffImagePlugin._accept)


@dataclass(frozen=True)
class Page:
    """A directory of a TIFF: one picture."""

    place: int
    """Offset of the directory."""
    tags: TiffImagePlugin.ImageFileDirectory_v2

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
        return max(numbers(self.tags.get(BITS)) or [1])

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag."""
        return (numbers(self.tags.get(tag)) or [default])[0]


def numbers(value: Any) -> list[int]:
    """Return the integers in the value of a tag."""
    values = value if isinstance(value, tuple) else (value,)
    return [number for number in values if isinstance(number, int)]


def photo_page(image: TiffTags, notes: list[str]) -> Page:
    """Return the page with the photo: the first, or the largest one of which the first is a thumbnail.

    Raises:
        UnreadError: the photo is raw data of a camera.
    """
    first = Page(image.tag_v2.offset or _first_place(image), image.tag_v2)
    pages = [first, *_other_pages(image, first)]
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


def _first_place(image: TiffTags) -> int:
    return int(image._frame_pos[0])


def _other_pages(image: TiffTags, first: Page) -> list[Page]:
    """Return the later pages and all sub-directories; a damaged one ends the search."""
    head, file = _head(image), cast(IO[bytes], image.fp)
    place_of_reading = file.tell()
    places = [*numbers(first.tags.get(SUB_DIRECTORIES)), first.tags.next]
    pages: list[Page] = []
    seen = {0, first.place}
    while places and len(pages) < MOST_PAGES:
        check_time()
        place = places.pop(0)
        if place in seen:
            continue
        seen.add(place)
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        try:
            file.seek(place)
            tags.load(file)
            pages.append(Page(place, tags))
            places += [*numbers(tags.get(SUB_DIRECTORIES)), tags.next]
        except LimitError:
            raise
        except Exception:  # Pillow raises many types. What cannot be read is no photo that could be chosen
            continue
    file.seek(place_of_reading)
    return pages


def _head(image: TiffTags) -> bytes:
    file = cast(io.BufferedIOBase, image.fp)
    place = file.tell()
    file.seek(0)
    head = file.read(16)
    file.seek(place)
    return head if head[2:4] in (b"+\0", b"\0+") else head[:8]


def at_page(content: bytes, page: Page, changes: dict[int, int]) -> bytes:
    """Return the file with a page as its first one, and with other values of some of its tags.

    Args:
        content: the file.
        page: one of its pages.
        changes: tags of the page that hold one integer, and their new values. A tag that is missing stays so.
    """
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")
    first_at, pointer = (8, "Q") if is_big else (4, "L")
    count_size, entry_size = (8, 20) if is_big else (2, 12)
    unchanged = struct.unpack_from(order + pointer, content, first_at)[0] == page.place
    if unchanged and not changes:
        return content
    patched = bytearray(content)
    struct.pack_into(order + pointer, patched, first_at, page.place)
    start = page.place + count_size
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), content, page.place)
    for place in range(start, min(start + count * entry_size, len(content) - entry_size + 1), entry_size):
        tag, kind = struct.unpack_from(order + "HH", content, place)
        if tag in changes and (letter := {1: "B", 3: "H", 4: "L", 16: "Q"}.get(kind)):
            struct.pack_into(order + letter, patched, place + entry_size - struct.calcsize("=" + pointer), changes[tag])
    return bytes(patched)
