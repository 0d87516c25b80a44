"""Read-only storage in a tar or zip archive, behind a URL such as tar://FOLDER::s3://bucket/photos.tar.gz.

fsspec reads archives too, but there all threads share one file object, a damaged archive ends silently, and of two
entries with the same name the first is ignored.
"""

import bz2
import errno
import gzip
import lzma
import posixpath
import re
import shutil
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any, NamedTuple

from cgan.errors import UserError
from infer.folder.credentials import Credentials
from infer.folder.filesystems import (
    THIS_MACHINE,
    as_os_errors,
    identity_of,
    is_concurrent,
    lock_of,
    opened,
    protocols_of,
    status_of,
)
from infer.folder.remote import RemoteFolder
from infer.folder.storage import Entry, Probe, Status, Storage, check_below

BLOCK = 2**18
"""Block size in bytes for reading an archive in a store."""

COMPRESSIONS: dict[re.Pattern[bytes], Callable[[Any], Any]] = {
    re.compile(rb"\x1f\x8b"): lambda file: gzip.GzipFile(fileobj=file),
    re.compile(rb"BZh[1-9]1AY&SY"): bz2.BZ2File,
    re.compile(rb"\xfd7zXZ\0"): lzma.LZMAFile,
}
"""Decompressors of tar archives by the first bytes."""

NOT_READ = {
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"\x1f\x9d": "compressed by compress",
    b"LZIP": "compressed by lzip",
    b"\x89LZO": "compressed by lzop",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"PK\x03\x04": "a zip archive, whose URLs begin with zip://",
}
"""Unsupported files under a tar:// URL, by their first bytes."""

CUT_OFF = "the archive is damaged or cut off here; what follows cannot be found"


class _Member(NamedTuple):
    """One entry of an archive."""

    name: str
    """Name in the archive, without a leading "./"."""
    status: Status | None
    problem: str | None
    """Why the entry is not read, as in `Entry`."""
    read: Callable[[], bytes]
    unreadable: bool = False


class ArchiveFolder(RemoteFolder):
    """A folder in an archive, or a single photo in one.

    Raises:
        UserError: the URL names no archive, or its file system cannot be opened.
    """

    writable = False

    def __init__(self, url: str) -> None:
        self.credentials = Credentials(url)
        head, _, rest = url.partition("::")
        self._kind, _, inner = head.partition("://")
        self._protocols = {self._kind}
        self._root = inner.strip("/")
        self._prefix = f"{self._root}/" if self._root else ""
        if not rest:
            raise UserError(
                f"{self}: found no archive in it, expected FOLDER::ARCHIVE after {self._kind}://, as in "
                f"{self._kind}://photos::s3://bucket/x.{self._kind} (FOLDER can be empty)"
            )
        if re.match(r"(?:\w+::)*(?:tar|zip)://", rest):
            raise UserError(f"{self}: found an archive in an archive, which is not read; unpack the outer one")
        self._files, self._archive = opened(rest, self.credentials)
        self._container = identity_of(rest, self._files, self._archive)
        self._reading = threading.RLock()
        self._file: Any = None
        self._version: Status | None = None
        self._members: dict[str, _Member] = {}
        self._earlier: list[Entry] = []
        self._listed = None
        self._listing = threading.Lock()

    @property
    def identity(self) -> str:
        """Folder and archive."""
        return f"{self._kind}://{self._root}::{self._container}"

    @property
    def place(self) -> str:
        """The URL; that of an archive on this machine has its absolute path."""
        is_here = protocols_of(self._files) <= THIS_MACHINE
        return f"{self._kind}://{self._root}::file://{self._archive}" if is_here else str(self)

    @property
    def on_this_machine(self) -> None:
        """No folder of this machine, wherever the archive is."""
        return

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """Yield the entries; the archive is read again if it has changed."""
        with self._reading, as_os_errors(self.credentials):
            self._open()
            entries = [Entry(name, m.status, m.problem, m.unreadable) for name, m in self._members.items()]
            entries += self._earlier
        yield from sorted(entries, key=lambda entry: entry.name)

    def fetch(self, name: str) -> bytes:
        """Return the content of a file; one thread reads at a time."""
        check_below(name)
        with self._reading, as_os_errors(self.credentials):
            if self._file is None:
                self._open()
            member = self._members.get(name)
            if member is None or member.problem:
                raise FileNotFoundError(errno.ENOENT, "no such file in the archive", name)
            content = member.read()
            if member.status and len(content) != member.status.size:
                raise OSError(errno.EIO, f"read {len(content)} of {member.status.size} bytes", name)
        return content

    def publish(
        self, name: str, content: bytes | memoryview, replaces: Collection[str] | None = (), mode: int = 0o666
    ) -> None:
        """Refused."""
        raise OSError(errno.EROFS, "archives are only read", name)

    def prepare(self, marks: Collection[str] = (), is_own: Callable[[str], bool] = lambda sha256: False) -> None:
        """Refused."""
        raise OSError(errno.EROFS, "archives are only read", str(self))

    def sees(self, probe: Probe) -> bool:
        """No file can appear in it."""
        return False

    def _open(self) -> None:
        """Read the archive's directory, unless it is known."""
        with lock_of(self._files):
            self._files.invalidate_cache()
            version = status_of(self._files.info(self._archive))
            if self._file is not None and version == self._version and version.version:
                return
            if self._file is not None:
                self._file.close()
            self._file, damage = _opened(self._files, self._archive, self._kind == "tar")
        self._members, self._earlier = {}, []
        for member in _tar_members(self._file, damage) if self._kind == "tar" else _zip_members(self._file):
            name = member.name if member.unreadable else self._name(member.name)
            if name in self._members:
                problem = "an earlier entry of this name in the archive, of which the last one counts"
                self._earlier.append(Entry(name, None, problem))
            if name:
                self._members[name] = member
        self._version = version

    def _name(self, name: str) -> str:
        """A name below the folder, of a single photo its last part, of what lies elsewhere an empty one."""
        if name == self._root:
            return posixpath.basename(name)
        return name[len(self._prefix) :] if name.startswith(self._prefix) else ""


