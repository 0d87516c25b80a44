"""The ledger of a run: names and digests of the files that it wrote and may replace."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cgan.files import OccupiedError, append, atomic_path, file_sha256, look_at, read_regular, whole_lines
from cgan.readers import LARGE_BYTES

LEDGER_FILE = ".written"
"""Name of a run's ledger in its folder."""

_LINES = re.compile(rb"(?:[0-9a-f]{64}  [^\n]+\n)*")
_PART = re.compile(rb"[0-9a-f]{1,64}|[0-9a-f]{64} (?: [^\n]*)?")


class Ledger:
    """A text file in a folder with a line for each file that was written there: its SHA-256 digest and its name.

    A line is on disk before its file gets its name, so a file that is not in the ledger is another program's, even
    after a kill. Lines are never removed, so a file restored from a backup is still known.

    Args:
        path: the ledger file; names are relative to its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Check that the file is a ledger or missing.

        Raises:
            OccupiedError: it is another program's file.
            OSError: it cannot be read.
        """
        self._content()

    def begin(self, files: Iterable[Path]) -> None:
        """Create a ledger of existing files: with all of them or, even after a kill, not at all.

        Raises:
            OccupiedError: there is a ledger already.
            OSError: a file cannot be read, or the ledger cannot be written.
        """
        with atomic_path(self.path, ()) as temporary:
            temporary.write_bytes(b"".join(self._line(file, file_sha256(file)) for file in files))

    def knows(self, file: Path) -> bool:
        """Return True if a file has a content that the run wrote under its name.

        Raises:
            OccupiedError: the ledger is another program's file.
            OSError: the ledger or the file cannot be read.
        """
        try:
            found = look_at(file)
        except OccupiedError:
            return False
        return found is not None and found.sha256 in self._digests(file)

    def has(self, sha256: str) -> bool:
        """Return True if the run wrote a content, under any name."""
        return any(line.startswith(sha256) for line in self._lines())

    def add(self, file: Path, sha256: str) -> None:
        """Add the digest of a file that is about to get its name.

        Raises:
            OSError: the ledger cannot be written.
        """
        found, whole = self._content()
        line = self._line(file, sha256)
        if line in whole.splitlines(keepends=True):
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self.path, flags, 0o666), "ab", buffering=0) as ledger:  # noqa: PTH123
            if found != whole:
                ledger.truncate(len(whole))
            append(ledger.fileno(), line)

    @contextmanager
    def atomic_path(self, file: Path) -> Iterator[Path]:
        """Yield a temporary path as `cgan.files.atomic_path` does; only contents that the run wrote are replaced.

        Raises:
            OccupiedError: something else has that name.
            OSError: the file or the ledger cannot be written.
        """
        with atomic_path(file, self._digests(file)) as temporary:
            yield temporary
            self.add(file, file_sha256(temporary))

    def _digests(self, file: Path) -> frozenset[str]:
        name = self._name(file)
        pairs = (line.split("  ", 1) for line in self._lines())
        return frozenset(digest for digest, of in pairs if of == name)

    def _lines(self) -> list[str]:
        return self._content()[1].decode(errors="replace").split("\n")[:-1]

    def _content(self) -> tuple[bytes, bytes]:
        """Return the bytes of the ledger, and its finished lines."""
        found = read_regular(self.path, LARGE_BYTES) or b""
        whole = whole_lines(found, _LINES, _PART)
        if whole is None:
            raise OccupiedError(self.path, "a file that cgan did not write")
        return found, whole

    def _line(self, file: Path, sha256: str) -> bytes:
        return f"{sha256}  {self._name(file)}\n".encode()

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path.parent).as_posix()
