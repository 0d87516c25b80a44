"""The sample grid, pixel by pixel, and the curves, line by line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from cgan.training.figures import CHARTS, COLUMNS, MARGIN, sample_grid, save_curves, scalar

SIZE = 5
STEP = SIZE + MARGIN


def grid(count: int) -> np.ndarray:
    """The grid of `count` photos in which each cell is flat and tells its photo and its row."""
    levels = (torch.arange(count) + 1)[:, None, None, None] / 255
    gray = levels.expand(-1, 1, SIZE, SIZE)
    prediction = torch.cat([levels, levels + 100 / 255, torch.zeros_like(levels)], 1).expand(-1, -1, SIZE, SIZE)
    truth = torch.cat([torch.zeros_like(levels), levels, levels + 200 / 255], 1).expand(-1, -1, SIZE, SIZE)
    return np.asarray(sample_grid(gray, prediction, truth))


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    return sheet[row * STEP : row * STEP + SIZE, column * STEP : column * STEP + SIZE]


@pytest.mark.parametrize("count", [1, 3, 10, 12, 20])
def test_gray_above_prediction_above_truth_ten_to_a_row(count: int) -> None:
    sheet = grid(count)
    columns, bands = min(count, COLUMNS), -(-count // COLUMNS)
    assert sheet.shape == (3 * bands * STEP, columns * STEP, 3)
    assert sheet.dtype == np.uint8
    for i in range(count):
        row, column, level = 3 * (i // COLUMNS), i % COLUMNS, i + 1
        assert (cell(sheet, row, column) == [level] * 3).all()
        assert (cell(sheet, row + 1, column) == [level, level + 100, 0]).all()
        assert (cell(sheet, row + 2, column) == [0, level, level + 200]).all()


def test_margins_and_missing_cells_are_white() -> None:
    sheet = grid(12)
    for row in range(3, 6):
        for column in range(2, 10):
            assert (cell(sheet, row, column) == 255).all()
    for offset in range(SIZE, STEP):
        assert (sheet[offset::STEP] == 255).all()
        assert (sheet[:, offset::STEP] == 255).all()


def test_values_are_rounded_and_clamped() -> None:
    gray = torch.tensor([[[[0.0, 1.0, 0.5]]]])
    color = torch.tensor([-0.5, 1.5, 100.4 / 255]).view(1, 3, 1, 1).expand(-1, -1, 1, 3)
    sheet = np.asarray(sample_grid(gray, color, color))
    assert sheet[0, :3, 0].tolist() == [0, 255, 128]
    assert sheet[1 + MARGIN, 0].tolist() == [0, 255, 100]


def test_photos_keep_their_orientation() -> None:
    picture = torch.arange(6.0).view(1, 1, 2, 3) / 255
    sheet = np.asarray(sample_grid(picture, picture.expand(-1, 3, -1, -1), picture.expand(-1, 3, -1, -1)))
    for row in range(3):
        top = row * (2 + MARGIN)
        assert sheet[top : top + 2, :3, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


# curves


def history(epochs: int, **more: Any) -> list[dict[str, Any]]:
    """Metrics of a GAN's epochs, each of its own values."""
    return [
        {
            "epoch": i,
            "train_l1": 0.5 / i,
            "test_l1": 0.6 / i,
            "test_psnr": 20.0 + i,
            "test_gray_psnr": 19.0,
            "test_colorfulness": 30.0,
            "test_real_colorfulness": 40.0,
            "train_adversarial": 0.9,
            "train_discriminator_loss": 0.7 + i,
            "test_discriminator_loss": 0.8 + i,
            "train_discriminator_accuracy": 0.51,
            "test_discriminator_accuracy": 0.52,
            **more,
        }
        for i in range(1, epochs + 1)
    ]


def charts(epochs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    """The charts that `save_curves` draws, by title."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    save_curves(epochs, Path("nowhere.png"))
    (figure,) = drawn
    return {axes.get_title(): axes for axes in figure.axes}


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of each line, by its label."""
    return {str(line.get_label()): [(x, y) for x, y in np.asarray(line.get_xydata())] for line in axes.lines}


@pytest.mark.slow
def test_the_curves_are_a_picture(tmp_path: Path) -> None:
    save_curves(history(3, test_fid={"value": 70.5}), tmp_path / "no-suffix")
    with Image.open(tmp_path / "no-suffix") as image:
        assert (image.format, image.size) == ("PNG", (1350, 960))
        assert len(image.convert("RGB").getcolors(2**24) or []) > 10


def test_every_chart_has_its_metrics_over_the_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = charts(history(3, test_fid={"value": 70.5, "photos": 3}), monkeypatch)
    assert list(found) == [title for title, _ in CHARTS]
    assert lines(found["PSNR, dB"]) == {
        "held out": [(1, 21), (2, 22), (3, 23)],
        "gray photos": [(1, 19), (2, 19), (3, 19)],
    }
    assert lines(found["Colourfulness"])["real photos"] == [(1, 40), (2, 40), (3, 40)]
    assert lines(found["FID"]) == {"held out": [(1, 70.5), (2, 70.5), (3, 70.5)]}
    assert lines(found["L1"]) == {
        "training": [(1, 0.5), (2, 0.25), (3, 0.5 / 3)],
        "held out": [(1, 0.6), (2, 0.3), (3, pytest.approx(0.2))],
    }
    assert lines(found["Discriminator loss"])["training"] == [(1, 1.7), (2, 2.7), (3, 3.7)]
    assert lines(found["Discriminator accuracy"])["held out"] == [(1, 0.52), (2, 0.52), (3, 0.52)]
    for axes in found.values():
        assert axes.get_xlabel() == "epoch"
        assert axes.get_legend() is not None
        assert not axes.texts


def test_what_was_not_measured_has_no_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [{"epoch": 1, "train_l1": 0.5, "test_l1": 0.6, "test_psnr": float("inf")}]
    assert list(charts(alone, monkeypatch)) == ["L1"]


def test_a_line_begins_where_its_metric_does(monkeypatch: pytest.MonkeyPatch) -> None:
    warmup = [{"epoch": 1, "train_l1": 0.5, "test_l1": 0.6}, *history(2)[1:]]
    found = lines(charts(warmup, monkeypatch)["Discriminator loss"])
    assert found == {"training": [(2, 2.7)], "held out": [(2, 2.8)]}


def test_few_epochs_are_marked_as_points(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, *_) = charts(history(1), monkeypatch)["L1"].lines  # a line of one point cannot be seen
    (many, *_) = charts(history(20), monkeypatch)["L1"].lines
    assert (one.get_marker(), many.get_marker()) == (".", "None")


def test_scalar_is_a_number_or_the_value_of_a_metric_with_its_fingerprint() -> None:
    assert scalar(3) == 3.0
    assert scalar({"value": 2.5, "photos": 3}) == 2.5
