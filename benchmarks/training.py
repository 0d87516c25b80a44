"""How fast the whole GAN step trains, against the same step from torch's own padding and concatenation.

    python benchmarks/training.py [--width 16] [--batch-size 32] [--precision auto] [--json FILE]

Both step the same networks on the same random photos, by turns over several rounds in one process. What the machine
could do at most is measured beside them: the rate of a large matrix product in the same precision, and how much of it
the step's convolutions use.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import click
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import arguments, machine
from benchmarks.matrix import matrix_product_rate
from benchmarks.records import json_option, write_record
from cgan import networks
from cgan.config import DEVICE_CHOICES, PRECISION_CHOICES, Device, TrainConfig, TrainPrecision
from cgan.data.prepared import Photos
from cgan.data.split import Split
from cgan.training.distributed import World
from cgan.training.run import AUTOCAST_DTYPES, Run, build, resolve
from cgan.training.run_folder import RunFolder
from cgan.training.steps import Batch, train_step
from cgan.training.stopwatch import Stopwatch


@click.command()
@click.option("--width", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=2), default=32, show_default=True)
@click.option("--size", default=128, show_default=True)
@click.option("--precision", type=click.Choice(PRECISION_CHOICES), default="auto", show_default=True)
@click.option("--device", type=click.Choice(DEVICE_CHOICES), default="auto", show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True, help="Steps in a round.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
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
    """Print images a second of both and of how much the machine is capable, and the ratio last."""
    options = TrainConfig(
        width=width, batch_size=batch_size, size=size, precision=precision, device=device, fid=False, epochs=1
    )
    config = resolve(options)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), config)
        flops = flops_of_step(make_run(Path(folder), replace(config, device="cpu", precision="fp32", batch_size=2))) / 2
        with plain_networks():
            plain = make_run(Path(folder), config)
        run_steps(run, 1)
        with plain_networks():
            run_steps(plain, 1)
        dtype = AUTOCAST_DTYPES[run.config.precision] or torch.float32
        for number in range(1, rounds + 1):
            product = matrix_product_rate(run.device, dtype)
            speed = run_steps(run, steps)
            with plain_networks():
                other = run_steps(plain, steps)
            share = speed * flops / product
            figures.append({"step": speed, "plain": other, "ratio": speed / other, "share_of_matrix_product": share})
            print(
                f"round {number}: step {speed:.1f} images/s, plain {other:.1f} images/s, "
                f"{share:.0%} of the rate of a matrix product ({product / 1e9:.0f} GFLOP/s)"
            )
    ratio = statistics.median(figure["ratio"] for figure in figures)
    if json_file:
        here = {**machine(), "device": str(run.device), "threads": torch.get_num_threads()}
        record: dict[str, object] = {"arguments": arguments(), "config": config.to_json(), "machine": here}
        record |= {"gflop_per_image": flops / 1e9, "rounds": figures, "ratio": ratio}
        write_record(json_file, record)
    print(f"step / plain = {ratio:.2f}")


def make_run(folder: Path, config: TrainConfig) -> Run:
    """A run over one batch of random photos."""
    count = config.batch_size
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, config.size, config.size), generator=random, dtype=torch.uint8)
    photos = Photos(pixels, tuple(map(str, range(count))), tuple(map(str, range(count))), {})
    return build(RunFolder(folder), config, photos, Split(tuple(range(count)), (0,)), World())


def run_steps(run: Run, count: int) -> float:
    """Images a second over some steps."""
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


@contextmanager
def plain_networks() -> Iterator[None]:
    """Networks built and called here pad and concatenate as torch does."""

    class PlainConv2d(nn.Conv2d):
        def __init__(self, channels_in: int, channels_out: int) -> None:
            super().__init__(channels_in, channels_out, 3, padding=1, padding_mode="reflect", bias=False)

    def concatenate(x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, skip], dim=1)

    with mock.patch.multiple(networks, ReflectConv2d=PlainConv2d, concatenate=concatenate):
        yield


def flops_of_step(run: Run) -> float:
    """Multiplications and additions of a step for all its photos, counted apart."""
    with FlopCounterMode(display=False) as counter:
        run_steps(run, 1)
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()
