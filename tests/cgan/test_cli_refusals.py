"""Refusals of cgan-train: one line, the right exit code, and no files left."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cgan import files
from cgan.cli import main
from cgan.training.run_folder import RunFolder

Train = Callable[..., Any]


@pytest.fixture
def train(
    monkeypatch: pytest.MonkeyPatch, invoke: Train, photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> Train:
    """`train(*options, data=..., out=...)`: one tiny epoch into tmp_path / "run".

    Without curves, which have tests of their own and take longer than an epoch here.
    """
    monkeypatch.setattr("cgan.training.run_folder.save_curves", lambda history, path: path.touch())

    def call(*options: object, data: Path | str = photo_folder, out: Path = tmp_path / "run") -> Any:
        return invoke(main, data, "--out", out, *tiny_options, "--epochs", 1, *options)

    return call


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--width", 0), "--width: found 0, expected 1 to 512"),
        (("--blocks", 0), "--blocks: found 0, expected 1 to 64"),
        (("--size", 100), "--size: found 100, expected a multiple of 16, from 32 to 4096"),
        (("--size", 16), "--size: found 16, expected a multiple of 16, from 32 to 4096"),
        (("--epochs", 0), "--epochs: found 0, expected 1 to 1,000,000"),
        (("--warmup-epochs", 2), "--warmup-epochs: found 2, expected 0 to --epochs"),
        (("--decay-epochs", 2), "--decay-epochs: found 2, expected 0 to --epochs"),
        (("--batch-size", 0), "--batch-size: found 0, expected 1 to 65,536"),
        (("--lr", 0), "--lr: found 0.0, expected a finite number above 0"),
        (("--lr", "nan"), "--lr: found nan, expected a finite number above 0"),
        (("--seed", -1), "--seed: found -1, expected a whole number"),
        (("--test-fraction", 1), "--test-fraction: found 1.0, expected a share between 0 and 1"),
        (("--l1-weight", -1), "--l1-weight: found -1.0, expected a number from 0 to 1e+09"),
        (("--label-smoothing", 0.5), "--label-smoothing: found 0.5, expected a number in (0.5, 1]"),
        (("--label-smoothing", 1.01), "--label-smoothing: found 1.01, expected a number in (0.5, 1]"),
        (("--r1", "inf"), "--r1: found inf, expected a number from 0 to 1e+09"),
        (("--discriminator-scales", 6), "--discriminator-scales: found 6, expected 2 to 5"),
        (("--ema", 1), "--ema: found 1.0, expected a decay in [0, 1)"),
        (("--best-by", "fid"), "--best-by: found fid, expected psnr or l1 with --no-fid"),
    ],
)
def test_bad_values_are_refused_by_name(train: Train, tmp_path: Path, options: tuple[object, ...], named: str) -> None:
    assert train(*options).error(2).startswith(f"error: {named}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loss-space", "rgb"), "--loss-space rgb: it has no effect without --color-space hsv or ycbcr"),
        (("--discriminator", "none", "--r1", 10), "--r1 10.0: it has no effect without a discriminator"),
        (("--discriminator", "none", "--gan-loss", "hinge"), "--gan-loss hinge: it has no effect without a discr"),
        (("--discriminator", "none", "--warmup-epochs", 1), "--warmup-epochs 1: it has no effect without a discr"),
        (
            ("--discriminator", "patch", "--discriminator-scales", 3),
            "--discriminator-scales 3: it has no effect without --discriminator unet",
        ),
        (("--gan-loss", "hinge", "--label-smoothing", 0.8), "--label-smoothing 0.8: it has no effect without --gan"),
        (("--gradient-penalty", 10), "--gradient-penalty 10.0: it has no effect without --gan-loss wasserstein"),
        (("--weight-clip", 0.01), "--weight-clip 0.01: it has no effect without --gan-loss wasserstein"),
        (("--compile", "--r1", 10), "--r1: found 10.0, expected 0 with --compile"),
        (("--gan-loss", "wasserstein", "--weight-clip", 1, "--spectral-norm"), "--weight-clip: found 1.0, expected 0"),
        (("--discriminator", "none", "--l1-weight", 0), "--l1-weight: found 0.0, expected more than 0"),
        (("--inception-weights", "file.pth"), "--inception-weights file.pth: it has no effect without FID"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    train: Train, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    assert train(*options).error(2).startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["photos"],
        ["photos", "--out", "run", "--width", "wide"],
        ["photos", "--out", "run", "--discriminator", "vit"],
        ["photos", "--out", "run", "--precision", "fp8"],
        ["photos", "--out", "run", "--color-space", "lab"],
        ["photos", "--out", "run", "--nonsense"],
        ["photos", "more", "--out", "run"],
    ],
)
def test_a_command_line_that_is_none_exits_2(invoke: Train, arguments: list[str]) -> None:
    result = invoke(main, *arguments)
    assert result.code == 2
    assert "Error: " in result.err
    assert "Traceback" not in result.err


def test_device_cuda_without_one_is_refused(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda" in train("--device", "cuda").error(2)
    assert "--precision fp16" in train("--precision", "fp16").error(2)
    assert not (tmp_path / "run").exists()


def test_missing_packages_are_named_with_the_extra(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("cgan.training.run_state")
    monkeypatch.setitem(sys.modules, "cgan.training.run_state", None)
    assert "pip install 'cgan[train]'" in train().error(2)


WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorboard", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from cgan import files
from cgan.cli import main
from cgan.training.run_folder import RunFolder
main()
"""
"""cgan-train without two of its packages."""


