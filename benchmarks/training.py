"""Speed of the training step against the same step with the padding and concatenation of torch.

    python -m benchmarks training [--width 16] [--batch-size 32] [--precision auto] [--json FILE]

Both train the same networks on the same random photos, in turns over several rounds in one process. The share of the
machine's peak that the convolutions use is measured too, against the rate of a large matrix product in the same
precision.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import COUNTS, benchmark
from benchmarks.machine import machine
from benchmarks.matrix import matrix_product_rate
from benchmarks.plain_networks import use_plain_networks
from benchmarks.records import json_option, record, write_record
from benchmarks.rounds import rounds_of_turns
from cgan.config import DEVICE_CHOICES, PRECISION_CHOICES, Device, TrainConfig, TrainPrecision
from cgan.data.prepared import Photos
from cgan.data.split import Split
from cgan.spec import MOST_BATCH, MOST_WIDTH
from cgan.training.distributed import World
from cgan.training.run_folder import RunFolder
from cgan.training.run_state import AUTOCAST_DTYPES, Run, build, resolve
from cgan.training.steps import Batch, train_step
from cgan.training.stopwatch import Stopwatch


@benchmark
@click.option("--width", type=click.IntRange(1, MOST_WIDTH), default=16, show_default=True)
@click.option("--batch-size", type=click.IntRange(2, MOST_BATCH), default=32, show_default=True)
@click.option("--size", default=128, show_default=True)
@click.option("--precision", type=click.Choice(PRECISION_CHOICES), default="auto", show_default=True)
@click.option("--device", type=click.Choice(DEVICE_CHOICES), default="auto", show_default=True)
@click.option("--steps", type=COUNTS, default=5, show_default=True, help="Steps in a round.")
@click.option("--rounds", type=COUNTS, default=3, show_default=True)
@json_option
def main(
    width: int,
    batch_size: int,
    size: int,
    precision: TrainPrecision,
    device: Device,
    steps: int,
    rounds: int,
    json_file: Path | None,
) -> None:
    """Time the training step against the same step with the padding and concatenation of torch.

    Prints images a second of both and the share of a matrix product's rate; the ratio of the two comes last.
    """
    options = TrainConfig(
        width=width, batch_size=batch_size, size=size, precision=precision, device=device, fid=False, epochs=1
    )
    config = resolve(options)
    with tempfile.TemporaryDirectory() as folder:
        flops = flops_of_step(make_run(Path(folder), replace(config, device="cpu", precision="fp32", batch_size=2))) / 2
        runs = {"step": make_run(Path(folder), config), "plain": make_run(Path(folder), config)}
    use_plain_networks(runs["plain"])
    figures = measure(runs, rounds, steps, flops)
    ratio = statistics.median(figure["ratio"] for figure in figures)
    here = {**machine(), "device": str(runs["step"].device), "threads": torch.get_num_threads()}
    values = record(config=config.to_json(), machine=here, gflop_per_image=flops / 1e9, rounds=figures, ratio=ratio)
    write_record(json_file, values)
    print(f"step / plain = {ratio:.2f}")


def measure(runs: dict[str, Run], rounds: int, steps: int, flops: float) -> list[dict[str, float]]:
    """Time the runs "step" and "plain" in turns, print a line for each round and return the figures of each.

    Args:
        runs: both, over the same photos.
        rounds: number of rounds.
        steps: steps in a turn.
        flops: multiplications and additions of a step for one photo.
    """
    run = runs["step"]
    dtype = AUTOCAST_DTYPES[run.config.precision] or torch.float32
    for warm_up in runs.values():
        run_steps(warm_up, 1)
    figures = []
    for number, turns in rounds_of_turns(list(runs), rounds):
        product = matrix_product_rate(run.device, dtype)
        speeds = {name: run_steps(runs[name], steps) for name in turns}
        speed, other = speeds["step"], speeds["plain"]
        share = speed * flops / product
        figures.append({"step": speed, "plain": other, "ratio": speed / other, "share_of_matrix_product": share})
        print(
            f"round {number + 1}: step {speed:.1f} images/s, plain {other:.1f} images/s, "
            f"{share:.0%} of the rate of a matrix product ({product / 1e9:.0f} GFLOP/s)"
        )
    return figures


def make_run(folder: Path, config: TrainConfig) -> Run:
    """Return a training run over one batch of random photos."""
    count = config.batch_size
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, config.size, config.size), generator=random, dtype=torch.uint8)
    photos = Photos(pixels, tuple(map(str, range(count))), tuple(map(str, range(count))), {})
    return build(RunFolder(folder), config, photos, Split(tuple(range(count)), (0,)), World())


def run_steps(run: Run, count: int) -> float:
    """Train for `count` steps and return images a second."""
    for network in run.networks.values():
        network.train()
    indices = torch.arange(run.config.batch_size)
    watch = Stopwatch(run.device)
    watch.seconds()  # waits for the device
    began = time.perf_counter()
    for _ in range(count):
        (pixels,) = run.batches([(indices, None)])
        train_step(run, Batch(pixels, torch.rand(len(indices), device=run.device), 1.0), watch, warmup=False)
    watch.seconds()
    return count * len(indices) / (time.perf_counter() - began)


def flops_of_step(run: Run) -> float:
    """Return the multiplications and additions of a step for all its photos, each counted as one operation."""
    with FlopCounterMode(display=False) as counter:
        run_steps(run, 1)
    return float(counter.get_total_flops())
