"""Accuracy and speed of int8 models by their float convolutions and calibration photos.

    python -m benchmarks int8 PHOTOS ... --calibration FOLDER [--model FILE] [--photos 60] [--rounds 5] [--json FILE]

The fp32 model and int8 versions of it, calibrated on FOLDER, take turns in one thread of ONNX Runtime over the same
decoded photos, some from each folder PHOTOS. PSNR is against fp32. Needs the extra "export".
"""

import random
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.accuracy import psnr_of_all, psnr_of_each
from benchmarks.command import COUNTS, benchmark, existing_path
from benchmarks.records import json_option, record, write_record
from benchmarks.rounds import rounds_of_turns
from cgan.spec import ModelSpec
from export.calibration import calibration_batches, with_sharper_copies
from export.quantize import FLOAT_CONVOLUTIONS, quantize_int8
from infer.backends import open_model
from infer.backends.base import Backend
from infer.packaged import DEFAULT_MODEL
from infer.photo.decode import Floats, decode, model_input
from infer.quality.photos import photos_below

UNSHARPENED = f"{FLOAT_CONVOLUTIONS}, calibrated without sharper copies"
OTHERWISE = f"{FLOAT_CONVOLUTIONS}, calibrated with copies as of the other kind of model"
"""The copies that a model with an input blur gets, where this one has none, and the other way round."""
ENDS = ((1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2))
"""Convolutions in float at the input and at the output."""

BATCH = 8


@benchmark
@click.argument("photos", type=existing_path(), nargs=-1, required=True)
@click.option("--calibration", type=existing_path(), required=True, help="Calibration photos.")
@click.option("--model", type=existing_path(), default=DEFAULT_MODEL, help="An fp32 ONNX file.")
@click.option("--photos", "count", type=COUNTS, default=60, show_default=True, help="Photos of each folder.")
@click.option("--rounds", type=COUNTS, default=5, show_default=True, help="Rounds of turns.")
@json_option
def main(
    photos: tuple[Path, ...], calibration: Path, model: Path, count: int, rounds: int, json_file: Path | None
) -> None:
    """Compare int8 versions of a model with the fp32 model, in accuracy and speed.

    Prints images a second against fp32 and, for each folder, the PSNR of all photos and of the worst.
    """
    with open_model(model, "cpu") as backend:
        spec = backend.spec
    size = spec.render_size
    folders = {str(folder): some(folder, count, size) for folder in photos}
    shown = calibration_batches(calibration, size).gray
    with tempfile.TemporaryDirectory() as folder:
        files = {"fp32": model, **int8_versions(model, spec, shown, Path(folder))}
        pictures, seconds = by_turns(files, np.concatenate(list(folders.values())), rounds)
    counts = {folder: len(gray) for folder, gray in folders.items()}
    fp32 = pictures.pop("fp32")
    rows = []
    for name, picture in pictures.items():
        speed = statistics.median(a / b for a, b in zip(seconds["fp32"], seconds[name], strict=True))
        found = accuracy(picture, fp32, counts)
        rows.append({"float": name, "speed": round(speed, 2), "folders": found})
        figures = "; ".join(f"{found[folder]['psnr']} dB, worst {found[folder]['worst']} dB" for folder in folders)
        print(f"{name}: {speed:.2f} x fp32; {figures}")
    write_record(json_file, record(photos=counts, rows=rows))


def int8_versions(model: Path, spec: ModelSpec, shown: Floats, folder: Path) -> dict[str, Path]:
    """Quantise a model in all ways that are compared, and return the files by name.

    Args:
        model: fp32 ONNX file.
        spec: its contract.
        shown: calibration photos, N x 1 x H x W in [0, 1].
        folder: for the files.
    """
    sharper = with_sharper_copies(shown, spec.input_blur > 0)
    ways: dict[str, tuple[Floats, tuple[int, int]]] = {
        UNSHARPENED: (shown, FLOAT_CONVOLUTIONS),
        OTHERWISE: (with_sharper_copies(shown, not spec.input_blur), FLOAT_CONVOLUTIONS),
        **{str(ends): (sharper, ends) for ends in ENDS},
    }
    files = {name: folder / f"{number}.onnx" for number, name in enumerate(ways)}
    for name, (calibration, ends) in ways.items():
        quantize_int8(model, spec, calibration, "cpu", files[name], ends)
    return files


def accuracy(pictures: Floats, fp32: Floats, counts: dict[str, int]) -> dict[str, dict[str, float]]:
    """Return by folder the PSNR against fp32 of all its photos together and of the worst, in dB.

    Args:
        pictures: N x 3 x H x W in [0, 1], the photos of one folder after those of another.
        fp32: pictures of the fp32 model, of the same shape and range.
        counts: photos of each folder, in the order of the pictures.
    """
    borders = np.cumsum(list(counts.values()))[:-1]
    parts = zip(counts, np.split(pictures, borders), np.split(fp32, borders), strict=True)
    return {
        folder: {
            "psnr": round(psnr_of_all(part, truth), 1),
            "worst": round(float(psnr_of_each(part, truth).min()), 1),
        }
        for folder, part, truth in parts
    }


def some(folder: Path, count: int, size: int) -> Floats:
    """Return random photos of a folder as the network sees them, N x 1 x size x size in [0, 1]."""
    sources = photos_below(folder)
    random.Random(0).shuffle(sources)
    return np.stack([model_input(decode(path), size, size) for _, path in sources[:count] if isinstance(path, Path)])


def by_turns(files: dict[str, Path], gray: Floats, rounds: int) -> tuple[dict[str, Floats], dict[str, list[float]]]:
    """Return the pictures of each model, N x 3 x H x W in [0, 1], and its processor seconds in each round."""
    pictures: dict[str, Floats] = {}
    seconds: dict[str, list[float]] = {name: [] for name in files}
    opened = {name: open_model(path, "cpu", 1) for name, path in files.items()}
    for _, turns in rounds_of_turns(list(opened), rounds):
        for name in turns:
            with opened[name] as backend:
                run(backend, gray[:BATCH])  # warm-up
                begun = time.process_time()
                pictures[name] = run(backend, gray)
                seconds[name].append(time.process_time() - begun)
    return pictures, seconds


def run(backend: Backend, gray: Floats) -> Floats:
    """Return the pictures of a model, run batch by batch."""
    return np.concatenate([backend.run(gray[start : start + BATCH]) for start in range(0, len(gray), BATCH)])
