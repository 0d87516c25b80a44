"""EXIF blocks and TIFF files of raw entries, packed here without the code under test."""

import struct
from typing import Any

LETTERS = {1: "B", 3: "H", 4: "L", 5: "L", 7: "B"}
ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7

THUMBNAIL = b"\xff\xd8thumbnail" * 9 + b"\xff\xd9"
CAPTION = "Café Zürich 写真".encode() + b"\0"
PRINT_IM = b"PrintIM\x000300\0\0\x02\0\x02\0\x01\0\0\0\x01\x01\x01\0\0\0"


class Structure:
    """A TIFF structure that grows; offsets count from its first byte."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.content = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HL", 42, 0))

    def value(self, kind: int, value: Any) -> tuple[int, bytes]:
        """Count and bytes of a value: bytes as they are, or numbers."""
        if isinstance(value, bytes):
            return len(value), value
        numbers = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{self.order}{len(numbers)}{LETTERS[kind]}", *numbers)
        return len(numbers) // (2 if kind == RATIONAL else 1), packed

    def add(self, data: bytes) -> int:
        self.content += bytes(len(self.content) % 2)
        self.content += data
        return len(self.content) - len(data)

    def directory(self, entries: list[tuple[int, int, Any]], following: int = 0) -> int:
        rows = {}
        for tag, kind, value in entries:
            count, packed = self.value(kind, value)
            if len(packed) > 4:
                packed = struct.pack(self.order + "L", self.add(packed))
            rows[tag] = struct.pack(self.order + "HHL", tag, kind, count) + packed.ljust(4, b"\0")
        end = struct.pack(self.order + "L", following)
        return self.add(struct.pack(self.order + "H", len(rows)) + b"".join(rows[tag] for tag in sorted(rows)) + end)

    def begin_at(self, place: int) -> None:
        self.content[4:8] = struct.pack(self.order + "L", place)

    def maker_note(self) -> bytes:
        """Canon's, whose offsets count from the beginning of the structure; it is the next value that is added."""
        start = len(self.content) + len(self.content) % 2
        texts = (b"Canon EOS 5D\0\0", b"Firmware 1.1.1\0\0", b"Ansel Adams\0")
        place = start + 2 + 12 * len(texts) + 4
        rows = b""
        for tag, text in zip((6, 7, 9), texts, strict=True):
            rows += struct.pack(self.order + "HHLL", tag, ASCII, len(text), place)
            place += len(text)
        return struct.pack(self.order + "H", len(texts)) + rows + bytes(4) + b"".join(texts)


def described(structure: Structure) -> list[tuple[int, int, Any]]:
    """Add what a camera says of a photo; return the entries of the first directory, without orientation and size."""
    interop = structure.directory([(1, ASCII, b"R98\0"), (2, UNDEFINED, b"0100")])
    exif = structure.directory(
        [
            (0x927C, UNDEFINED, structure.maker_note()),
            (0x829A, RATIONAL, (1, 125)),
            (0x9003, ASCII, b"2001:02:03 04:05:06\0"),
            (0x9286, UNDEFINED, b"UNICODE\0" + "näh".encode("utf-16-le" if structure.order == "<" else "utf-16-be")),
            (0xA002, LONG, 31),
            (0xA003, SHORT, 24),
            (0xA005, LONG, interop),
            (0xA431, ASCII, b"12 34\0"),
        ]
    )
    gps = structure.directory([(0, 1, (2, 3, 0, 0)), (1, ASCII, b"N\0"), (2, RATIONAL, (52, 1, 31, 1, 12, 1))])
    return [
        (0x010E, ASCII, CAPTION),
        (0x010F, ASCII, b"Canon\0"),
        (0x0110, ASCII, b"Canon EOS 5D\0"),
        (0x011A, RATIONAL, (204, 1)),
        (0x011B, RATIONAL, (98, 1)),
        (0x0128, SHORT, 2),
        (0x013B, ASCII, "Jürgen Müller".encode("latin-1") + b"\0"),
        (0x8769, LONG, exif),
        (0x8825, LONG, gps),
        (0x9C9B, 1, "Titel".encode("utf-16-le") + b"\0\0"),
        (0xC4A5, UNDEFINED, PRINT_IM),
    ]


def exif_block(order: str = "<", orientation: Any = 6, kind: int = SHORT, thumbnail: bool = True) -> bytes:
    """The EXIF block of a camera's photo of 31 x 24 pixels; `orientation` None for none."""
    structure = Structure(order)
    entries = described(structure)
    if orientation is not None:
        entries.append((0x0112, kind, orientation))
    following = 0
    if thumbnail:
        place = structure.add(THUMBNAIL)
        following = structure.directory([(0x0103, SHORT, 6), (0x0201, LONG, place), (0x0202, LONG, len(THUMBNAIL))])
    structure.begin_at(structure.directory(entries, following))
    return b"Exif\0\0" + bytes(structure.content)


def tiff_file(
    pixels: bytes, width: int, order: str = "<", orientation: int = 1, further: list[tuple[int, int, Any]] | None = None
) -> bytes:
    """A gray TIFF of 8 bits, with a camera's tags and further ones."""
    structure = Structure(order)
    layout = [
        (256, LONG, width),
        (257, LONG, len(pixels) // width),
        (258, SHORT, 8),
        (259, SHORT, 1),
        (262, SHORT, 1),
        (274, SHORT, orientation),
        (277, SHORT, 1),
        (278, LONG, len(pixels) // width),
        (279, LONG, len(pixels)),
    ]
    entries = [*layout, *described(structure), *(further or []), (273, LONG, structure.add(pixels))]
    structure.begin_at(structure.directory(entries))
    return bytes(structure.content)


def entries_of(content: bytes, place: int | None = None) -> dict[int, tuple[int, int, bytes]]:
    """Type, count and bytes of each tag in a directory, by default the first, of an EXIF block or a TIFF."""
    content = content.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}[content[:2]]
    if place is None:
        (place,) = struct.unpack(order + "L", content[4:8])
    (count,) = struct.unpack(order + "H", content[place : place + 2])
    found = {}
    for at in range(place + 2, place + 2 + 12 * count, 12):
        tag, kind, values, offset = struct.unpack(order + "HHLL", content[at : at + 12])
        size = values * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8}[kind]
        start = at + 8 if size <= 4 else offset
        found[tag] = (kind, values, content[start : start + size])
    return found


def below(content: bytes, *tags: int) -> dict[int, tuple[int, int, bytes]]:
    """Entries of the directory that tags lead to."""
    found = entries_of(content)
    letter = "<L" if content.removeprefix(b"Exif\0\0")[:2] == b"II" else ">L"
    for tag in tags:
        found = entries_of(content, *struct.unpack(letter, found[tag][2]))
    return found
