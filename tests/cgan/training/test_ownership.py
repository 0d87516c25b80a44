"""A run replaces and removes only its own files, never those of a user or another program."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgan.errors import GateError, UserError
from cgan.training.ledger import LEDGER_FILE
from cgan.training.run_folder import LOCK_FILE, RunFolder
from tests import warm
from tests.cgan.begun import ENDED, LEFT, RECORDS

Publish = Callable[..., Any]


def test_what_a_kill_left_is_removed_and_nothing_else(folder: RunFolder, publish: Publish, tmp_path: Path) -> None:
    publish(20.0)
    (folder.path / "mine").mkdir()
    folder.samples.rename(tmp_path / "elsewhere")
    folder.samples.symlink_to(tmp_path / "elsewhere")
    folders = [folder.path / part for part in ("", "checkpoints", "samples", "tensorboard")]
    others = (".cgan-a.tmp", f".cgan-{'0' * 32}-0a1b2c3d4e5f.tmp", ".cgan-notes", "notes.tmp")
    kept = [place / name for place in folders for name in others] + [folder.path / "mine" / LEFT]
    left = [place / LEFT for place in folders]
    for path in (*kept, *left):
        path.write_text("half a file")
    (folder.path / LOCK_FILE).write_text(f"{ENDED}\n")
    with folder.locked():
        publish(20.0, 21.0)
    assert all(path.read_text() == "half a file" for path in kept)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("content", [b"mine", b"0a" * 16, b"\xff\n"])
def test_a_lock_or_a_ledger_of_something_else_is_left_alone(folder: RunFolder, content: bytes) -> None:
    for name in (LOCK_FILE, LEDGER_FILE):
        (folder.path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: found what this run did not write"), folder.locked():
            folder.write_records(RECORDS)
        assert (folder.path / name).read_bytes() == content
        (folder.path / name).unlink()


REPLACED = (
    *("checkpoints/last.safetensors", "checkpoints/best.safetensors", "checkpoints/epoch-0002.safetensors"),
    *("metrics.jsonl", "curves.png", "samples/epoch-0002.png", "tensorboard/events.out.tfevents.0.cgan"),
)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.slow
def test_a_file_that_the_run_did_not_write_is_not_replaced(
    folder: RunFolder, publish: Publish, tmp_path: Path, name: str, linked: bool
) -> None:
    publish(20.0, save_every=1)
    path = folder.path / name
    if linked:  # as users do who keep checkpoints on a larger disk
        place = path.parent if path.parent != folder.path else path
        if place.exists():
            place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    path.write_text("mine")
    with pytest.raises(GateError, match=rf"{path.name}: found what this run did not write, .* move it away"):
        publish(20.0, 21.0, save_every=1)
    assert path.read_text() == "mine"
    path.unlink()
    publish(20.0, 21.0, save_every=1)


def test_what_is_replaced_is_looked_at_before_a_run_goes_on(folder: RunFolder, publish: Publish) -> None:
    publish(20.0)
    folder.check_own()
    for name in (*RECORDS, *REPLACED[:2], *REPLACED[3:5]):
        path = folder.path / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(UserError, match=rf"{path.name}: found what this run did not write"):
            folder.check_own()
        path.write_bytes(content)
    folder.check_own()


@pytest.mark.parametrize("target", ["fifo", "/dev/zero"])
def test_events_that_are_no_file_are_refused_before_a_run_goes_on(
    folder: RunFolder, publish: Publish, target: str
) -> None:
    publish(20.0)
    path = folder.path / REPLACED[-1]
    path.unlink()
    os.mkfifo(path) if target == "fifo" else path.symlink_to(target)
    with pytest.raises(UserError, match=rf"{path.name}: found what this run did not write"):
        folder.check_own()


def test_a_run_of_an_earlier_version_goes_on(folder: RunFolder, publish: Publish) -> None:
    publish(20.0, save_every=1)
    (folder.path / LEDGER_FILE).unlink()
    folder.adopt()
    folder.check_own()
    publish(20.0, save_every=1)
    publish(20.0, 21.0, save_every=1)


@pytest.mark.parametrize("moment", ["fsync", "digests"])
def test_a_run_of_an_earlier_version_goes_on_after_it_was_stopped_while_it_was_taken_over(
    folder: RunFolder, publish: Publish, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    publish(20.0, save_every=1)
    (folder.path / LEDGER_FILE).unlink()
    before = {path for path in folder.path.rglob("*") if path.is_file()}

    def stop(*_: object) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*(("os.fsync", stop) if moment == "fsync" else ("cgan.training.ledger.file_sha256", stop)))
        folder.adopt()
    assert {path for path in folder.path.rglob("*") if path.is_file()} == before
    folder.adopt()
    folder.check_own()
    assert (folder.path / LEDGER_FILE).read_text().count("\n") == 10
    publish(20.0, 21.0, save_every=1)


# killed with kill -9


DRIVER = """
import itertools, os, sys
from cgan import cli
from cgan.training import run_folder

fsync, calls, last = os.fsync, itertools.count(1), int(sys.argv.pop(1))

def kill(descriptor):
    if next(calls) == last:
        os.kill(os.getpid(), 9)
    fsync(descriptor)

os.fsync = kill
run_folder.save_curves = lambda history, path: path.write_text(str(len(history)))
cli.main()
"""
"""cgan-train, killed between the write of a temporary file and its rename."""


def test_kills_and_resumes_leave_what_the_user_put_there(
    photo_folder: Path, photo_cache: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    mine: list[Path] = []

    def train(kill_at: int, *options: str) -> int:
        arguments = [str(photo_folder), "--out", str(run), *tiny_options, "--epochs", "3", *options]
        return warm.run(DRIVER, kill_at, *arguments).returncode

    def drop(number: int) -> None:
        for folder in (run, run / "checkpoints", run / "samples", run / "tensorboard", elsewhere, photo_cache):
            if folder.is_dir():
                for name in (f".cgan-{number}.tmp", f".cgan-{number:032x}-{number:012x}.tmp", f"notes-{number}"):
                    (folder / name).write_text("mine")
                    mine.append(folder / name)

    assert train(18) == -9
    (run / "samples").symlink_to(elsewhere)
    for number, kill_at in enumerate((9, 25)):
        drop(number)
        assert train(kill_at, "--resume") == -9
    drop(2)
    assert train(0, "--resume") == 0
    assert all(path.read_text() == "mine" for path in mine)
    left = [path for folder in (run, elsewhere, photo_cache) for path in folder.rglob(".cgan-*.tmp")]
    assert {path.resolve() for path in left} <= {path.resolve() for path in mine}
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert {path.name for path in elsewhere.glob("*.png")} == {f"epoch-000{epoch}.png" for epoch in (1, 2, 3)}
