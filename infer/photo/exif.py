"""EXIF blocks, copied byte for byte: only orientation, sides and the thumbnail of a turned, coloured photo change.

A block is the identifier "Exif\\0\\0" and a TIFF structure. Its parts keep their offsets, on which maker notes depend.
"""

import struct
from collections.abc import Iterable
from typing import Any

from infer.photo import tiff
from infer.photo.tiff import Directory, Entry, Field, Reader

IDENTIFIER = b"Exif\0\0"

IMAGE_WIDTH, IMAGE_LENGTH, DESCRIPTION, ORIENTATION = 256, 257, 270, 274
STRIP_OFFSETS, STRIP_SIZES, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 273, 279, 282, 283, 296
THUMBNAIL_OFFSET, THUMBNAIL_SIZE = 513, 514
EXIF, GPS, INTEROP, MAKER_NOTE = 34665, 34853, 40965, 37500
COLOR_SPACE, INTEROP_INDEX = 40961, 1
SRGB, DCF_BASIC, ADOBE_RGB = 1, b"R98", b"R03"
"""ColorSpace of sRGB, and InteroperabilityIndex of sRGB and of Adobe RGB."""
SubDirectories = dict[int, Any]
SUB_DIRECTORIES: SubDirectories = {EXIF: {INTEROP: {}}, GPS: {}}
"""Tags that point to directories, and those in these directories (Exif 2.32, section 4.6.3)."""

SIDES = {0: ((IMAGE_WIDTH, IMAGE_LENGTH), (X_RESOLUTION, Y_RESOLUTION)), EXIF: ((0xA002, 0xA003), (0xA20E, 0xA20F))}
"""Pairs of tags that change places in a photo turned by a quarter: of the first directory (0), and of EXIF's own:
PixelXDimension and PixelYDimension, the resolutions of the focal plane."""

ON_ITS_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap rows and columns."""

RESOLUTION = frozenset({X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT})

INCH, RATIONAL, UNITS = 2, 5, {2: 1.0, 3: 2.54}
"""ResolutionUnit, and dots per inch of one dot per unit."""

THUMBNAIL_NOTE = "thumbnail left out: it shows the photo without colour"
MOVED_NOTE = "maker notes moved: programs that count their offsets from the beginning of the file cannot read them"

SELF_CONTAINED = (b"Nikon\0\2", b"OLYMPUS\0", b"OM SYSTEM\0", b"FUJIFILM", b"PENTAX \0", b"Apple iOS\0", b"HDRP\2")
"""First bytes of maker notes whose offsets count from their own beginning."""

BIG_KINDS = frozenset({16, 17, 18})
"""Types that only BigTIFF has, and EXIF cannot hold."""

MOST_THUMBNAILS = 16
"""Most directories that are followed behind the first one; EXIF has one."""

MOST_PADDING = 2**14
"""Largest offset at which maker notes are kept by padding, a quarter of what a JPEG's segment holds."""


def upright(block: bytes, fallback: int, notes: list[str], own: int | None = None) -> tuple[bytes, int]:
    """Return a block for the upright, coloured photo, and the orientation that the photo had, 1 to 8.

    Orientation becomes 1, sides and resolutions of a photo on its side change places, and the thumbnail is blanked, or
    cut off at the end.

    Args:
        block: with or without its identifier.
        fallback: orientation of a photo whose block has none.
        notes: list to which a note on the thumbnail is appended.
        own: orientation of the file itself, which comes before the block's; None if it has none.

    Raises:
        ValueError: it has no first directory.
    """
    content = bytearray(block.removeprefix(IDENTIFIER))
    reader = Reader(bytes(content))
    if reader.big:
        raise ValueError("it is a BigTIFF, which EXIF does not allow")
    first = reader.directory(reader.first)
    given = reader.number(first[ORIENTATION])
    orientation = own or (fallback if given is None else _valid(given))
    is_turned = given is not None and given == _valid(given) != 1
    for entry in first.entries if is_turned else ():
        if entry.tag != ORIENTATION or entry.kind not in tiff.INTEGERS:
            continue
        size, letter = tiff.KIND_SIZES[entry.kind], tiff.INTEGERS[entry.kind]
        content[entry.value_place : entry.value_place + size] = struct.pack(reader.order + letter, 1)
    if orientation in ON_ITS_SIDE:
        for parent, pairs in SIDES.items():
            directory = _below(reader, first[parent]) if parent else first
            for across, down in pairs:
                if directory:
                    _swap(content, directory[across], directory[down])
    if first.next:
        _remove_thumbnails(content, reader, first)
        notes.append(THUMBNAIL_NOTE)
    return IDENTIFIER + bytes(content), orientation


