"""Local storage: a folder, or single files and folders."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePath

from cgan.files import OccupiedError, look_at, place, remove_temporaries, temporary_name
from infer.folder.storage import ANOTHER_OUTPUT, JOURNAL, WORK_FOLDER, Entry, Probe, Status, Storage, check_below

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags for opening folders."""

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class LocalFolder(Storage):
    """A local folder."""

    waits = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root: int | None = None
        self._work: int | None = None
        """Descriptors of the folder, and of its folder for unfinished files, between `prepare` and `finish`."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def place(self) -> str:
        """Absolute path; links stay, except where ".." follows them."""
        return str(self.path.resolve() if ".." in self.path.parts else self.path.absolute())

    @property
    def identity(self) -> str:
        """Absolute path with links resolved."""
        return str(self.path.resolve())

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """Yield files; links to files are followed, links to folders and OUTPUT folders of other runs are not."""
        root = str(self.path.resolve())
        start = len(os.path.join(root, ""))  # noqa: PTH118 (of strings, see below)
        hidden = leave_out.identity if isinstance(leave_out, LocalFolder) else None
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                reason = f"folder cannot be read: {error.strerror}"
                yield Entry(os.path.relpath(folder, root), None, reason, unreadable=True)
                continue
            for entry in entries:
                if entry.path == hidden:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if _is_output(entry.path):
                        yield Entry(entry.path[start:], None, ANOTHER_OUTPUT)
                    else:
                        folders.append(entry.path)
                else:
                    yield entry_of(entry.path[start:], entry.path)

    def status(self, name: str) -> Status | None:
        """Return the status of a file; a link has size and time of its target and is not regular."""
        path = f"{self.path}/{name}"
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                with contextlib.suppress(OSError):
                    found = os.stat(path)  # noqa: PTH116
                return Status(found.st_size, str(found.st_mtime_ns), regular=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Status(found.st_size, str(found.st_mtime_ns), stat.S_ISREG(found.st_mode))

    def all_names(self) -> Collection[str]:
        """Return the names of all files, and of links to files."""
        root = os.path.join(self.path, "")  # noqa: PTH118
        return {
            os.path.join(folder, name)[len(root) :]  # noqa: PTH118
            for folder, _, names in os.walk(root, onerror=_raise)
            for name in names
        }

    def fetch(self, name: str) -> Path:
        """Return the path of a file."""
        return self.path / name

    def publish(
        self, name: str, content: bytes | memoryview, replaces: Collection[str] | None = (), mode: int = 0o666
    ) -> None:
        """Write to the folder for unfinished files, flush to disk, then rename; no link is followed."""
        check_below(name)
        assert self._work is not None, "the folder is prepared"
        temporary = temporary_name()
        try:
            with open(os.open(temporary, NEW_FILE, mode & 0o666 | stat.S_IRUSR, dir_fd=self._work), "wb") as file:  # noqa: PTH123
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with self._opened(PurePath(name).parent) as folder:
                _place(temporary, self._work, PurePath(name).name, folder, replaces, content)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._work)

    @contextlib.contextmanager
    def _opened(self, name: PurePath) -> Iterator[int]:
        """Open a folder below this one, created if missing; yields its descriptor.

        Raises:
            NotADirectoryError: a part of its path is a link or a file.
        """
        assert self._root is not None
        folder = os.dup(self._root)
        try:
            for part in name.parts:
                inner = _open_folder(part, folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    def prepare(self, marks: Collection[str] = (), is_own: Callable[[str], bool] = lambda sha256: False) -> None:
        """Prepare for writing. The caller holds the lock of the journal, so no process uses files with `marks`."""
        self.finish()
        self.path.mkdir(parents=True, exist_ok=True)
        self._root = os.open(self.path, FOLDER)
        with self._opened(PurePath(WORK_FOLDER)) as folder:
            self._work = _open_folder(f"work{self.part}", folder)
        folders = (self.path, self.path / WORK_FOLDER / f"work{self.part}")
        self.left = [str(file) for folder in folders for file in remove_temporaries(folder, marks, is_own)]

    @contextlib.contextmanager
    def probe(self) -> Iterator[Probe]:
        """Write a probe only, so that a folder that is refused does not look like an OUTPUT."""
        self.path.mkdir(parents=True, exist_ok=True)
        root = self.path.resolve()
        probe = Probe.of(str(root))
        with open(os.open(root / probe.name, NEW_FILE, 0o666), "wb") as file:  # noqa: PTH123
            try:
                file.write(probe.content)
                file.flush()
                yield probe
            finally:
                (root / probe.name).unlink(missing_ok=True)

    def sees(self, probe: Probe) -> bool:
        """Return True if the probe is found, also through links and mounts."""
        root = self.path.resolve()
        folders = [*(root / tail for tail in probe.tails), *root.parents]
        return any(_contains(folder / probe.name, probe.content) for folder in folders)

    def finish(self) -> None:
        """Remove the folder for unfinished files if it is empty, and close the descriptors."""
        if self._root is None:
            return
        with contextlib.suppress(
            OSError
        ):  # it is not empty, or a disk broke, which must not hide what became of the run
            os.rmdir(f"{WORK_FOLDER}/work{self.part}", dir_fd=self._root)
        for descriptor in (self._work, self._root):
            if descriptor is not None:
                os.close(descriptor)
        self._root = self._work = None


class LocalFiles(LocalFolder):
    """The folder that several files and folders share, of which only these are visible: an INPUT of one photo or more.

    Args:
        given: paths of the files and folders, at least one.
    """

    def __init__(self, given: list[Path]) -> None:
        self.folders = [path.resolve() for path in given if path.is_dir()]
        self.files = [path.parent.resolve() / path.name for path in given if not path.is_dir()]
        super().__init__(Path(os.path.commonpath([*self.folders, *(file.parent for file in self.files)])))
        self._first, self._more = given[0], f" and {len(given) - 1} more" if len(given) > 1 else ""

    def __str__(self) -> str:
        return f"{self._first}{self._more}"

    @property
    def place(self) -> str:
        """Absolute path of the first."""
        return f"{LocalFolder(self._first).place}{self._more}"

    def walk(self, leave_out: Storage | None = None) -> Iterator[Entry]:
        """Yield the files, even those inside an OUTPUT, and those below the folders; missing ones are unreadable."""
        seen: set[str] = set()
        for entry in self._entries(leave_out):
            if entry.name not in seen:
                seen.add(entry.name)
                yield entry

    def _entries(self, leave_out: Storage | None) -> Iterator[Entry]:
        for file in self.files:
            entry = entry_of(str(file.relative_to(self.path)), file)
            yield entry._replace(unreadable=entry.status is None)
        for folder in self.folders:
            for entry in LocalFolder(folder).walk(leave_out):
                yield entry._replace(name=str(folder.relative_to(self.path) / entry.name))

    def sees(self, probe: Probe) -> bool:
        """Return True if the probe is in the folder of a file, or in, below or above one of the folders."""
        beside = any(_contains(file.parent / probe.name, probe.content) for file in self.files)
        return beside or any(LocalFolder(folder).sees(probe) for folder in self.folders)


def _open_folder(name: str, above: int) -> int:
    """Open a folder in the folder `above`, created if missing, and return its descriptor; links are not followed."""
    with contextlib.suppress(FileExistsError):
        try:
            return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=above)
        except FileNotFoundError:
            os.mkdir(name, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                reason = "Not a directory: found a file or a link, and links are not followed"
                raise NotADirectoryError(errno.ENOTDIR, reason, name) from None
            raise
    return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=above)


def _place(
    temporary: str, work: int, name: str, folder: int, replaces: Collection[str] | None, content: bytes | memoryview
) -> None:
    """Rename an unfinished file to its final name, unless a file of this name already has its content."""
    try:
        place(temporary, name, replaces, temporary_folder=work, target_folder=folder)
    except OccupiedError:
        found = look_at(name, folder)
        if found is None or found.sha256 != hashlib.sha256(content).hexdigest():
            raise


def _raise(error: OSError) -> None:
    raise error


def _contains(path: Path, content: bytes) -> bool:
    with contextlib.suppress(OSError):
        return path.read_bytes() == content
    return False


def entry_of(name: str, path: Path | str) -> Entry:
    """Return the entry of a path, which is a problem unless it leads to a regular file; a str takes half the time."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        is_link = Path(path).is_symlink()
        return Entry(name, None, f"link leads nowhere: {error.strerror}" if is_link else str(error.strerror))
    if stat.S_ISDIR(found.st_mode):
        return Entry(name, None, "link to a folder, not followed")
    if not stat.S_ISREG(found.st_mode):
        return Entry(name, None, "not a regular file")
    return Entry(name, Status(found.st_size, str(found.st_mtime_ns)))


def _is_output(folder: str) -> bool:
    """Return True for the OUTPUT of a run, or of shards: its work folder has a journal."""
    try:
        names = [path.name for path in Path(folder, WORK_FOLDER).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:  # of another user
        return True
    return any(JOURNAL.fullmatch(name) for name in names)
