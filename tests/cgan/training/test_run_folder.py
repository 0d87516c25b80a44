"""The run folder: refusals, interrupted writes, contents of the files."""

import errno
import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cgan.checkpoint_record import best_epoch
from cgan.errors import GateError, UserError
from cgan.networks import Generator
from cgan.training.checkpoint import load_generator, training_tensors, weights_digest
from cgan.training.ledger import LEDGER_FILE
from cgan.training.run_folder import LOCK_FILE, RunFolder
from tests.cgan.begun import CONFIG, ENDED, LEFT, RECORDS, SHEET, generator

Publish = Callable[..., Generator]


def saved_epoch(path: Path) -> int:
    """Return the epoch, up to 9, in which `publish` wrote a checkpoint."""
    found = load_generator(path)[1].weights_sha256
    (epoch,) = (seed for seed in range(1, 10) if weights_digest(generator(seed).state_dict()) == found)
    return epoch


def contents(folder: Path) -> dict[Path, bytes]:
    own = (LEDGER_FILE, LOCK_FILE)
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in own}


def strict_lines(path: Path) -> list[Any]:
    """Parse JSON lines strictly, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


# a new run


def test_records_are_written_below_a_new_folder(folder: RunFolder) -> None:
    assert {path.name for path in folder.path.iterdir()} == {*RECORDS, LEDGER_FILE}
    for name, values in RECORDS.items():
        assert json.loads((folder.path / name).read_text()) == values


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    RunFolder(tmp_path).check_free()
    RunFolder(tmp_path).create(RECORDS)
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("left", [[], ["split.json"], ["split.json", "environment.json", LEFT]])
def test_a_start_that_was_killed_before_its_configuration_is_begun_again(tmp_path: Path, left: list[str]) -> None:
    (tmp_path / LOCK_FILE).write_text(f"{ENDED}\n")
    RunFolder(tmp_path).write_records({name: RECORDS[name] for name in left if name in RECORDS})
    if LEFT in left:
        (tmp_path / LEFT).write_text("half a file")
    RunFolder(tmp_path).check_free()
    with RunFolder(tmp_path).locked():
        assert not (tmp_path / LEFT).exists()
    RunFolder(tmp_path).create(RECORDS)
    assert json.loads((tmp_path / "split.json").read_text()) == RECORDS["split.json"]


def test_a_run_that_finished_no_epoch_gives_way_to_one_of_other_options(folder: RunFolder) -> None:
    folder.checkpoints.mkdir()
    (folder.path / LOCK_FILE).write_text(f"{ENDED}\n")
    (folder.checkpoints / LEFT).write_text("of a checkpoint that was being written")
    other = {**RECORDS, "config.json": replace(CONFIG, batch_size=2).to_json()}
    folder.create(other)
    assert folder.config()["batch_size"] == 2
    (folder.checkpoints / "last.training.safetensors").write_text("of a finished epoch")
    with pytest.raises(UserError, match=r"found files in it"):
        folder.create(RECORDS)
    assert folder.config()["batch_size"] == 2


@pytest.mark.parametrize("name", ["split.json", "environment.json"])
def test_a_record_of_something_else_is_never_replaced(tmp_path: Path, name: str) -> None:
    for text in ("mine", '{"mine": 1}', json.dumps(RECORDS[name], indent=2) + "\n"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=r"found files in it"):
            RunFolder(tmp_path).create(RECORDS)
        assert (tmp_path / name).read_text() == text


def test_a_folder_named_like_a_file_that_a_kill_left_is_not_one(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text(f"{ENDED}\n")
    (tmp_path / LEFT).mkdir()
    with pytest.raises(UserError, match=r"found files in it"):
        RunFolder(tmp_path).create(RECORDS)


@pytest.mark.parametrize("config", ["{}", "[]", "{", '{"my": "settings"}', json.dumps(CONFIG.to_json())])
def test_a_configuration_of_something_else_is_never_replaced(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=r"found files in it"):
        RunFolder(tmp_path).create(RECORDS)
    assert (tmp_path / "config.json").read_text() == config


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "checkpoints", ".hidden", ".cgan-a.tmp", ".lock", "a.tmp"]
)
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    for attempt in (RunFolder(tmp_path).check_free, lambda: RunFolder(tmp_path).create(RECORDS)):
        with pytest.raises(UserError, match=r"found files in it.*--resume or another --out"):
            attempt()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_one_training_at_a_time_works_in_a_folder(folder: RunFolder) -> None:
    refused = pytest.raises(UserError, match=r"another cgan-train that trains in it")
    with folder.locked(), refused, RunFolder(folder.path).locked():
        pytest.fail("two at a time")
    with RunFolder(folder.path).locked():
        assert folder.config() == CONFIG.to_json()


def test_a_folder_that_no_run_was_begun_in_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(UserError, match=r"too few photos"), RunFolder(tmp_path / name).locked():
            raise UserError("too few photos")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    RunFolder(tmp_path / "empty").check_free()
    with RunFolder(tmp_path / "new").locked():
        RunFolder(tmp_path / "new").create(RECORDS)
    assert (tmp_path / "new" / "config.json").exists()


def test_file_systems_without_locks_are_warned_of(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(code: int) -> Callable[..., None]:
        def flock(*arguments: object) -> None:
            raise OSError(code, os.strerror(code))

        return flock

    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    with folder.locked():
        pass
    assert "its file system has no locks" in capsys.readouterr().err
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(GateError, match=r"cannot be written"), folder.locked():
        pytest.fail("not locked")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError):
            RunFolder(path).create(RECORDS)
        with pytest.raises(UserError):
            RunFolder(path).check_resumable(RECORDS)
    assert (tmp_path / "file").read_text() == "mine"


# the same run again


def test_the_same_options_and_another_number_of_epochs_are_the_same_run(folder: RunFolder) -> None:
    folder.check_resumable(RECORDS)
    folder.check_resumable({**RECORDS, "config.json": replace(CONFIG, epochs=9).to_json()})
    folder.check_resumable({**RECORDS, "environment.json": {"torch": "3"}})
    assert json.loads((folder.path / "config.json").read_text()) == CONFIG.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.002}, "lr was 0.0005 and is 0.002;"),
        ({"lr": 0.002, "width": 4}, "width was 1 and is 4, lr was 0.0005 and is 0.002;"),
        ({"discriminator": "none"}, "discriminator was unet and is none;"),
        ({"best_by": "l1"}, "best_by was psnr and is l1;"),
        ({"save_every": 5}, "save_every was 0 and is 5;"),
    ],
)
def test_other_options_are_named_with_old_and_new(folder: RunFolder, change: dict[str, Any], message: str) -> None:
    before = contents(folder.path)
    with pytest.raises(UserError, match=f"^--resume: {message} .*only --epochs may change"):
        folder.check_resumable({**RECORDS, "config.json": replace(CONFIG, **change).to_json()})
    assert contents(folder.path) == before


def test_options_newer_than_the_run_have_their_defaults(folder: RunFolder) -> None:
    old = {name: value for name, value in CONFIG.to_json().items() if name not in ("ema", "blocks")}
    (folder.path / "config.json").write_text(json.dumps(old))
    folder.check_resumable(RECORDS)
    with pytest.raises(UserError, match=r"ema was 0\.0 and is 0\.5"):
        folder.check_resumable({**RECORDS, "config.json": replace(CONFIG, ema=0.5).to_json()})


@pytest.mark.parametrize("values", [{"momentum": 0.9}, [], "config"])
def test_what_is_no_configuration_is_refused(folder: RunFolder, values: Any) -> None:
    (folder.path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config\.json is not a run's configuration"):
        folder.check_resumable(RECORDS)


def test_other_photos_are_refused(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="the photos are not those"):
        folder.check_resumable({**RECORDS, "split.json": {"train": ["c.jpg"], "test": ["b.jpg"]}})


@pytest.mark.parametrize("name", ["config.json", "split.json"])
def test_missing_and_broken_records_are_refused(folder: RunFolder, name: str) -> None:
    changes: tuple[tuple[Callable[[Path], object], str], ...] = (
        (lambda path: path.write_text("{"), "restore it, or begin a run with another --out"),
        (lambda path: path.unlink(), "start without --resume"),
        (lambda path: path.mkdir(), "restore it, or begin a run with another --out"),
    )
    for change, advice in changes:
        change(folder.path / name)
        with pytest.raises(UserError, match=rf"--resume: .*{name} cannot be read .*; {advice}"):
            folder.check_resumable(RECORDS)


@pytest.mark.parametrize(
    ("old", "decay", "done", "new", "allowed"),
    [
        (5, 0, 3, 3, True),
        (5, 0, 3, 9, True),
        (5, 0, 5, 9, True),
        (5, 0, 3, 2, False),
        (5, 2, 4, 5, True),  # the same end
        (5, 2, 3, 9, True),  # epoch 4 would be the first with a smaller learning rate
        (5, 2, 4, 9, False),
        (9, 2, 3, 5, True),
        (9, 2, 4, 5, False),  # epoch 4 would have had a smaller one
        (5, 5, 0, 9, True),
        (5, 5, 1, 9, False),
    ],
)
def test_the_number_of_epochs_may_change_while_no_epoch_is_affected(
    folder: RunFolder, old: int, decay: int, done: int, new: int, allowed: bool
) -> None:
    config = replace(CONFIG, epochs=old, decay_epochs=decay)
    folder.write_records({"config.json": config.to_json()})
    check = partial(folder.check_epochs, replace(config, epochs=new), [{}] * done)
    if allowed:
        assert [config.lr_scale(e) for e in range(1, done + 1)] == [
            replace(config, epochs=new).lr_scale(e) for e in range(1, done + 1)
        ]
        check()
    else:
        with pytest.raises(UserError, match=rf"^--epochs {new}: .*(has {done} already|end of epoch {old}; give)"):
            check()


# what an epoch leaves


def test_nothing_to_load_before_the_first_epoch(folder: RunFolder) -> None:
    assert folder.load({}, {}) is None


@pytest.mark.parametrize("name", ["last.safetensors", "metrics.jsonl"])
def test_epochs_without_their_training_state_are_not_begun_again(
    folder: RunFolder, publish: Publish, name: str
) -> None:
    publish(20.0)
    for path in contents(folder.path):
        if path.name not in (name, *RECORDS):
            path.unlink()
    with pytest.raises(UserError, match=r"finished epochs .* but no .*last\.training\.safetensors .*--init"):
        folder.load({}, {})


def test_progress_comes_back_with_the_networks(folder: RunFolder) -> None:
    network, other = generator(1), generator(2)
    epoch = {"epoch": 1, "test_psnr": float("inf"), "finished_at": 1.5, "time_shares": {"data": 0.5}}
    progress = {"history": [epoch], "steps": 7, "scaler": {}}
    folder.save(training_tensors({"generator": network}, {}), progress)
    assert folder.load({"generator": other}, {}) == progress
    assert torch.equal(network.body.head.weight, other.body.head.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": {}}, "found field history"),
        ({"steps": "7"}, "found field steps '7', expected a whole number"),
        ({"epoch": 2}, "found epoch 2 in place 1"),
        ({"time_shares": []}, "found field time_shares"),
        ({"finished_at": None}, "found field finished_at None"),
        ({"test_psnr": "x"}, "found metric test_psnr 'x', expected a number"),
        ({"test_psnr": None}, "found metric test_psnr None, expected a number"),
        ({"test_psnr": {}}, "found metric test_psnr None, expected a number"),
    ],
)
def test_progress_of_other_types_is_refused(folder: RunFolder, change: dict[str, object], message: str) -> None:
    epoch = {"epoch": 1, "test_psnr": 1.0, "finished_at": 1.5, "time_shares": {"data": 0.5}}
    progress = {"history": [epoch], "steps": 7, "scaler": {}}
    progress |= change if change.keys() <= progress.keys() else {"history": [epoch | change]}
    folder.save(training_tensors({"generator": generator(1)}, {}), progress)
    with pytest.raises(UserError, match=f"--resume: .*is not the training state of this run .{message}.*restore it"):
        folder.load({"generator": generator(2)}, {})


def test_publishing_writes_every_file_that_users_read(folder: RunFolder, publish: Publish) -> None:
    last = publish(20.0, 21.0)
    assert {path.relative_to(folder.path).as_posix() for path in contents(folder.path)} == {
        *RECORDS,
        *("metrics.jsonl", "curves.png", "samples/epoch-0001.png", "samples/epoch-0002.png"),
        *("checkpoints/last.safetensors", "checkpoints/best.safetensors", "tensorboard/events.out.tfevents.0.cgan"),
        *(f"tensorboard/samples/events.out.tfevents.000000{epoch}.cgan" for epoch in (1, 2)),
    }
    assert load_generator(folder.path)[1].weights_sha256 == weights_digest(last.state_dict())
    assert (folder.path / "curves.png").read_text() == "2"
    with Image.open(folder.path / "samples" / "epoch-0002.png") as image:
        assert (image.size, image.getpixel((0, 0))) == ((4, 5), (1, 2, 3))
    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("psnr/test")] == [20.0, 21.0]


def test_metrics_are_json_even_where_a_value_is_infinite(folder: RunFolder, publish: Publish) -> None:
    publish(float("inf"), float("nan"), 20.0)
    found = strict_lines(folder.path / "metrics.jsonl")
    assert [metrics["test_psnr"] for metrics in found] == [None, None, 20.0]
    assert [metrics["epoch"] for metrics in found] == [1, 2, 3]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("psnr", [20.0, 22.0, 21.0], 2),
        ("psnr", [20.0, 22.0, 22.0], 2),
        ("l1", [0.3, 0.1, 0.2], 2),
        ("l1", [0.1, 0.1], 1),
        ("fid", [{"value": 70.0}, {"value": 50.0}, {"value": 60.0}], 2),
        ("kid", [{"value": 0.1}, {"value": 0.2}, {"value": -0.1}], 3),
    ],
)
@pytest.mark.slow
def test_the_best_checkpoint_is_that_of_the_best_epoch(
    folder: RunFolder, publish: Publish, metric: str, values: list[Any], best: int
) -> None:
    publish(*values, metric=metric)
    assert best_epoch([{f"test_{metric}": value} for value in values], metric) == best
    assert saved_epoch(folder.checkpoints / "best.safetensors") == best
    assert saved_epoch(folder.checkpoints / "last.safetensors") == len(values)
    assert saved_epoch(folder.path) == best


def test_every_nth_checkpoint_is_kept(folder: RunFolder, publish: Publish) -> None:
    publish(20.0, 21.0, 22.0, 21.0, 20.0, save_every=2)
    kept = {path.name: saved_epoch(path) for path in folder.checkpoints.glob("epoch-*")}
    assert kept == {"epoch-0002.safetensors": 2, "epoch-0004.safetensors": 4}


@pytest.mark.parametrize(
    ("number", "at_the_start"), [(errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EFBIG, 1), (errno.EACCES, 2)]
)
def test_what_cannot_be_written_is_said(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int, at_the_start: int
) -> None:
    def fails(_: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("os.fsync", fails)
    metrics = {"epoch": 1, "test_psnr": 20.0, "time_shares": {}, "finished_at": 1.0}
    writes: tuple[tuple[Callable[[], object], int], ...] = (
        (lambda: folder.save(training_tensors({"generator": generator(1)}, {}), {"history": []}), 1),
        (lambda: folder.publish(generator(1), CONFIG, [metrics], [SHEET]), 1),
        (lambda: folder.write_records(RECORDS), at_the_start),
        (lambda: RunFolder(folder.path / "new").create(RECORDS), at_the_start),
    )
    for write, code in writes:
        with pytest.raises(UserError, match=r"cannot be written") as caught:
            write()
        assert caught.value.exit_code == code
    assert {path.name for path in contents(folder.path)} == RECORDS.keys()
