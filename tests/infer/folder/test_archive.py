"""Archives as INPUT: every entry under its own name, whole, or named with the reason."""

import gzip
import io
import lzma
import random
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infer.folder.archive import ArchiveFolder
from infer.folder.open_storage import open_storage
from infer.folder.remote import RemoteFolder
from infer.folder.storage import Entry, Status, Storage
from tests.infer.stores import write_archive

Color = Callable[..., Any]
ENTRIES = [(f"sub/{number:03d}.png", bytes([number]) * (1000 + number)) for number in range(60)]
SUFFIXES = ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"]


def opened(archive: Path, folder: str = "") -> Storage:
    return open_storage(f"{archive.name.split('.')[1]}://{folder}::file://{archive}")


def tar_of(archive: Path, *infos: tarfile.TarInfo) -> Path:
    """A tar archive; regular files contain their names."""
    with tarfile.open(archive, "w") as tar:
        for info in infos:
            if info.isreg():
                info.size = len(info.name)
            tar.addfile(info, io.BytesIO(info.name.encode()))
    return archive


def info_of(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def problems(folder: Storage) -> dict[str, str | None]:
    return {entry.name: entry.problem for entry in folder.walk()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_threads_get_the_content_of_the_name_that_they_ask_for(tmp_path: Path, suffix: str) -> None:
    folder = opened(write_archive(tmp_path / f"x.{suffix}", ENTRIES))
    assert {e.name: e.status and e.status.size for e in folder.walk()} == {n: len(c) for n, c in ENTRIES}
    names = [name for name, _ in reversed(ENTRIES)] * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(folder.fetch, names)) == [dict(ENTRIES)[name] for name in names]
    assert threading.active_count() < 8


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "zip"])
def test_a_folder_or_a_single_photo_of_an_archive(tmp_path: Path, suffix: str) -> None:
    archive = write_archive(tmp_path / f"x.{suffix}", [("a/b.png", b"1"), ("ab/c.png", b"2"), ("d.png", b"3")])
    for name, expected in (("a/", {"b.png": b"1"}), ("d.png", {"d.png": b"3"})):
        folder = opened(archive, name)
        assert {entry.name: folder.fetch(entry.name) for entry in folder.walk()} == expected
    assert list(opened(archive, "none").walk()) == []


def test_a_chain_can_begin_with_the_protocol_alone(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "x.tar", ENTRIES)
    folder = RemoteFolder(f"tar::file://{archive}")
    assert isinstance(folder, ArchiveFolder)
    assert folder.fetch(ENTRIES[0][0]) == ENTRIES[0][1]
    assert folder.identity == opened(archive).identity


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_two_entries_of_one_name_the_last_counts_and_the_first_is_noted(tmp_path: Path, suffix: str) -> None:
    folder = opened(write_archive(tmp_path / f"x.{suffix}", [("./a.png", b"first"), ("b.png", b""), ("a.png", b"2nd")]))
    found = list(folder.walk())
    assert [entry.name for entry in found] == ["a.png", "a.png", "b.png"]
    (noted,) = [entry for entry in found if entry.problem]
    assert noted == Entry("a.png", None, "an earlier entry of this name in the archive, of which the last one counts")
    assert folder.fetch("a.png") == b"2nd"


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_names_are_those_of_the_archive(tmp_path: Path, suffix: str) -> None:
    names = ["../up.png", "/abs.png", "a/../b.png", "a//b.png", "a/b.png", "./plain.png", "C:/x.png"]
    folder = opened(write_archive(tmp_path / f"x.{suffix}", [(name, name.encode()) for name in names]))
    assert {entry.name for entry in folder.walk()} == {*names[:5], "plain.png", "C:/x.png"}
    for name in ("../up.png", "/abs.png", "a/../b.png", "a//b.png"):
        with pytest.raises(OSError, match="leads out"):
            folder.fetch(name)
    assert folder.fetch("a/b.png") == b"a/b.png"


