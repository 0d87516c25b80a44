"""Folders of this machine and behind fsspec URLs: what is found, and what is published whole or not at all."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from cgan.errors import UserError
from infer.folder.local_folder import LocalFolder
from infer.folder.open_storage import is_url, open_storage
from infer.folder.plan import check_folders
from infer.folder.publication import ATOMIC_PROTOCOLS
from infer.folder.remote import RemoteFolder
from infer.folder.storage import Status, Storage

BYTES_NAME = os.fsdecode(b"latin-\xe9.png")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class PlainStore(LocalFileSystem):  # type: ignore[misc]
    """A store behind plain://, in the folder of this name: files are seen while they are written, as over SFTP."""

    protocol = "plain"
    root_marker = ""
    broken: Callable[[str, str], None] | None = None
    """Called with the operation and the path before it is done."""
    written: list[str] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("plain://"))  # type: ignore[no-any-return]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self.written.append(path)
        if type(self).broken:
            Path(path).write_bytes(value[: len(value) // 2])
            type(self).broken("pipe", path)  # type: ignore[misc]
        super().pipe_file(path, value, mode, **options)


@pytest.fixture
def plain() -> Iterator[type[PlainStore]]:
    fsspec.register_implementation("plain", PlainStore, clobber=True)
    PlainStore.written.clear()
    yield PlainStore
    PlainStore.broken = None


class CopyingStore(MemoryFileSystem):  # type: ignore[misc]
    """A store behind copying:// on hosts, that is not known to be atomic and cannot rename."""

    protocol = "copying"
    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @staticmethod
    def _get_kwargs_from_urls(url: str) -> dict[str, str]:
        return {"host": url.split("/")[2]}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.split("://")[-1].partition("/")[2] if "://" in path else path.rstrip("/")


@pytest.fixture(params=["local", "memory", "plain", "copying"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, plain: type[PlainStore]) -> Iterator[Storage]:
    """A folder of each kind that does not exist yet."""
    places = {"local": str(tmp_path / "f"), "memory": f"memory://{tmp_path}/f", "plain": f"plain://{tmp_path}/f"}
    fsspec.register_implementation("copying", CopyingStore, clobber=True)
    places["copying"] = f"copying://host{tmp_path}/f"
    yield open_storage(places[request.param])
    MemoryFileSystem.store.clear()
    CopyingStore.store.clear()


CHAINS = [("tar://::s3://b/x.tar", True), ("simplecache::ftp://u:p@h/x", True), ("a/b::c://x", False)]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://b/x", True),
        ("gs://b", True),
        ("photos", False),
        ("/a/b", False),
        ("C:\\x", False),
        ("c://x", False),
        *CHAINS,
    ],
)
def test_a_scheme_makes_a_url(place: str, expected: bool) -> None:
    assert is_url(place) is expected


def test_what_is_published_is_found_and_read(storage: Storage) -> None:
    storage.prepare()
    assert list(storage.walk()) == []
    for name in ("a.png", "sub/deep/b.png", "[1]/c*.png", "new\nline.png", "sub/ü x.png"):
        assert storage.status(name) is None
        storage.publish(name, memoryview(name.encode()))
        status = storage.status(name)
        assert status is not None
        assert status.size == len(name.encode())
        content = storage.fetch(name)
        assert (content if isinstance(content, bytes) else content.read_bytes()) == name.encode()
        assert storage.checksum(name) == hashlib.sha256(name.encode()).hexdigest()
    storage.finish()
    found = {entry.name: entry.status for entry in storage.walk()}
    assert found.keys() == {"a.png", "sub/deep/b.png", "[1]/c*.png", "new\nline.png", "sub/ü x.png"}
    assert {name: status and status.size for name, status in found.items()} == {n: len(n.encode()) for n in found}


def test_what_is_published_again_replaces_the_first(storage: Storage) -> None:
    storage.prepare()
    storage.publish("a.png", b"first")
    before = storage.status("a.png")
    storage.publish("a.png", b"again!", [sha256(b"first")])
    content = storage.fetch("a.png")
    assert (content if isinstance(content, bytes) else content.read_bytes()) == b"again!"
    assert storage.status("a.png") != before
    storage.finish()
    assert [entry.name for entry in storage.walk()] == ["a.png"]


def test_another_folder_inside_is_left_out_and_its_namesake_is_not(storage: Storage) -> None:
    storage.prepare()
    for name in ("a.png", "out/b.png", "outer/c.png"):
        storage.publish(name, b"x")
    storage.finish()
    inside = open_storage(f"{storage}/out")
    assert [entry.name for entry in storage.walk(inside)] == ["a.png", "outer/c.png"]


def test_a_file_that_is_not_there_is_an_os_error(storage: Storage) -> None:
    storage.prepare()
    with pytest.raises(FileNotFoundError):
        storage.checksum("none.png")


def test_no_content_survives_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(tmp_path / "out")
    folder.prepare()
    folder.publish("a.png", b"first")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name in ("a.png", "b.png"):
        with pytest.raises(OSError, match="No space left"):
            folder.publish(name, b"again")
    assert sorted(path.name for path in folder.path.rglob("*") if path.is_file()) == ["a.png"]
    assert (folder.path / "a.png").read_bytes() == b"first"


def test_files_are_on_disk_before_they_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(tmp_path / "out")
    folder.prepare()
    flushed: list[int] = []

    def fsync(descriptor: int) -> None:
        assert not (folder.path / "a.png").exists()
        flushed.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    folder.publish("a.png", b"content")
    assert flushed == [len(b"content")]


def test_a_reader_never_sees_a_file_change(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "out")
    folder.prepare()
    folder.publish("a.png", b"first")
    with (tmp_path / "out" / "a.png").open("rb") as reader:
        folder.publish("a.png", b"again", [sha256(b"first")])
        assert reader.read() == b"first"


def test_preparing_removes_what_a_killed_run_left_and_nothing_else(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "out")
    folder.prepare()
    work = tmp_path / "out" / ".cgan" / "work"
    mark = "0" * 32
    left = [work / f".cgan-{mark}-0123.tmp", folder.path / f".cgan-{mark}-4567.tmp"]  # the second of a report
    own = [work / "half", work / ".cgan-mine.tmp", folder.path / ".cgan-0123456789ab.tmp"]
    for path in (*left, *own):
        path.write_bytes(b"x")
    folder.prepare()
    folder.prepare([mark])
    assert [path.exists() for path in (*left, *own)] == [False, False, True, True, True]
    folder.finish()
    assert (work / "half").exists()
    for path in work.iterdir():
        path.unlink()
    folder.prepare()
    folder.finish()
    folder.finish()  # nothing there is nothing to remove
    assert list((tmp_path / "out" / ".cgan").iterdir()) == []


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / BYTES_NAME).write_bytes(b"x")
    (entry,) = LocalFolder(tmp_path).walk()
    assert entry.name == BYTES_NAME
    assert entry.status == LocalFolder(tmp_path).status(BYTES_NAME)


