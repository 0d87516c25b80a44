"""A folder behind an fsspec URL such as s3://bucket/photos; one in an archive is an `ArchiveFolder`.

File systems of fsspec differ in thread safety and in how they prevent replacing a file. One that is not known to be
thread-safe is used by one thread at a time.
"""

import contextlib
import errno
import posixpath
import re
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from cgan.errors import UserError
from cgan.files import OccupiedError, temporary_mark
from infer.folder.credentials import Credentials
from infer.folder.filesystems import (
    HTTP,
    THIS_MACHINE,
    as_os_errors,
    first_line,
    has_own_find,
    host_of,
    identity_of,
    is_concurrent,
    kind_of,
    listed,
    lock_of,
    opened,
    protocols_of,
    status_of,
)
from infer.folder.local_folder import LocalFolder
from infer.folder.publication import S3, Publication
from infer.folder.storage import Entry, Probe, Status, Storage, check_below, is_below

ARCHIVE_PROTOCOLS = frozenset({"tar", "zip"})


class RemoteFolder(Storage):
    """A folder behind an fsspec URL, usable from several threads.

    Raises:
        UserError: fsspec or the package for this kind of URL is not installed, or it cannot be reached.
    """

    def __new__(cls, url: str) -> Self:
        """An `ArchiveFolder` for the URL of one."""
        if cls is RemoteFolder and re.split("://|::", url, maxsplit=1)[0] in ARCHIVE_PROTOCOLS:
            from infer.folder.archive import ArchiveFolder

            return super().__new__(ArchiveFolder)  # type: ignore[return-value]
        return super().__new__(cls)

    def __init__(self, url: str) -> None:
        self.url = url
        self.credentials = Credentials(url)
        self._files, root = opened(url, self.credentials)
        self._protocols = protocols_of(self._files)
        if self._protocols & HTTP and "?" in root:
            raise UserError(f"{self}: found a query in the URL of a folder; leave it out")
        if not self._protocols & THIS_MACHINE and {".", ".."} & set(unquote(root).split("/")):
            raise UserError(
                f"{self}: found . or .. in a URL, which gives a folder two names; write the path without it"
            )
        self._root = root.rstrip("/") or root
        # Paths of some stores begin with "/", and those of the others with a bucket.
        self._prefix = f"{root.rstrip('/')}/" if root or self._files.root_marker else ""
        self._broken = False
        self._listed: dict[str, Status] | None = None
        self._listing = threading.Lock()
        self._made: set[str] = set()
        """Folders that are known to exist."""

    def __str__(self) -> str:
        return self.credentials.shown

    @property
    def identity(self) -> str:
        """URL without passwords and tokens."""
        return identity_of(self.url, self._files, self._root)

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """Yield entries with the store's names relative to the folder; links are not followed."""
        hidden = leave_out._prefix if isinstance(leave_out, RemoteFolder) and self._shares(leave_out) else None
        with self._using() as files:
            files.invalidate_cache()
            found = sorted(self._search(files), key=lambda entry: entry.name)
        for entry in found:
            if not (hidden and (self._prefix + entry.name).startswith(hidden)):
                yield entry

    def _search(self, files: Any) -> Iterator[Entry]:
        """Yield all files, by the store's own search, or folder by folder if fsspec's search would hide errors."""
        if has_own_find(files):
            for path, found in files.find(self._root, detail=True).items():
                yield from self._entries(path, found)
            return
        folders = [self._root]
        seen: set[str] = set()
        while folders:
            folder = folders.pop()
            try:
                entries = listed(files, folder)
            except Exception as error:
                if folder == self._root:
                    raise
                reason = self.credentials.without_secrets(first_line(error))
                yield Entry(self._name(folder), None, f"folder cannot be read: {reason}", unreadable=True)
                continue
            for found in entries:
                path = found["name"]
                if kind_of(found) != "directory" or path.rstrip("/") == folder:
                    yield from self._entries(path, found)
                elif not is_below(self._name(path).rstrip("/")):
                    yield Entry(self._name(path), None, "its name leads out of its folder", unreadable=True)
                elif found.get("unique") in seen:  # FTP servers show links as what they lead to
                    yield Entry(self._name(path), None, "another name of a folder that is searched already")
                else:
                    folders.append(path.rstrip("/"))
                    seen |= {found["unique"]} if found.get("unique") else set()

    def _entries(self, path: str, found: dict[str, Any]) -> Iterator[Entry]:
        """Yield the entry of a path; nothing for the folder itself and for markers of folders."""
        kind = kind_of(found)
        if path.rstrip("/") == self._root.rstrip("/") or kind == "directory":
            return
        name = self._name(path)
        if not path.startswith(self._prefix):
            yield Entry(name, None, f"it does not lie below {self}")
        elif self._protocols & S3 and "?versionId=" in name:
            yield Entry(name, None, "its name cannot be told from a version of another object")
        elif kind == "link":
            yield Entry(name, None, "a link, not followed")
        elif kind != "file":
            yield Entry(name, None, "not a regular file")
        else:
            yield Entry(name, status_of(found))

    def _name(self, path: str) -> str:
        below = path.startswith(self._prefix)
        return path[len(self._prefix) :] if below else self.credentials.without_secrets(path)

    def status(self, name: str) -> Status | None:
        """Return the status at the first listing of the store, updated by `publish`.

        A request per file would cost a round trip each. `publish` checks the file again.
        """
        return self._list().get(name)

    def _list(self) -> dict[str, Status]:
        with self._listing:
            if self._listed is None:
                found = {}
                with contextlib.suppress(FileNotFoundError):
                    for entry in self.walk():
                        if entry.unreadable:
                            raise OSError(errno.EIO, f"{entry.name}: {entry.problem}")
                        found[entry.name] = entry.status or Status(0, "", regular=False)
                self._listed = found
            return self._listed

    def fetch(self, name: str) -> bytes:
        """Return the content of a file."""
        check_below(name)
        with self._using() as files:
            content: bytes = files.cat_file(self._path(name))
        return content

    def publish(
        self, name: str, content: bytes | memoryview, replaces: Collection[str] | None = (), mode: int = 0o666
    ) -> None:
        """Write a file. Conditional writes of the store prevent replacing another file; stores without them are checked
        immediately before the write.
        """
        check_below(name)
        with self._using() as files:
            folder = posixpath.dirname(self._path(name))
            if folder not in self._made:
                files.makedirs(folder, exist_ok=True)
                self._made.add(folder)
            Publication(files, name, self._path(name), bytes(content), replaces).publish()
        with self._listing:
            if self._listed is not None:
                self._listed[name] = Status(len(content), "")

    def prepare(self, marks: Collection[str] = (), is_own: Callable[[str], bool] = lambda sha256: False) -> None:
        """Write and remove a small file, so that missing permission is found before the first photo."""
        found = self._list() if marks else {}
        with self._using() as files:
            files.makedirs(self._root, exist_ok=True)
            for name in [name for name in found if temporary_mark(posixpath.basename(name)) in marks]:
                files.rm_file(self._path(name))
                del found[name]
        with self.probe():
            pass

    @contextlib.contextmanager
    def probe(self) -> Iterator[Probe]:
        """Write a probe without checking for a file of its name, which is unique."""
        probe = Probe.of(self._root)
        with self._using() as files:
            files.makedirs(self._root, exist_ok=True)
            files.pipe_file(self._path(probe.name), probe.content)
        try:
            yield probe
        finally:
            with self._using() as files:
                files.rm_file(self._path(probe.name))

    def sees(self, probe: Probe) -> bool:
        """Return True if the probe is found. Errors count as no: most stores refuse requests above the folder."""
        above = self._root.rstrip("/").split("/")[:-1]
        folders = [*(self._prefix + tail for tail in probe.tails)]
        folders += ["".join(f"{part}/" for part in above[:count]) for count in range(len(above), -1, -1)]
        with self._using() as files:
            files.invalidate_cache()
            for folder in folders:
                try:
                    if files.cat_file(folder + probe.name) == probe.content:
                        return True
                except FileNotFoundError:
                    pass
                except Exception:  # each store has its own types
                    self._broken = not is_concurrent(files)
        return False

    def finish(self) -> None:
        """Do nothing: no resources are held in a store."""

    @property
    def on_this_machine(self) -> LocalFolder | None:
        """Local folder of a URL such as local:///photos, None for a remote URL."""
        return LocalFolder(Path(self._root)) if self._protocols & THIS_MACHINE else None

    def _path(self, name: str) -> str:
        return self._prefix + name

    def _shares(self, other: "RemoteFolder") -> bool:
        return bool(self._protocols & other._protocols) and host_of(self._files) == host_of(other._files)

    @contextlib.contextmanager
    def _using(self) -> Iterator[Any]:
        """Yield the file system, locked for this thread unless it is thread-safe.

        After an error, responses of a single connection may not match its requests, so the connection is replaced.
        """
        with lock_of(self._files), as_os_errors(self.credentials):
            if self._broken:
                self._files, _ = opened(self.url, self.credentials, skip_instance_cache=True)
                self._broken = False
            try:
                yield self._files
            except Exception as error:
                self._broken = not (is_concurrent(self._files) or isinstance(error, OccupiedError))
                raise
