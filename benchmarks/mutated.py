"""Damaged files of every kind of photo, for `python -m benchmarks stress`."""

import random
from collections.abc import Callable
from pathlib import Path

from benchmarks.photo_kinds import kinds

SEED = 0
HEAD = 300
"""Bytes at the beginning, mostly a header, in which half of the changes fall."""
LONGEST = 64
"""Longest run of bytes that is replaced."""
EXTREMES = (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")


def _cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def _changed(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        end = len(content) if chance.random() < 0.5 else min(len(content), HEAD)
        content[chance.randrange(end)] = chance.randrange(256)


def _replaced(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content))
    content[place : place + chance.randrange(1, LONGEST)] = chance.randbytes(chance.randrange(LONGEST))


def _extreme(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content) - 4)
    content[place : place + 4] = chance.choice(EXTREMES)


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (_cut, _changed, _changed, _replaced, _extreme)


def make_mutated(target: Path, count: int) -> set[str]:
    """Write damaged files into a new folder, the same ones each time, and return their names."""
    chance = random.Random(SEED)
    whole = [(kind.name, bytes(kind.make())) for kind in kinds()]
    target.mkdir(parents=True)
    names = set()
    for number in range(count):
        name, content = chance.choice(whole)
        damaged = bytearray(content)
        chance.choice(CHANGES)(damaged, chance)
        names.add(f"{number:05}-{name}")
        (target / f"{number:05}-{name}").write_bytes(damaged)
    return names
