"""The cache of prepared photos: hits and misses, content, memory, damage."""

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgan.data import prepared
from cgan.data.prepared import prepare
from cgan.data.scan import scan
from cgan.errors import GateError, UserError
from cgan.files import atomic_path
from cgan.metrics.pictures import NEAR_GRAY, colorfulness
from cgan.npy import npy_header
from cgan.user_folders import cache_folder

MakePhotos = Callable[..., Path]


@pytest.fixture
def photos(tmp_path: Path, make_photos: MakePhotos) -> Path:
    return make_photos(tmp_path / "photos", 6)


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a photo was decoded")

    monkeypatch.setattr(prepared, "_decode", refuse)


def test_a_second_preparation_decodes_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(photos, 32)
    no_decoding(monkeypatch)
    second = prepare(photos, 32)
    assert torch.equal(first.pixels, second.pixels)
    assert (first.names, first.sha256, first.unreadable) == (second.names, second.sha256, second.unreadable)


def test_the_cache_goes_with_the_content_not_with_the_place(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(photos, 32)
    moved = Path(shutil.move(photos, tmp_path / "elsewhere"))
    for path in moved.rglob("*.*"):
        os.utime(path, (1, 1))
    no_decoding(monkeypatch)
    assert torch.equal(prepare(moved, 32).pixels, first.pixels)


@pytest.mark.parametrize("change", ["byte", "size", "name", "removed", "added"])
def test_any_change_is_prepared_anew(photos: Path, change: str, photo_cache: Path) -> None:
    first = prepare(photos, 32)
    caches = set(photo_cache.iterdir())
    path = photos / first.names[0]
    if change == "byte":
        path.write_bytes(path.read_bytes() + b"\0")
    elif change == "name":
        path.rename(path.with_name("other.jpg"))
    elif change == "removed":
        path.unlink()
    elif change == "added":
        shutil.copy(path, path.with_name("copy.jpg"))
    second = prepare(photos, 48 if change == "size" else 32)
    assert len(set(photo_cache.iterdir()) - caches) == 2
    assert second.pixels.shape[2:] == ((48, 48) if change == "size" else (32, 32))
    assert len(second.names) == len(second.pixels) == 6 + {"removed": -1, "added": 1}.get(change, 0)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CGAN_CACHE", "/one")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("CGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_folder() == Path("/two/cgan")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/three")
    assert cache_folder() == Path("/home/three/.cache/cgan")


def test_a_cache_given_by_name_is_used(photos: Path, tmp_path: Path, photo_cache: Path) -> None:
    prepare(photos, 32, tmp_path / "mine")
    assert sorted(path.suffix for path in (tmp_path / "mine").iterdir()) == ["", ".json", ".npy"]
    assert not list(photo_cache.iterdir())


# what is read and written


def test_paths_that_were_scanned_are_not_scanned_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, whole = scan(photos), prepare(photos, 32)
    monkeypatch.setattr(prepared, "scan", None)
    again = prepare(photos, 32, paths=paths)
    assert (again.names, again.sha256) == (whole.names, whole.sha256)
    assert prepare(photos, 32, paths=paths[1:]).names == whole.names[1:]


def test_photos_are_kept_as_json_and_npy(photos: Path, photo_cache: Path) -> None:
    (photos / "a" / "photo-00.jpg").write_bytes(b"broken")
    for i in range(20):
        Image.new("RGB", (20, 20), (i, 90, 0)).save(photos / f"{i}.png")
    prepared = prepare(photos, 32)
    (pixels,) = photo_cache.glob("*.npy")
    (index,) = photo_cache.glob("*.json")
    assert pixels.stem == index.stem
    kept = np.load(pixels)  # for whoever reads it without this project; its header leaves out the unreadable photo
    assert (kept.shape, kept.dtype) == ((25, 32, 32, 3), np.uint8)
    assert np.array_equal(kept, prepared.pixels.permute(0, 2, 3, 1).numpy())
    assert json.loads(index.read_text()).keys() == {"unreadable", "near_gray", "blocks", "sha256"}


def test_a_cache_that_cannot_be_written_says_what_to_set(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Not a directory.*set CGAN_CACHE") as caught:
        prepare(photos, 32, tmp_path / "file" / "cache")
    assert caught.value.exit_code == 2


def test_a_full_disk_is_no_fault_of_the_request(
    photos: Path, photo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepared, "_map_pixels", full)
    with pytest.raises(GateError, match=r"No space left on device.*make room"):
        prepare(photos, 32)


def test_the_unreadable_are_still_refused_from_the_cache(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in photos.rglob("*.*"):
        path.write_bytes(path.name.encode())
    for _ in range(2):
        with pytest.raises(UserError, match="6 of 6 photos cannot be read"):
            prepare(photos, 32)
        no_decoding(monkeypatch)


# near-gray photos


@pytest.mark.parametrize("batch", [1, 3, 4, 64])
def test_near_gray_photos_are_counted(photos: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(prepared, "NEAR_GRAY_BATCH", batch)
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    Image.fromarray(ramp).save(photos / "gray.png")
    Image.fromarray(np.stack([ramp, ramp, ramp // 8 * 8], 2)).save(photos / "saved-as-rgb.png")
    Image.fromarray(np.stack([ramp, ramp, ramp // 4], 2)).save(photos / "colored.png")
    first = prepare(photos, 32)
    assert {first.names[i] for i in first.near_gray} == {"gray.png", "saved-as-rgb.png"}
    values = colorfulness(first.pixels.float() / 255)
    assert first.near_gray == {i for i, value in enumerate(values) if value < NEAR_GRAY}
    no_decoding(monkeypatch)
    assert prepare(photos, 32).near_gray == first.near_gray


def test_the_threshold_is_that_of_the_metrics(tmp_path: Path) -> None:
    for blue in range(100, 120):
        Image.new("RGB", (20, 20), (100, 100, blue)).save(tmp_path / f"{blue}.png")
    # one colour has no spread, and M3 is 0.3 of the distance |yellow - blue| = blue - 100
    expected = sum(0.3 * (blue - 100) < NEAR_GRAY for blue in range(100, 120))
    assert len(prepare(tmp_path, 32).near_gray) == expected == 17


# memory


def test_decoded_photos_are_written_and_let_go(
    tmp_path: Path, make_photos: MakePhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_photos(tmp_path / "photos", 60)
    monkeypatch.setattr(prepared, "PREPARE_AHEAD", 5)
    monkeypatch.setattr(prepared, "NEAR_GRAY_BATCH", 4)
    lock, alive, most = threading.Lock(), 0, 0

    def forget() -> None:
        nonlocal alive
        alive -= 1

    def decode(*_: Any) -> np.ndarray:
        nonlocal alive, most
        pixels = np.zeros((32, 32, 3), np.uint8)
        with lock:
            alive += 1
            most = max(most, alive)
        weakref.finalize(pixels, forget)
        return pixels

    monkeypatch.setattr(prepared, "_decode", decode)
    assert len(prepare(folder, 32).pixels) == 60
    gc.collect()
    assert alive == 0
    assert 5 <= most <= 5 + 4 + 2  # waiting, to be judged, in the consumer's hands


def test_pixels_are_pages_of_the_file_shared_but_not_written_through(photos: Path, photo_cache: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = prepare(photos, 32), prepare(photos, 32)
    (file,) = photo_cache.glob("*.npy")
    before = file.read_bytes()
    second.pixels[0] = 7
    assert file.read_bytes() == before
    assert not bool((first.pixels[0] == 7).all())
    with file.open("r+b") as opened:  # what another process sees as well: the last row of the last photo
        opened.seek(-32 * 3, os.SEEK_END)
        opened.write(bytes([9]) * (32 * 3))
    assert bool((first.pixels[-1, :, -1] == 9).all())


@pytest.mark.skipif(sys.platform != "linux", reason="the sizes come from /proc")
def test_more_photos_than_memory_can_be_mapped(tmp_path: Path) -> None:
    values = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    memory = sum(int(values[name].split()[0]) * 1024 for name in ("MemTotal", "SwapTotal"))
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this machine promises no memory that it does not have")
    file, size = tmp_path / "large.npy", 1024
    count = 2 * memory // (size * size * 3)
    with file.open("wb") as opened:  # a sparse file: it takes no room
        opened.write(npy_header((count, size, size, 3)))
        opened.truncate(opened.tell() + count * size * size * 3)
    pixels = torch.from_numpy(prepared._map_pixels(file, count, size))
    assert pixels.shape == (count, size, size, 3)
    assert pixels[-1, -1, -1].tolist() == [0, 0, 0]


# damage


@pytest.mark.parametrize(
    "change", ["text", "empty", "missing", "shorter", "longer", "zeros", "one bit", "one photo less", "other type"]
)
def test_damaged_pixels_are_made_again(photos: Path, photo_cache: Path, change: str) -> None:
    first = prepare(photos, 32).pixels.clone()
    (file,) = photo_cache.glob("*.npy")
    whole = file.read_bytes()
    if change == "missing":
        file.unlink()
    elif change == "one photo less":
        np.save(file, np.load(file)[:-1])
    elif change == "other type":
        np.save(file, np.load(file).view(np.int8))
    else:
        content = {"text": b"damaged", "empty": b"", "shorter": whole[:-1], "longer": whole + b"\0"}
        content |= {"zeros": whole[:128] + bytes(len(whole) - 128), "one bit": whole[:-1] + bytes([whole[-1] ^ 1])}
        file.write_bytes(content[change])
    again = prepare(photos, 32)
    assert again.note and str(file) in again.note and "prepared again" in again.note
    assert torch.equal(again.pixels, first)
    assert file.read_bytes() == whole
    assert prepare(photos, 32).note is None


def test_damage_is_found_in_every_block(photos: Path, photo_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "BLOCK_BYTES", 1000)
    first = prepare(photos, 32).pixels.clone()
    (file,) = photo_cache.glob("*.npy")
    whole = file.read_bytes()
    for place in (0, 999, 1000, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        again = prepare(photos, 32)
        assert again.note and torch.equal(again.pixels, first)


def test_pixels_of_another_folder_are_not_taken(photos: Path, photo_cache: Path, make_photos: MakePhotos) -> None:
    prepare(make_photos(photos.parent / "others", 6, seed=1), 32)
    others = {path.suffix: path for path in photo_cache.glob("*.*[!s]")}
    first = prepare(photos, 32).pixels.clone()
    for path in set(photo_cache.glob("*.*[!s]")) - set(others.values()):
        shutil.copy(others[path.suffix], path)
    again = prepare(photos, 32)
    assert again.note and torch.equal(again.pixels, first)


def test_a_damaged_cache_is_not_changed_under_those_that_have_it_mapped(photos: Path, photo_cache: Path) -> None:
    first = prepare(photos, 32)
    before = first.pixels.clone()
    (index,) = photo_cache.glob("*.json")
    index.write_text("damaged")
    (file,) = photo_cache.glob("*.npy")
    inode = file.stat().st_ino
    assert prepare(photos, 32).note
    assert file.stat().st_ino != inode
    assert torch.equal(first.pixels, before)


@pytest.mark.parametrize(
    "text",
    [
        *("", "damaged", "[]", "{}", "null", '{"unreadable": {}}', '{"unreadable": 3, "near_gray": []}'),
        *('{"unreadable": {}, "near_gray": [], "blocks": []}', '{"unreadable": {"a": "b"}, "sha256": ""}'),
    ],
)
def test_a_damaged_index_is_made_again(photos: Path, photo_cache: Path, text: str) -> None:
    first = prepare(photos, 32)
    (file,) = photo_cache.glob("*.json")
    whole = file.read_text()
    file.write_text(text)
    again = prepare(photos, 32)
    assert torch.equal(again.pixels, first.pixels)
    assert (again.unreadable, again.near_gray) == (first.unreadable, first.near_gray)
    assert file.read_text() == whole


@pytest.mark.parametrize("when", ["decoding", "index"])
def test_an_interrupted_preparation_leaves_nothing_that_is_read(
    photos: Path, photo_cache: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    def stop_at_index(path: Path) -> Any:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        return atomic_path(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
        if when == "index":
            patch.setattr(prepared, "atomic_path", stop_at_index)
        prepare(photos, 32, progress=stop if when == "decoding" else None)
    assert caught.tb  # the frames are still there, and yet
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    assert [path.suffix for path in photo_cache.glob("*.*[!s]")] == ([".npy"] if when == "index" else [])
    assert len(prepare(photos, 32).names) == 6


@pytest.mark.parametrize("change", ["replaced", "gone", "appeared"])
def test_a_photo_that_changes_while_it_is_prepared_stops_the_preparation(
    photos: Path, photo_cache: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    whole = scan(photos)
    path, content = whole[4], whole[4].read_bytes()
    if change == "appeared":
        path.unlink()
        path.symlink_to("nowhere")
    real = prepared._decode_all

    def decode_all(*arguments: Any) -> Any:
        path.unlink()
        if change != "gone":
            path.write_bytes(whole[0].read_bytes() if change == "replaced" else content)
        return real(*arguments)

    name = path.relative_to(photos).as_posix()
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_decode_all", decode_all)
        refused = rf"^{name} changed while it was prepared; run the command again when nothing changes the folder$"
        with pytest.raises(UserError, match=refused):
            prepare(photos, 32, paths=whole)
    assert not [entry for entry in photo_cache.iterdir() if entry.name != prepared.MARKS_FILE]
    path.write_bytes(content)
    assert prepare(photos, 32).names == tuple(file.relative_to(photos).as_posix() for file in whole)


@pytest.mark.slow
def test_what_a_killed_preparation_left_is_removed_and_nothing_of_others(photos: Path, photo_cache: Path) -> None:
    program = f"""
import os, sys
from pathlib import Path
from cgan.data.prepared import prepare
prepare(Path({str(photos)!r}), 32, progress=lambda done, total: os.kill(os.getpid(), 9) if done == 3 else None)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    (left,) = photo_cache.glob(".cgan-*.tmp")
    others = [photo_cache / name for name in (".cgan-mine.tmp", f".cgan-{'0' * 32}-0a1b2c3d4e5f.tmp", "other.tmp")]
    for path in others:
        path.write_text("mine")
        os.utime(path, (1, 1))
    prepare(photos, 32)
    assert not left.exists()
    assert [path.read_text() for path in others] == ["mine"] * 3


def test_a_preparation_leaves_the_temporary_files_of_one_beside_it(photos: Path, photo_cache: Path) -> None:
    def other(done: int, _: int) -> None:
        if done == 3:
            (mine,) = photo_cache.glob(".cgan-*.tmp")
            prepare(photos, 48)
            assert mine.exists()

    assert len(prepare(photos, 32, progress=other).names) == 6


def test_the_header_is_equally_long_for_every_count() -> None:
    assert len({len(npy_header((count, 128, 128, 3))) for count in (0, 9, 10, 8189, 10**6, 10**12)}) == 1
