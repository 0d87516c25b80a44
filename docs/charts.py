"""Make docs/charts/*.svg from benchmarks/results.

python -m docs.charts
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "charts"
OWN, OTHER = "#00796b", "#b0bec5"
BATCHES = {1: "#b2dfdb", 8: "#4db6ac", 64: "#00796b"}
"""Colours of the bars of each batch size."""

CPU_MODELS = {
    "flowers.onnx": "ONNX Runtime, fp32",
    "flowers-int8.onnx": "ONNX Runtime, int8",
    "flowers.onnx@openvino": "OpenVINO, fp32",
    "flowers.onnx@openvino-bf16": "OpenVINO, bf16",
    "flowers-int8.onnx@openvino": "OpenVINO, int8",
    "flowers.onnx@pytorch": "PyTorch eager, fp32",
    "flowers.onnx@pytorch-compiled": "PyTorch compiled, fp32",
    "flowers.onnx@pytorch-half-compiled": "PyTorch compiled, bf16",
}
GPU_MODELS = {
    "unet-w32-rgb-128-fp32.onnx": "ONNX Runtime, fp32",
    "unet-w32-rgb-128-fp16.onnx": "ONNX Runtime, fp16",
    "unet-w32-rgb-128-fp32.onnx@pytorch": "PyTorch eager, fp32 (TF32)",
    "unet-w32-rgb-128-fp32.onnx@pytorch-half": "PyTorch eager, fp16",
    "unet-w32-rgb-128-fp32.onnx@pytorch-half-compiled": "PyTorch compiled, fp16",
}
"""Contestants of `python -m benchmarks latency`, with their names in the charts."""


def result(name: str) -> Any:
    """Return the record NAME.json of benchmarks/results."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def folders() -> Figure:
    """Draw images a second of a folder run and of other ways to colour the same photos, for two sizes."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (name, title) in zip(
        figure.subplots(1, 2, sharey=True),
        {"folder-cpu": "100 JPEGs of 128 x 128", "folder-1024-cpu": "24 JPEGs of 1,024 x 1,024"}.items(),
        strict=True,
    ):
        speeds = {
            way: median(round_["images_per_second"] for round_ in rounds)
            for way, rounds in result(name)["figures"].items()
        }
        colors = [OWN if way.startswith("cgan-infer") else OTHER for way in speeds]
        axes.bar_label(axes.barh(list(speeds), list(speeds.values()), color=colors), fmt="%.0f", padding=3)
        axes.set(title=title, xlabel="images a second (median)", xlim=(0, max(speeds.values()) * 1.15))
    figure.axes[0].invert_yaxis()
    return figure


def models(name: str, labels: dict[str, str]) -> Figure:
    """Draw images a second of models alone, without files, a bar for each batch size."""
    speeds = {
        (row["contestant"], row["batch"]): row["images_per_second"]
        for row in result(name)["rows"]
        if row["kind"] == "compute"
    }
    figure = Figure(figsize=(9, 0.5 * len(labels) + 1), layout="constrained")
    axes = figure.subplots()
    for shift, (batch, color) in enumerate(BATCHES.items()):
        places = [place + 0.27 * (shift - 1) for place in range(len(labels))]
        values = [speeds[contestant, batch] for contestant in labels]
        axes.barh(places, values, 0.25, color=color, label=f"batch {batch}")
    axes.set(xlabel="images a second", yticks=range(len(labels)), yticklabels=labels.values())
    axes.invert_yaxis()
    axes.legend()
    return figure


def main() -> None:
    """Write the charts. Texts stay texts, and neither dates nor random names change from one run to the next."""
    TARGET.mkdir(exist_ok=True)
    charts = {
        "folder-cpu": folders(),
        "models-cpu": models("latency-cpu", CPU_MODELS),
        "models-h200": models("latency-h200", GPU_MODELS),
    }
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cgan"}):
        for name, figure in charts.items():
            figure.savefig(TARGET / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
