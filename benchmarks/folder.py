"""How close a folder run comes to a bare ONNX Runtime loop over one batch in memory.

    python benchmarks/folder.py [--photos FOLDER] [--model FILE] [--files 2000]

Both run the same model with the same number of threads and batch size, by turns over several rounds, in one process.
The bare loop is one session with all threads, as ONNX Runtime comes; it neither reads nor writes files. A folder run
has a run of one thread for each worker instead, which can be faster than that even with the files. Without --photos,
crops of the pictures in examples/ are used.
"""

import json
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort
from PIL import Image

from cgan.spec import PHOTO_FORMATS
from infer.backends import DEFAULT_MODEL, open_model
from infer.backends.base import Backend
from infer.images import decode, model_input
from infer.jobs import make_plan
from infer.pipeline import FolderOptions, Outcome, color_folder

EXAMPLES = Path(__file__).parent.parent / "examples"
BARE_SECONDS = 5.0


@click.command()
@click.option("--photos", type=click.Path(exists=True, path_type=Path), help="Folder of photos, copied and repeated.")
@click.option("--model", type=click.Path(exists=True, path_type=Path), default=DEFAULT_MODEL)
@click.option("--files", type=click.IntRange(min=1), default=2000, show_default=True, help="Photos in a folder run.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--quick", is_flag=True, help="300 files, one round.")
def main(
    photos: Path | None,
    model: Path,
    files: int,
    rounds: int,
    batch_size: int,
    workers: int,
    threads: int,
    json_file: Path | None,
    quick: bool,
) -> None:
    """Print images a second of both, and their ratio last."""
    if quick:
        files, rounds = 300, 1
    options = FolderOptions(batch_size=batch_size, workers=workers, streams=workers + 1)
    figures: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, open_model(model, "cpu", max(1, threads // workers)) as backend:
        source = Path(folder) / "in"
        make_photos(photos, source, files)
        batch = batch_of(source, backend, batch_size)
        print(f"{files} files, {backend.path.name} on {backend.engine}, batch {batch_size}, {threads} threads")
        session = bare_session(backend.path, threads)
        bare_loop(session, batch, BARE_SECONDS / 5)  # warm-up
        for number in range(1, rounds + 1):
            # The bare loop before and after, so that a machine that drifts favours neither.
            before = bare_loop(session, batch, BARE_SECONDS)
            outcome = folder_run(backend, source, Path(folder) / f"out{number}", options)
            after = bare_loop(session, batch, BARE_SECONDS)
            speed, bare = len(outcome.done) / outcome.seconds, (before + after) / 2
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            figures.append({"bare": bare, "folder": speed, "ratio": speed / bare, "peak_rss_mib": rss})
            print(f"round {number}: bare {bare:.1f} images/s, folder {speed:.1f} images/s, peak RSS {rss:.0f} MiB")
    ratio = statistics.median(figure["ratio"] for figure in figures)
    if json_file:
        machine = {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
        record = {"arguments": sys.argv[1:], "machine": machine, "rounds": figures, "ratio": ratio}
        json_file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"folder / bare = {ratio:.3f}")


def make_photos(photos: Path | None, target: Path, count: int) -> None:
    """Fill `target` with `count` files: copies of the photos, or 128 x 128 crops of the examples."""
    target.mkdir()
    if photos:
        found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in PHOTO_FORMATS)
        for i in range(count):
            shutil.copyfile(found[i % len(found)], target / f"{i:06d}{found[i % len(found)].suffix}")
        return
    rng = np.random.default_rng(0)
    images = [Image.open(path).convert("L") for path in sorted(EXAMPLES.glob("*.*")) if path.suffix in PHOTO_FORMATS]
    for i in range(count):
        image = images[i % len(images)]
        left, top = (int(rng.integers(side - 127)) for side in image.size)
        image.crop((left, top, left + 128, top + 128)).save(target / f"{i:06d}.jpg", quality=90)


def batch_of(source: Path, backend: Backend, size: int) -> np.ndarray:
    """A batch of the photos as the model sees them."""
    render = backend.fixed_size or (backend.spec.render_size,) * 2
    paths = sorted(source.iterdir())
    return np.stack([model_input(decode(paths[i % len(paths)]), *render) for i in range(size)])


def bare_session(model: Path, threads: int) -> ort.InferenceSession:
    """ONNX Runtime as it comes, with nothing but the number of threads set."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def bare_loop(session: ort.InferenceSession, batch: np.ndarray, seconds: float) -> float:
    """Images a second of the model alone."""
    done = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        session.run(None, {"gray": batch})
        done += len(batch)
    return done / elapsed


def folder_run(backend: Backend, source: Path, target: Path, options: FolderOptions) -> Outcome:
    """A whole folder run; every file has to come through."""
    target.mkdir()
    plan = make_plan(source, target)
    outcome = color_folder(plan.jobs, target, backend, options)
    if len(outcome.done) != len(plan.jobs):
        raise SystemExit(f"{len(outcome.failed)} files failed: {outcome.failed}")
    return outcome


def cpu_name() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
