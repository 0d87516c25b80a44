"""The table of photo formats: what is read, what is noted, what is refused.

    python -m docs.format_table [--check]

Makes a small file of every kind in `benchmarks.photo_kinds`, decodes it as `cgan-infer` does, compares its luma with
that of the picture, and writes docs/formats.md. --check compares with the file instead. The exit code is 1 if a photo
is decoded wrong, or if the file is out of date.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.photo_kinds import Kind, kinds
from infer.photo.decode import PhotoError, decode

FILE = Path(__file__).parent / "formats.md"
HEAD = """# What becomes of a photo, by its kind

`python -m docs.format_table` made each of these files, decoded it and compared its luma with the picture; it wrote this
table. HEIC, which needs the extra `heic`, is read with all bits and is not in the table.

| format | colours | compression and layout | bits a channel | result |
| --- | --- | --- | --- | --- |
"""


def result_of(kind: Kind) -> str:
    """Return "read", with the notes, or "refused" with the reason.

    Raises:
        ValueError: the photo has other luma than the picture.
    """
    try:
        photo = decode(bytes(kind.make()), "a" + kind.suffix)
    except PhotoError as error:
        return f"refused: {error}"
    luma = photo.luma / np.iinfo(photo.luma.dtype).max
    if luma.shape != kind.luma.shape or np.abs(luma - kind.luma).max() > kind.tolerance:
        raise ValueError(f"{kind.name}: luma differs by {np.abs(luma - kind.luma).max():.3f}")
    notes = [_general(note) for note in photo.notes]
    return "read" if not notes else f"read; noted: {', '.join(notes)}"


def _general(note: str) -> str:
    return "values stretched to the range of gray" if note.startswith("values from ") else note


def table(chosen: Iterable[Kind]) -> str:
    """Return the document about some kinds; those that differ only in bits share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for kind in chosen:
        rows.setdefault((kind.format, kind.colors, kind.storage, result_of(kind)), []).append(kind.bits)
    return HEAD + "".join(_lines(rows))


def _lines(rows: dict[tuple[str, ...], list[str]]) -> Iterator[str]:
    for (format_, colors, storage, result), bits in rows.items():
        unique = dict.fromkeys(bits)
        yield f"| {format_} | {colors} | {storage} | {', '.join(unique)} | {result} |\n"


def main() -> None:
    """Write the table, or compare it with --check."""
    found = table(kinds())
    if "--check" not in sys.argv[1:]:
        FILE.write_text(found)
    elif FILE.read_text() != found:
        sys.exit(f"{FILE} is out of date; run python -m docs.format_table")


if __name__ == "__main__":
    main()
