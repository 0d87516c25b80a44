"""Directories of TIFF structures, read and written as bytes: those of EXIF blocks and of TIFF files.

Values are never decoded, so text, rationals and maker notes stay as they are (TIFF 6.0, section 2; BigTIFF).
"""

import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from cgan.photo_limits import MAX_METADATA, MAX_NUMBERS, LimitError, check_time

KIND_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
KIND_SIZES |= {16: 8, 17: 8, 18: 8, 129: 1}
"""Bytes of one value of each type; 16 to 18 are those of BigTIFF, 129 is text in UTF-8 (Exif 3.0)."""

INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q", 17: "q", 18: "Q"}
FLOATS = {11: "f", 12: "d"}
RATIONALS = {5: "L", 10: "l"}
"""Types of numbers, and their letters in `struct`; a rational has two of them."""

STARTS = (b"II*\0", b"MM\0*")
"""First bytes of a TIFF structure that is no BigTIFF."""

BIG_STARTS = (b"II+\0", b"MM\0+")
"""First bytes of a BigTIFF."""

SHORT, LONG, LONG8 = 3, 4, 16
MOST_ENTRIES = 65_535
"""Most entries of a directory; a BigTIFF could claim more."""


MOST_NAMES = 12
"""Most names in a note; a file can have thousands."""


