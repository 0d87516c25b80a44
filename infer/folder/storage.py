"""Interface of INPUT and OUTPUT to a folder run; implemented by `LocalFolder`, and by `RemoteFolder` for URLs.

Names are paths relative to the folder, with "/" as separator. `is_below` decides which names are allowed.
"""

import errno
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cgan.files import MARK, file_sha256, temporary_name

WORK_FOLDER = ".cgan"
"""Folder in an OUTPUT for the journal, and for unfinished files of a local one."""

JOURNAL_NAME = "journal.sqlite"
"""Name of the journal in the work folder, by which an OUTPUT is recognised."""


LOG_NAME = "journal"
"""Name of the journal's log in the work folder of a store."""

JOURNAL = re.compile(r"journal(-[0-9]+-of-[0-9]+)?\.sqlite")
"""Names of journals, of all shards too."""

LOG = re.compile(r"journal(-[0-9]+-of-[0-9]+)?")
"""Names of logs, of all shards too."""

ANOTHER_OUTPUT = "another OUTPUT, whose photos are coloured already"
"""Why an OUTPUT inside INPUT is not searched."""


def numbered(name: str, part: str) -> str:
    """Return the name of a run's own file, with the ending of its shard in front of the suffix."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{part}{dot}{suffix}"


class Status(NamedTuple):
    """Status of a file, which tells its versions apart without reading it."""

    size: int
    """In bytes."""
    version: str
    """Time of the last change in nanoseconds, or the store's equivalent, such as an ETag."""
    regular: bool = True
    """False for a link, a folder or a device; outputs are regular files."""


class Entry(NamedTuple):
    """One file that was found by a search."""

    name: str
    """Path relative to the folder, with the separators of its storage."""
    status: Status | None
    problem: str | None = None
    """Why the entry is not read: a link to a folder, a FIFO, a dangling link. Such entries have no status."""
    unreadable: bool = False
    """True for a folder that could not be searched."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A temporary file in OUTPUT. INPUT looks for it, to detect that both are the same folder under two names."""

    name: str
    """Name without a leading dot, because some servers hide such files."""
    tails: tuple[str, ...]
    """Paths that OUTPUT may have relative to INPUT: "", and the last parts of its path."""

    @classmethod
    def of(cls, folder: str) -> "Probe":
        """Return a probe for an OUTPUT with this path."""
        parts = [part for part in folder.split("/") if part]
        tails = ("".join(f"{part}/" for part in parts[first:]) for first in range(len(parts), -1, -1))
        return cls(temporary_name().lstrip("."), tuple(tails))

    @property
    def content(self) -> bytes:
        """Unique content, because some servers answer a request for any name."""
        return f"{MARK} {self.name}".encode()


class Storage(ABC):
    """A folder with the operations of a run. Names are paths relative to it."""

    waits = True
    """True if each access goes over a network."""

    writable = True
    """False for archives, which are only read."""

    part = ""
    """Ending of the names of the run's own files, if it is one of several shards."""

    left: list[str] = []  # noqa: RUF012
    """Files left by killed runs that may belong to the user, set by `prepare`."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the folder as given by the user, without secrets."""

    @property
    def place(self) -> str:
        """The folder as `str` gives it, for use from any current folder: the path of a local one is absolute."""
        return str(self)

    @property
    @abstractmethod
    def identity(self) -> str:
        """Absolute, unique name of the folder."""

    @abstractmethod
    def walk(self, leave_out: "Storage | None" = None) -> Iterator[Entry]:
        """Yield all files below the folder, except those below `leave_out`."""

    @abstractmethod
    def status(self, name: str) -> Status | None:
        """Return the status of a file, None if it does not exist."""

    @abstractmethod
    def all_names(self) -> Collection[str]:
        """Return the names of all files in and below the folder, from a listing and not by a request for each.

        Raises:
            OSError: a folder cannot be listed.
        """

    @abstractmethod
    def fetch(self, name: str) -> Path | bytes:
        """Return the path of a file, or its content if the file has no local path.

        Raises:
            OSError: the file cannot be read.
        """

    def checksum(self, name: str) -> str:
        """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
        content = self.fetch(name)
        return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)

    @abstractmethod
    def publish(
        self, name: str, content: bytes | memoryview, replaces: Collection[str] | None = (), mode: int = 0o666
    ) -> None:
        """Write a file atomically: it appears complete and flushed to disk under its name, or not at all.

        Args:
            name: path relative to the folder; missing folders are created.
            content: content of the file.
            replaces: SHA-256 digests of contents that may be replaced; empty if no file may be replaced, None if any
                file may. A file that already has the new content is left as it is.
            mode: largest permission bits of the file, of which the umask takes more away; stores have none.

        Raises:
            OccupiedError: another file has this name; it is kept.
            OSError: the file cannot be written, a folder in its path is a link, or the name leads out of the folder.
        """

    @abstractmethod
    def prepare(self, marks: Collection[str] = (), is_own: Callable[[str], bool] = lambda sha256: False) -> None:
        """Prepare the folder for writing.

        Args:
            marks: marks of earlier processes (`cgan.files.MARK`) whose temporary files are removed.
            is_own: returns True if a run published the content with this SHA-256.

        Raises:
            OSError: the folder cannot be written to.
        """

    @abstractmethod
    def probe(self) -> AbstractContextManager[Probe]:
        """Create the folder and a probe in it; the probe is removed on exit.

        Raises:
            OSError: the folder cannot be written to.
        """

    @abstractmethod
    def sees(self, probe: Probe) -> bool:
        """Return True if the probe of another folder is found in this folder, below it, or above it."""

    @abstractmethod
    def finish(self) -> None:
        """Release what `prepare` opened and created."""


_NO_NAMES = frozenset({"", ".", ".."})
DRIVE = re.compile(r"[A-Za-z]:[/\\]")


def is_below(name: str, anywhere: bool = False) -> bool:
    """Return True if a name stays below the folder that it is joined to, and is the only name of its file.

    Archives, stores and journals can contain any name: absolute paths, "..", and empty parts, which give one file
    several names.

    Args:
        name: path with "/" as separator.
        anywhere: also check for drives and backslashes, for names from other systems.
    """
    if "\0" in name or not _NO_NAMES.isdisjoint(name.split("/")):
        return False
    return not (anywhere and (DRIVE.match(name) or name.startswith("\\") or ".." in name.split("\\")))


def check_below(name: str) -> None:
    """Check that a name lies below its folder.

    Raises:
        OSError: the name leads out of the folder.
    """
    if not is_below(name):
        raise OSError(errno.EINVAL, "its name leads out of its folder", name)
