"""The event file: read by TensorBoard, appended to, repaired."""

import errno
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cgan.files import OccupiedError
from cgan.training.events import FILE, write_events, write_samples
from cgan.training.ledger import Ledger
from tests.cgan.disks import file_size_limit


def epoch(number: int, **more: Any) -> dict[str, Any]:
    """Metrics of an epoch, in the form that training gives them."""
    return {
        "epoch": number,
        "train_l1": 0.5 / number,
        "test_l1": 0.75 / number,
        "train_discriminator_loss": 0.625,
        "lr": 0.25,
        "test_photos": 3,
        "time_shares": {"data": 0.125, "step": 0.5},
        "finished_at": 1000.0 + number,
        **more,
    }


def write(folder: Path, history: list[dict[str, Any]]) -> None:
    write_events(folder, history, Ledger(folder.parent / ".written"))


def read(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """(step, wall time, value) of each tag, by TensorBoard's own reader."""
    accumulator = EventAccumulator(str(folder)).Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(event.step, event.wall_time, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The events of two epochs."""
    write(tmp_path / "tensorboard", [epoch(1), epoch(2)])
    return tmp_path / "tensorboard"


def test_tensorboard_reads_every_metric_at_its_epoch_and_time(folder: Path) -> None:
    found = read(folder)
    assert found.keys() == {
        *("l1/train", "l1/test", "discriminator_loss/train", "lr", "photos/test"),
        *("data/time", "step/time"),
    }
    assert found["l1/train"] == [(1, 1001.0, 0.5), (2, 1002.0, 0.25)]
    assert found["l1/test"] == [(1, 1001.0, 0.75), (2, 1002.0, 0.375)]
    assert found["data/time"] == [(1, 1001.0, 0.125), (2, 1002.0, 0.125)]
    assert found["lr"] == [(1, 1001.0, 0.25), (2, 1002.0, 0.25)]


def test_a_metric_with_a_fingerprint_is_its_value(tmp_path: Path) -> None:
    found = epoch(1, test_fid={"value": 12.5, "network": "inception"}, test_kid={"value": -0.25, "photos": 3})
    write(tmp_path / "tensorboard", [found])
    assert read(tmp_path / "tensorboard")["fid/test"] == [(1, 1001.0, 12.5)]
    assert read(tmp_path / "tensorboard")["kid/test"] == [(1, 1001.0, -0.25)]


@pytest.mark.parametrize("value", [None, float("inf"), float("nan")])
def test_what_is_no_number_is_no_event(tmp_path: Path, value: float | None) -> None:
    write(tmp_path / "tensorboard", [epoch(1, test_psnr=value), epoch(2, test_psnr=20.0)])
    assert read(tmp_path / "tensorboard")["psnr/test"] == [(2, 1002.0, 20.0)]


def test_the_next_epoch_is_appended(folder: Path) -> None:
    path = folder / FILE
    before, inode = path.read_bytes(), path.stat().st_ino
    write(folder, [epoch(1), epoch(2), epoch(3)])
    assert path.stat().st_ino == inode
    assert path.read_bytes().startswith(before)
    assert [step for step, *_ in read(folder)["l1/test"]] == [1, 2, 3]
    assert [entry.name for entry in folder.iterdir()] == [FILE]


def test_a_running_tensorboard_sees_the_next_epoch(folder: Path) -> None:
    accumulator = EventAccumulator(str(folder)).Reload()
    write(folder, [epoch(1), epoch(2), epoch(3)])
    assert [event.step for event in accumulator.Reload().Scalars("l1/test")] == [1, 2, 3]


def test_sample_grids_are_images_at_their_epochs(tmp_path: Path) -> None:
    folder, ledger = tmp_path / "samples", Ledger(tmp_path / ".written")
    for number in (1, 2):
        sheets = [Image.new("RGB", (8, 6), (number * 100, 0, side)) for side in (0, 255)]
        write_samples(folder, epoch(number), sheets, ledger)
    accumulator = EventAccumulator(str(folder)).Reload()
    assert accumulator.Tags()["images"] == ["samples/first", "samples/next"]
    for tag, blue in (("samples/first", 0), ("samples/next", 255)):
        images = accumulator.Images(tag)
        assert [(image.step, image.wall_time, image.width, image.height) for image in images] == [
            *((1, 1001.0, 8, 6), (2, 1002.0, 8, 6))
        ]
        for number, image in enumerate(images, 1):
            with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
                assert np.abs(np.asarray(picture.convert("RGB"))[0, 0] - [number * 100, 0, blue]).max() < 8


def cut(path: Path) -> None:
    """Truncate the file like a kill in the middle of an append."""
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def double(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def empty(path: Path) -> None:
    """An empty file is a prefix of every content."""
    path.write_bytes(b"")


def cut_to_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1])


@pytest.mark.parametrize("change", [flip_a_bit, double, empty, cut_to_a_byte, lambda path: path.write_bytes(b"mine")])
def test_what_the_run_did_not_write_is_left_alone(folder: Path, change: Callable[[Path], Any]) -> None:
    change(folder / FILE)
    found = (folder / FILE).read_bytes()
    with pytest.raises(OccupiedError):
        write(folder, [epoch(1), epoch(2), epoch(3)])
    assert (folder / FILE).read_bytes() == found


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_what_is_missing_is_written_again(folder: Path, damage: Callable[[Path], Any], tmp_path: Path) -> None:
    history = [epoch(1), epoch(2), epoch(3)]
    write(tmp_path / "whole", history)
    damage(folder / FILE)
    write(folder, history)
    assert (folder / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    assert [entry.name for entry in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("target", ["fifo", "/dev/zero", "empty", "own", "missing"])
def test_what_is_no_file_is_left_alone(tmp_path: Path, begun: bool, target: str) -> None:
    path, own = tmp_path / "tensorboard" / FILE, tmp_path / "mine"
    write(path.parent, [epoch(1)])
    content = path.read_bytes()
    path.unlink()
    if not begun:
        (tmp_path / ".written").unlink()
    if target == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(target if target == "/dev/zero" else own)
    if target in ("empty", "own"):
        own.write_bytes(content if target == "own" else b"")
    with pytest.raises(OccupiedError):
        write(path.parent, [epoch(1), epoch(2)])
    assert path.is_fifo() if target == "fifo" else path.is_symlink()
    if target in ("empty", "own"):
        assert own.read_bytes() == (content if target == "own" else b"")
    assert own.exists() == (target in ("empty", "own"))


def test_events_that_find_no_room_leave_the_file_as_it_was(folder: Path) -> None:
    before = (folder / FILE).read_bytes()
    with file_size_limit(len(before) + 30), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        write(folder, [epoch(1), epoch(2), epoch(3)])
    assert (folder / FILE).read_bytes() == before
    write(folder, [epoch(1), epoch(2), epoch(3)])
    assert [step for step, *_ in read(folder)["l1/test"]] == [1, 2, 3]


def test_the_events_of_another_history_are_replaced(folder: Path) -> None:
    write(folder, [epoch(1), epoch(2, test_l1=8.0), epoch(3)])
    assert [value for *_, value in read(folder)["l1/test"]] == [0.75, 8.0, 0.25]


def test_an_epoch_written_twice_is_there_once(folder: Path) -> None:
    # A run killed after its last epoch publishes it again when it is resumed.
    before = (folder / FILE).read_bytes()
    write(folder, [epoch(1), epoch(2)])
    assert (folder / FILE).read_bytes() == before


def test_the_file_begins_with_the_version_of_its_format(folder: Path) -> None:
    # Length, its checksum, then the event of that length: TensorFlow's record format.
    content = (folder / FILE).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert b"brain.Event:2" in content[12 : 12 + length]
    assert "tfevents" in FILE  # by which TensorBoard finds it
