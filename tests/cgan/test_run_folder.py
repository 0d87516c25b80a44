"""The folder of a run: what is refused, what survives, what the files hold."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cgan.config import TrainConfig
from cgan.networks import Generator
from cgan.run_folder import RunFolder
from cgan.spec import GateError, UserError

CONFIG = TrainConfig(width=1, size=32, device="cpu", precision="fp32", fid=False)
RECORDS: dict[str, Any] = {
    "config.json": {"width": 1, "lr": 0.001, "epochs": 2},
    "split.json": {"train": ["a.jpg"], "test": ["b.jpg"]},
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that has just begun."""
    run = RunFolder(tmp_path / "runs" / "first")
    run.create(RECORDS)
    return run


def strict_lines(path: Path) -> list[Any]:
    """JSON lines, without the NaN and Infinity that Python would also take."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_records_are_written_below_a_new_folder(folder: RunFolder) -> None:
    assert {path.name for path in folder.path.iterdir()} == RECORDS.keys()
    for name, values in RECORDS.items():
        assert json.loads((folder.path / name).read_text()) == values


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    RunFolder(tmp_path).create(RECORDS)
    assert (tmp_path / "config.json").exists()


def test_a_folder_that_holds_something_is_refused_and_left_alone(folder: RunFolder) -> None:
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with pytest.raises(UserError, match=r"first: found files in it.*--resume or another --out"):
        folder.create({"config.json": {}})
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError):
            RunFolder(path).create(RECORDS)
        with pytest.raises(UserError):
            RunFolder(path).reopen(RECORDS)
    assert (tmp_path / "file").read_text() == "mine"


def test_reopening_takes_the_same_options_and_more_epochs(folder: RunFolder) -> None:
    folder.reopen(RECORDS)
    folder.reopen({**RECORDS, "config.json": {**RECORDS["config.json"], "epochs": 9}})
    assert json.loads((folder.path / "config.json").read_text())["epochs"] == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.002}, "lr was 0.001 and is 0.002"),
        ({"lr": 0.002, "width": 4}, "width was 1 and is 4"),
        ({"momentum": 0.9}, "momentum was None and is 0.9"),
    ],
)
def test_reopening_with_other_options_names_old_and_new(
    folder: RunFolder, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"--resume: .*{message}.*only --epochs may change"):
        folder.reopen({**RECORDS, "config.json": {**RECORDS["config.json"], **change}})
    assert json.loads((folder.path / "config.json").read_text()) == RECORDS["config.json"]


def test_reopening_with_fewer_epochs_than_are_done_is_refused(folder: RunFolder) -> None:
    folder.publish(Generator(width=1), CONFIG, [{"epoch": 1}, {"epoch": 2}])
    folder.reopen(RECORDS)
    with pytest.raises(UserError, match=r"--epochs 1: .*has 2 already"):
        folder.reopen({**RECORDS, "config.json": {**RECORDS["config.json"], "epochs": 1}})


def test_reopening_with_an_option_gone_is_refused(folder: RunFolder) -> None:
    with pytest.raises(UserError, match=r"lr was 0\.001 and is None"):
        folder.reopen({**RECORDS, "config.json": {"width": 1, "epochs": 2}})


def test_reopening_with_other_photos_is_refused(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="the photos are not those"):
        folder.reopen({**RECORDS, "split.json": {"train": ["c.jpg"], "test": ["b.jpg"]}})


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_reopening_without_or_with_broken_records_is_refused(folder: RunFolder, name: str) -> None:
    for change in (lambda path: path.write_text("{"), lambda path: path.unlink(), lambda path: path.write_text("[]")):
        change(folder.path / name)
        with pytest.raises(UserError, match="--resume: "):
            folder.reopen(RECORDS)


def test_nothing_to_load_before_the_first_epoch(folder: RunFolder) -> None:
    assert folder.load({}, {}) is None


def test_metrics_are_json_even_where_a_value_is_infinite(folder: RunFolder) -> None:
    history = [{"epoch": 1, "psnr": float("inf"), "l1": 0.5}, {"epoch": 2, "psnr": float("nan"), "fid": {"value": 1.5}}]
    folder.publish(Generator(width=1), CONFIG, history)
    assert strict_lines(folder.path / "metrics.jsonl") == [
        {"epoch": 1, "psnr": None, "l1": 0.5},
        {"epoch": 2, "psnr": None, "fid": {"value": 1.5}},
    ]


def test_progress_comes_back_with_the_networks(folder: RunFolder) -> None:
    torch.manual_seed(0)
    network, other = Generator(width=1), Generator(width=1)
    folder.save({"generator": network}, {}, {"history": [{"epoch": 1}]})
    assert folder.load({"generator": other}, {}) == {"history": [{"epoch": 1}]}
    assert torch.equal(network.body.head.weight, other.body.head.weight)


def test_samples_are_named_for_their_epoch(folder: RunFolder) -> None:
    sheet = Image.new("RGB", (4, 5), (1, 2, 3))
    folder.save_samples(sheet, 7)
    folder.save_samples(sheet, 1234)
    assert sorted(path.name for path in (folder.path / "samples").iterdir()) == ["epoch-0007.png", "epoch-1234.png"]
    with Image.open(folder.path / "samples" / "epoch-0007.png") as image:
        assert (image.size, image.getpixel((0, 0))) == ((4, 5), (1, 2, 3))


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [(errno.ENOSPC, GateError, 1), (errno.EDQUOT, GateError, 1), (errno.EACCES, UserError, 2)],
)
def test_what_cannot_be_written_is_said(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[UserError], code: int
) -> None:
    def fails(_: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("os.fsync", fails)
    network = Generator(width=1)
    for write in (
        lambda: folder.save({"generator": network}, {}, {"history": []}),
        lambda: folder.publish(network, CONFIG, []),
        lambda: folder.save_samples(Image.new("RGB", (4, 4)), 1),
        lambda: folder.reopen(RECORDS),
    ):
        with pytest.raises(kind, match=r"first: cannot be written") as caught:
            write()
        assert caught.value.exit_code == code
    assert {path.name for path in folder.path.rglob("*") if path.is_file()} == RECORDS.keys()
