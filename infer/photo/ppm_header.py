"""Headers of PBM, PGM and PPM files: their comments, and what lies behind their pixels (netpbm's pbm(5) to ppm(5))."""

import math
from typing import BinaryIO, NamedTuple

from cgan.photo_limits import MAX_METADATA, LimitError, check_time

PLAIN = frozenset({b"P1", b"P2", b"P3"})
"""Kinds whose pixels are text, with comments between them."""
BITS = frozenset({b"P1", b"P4"})
"""Kinds without a highest value."""
COLOR = b"P6"


class PpmHeader(NamedTuple):
    """What a file holds beside its first picture."""

    comments: tuple[bytes, ...]
    """Without their number sign."""
    behind: int
    """Bytes behind the pixels."""


def read(file: BinaryIO) -> PpmHeader:
    """Read the header of a file whose pixels can be decoded; the position is moved.

    Raises:
        LimitError: a line is longer than MAX_METADATA.
    """
    size = file.seek(0, 2)
    file.seek(0)
    kind = file.read(2)
    wanted = 2 if kind in BITS else 3
    comments: list[bytes] = []
    numbers: list[bytes] = []
    while line := file.readline(MAX_METADATA + 1):
        check_time()
        if len(line) > MAX_METADATA:
            raise LimitError(f"a line of more than {MAX_METADATA} bytes, the limit")
        before, sign, comment = line.partition(b"#")
        numbers += before.split()[: wanted - len(numbers)]
        if len(numbers) == wanted and kind not in PLAIN:
            is_alone = before.split()[-1] == numbers[-1] and not sign  # or pixels begin in this line
            return PpmHeader(tuple(comments), max(0, size - file.tell() - _bytes(kind, numbers)) if is_alone else 0)
        if sign:
            comments.append(comment.strip())
    return PpmHeader(tuple(comments), 0)


def _bytes(kind: bytes, numbers: list[bytes]) -> int:
    """Return the bytes of the pixels of a kind that is not plain."""
    width, height, *highest = map(int, numbers)
    if not highest:
        return math.ceil(width / 8) * height
    return width * height * (3 if kind == COLOR else 1) * (1 if highest[0] < 256 else 2)