def test_links_in_a_tar_lead_to_files_in_it(tmp_path: Path) -> None:
    archive = tar_of(
        tmp_path / "x.tar",
        info_of("./d", tarfile.DIRTYPE),
        info_of("./d/old.png"),
        info_of("hard.png", tarfile.LNKTYPE, "./d/old.png"),
        info_of("d/soft.png", tarfile.SYMTYPE, "../d/old.png"),
        info_of("again.png", tarfile.SYMTYPE, "d/soft.png"),
        info_of("out.png", tarfile.SYMTYPE, "../x.png"),
        info_of("later.png", tarfile.LNKTYPE, "z.png"),
        info_of("loop1.png", tarfile.SYMTYPE, "loop2.png"),
        info_of("loop2.png", tarfile.SYMTYPE, "loop1.png"),
        info_of("folder.png", tarfile.SYMTYPE, "d"),
        info_of("fifo.png", tarfile.FIFOTYPE),
        info_of("z.png"),
    )
    folder = opened(archive)
    nowhere = "link leads nowhere in the archive"
    assert problems(folder) == {
        **dict.fromkeys(["d/old.png", "hard.png", "d/soft.png", "again.png", "z.png"]),
        **dict.fromkeys(["out.png", "later.png"], nowhere),
        **dict.fromkeys(["loop1.png", "loop2.png"], "link leads to itself"),
        "folder.png": "link to a folder, not followed",
        "fifo.png": "not a regular file",
    }
    for name in ("d/old.png", "hard.png", "d/soft.png", "again.png"):
        assert folder.fetch(name) == b"./d/old.png"
    with pytest.raises(FileNotFoundError):
        folder.fetch("fifo.png")


def test_a_link_in_a_zip_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "b.png")
    assert problems(opened(tmp_path / "x.zip")) == {"a.png": "a link, not followed"}


def test_a_zip_entry_with_another_content_is_another_version(tmp_path: Path) -> None:
    def status(content: bytes) -> Status | None:
        (entry,) = opened(write_archive(tmp_path / "x.zip", [("a.png", content)])).walk()
        return entry.status

    assert status(b"one") != status(b"two")


@pytest.mark.parametrize("cut", [1000, 1300, 3072, 512])
def test_what_a_cut_off_tar_lost_is_not_passed_over(tmp_path: Path, cut: int) -> None:
    """In content, after content, at the end of an entry, and after a header."""
    archive = write_archive(tmp_path / "x.tar", [(f"{name}.png", name.encode() * 700) for name in "abcd"])
    archive.write_bytes(archive.read_bytes()[:cut])
    *entries, last = sorted(opened(archive).walk(), key=lambda entry: entry.unreadable)
    assert last.unreadable
    assert "cut off" in str(last.problem)
    assert last.name == f"after {entries[-1].name}"
    if cut in (1000, 512):
        with pytest.raises(OSError, match="unexpected end of data"):
            opened(archive).fetch(entries[-1].name)


