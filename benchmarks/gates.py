"""Exports that the gates of `cgan-infer parity` pass, and spoiled ones that they catch.

    python -m benchmarks gates PHOTOS --reference RUN --calibration FOLDER [--other RUN] [--photos 100] [--json FILE]

Honest and spoiled exports of RUN are compared with RUN. The spoiled ones are int8 calibrated on noise instead of
FOLDER, a gamma of 1.02, red and blue swapped, and OTHER, a checkpoint of later or earlier training. Needs the extra
"train".
"""

import random
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

from benchmarks.command import COUNTS, benchmark, existing_path
from benchmarks.records import json_option, record, write_record
from export.artefact import ExportOptions, make_onnx
from export.calibration import DEFAULT_LIMIT
from infer.backends import open_model
from infer.quality.parity import THREADS, check_parity
from infer.quality.photos import Source, photos_below

FIGURES = ("psnr", "worst_psnr", "delta_e_p99")


@benchmark
@click.argument("photos", type=existing_path())
@click.option("--reference", type=existing_path(), required=True, help="Run or checkpoint.")
@click.option("--calibration", type=existing_path(), required=True, help="Photos for int8.")
@click.option("--other", type=existing_path(), help="Checkpoint of another epoch.")
@click.option("--photos", "count", type=COUNTS, default=100, show_default=True, help="Photos to compare on.")
@json_option
def main(
    photos: Path, reference: Path, calibration: Path, other: Path | None, count: int, json_file: Path | None
) -> None:
    """Compare honest and spoiled exports of a run with the run, as `cgan-infer parity` does.

    Prints the figures of each candidate and if it passed.
    """
    sources = photos_below(photos)
    random.Random(0).shuffle(sources)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in candidates(Path(folder), reference, calibration, other).items():
            row = {"candidate": name, **judged(path, reference, sources[:count])}
            rows.append(row)
            figures = "{psnr:6.1f} dB, worst photo {worst_psnr:6.1f} dB, CIEDE2000 {delta_e_p99:6.2f}".format(**row)
            print(f"{name:<24} {'passed' if row['passed'] else 'caught'}  {figures}", flush=True)
    write_record(json_file, record(photos=len(sources[:count]), rows=rows))


def candidates(folder: Path, reference: Path, calibration: Path, other: Path | None) -> dict[str, Path]:
    """Export the candidates into `folder` and return the files by name."""
    noise = folder / "noise"
    noise.mkdir()
    rng = np.random.default_rng(0)
    for i in range(DEFAULT_LIMIT):
        Image.fromarray(rng.integers(0, 256, (128, 128), np.uint8)).save(noise / f"{i}.png")

    def made(name: str, source: Path = reference, **options: object) -> Path:
        return make_onnx(source, folder / name, ExportOptions(verify=False, **options)).path  # type: ignore[arg-type]

    fp32 = made("fp32")
    files = {
        "fp32": fp32,
        "fp16": made("fp16", precision="fp16"),
        "int8": made("int8", precision="int8", calibration=calibration),
        "int8 calibrated on noise": made("of-noise", precision="int8", calibration=noise),
        "gamma 1.02": changed(fp32, folder / "gamma.onnx", "Pow", np.array(1.02, np.float32)),
        "red and blue swapped": changed(fp32, folder / "swapped.onnx", "Gather", np.array([2, 1, 0]), axis=1),
    }
    return files | ({"another checkpoint": made("other", other)} if other else {})


def changed(source: Path, target: Path, operator: str, operand: np.ndarray, **attributes: Any) -> Path:
    """Write the model with one more node before its output, and return the new file."""
    model = onnx.load(source)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["honest" if name == output else name for name in node.output]
        node.input[:] = ["honest" if name == output else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(operand, "operand"))
    model.graph.node.append(helper.make_node(operator, ["honest", "operand"], [output], **attributes))
    onnx.save(model, target)
    return target


def judged(candidate: Path, reference: Path, sources: list[Source]) -> dict[str, Any]:
    """Return if a candidate passed, the figures that the gates look at, and the gates that failed."""
    with open_model(candidate, "cpu", THREADS) as model:
        result = check_parity(model, reference, sources, device="cpu")
    figures = {name: round(result.figures[name].value, 3) for name in FIGURES}
    return {"passed": result.passed, **figures, "failed_gates": result.failed_gates()}