def says_adobe_rgb(block: bytes) -> bool:
    """Return True if a block says that the colours are those of Adobe RGB (DCF 2.0: InteroperabilityIndex is R03)."""
    reader = Reader(block.removeprefix(IDENTIFIER))
    _, index = _color_entries(reader)
    return index is not None and reader.value(index)[:3] == ADOBE_RGB


def in_srgb(block: bytes, notes: list[str]) -> bytes:
    """Return a block whose ColorSpace and InteroperabilityIndex say sRGB, where it has them; a change is noted.

    Raises:
        ValueError: it has no first directory.
    """
    content = bytearray(block.removeprefix(IDENTIFIER))
    reader = Reader(bytes(content))
    space, index = _color_entries(reader)
    if space and space.kind in tiff.INTEGERS and reader.number(space) != SRGB:
        letter = tiff.INTEGERS[space.kind]
        struct.pack_into(reader.order + letter, content, space.value_place, SRGB)
        notes.append("EXIF ColorSpace changed to sRGB")
    if index and reader.value(index)[:3] == ADOBE_RGB:
        content[index.value_place : index.value_place + 3] = DCF_BASIC
    return block[: len(block) - len(content)] + bytes(content)


def _color_entries(reader: Reader) -> tuple[Entry | None, Entry | None]:
    """Return the entries ColorSpace and InteroperabilityIndex."""
    own = _below(reader, reader.directory(reader.first)[EXIF])
    interop = _below(reader, own[INTEROP]) if own else None
    return own[COLOR_SPACE] if own else None, interop[INTEROP_INDEX] if interop else None


def orientation_of(block: bytes) -> int | None:
    """Return the orientation that a block gives, 1 to 8; None if it has none, or is damaged."""
    try:
        reader = Reader(block.removeprefix(IDENTIFIER))
        given = reader.number(reader.directory(reader.first)[ORIENTATION])
    except ValueError:  # `upright` says so
        return None
    return None if given is None else _valid(given)


