"""What it brings, and costs, to leave the convolutions at either end of an int8 model in float.

    python benchmarks/int8.py PHOTOS --calibration FOLDER [--model FILE] [--photos 60] [--rounds 5] [--json FILE]

The fp32 model and int8 versions of it, calibrated on FOLDER, run by turns in one thread of ONNX Runtime over the same
decoded PHOTOS. PSNR is against fp32. Needs the extra "export".
"""

import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import click
import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import arguments, machine
from export.calibration import calibration_batches
from export.precision import quantize_int8
from infer.backends import open_model
from infer.backends.base import Backend
from infer.images import Floats, decode, model_input
from infer.packaged import DEFAULT_MODEL
from infer.sample import photos_below

ENDS = ((1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (2, 3))
"""Convolutions in float where the photo comes in, and where the picture goes out."""

BATCH = 8


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--calibration", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--model", type=click.Path(exists=True, path_type=Path), default=DEFAULT_MODEL, help="An fp32 ONNX file.")
@click.option("--photos", "count", default=60, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there.")
def main(photos: Path, calibration: Path, model: Path, count: int, rounds: int, json_file: Path | None) -> None:
    """Print PSNR over all photos and of the worst, and images a second against fp32."""
    with open_model(model, "cpu") as backend:
        spec = backend.spec
    size = spec.render_size
    sources = photos_below(photos)
    random.Random(0).shuffle(sources)
    gray = np.stack([model_input(decode(path), size, size) for _, path in sources[:count] if isinstance(path, Path)])
    shown = calibration_batches(calibration, size).gray
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {"fp32": model}
        for ends in ENDS:
            files[str(ends)] = Path(folder) / f"{ends[0]}-{ends[1]}.onnx"
            with mock.patch("export.precision.FLOAT_CONVOLUTIONS", ends):
                quantize_int8(model, spec, shown, "cpu", files[str(ends)])
        pictures, seconds = by_turns(files, gray, rounds)
    fp32 = pictures.pop("fp32")
    for name, picture in pictures.items():
        errors = np.square(picture - fp32, dtype=np.float64).mean(axis=(1, 2, 3))
        speed = statistics.median(a / b for a, b in zip(seconds["fp32"], seconds[name], strict=True))
        rows.append({"float": name, "psnr": psnr(errors.mean()), "worst": psnr(errors.max()), "speed": round(speed, 2)})
        print("{float}: {psnr} dB, worst photo {worst} dB, {speed} x fp32".format(**rows[-1]))
    record = {"arguments": arguments(), "machine": machine(), "photos": len(gray), "rows": rows}
    if json_file:
        json_file.write_text(json.dumps(record, indent=2) + "\n")


def by_turns(files: dict[str, Path], gray: Floats, rounds: int) -> tuple[dict[str, Floats], dict[str, list[float]]]:
    """Each model's pictures of all photos, and its processor seconds for them in each round."""
    pictures: dict[str, Floats] = {}
    seconds: dict[str, list[float]] = {name: [] for name in files}
    opened = {name: open_model(path, "cpu", 1) for name, path in files.items()}
    for _ in range(rounds):
        for name, backend in opened.items():
            with backend:
                run(backend, gray[:BATCH])  # warm-up
                begun = time.process_time()
                pictures[name] = run(backend, gray)
                seconds[name].append(time.process_time() - begun)
    return pictures, seconds


def run(backend: Backend, gray: Floats) -> Floats:
    """The model's pictures, batch by batch."""
    return np.concatenate([backend.run(gray[start : start + BATCH]) for start in range(0, len(gray), BATCH)])


def psnr(error: float) -> float:
    """Of a mean square error of values in [0, 1], in dB."""
    return round(float(-10 * np.log10(error)), 1)


if __name__ == "__main__":
    main()
