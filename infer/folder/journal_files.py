"""Paths of journals: one for an OUTPUT, or one for each shard of the runs that fill it."""

import hashlib
import os
from pathlib import Path

from cgan.errors import UserError
from cgan.user_folders import state_folder
from infer.folder.storage import JOURNAL_NAME, numbered


def journal_path(output: str, folder: Path | None, part: str = "") -> Path:
    """Return the path of the journal of an OUTPUT.

    Args:
        output: identity of the OUTPUT.
        folder: its work folder; None for a store, whose journal is among the state files of the user, named by a digest
            of the URL.
        part: ending of the names of a shard's own files.
    """
    if folder:
        return folder / numbered(JOURNAL_NAME, part)
    return state_folder() / f"{hashlib.sha256(os.fsencode(output)).hexdigest()[:16]}{part}.sqlite"


def check_journals(folder: Path | None, part: str) -> None:
    """Check that no run with other shards, or without, has made the outputs in an OUTPUT: this one would not know them.

    Args:
        folder: the work folder of OUTPUT, None for a store.
        part: ending of the names of the run's own files; empty without shards.

    Raises:
        UserError: there is the journal of such a run.
    """
    if folder is None:
        return
    count = part.rpartition("-")[2]
    for path in sorted(folder.glob("journal*.sqlite")):
        other = path.stem.removeprefix(Path(JOURNAL_NAME).stem)
        if path.name == numbered(JOURNAL_NAME, other) and other.rpartition("-")[2] != count:
            made = f"with --shard K/{other.rpartition('-')[2]}" if other else "without --shard"
            raise UserError(
                f"{folder.parent}: found the journal of a run {made}; run it so again, or choose another OUTPUT"
            )
