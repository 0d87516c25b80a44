"""Files that appear whole or not at all and replace nothing unknown, on all kinds of file systems; digests."""

import errno
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgan import files
from cgan.files import (
    MARK,
    OccupiedError,
    atomic_path,
    canonical_json,
    file_sha256,
    json_sha256,
    look_at,
    place,
    remove_temporaries,
    temporary_name,
)

MINE = b"mine"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()), st.randoms())
def test_canonical_json_does_not_depend_on_the_order_of_keys(values: dict[str, object], random: object) -> None:
    items = list(values.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert canonical_json(dict(items)) == canonical_json(values)
    assert json.loads(canonical_json(values)) == values
    assert json_sha256(values) == hashlib.sha256(canonical_json(dict(items)).encode()).hexdigest()


def test_file_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_atomic_path_gives_the_new_file_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == tmp_path  # a rename is atomic only within one file system
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_leaves_all_as_it_was_after_an_exception(
    tmp_path: Path, old: str | None, error: type[BaseException]
) -> None:
    target = tmp_path / "file"
    if old:
        target.write_text(old)
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half of the ne")
        raise error
    assert [path.read_text() for path in tmp_path.iterdir()] == ([old] if old else [])


def test_atomic_path_keeps_the_old_file_when_the_block_writes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(target):
        pass
    assert target.read_text() == "old"


def test_atomic_path_replaces_nothing_but_regular_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for target in (fifo, tmp_path):
        with pytest.raises(OSError, match="not a regular file"), atomic_path(target) as temporary:
            temporary.write_text("content")
    assert fifo.is_fifo() and list(tmp_path.iterdir()) == [fifo]


@pytest.fixture(params=["renames with flags", "links", "neither"])
def able(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Abilities of the simulated file system."""
    if request.param != "renames with flags":
        monkeypatch.setattr(files, "_RENAME", None)
    if request.param == "neither":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A finished file under a temporary name."""
    path = tmp_path / temporary_name()
    path.write_bytes(b"new")
    return path


def test_a_new_name_is_taken_and_an_old_one_is_not(tmp_path: Path, new: Path, able: str) -> None:
    (tmp_path / "there").write_bytes(MINE)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("there", "dangling", "folder"):
        for replaces in ([], [sha256(b"other")]):
            with pytest.raises(OccupiedError, match=r"found .* there"):
                place(new, tmp_path / name, replaces)
    place(new, tmp_path / "free", [])
    assert (tmp_path / "free").read_bytes() == b"new"
    assert (tmp_path / "there").read_bytes() == MINE
    assert (tmp_path / "dangling").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "folder", "free", "there"]


def test_known_content_is_replaced(tmp_path: Path, new: Path, able: str) -> None:
    (tmp_path / "there").write_bytes(b"old")
    place(new, tmp_path / "there", [sha256(b"other"), sha256(b"old")])
    assert (tmp_path / "there").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


@pytest.mark.parametrize("how", ["replaced", "edited", "gone"])
def test_what_changes_between_the_look_and_the_exchange_stays(
    tmp_path: Path, new: Path, able: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "there"
    target.write_bytes(b"old")
    look = files.look_at

    def change(*arguments: Any) -> Any:
        found = look(*arguments)
        if how == "replaced":
            (tmp_path / "other").write_bytes(MINE)
            (tmp_path / "other").replace(target)
        elif how == "edited":
            target.write_bytes(MINE)
            os.utime(target, ns=(0, 1))  # a coarse clock could show the same time
        else:
            target.unlink()
        return found

    monkeypatch.setattr(files, "look_at", change)
    if how == "gone":
        if able == "renames with flags":
            place(new, target, [sha256(b"old")])
            assert target.read_bytes() == b"new"
        else:
            with pytest.raises((FileNotFoundError, OccupiedError)):
                place(new, target, [sha256(b"old")])
        return
    with pytest.raises(OccupiedError):
        place(new, target, [sha256(b"old")])
    assert target.read_bytes() == MINE
    assert new.read_bytes() == b"new"
    assert sorted(tmp_path.iterdir()) == sorted([new, target])


def test_of_many_that_want_a_name_one_gets_it(tmp_path: Path, able: str) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def try_it(number: int) -> None:
        own = tmp_path / temporary_name()
        own.write_bytes(str(number).encode())
        start.wait()
        try:
            place(own, tmp_path / "name", [])
            won.append(number)
        except OccupiedError:
            own.unlink()

    threads = [threading.Thread(target=try_it, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "name").read_bytes() == str(won[0]).encode()
    assert list(tmp_path.iterdir()) == [tmp_path / "name"]


def test_a_user_s_writes_are_never_lost_to_a_replacement(tmp_path: Path) -> None:
    """One process replaces a file again and again; another replaces only contents that it knows."""
    target, ended = tmp_path / "there", threading.Event()
    kept: list[bytes] = []

    def user() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            (tmp_path / "draft").write_bytes(b"user %d" % number)
            (tmp_path / "draft").replace(target)
            kept.append(b"user %d" % number)

    thread = threading.Thread(target=user)
    target.write_bytes(b"old")
    thread.start()
    for _ in range(300):
        own = tmp_path / temporary_name()
        own.write_bytes(b"ours")
        try:
            place(own, target, [sha256(b"old"), sha256(b"ours")])
        except OccupiedError:
            own.unlink(missing_ok=True)  # the user's newest can have its place
    ended.set()
    thread.join()
    assert kept
    assert kept[-1] in {path.read_bytes() for path in tmp_path.iterdir()}


def test_atomic_path_takes_what_may_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "file"
    for replaces in ([], [sha256(b"1")]):
        with atomic_path(target, replaces) as temporary:
            temporary.write_bytes(b"1")
    with pytest.raises(OccupiedError), atomic_path(target, []) as temporary:
        temporary.write_bytes(b"2")
    assert target.read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [target]


def test_a_look_finds_content_and_refuses_what_is_no_file(tmp_path: Path) -> None:
    assert look_at(tmp_path / "none") is None
    (tmp_path / "file").write_bytes(MINE)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    found = look_at(tmp_path / "file")
    assert found is not None and found.sha256 == sha256(MINE)
    for name in ("link", "fifo", "."):
        with pytest.raises(OccupiedError):
            look_at(tmp_path / name)


def test_only_temporaries_with_the_marks_are_removed(tmp_path: Path) -> None:
    mark = "1" * 32
    names = [f".cgan-{mark}-ab.tmp", f".cgan-{MARK}-ab.tmp", ".cgan-0123456789ab.tmp", ".cgan-mine.tmp", "x.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(MINE)
    remove_temporaries(tmp_path, ())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    remove_temporaries(tmp_path, [mark])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
