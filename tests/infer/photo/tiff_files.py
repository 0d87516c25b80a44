"""TIFF files made entry by entry, for layouts that no library writes."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

LETTERS = {1: "B", 2: "s", 3: "H", 4: "L", 5: "LL", 7: "s", 11: "f", 13: "L", 16: "Q", 18: "Q"}
SHORT, LONG = 3, 4
OFFSETS, SIZES = 273, 279


def tiff_of(
    strips: Sequence[bytes],
    tags: Mapping[int, Any],
    order: str = "<",
    big: bool = False,
    kinds: Mapping[int, int] | None = None,
) -> bytes:
    """A TIFF of one page.

    Args:
        strips: contents of strips; their offsets and sizes are added unless `tags` has them; None leaves a tag out.
        tags: a number, numbers or bytes for each tag; the flat numbers of a rational.
        order: byte order, as a letter of `struct`.
        big: True for a BigTIFF.
        kinds: types of tags that are not 3, or 7 for bytes.
    """
    pointer, counter = ("Q", "Q") if big else ("L", "H")
    content = bytearray(16 if big else 8)
    offsets = []
    for strip in strips:
        offsets.append(len(content))
        content += strip + bytes(len(strip) % 2)
    found = {OFFSETS: offsets, SIZES: [len(strip) for strip in strips], **tags}
    kinds = {OFFSETS: LONG, SIZES: LONG, **(kinds or {})}
    rows = []
    for tag in sorted(found):
        value = found[tag]
        if value is None:
            continue
        kind = kinds.get(tag, 7 if isinstance(value, bytes) else SHORT)
        if isinstance(value, bytes):
            count, packed = len(value), value
        else:
            numbers = [value] if isinstance(value, int | float) else [*value]
            count = len(numbers) // len(LETTERS[kind])
            packed = struct.pack(order + LETTERS[kind] * count, *numbers)
        if len(packed) > struct.calcsize("=" + pointer):
            place = len(content)
            content += packed + bytes(len(packed) % 2)
            packed = struct.pack(order + pointer, place)
        packed = packed.ljust(struct.calcsize("=" + pointer), b"\0")
        rows.append(struct.pack(order + "HH" + pointer, tag, kind, count) + packed)
    place = len(content)
    content += struct.pack(order + counter, len(rows)) + b"".join(rows) + bytes(8)
    head = struct.pack(order + "HHHQ", 43, 8, 0, place) if big else struct.pack(order + "HL", 42, place)
    content[: len(head) + 2] = {"<": b"II", ">": b"MM"}[order] + head
    return bytes(content)


def gray_tags(width: int, height: int, **changes: Any) -> dict[int, Any]:
    """Tags of gray of 8 bits without compression; changes by number, such as t258=16."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height}
    return tags | {int(name[1:]): value for name, value in changes.items()}
