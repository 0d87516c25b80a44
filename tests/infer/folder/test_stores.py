"""Folder runs from and to archives, S3 and FTP: what comes out is what a folder of this machine gives."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from fsspec.implementations.ftp import FTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from cgan.errors import UserError
from cgan.files import MARK, OccupiedError, temporary_name
from infer.folder.journal_row import BEGUN, Row
from infer.folder.open_storage import open_storage
from infer.folder.publication import Publication
from infer.folder.remote import RemoteFolder
from infer.folder.shared_journal import open_shared
from infer.folder.storage import Storage
from tests.infer.stores import ftp_server, pack, s3_server

Color = Callable[..., Any]
PHOTOS = 60


@pytest.fixture(scope="module")
def s3() -> Iterator[s3fs.S3FileSystem]:
    """An S3 on the loopback, which fsspec is told of by the environment."""
    with s3_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        settings = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}
        for name, value in {**settings, "DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(f"AWS_{name}", value)
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        files.mkdir("bucket")
        assert files.s3.meta.endpoint_url == endpoint
        yield files
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, gray_photos: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("in")
    gray_photos(folder / "sub", PHOTOS, (30, 20))
    return folder


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where journals of stores go."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "cgan"


@pytest.fixture
def place(request: pytest.FixtureRequest, photos: Path, tmp_path: Path, s3: s3fs.S3FileSystem) -> Iterator[str]:
    """The photos as one kind of store."""
    kind = request.param
    if kind == "ftp":
        with ftp_server(photos) as url:
            yield url
    elif kind == "s3":
        s3.put(f"{photos}/", "bucket/in/", recursive=True)
        yield "s3://bucket/in"
    elif "-in-s3" in kind:
        suffix = kind.removesuffix("-in-s3")
        s3.put_file(str(pack(photos, tmp_path / f"x.{suffix}")), f"bucket/x.{suffix}")
        yield f"{suffix.partition('.')[0]}://::s3://bucket/x.{suffix}"
    else:
        archive = pack(photos, tmp_path / f"x.{kind}")
        yield f"{kind.partition('.')[0]}://sub::file://{archive}"


STORES = ["tar", "tar.gz", "zip", "s3", "ftp", "tar-in-s3", "tar.xz-in-s3", "zip-in-s3"]


@pytest.mark.parametrize("place", STORES, indirect=True)
@pytest.mark.slow
def test_no_photo_is_swapped_or_lost(
    place: str, photos: Path, tmp_path: Path, color: Color, files_in: Callable[[Path], dict[str, bytes]]
) -> None:
    folder = photos / "sub" if "sub::" in place else photos
    color(folder, tmp_path / "right")
    right = files_in(tmp_path / "right")
    del right["report.json"]
    assert len(right) == PHOTOS
    for options in ([], ["--checksum"]):
        ran = color(place, tmp_path / "out", *options)
        assert ran.result.code == 0, ran.result.err
        found = files_in(tmp_path / "out")
        del found["report.json"]
        assert found == right
        shutil.rmtree(tmp_path / "out")


def clear_memory() -> None:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(params=["memory", "s3", "ftp"])
def output(request: pytest.FixtureRequest, tmp_path: Path, s3: s3fs.S3FileSystem) -> Iterator[Storage]:
    """An empty OUTPUT in a store."""
    if request.param == "ftp":
        with ftp_server(tmp_path) as url:
            yield open_storage(f"{url}/out")
    elif request.param == "s3":
        if s3.exists("bucket/out"):
            s3.rm("bucket/out", recursive=True)
        yield open_storage("s3://bucket/out")
    else:
        yield open_storage("memory://out")
        clear_memory()


@pytest.mark.slow
def test_a_store_replaces_only_what_it_is_told_to(output: Storage) -> None:
    output.prepare()
    assert output.status("a/x.png") is None
    output.publish("a/x.png", b"one")
    output.publish("a/x.png", b"one")
    for replaces in ((), {digest(b"other")}):
        with pytest.raises(OccupiedError, match="another file"):
            output.publish("a/x.png", b"two", replaces)
    assert output.fetch("a/x.png") == b"one"
    output.publish("a/x.png", b"two", {digest(b"other"), digest(b"one")})
    assert output.fetch("a/x.png") == b"two"
    output.publish("a/x.png", b"three", None)
    assert output.fetch("a/x.png") == b"three"
    output.publish("a/y.png", b"y", {digest(b"gone")})
    assert [entry.name for entry in output.walk()] == ["a/x.png", "a/y.png"]


@pytest.mark.slow
def test_a_journal_in_a_store_is_that_of_all_machines(
    output: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(output, RemoteFolder)
    output.prepare()
    row = Row("a.gif", "10:1", "", "recipe", "/in", BEGUN, 7, "", "digest")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "first"))
    with closing(open_shared(output)) as journal:
        journal.begin([("a.png", row)])
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "second"))
        with pytest.raises(UserError, match=r"run the command again in (29|30)\d s$"):
            open_shared(output)
        with pytest.raises(OccupiedError):
            output.write_own(".cgan/journal/00000002.jsonl.gz", b"theirs")
    with closing(open_shared(output)) as journal:
        assert dict(journal.rows()) == {"a.png": row}
    assert [entry.name for entry in output.walk()] == []


def test_a_folder_in_the_place_of_an_output_stays(output: Storage) -> None:
    output.prepare()
    output.publish("x.png/inside.png", b"mine")
    with pytest.raises(OSError, match="a directory"):
        output.publish("x.png", b"new")
    assert [entry.name for entry in output.walk()] == ["x.png/inside.png"]


def test_what_appeared_after_the_listing_is_seen(output: Storage) -> None:
    """The listing of `status` is made once, and the file systems have listings of their own."""
    output.prepare()
    assert output.status("x.png") is None
    other = open_storage(output.url) if isinstance(output, RemoteFolder) else output
    other.publish("x.png", b"theirs")
    assert output.status("x.png") is None
    with pytest.raises(OccupiedError):
        output.publish("x.png", b"ours")
    assert other.fetch("x.png") == b"theirs"
    other.publish("y.png", b"known")
    output.publish("y.png", b"ours", {digest(b"known")})
    assert other.fetch("y.png") == b"ours"


@pytest.mark.parametrize("theirs", [b"theirs", b"new"])
@pytest.mark.parametrize(("output", "before"), [("s3", None), ("s3", b"ours"), ("memory", None)], indirect=["output"])
def test_what_appears_between_the_look_and_the_upload_is_not_replaced(
    output: Storage, monkeypatch: pytest.MonkeyPatch, before: bytes | None, theirs: bytes
) -> None:
    assert isinstance(output, RemoteFolder)
    if before:
        output.publish("x.png", before)
    look = Publication._look
    other = open_storage(output.url)

    def slow(publication: Publication) -> Any:
        found = look(publication)
        monkeypatch.setattr(Publication, "_look", look)
        other.publish("x.png", theirs, None)
        return found

    monkeypatch.setattr(Publication, "_look", slow)
    if theirs == b"new":
        output.publish("x.png", b"new", {digest(b"ours")})
    else:
        with pytest.raises(OccupiedError):
            output.publish("x.png", b"new", {digest(b"ours")})
    assert output.fetch("x.png") == theirs


def test_an_upload_whose_answer_was_lost_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = MemoryFileSystem.pipe_file

    def lose(self: Any, path: str, *arguments: Any, **options: Any) -> None:
        pipe(self, path, *arguments, **options)
        raise TimeoutError("no answer")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lose)
    folder = open_storage("memory://out")
    folder.publish("x.png", b"ours")
    assert folder.fetch("x.png") == b"ours"
    clear_memory()


def test_only_files_of_ended_processes_are_removed(output: Storage) -> None:
    assert isinstance(output, RemoteFolder)
    marks = {"1" * 32}
    left = [temporary_name().replace(MARK, mark) for mark in ("1" * 32, "2" * 32, MARK)]
    names = [*left, f"sub/{left[0]}", "mine.tmp", ".cgan-mine.tmp"]
    for name in names:
        output.publish(name, b"x")
    output.prepare(marks)
    assert {entry.name for entry in output.walk()} == {*names[1:3], *names[4:]}


def test_names_in_a_store_stay_as_they_are(s3: s3fs.S3FileSystem) -> None:
    names = ["a/b.png", "a//b.png", "/abs.png", "../up.png", "a/../b.png", "./dot.png", "q?x=1.png", "h#1.png"]
    for name in [*names, "v.png?versionId=1.png"]:
        s3.call_s3("put_object", Bucket="bucket", Key=f"odd/{name}", Body=name.encode())
    folder = open_storage("s3://bucket/odd")
    found = {entry.name: entry.problem for entry in folder.walk()}
    assert found.pop("v.png?versionId=1.png") == "its name cannot be told from a version of another object"
    assert found == dict.fromkeys(names)
    for name in names[1:6]:
        with pytest.raises(OSError, match="leads out"):
            folder.fetch(name)
        with pytest.raises(OSError, match="leads out"):
            folder.publish(name, b"x")
    for name in (names[0], *names[6:]):
        assert folder.fetch(name) == name.encode()


def test_names_in_memory_stay_as_they_are() -> None:
    names = ["a/b.png", "a//b.png", "/abs.png", "../up.png"]
    for root in ("in", ""):
        for name in names:
            MemoryFileSystem().store[f"/{root}/{name}" if root else f"/{name}"] = MemoryFileSystem().open(
                "/tmp", "wb", data=b"x"
            )
        MemoryFileSystem.store.pop("/tmp")
        assert {entry.name for entry in open_storage(f"memory://{root}").walk()} == set(names)
        MemoryFileSystem.store.clear()


def test_a_folder_that_an_ftp_server_does_not_list_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyftpdlib.filesystems import AbstractedFS

    for name in ("open/a.png", "closed/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    listdir = AbstractedFS.listdir

    def refuse(self: Any, path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listdir(self, path)

    monkeypatch.setattr(AbstractedFS, "listdir", refuse)
    with ftp_server(tmp_path) as url:
        found = list(open_storage(url).walk())
        assert [(entry.name, entry.unreadable) for entry in found] == [("closed", True), ("open/a.png", False)]
        with pytest.raises(OSError, match="closed: folder cannot be read"):
            open_storage(url).status("closed/b.png")


def test_links_on_an_ftp_server_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"x")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    with ftp_server(tmp_path) as url:
        found = {entry.name: entry.problem for entry in open_storage(f"{url}/in").walk()}
    again = "another name of a folder that is searched already"
    assert found == {"a.png": None, "up/in/a.png": None, "up/in/up": again}


def test_a_connection_that_failed_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 2**20)
    with ftp_server(tmp_path) as url:
        folder = open_storage(url)
        join = bytes.join

        def breaks(self: Any, path: str, **_: Any) -> bytes:
            self.ftp.voidcmd("TYPE I")
            self.ftp.ntransfercmd("RETR a")[0].close()  # its answer stays unread
            raise TimeoutError("timed out")

        with monkeypatch.context() as patch:
            patch.setattr(FTPFileSystem, "cat_file", breaks)
            with pytest.raises(TimeoutError):
                folder.fetch("a")
        content = folder.fetch("b")
        assert not isinstance(content, Path)
        assert join(b"", [content]) == b"b" * 2**20


class Overlapping(MemoryFileSystem):  # type: ignore[misc]
    """A store behind overlapping:// that notices two threads at once."""

    protocol = "overlapping"
    inside = 0
    most = 0

    def cat_file(self, path: str, *arguments: Any, **options: Any) -> bytes:
        cls = type(self)
        cls.inside += 1
        cls.most = max(cls.most, cls.inside)
        content: bytes = super().cat_file(path, *arguments, **options)
        threading.Event().wait(0.002)
        cls.inside -= 1
        return content


def test_a_store_that_is_not_known_serves_one_thread_at_a_time() -> None:
    fsspec.register_implementation("overlapping", Overlapping, clobber=True)
    first, second = (open_storage(f"overlapping://{name}") for name in "ab")
    for folder in (first, second):
        folder.publish("x", b"x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: (first, second)[number % 2].fetch("x"), range(40)))
    assert Overlapping.most == 1
    MemoryFileSystem.store.clear()


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_refused_and_not_made(s3: s3fs.S3FileSystem, photos: Path, color: Color) -> None:
    assert "bucket does not exist" in color(photos, "s3://mistyped/out").result.error(2)
    s3.invalidate_cache()
    assert "mistyped" not in s3.ls("")