@pytest.mark.slow
def test_packages_that_an_epoch_ends_with_are_missed_before_it_begins(
    photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> None:
    options = [photo_folder, "--out", tmp_path / "run", *tiny_options, "--epochs", 1]
    command = [sys.executable, "-c", WITHOUT, *map(str, options)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1 and "pip install 'cgan[train]'" in result.stderr
    assert not (tmp_path / "run").exists()


# photos


def test_photos_that_are_not_there_are_refused(train: Train, tmp_path: Path) -> None:
    assert "no such folder" in train(data=tmp_path / "nowhere").error(2)
    (tmp_path / "empty").mkdir()
    assert "found no photos" in train(data=tmp_path / "empty").error(2)
    Image.new("RGB", (40, 40)).save(tmp_path / "empty" / "one.png")
    assert "found 1 different photo, expected at least 2" in train(data=tmp_path / "empty").error(2)
    shutil.copy(tmp_path / "empty" / "one.png", tmp_path / "empty" / "same.png")
    assert "found 1 different photo, expected at least 2" in train(data=tmp_path / "empty").error(2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("good", "broken"), [(6, 1), (0, 3)])
def test_broken_photos_are_refused(
    train: Train, tmp_path: Path, make_photos: Callable[..., Path], good: int, broken: int
) -> None:
    folder = make_photos(tmp_path / "photos", good)
    folder.mkdir(exist_ok=True)
    for i in range(broken):
        (folder / f"broken-{i}.jpg").write_bytes(b"no photo %d" % i)
    error = train(data=folder).error(2)
    assert f"{broken} of {good + broken} photos cannot be read" in error and "broken-0.jpg" in error
    assert not (tmp_path / "run").exists()


def test_fid_of_one_held_out_photo_is_refused_before_training(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgan.metrics.features.load_inception", lambda path: None)
    assert "--no-fid" in train("--fid", "--test-fraction", 0.01).error(2)
    assert not (tmp_path / "run").exists()


def test_flowers102_without_a_network_is_refused(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    error = train(data="flowers102").error(2)
    assert "flowers102 cannot be downloaded" in error and "name resolution" in error and "by hand" in error
    assert not (tmp_path / "run").exists()


# the folder of the run


def test_a_folder_that_holds_something_is_refused(train: Train, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "use --resume or another --out" in train().error(2)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert "found a file" in train(out=tmp_path / "run" / "notes.txt").error(2)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_folder_that_holds_another_run_is_refused(train: Train, trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    before = contents(run)
    assert "use --resume or another --out" in train().error(2)
    assert contents(run) == before


def test_a_run_among_its_own_photos_is_refused(train: Train, tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    before = sorted(folder.rglob("*"))
    for out in (folder / "run", tmp_path / "photos" / ".." / "photos" / "run"):
        assert "found it inside" in train(data=folder, out=out).error(2)
    assert train(data=folder, out=folder).error(2)
    assert sorted(folder.rglob("*")) == before


# while it runs


def test_a_diverged_run_fails_with_one_line(train: Train, tmp_path: Path) -> None:
    error = train("--lr", 1e30).error(1)
    assert "not finite at step " in error and "last good checkpoint: none yet" in error and "--lr" in error
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert train() == (0, "", "")  # the corrected command may use the folder, as nothing in it would be lost


def test_a_folder_that_another_process_trains_in_is_refused(train: Train, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").locked():
        assert "another cgan-train that trains in it" in train().error(2)
    assert train() == (0, "", "")
    with RunFolder(tmp_path / "run").locked():
        assert "another cgan-train that trains in it" in train("--resume").error(2)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("*.npy", "prepared photos"),
        ("split.json", "run: cannot be written"),
        ("config.json", "run: cannot be written"),
        ("last.training.safetensors", "run: cannot be written"),
        ("metrics.jsonl", "run: cannot be written"),
    ],
)
@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_no_half_file(
    train: Train, tmp_path: Path, photo_cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    def full(path: Path, target: Path, *arguments: Any) -> Any:
        if target.match(name):
            raise OSError(28, "No space left on device")
        return take_name(path, target, *arguments)

    take_name = files.place
    with monkeypatch.context() as patch:
        patch.setattr(files, "place", full)
        error = train().error(1)
    assert place in error and "No space left on device" in error
    assert not [path for folder in (tmp_path, photo_cache) for path in folder.rglob("*.tmp")]
    begun = (tmp_path / "run" / "config.json").exists()
    assert begun == (name in ("last.training.safetensors", "metrics.jsonl"))
    assert train(*["--resume"] * begun) == (0, "", "")
