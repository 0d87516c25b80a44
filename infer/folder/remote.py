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
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from cgan.errors import UserError
from cgan.files import OccupiedError, temporary_mark
from infer.folder.credentials import Credentials
from infer.folder.filesystems import (
    HTTP,
    OBJECT_STORES,
    S3,
    THIS_MACHINE,
    as_os_errors,
    first_line,
    has_own_find,
    host_of,
    identity_of,
    in_s3,
    is_concurrent,
    kind_of,
    listed,
    lock_of,
    opened,
    protocols_of,
    status_of,
)
from infer.folder.local_folder import LocalFolder
from infer.folder.publication import Publication
from infer.folder.storage import ANOTHER_OUTPUT, WORK_FOLDER, Entry, Probe, Status, Storage, check_below, is_below

ARCHIVE_PROTOCOLS = frozenset({"tar", "zip"})

LOG_OBJECT = re.compile(rf"(.+/){re.escape(WORK_FOLDER)}/journal[^/]*/[0-9]{{8}}\.jsonl\.gz", re.DOTALL)
"""Names of the objects of a journal's log; the group is its OUTPUT."""


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
        self._folders: set[str] = set()
        """Folders of the listed files."""
        self._listing = threading.Lock()
        self._made: set[str] = set()
        """Folders that are known to exist."""
        self._refuses = False
        """True if the store was found to refuse a write over an object under the condition that there is none."""

    def __str__(self) -> str:
        return self.credentials.shown

    @property
    def identity(self) -> str:
        """URL without passwords and tokens."""
        return identity_of(self.url, self._files, self._root)

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """Yield entries with the store's names relative to the folder; links are not followed.

        OUTPUT folders of other runs, which have the log of a journal, are passed over.
        """
        hidden = leave_out._prefix if isinstance(leave_out, RemoteFolder) and self._shares(leave_out) else None
        found = self._search_all()
        if hidden:
            found = [entry for entry in found if not (self._prefix + entry.name).startswith(hidden)]
        others = {log[1] for entry in found if (log := LOG_OBJECT.fullmatch(entry.name))}
        yield from (Entry(other.rstrip("/"), None, ANOTHER_OUTPUT) for other in sorted(others))
        for entry in found:
            if not (_is_work(entry.name) or (others and any(above in others for above in _folders_of(entry.name)))):
                yield entry

    def _search_all(self) -> list[Entry]:
        """Return the entries of all files, sorted by name."""
        with self._using() as files:
            files.invalidate_cache()
            return sorted(self._search(files), key=lambda entry: entry.name)

    def _search(self, files: Any) -> Iterator[Entry]:
        """Yield all files, by the store's own search, or folder by folder if fsspec's search would hide errors."""
        if self._protocols & S3:
            for path, found in in_s3(files, self._root):
                yield from self._entries(path, found)
            return
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

    def all_names(self) -> Collection[str]:
        """Return the names at the first listing of the store, updated by `publish`."""
        return self._list()

    def _list(self) -> dict[str, Status]:
        with self._listing:
            if self._listed is None:
                found = {}
                with contextlib.suppress(FileNotFoundError):
                    for entry in self._search_all():
                        if entry.unreadable:
                            raise OSError(errno.EIO, f"{entry.name}: {entry.problem}")
                        if not _is_work(entry.name):
                            found[entry.name] = entry.status or Status(0, "", regular=False)
                            self._folders.update(_folders_of(entry.name))
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
        with self._listing:
            listed = self._listed
            is_new = listed is not None and name not in listed and f"{name}/" not in self._folders
        self._write(name, bytes(content), replaces, is_new)
        with self._listing:
            if self._listed is not None:
                self._listed[name] = Status(len(content), "")
                self._folders.update(_folders_of(name))

    def write_own(self, name: str, content: bytes, replaces: Collection[str] = ()) -> None:
        """Write a file of the run's own, which `status` does not know; arguments and errors are those of `publish`."""
        self._write(name, content, replaces, is_new=not replaces)

    def _write(self, name: str, content: bytes, replaces: Collection[str] | None, is_new: bool) -> None:
        with self._using() as files:
            folder = posixpath.dirname(self._path(name))
            self._make(files, folder)
            is_new &= self._refuses
            Publication(files, name, self._path(name), content, replaces, is_new).publish()

    def _make(self, files: Any, folder: str) -> None:
        """Make a folder, unless in an object store: it has none, and a bucket of a mistyped name would be made."""
        if folder not in self._made and not self._protocols & OBJECT_STORES:
            files.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def names_in(self, folder: str) -> list[str]:
        """Return the sorted names of what lies directly in a folder ("" for this one); none if there is no such folder.

        Raises:
            OSError: it cannot be listed.
        """
        with self._using() as files:
            files.invalidate_cache()
            try:
                found = files.ls(self._path(folder) if folder else self._root, detail=False)
            except FileNotFoundError:
                return []
        return sorted(posixpath.basename(path.rstrip("/")) for path in found)

    def modified(self, name: str) -> datetime | None:
        """Return the time of a file by the store's clock, None if the store does not tell it."""
        with self._using() as files:
            try:
                found: datetime = files.modified(self._path(name))
            except (NotImplementedError, RuntimeError):
                return None
        return found

    def remove(self, name: str) -> None:
        """Remove a file of the run's own."""
        with self._using() as files:
            files.rm_file(self._path(name))

    def prepare(self, marks: Collection[str] = (), is_own: Callable[[str], bool] = lambda sha256: False) -> None:
        """Write and remove a small file, so that missing permission is found before the first photo."""
        found = self._list() if marks else {}
        with self._using() as files:
            self._make(files, self._root)
            for name in [name for name in found if temporary_mark(posixpath.basename(name)) in marks]:
                files.rm_file(self._path(name))
                del found[name]
        with self.probe() as probe, self._using() as files:
            self._refuses = Publication(files, probe.name, self._path(probe.name), b"other", ()).is_refused()

    @contextlib.contextmanager
    def probe(self) -> Iterator[Probe]:
        """Write a probe without checking for a file of its name, which is unique."""
        probe = Probe.of(self._root)
        with self._using() as files:
            self._make(files, self._root)
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


def _is_work(name: str) -> bool:
    """Return True for the name of a file in a work folder."""
    return f"/{WORK_FOLDER}/" in f"/{name}"


def _folders_of(name: str) -> Iterator[str]:
    """Yield the paths of all folders above a name, each with a "/" at its end."""
    return (name[: end + 1] for end, letter in enumerate(name) if letter == "/")
