"""Make docs/packaged-model-curves.png from benchmarks/results/flowers-training.jsonl.

python docs/packaged_model_curves.py
"""

import json
from itertools import groupby
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
CURVES = ROOT / "benchmarks" / "results" / "flowers-training.jsonl"
CHARTS = {
    "PSNR of held-out photos, dB": ("test_psnr", "test_gray_psnr"),
    "colourfulness of held-out photos": ("test_colorfulness", "test_real_colorfulness"),
    "L1, held out (lines) and training (dots)": ("test_l1", "train_l1"),
}
"""Titles of the charts, with the metric of the line and that of the dots."""
COLORS = colormaps["tab20"]


def draw(target: Path) -> None:
    """Draw each of CHARTS over the epochs of all stages, with one colour for each stage."""
    epochs = [{**json.loads(line), "number": i} for i, line in enumerate(CURVES.read_text().splitlines(), 1)]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for axes, (title, (full, beside)) in zip(figure.subplots(1, len(CHARTS)), CHARTS.items(), strict=True):
        axes.set(title=title, xlabel="epoch")
        for color, (stage, group) in enumerate(groupby(epochs, lambda epoch: epoch["stage"])):
            rows = list(group)
            numbers = [row["number"] for row in rows]
            axes.plot(numbers, [row[full] for row in rows], color=COLORS(color), label=stage)
            axes.plot(numbers, [row[beside] for row in rows], ".", color=COLORS(color), markersize=3)
    figure.legend(handles=figure.axes[0].get_lines()[::2], fontsize="small", loc="outside center right")
    figure.savefig(target, dpi=90)


if __name__ == "__main__":
    draw(ROOT / "docs" / "packaged-model-curves.png")
