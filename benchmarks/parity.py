"""Time of `cgan-infer parity --no-fid` against the inference runs that it contains.

    python -m benchmarks parity PHOTOS --reference RUN [--candidate FILE] [--photos 1000] [--rounds 3] [--json FILE]

Two parts take turns in one process: both models over decoded photos, batch by batch in as many threads as parity uses,
without reading files or measuring; and the whole check, from the files on. Processor time is given beside wall-clock
time, because other work on the machine disturbs it less. Needs the extra "train".
"""

import json
import random
import resource
import statistics
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.command import COUNTS, benchmark, existing_path
from benchmarks.records import json_option, record, write_record
from benchmarks.rounds import rounds_of_turns
from cgan.cores import available_cores
from cgan.data.prefetch import prefetch
from infer.backends import open_model
from infer.packaged import DEFAULT_MODEL
from infer.photo.decode import Floats, decode, model_input
from infer.quality.parity import THREADS, Parity, check_parity
from infer.quality.photos import UNIT, Source, photos_below, run_batches


@benchmark
@click.argument("photos", type=existing_path())
@click.option("--reference", type=existing_path(), required=True, help="Run or checkpoint.")
@click.option(
    "--candidate", type=existing_path(), default=DEFAULT_MODEL, help="Model file.  [default: the packaged model]"
)
@click.option("--photos", "count", type=COUNTS, default=1000, show_default=True, help="Photos to compare on.")
@click.option("--rounds", type=COUNTS, default=3, show_default=True, help="Rounds.")
@json_option
def main(photos: Path, reference: Path, candidate: Path, count: int, rounds: int, json_file: Path | None) -> None:
    """Time `cgan-infer parity --no-fid` against the inference runs that it contains.

    Prints the record: seconds of both, their ratio and the peak memory.
    """
    sources = photos_below(photos)
    random.Random(0).shuffle(sources)
    sources = sources[:count]
    seconds: dict[str, list[float]] = {"inference": [], "parity": []}
    processor: dict[str, list[float]] = {"inference": [], "parity": []}
    for _, turns in rounds_of_turns(list(seconds), rounds):
        for name in turns:
            if name == "inference":
                wall, used = inference_alone(sources, reference, candidate)
            else:
                wall, used, result = whole_check(sources, reference, candidate)
            seconds[name].append(wall)
            processor[name].append(used)
    values = record(
        cores=available_cores(),
        photos=result.photos,
        passed=result.passed,
        seconds={name: [round(s, 2) for s in values] for name, values in seconds.items()},
        processor_seconds={name: [round(s, 2) for s in values] for name, values in processor.items()},
        ratio=ratio(seconds),
        processor_ratio=ratio(processor),
        peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    )
    write_record(json_file, values)
    print(json.dumps(values, indent=2))


def ratio(seconds: dict[str, list[float]]) -> float:
    """Return the median time of the whole checks divided by that of the inference runs."""
    return round(statistics.median(seconds["parity"]) / statistics.median(seconds["inference"]), 3)


def inference_alone(sources: list[Source], reference: Path, candidate: Path) -> tuple[float, float]:
    """Return wall-clock and processor seconds of both models over photos that are already decoded."""
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


def whole_check(sources: list[Source], reference: Path, candidate: Path) -> tuple[float, float, Parity]:
    """Return wall-clock and processor seconds of a whole check, from the files on, and its result."""
    begun = time.perf_counter(), time.process_time()
    with open_model(candidate, "cpu", THREADS) as model:
        result = check_parity(model, reference, sources, device="cpu")
    return time.perf_counter() - begun[0], time.process_time() - begun[1], result
