"""`benchmarks.pytorch`: each way to run PyTorch computes as its name says and gives the colours of the model."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.latency import main
from benchmarks.pytorch import WAYS, open_pytorch
from infer.backends import open_model

pytestmark = pytest.mark.benchmarks


def engines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Have torch.compile leave out its last stage, which takes a minute, and record what it is asked for."""
    asked: list[dict[str, Any]] = []
    trace = partial(torch.compile, backend="eager")

    def record(module: torch.nn.Module, **options: Any) -> Any:
        asked.append(options)
        return trace(module, dynamic=options["dynamic"])

    monkeypatch.setattr(torch, "compile", record)
    return asked


@pytest.mark.parametrize("way", WAYS)
def test_the_colours_are_those_of_the_exported_file(
    exported_onnx: Path, trained_run: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = engines(monkeypatch)
    photos = np.random.default_rng(0).random((3, 1, 32, 32), np.float32)
    with open_model(exported_onnx, "cpu") as reference:
        expected = reference.run(photos)
    for source in (exported_onnx, trained_run):
        with open_pytorch(source, "cpu", way) as backend:
            off = np.abs(backend.run(photos) - expected).max()
            assert ("bfloat16" in backend.engine) == ("half" in way)
            assert ("torch.compile default" in backend.engine) == ("compiled" in way)
        assert (1e-4 < off < 0.1) if "half" in way else off < 1e-4, off
    assert asked == [{"dynamic": False, "mode": "default"}] * (2 if "compiled" in way else 0)


def test_pytorch_takes_part_in_the_latency_benchmark(exported_onnx: Path, tmp_path: Path) -> None:
    name = f"{exported_onnx}@pytorch-half"
    options = ["--batch", "2", "--kind", "copies", "--seconds", "0.03", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [str(exported_onnx), name, *options])
    assert result.exit_code == 0, result.output
    first, second = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert (first["psnr"], second["contestant"]) == (None, f"{exported_onnx.name}@pytorch-half")
    assert 40 < second["psnr"] < 90


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}@pytorch-fast", "@pytorch-fast: expected one of pytorch, pytorch-half, "),
        ("{}@pytorch-half:cuda", "@pytorch-half:cuda: PyTorch has no providers; leave :cuda out"),
        ("nothing.onnx@pytorch", "nothing.onnx: found no such file, expected an exported fp32 model, a run or "),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(exported_onnx: Path, name: str, message: str) -> None:
    result = CliRunner().invoke(main, [name.format(exported_onnx)])
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {message}")
