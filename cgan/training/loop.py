"""The training loop: setup, train_epoch, fit.

All random choices are functions of the seed and the epoch, so a resumed run equals an uninterrupted one.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cgan.color import luma_uint8
from cgan.config import TrainConfig
from cgan.data.prepared import Photos
from cgan.data.split import Split, epoch_seed, split
from cgan.errors import GateError, UserError
from cgan.files import json_sha256
from cgan.metrics.features import FeatureNetwork
from cgan.networks import Generator
from cgan.text import counted
from cgan.training.checkpoint import training_tensors
from cgan.training.distributed import World
from cgan.training.epoch_writer import EpochWriter
from cgan.training.evaluation import calibrate_batch_norm, evaluate
from cgan.training.figures import sample_grid
from cgan.training.run_folder import RunFolder
from cgan.training.run_state import Metrics, Run, build, environment
from cgan.training.steps import Batch, Losses, train_step
from cgan.training.stopwatch import Stopwatch

HELD_OUT_PHOTOS = 64
"""Held-out photos that a run keeps in gray, to compare its exports on them."""

SAMPLE_PHOTOS, SAMPLE_GRIDS = 20, 2
"""Held-out photos in a sample grid, and grids: the first photos and the next, as in the original report."""

CHECK_EVERY = 20
"""Steps between checks of the losses on a GPU, because a check waits for the GPU. On the CPU every step is checked."""

PHASES = ("data", "forward", "backward", "step", "evaluation")
"""Phases of an epoch; their shares of its time are recorded."""

WRITES_BESIDE = ("cuda",)
"""Devices that train while the last epoch is written; on the CPU writing would compete for the cores."""

OnStep = Callable[[int, int, int, dict[str, float]], None]
"""Called with (epoch, finished photos, photos of the epoch, mean losses so far)."""


class Watcher(Protocol):
    """Who is told how far an epoch is."""

    def step(self, epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
        """Photos of an epoch are done, with these mean losses."""

    def evaluating(self, epoch: int, total: int) -> None:
        """All photos of an epoch are done, and the evaluation begins."""


def setup(
    folder: Path,
    config: TrainConfig,
    photos: Photos,
    resume: bool = False,
    world: World | None = None,
    start: Generator | None = None,
    tensorboard: bool = True,
) -> Run:
    """Build the networks, optimisers and data of a run, and create its folder; with `resume` load its last epoch.

    Args:
        folder: the run folder; without `resume` it must be free, with `resume` it holds this run.
        config: resolved configuration (see `cgan.training.run_state.resolve`).
        photos: prepared photos of config.size.
        resume: continue after the last finished epoch.
        world: the processes that train together; this one alone when None.
        start: the generator to begin with (see `cgan.training.run_state.load_start`); random weights when None.
        tensorboard: write event files.

    Raises:
        UserError: there are too few photos, all are near gray, the folder holds another run, or a resumed run has
            other options or photos, or lacks its --init.
        GateError: the folder cannot be written.
    """
    world = world or World()
    parts = split(photos.sha256, config.test_fraction, config.seed)
    if not resume:
        _refuse_gray(photos, parts)
    _refuse_too_few(config, parts, world)
    run = build(RunFolder(folder, tensorboard), config, photos, parts, world, start)
    photos_sha256 = json_sha256(list(zip(photos.names, photos.sha256, strict=True)))
    if world.from_main(photos_sha256) != photos_sha256:
        raise UserError(f"process {world.rank} found other photos than process 0; give all machines the same")
    division = {
        "train": [photos.names[i] for i in parts.train],
        "test": [photos.names[i] for i in parts.test],
        "photos_sha256": photos_sha256,
    }
    records = {"split.json": division, "environment.json": environment(run), "config.json": config.to_json()}
    if not resume:
        if world.main:
            run.folder.create(records)
    else:
        _resume(run, records, has_start=start is not None)
    return run


def _resume(run: Run, records: dict[str, Any], has_start: bool) -> None:
    """Load the last finished epoch from the run folder, and bring the folder's files up to date with it.

    Args:
        run: a new run from `build`.
        records: JSON values by file name, as they must be in the folder.
        has_start: True if --init was given again.

    Raises:
        UserError: the folder holds another run, or the run needs its --init again.
        GateError: the folder cannot be written.
    """
    run.folder.check_resumable(records)
    progress = run.folder.load(run.networks, run.optimizers)
    if progress:
        run.history, run.steps = progress["history"], progress["steps"]
        run.scaler.load_state_dict(progress["scaler"])
    elif run.config.init_sha256 and not has_start:
        raise UserError("--resume: found no finished epoch to go on after, and an --init before; give the same --init")
    run.folder.check_epochs(run.config, run.history)
    run.world.wait()  # every process has read before the main process writes
    if run.world.main:
        run.folder.adopt()
        run.folder.check_own()
        run.folder.write_records(records)
        if run.history:
            _published(run)()


def train_epoch(run: Run, epoch: int, watch: Stopwatch, on_step: OnStep | None = None) -> Metrics:
    """Train for one epoch: a step of both networks per batch; in the warm-up only of the generator.

    Args:
        run: the run.
        epoch: counted from 1.
        watch: measures the phases.
        on_step: called with the progress within the epoch.

    Returns:
        Mean losses, gradient norms and discriminator accuracy over the photos of all processes; images per second.

    Raises:
        GateError: a loss or a gradient is not finite; nothing of this epoch is saved.
    """
    config = run.config
    for name in ("generator", "discriminator"):
        if name in run.networks:
            run.networks[name].train()
    lr = config.lr * config.lr_scale(epoch)
    for optimizer in run.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = lr
    plan = _plan(run, epoch)
    pixels = iter(run.batches([(batch.indices, batch.flip) for batch in plan]))
    tally = _Tally(run, epoch)
    for step, planned in enumerate(plan, 1):
        with watch.phase("data"):
            batch = planned.batch(next(pixels))
        tally.add(train_step(run, batch, watch, warmup=epoch <= config.warmup_epochs), planned)
        if run.device.type == "cpu" or step % CHECK_EVERY == 0 or step == len(plan):
            tally.check()
            if on_step:
                on_step(epoch, tally.photos, len(run.split.train), tally.means())
    metrics = {name if name in _NOT_LOSSES else f"train_{name}": value for name, value in tally.reduce().items()}
    return {**metrics, "lr": lr, "images_per_second": tally.photos / watch.total()}


def fit(
    run: Run,
    features: FeatureNetwork | None = None,
    watcher: Watcher | None = None,
    on_epoch: Callable[[Metrics], None] | None = None,
) -> None:
    """Train up to config.epochs; after each epoch calibrate batch norm, evaluate and write the files.

    On a GPU an epoch is written while the next one trains. Without this overlap, files took 2 of the 5 s of epochs 55
    to 62 in benchmarks/results/flowers-report-h200.jsonl.

    Args:
        run: the run, new or resumed.
        features: feature network of FID and KID; None to leave them out.
        watcher: told of the progress within an epoch.
        on_epoch: called with an epoch's metrics when they and its weights are on disk; in processes that do not write,
            when the epoch is over.

    Raises:
        GateError: a loss or a gradient is not finite, or the run folder cannot be written.
    """
    with EpochWriter(on_epoch) as writer:

        def look(epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
            writer.look()
            if watcher:
                watcher.step(epoch, done, total, losses)

        for epoch in range(len(run.history) + 1, run.config.epochs + 1):
            watch = Stopwatch(run.device)
            metrics: Metrics = {"epoch": epoch, **train_epoch(run, epoch, watch, look)}
            if watcher:
                watcher.evaluating(epoch, len(run.split.train))
            with watch.phase("evaluation"):
                calibrate_batch_norm(run, epoch)
                metrics |= run.world.from_main(evaluate(run, features) if run.world.main else None)
            broken = [name for name in _MUST_BE_FINITE if not math.isfinite(metrics.get(name, 0.0))]
            _refuse_broken(run, broken, f"on the held-out photos after epoch {epoch}")
            shares = watch.shares()
            metrics["time_shares"] = {name: shares.get(name, 0.0) for name in PHASES}
            metrics["finished_at"] = time.time()
            run.history.append(metrics)
            writer.finish()  # before this epoch is copied, so that memory never holds the copies of two epochs
            writer.write(_saved(run) if run.world.main else None, metrics)
            if run.device.type not in WRITES_BESIDE:
                writer.finish()
    run.world.wait()


@dataclass(frozen=True)
class _Planned:
    """The photos and random choices of one step, in this process."""

    indices: Tensor
    flip: Tensor | None
    crop: Tensor | None
    sharpen: Tensor | None
    expose: Tensor | None
    mix: Tensor
    weight: float
    total: int
    """Photos of the step over all processes."""

    def batch(self, pixels: Tensor) -> Batch:
        """Return the batch of the step, on the device of its photos."""
        drawn = (self.crop, self.sharpen, self.expose)
        crop, sharpen, expose = (None if values is None else values.to(pixels.device) for values in drawn)
        return Batch(pixels, self.mix.to(pixels.device), self.weight, crop, sharpen, expose)


def _plan(run: Run, epoch: int) -> list[_Planned]:
    """Draw all steps of an epoch; their photos and random choices do not depend on the number of processes."""
    config, world = run.config, run.world
    random = torch.Generator().manual_seed(epoch_seed(config.seed, epoch))
    plan = []
    for indices in run.epoch_batches(epoch):
        flip, mix = torch.rand(len(indices), generator=random) < 0.5, torch.rand(len(indices), generator=random)
        # Drawn only if the option is on, so that runs without it are not changed.
        sharpen = torch.rand(len(indices), generator=random) * (1 + config.sharpness) - 1 if config.sharpness else None
        crop = torch.rand(len(indices), 3, generator=random) if config.crop < 1 else None
        if crop is not None:
            crop[:, 0] = config.crop + (1 - config.crop) * crop[:, 0]
        expose = None
        if config.exposure > 1:
            expose = config.exposure ** (2 * torch.rand(len(indices), generator=random) - 1)
        mine = world.share(indices)
        plan.append(
            _Planned(
                indices=mine,
                flip=world.share(flip) if config.flip else None,
                crop=None if crop is None else world.share(crop),
                sharpen=None if sharpen is None else world.share(sharpen),
                expose=None if expose is None else world.share(expose),
                mix=world.share(mix),
                weight=len(mine) * world.size / len(indices),
                total=len(indices),
            )
        )
    return plan


class _Tally:
    """Sums of an epoch's losses on the device, and the first step with a loss that is not finite."""

    def __init__(self, run: Run, epoch: int) -> None:
        self.run = run
        self.epoch = epoch
        self.photos = 0
        """Photos of all processes so far."""
        self._step = 0
        self._names: list[str] = []
        self._mine = 0
        self._sums = self._first_broken = self._skipped = torch.zeros((), device=run.device)

    def add(self, losses: Losses, planned: _Planned) -> None:
        """Add one step."""
        self._names = list(losses)
        self._step += 1
        self.photos += planned.total
        self._mine += len(planned.indices)
        values = torch.stack([value.double() for value in losses.values()])
        finite = values.isfinite()
        if self.run.scaler.is_enabled():
            # The gradient scaler searches for the largest scale: it skips a step whose gradients overflow.
            norms = torch.tensor([name.endswith("gradient_norm") for name in self._names], device=finite.device)
            self._skipped = self._skipped + (norms & ~finite).any()
            values, finite = values.where(finite | ~norms, 0), finite | norms
        self._sums = self._sums + values * len(planned.indices)
        self._first_broken = torch.where((self._first_broken == 0) & ~finite, self._step, self._first_broken)

    def check(self) -> None:
        """Raise GateError if a loss or a gradient was not finite; this waits for the device."""
        first = self._first_broken.tolist()
        steps = [int(step) for step in first if step]
        if steps:
            broken = [name for name, step in zip(self._names, first, strict=True) if step == min(steps)]
            _refuse_broken(self.run, broken, f"at step {min(steps)} of epoch {self.epoch}")
        if self.run.scaler.is_enabled() and self.run.scaler.get_scale() < 1:
            _refuse_broken(self.run, ["fp16 gradients"], f"at any scale by step {self._step} of epoch {self.epoch}")

    def means(self) -> dict[str, float]:
        """Return means over this process's photos so far; this waits for the device."""
        return dict(zip(self._names, (self._sums / max(1, self._mine)).tolist(), strict=True))

    def reduce(self) -> dict[str, float]:
        """Return means over the photos of all processes, and the number of skipped steps."""
        totals = self.run.world.sum(torch.cat([self._sums, self._sums.new_tensor([self._mine])]))
        means = dict(zip(self._names, (totals[:-1] / totals[-1]).tolist(), strict=True))
        return means | ({"skipped_steps": int(self._skipped)} if self.run.scaler.is_enabled() else {})


