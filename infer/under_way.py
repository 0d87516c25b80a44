"""A photo on its way through a folder run, and which of them share a task."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from infer.images import Floats, Photo
from infer.jobs import Job
from infer.render import Encoded

GROUP_PIXELS = 2**18
"""Pixels that photos of one task have together at most, of the photo or of what the network sees; a larger photo is a
task of its own."""


@dataclass(eq=False)
class Item:
    """A photo under way."""

    job: Job
    replaces: Collection[str] | None = ()
    """SHA-256 of the contents that its output may replace; None stands for any."""
    content: Path | Encoded | None = None
    """What is read, and later what is written."""
    pixels: int = 0
    admitted: bool = False
    """Whether it counts among those that are decoded."""
    photo: Photo | None = None
    gray: Floats | None = None
    colors: Floats | None = None
    notes: tuple[str, ...] = ()
    size: int = 0
    """Of the output, in bytes."""
    digest: str = ""
    """SHA-256 of the output."""


def groups(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Photos that share a task, `most` at most, in their order."""
    group: list[Item] = []
    pixels = 0
    for item in items:
        own = max(item.pixels, item.gray.size if item.gray is not None else 0)
        if group and (len(group) == most or pixels + own > GROUP_PIXELS):
            yield group
            group, pixels = [], 0
        group.append(item)
        pixels += own
    if group:
        yield group
