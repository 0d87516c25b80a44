"""cgan-train --resume end to end: it continues, or says why it does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgan.cli import main
from cgan.training import loop as training
from cgan.training.checkpoint import TRAINING_FILE, load_generator
from cgan.training.run_folder import LOCK_FILE

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


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of `trained_run`, two epochs at a learning rate of 0.005."""
    return shutil.copytree(trained_run, tmp_path / "run")


def contents(run: Path) -> dict[Path, bytes]:
    """Return all files except those with the marks of processes."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != LOCK_FILE}


def weights(run: Path) -> str:
    return load_generator(run)[1].weights_sha256


def epochs(run: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_resume_goes_on_after_the_last_epoch(train: Train, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train("--epochs", 3, "--flip", out=whole).code == 0
    assert train("--epochs", 1, "--flip", out=parts).code == 0
    assert train("--epochs", 3, "--flip", "--resume", out=parts) == (0, "", "")
    assert weights(whole) == weights(parts)
    assert epochs(whole) == epochs(parts) == [1, 2, 3]
    assert json.loads((parts / "config.json").read_text())["epochs"] == 3


@pytest.mark.slow
def test_resume_needs_no_option_again(train: Train, invoke: Train, photo_folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--color-space", "ycbcr", "--flip", "--lr", 0.001, "--no-fid")
    assert train("--epochs", 3, *options, out=whole).code == 0
    assert train("--epochs", 1, *options, out=parts).code == 0
    assert invoke(main, photo_folder, "--out", parts, "--resume", "--epochs", 3, "--quiet") == (0, "", "")
    assert weights(whole) == weights(parts)
    assert json.loads((whole / "config.json").read_text()) == json.loads((parts / "config.json").read_text())
    before = contents(parts)
    assert invoke(main, photo_folder, "--out", parts, "--resume", "--quiet").code == 0  # all epochs are there
    assert epochs(parts) == [1, 2, 3]
    assert contents(parts).keys() == before.keys()


@pytest.mark.slow
def test_a_run_that_began_with_a_model_begins_with_it_again(
    train: Train, invoke: Train, run: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "further"
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", after_epochs(0, training.train_epoch))
        stopped = train("--init", run, out=out)
    assert stopped.code == 130
    assert stopped.err.endswith(f"--resume --init {run}\n")
    resume = (photo_folder, "--out", out, "--resume", "--quiet")
    assert "give the same --init" in invoke(main, *resume).error(2)
    assert invoke(main, *resume, "--init", run).code == 0
    assert train("--init", run, out=tmp_path / "whole").code == 0
    assert weights(out) == weights(tmp_path / "whole")
    assert invoke(main, *resume, "--epochs", 2).code == 0  # an epoch is there, and --init is no longer needed
    assert "began with random weights" in invoke(main, photo_folder, "--out", run, "--resume", "--init", out).error(2)


@pytest.mark.slow
def test_options_that_are_given_again_are_compared_before_anything_else(
    train: Train, invoke: Train, photo_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert train("--color-space", "ycbcr", "--loss-space", "rgb").code == 0
    resume = (photo_folder, "--out", out, "--resume", "--quiet")
    assert "color_space was ycbcr and is rgb;" in invoke(main, *resume, "--color-space", "rgb").error(2)
    auto = ("--device", "auto", "--precision", "auto", "--best-by", "auto", "--epochs", 2)
    assert invoke(main, *resume, *auto).code == 0
    assert epochs(out) == [1, 2]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", "4", "is not a run's configuration"),
        ("lr", None, "is not a run's configuration"),
        ("flip", 1, "is not a run's configuration"),
        ("rows", 1, "is not a run's configuration"),
        ("device", "cuda", "the run computes on cuda in fp32, which this machine does not"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(
    invoke: Train,
    run: Path,
    photo_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
    message: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, name: value}))
    assert message in invoke(main, photo_folder, "--out", run, "--resume").error(2)


def test_ctrl_c_before_the_run_has_begun(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cgan.data.prepared.prepare", interrupt)
    stopped = train(out=tmp_path / "none")
    assert (stopped.code, stopped.err) == (130, "interrupted; the run has not begun; give the same command again\n")


@pytest.mark.slow
def test_interrupted_training_says_how_to_go_on(
    train: Train, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    real = training.train_epoch

    def interrupt(run: Any, epoch: int, *args: Any) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return real(run, epoch, *args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", interrupt)
        result = train("--epochs", 2)
    assert (result.code, result.out) == (130, "")
    assert result.err == f"interrupted; go on with cgan-train {photo_folder} --out {run} --resume\n"
    assert epochs(run) == [1]
    assert train("--epochs", 2, "--resume").code == 0
    assert train("--epochs", 2, out=tmp_path / "whole").code == 0
    assert weights(run) == weights(tmp_path / "whole")


@pytest.mark.slow
def test_under_torchrun_one_process_says_how_to_go_on(
    train: Train, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    assert train().code == 0
    monkeypatch.setattr("cgan.training.distributed.joined", interrupt)
    monkeypatch.setenv("WORLD_SIZE", "2")
    again = f"interrupted; go on with cgan-train {photo_folder} --out {tmp_path / 'run'} --resume"
    for rank, message in (("0", f"{again}, under torchrun with 2 processes again\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        stopped = train("--resume")
        assert (stopped.code, stopped.err) == (130, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lr", 0.001), "lr was 0.005 and is 0.001;"),
        (("--discriminator", "patch"), "discriminator was unet and is patch;"),
        (("--color-space", "hsv", "--ema", 0.5), "color_space was rgb and is hsv, ema was 0.0 and is 0.5;"),
        (("--flip",), "flip was False and is True;"),
        (("--precision", "bf16"), "precision was fp32 and is bf16;"),
        (("--decay-epochs", 1), "decay_epochs was 0 and is 1;"),
        (("--best-by", "l1"), "best_by was psnr and is l1;"),
    ],
)
def test_resume_with_other_options_names_old_and_new(
    train: Train, run: Path, options: tuple[object, ...], message: str
) -> None:
    before = contents(run)
    assert message in train("--lr", 0.005, "--epochs", 3, "--resume", *options).error(2)
    assert contents(run) == before


def test_resume_with_other_photos_is_refused(train: Train, run: Path, photo_folder: Path, tmp_path: Path) -> None:
    fewer = shutil.copytree(photo_folder, tmp_path / "photos")
    next(fewer.rglob("*.png")).unlink()
    error = train("--lr", 0.005, "--epochs", 3, "--resume", data=fewer).error(2)
    assert "the photos are not those" in error


def test_resume_with_one_photo_retouched_is_refused(
    train: Train, run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    photos = shutil.copytree(photo_folder, tmp_path / "photos")
    for path in sorted(photos.rglob("*.png")):
        content = path.read_bytes()
        path.write_bytes(content + b"\0")
        error = train("--lr", 0.005, "--epochs", 3, "--resume", data=photos).error(2)
        assert "the photos are not those" in error
        path.write_bytes(content)


def test_resume_without_a_run_is_refused(train: Train, tmp_path: Path) -> None:
    assert "config.json cannot be read" in train("--resume").error(2)
    assert not (tmp_path / "run").exists()


def test_resume_to_fewer_epochs_than_there_are_is_refused(train: Train, run: Path) -> None:
    before = contents(run)
    assert "--epochs 1: the run has 2 already; give at least 2" in train("--lr", 0.005, "--resume").error(2)
    assert contents(run) == before


@pytest.mark.slow
def test_other_epochs_after_the_learning_rate_began_to_fall_are_refused(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decay = ("--discriminator", "patch", "--decay-epochs", 3)
    with monkeypatch.context() as patch:  # stop after the second of five epochs
        patch.setattr(training, "train_epoch", after_epochs(2, training.train_epoch))
        assert train("--epochs", 5, *decay).code == 130
        assert train("--epochs", 6, *decay, "--resume").code == 130  # it has not begun yet
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", after_epochs(4, training.train_epoch))
        assert train("--epochs", 6, *decay, "--resume").code == 130
    before = contents(tmp_path / "run")
    for changed, message in ((3, "has 4 already"), (5, "give --epochs 6"), (9, "give --epochs 6")):
        error = train("--epochs", changed, *decay, "--resume").error(2)
        assert f"--epochs {changed}: " in error and message in error
    assert contents(tmp_path / "run") == before
    assert train("--epochs", 6, *decay, "--resume").code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] / 5e-4 for line in lines] == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25])


def after_epochs(count: int, train_epoch: Callable[..., Any]) -> Callable[..., Any]:
    """Press Ctrl-C in the epoch after a number of epochs."""

    def interrupt(run: Any, epoch: int, *args: Any) -> Any:
        if epoch > count:
            raise KeyboardInterrupt
        return train_epoch(run, epoch, *args)

    return interrupt


def test_a_changed_training_state_is_not_resumed(train: Train, run: Path) -> None:
    (run / "checkpoints" / TRAINING_FILE).write_bytes(b"not a checkpoint")
    assert "not a safetensors checkpoint" in train("--lr", 0.005, "--epochs", 3, "--resume").error(2)
