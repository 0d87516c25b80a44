"""fsspec's file systems: how they are opened, what they can do at a time, and the errors that they raise."""

import contextlib
import errno
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from cgan.errors import UserError
from cgan.files import OccupiedError
from infer.folder.credentials import Credentials
from infer.folder.storage import Status

CONCURRENT_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "memory"})
"""Stores that several threads can use at once. Others have one connection, or one file that all reading shares."""

ONE_AT_A_TIME = threading.RLock()
"""For all file systems that are not concurrent, since two URLs can share a connection."""

VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "crc32c", "LastModified", "last_modified", "mtime"),
    *("modify", "modificationTime", "updated", "created"),
)
"""What stores tell of a file's version, the surest first."""

HTTP = frozenset({"http", "https"})
THIS_MACHINE = frozenset({"file", "local"})


def opened(url: str, credentials: Credentials, **options: Any) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        UserError: a package for it is missing, or it cannot be reached.
    """
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(url, **options)
    except Exception as error:  # some connect at once
        reason = credentials.without_secrets(first_line(error))
        advice = (
            "pip install 'cgan[remote]' and the package that fsspec names for this kind of URL"
            if isinstance(error, ImportError | ValueError)
            else "check the address and the access"
        )
        raise UserError(f"{credentials.shown}: cannot be opened ({reason}); {advice}") from None
    return files, str(root)


def identity_of(url: str, files: Any, path: str) -> str:
    """Protocol and path, with user, host and port where paths do not begin with a bucket; no password or token."""
    if "::" in url or protocols_of(files) & HTTP:
        return Credentials(url).identity.rstrip("/")
    return str(files.unstrip_protocol(path)).replace("://", f"://{host_of(files)}", 1).rstrip("/")


def host_of(files: Any) -> str:
    """User, host and port of a file system that has one server, or an S3 other than Amazon's; otherwise empty."""
    if "s3" in protocols_of(files):
        return _s3_host(files)
    host, user, port = (files.storage_options.get(name) for name in ("host", "username", "port"))
    return f"{f'{user}@' if user else ''}{host}{f':{port}' if port else ''}" if host else ""


def _s3_host(files: Any) -> str:
    """Host, port and a "/" of an S3 that is not Amazon's, wherever its address was found."""
    try:
        server = urlsplit(files.s3.meta.endpoint_url)
    except Exception:  # whoever reads or writes next hears of it
        return ""
    host = server.netloc.rpartition("@")[2]
    return "" if f".{server.hostname}".endswith((".amazonaws.com", ".amazonaws.com.cn")) else f"{host}/"


def protocols_of(files: Any) -> set[str]:
    """A file system's protocols, of a cache its own and not those of what lies behind it."""
    protocol = type(files).protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def is_concurrent(files: Any) -> bool:
    """Return True if several threads can use a file system at once."""
    return protocols_of(files) <= CONCURRENT_PROTOCOLS | THIS_MACHINE


def lock_of(files: Any) -> contextlib.AbstractContextManager[Any]:
    """What a thread holds while it uses a file system."""
    return contextlib.nullcontext() if is_concurrent(files) else ONE_AT_A_TIME


@contextlib.contextmanager
def as_os_errors(credentials: Credentials) -> Iterator[None]:
    """Stores raise types of their own; to a run each is a file that cannot be read or written. None shows a secret."""
    try:
        yield
    except OccupiedError:
        raise
    except OSError as error:
        if not credentials:
            raise
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        texts = [str(error)] if error.errno is None else [error.strerror or str(error)]
        texts += [str(error.filename)] if error.filename else []
        numbers = [] if error.errno is None else [error.errno]
        raise kind(*numbers, *map(credentials.without_secrets, texts)) from None
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise OSError(errno.EIO, credentials.without_secrets(reason)) from (None if credentials else error)


def has_own_find(files: Any) -> bool:
    """Return True if a file system has a search of its own; fsspec's passes over folders that cannot be read."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if isinstance(files, AsyncFileSystem):
        return type(files)._find is not AsyncFileSystem._find
    return type(files).find is not AbstractFileSystem.find


def has_own_mv(files: Any) -> bool:
    """Return True if a file system can rename; fsspec's own copies, and takes names for patterns."""
    from fsspec import AbstractFileSystem

    return type(files).mv is not AbstractFileSystem.mv


def listed(files: Any, folder: str) -> list[dict[str, Any]]:
    """A folder's entries.

    Raises:
        Exception: one of the store's; also where fsspec takes a folder that an FTP server does not list for empty.
    """
    entries: list[dict[str, Any]] = files.ls(folder, detail=True)
    if not entries and "ftp" in protocols_of(files) and folder not in files.dircache:
        raise PermissionError(errno.EACCES, "the server does not list it")
    return entries


def kind_of(found: dict[str, Any]) -> str:
    """Kind of an entry: "file", "link", "directory" or another word of the store."""
    kind = str(found.get("type") or "file").lower()
    return "link" if "link" in kind or (kind == "directory" and found.get("islink")) else kind


def status_of(found: dict[str, Any]) -> Status:
    """With the checksum or the time that the store has."""
    return Status(int(found.get("size") or 0), next((str(found[key]) for key in VERSION_KEYS if found.get(key)), ""))


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type."""
    return next(iter(str(error).splitlines()), type(error).__name__)
