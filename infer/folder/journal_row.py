"""Rows of a journal: what is known of one output."""

import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from cgan.text import shown

COLUMN_TYPES: dict[str, type] = {
    "name": bytes,
    "identity": str,
    "checksum": str,
    "recipe": str,
    "root": bytes,
    "state": str,
    "size": int,
    "reason": str,
    "digest": str,
    "publishing": str,
}
"""Columns beside the output, and the types of their values."""

ENCODING = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
"""Arguments of `bytes.decode` for a name, as `os.fsdecode` at half its time."""

COLUMNS = ", ".join(COLUMN_TYPES)
TYPES = tuple(COLUMN_TYPES.values())


class RowState(StrEnum):
    """State of an output in the journal."""

    BEGUN = "begun"
    """The output may appear at any moment."""
    DONE = "done"
    """The output is complete and flushed to disk."""
    FAILED = "failed"
    LEFT = "left"
    """The photo needs no output, because it is a colour photo."""


BEGUN, DONE, FAILED, LEFT = RowState
STATES = {str(state): state for state in RowState}


class JournalError(OSError):
    """The journal cannot be read or written: the run has to stop."""


class Row(NamedTuple):
    """Row of one output in the journal; a frozen dataclass takes four times as long to make."""

    name: str
    """Path of the input relative to INPUT."""
    identity: str
    """Size and version of the input."""
    checksum: str
    """SHA-256 of the input, empty without --checksum."""
    recipe: str
    """Digest of the model and the options that change the picture."""
    root: str
    """Identity of the INPUT folder."""
    state: RowState
    size: int
    """Size of the output in bytes; in a row that is not done, that of the earlier file."""
    reason: str
    """Reason of a failure; otherwise the notes on the output, one per line."""
    digest: str = ""
    """SHA-256 of the output; in a row that is not done, that of the earlier file. Empty if unknown."""
    publishing: str = ""
    """SHA-256 of the new output while the row is begun."""

    def is_of(self, identity: str, checksum: str) -> bool:
        """Return True if the row describes the current input, by checksum if both are known, else by version."""
        return self.checksum == checksum if self.checksum and checksum else self.identity == identity


def values_of(output: str, row: Row) -> tuple[bytes | str | int, ...]:
    """Return the output and the columns of its row, as the database has them."""
    return (
        os.fsencode(output),
        os.fsencode(row.name),
        row.identity,
        row.checksum,
        row.recipe,
        os.fsencode(row.root),
        row.state,
        row.size,
        row.reason,
        row.digest,
        row.publishing,
    )


def row_of(path: Path | str | None, found: tuple[Any, ...]) -> Row:
    """Return the row with these columns of the database at `path`.

    Raises:
        JournalError: a value has another type, or there is no such state.
    """
    if tuple(map(type, found)) != TYPES:
        check_row(path, COLUMN_TYPES, found)
    name, identity, checksum, recipe, root, state, size, reason, digest, publishing = found
    known = STATES.get(state)
    if known is None:
        raise JournalError(f"{path}: the journal cannot be used (a row of state {shown(state)}); move it away")
    of, in_ = name.decode(*ENCODING), root.decode(*ENCODING)
    return Row(of, identity, checksum, recipe, in_, known, size, reason, digest, publishing)


def check_row(path: Path | str | None, types: Mapping[str, type], row: tuple[object, ...]) -> None:
    """Refuse a row with values of other types: SQLite stores any type in any column, and a damaged file lacks values.

    Raises:
        JournalError: a value has another type.
    """
    for (name, kind), value in zip(types.items(), row, strict=True):
        if type(value) is not kind:
            raise JournalError(
                f"{path}: the journal cannot be used (found {name} {shown(value)}, expected {kind.__name__}, so it is "
                "damaged); move it away"
            )