def _opened(files: Any, path: str, is_tar: bool) -> tuple[Any, str]:
    """The archive as a file that can be read anywhere, and the damage that ended its unpacking, if any.

    A compressed one can only be read from its beginning, and a connection cannot serve a file and other requests, so
    these are unpacked or copied: into a temporary file, which has no name and is gone with this process.
    """
    source = files.open(path, "rb", block_size=BLOCK)
    start = source.read(10)
    source.seek(0)
    unpack = next((unpack for magic, unpack in COMPRESSIONS.items() if is_tar and magic.match(start)), None)
    other = next((other for magic, other in NOT_READ.items() if is_tar and start.startswith(magic)), None)
    if other:
        source.close()
        raise OSError(errno.EBADMSG, f"it is {other}; supported are plain tar, gzip, bzip2 and xz")
    if unpack is None and is_concurrent(files):
        return source, ""
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    damage = ""
    try:
        with source:
            if unpack:
                damage = _unpack(unpack(source), copy)
            else:
                shutil.copyfileobj(source, copy, 2**20)
    except BaseException as error:
        copy.close()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            room = f"{tempfile.gettempdir()} is too small to unpack the archive; set TMPDIR to another folder"
            raise OSError(errno.ENOSPC, room) from error
        raise
    copy.seek(0)
    return copy, damage


def _unpack(source: Any, target: IO[bytes]) -> str:
    """Decompress as much as possible; return the error that ended it, "" if none."""
    try:
        while block := source.read1(2**20):  # `read` would lose what comes before the damage
            target.write(block)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        return str(error)
    except OSError as error:
        if str(error) != "Invalid data stream":  # bz2 has no type for it
            raise
        return str(error)
    return ""


def _tar_members(file: IO[bytes], damage: str = "") -> Iterator[_Member]:
    """Yield the entries of an uncompressed tar archive; links within the archive are followed."""
    try:
        tar = tarfile.TarFile(fileobj=file)
    except tarfile.ReadError as error:
        raise OSError(errno.EBADMSG, f"no tar archive: {damage or error}") from error
    found: list[tarfile.TarInfo] = []
    end = CUT_OFF
    try:
        for info in tar:
            found.append(info)
        end = _end(file, tar.offset)  # tarfile takes a damaged header for it
    except tarfile.ReadError:
        pass
    if damage:
        end = f"{CUT_OFF} ({damage})"
    by_name: dict[str, list[tarfile.TarInfo]] = {}
    for info in found:
        by_name.setdefault(_plain(info.name), []).append(info)
    for info in found:
        if info.isdir():
            continue
        target, problem = _target(info, by_name)
        if target is None:
            yield _Member(_plain(info.name), None, problem, bytes)
        else:
            status = Status(target.size, str(target.mtime))
            yield _Member(_plain(info.name), status, None, lambda target=target: _tar_content(tar, target))  # type: ignore[misc]
    if end:
        yield _Member(f"after {found[-1].name}" if found else "the archive", None, end, bytes, unreadable=True)


def _end(file: IO[bytes], offset: int) -> str:
    """Return the problem with the end of a tar archive, "" if it has two blocks of zeros and only zeros after them."""
    file.seek(offset)
    zeros = 0
    while block := file.read(tarfile.BLOCKSIZE):
        if block.strip(tarfile.NUL):
            break
        zeros += len(block)
    if zeros < 2 * tarfile.BLOCKSIZE:
        return CUT_OFF
    if not block:
        return ""
    try:
        follows = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").name
    except tarfile.TarError:
        return CUT_OFF
    return f"the archive ends here, and another one that begins with {follows} is appended; give it as one of its own"


def _tar_content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None
    return file.read()


def _target(info: tarfile.TarInfo, by_name: dict[str, list[tarfile.TarInfo]]) -> tuple[tarfile.TarInfo | None, str]:
    """Return the regular file of an entry, after following links; otherwise None and the problem."""
    seen: set[int] = set()
    while info.islnk() or info.issym():
        if info.offset in seen:
            return None, "link leads to itself"
        seen.add(info.offset)
        if info.issym():
            path = posixpath.normpath(posixpath.join(posixpath.dirname(_plain(info.name)), info.linkname))
            candidates = by_name.get(path, [])
        else:  # a hard link is another name of what was packed before it
            candidates = [other for other in by_name.get(_plain(info.linkname), []) if other.offset < info.offset]
        if not candidates:
            return None, "link leads nowhere in the archive"
        info = candidates[-1]
    if info.isdir():
        return None, "link to a folder, not followed"
    return (info, "") if info.isreg() else (None, "not a regular file")


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    """Yield the entries of a zip archive; `ZipFile` verifies their checksums."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise OSError(errno.EBADMSG, f"no zip archive: {error}") from error
    for info in archive.infolist():
        if info.is_dir():
            continue
        link = stat.S_ISLNK(info.external_attr >> 16)
        yield _Member(
            _plain(info.filename),
            None if link else Status(info.file_size, f"{info.CRC:08x}"),
            "a link, not followed" if link else None,
            lambda info=info: archive.read(info),  # type: ignore[misc]
        )


def _plain(name: str) -> str:
    """Return a name without the leading "./" of `tar -c .`."""
    return name.removeprefix("./")
