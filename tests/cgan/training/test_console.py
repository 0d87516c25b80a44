"""What a training says on a terminal of 80 columns."""

import io
import math
import sys
from typing import Any

import pytest

from cgan.progress import Progress
from cgan.training.console import TrainingConsole


def metrics(epoch: int, **more: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train_l1": 0.1,
        "test_l1": 0.2,
        "test_psnr": 20.0,
        "test_gray_psnr": 19.0,
        "test_colorfulness": 40.0,
        "test_real_colorfulness": 60.0,
        "images_per_second": 1234.5,
        **more,
    }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in its one item."""
    now = [0.0]
    monkeypatch.setattr("cgan.training.console.time.monotonic", lambda: now[0])
    return now


def test_rows_of_long_runs_fit_80_columns(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    full = {"test_discriminator_accuracy": 1.0, "test_fid": {"metric": "FID", "value": 123.45}}
    console = TrainingConsole(1000, quiet=False)
    console.begin(997)
    clock[0] = 36000.0
    console.epoch_done(metrics(998, **full))
    assert capsys.readouterr().err == (
        "held-out photos: PSNR of gray 19.00 dB, colourfulness of real 60.0\n"
        "    epoch      L1  held out  PSNR dB  colour  D right      FID   img/s     left\n"
        " 998/1000  0.1000    0.2000    20.00    40.0     100%   123.45  1234.5  20:00:00\n"
    )


def test_the_time_left_is_that_of_the_epochs_of_this_process(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    console = TrainingConsole(10, quiet=False)
    console.begin(4)
    clock[0] = 60.0
    console.epoch_done(metrics(5))
    clock[0] = 180.0
    console.epoch_done(metrics(6))
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()[2:]] == ["05:00", "06:00"]


def test_a_warm_up_has_no_accuracy_until_the_discriminator_begins(capsys: pytest.CaptureFixture[str]) -> None:
    console = TrainingConsole(2, quiet=False)
    console.epoch_done(metrics(1, test_discriminator_accuracy=0.5))
    console.epoch_done(metrics(2))
    assert "20.00    40.0           1234.5" in capsys.readouterr().err.splitlines()[-1]


def test_a_psnr_that_is_no_figure_is_not_printed_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    TrainingConsole(1, quiet=False).epoch_done(metrics(1, test_gray_psnr=math.inf))
    said = capsys.readouterr().err
    assert "PSNR of gray none dB" in said and "inf" not in said


def test_a_bar_names_l1_and_d_alone_and_fits_80_columns(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "80")
    texts: list[str] = []
    update = Progress.update

    def record(*arguments: Any) -> None:
        texts.append(arguments[-1])
        update(*arguments)

    monkeypatch.setattr(Progress, "update", record)
    with TrainingConsole(100, quiet=False) as console:
        for done in (10, 20):
            clock[0] += 60
            losses = {"adversarial": 1.0, "l1": 0.1, "discriminator_loss": 0.69, "generator_gradient_norm": 3.0}
            console.step(1, done, 40, losses)
        console.evaluating(1, 40)
    bars = [part for part in stream.getvalue().split("\r") if part.strip()]
    assert texts == [
        "epoch 1/100  L1 0.1000  D 0.6900  run 6:39:00 left",
        "epoch 1/100  L1 0.1000  D 0.6900  run 6:38:00 left, epoch 02:00",
        "epoch 1/100  evaluating",
    ]
    assert bars[0].startswith(f"{texts[0]}    0%|")
    assert bars[-1].startswith(f"{texts[-1]}  100%|")
    assert all(len(bar) <= 80 for bar in bars)
