"""Extensions of a GIF, in which its metadata lie (GIF89a, section 23)."""

from collections.abc import Iterator

from cgan.photo_limits import check_time

IMAGE, EXTENSION, COMMENT, APPLICATION = 0x2C, 0x21, 0xFE, 0xFF
ANIMATION = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
XMP, ICC = b"XMP DataXMP", b"ICCRGBG1012"


def extensions(content: bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield label, name, place and end of the sub-blocks of each extension of a GIF (GIF89a, section 23)."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    place = 13 + table(content[10])
    while place + 10 < len(content) and content[place] in (IMAGE, EXTENSION):
        label = content[place + 1] if content[place] == EXTENSION else 0
        start = place = place + (2 if label else 11 + table(content[place + 9]))
        while place < len(content) and content[place]:
            check_time()
            place += content[place] + 1
        if label:
            yield label, content[start + 1 : start + 12] if label == APPLICATION else b"", start, place
        place += 1


def joined(content: bytes, place: int) -> bytes:
    """Return the content of the sub-blocks at an offset."""
    parts = []
    while place < len(content) and content[place]:
        parts.append(content[place + 1 : place + 1 + content[place]])
        place += content[place] + 1
    return b"".join(parts)