def listed(names: Iterable[str]) -> str:
    """Return different names as a list for a note, the first ones of many."""
    different = [*dict.fromkeys(names)]
    more = len(different) - MOST_NAMES
    return ", ".join(different[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


class Entry(NamedTuple):
    """An entry of a directory."""

    tag: int
    kind: int
    """Type of the values."""
    length: int
    """Number of values."""
    place: int
    """Offset of the entry."""
    value_place: int
    """Offset of the value, which is inside the entry if it is short."""

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return self.length * KIND_SIZES[self.kind]


@dataclass(frozen=True)
class Directory:
    """A directory with the entries that have a known type and whose value lies in the file."""

    entries: tuple[Entry, ...]
    odd: tuple[int, ...]
    """Tags of all other entries."""
    place: int
    end: int
    """Offset behind the directory, with its pointer to the next one."""
    next: int
    """Offset of the next directory, 0 if there is none."""

    def __getitem__(self, tag: int) -> Entry | None:
        """Return the first entry with a tag."""
        return next((entry for entry in self.entries if entry.tag == tag), None)


class Reader:
    """A TIFF structure.

    Args:
        file: the structure, from its first byte; or its content.

    Raises:
        ValueError: it does not begin with the header of a TIFF.
    """

    def __init__(self, file: BinaryIO | bytes) -> None:
        self.file = io.BytesIO(file) if isinstance(file, bytes) else file
        self.size = self.file.seek(0, io.SEEK_END)
        start = self.at(0, 16)
        self.order = {b"II": "<", b"MM": ">"}.get(start[:2], "")
        """Byte order, as a letter of `struct`."""
        if not self.order or len(start) < 8:
            raise ValueError("it does not begin with the header of a TIFF")
        self.big = start[:4] in BIG_STARTS
        """True for BigTIFF."""
        self.first: int = self.numbers("Q", start[8:16])[0] if self.big else self.numbers("L", start[4:8])[0]
        """Offset of the first directory."""
        self.copied = 0

    def at(self, place: int, size: int) -> bytes:
        """Return up to `size` bytes at an offset."""
        self.file.seek(place)
        return self.file.read(size)

    def numbers(self, letters: str, content: bytes) -> tuple[int, ...]:
        """Unpack numbers in the byte order of the structure."""
        return struct.unpack(self.order + letters, content)

    def directory(self, place: int) -> Directory:
        """Read the directory at an offset.

        Raises:
            ValueError: there is none.
        """
        count_size, entry_size, pointer = (8, 20, "Q") if self.big else (2, 12, "L")
        if not 8 <= place <= self.size - count_size:
            raise ValueError(f"a directory at byte {place} of {self.size}")
        (claimed,) = self.numbers("Q" if self.big else "H", self.at(place, count_size))
        start = place + count_size
        body = self.at(start, min(claimed, MOST_ENTRIES) * entry_size + entry_size)
        count = min(claimed, len(body) // entry_size, MOST_ENTRIES)
        entries, odd = [], []
        inline = struct.calcsize("=" + pointer)
        check_time()
        rows = struct.iter_unpack(f"{self.order}HH{pointer}{pointer}", body[: count * entry_size])
        for at, (tag, kind, values, offset) in zip(range(start, self.size, entry_size), rows, strict=False):
            size = values * KIND_SIZES.get(kind, 0)
            value_place = offset if size > inline else at + entry_size - inline
            if size and value_place + size <= self.size:
                entries.append(Entry(tag, kind, values, at, value_place))
            else:
                odd.append(tag)
        if odd and (claimed > count or not entries):
            raise ValueError(f"the directory at byte {place} is cut off, or no directory")
        tail = body[count * entry_size :][:inline]
        whole = count == claimed and len(tail) == inline
        end = start + count * entry_size + (inline if whole else 0)
        return Directory(tuple(entries), tuple(odd), place, end, self.numbers(pointer, tail)[0] if whole else 0)

    def value(self, entry: Entry) -> bytes:
        """Return the bytes of a value.

        Raises:
            LimitError: the values that were read are larger than MAX_METADATA together.
        """
        self.copied += entry.size
        if self.copied > MAX_METADATA:
            raise LimitError(f"more than {MAX_METADATA} bytes of metadata, the limit")
        return self.at(entry.value_place, entry.size)

    def number(self, entry: Entry | None) -> int | None:
        """Return the first value of an entry; None if it is no integer."""
        if entry is None or entry.kind not in INTEGERS:
            return None
        return self.numbers(INTEGERS[entry.kind], self.at(entry.value_place, KIND_SIZES[entry.kind]))[0]

    def integers(self, entry: Entry) -> tuple[int, ...]:
        """Return all values of an entry of one of the types of INTEGERS.

        Raises:
            LimitError: they take more than MAX_NUMBERS bytes.
        """
        if entry.size > MAX_NUMBERS:
            raise LimitError(f"{entry.size} bytes of numbers in its metadata, the limit is {MAX_NUMBERS}")
        return self.numbers(f"{entry.length}{INTEGERS[entry.kind]}", self.at(entry.value_place, entry.size))

    def reals(self, entry: Entry) -> tuple[float, ...]:
        """Return the values of an entry of numbers, a rational of denominator 0 as 0; none if it holds no numbers.

        Raises:
            LimitError: they take more than MAX_NUMBERS bytes.
        """
        if entry.kind in INTEGERS:
            return tuple(map(float, self.integers(entry)))
        if entry.size > MAX_NUMBERS:
            raise LimitError(f"{entry.size} bytes of numbers in its metadata, the limit is {MAX_NUMBERS}")
        content = self.at(entry.value_place, entry.size)
        if letter := FLOATS.get(entry.kind):
            return self.numbers(f"{entry.length}{letter}", content)
        if letter := RATIONALS.get(entry.kind):
            parts = self.numbers(f"{2 * entry.length}{letter}", content)
            return tuple(over / under if under else 0.0 for over, under in zip(parts[::2], parts[1::2], strict=True))
        return ()


@dataclass(frozen=True)
class Field:
    """An entry to be written."""

    tag: int
    kind: int
    count: int
    value: "bytes | int | Sequence[Field]"
    """Its bytes in the byte order of the structure, the offset at which they lie already, or a sub-directory."""


def longs(tag: int, order: str, *values: int, kind: int = LONG) -> Field:
    """Return a field of unsigned integers; `kind` 3 is 16 bits, 4 is 32 bits."""
    return Field(tag, kind, len(values), struct.pack(f"{order}{len(values)}{INTEGERS[kind]}", *values))


def append_directory(content: bytearray, order: str, fields: Sequence[Field], big: bool = False) -> int:
    """Append values, sub-directories and then a directory to a structure; return the offset of the directory.

    Args:
        content: the structure.
        order: its byte order, as a letter of `struct`.
        fields: entries of the directory.
        big: True for a BigTIFF, without sub-directories.
    """
    rows = []
    counter, pointer = ("Q", "Q") if big else ("H", "L")
    inline = struct.calcsize("=" + pointer)
    for field in sorted(fields, key=lambda field: field.tag):
        kind, count, value = field.kind, field.count, field.value
        if not isinstance(value, bytes | int):
            kind, count, value = LONG, 1, struct.pack(order + "L", append_directory(content, order, value))
        if isinstance(value, bytes) and len(value) > inline:
            place = _aligned(content)
            content += value
            value = place
        stored = struct.pack(order + pointer, value) if isinstance(value, int) else value.ljust(inline, b"\0")
        rows.append(struct.pack(order + "HH" + pointer, field.tag, kind, count) + stored)
    place = _aligned(content)
    content += struct.pack(order + counter, len(rows)) + b"".join(rows) + bytes(inline)
    return place


def header(order: str, first: int, big: bool = False) -> bytes:
    """Return the first bytes of a TIFF structure whose first directory is at an offset: 8, of a BigTIFF 16."""
    numbers = struct.pack(order + "HHHQ", 43, 8, 0, first) if big else struct.pack(order + "HL", 42, first)
    return {"<": b"II", ">": b"MM"}[order] + numbers


def _aligned(content: bytearray) -> int:
    """Fill up to an even offset, as TIFF requires, and return it."""
    content += bytes(len(content) % 2)
    return len(content)
