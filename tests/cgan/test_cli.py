"""cgan-train end to end: its files and its output."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cgan
from cgan import progress
from cgan.cli import command, main
from cgan.config import TrainConfig
from cgan.metrics.features import FeatureNetwork
from cgan.training.checkpoint import load_generator

Train = Callable[..., Any]


@pytest.fixture
def train(invoke: Train, photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]) -> Train:
    """`train(*options, data=..., out=...)`: one tiny epoch into tmp_path / "run"."""

    def call(*options: object, data: Path = photo_folder, out: Path = tmp_path / "run") -> Any:
        return invoke(main, data, "--out", out, *tiny_options, "--epochs", 1, *options)

    return call


@pytest.fixture
def talk(invoke: Train, photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]) -> Train:
    """`talk(*options)`: the same without --quiet."""
    loud = [option for option in tiny_options if option != "--quiet"]
    return lambda *options: invoke(main, photo_folder, "--out", tmp_path / "run", *loud, *options)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# what a run leaves


def test_the_number_of_photos_trained_and_held_out(trained_run: Path, photo_folder: Path) -> None:
    parts = json.loads((trained_run / "split.json").read_text())
    assert (len(parts["train"]), len(parts["test"])) == (9, 3)
    names = {path.relative_to(photo_folder).as_posix() for path in photo_folder.rglob("*.*")}
    assert {*parts["train"], *parts["test"]} == names


def test_a_run_holds_what_the_design_promises(trained_run: Path) -> None:
    files = {path.relative_to(trained_run).as_posix() for path in trained_run.rglob("*") if path.is_file()}
    assert files >= {
        *("config.json", "split.json", "environment.json", "metrics.jsonl", "curves.png"),
        *("checkpoints/last.safetensors", "checkpoints/best.safetensors", "checkpoints/last.training.safetensors"),
        *("samples/epoch-0001.png", "samples/epoch-0002.png", "tensorboard/events.out.tfevents.0.cgan"),
    }
    assert [epoch["epoch"] for epoch in lines(trained_run)] == [1, 2]
    for epoch in lines(trained_run):
        for name in ("train_l1", "test_l1", "test_psnr", "test_gray_psnr", "test_colorfulness", "train_adversarial"):
            assert math.isfinite(epoch[name])
        assert 0 < epoch["test_l1"] < 1
        assert epoch["images_per_second"] > 0
        assert 0 < sum(epoch["time_shares"].values()) <= 1
        assert not {"test_fid", "test_kid", "skipped_steps"} & epoch.keys()
    for name, size in (("samples/epoch-0002.png", (3 * 34, 3 * 34)), ("curves.png", (1350, 640))):
        with Image.open(trained_run / name) as image:
            assert (image.format, image.size) == ("PNG", size)


@pytest.fixture
def mixed(tmp_path: Path, photo_folder: Path) -> Callable[..., Path]:
    """`mixed(gray, colored)`: a folder with these numbers of gray and coloured photos."""

    def make(gray: int, colored: int) -> Path:
        folder = tmp_path / "mixed"
        folder.mkdir()
        for i, path in enumerate(sorted(photo_folder.rglob("*.png"))):
            with Image.open(path) as image:
                if i < gray:
                    image.convert("L").save(folder / path.name)
                if i < colored:
                    image.save(folder / f"colored-{path.name}")
        return folder

    return make


def test_gray_photos_teach_nothing_and_are_refused(train: Train, tmp_path: Path, mixed: Callable[..., Path]) -> None:
    error = train(data=mixed(6, 0)).error(2)
    assert "all 6 photos are near gray" in error and "give photos in colour" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_gray_photos_alone_in_a_part_are_refused(train: Train, tmp_path: Path, mixed: Callable[..., Path]) -> None:
    folder, messages = mixed(4, 2), []
    for seed in range(12):
        result = train("--seed", seed, data=folder, out=tmp_path / str(seed))
        if result.code == 0:
            assert result.err == "warning: 4 of 6 photos are near gray\n"
            (found,) = lines(tmp_path / str(seed))
            assert math.isfinite(found["test_gray_psnr"])
        else:
            messages.append(result.error(2))
    assert 0 < len(messages) < 12
    assert all(re.search("(held-out|training) photos? of 6, all of them near gray", m) for m in messages)


def test_device_and_precision_auto_are_resolved(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train("--device", "auto", "--precision", "auto").code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["device"], config["best_by"]) == ("cpu", "psnr")
    assert config["precision"] in ("fp32", "bf16")


# FID and KID


class MeanColor(nn.Module):
    """The three channel means as features."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """Record the requested Inception weights, and use mean colours as features."""
    seen: list[Path | None] = []

    def load(path: Path | None) -> FeatureNetwork:
        seen.append(path)
        return FeatureNetwork(MeanColor(), 3, {"network": "mean colour", "weights_sha256": "0" * 64})

    monkeypatch.setattr("cgan.metrics.features.load_inception", load)
    return seen


def test_fid_and_kid_are_written_with_their_fingerprint(
    train: Train, talk: Train, tmp_path: Path, asked: list[Path | None]
) -> None:
    assert train(out=tmp_path / "plain").code == 0
    assert asked == []
    result = talk("--epochs", 1, "--fid", "--inception-weights", tmp_path / "weights.pth")
    assert result.code == 0
    assert asked == [tmp_path / "weights.pth"]
    (found,) = lines(tmp_path / "run")
    for name in ("test_fid", "test_kid"):
        assert {"value", "photos", "network", "weights_sha256", "versions"} <= found[name].keys()
        assert found[name]["photos"] == 3
    assert json.loads((tmp_path / "run" / "config.json").read_text())["best_by"] == "fid"
    assert re.search(rf"\nepoch .*  FID .*\n  1/1  .* {found['test_fid']['value']:.2f} ", result.err)
    # measuring changes nothing
    digests = [load_generator(tmp_path / name)[1].weights_sha256 for name in ("run", "plain")]
    assert digests[0] == digests[1]


def test_fid_is_on_unless_left_out_and_needs_its_weights(
    invoke: Train, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    tiny = ("--width", 4, "--size", 32, "--device", "cpu")
    for options in ((), ("--inception-weights", tmp_path / "mine.pth")):
        error = invoke(main, photo_folder, "--out", tmp_path / "run", *tiny, *options).error(2)
        assert "--inception-weights" in error and "--no-fid" in error
        assert str(options[-1] if options else tmp_path / "torch") in error
    assert not list(tmp_path.iterdir())


# dry run


def test_a_dry_run_prints_the_resolved_configuration_and_touches_nothing(
    train: Train, tmp_path: Path, photo_folder: Path, photo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    photo_cache.rmdir()
    options = ("--color-space", "hsv", "--loss-space", "rgb", "--ema", 0.5, "--decay-epochs", 1, "--lr", 0.25, "--flip")
    result = train("--dry-run", "--device", "auto", "--precision", "auto", *options)
    assert (result.code, result.err) == (0, "")
    printed = json.loads(result.out)
    assert printed.pop("photos") == 12
    assert printed.pop("folder") == str(photo_folder)
    assert printed.pop("out") == str(tmp_path / "run")
    assert printed.pop("memory_bytes")["needed"] > 2**29
    assert printed.keys() == TrainConfig().to_json().keys()
    config = TrainConfig(**printed)
    assert (config.color_space, config.loss_space, config.ema, config.decay_epochs) == ("hsv", "rgb", 0.5, 1)
    assert (config.device, config.lr, config.flip, config.best_by, config.epochs) == ("cpu", 0.25, True, "psnr", 1)
    assert config.precision in ("fp32", "bf16")
    assert not list(tmp_path.iterdir())
    assert not photo_cache.exists()


def test_a_dry_run_of_flowers102_downloads_nothing(
    train: Train, tmp_path: Path, photo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    result = train("--dry-run", data="flowers102")
    printed = json.loads(result.out)
    assert (result.code, printed["photos"]) == (0, None)
    assert printed["folder"] == str(photo_cache / "flowers102" / "flowers-102" / "jpg")
    assert not list(tmp_path.iterdir())
    assert not list(photo_cache.iterdir())


def test_a_dry_run_of_a_resume_leaves_the_run_alone(train: Train, trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*.*")}
    assert train("--dry-run", "--resume", "--lr", 0.005, "--epochs", 3).code == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*.*")} == before


def test_a_dry_run_refuses_what_the_run_would(train: Train, tmp_path: Path) -> None:
    assert "--width" in train("--dry-run", "--width", 0).error(2)
    assert "no such folder" in train("--dry-run", data=tmp_path / "nowhere").error(2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    assert "found files in it" in train("--dry-run").error(2)


# output


def test_quiet_says_nothing(train: Train) -> None:
    assert train() == (0, "", "")  # --quiet is among the tiny options


@pytest.mark.slow
def test_progress_goes_to_stderr_a_line_an_epoch(talk: Train, tmp_path: Path) -> None:
    result = talk("--epochs", 2)
    assert result.code == 0
    assert result.out == ""
    assert (
        "training on 9 photos, 3 held out; cpu, fp32\nnote: figures of 3 held-out photos are unreliable" in result.err
    )
    fixed, headings, *rows, done, following = result.err.splitlines()[2:]
    assert re.fullmatch(r"held-out photos: PSNR of gray [\d.]+ dB, colourfulness of real [\d.]+", fixed)
    assert re.split("  +", headings.strip()) == [
        *("epoch", "L1", "held out", "PSNR dB", "colour", "D right", "img/s", "left")
    ]
    for epoch, row in enumerate(rows, 1):
        assert re.fullmatch(rf" *{epoch}/2  0\.\d{{4}} +0\.\d{{4}} +\d\d\.\d\d +[\d.]+ +\d+% +[\d.]+ +00:\d\d", row)
    assert rows[1].endswith("  00:00")
    assert all(len(line) < 80 for line in (fixed, headings, *rows))
    assert re.fullmatch(rf"done: {tmp_path / 'run'} holds 2 epochs, the best by psnr is [12]", done)
    assert following == f"next: cgan-export {tmp_path / 'run'} --out models"


def test_without_a_discriminator_its_accuracy_is_not_said(talk: Train) -> None:
    result = talk("--epochs", 1, "--discriminator", "none")
    assert "\nepoch      L1  held out  PSNR dB  colour   img/s     left\n" in result.err


def test_without_a_terminal_progress_is_plain_lines(talk: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", -1)
    result = talk("--epochs", 1)
    assert "preparing photos  1/12" in result.err
    assert re.search(
        r"^epoch 1/1  4/9  L1 0\.\d{4}  D \d\.\d{4}  run 00:\d\d left(, epoch 00:\d\d)?$", result.err, re.M
    )
    assert "\nepoch 1/1  evaluating\n" in result.err
    assert "\r" not in result.err


@pytest.mark.slow
def test_on_a_terminal_progress_is_a_bar(talk: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    result = talk("--epochs", 2)
    assert result.code == 0
    assert "preparing photos:" in result.err
    bars = re.findall(r"epoch \d/2  [^\r\n]*", result.err)
    assert re.match(r"epoch 1/2  L1 0\.\d{4}  D \d\.\d{4}  run 00:\d\d left +\d+%\|", bars[0])
    assert any(bar.startswith("epoch 2/2  evaluating") for bar in bars)
    assert "done: " in result.err


def test_photos_that_cannot_be_read_are_warned_of_even_when_quiet(
    train: Train, tmp_path: Path, make_photos: Callable[..., Path]
) -> None:
    folder = make_photos(tmp_path / "photos", 24)
    (folder / "broken.jpg").write_bytes(b"no photo")
    result = train("--batch-size", 16, data=folder)
    assert result.code == 0
    assert re.fullmatch(r"warning: passed over broken\.jpg: UnidentifiedImageError: .*\n", result.err)


def test_help_names_every_option_and_its_default(invoke: Train) -> None:
    for option in ("-h", "--help"):
        result = invoke(main, option)
        assert result.code == 0
        for parameter in command.params:
            assert all(name in result.out for name in parameter.opts if name.startswith("-"))
        text = re.sub(r"\s+", " ", result.out)
        for default in ("512.0", "0.0005", "0.02", "[default: 32]", "[default: 100]", "[default: bce]", "no-flip"):
            assert default in text


def test_version(invoke: Train) -> None:
    result = invoke(main, "--version")
    assert (result.code, result.out) == (0, f"cgan-train, version {cgan.__version__}\n")
