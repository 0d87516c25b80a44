"""The ledger of a run on a full disk and after a kill."""

import errno
import os
from pathlib import Path

import pytest

from cgan.files import OccupiedError
from cgan.training.ledger import LEDGER_FILE, Ledger
from tests.cgan.disks import file_size_limit

DIGESTS = ("0a" * 32, "1b" * 32)
LINES = [f"{digest}  a.bin\n".encode() for digest in DIGESTS]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with one line."""
    ledger = Ledger(tmp_path / LEDGER_FILE)
    ledger.add(tmp_path / "a.bin", DIGESTS[0])
    return ledger


def test_a_line_that_finds_no_room_leaves_nothing(ledger: Ledger) -> None:
    with file_size_limit(len(LINES[0]) + 30), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        ledger.add(ledger.path.parent / "a.bin", DIGESTS[1])
    assert ledger.path.read_bytes() == LINES[0]
    ledger.add(ledger.path.parent / "a.bin", DIGESTS[1])
    assert ledger.path.read_bytes() == b"".join(LINES)


@pytest.mark.parametrize("length", [1, 30, 64, 65, 66, 67, len(LINES[1]) - 1])
def test_an_unfinished_last_line_is_dropped(ledger: Ledger, length: int) -> None:
    with ledger.path.open("ab") as file:
        file.write(LINES[1][:length])
    ledger.check()
    assert ledger.has(DIGESTS[0])
    assert not ledger.has(DIGESTS[1])
    ledger.add(ledger.path.parent / "a.bin", DIGESTS[0])  # known: nothing is written
    assert ledger.path.read_bytes() == LINES[0] + LINES[1][:length]
    ledger.add(ledger.path.parent / "a.bin", DIGESTS[1])
    assert ledger.path.read_bytes() == b"".join(LINES)


@pytest.mark.parametrize("content", [LINES[0][:30], LINES[0] + b"mine", LINES[0][:30] + b"\n", LINES[0] + b"\n"])
def test_what_is_no_ledger_is_left_alone(tmp_path: Path, content: bytes) -> None:
    ledger = Ledger(tmp_path / LEDGER_FILE)
    ledger.path.write_bytes(content)
    for attempt in (ledger.check, lambda: ledger.add(tmp_path / "a.bin", DIGESTS[0])):
        with pytest.raises(OccupiedError):
            attempt()
    assert ledger.path.read_bytes() == content


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_never_ends_is_no_ledger(tmp_path: Path, kind: str) -> None:
    ledger = Ledger(tmp_path / LEDGER_FILE)
    os.mkfifo(ledger.path) if kind == "fifo" else ledger.path.symlink_to("/dev/zero")
    with pytest.raises(OccupiedError):
        ledger.check()


def test_a_ledger_of_old_files_begins_with_all_or_none_of_them(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / LEDGER_FILE)
    files = [tmp_path / name for name in ("a.bin", "b.bin")]
    for file in files:
        file.write_text(file.name)
    with file_size_limit(100), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        ledger.begin(files)
    assert sorted(tmp_path.iterdir()) == files
    ledger.begin(files)
    assert all(map(ledger.knows, files))
    with pytest.raises(OccupiedError):
        ledger.begin(files[:1])
    assert all(map(ledger.knows, files))