def test_a_damaged_header_in_a_tar_is_not_its_end(tmp_path: Path, color: Color) -> None:
    archive = write_archive(tmp_path / "x.tar", [(f"{name}.png", name.encode() * 700) for name in "abcd"])
    content = bytearray(archive.read_bytes())
    content[2 * 1536 + 5] ^= 1
    archive.write_bytes(content)
    ran = color(f"tar://::file://{archive}", tmp_path / "out")
    assert ran.result.code == 1
    assert "after b.png" in ran.report["failures"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_no_archive_is_one_line(tmp_path: Path, suffix: str, color: Color) -> None:
    content = write_archive(tmp_path / f"x.{suffix}", ENTRIES).read_bytes()
    for damaged in (b"", b"no archive" * 100, content[: len(content) // 2 if suffix == "zip" else 40]):
        (tmp_path / f"x.{suffix}").write_bytes(damaged)
        place = f"{suffix[:3]}://::file://{tmp_path}/x.{suffix}"
        error = color(place, tmp_path / "out").result.error(2)
        assert error.startswith(f"error: {place}: cannot be searched (")
        assert not (tmp_path / "out").exists()


SOME = [(f"{name}.png", name.encode() * 700) for name in "abcd"]


def failed_after(archive: Path) -> tuple[list[str], str, str]:
    """Photos that are found, and where and why no more are."""
    *entries, last = sorted(opened(archive).walk(), key=lambda entry: entry.unreadable)
    assert last.unreadable
    return [entry.name for entry in entries if not entry.problem], last.name, str(last.problem)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize(("first", "count"), [(2 * 1536, 1), (2 * 1536, 3)])
def test_zeros_before_other_entries_are_not_the_end(tmp_path: Path, suffix: str, first: int, count: int) -> None:
    content = bytearray(write_archive(tmp_path / "x.tar", SOME).read_bytes())
    content[first : first + count * 512] = bytes(count * 512)
    archive = tmp_path / f"z.{suffix}"
    packs: dict[str, Callable[[bytes], bytes]] = {"tar": bytes, "tar.gz": gzip.compress, "tar.xz": lzma.compress}
    archive.write_bytes(packs[suffix](bytes(content)))
    names, where, why = failed_after(archive)
    assert (names, where) == (["a.png", "b.png"], "after b.png")
    assert "damaged or cut off" in why or "begins with d.png" in why


@pytest.mark.parametrize("suffix", SUFFIXES[:4])
def test_an_archive_behind_the_end_of_another_is_named(tmp_path: Path, suffix: str, color: Color) -> None:
    first, second = (
        write_archive(tmp_path / f"{name}.{suffix}", entries)
        for name, entries in zip("12", (SOME[:2], SOME[2:]), strict=True)
    )
    first.write_bytes(first.read_bytes() + second.read_bytes())
    names, where, why = failed_after(first)
    assert (names, where) == (["a.png", "b.png"], "after b.png")
    assert "another one that begins with c.png" in why
    assert color(f"tar://::file://{first}", tmp_path / "out").result.code == 1


@pytest.mark.parametrize(("keep", "whole"), [(4 * 1536, False), (4 * 1536 + 512, False), (4 * 1536 + 1024, True)])
def test_the_end_of_a_tar_is_two_blocks_of_zeros(tmp_path: Path, keep: int, whole: bool) -> None:
    archive = write_archive(tmp_path / "x.tar", SOME)
    archive.write_bytes(archive.read_bytes()[:keep])
    found = [entry.name for entry in opened(archive).walk()]
    assert found == ["a.png", "after d.png", "b.png", "c.png", "d.png"] if not whole else "after" not in str(found)


@pytest.mark.parametrize("suffix", SUFFIXES[1:4])
@pytest.mark.parametrize("damage", ["cut", "changed"])
@pytest.mark.slow
def test_what_a_damaged_compressed_tar_still_has_is_found(tmp_path: Path, suffix: str, damage: str) -> None:
    noise = random.Random(0)
    entries = [(f"{number:02d}.png", noise.randbytes(150_000)) for number in range(20)]
    archive = write_archive(tmp_path / f"x.{suffix}", entries)
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    if damage == "cut":
        del content[middle:]
    elif suffix == "tar.gz":
        content[-8] ^= 1  # its checksum, which comes last
    else:
        content[middle] ^= 1
    archive.write_bytes(content)
    folder = opened(archive)
    names, where, why = failed_after(archive)
    assert where == f"after {names[-1]}"
    assert "the archive is damaged or cut off here" in why
    if damage == "cut":
        assert "end-of-stream" in why
    whole = names if where == "after 19.png" else names[:-1]
    assert len(whole) > 3
    assert all(folder.fetch(name) == dict(entries)[name] for name in whole)


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"\x28\xb5\x2f\xfd", "compressed by zstd"), (b"\x04\x22\x4d\x18", "by lz4"), (b"PK\x03\x04", "begin with zip")],
)
def test_what_is_not_read_is_named(tmp_path: Path, start: bytes, kind: str, color: Color) -> None:
    (tmp_path / "x.tar.zst").write_bytes(start + bytes(1000))
    error = color(f"tar://::file://{tmp_path}/x.tar.zst", tmp_path / "out").result.error(2)
    assert kind in error
    assert "address" not in error


def test_damaged_content_fails_its_photo(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "x.zip", [("a.png", b"a" * 50), ("b.png", b"b" * 50)])
    content = bytearray(archive.read_bytes())
    content[content.index(b"a.png") + 6] ^= 255
    archive.write_bytes(content)
    folder = opened(archive)
    with pytest.raises(OSError, match=r"error|Bad CRC"):
        folder.fetch("a.png")
    assert folder.fetch("b.png") == b"b" * 50


def test_an_archive_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    folder = opened(write_archive(tmp_path / "x.tar", [("a.png", b"one")]))
    assert [entry.name for entry in folder.walk()] == ["a.png"]
    write_archive(tmp_path / "x.tar", [("b.png", b"another"), ("a.png", b"two")])
    assert [entry.name for entry in folder.walk()] == ["a.png", "b.png"]
    assert folder.fetch("a.png") == b"two"


def test_a_compressed_archive_that_has_no_room_is_one_line(
    tmp_path: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    archive = write_archive(tmp_path / "x.tar.gz", ENTRIES)
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    assert "set TMPDIR to another folder" in color(f"tar://::file://{archive}", tmp_path / "out").result.error(1)


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_an_archive_is_no_output(
    tmp_path: Path, suffix: str, color: Color, gray_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    archive = write_archive(tmp_path / f"x.{suffix}", ENTRIES[:1])
    before = archive.read_bytes()
    place = f"{suffix}://::file://{archive}"
    error = color(gray_photos(tmp_path / "in"), place).result.error(2)
    assert error.startswith(f"error: {place}: found an archive, expected a folder for the outputs")
    assert archive.read_bytes() == before


@pytest.mark.parametrize("place", ["tar://x.tar", "zip:///x.zip", "tar://"])
def test_a_url_without_an_archive_says_how_to_write_it(tmp_path: Path, place: str, color: Color) -> None:
    assert "expected FOLDER::ARCHIVE after" in color(place, tmp_path / "out").result.error(2)
