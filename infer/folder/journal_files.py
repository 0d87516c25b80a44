"""Paths of journals: one for an OUTPUT, or one for each shard of the runs that fill it."""

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from cgan.errors import UserError
from cgan.files import open_regular
from cgan.user_folders import state_folder
from infer.folder.remote import RemoteFolder
from infer.folder.storage import JOURNAL, JOURNAL_NAME, LOG, WORK_FOLDER, Storage, numbered

SHARED_LOCK = 0x40000002
"""First byte that a process with an open database locks (SHARED_FIRST of SQLite's os.h)."""


def journal_path(output: str, folder: Path | None, part: str = "") -> Path:
    """Return the path of the journal of an OUTPUT.

    Args:
        output: identity of the OUTPUT.
        folder: its work folder; None for a store, whose journal lies on this machine only during a run, among the state
            files of the user, named by a digest of the URL.
        part: ending of the names of a shard's own files.
    """
    if folder:
        return folder / numbered(JOURNAL_NAME, part)
    return state_folder() / f"{hashlib.sha256(os.fsencode(output)).hexdigest()[:16]}{part}.sqlite"


def journal_parts(target: Storage, folder: Path | None) -> list[str]:
    """Return the endings of the journals in an OUTPUT, that of a run without shards is empty.

    Args:
        target: OUTPUT.
        folder: its work folder; None for a store.

    Raises:
        OSError: the store cannot be listed.
    """
    if isinstance(target, RemoteFolder):
        found = [LOG.fullmatch(name) for name in target.names_in(WORK_FOLDER)]
    else:
        paths = sorted(folder.iterdir()) if folder and folder.is_dir() else []
        found = [JOURNAL.fullmatch(path.name) for path in paths]
    return [match[1] or "" for match in found if match]


def check_journals(target: Storage, folder: Path | None) -> None:
    """Check that no run with other shards, or without, has made the outputs in an OUTPUT: this one would not know them.

    Args:
        target: OUTPUT, with the ending of the run's own files.
        folder: its work folder; None for a store.

    Raises:
        UserError: there is the journal of such a run.
        OSError: the store cannot be listed.
    """
    count = target.part.rpartition("-")[2]
    for part in journal_parts(target, folder):
        other = part.rpartition("-")[2]
        if other != count:
            made = f"with --shard K/{other}" if other else "without --shard"
            raise UserError(f"{target}: found the journal of a run {made}; run it so again, or choose another OUTPUT")


def copied_journal(journal: Path, folder: Path) -> Path | None:
    """Copy a journal into `folder` and return the copy; None if there is no journal."""
    if not journal.exists():
        return None
    for path in (journal, journal.with_name(journal.name + "-wal")):
        descriptor = open_regular(path)
        if descriptor is not None:
            with open(descriptor, "rb") as source, (folder / path.name).open("wb") as copy:  # noqa: PTH123
                shutil.copyfileobj(source, copy)
    return folder / journal.name


def is_locked(journal: Path) -> bool:
    """Return True if another process has a journal open, which locks its database; nothing is changed or waited for."""
    descriptor = open_regular(journal)
    if descriptor is None:
        return False
    with open(descriptor, "rb") as file:  # noqa: PTH123
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, SHARED_LOCK)
        except (BlockingIOError, PermissionError):  # POSIX allows both
            return True
    return False
