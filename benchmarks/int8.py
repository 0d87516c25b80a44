"""What makes int8 models closer to fp32, and what it costs: float convolutions at either end, sharper calibration.

    python benchmarks/int8.py PHOTOS ... --calibration FOLDER [--model FILE] [--photos 60] [--rounds 5] [--json FILE]

The fp32 model and int8 versions of it, calibrated on FOLDER, run by turns in one thread of ONNX Runtime over the same
decoded photos, some of each folder PHOTOS. PSNR is against fp32. Needs the extra "export".
"""

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
from benchmarks.records import json_option, write_record
from export.calibration import calibration_batches, with_sharper_copies
from export.quantize import FLOAT_CONVOLUTIONS, quantize_int8
from infer.backends import open_model
from infer.backends.base import Backend
from infer.packaged import DEFAULT_MODEL
from infer.photo.decode import Floats, decode, model_input
from infer.quality.photos import photos_below

UNSHARPENED = f"{FLOAT_CONVOLUTIONS}, calibrated without sharper copies"
OTHERWISE = f"{FLOAT_CONVOLUTIONS}, calibrated with copies as of the other kind of model"
"""Those of a model with a blur before it, where this one has none, and the other way round."""
ENDS = ((1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2))
"""Convolutions in float where the photo comes in, and where the picture goes out."""

BATCH = 8


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option("--calibration", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--model", type=click.Path(exists=True, path_type=Path), default=DEFAULT_MODEL, help="An fp32 ONNX file.")
@click.option("--photos", "count", default=60, show_default=True, help="Of each folder.")
@click.option("--rounds", default=5, show_default=True)
@json_option
def main(
    photos: tuple[Path, ...], calibration: Path, model: Path, count: int, rounds: int, json_file: Path | None
) -> None:
    """Print images a second against fp32, and of each folder PSNR over all photos and of the worst."""
    with open_model(model, "cpu") as backend:
        spec = backend.spec
    size = spec.render_size
    folders = {str(folder): some(folder, count, size) for folder in photos}
    shown = calibration_batches(calibration, size).gray
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {"fp32": model, **{name: Path(folder) / f"{i}.onnx" for i, name in enumerate((UNSHARPENED, OTHERWISE))}}
        quantize_int8(model, spec, shown, "cpu", files[UNSHARPENED])
        quantize_int8(model, spec, with_sharper_copies(shown, not spec.input_blur), "cpu", files[OTHERWISE])
        for ends in ENDS:
            files[str(ends)] = Path(folder) / f"{ends[0]}-{ends[1]}.onnx"
            with mock.patch("export.quantize.FLOAT_CONVOLUTIONS", ends):
                quantize_int8(model, spec, with_sharper_copies(shown, spec.input_blur > 0), "cpu", files[str(ends)])
        pictures, seconds = by_turns(files, np.concatenate(list(folders.values())), rounds)
    fp32 = pictures.pop("fp32")
    borders = np.cumsum([len(gray) for gray in folders.values()])[:-1]
    for name, picture in pictures.items():
        errors = np.square(picture - fp32, dtype=np.float64).mean(axis=(1, 2, 3))
        speed = statistics.median(a / b for a, b in zip(seconds["fp32"], seconds[name], strict=True))
        found = {
            folder: {"psnr": psnr(part.mean()), "worst": psnr(part.max())}
            for folder, part in zip(folders, np.split(errors, borders), strict=True)
        }
        rows.append({"float": name, "speed": round(speed, 2), "folders": found})
        figures = "; ".join(f"{found[folder]['psnr']} dB, worst {found[folder]['worst']} dB" for folder in folders)
        print(f"{name}: {speed:.2f} x fp32; {figures}")
    counts = {folder: len(gray) for folder, gray in folders.items()}
    record = {"arguments": arguments(), "machine": machine(), "photos": counts, "rows": rows}
    if json_file:
        write_record(json_file, record)


def some(folder: Path, count: int, size: int) -> Floats:
    """Photos drawn at random as the network sees them, N x 1 x size x size."""
    sources = photos_below(folder)
    random.Random(0).shuffle(sources)
    return np.stack([model_input(decode(path), size, size) for _, path in sources[:count] if isinstance(path, Path)])


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
