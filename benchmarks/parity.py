"""What `cgan-infer parity --no-fid` costs beside the two inference runs that it cannot do without.

    python benchmarks/parity.py PHOTOS --reference RUN [--candidate FILE] [--photos 1000] [--rounds 3] [--json FILE]

By turns in one process: both models over the decoded photos, batch by batch in as many threads as parity uses, with no
file read and nothing measured; and the whole check from the files on. Beside wall-clock time stands processor time,
which other work on the machine disturbs less. Needs the extra "train".
"""

import json
import random
import resource
import statistics
import sys
import time
from pathlib import Path

import click
import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import arguments
from benchmarks.records import json_option, write_record
from cgan.data.prefetch import prefetch
from infer.backends import open_model
from infer.backends.base import available_cores
from infer.packaged import DEFAULT_MODEL
from infer.photo.decode import Floats, decode, model_input
from infer.quality.parity import THREADS, check_parity
from infer.quality.photos import UNIT, Source, photos_below, run_batches


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--reference", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--candidate", type=click.Path(exists=True, path_type=Path), default=DEFAULT_MODEL)
@click.option("--photos", "count", default=1000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@json_option
def main(photos: Path, reference: Path, candidate: Path, count: int, rounds: int, json_file: Path | None) -> None:
    """Print seconds of both, their ratio and the peak memory."""
    sources = photos_below(photos)
    random.Random(0).shuffle(sources)
    sources = sources[:count]
    seconds: dict[str, list[float]] = {"inference": [], "parity": []}
    processor: dict[str, list[float]] = {"inference": [], "parity": []}
    for _ in range(rounds):
        wall, used = inference_alone(sources, reference, candidate)
        seconds["inference"].append(wall)
        processor["inference"].append(used)
        begun = time.perf_counter(), time.process_time()
        with open_model(candidate, "cpu", THREADS) as model:
            result = check_parity(model, reference, sources, device="cpu")
        seconds["parity"].append(time.perf_counter() - begun[0])
        processor["parity"].append(time.process_time() - begun[1])
    record = {
        "arguments": arguments(),
        "cores": available_cores(),
        "photos": result.photos,
        "passed": result.passed,
        "seconds": {name: [round(s, 2) for s in values] for name, values in seconds.items()},
        "processor_seconds": {name: [round(s, 2) for s in values] for name, values in processor.items()},
        "ratio": ratio(seconds),
        "processor_ratio": ratio(processor),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    if json_file:
        write_record(json_file, record)
    print(json.dumps(record, indent=2))


def ratio(seconds: dict[str, list[float]]) -> float:
    """Median of the checks over median of the runs alone."""
    return round(statistics.median(seconds["parity"]) / statistics.median(seconds["inference"]), 3)


def inference_alone(sources: list[Source], reference: Path, candidate: Path) -> tuple[float, float]:
    """Seconds on the clock and on processors for both models over photos that are decoded already."""
    with open_model(candidate, "cpu", THREADS) as one, open_model(reference, "cpu", THREADS) as other:
        size = one.spec.render_size
        grays = [model_input(decode(source, name), size, size)[None] for name, source in sources]
        units = [grays[i : i + UNIT] for i in range(0, len(grays), UNIT)]

        def run(unit: list[Floats]) -> None:
            gray = np.concatenate(unit)
            for model in (other, one):
                run_batches(model, gray, model.default_batch)

        cores = available_cores()
        begun = time.perf_counter(), time.process_time()
        for _ in prefetch(units, run, cores, cores):
            pass
        return time.perf_counter() - begun[0], time.process_time() - begun[1]


if __name__ == "__main__":
    main()
