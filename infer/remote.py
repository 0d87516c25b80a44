"""A folder behind an fsspec URL such as s3://bucket/photos."""

import contextlib
import errno
import posixpath
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from cgan.errors import UserError
from infer.local_folder import LocalFolder
from infer.storage import WORK_FOLDER, Entry, Status, Storage

ATOMIC_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "memory"})
"""Stores in which an object appears when its upload is complete; in others it is renamed or copied then."""


VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "crc32c", "LastModified", "last_modified", "mtime"),
    *("modify", "modificationTime", "updated", "created"),
)
"""What stores tell of a file's version, the surest first."""


class RemoteFolder(Storage):
    """A folder behind an fsspec URL.

    Raises:
        UserError: fsspec or the package for this kind of URL is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            from fsspec import AbstractFileSystem
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{url}: cannot be opened ({_first_line(error)}); pip install 'cgan[remote]' and the package "
                "that fsspec names for this kind of URL"
            ) from error
        except Exception as error:  # some connect at once
            raise UserError(
                f"{url}: cannot be opened ({_first_line(error)}); check the address and the access"
            ) from error
        self._root = self._root.rstrip("/")
        self._listed: dict[str, Status] | None = None
        # fsspec's own mv copies, and takes names for patterns.
        self._renames = type(self._files).mv is not AbstractFileSystem.mv
        self._host = str(self._files.storage_options.get("host", ""))
        protocol = self._files.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)

    def __str__(self) -> str:
        return self.url

    @property
    def identity(self) -> str:
        """Protocol and path, with the host where paths do not begin with a bucket."""
        return str(self._files.unstrip_protocol(self._root)).replace("://", f"://{self._host}", 1)

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """Stores have neither links nor special files."""
        hidden = leave_out._root + "/" if isinstance(leave_out, RemoteFolder) and self._shares(leave_out) else None
        with _as_os_errors():
            self._files.invalidate_cache()
            for path, found in sorted(self._files.find(self._root, detail=True).items()):
                if not (hidden and path.startswith(hidden)):
                    yield Entry(path.removeprefix(self._root).lstrip("/"), _remote_status(found))

    def status(self, name: str) -> Status | None:
        """As the store listed it when the first was asked for, or as this run published it since.

        Asking for each file by itself would take a round trip a file.
        """
        if self._listed is None:
            try:
                self._listed = {entry.name: entry.status for entry in self.walk() if entry.status}
            except FileNotFoundError:
                self._listed = {}
        return self._listed.get(name)

    def fetch(self, name: str) -> bytes:
        """Its content."""
        with _as_os_errors():
            content: bytes = self._files.cat_file(self._path(name))
        return content

    def publish(self, name: str, content: bytes | memoryview, replaces: Collection[str] | None = ()) -> None:
        """As one object, or renamed where the store shows unfinished files."""
        with _as_os_errors():
            self._put(self._path(name), bytes(content))
        if self._listed is not None:
            self._listed[name] = Status(len(content), "")

    def _put(self, path: str, content: bytes) -> None:
        self._files.makedirs(posixpath.dirname(path), exist_ok=True)
        if self._protocols & ATOMIC_PROTOCOLS:
            self._files.pipe_file(path, content)
            return
        temporary = posixpath.join(posixpath.dirname(path), f"{WORK_FOLDER}-{secrets.token_hex(8)}")
        try:
            self._files.pipe_file(temporary, content)
            if self._renames:
                self._files.mv(temporary, path)
            else:
                self._files.cp_file(temporary, path)
                self._files.rm_file(temporary)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm_file(temporary)
            raise

    def prepare(self, marks: Collection[str] = ()) -> None:
        """Write and remove a small file, so that missing permission shows before the first photo.

        Unfinished files are removed where there can be any.
        """
        with _as_os_errors():
            self._files.makedirs(self._root, exist_ok=True)
            if not self._protocols & ATOMIC_PROTOCOLS:
                for path in self._files.find(self._root):
                    if posixpath.basename(path).startswith(f"{WORK_FOLDER}-"):
                        self._files.rm_file(path)
            probe = self._path(f"{WORK_FOLDER}-{secrets.token_hex(8)}")
            self._files.pipe_file(probe, b"")
            self._files.rm_file(probe)

    def finish(self) -> None:
        """Nothing is left in a store."""

    @property
    def on_this_machine(self) -> LocalFolder | None:
        """The folder that a URL such as local:///photos is another name of; None for what is elsewhere."""
        return LocalFolder(Path(self._root)) if self._protocols & {"file", "local"} else None

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)

    def _shares(self, other: "RemoteFolder") -> bool:
        return bool(self._protocols & other._protocols) and self._host == other._host


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Stores raise types of their own; to a run each is a file that cannot be read or written."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def _remote_status(found: dict[str, Any]) -> Status:
    """With the checksum or the time that the store has."""
    return Status(int(found["size"] or 0), next((str(found[key]) for key in VERSION_KEYS if found.get(key)), ""))