def _refuse_too_few(config: TrainConfig, parts: Split, world: World) -> None:
    """Raise UserError for fewer photos than FID or the processes need."""
    if config.fid and len(parts.test) < 2:
        raise UserError("FID needs at least 2 held-out photos, found 1; use a larger --test-fraction or --no-fid")
    if min(len(parts.train), config.batch_size) < world.size:
        raise UserError(
            f"found {counted(len(parts.train), 'photo')} to train on and --batch-size {config.batch_size}, expected "
            f"at least {world.size}, one photo for each process; start fewer"
        )


def _refuse_gray(photos: Photos, parts: Split) -> None:
    """Raise UserError if all photos, all training photos or all held-out photos are near gray."""
    count = len(photos.names)
    if len(photos.near_gray) == count:
        raise UserError(f"all {count} photos are near gray: colours cannot be learned from them; give photos in colour")
    for name, indices in (("training", parts.train), ("held-out", parts.test)):
        if photos.near_gray.issuperset(indices):
            raise UserError(
                f"found {counted(len(indices), f'{name} photo')} of {count}, all of them near gray: colours cannot be "
                "learned and measured; give more photos in colour, another --test-fraction or another --seed"
            )


_NOT_LOSSES = frozenset({"generator_gradient_norm", "discriminator_gradient_norm", "skipped_steps"})
_MUST_BE_FINITE = ("test_l1", "test_discriminator_loss")


