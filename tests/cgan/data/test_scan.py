"""Scan of a folder of photos."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cgan.data.scan import scan
from cgan.errors import UserError

MakePhotos = Callable[..., Path]


@pytest.fixture
def photos(tmp_path: Path, make_photos: MakePhotos) -> Path:
    """Six photos that a test may change."""
    return make_photos(tmp_path / "photos", 6)


def test_scan_finds_photos_below_the_folder_in_the_order_of_their_paths(tmp_path: Path) -> None:
    wanted = ["a.jpg", "b/1.PNG", "b/c/2.webp", "b/z.Jpeg", "c.tif"]
    for name in [*wanted, "notes.txt", ".hidden.jpg", "b/archive.zip", "jpg"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [path.relative_to(tmp_path).as_posix() for path in scan(tmp_path)] == wanted


def test_scan_does_not_follow_links_to_folders(photos: Path) -> None:
    before = scan(photos)
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    assert scan(photos) == before


def test_scan_passes_over_what_is_no_file(photos: Path, tmp_path: Path) -> None:
    before = scan(photos)
    (photos / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "folder.jpg").mkdir()
    assert scan(photos) == before
    (photos / "link.jpg").symlink_to(before[0])
    assert len(scan(photos)) == len(before) + 1


def test_scan_refuses_a_missing_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: found no such folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"found no photos .*\.jpg"):
        scan(tmp_path)
    (tmp_path / "one.jpg").touch()
    with pytest.raises(UserError, match=r"one\.jpg: found a file, expected a folder"):
        scan(tmp_path / "one.jpg")


def test_scan_refuses_what_it_cannot_search(photos: Path, unsearchable: Callable[[Path], None]) -> None:
    unsearchable(photos / "locked")
    with pytest.raises(UserError, match=r"locked: cannot be searched \(Permission denied\), and photos .* missing"):
        scan(photos)
