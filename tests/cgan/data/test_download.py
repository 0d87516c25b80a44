"""The word flowers102: torchvision's download from a server on this machine, whole or not at all."""

import errno
import hashlib
import shutil
import struct
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cgan.dataset import FLOWERS102_URL, prepare, scan, source_folder
from torchvision.datasets import Flowers102

from cgan import dataset
from cgan.errors import GateError, UserError

FILES = ("102flowers.tgz", "imagelabels.mat", "setid.mat")
COUNT = 6


class Server(ThreadingHTTPServer):
    """What the archive's server does; each request is answered slowly enough for two clients to overlap."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.asked: list[str] = []
        self.cut_after: int | None = None
        """Bytes of a file after which the connection breaks."""


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder, without a log."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path[1:])
        time.sleep(0.05)
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        assert isinstance(self.server, Server)
        outputfile.write(source.read(self.server.cut_after))

    def log_message(self, *_: Any) -> None:
        pass


def matrix(**columns: list[int]) -> bytes:
    """A MATLAB level 4 file of int32 rows, so that scipy, where it is installed, can read the labels."""
    parts = [
        struct.pack("<5i", 20, 1, len(values), 0, len(name) + 1)
        + name.encode()
        + b"\0"
        + struct.pack(f"<{len(values)}i", *values)
        for name, values in columns.items()
    ]
    return b"".join(parts)


@pytest.fixture
def archive(tmp_path: Path, make_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the three published files, but of 6 photos."""
    folder = tmp_path / "published"
    folder.mkdir()
    photos = sorted(make_photos(tmp_path / "originals", 2 * COUNT).rglob("*.jpg"))
    with tarfile.open(folder / FILES[0], "w:gz") as tar:
        for i, path in enumerate(photos, 1):
            tar.add(path, f"jpg/image_{i:05d}.jpg")
    (folder / FILES[1]).write_bytes(matrix(labels=[1, 2, 1, 2, 1, 2]))
    (folder / FILES[2]).write_bytes(matrix(trnid=[1, 2], valid=[3, 4], tstid=[5, 6]))
    digests = [hashlib.md5((folder / name).read_bytes()).hexdigest() for name in FILES]
    published = dict(zip(("image", "label", "setid"), zip(FILES, digests, strict=True), strict=True))
    monkeypatch.setattr(Flowers102, "_file_dict", published)
    return folder