def _refuse_broken(run: Run, broken: list[str], when: str) -> None:
    if broken:
        last = run.folder.generator_file if run.history else "none yet"  # it may not be written yet
        raise GateError(
            f"{', '.join(broken)} not finite {when}; last good checkpoint: {last}; "
            "try a smaller --lr, --precision fp32, or --gradient-penalty or --weight-clip with --gan-loss wasserstein"
        )


def _saved(run: Run) -> Callable[[], None]:
    """Return a function that writes the finished epoch, from copies of all that the next epoch changes."""
    tensors = training_tensors(run.networks, run.optimizers)
    progress = {"history": list(run.history), "steps": run.steps, "scaler": run.scaler.state_dict()}
    publish = _published(run)

    def write() -> None:
        run.folder.save(tensors, progress)  # first, because all other files can be made from it
        publish()

    return write


@torch.no_grad()
def _published(run: Run) -> Callable[[], None]:
    """Return a function that writes the files for users, from copies of all that the next epoch changes."""
    held_out = run.photos(torch.tensor(run.split.test[:HELD_OUT_PHOTOS]))
    run.result.eval()
    samples = []
    for photos in torch.split(held_out[: SAMPLE_GRIDS * SAMPLE_PHOTOS].to(run.device), SAMPLE_PHOTOS):
        gray, _ = run.gray_and_truth(photos)
        samples.append(sample_grid(gray, run.picture(gray), photos.float() / 255))
    generator, history = copy.deepcopy(run.result).cpu(), list(run.history)
    luma = luma_uint8(held_out).cpu().numpy()

    def write() -> None:
        run.folder.keep_held_out(luma)
        run.folder.publish(generator, run.config, history, samples)

    return write
