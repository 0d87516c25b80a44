"""Marks of processes on a full disk and after a kill."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from cgan.files import MARK, OccupiedError
from cgan.marks import Sharing, noted, read_marks
from tests.cgan.disks import file_size_limit

OTHER = "0a" * 16


def keep(*_: object) -> None:
    """Remove nothing."""


def test_a_mark_that_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "marks"
    file.write_text(f"{OTHER}\n")
    with file.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        full = pytest.raises(OSError, match=os.strerror(errno.EFBIG))
        with file_size_limit(40), full, noted(file, Sharing.TOGETHER, keep):
            pytest.fail("its temporary files would not be known as its own")
        assert file.read_text() == f"{OTHER}\n"


@pytest.mark.parametrize("length", [1, 31, 32])
def test_an_unfinished_last_mark_is_dropped(tmp_path: Path, length: int) -> None:
    file = tmp_path / "marks"
    file.write_text(f"{OTHER}\n{OTHER[:length]}")
    assert read_marks(file) == {OTHER}
    with file.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with noted(file, Sharing.TOGETHER, keep):
            assert file.read_text() == f"{OTHER}\n{MARK}\n"
    file.write_text(f"{OTHER}\n{OTHER[:length]}")
    cleaned: list[frozenset[str]] = []
    with noted(file, Sharing.REFUSED, cleaned.append):
        assert file.read_text() == f"{MARK}\n"
    assert cleaned == [{OTHER}]


@pytest.mark.parametrize(
    "content", [OTHER, f"{OTHER}\nmine", f"{OTHER[:5]}\n", f"{OTHER}\n{OTHER}0", f"{OTHER}\n" * 40_000]
)
def test_what_holds_no_marks_is_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "marks"
    file.write_text(content)
    with pytest.raises(OccupiedError):
        read_marks(file)
    with pytest.raises(OccupiedError), noted(file, Sharing.REFUSED, keep):
        pytest.fail("noted in another program's file")
    assert file.read_text() == content


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_never_ends_holds_no_marks(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "marks"
    os.mkfifo(file) if kind == "fifo" else file.symlink_to("/dev/zero")
    with pytest.raises(OccupiedError):
        read_marks(file)
    with pytest.raises(OccupiedError), noted(file, Sharing.REFUSED, keep):
        pytest.fail("noted in what is no file")


def test_marks_in_a_missing_folder_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), noted(tmp_path / "none" / "marks", Sharing.REFUSED, keep):
        pytest.fail("noted nowhere")
