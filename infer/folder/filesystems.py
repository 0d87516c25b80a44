"""File systems of fsspec: opening, identity, concurrency, status of files, errors."""

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

S3 = frozenset({"s3", "s3a"})
AZURE = frozenset({"az", "abfs", "abfss"})
OBJECT_STORES = frozenset({*S3, *AZURE, "gs", "gcs"})
"""Protocols of stores without folders: a name can have any number of slashes."""

CONCURRENT_PROTOCOLS = frozenset({*OBJECT_STORES, "http", "https", "memory"})
"""Protocols that are thread-safe. Others share one connection or one file between all reads."""

ONE_AT_A_TIME = threading.RLock()
"""Lock for all file systems that are not thread-safe; one for all, because two URLs can share a connection."""

VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "crc32c", "LastModified", "last_modified", "mtime"),
    *("modify", "modificationTime", "updated", "created"),
)
"""Keys of a store's entry that identify the version of a file, the most reliable first."""

S3_CONFIG = {
    "connect_timeout": 5,
    "read_timeout": 15,
    "retries": {"mode": "standard", "total_max_attempts": 4},
}
"""Options of botocore: seconds to connect and without a byte; tries, with random pauses of up to 1, 2 and 4 s."""

S3_ROUNDS = 2
"""Rounds of tries of s3fs, for which a download that breaks off is begun again; its own 5 would make 100 tries."""

HTTP = frozenset({"http", "https"})
THIS_MACHINE = frozenset({"file", "local"})


def opened(url: str, credentials: Credentials, **options: Any) -> tuple[Any, str]:
    """Open the file system of a URL; return it and the path in it.

    Raises:
        UserError: a package is missing, or the server cannot be reached.
    """
    try:
        from fsspec.core import url_to_fs

        for scheme in S3 & {part.partition("://")[0] for part in url.split("::")}:
            options[scheme] = _s3_options(scheme)
        files, root = url_to_fs(url, **options)
        if protocols_of(files) & S3:
            files.retries = S3_ROUNDS
    except Exception as error:  # some file systems connect here
        reason = credentials.without_secrets(first_line(error))
        advice = (
            "pip install 'cgan[remote]' and the package that fsspec names for this kind of URL"
            if isinstance(error, ImportError | ValueError)
            else "check the address and the access"
        )
        raise UserError(f"{credentials.shown}: cannot be opened ({reason}); {advice}") from None
    return files, str(root)


def _s3_options(scheme: str) -> dict[str, Any]:
    """Return options of s3fs: one request for a photo, since several photos are read at once, and no listings kept."""
    from fsspec.config import conf

    config = {**S3_CONFIG, **conf.get(scheme, {}).get("config_kwargs", {})}
    return {"max_concurrency": 1, "use_listings_cache": False, "config_kwargs": config}


def identity_of(url: str, files: Any, path: str) -> str:
    """Return protocol and path, with user, host and port unless paths begin with a bucket; without secrets."""
    if "::" in url or protocols_of(files) & HTTP:
        return Credentials(url).identity.rstrip("/")
    return str(files.unstrip_protocol(path)).replace("://", f"://{host_of(files)}", 1).rstrip("/")


def host_of(files: Any) -> str:
    """Return user, host and port of a file system with one server, or of an S3 other than Amazon's; else empty."""
    if "s3" in protocols_of(files):
        return _s3_host(files)
    host, user, port = (files.storage_options.get(name) for name in ("host", "username", "port"))
    return f"{f'{user}@' if user else ''}{host}{f':{port}' if port else ''}" if host else ""


def _s3_host(files: Any) -> str:
    """Return host, port and "/" of an S3 other than Amazon's, else empty."""
    try:
        server = urlsplit(files.s3.meta.endpoint_url)
    except Exception:  # the next read or write raises the error
        return ""
    host = server.netloc.rpartition("@")[2]
    return "" if f".{server.hostname}".endswith((".amazonaws.com", ".amazonaws.com.cn")) else f"{host}/"


def protocols_of(files: Any) -> set[str]:
    """Return the protocols of a file system; for a cache its own, not those of the cached file system."""
    protocol = type(files).protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def is_concurrent(files: Any) -> bool:
    """Return True if several threads can use a file system at once."""
    return protocols_of(files) <= CONCURRENT_PROTOCOLS | THIS_MACHINE


def lock_of(files: Any) -> contextlib.AbstractContextManager[Any]:
    """Return the lock to hold while using a file system."""
    return contextlib.nullcontext() if is_concurrent(files) else ONE_AT_A_TIME


@contextlib.contextmanager
def as_os_errors(credentials: Credentials) -> Iterator[None]:
    """Convert all errors of a store to OSError, and hide secrets in their messages."""
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
    """Return True if a file system implements find; the default of fsspec skips unreadable folders silently."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if isinstance(files, AsyncFileSystem):
        return type(files)._find is not AsyncFileSystem._find
    return type(files).find is not AbstractFileSystem.find


def in_s3(files: Any, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield paths and entries of all objects in and below a folder of S3, a page at a time.

    s3fs keeps all pages until the last has come, which takes four times the memory.
    """
    bucket, key, _ = files.split_path(folder)
    options = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **files.req_kw}
    while True:
        page = files.call_s3("list_objects_v2", **options)
        for found in page.get("Contents", ()):
            kind = "directory" if found["Key"].endswith("/") and not found["Size"] else "file"
            yield f"{bucket}/{found['Key']}", {"type": kind, "size": found["Size"], **found}
        if not page.get("IsTruncated"):
            return
        options["ContinuationToken"] = page["NextContinuationToken"]


def has_own_mv(files: Any) -> bool:
    """Return True if a file system implements mv; the default of fsspec copies, and takes names for patterns."""
    from fsspec import AbstractFileSystem

    return type(files).mv is not AbstractFileSystem.mv


def listed(files: Any, folder: str) -> list[dict[str, Any]]:
    """Return the entries of a folder.

    Raises:
        Exception: an error of the store, or an FTP folder that is not listed and that fsspec takes for empty.
    """
    entries: list[dict[str, Any]] = files.ls(folder, detail=True)
    if not entries and "ftp" in protocols_of(files) and folder not in files.dircache:
        raise PermissionError(errno.EACCES, "the server does not list it")
    return entries


def kind_of(found: dict[str, Any]) -> str:
    """Return the kind of an entry: "file", "link", "directory" or another word of the store."""
    kind = str(found.get("type") or "file").lower()
    return "link" if "link" in kind or (kind == "directory" and found.get("islink")) else kind


def status_of(found: dict[str, Any]) -> Status:
    """Return size and version of an entry, see VERSION_KEYS."""
    return Status(int(found.get("size") or 0), next((str(found[key]) for key in VERSION_KEYS if found.get(key)), ""))


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type."""
    return next(iter(str(error).splitlines()), type(error).__name__)