@pytest.fixture
def server(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(archive) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(Flowers102, "_download_url_prefix", f"http://127.0.0.1:{running.server_port}/")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def no_server(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(archive) as closed:
        monkeypatch.setattr(Flowers102, "_download_url_prefix", f"http://127.0.0.1:{closed.server_port}/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def check_whole(folder: Path, tmp_path: Path) -> None:
    """All photos of all of torchvision's parts, with the published bytes."""
    names = [f"image_{i:05d}.jpg" for i in range(1, COUNT + 1)]
    assert [path.name for path in scan(folder)] == names
    originals = sorted((tmp_path / "originals").rglob("*.jpg"))
    assert [(folder / name).read_bytes() for name in names] == [path.read_bytes() for path in originals]


def break_extraction(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The fourth photo is half written when `error` strikes."""
    real, calls = tarfile.TarFile.makefile, []

    def makefile(self: tarfile.TarFile, info: tarfile.TarInfo, path: str) -> None:
        calls.append(path)
        real(self, info, path)  # type: ignore[attr-defined]
        if len(calls) == 4:
            Path(path).write_bytes(Path(path).read_bytes()[:100])
            raise error

    monkeypatch.setattr(tarfile.TarFile, "makefile", makefile)


def put_by_hand(archive: Path, photo_cache: Path) -> Path:
    folder = photo_cache / "flowers102" / "flowers-102"
    folder.mkdir(parents=True)
    for name in FILES:
        shutil.copy(archive / name, folder)
    return folder


@pytest.mark.parametrize("data", ["./flowers102", "flowers102/", "Flowers102", "photos/flowers102", "/flowers102", "."])
def test_every_other_word_is_a_path(data: str, photo_cache: Path) -> None:
    assert source_folder(data) == Path(data)
    assert not list(photo_cache.iterdir())


def test_all_photos_are_downloaded_once(
    server: Server,
    tmp_path: Path,
    photo_cache: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = source_folder("flowers102")
    assert folder.is_relative_to(photo_cache)
    check_whole(folder, tmp_path)
    assert prepare(folder, 32).names == tuple(path.name for path in scan(folder))
    assert capfd.readouterr().out == ""
    server.asked.clear()
    monkeypatch.setattr(dataset, "_download_flowers102", None)  # nor is anything written the second time
    assert source_folder("flowers102") == folder
    assert not server.asked


@pytest.mark.usefixtures("no_server")
def test_without_a_network_the_error_says_what_to_do(photo_cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        source_folder("flowers102")
    message = str(caught.value)
    assert "Connection refused" in message
    assert f"into {photo_cache / 'flowers102' / 'flowers-102'} (" in message
    assert all(name in message for name in FILES) and FLOWERS102_URL in message
    assert "give a folder of photos" in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_a_file_that_the_server_lacks_is_named_by_its_status(server: Server, archive: Path) -> None:
    (archive / FILES[2]).unlink()
    with pytest.raises(UserError, match="404"):
        source_folder("flowers102")


@pytest.mark.usefixtures("no_server")
def test_files_put_there_by_hand_need_no_network(archive: Path, tmp_path: Path, photo_cache: Path) -> None:
    folder = put_by_hand(archive, photo_cache)
    assert source_folder("flowers102") == folder / "jpg"
    check_whole(folder / "jpg", tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_other_bytes_than_the_published_are_refused_then_replaced(
    server: Server, archive: Path, tmp_path: Path, name: str
) -> None:
    published = (archive / name).read_bytes()
    (archive / name).write_bytes(published[:-9] + b"\0" * 9)
    for _ in range(2):
        with pytest.raises(UserError, match=r"not the published one: File not found or corrupted"):
            source_folder("flowers102")
    (archive / name).write_bytes(published)
    check_whole(source_folder("flowers102"), tmp_path)


def test_a_broken_connection_is_an_error_then_made_good(server: Server, tmp_path: Path) -> None:
    server.cut_after = 1000
    with pytest.raises(UserError, match="flowers102 cannot be downloaded"):
        source_folder("flowers102")
    server.cut_after = None
    check_whole(source_folder("flowers102"), tmp_path)


@pytest.mark.parametrize("by_hand", [True, False])
def test_half_unpacked_photos_are_not_taken_for_whole(
    server: Server, archive: Path, tmp_path: Path, photo_cache: Path, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    if by_hand:
        put_by_hand(archive, photo_cache)  # then torchvision itself would take the half for whole
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        break_extraction(patch, KeyboardInterrupt())
        source_folder("flowers102")
    left = list((photo_cache / "flowers102" / "flowers-102" / "jpg").iterdir())
    assert len(left) == 4
    check_whole(source_folder("flowers102"), tmp_path)


def test_deleted_photos_come_back(server: Server, tmp_path: Path) -> None:
    shutil.rmtree(source_folder("flowers102"))
    check_whole(source_folder("flowers102"), tmp_path)


@pytest.mark.usefixtures("server")
def test_a_full_disk_is_no_fault_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    break_extraction(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(GateError, match=r"No space left on device\)"):
        source_folder("flowers102")


@pytest.mark.usefixtures("server")
def test_a_cache_folder_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CGAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="Not a directory"):
        source_folder("flowers102")


def test_two_at_once_download_once(server: Server, tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(source_folder("flowers102"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1]
    check_whole(found[0], tmp_path)
    assert server.asked.count(FILES[1]) == 2  # once to follow redirections, once for the bytes


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(UserError, match=r"needs the package torchvision.*pip install 'cgan\[train\]'"):
        source_folder("flowers102")
