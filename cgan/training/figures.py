"""Figures of a run: the sample grid and the curves."""

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


CHARTS = (
    ("FID", {"test_fid": "held out", "test_frechet_distance": "Fréchet distance of another network, held out"}),
    ("L1", {"train_l1": "training", "test_l1": "held out"}),
    ("Discriminator loss", {"train_discriminator_loss": "training", "test_discriminator_loss": "held out"}),
    (
        "Discriminator accuracy",
        {"train_discriminator_accuracy": "training", "test_discriminator_accuracy": "held out"},
    ),
)
"""The charts of the original report: title, and the label of each metric."""


def save_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Draw the CHARTS over the epochs as a PNG; a chart without metrics has a note.

    Args:
        history: metrics of each epoch.
        path: the file to write.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure in memory
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, CHARTS, strict=True):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for name, label in lines.items():
            points = [(metrics["epoch"], scalar(metrics[name])) for metrics in history if name in metrics]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 20 else None)
        if axes.lines:
            axes.legend()
        else:
            axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
    figure.savefig(path, format="png", dpi=100)


def scalar(value: Any) -> float:
    """Return the number of a metric, which may be a dict of value and fingerprint."""
    return float(value["value"] if isinstance(value, dict) else value)
