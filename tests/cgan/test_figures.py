"""The sample grid, pixel by pixel."""

import numpy as np
import pytest
import torch

from cgan.figures import COLUMNS, MARGIN, sample_grid

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