def test_a_change_of_content_or_time_is_another_status(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    os.utime(path, ns=(0, 10**18 + 1))
    assert LocalFolder(tmp_path).status("a.png") == Status(1, str(10**18 + 1))
    os.utime(path, ns=(0, 10**18 + 2))
    assert LocalFolder(tmp_path).status("a.png") == Status(1, str(10**18 + 2))


def test_a_file_in_the_place_of_a_folder_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "sub").write_bytes(b"mine")
    folder = LocalFolder(tmp_path)
    folder.prepare()
    assert folder.status("sub/a.png") is None
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        folder.publish("sub/a.png", b"x")
    assert (tmp_path / "sub").read_bytes() == b"mine"


def test_a_store_that_shows_unfinished_files_has_them_renamed(tmp_path: Path, plain: type[PlainStore]) -> None:
    folder = open_storage(f"plain://{tmp_path}/out")
    folder.publish("sub/a.png", b"content")
    (written,) = plain.written
    assert Path(written).parent == tmp_path / "out" / "sub"
    assert Path(written).name.startswith(".cgan-")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.png"]


def test_a_store_that_shows_whole_objects_alone_needs_no_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    pipe = MemoryFileSystem.pipe_file

    def noted(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        written.append(path)
        return pipe(self, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", noted)
    open_storage("memory://direct").publish("a.png", b"x")
    assert written == ["/direct/a.png"]
    assert "sftp" not in ATOMIC_PROTOCOLS
    assert "file" not in ATOMIC_PROTOCOLS
    MemoryFileSystem.store.clear()


def test_what_a_store_cannot_finish_is_not_there(tmp_path: Path, plain: type[PlainStore]) -> None:
    folder = open_storage(f"plain://{tmp_path}/out")
    folder.publish("a.png", b"first")

    def lose(operation: str, path: str) -> None:
        raise TimeoutError("connection lost")

    plain.broken = lose
    with pytest.raises(TimeoutError):
        folder.publish("a.png", b"again")
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {"a.png": b"first"}


def test_errors_that_are_a_store_s_own_become_os_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise ClientError("AccessDenied")

    for method in ("find", "info", "cat_file", "makedirs"):
        monkeypatch.setattr(MemoryFileSystem, method, refuse)
    folder = open_storage("memory://x")
    uses: list[Callable[[], object]] = [
        lambda: list(folder.walk()),
        lambda: folder.status("a"),
        lambda: folder.fetch("a"),
        lambda: folder.publish("a", b""),
        folder.prepare,
    ]
    for use in uses:
        with pytest.raises(OSError, match="ClientError: AccessDenied"):
            use()


def test_the_version_is_what_the_store_has_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {
        "/x/a": {"size": 3, "ETag": "e", "LastModified": "t"},
        "/x/b": {"size": 3, "mtime": 5, "ETag": ""},
        "/x/c": {"size": None},
    }
    monkeypatch.setattr(MemoryFileSystem, "find", lambda self, path, detail: listed)
    folder = open_storage("memory://x")
    assert [folder.status(name) for name in "abcd"] == [Status(3, "e"), Status(3, "5"), Status(0, ""), None]


def test_a_store_is_listed_once_and_knows_what_was_published_since(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    find = MemoryFileSystem.find

    def counted(self: MemoryFileSystem, path: str, **options: Any) -> Any:
        calls.append(path)
        return find(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "find", counted)
    folder = open_storage("memory://listed-once")
    assert folder.status("a.png") is None
    folder.publish("a.png", b"four")
    assert folder.status("a.png") == Status(4, "")
    assert folder.status("b.png") is None
    assert len(calls) == 1
    MemoryFileSystem.store.clear()


def test_the_root_of_a_store_can_be_a_folder() -> None:
    folder = open_storage("memory://")
    folder.publish("sub/a.png", b"x")
    assert [entry.name for entry in folder.walk()] == ["sub/a.png"]
    MemoryFileSystem.store.clear()


def test_folders_are_told_apart_by_protocol_host_and_path(tmp_path: Path) -> None:
    fsspec.register_implementation("copying", CopyingStore, clobber=True)
    places = ["memory://x", "memory://y", "copying://a/x", "copying://b/x", str(tmp_path / "x")]
    assert len({open_storage(place).identity for place in places}) == len(places)
    assert open_storage("memory://x/").identity == open_storage("memory://x").identity
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert open_storage(str(tmp_path / "link")).identity == str((tmp_path / "x").resolve())


def test_every_url_of_this_machine_is_a_folder_of_it(tmp_path: Path) -> None:
    assert isinstance(open_storage(f"local://{tmp_path}"), LocalFolder)
    with pytest.raises(UserError, match="could overwrite the inputs"):
        check_folders(open_storage(f"local://{tmp_path}"), open_storage(str(tmp_path)))


def test_a_file_url_is_a_folder_of_this_machine(tmp_path: Path) -> None:
    folder = open_storage(f"file://{tmp_path}/x")
    assert isinstance(folder, LocalFolder)
    assert folder.path == tmp_path / "x"


@pytest.mark.parametrize(
    ("raised", "advice"),
    [
        (ModuleNotFoundError("No module named 'fsspec'"), r"pip install 'cgan\[remote\]'"),
        (ImportError("Install s3fs\nto access S3"), r"\(Install s3fs\); pip install"),
        (ConnectionRefusedError(111, "Connection refused"), "check the address"),
        (RuntimeError(), r"\(RuntimeError\); check the address"),
    ],
)
def test_a_url_that_cannot_be_opened_is_one_line(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, advice: str
) -> None:
    def fail(url: str, **_: object) -> None:
        raise raised

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(UserError, match=advice) as error:
        RemoteFolder("s3://bucket/x")
    assert str(error.value).startswith("s3://bucket/x: cannot be opened (")
    assert "\n" not in str(error.value)


def test_a_protocol_that_nobody_knows_is_named() -> None:
    with pytest.raises(UserError, match="Protocol not known: nope"):
        open_storage("nope://x")
