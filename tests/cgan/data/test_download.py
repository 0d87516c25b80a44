"""The data set flowers102: existing photos, and torchvision's download from a server on this machine."""

import errno
import hashlib
import shutil
import subprocess
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
from torchvision.datasets import Flowers102

from cgan.data import download
from cgan.data.download import planned_folder, source_folder
from cgan.data.prepared import prepare
from cgan.data.scan import scan
from cgan.errors import GateError, UserError

ARCHIVE = "102flowers.tgz"
COUNT = 6


class Server(ThreadingHTTPServer):
    """Settings of the archive's server; its answers are slow enough for two clients to overlap."""

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


@pytest.fixture
def archive(tmp_path: Path, make_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published archive, but of 6 photos."""
    path = tmp_path / "published" / ARCHIVE
    path.parent.mkdir()
    photos = sorted(make_photos(tmp_path / "originals", 2 * COUNT).rglob("*.jpg"))
    with tarfile.open(path, "w:gz") as tar:
        for i, photo in enumerate(photos, 1):
            tar.add(photo, f"jpg/image_{i:05d}.jpg")
    monkeypatch.setattr(download, "ARCHIVE_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(download, "FLOWERS102_PHOTOS", COUNT)
    return path


@pytest.fixture
def server(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(archive.parent) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(download, "ARCHIVE_URL", f"http://127.0.0.1:{running.server_port}/{ARCHIVE}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def no_server(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(archive.parent) as closed:
        monkeypatch.setattr(download, "ARCHIVE_URL", f"http://127.0.0.1:{closed.server_port}/{ARCHIVE}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def base(photo_cache: Path) -> Path:
    """torchvision's folder in the cache."""
    folder = photo_cache / "flowers102" / "flowers-102"
    folder.mkdir(parents=True)
    return folder


def unpack(archive: Path, base: Path) -> Path:
    """The photos as torchvision leaves them."""
    with tarfile.open(archive) as tar:
        tar.extractall(base, filter="data")
    return base / "jpg"


def check_whole(folder: Path, tmp_path: Path) -> None:
    """All photos of all of torchvision's parts, with the published bytes."""
    names = [f"image_{i:05d}.jpg" for i in range(1, COUNT + 1)]
    assert [path.name for path in scan(folder)] == names
    originals = sorted((tmp_path / "originals").rglob("*.jpg"))
    assert [(folder / name).read_bytes() for name in names] == [path.read_bytes() for path in originals]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def break_extraction(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Raise `error` when the fourth photo is half written."""
    real = tarfile.TarFile.makefile
    calls: list[str] = []

    def makefile(self: tarfile.TarFile, info: tarfile.TarInfo, path: str) -> None:
        calls.append(path)
        real(self, info, path)
        if len(calls) == 4:
            Path(path).write_bytes(Path(path).read_bytes()[:100])
            raise error

    monkeypatch.setattr(tarfile.TarFile, "makefile", makefile)


@pytest.mark.parametrize("data", ["./flowers102", "flowers102/", "Flowers102", "photos/flowers102", "/flowers102", "."])
def test_every_other_word_is_a_path(data: str, photo_cache: Path) -> None:
    assert source_folder(data) == Path(data)
    assert not list(photo_cache.iterdir())


def test_the_address_and_the_digest_are_torchvisions() -> None:
    assert Flowers102._download_url_prefix + Flowers102._file_dict["image"][0] == download.ARCHIVE_URL
    assert Flowers102._file_dict["image"][1] == download.ARCHIVE_MD5


# photos that are there


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("linked", [False, True])
def test_photos_of_torchvision_are_used_as_they_are(
    archive: Path, base: Path, tmp_path: Path, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = unpack(archive, tmp_path / "disk" if linked else base)
    if linked:
        (base / "jpg").symlink_to(photos)
    before = contents(tmp_path), contents(base)
    monkeypatch.setitem(sys.modules, "torchvision.datasets.utils", None)
    assert planned_folder("flowers102") == (base / "jpg", COUNT)
    assert source_folder("flowers102") == base / "jpg"
    check_whole(base / "jpg", tmp_path)
    assert (contents(tmp_path), contents(base)) == before


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("left", [0, 1, COUNT - 1, COUNT + 1])
def test_another_number_of_photos_is_named_and_left_alone(archive: Path, base: Path, left: int) -> None:
    photos = unpack(archive, base)
    shutil.copy(photos / "image_00001.jpg", photos / "image_00007.jpg")
    for path in sorted(photos.iterdir())[left:]:
        path.unlink()
    before = contents(base)
    for call in (source_folder, planned_folder):
        with pytest.raises(UserError, match=rf"jpg: found {left} photos?, expected the 6 .* move this folder away"):
            call("flowers102")
    assert photos.is_dir() and contents(base) == before


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_what_is_no_folder_is_left_alone(base: Path, kind: str, tmp_path: Path) -> None:
    if kind == "file":
        (base / "jpg").write_text("mine")
    else:
        (base / "jpg").symlink_to(tmp_path / "not mounted")
    with pytest.raises(UserError, match="found 0 photos"):
        source_folder("flowers102")
    assert [path.name for path in base.iterdir()] == ["jpg"]


@pytest.mark.parametrize("below", ["", "flowers-102", "flowers-102/jpg"])
def test_a_folder_of_torchvision_elsewhere_can_be_named(archive: Path, tmp_path: Path, below: str) -> None:
    unpack(archive, tmp_path / "root" / "flowers-102")
    (tmp_path / "root" / "flowers-102" / "setid.mat").touch()
    folder = tmp_path / "root" / below
    assert planned_folder(str(folder)) == (folder, COUNT)
    assert [path.name for path in scan(source_folder(str(folder)))] == [f"image_{i:05d}.jpg" for i in range(1, 7)]


# download


def test_all_photos_are_downloaded_once(
    server: Server,
    tmp_path: Path,
    photo_cache: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = planned_folder("flowers102")
    assert not list(photo_cache.iterdir())
    folder = source_folder("flowers102")
    assert planned == (folder, None)
    assert folder.is_relative_to(photo_cache)
    assert sorted(path.name for path in folder.parent.iterdir()) == [".cgan-marks", ARCHIVE, "jpg"]
    check_whole(folder, tmp_path)
    assert prepare(folder, 32).names == tuple(path.name for path in scan(folder))
    assert capfd.readouterr().out == ""
    server.asked.clear()
    monkeypatch.setattr(download, "_make", None)  # nor is anything written the second time
    assert source_folder("flowers102") == folder
    assert not server.asked


@pytest.mark.usefixtures("no_server")
def test_without_a_network_the_error_says_what_to_do(photo_cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        source_folder("flowers102")
    message = str(caught.value)
    assert "Connection refused" in message
    assert f"into {photo_cache / 'flowers102' / 'flowers-102'} (" in message
    assert f"put {download.ARCHIVE_URL} there by hand" in message
    assert "give a folder of photos" in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_a_file_that_the_server_lacks_is_named_by_its_status(server: Server, archive: Path) -> None:
    archive.unlink()
    with pytest.raises(UserError, match="404"):
        source_folder("flowers102")


@pytest.mark.usefixtures("no_server")
def test_an_archive_put_there_by_hand_needs_no_network(
    archive: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(archive, base)
    monkeypatch.setitem(sys.modules, "torchvision.datasets.utils", None)
    assert source_folder("flowers102") == base / "jpg"
    check_whole(base / "jpg", tmp_path)
    assert (base / ARCHIVE).read_bytes() == archive.read_bytes()


@pytest.mark.usefixtures("server")
def test_a_damaged_archive_is_named_with_both_digests_and_left_alone(archive: Path, base: Path) -> None:
    damaged = archive.read_bytes()[:-9]
    (base / ARCHIVE).write_bytes(damaged)
    found = hashlib.md5(damaged).hexdigest()
    expected = rf"{ARCHIVE}: found the MD5 digest {found}, expected {download.ARCHIVE_MD5}; move it away"
    with pytest.raises(UserError, match=expected):
        source_folder("flowers102")
    assert (base / ARCHIVE).read_bytes() == damaged
    assert not (base / "jpg").exists()


def test_other_bytes_than_the_published_are_refused_then_downloaded_again(
    server: Server, archive: Path, tmp_path: Path, base: Path
) -> None:
    published = archive.read_bytes()
    archive.write_bytes(published[:-9] + b"\0" * 9)
    with pytest.raises(UserError, match=r"102flowers\.tgz: found the MD5 digest .* try again"):
        source_folder("flowers102")
    assert [path.name for path in base.iterdir()] == [".cgan-marks"]
    archive.write_bytes(published)
    check_whole(source_folder("flowers102"), tmp_path)


def test_a_broken_connection_is_an_error_then_made_good(server: Server, tmp_path: Path) -> None:
    server.cut_after = 1000
    with pytest.raises(UserError, match=r"found the MD5 digest|cannot be downloaded"):
        source_folder("flowers102")
    server.cut_after = None
    check_whole(source_folder("flowers102"), tmp_path)


@pytest.mark.usefixtures("server")
def test_half_unpacked_photos_are_not_taken_for_whole(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        break_extraction(patch, KeyboardInterrupt())
        source_folder("flowers102")
    assert sorted(path.name for path in base.iterdir()) == [".cgan-marks", ARCHIVE]
    check_whole(source_folder("flowers102"), tmp_path)


KILLED = """
import os, sys, tarfile
from cgan.data import download

download.ARCHIVE_MD5, download.FLOWERS102_PHOTOS = sys.argv[1], 6
makefile, calls = tarfile.TarFile.makefile, []

def die(self, info, path):
    makefile(self, info, path)
    calls.append(path)
    if len(calls) == 4:
        os.kill(os.getpid(), 9)

tarfile.TarFile.makefile = die
download.source_folder("flowers102")
"""


@pytest.mark.usefixtures("no_server")
def test_what_a_kill_left_is_removed_and_nothing_of_others(archive: Path, base: Path, tmp_path: Path) -> None:
    shutil.copy(archive, base)
    killed = subprocess.run([sys.executable, "-c", KILLED, download.ARCHIVE_MD5], check=False)
    assert killed.returncode == -9
    (left,) = base.glob(".cgan-*.unpacked")
    assert len(scan(left)) == 4
    mine = base / f".cgan-{'0' * 32}.unpacked" / "photo.jpg"
    mine.parent.mkdir()
    (base / ".cgan-mine.tmp").write_text("mine")
    mine.write_text("mine")
    check_whole(source_folder("flowers102"), tmp_path)
    assert not left.exists()
    assert mine.read_text() == (base / ".cgan-mine.tmp").read_text() == "mine"


def test_photos_that_were_moved_away_come_back(server: Server, tmp_path: Path) -> None:
    source_folder("flowers102").rename(tmp_path / "away")
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
    assert server.asked.count(ARCHIVE) == 2  # once to follow redirections, once for the bytes


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets.utils", None)
    with pytest.raises(UserError, match=r"needs the package torchvision.*pip install 'cgan\[train\]'"):
        source_folder("flowers102")
