"""Shards: the photos of INPUT that one of several runs colours into a common OUTPUT, each with its own journal."""

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Self

from cgan.errors import UserError

MOST_SHARDS = 100_000
SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Shard:
    """One of `count` shards, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard that text such as "2/4" names.

        Raises:
            UserError: it names none.
        """
        found = SHARD.fullmatch(text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count <= MOST_SHARDS:
            raise UserError(
                f"--shard: found {text!r}, expected K/N with K from 1 to N, such as 2/4, N at most {MOST_SHARDS:,}"
            )
        return cls(number, count)

    @property
    def text(self) -> str:
        """The value of --shard."""
        return f"{self.number}/{self.count}"

    @property
    def part(self) -> str:
        """Ending of the names of this shard's own files in OUTPUT."""
        return f"-{self.number}-of-{self.count}"

    def holds(self, name: str) -> bool:
        """Return True for photos of this shard."""
        return shard_of(name, self.count) == self.number


def shard_of(name: str, count: int) -> int:
    """Return the number of the shard of a photo, by a digest of its path without suffix.

    So photos whose outputs could have one name are in one shard.
    """
    stem = os.fsencode(os.path.splitext(name)[0].casefold())  # noqa: PTH122 (names of stores are no paths)
    return int.from_bytes(hashlib.sha256(stem).digest()[:8]) % count + 1