def _valid(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1


def resolution(block: bytes) -> tuple[float, float] | None:
    """Return horizontal and vertical dots per inch of a block, None if it has none that can be read.

    Raises:
        ValueError: it has no first directory.
    """
    reader = Reader(block.removeprefix(IDENTIFIER))
    first = reader.directory(reader.first)
    return resolution_of(reader, first)


def resolution_of(reader: Reader, directory: Directory) -> tuple[float, float] | None:
    """Return horizontal and vertical dots per inch of a directory, None if it has none that can be read."""
    unit = reader.number(directory[RESOLUTION_UNIT])
    factor = UNITS.get(INCH if unit is None else unit)
    values = []
    for tag in (X_RESOLUTION, Y_RESOLUTION):
        entry = directory[tag]
        if entry is None or entry.kind != RATIONAL or factor is None:
            return None
        above, below = reader.numbers("LL", reader.at(entry.value_place, 8))
        if not below:
            return None
        values.append(above / below * factor)
    return values[0], values[1]


def with_resolution(block: bytes | None, dpi: tuple[float, float]) -> bytes:
    """Return a block that has a resolution: its own, or `dpi` in a directory at the end of the block."""
    content = bytearray((block or b"").removeprefix(IDENTIFIER)) or bytearray(tiff.header("<", 8) + bytes(6))
    reader = Reader(bytes(content))
    first = reader.directory(reader.first)
    if first[X_RESOLUTION] and first[Y_RESOLUTION]:
        return IDENTIFIER + bytes(content)
    fields = [*fields_at_their_place(reader, first, RESOLUTION)]
    fields += resolution_fields(reader.order, dpi)
    content[:8] = tiff.header(reader.order, tiff.append_directory(content, reader.order, fields))
    return IDENTIFIER + bytes(content)


def unreadable(block: bytes) -> str:
    """Return the tags of a block's first directory whose values cannot be copied into another directory, for a note.

    Raises:
        ValueError: it has no first directory.
    """
    reader = Reader(block.removeprefix(IDENTIFIER))
    return tiff.listed(map(str, reader.directory(reader.first).odd))


def resolution_fields(order: str, dpi: tuple[float, float]) -> list[Field]:
    """Return the fields of a resolution in dots per inch, to a thousandth."""
    ratios = [struct.pack(order + "LL", round(1000 * value), 1000) for value in dpi]
    across, down = (Field(t, RATIONAL, 1, r) for t, r in zip((X_RESOLUTION, Y_RESOLUTION), ratios, strict=True))
    return [across, down, tiff.longs(RESOLUTION_UNIT, order, INCH, kind=3)]


def fields_at_their_place(reader: Reader, directory: Directory, without: Iterable[int]) -> list[Field]:
    """Return the entries of a directory for a second directory in the same structure, whose long values stay."""
    return [
        Field(entry.tag, entry.kind, entry.length, reader.value(entry) if entry.size <= 4 else entry.value_place)
        for entry in directory.entries
        if entry.tag not in without
    ]


def packed(reader: Reader, entries: Iterable[Entry], notes: list[str]) -> bytes | None:
    """Return a block with entries of a TIFF file and the directories below them, None if there are no entries.

    Maker notes stay at their offset where that is small; otherwise those that may depend on it are noted.
    """
    content = bytearray(8)
    fields = _copied(content, reader, entries, SUB_DIRECTORIES, notes)
    content[:8] = tiff.header(reader.order, tiff.append_directory(content, reader.order, fields))
    return IDENTIFIER + bytes(content) if fields else None


def _copied(
    content: bytearray, reader: Reader, entries: Iterable[Entry], below: SubDirectories, notes: list[str]
) -> list[Field]:
    """Return entries and the directories below them as fields of a new structure, whose first bytes are `content`."""
    fields: list[Field] = []
    odd: list[int] = []
    for entry in entries:
        value: bytes | int | list[Field] = reader.value(entry)
        if entry.tag in below:
            directory = _below(reader, entry)
            odd += directory.odd if directory else [entry.tag]
            value = _copied(content, reader, directory.entries if directory else (), below[entry.tag], notes)
        elif entry.kind in BIG_KINDS:
            odd.append(entry.tag)
            continue
        elif entry.tag == MAKER_NOTE and not reader.at(entry.value_place, 16).startswith(SELF_CONTAINED):
            if len(content) <= entry.value_place <= MOST_PADDING:
                content += bytes(entry.value_place - len(content)) + reader.value(entry)
                value = entry.value_place
            else:
                notes.append(MOVED_NOTE)
        if value != []:
            fields.append(Field(entry.tag, entry.kind, entry.length, value))
    if odd:
        notes.append(f"EXIF tags left out: {tiff.listed(map(str, odd))}, whose values cannot be read")
    return fields


def _below(reader: Reader, pointer: Entry | None) -> Directory | None:
    """Return the directory that an entry points to, None if there is none."""
    return _directory(reader, reader.number(pointer) or 0)


def _directory(reader: Reader, place: int) -> Directory | None:
    try:
        return reader.directory(place)
    except ValueError:  # the pointer leads nowhere; everything else can still be read
        return None


def _swap(content: bytearray, across: Entry | None, down: Entry | None) -> None:
    """Let two entries change places: type, count and value or offset, but not their tags."""
    if across and down:
        one, other = (slice(entry.place + 2, entry.place + 12) for entry in (across, down))
        content[one], content[other] = content[other], content[one]


def _remove_thumbnails(content: bytearray, reader: Reader, first: Directory) -> None:
    """Unlink the directories behind the first one and blank them and their pictures; cut off what is at the end."""
    content[first.end - 4 : first.end] = bytes(4)
    patched, blank = bytes(content), []
    place, seen = first.next, {first.place}
    while place and place not in seen and len(seen) <= MOST_THUMBNAILS:
        seen.add(place)
        directory = _directory(reader, place)
        if directory is None:
            break
        blank += [(directory.place, directory.end), *_values(directory)]
        for starts, sizes in ((THUMBNAIL_OFFSET, THUMBNAIL_SIZE), (STRIP_OFFSETS, STRIP_SIZES)):
            start, size = reader.number(directory[starts]), reader.number(directory[sizes])
            if start and size and start + size <= reader.size:
                blank.append((start, start + size))
        place = directory.next
    kept = [(0, 8), *_tree(reader, first, SUB_DIRECTORIES)]
    for start, end in blank:
        content[start:end] = bytes(end - start)
    for start, end in kept:  # offsets of a damaged block can lead anywhere
        content[start:end] = patched[start:end]
    length = len(content)
    for start, end in sorted(blank, key=lambda part: part[1], reverse=True):
        if end >= length - 1:  # a byte of padding may follow
            length = min(length, start)
    del content[max(length, *(end for _, end in kept)) :]


def _tree(reader: Reader, directory: Directory, below: SubDirectories) -> list[tuple[int, int]]:
    """Return the places of a directory, of its values, and of all directories below it."""
    places = [(directory.place, directory.end), *_values(directory)]
    for tag, deeper in below.items():
        if child := _below(reader, directory[tag]):
            places += _tree(reader, child, deeper)
    return places


def _values(directory: Directory) -> list[tuple[int, int]]:
    return [(entry.value_place, entry.value_place + entry.size) for entry in directory.entries]
