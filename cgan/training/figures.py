"""Figures of a run: the sample grid and the curves."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

COLUMNS = 10
MARGIN = 2


def sample_grid(gray: Tensor, prediction: Tensor, truth: Tensor) -> Image.Image:
    """Return a grid of photos, ten per row: gray at the top, prediction below, truth at the bottom.

    Args:
        gray: N x 1 x H x W in [0, 1].
        prediction: N x 3 x H x W in [0, 1].
        truth: N x 3 x H x W in [0, 1].

    Returns:
        An RGB image of up to ten columns, and three rows for every ten photos.
    """
    columns = min(COLUMNS, len(gray))
    blocks = []
    for start in range(0, len(gray), columns):
        part = slice(start, start + columns)
        rows = [gray[part].expand(-1, 3, -1, -1), prediction[part], truth[part]]
        missing = columns - len(rows[0])
        blocks += [torch.cat([row, row.new_ones(missing, *row.shape[1:])]) for row in rows]
    cells = torch.stack(blocks)  # rows x columns x 3 x H x W
    cells = torch.nn.functional.pad(cells, (0, MARGIN, 0, MARGIN), value=1.0)
    rows_count, columns_count, _, height, width = cells.shape
    sheet = cells.permute(0, 3, 1, 4, 2).reshape(rows_count * height, columns_count * width, 3)
    return Image.fromarray((sheet.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy().astype(np.uint8))


CHARTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("PSNR, dB", {"test_psnr": "held out", "test_gray_psnr": "gray photos"}),
    ("Colourfulness", {"test_colorfulness": "held out", "test_real_colorfulness": "real photos"}),
    ("FID", {"test_fid": "held out", "test_frechet_distance": "Fréchet distance of another network, held out"}),
    ("L1", {"train_l1": "training", "test_l1": "held out"}),
    ("Adversarial loss of the generator", {"train_adversarial": "training"}),
    ("Discriminator loss", {"train_discriminator_loss": "training", "test_discriminator_loss": "held out"}),
    (
        "Discriminator accuracy",
        {"train_discriminator_accuracy": "training", "test_discriminator_accuracy": "held out"},
    ),
)
"""The original report's charts, PSNR and colourfulness: title, and the label of each metric."""

CHARTS_ABREAST = 3


def save_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Draw the CHARTS that have metrics over the epochs as a PNG.

    Args:
        history: metrics of each epoch.
        path: the file to write.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure in memory
    from matplotlib.ticker import MaxNLocator

    charts = [(title, lines) for title, lines in CHARTS if any(_points(history, name) for name in lines)]
    rows, columns = -(-len(charts) // CHARTS_ABREAST), min(len(charts), CHARTS_ABREAST)
    figure = Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    for place, (title, lines) in enumerate(charts, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for name, label in lines.items():
            if points := _points(history, name):
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 20 else None)
        axes.legend()
    figure.savefig(path, format="png", dpi=100)


def _points(history: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return epoch and value of a metric where it is a finite number."""
    found = [(metrics["epoch"], scalar(metrics[name])) for metrics in history if metrics.get(name) is not None]
    return [(epoch, value) for epoch, value in found if math.isfinite(value)]


def scalar(value: Any) -> float:
    """Return the number of a metric, which may be a dict of value and fingerprint."""
    return float(value["value"] if isinstance(value, dict) else value)
