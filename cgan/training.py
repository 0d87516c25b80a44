"""The training loop: setup, train_epoch, evaluate, fit.

Everything random is a function of the seed and the epoch, so a resumed run goes on exactly as an
uninterrupted one would.
"""

import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgan import __version__
from cgan.color import luma_uint8
from cgan.config import ADAM_BETAS, TrainConfig
from cgan.dataset import Photos, Split, epoch_batches, epoch_seed, split
from cgan.figures import sample_grid
from cgan.losses import adversarial_loss, discriminator_accuracy, discriminator_loss, reconstruction_loss
from cgan.metrics import FID, NEAR_GRAY, FeatureNetwork, colorfulness, psnr
from cgan.networks import Generator, build_discriminator
from cgan.run_folder import RunFolder
from cgan.spec import GateError, UserError, json_sha256

SAMPLE_PHOTOS = 20
"""Held-out photos in the sample grid."""

COLOR_METRICS = frozenset({"psnr", "gray_psnr", "colorfulness", "real_colorfulness"})
"""Means of these leave out near-gray photos, unless all are."""

CALIBRATION_PHOTOS = 512
"""Training photos from which batch norm takes its statistics after an epoch."""

CHECK_EVERY = 20
"""Steps between checks that the losses are finite; each check waits for the device."""

Metrics = dict[str, Any]
OnStep = Callable[[int, int, Metrics], None]
"""Called with (photos done, photos in the epoch, losses so far)."""


@dataclass
class Run:
    """The state of one training run."""

    folder: RunFolder
    config: TrainConfig
    device: torch.device
    autocast_dtype: torch.dtype | None
    generator: Generator
    discriminator: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    pixels: Tensor
    """All photos, N x 3 x size x size uint8; on the device when they fit."""
    split: Split
    history: list[Metrics]
    """Metrics of the finished epochs."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Both networks, by the names they have in the training state."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for the forward passes, or nothing in fp32."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gray (N x 1) and RGB (N x 3) photos, float32 in [0, 1], channels last, on the device.

        Args:
            indices: photos, N.
            flip: which of them to mirror, N booleans.
        """
        pixels = self.pixels[indices.to(self.pixels.device)]
        if flip is not None:
            pixels = torch.where(flip.to(pixels.device)[:, None, None, None], pixels.flip(-1), pixels)
        pixels = pixels.to(self.device, non_blocking=True)
        gray, color = luma_uint8(pixels).float() / 255, pixels.float() / 255
        return gray.contiguous(memory_format=torch.channels_last), color.contiguous(memory_format=torch.channels_last)


def resolve(config: TrainConfig) -> TrainConfig:
    """Replace "auto" by the device and precision of this machine.

    Raises:
        UserError: the device is not here, or it does not compute in the precision.
    """
    cuda = torch.cuda.is_available()
    device = ("cuda" if cuda else "cpu") if config.device == "auto" else config.device
    if device == "cuda" and not cuda:
        raise UserError("--device cuda: torch finds no CUDA device here, only the CPU; use --device cpu or auto")
    precision = config.precision
    if precision == "auto":
        precision = "fp16" if device == "cuda" else "bf16" if _cpu_computes_bf16() else "fp32"
    if precision == "fp16" and device == "cpu":
        raise UserError("--precision fp16: found the CPU, expected a CUDA device; use bf16, fp32 or auto")
    return replace(config, device=device, precision=precision)


def setup(folder: Path, config: TrainConfig, photos: Photos, resume: bool = False) -> Run:
    """Networks, optimisers and data of a run, and its folder; from the last checkpoint with `resume`.

    Args:
        folder: the run folder; it must not hold a run yet, or hold this one with `resume`.
        config: resolved configuration (see `resolve`).
        photos: prepared photos of config.size.
        resume: go on after the last finished epoch.

    Raises:
        UserError: too few photos, another run in the folder, or a resumed run of other options or photos.
        GateError: the folder cannot be written.
    """
    parts = split(photos.sha256, config.test_fraction, config.seed)
    if config.fid and len(parts.test) < 2:
        raise UserError("FID needs at least 2 held-out photos, found 1; use a larger --test-fraction or --no-fid")
    torch.manual_seed(config.seed)
    generator = Generator(width=config.width)
    discriminator = build_discriminator(config.discriminator, 4, config.width, config.size)
    device = torch.device(config.device)
    for network in (generator, discriminator):
        network.to(device).to(memory_format=torch.channels_last)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "generator_adam": torch.optim.Adam(generator.parameters(), config.lr, ADAM_BETAS),
        "discriminator_adam": torch.optim.Adam(discriminator.parameters(), config.lr, ADAM_BETAS),
    }
    run = Run(
        folder=RunFolder(folder),
        config=config,
        device=device,
        autocast_dtype={"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[config.precision],
        generator=generator,
        discriminator=discriminator,
        optimizers=optimizers,
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        pixels=_on_device(photos.pixels, device),
        split=parts,
        history=[],
    )
    division = {
        "train": [photos.names[i] for i in parts.train],
        "test": [photos.names[i] for i in parts.test],
        "photos_sha256": json_sha256(list(zip(photos.names, photos.sha256, strict=True))),
    }
    records = {"config.json": config.to_json(), "split.json": division, "environment.json": _environment(device)}
    if not resume:
        run.folder.create(records)
        return run
    run.folder.reopen(records)
    progress = run.folder.load(run.networks, run.optimizers)
    if progress:
        run.history = progress["history"]
        run.scaler.load_state_dict(progress["scaler"])
        _publish(run)
    return run


def train_epoch(run: Run, epoch: int, on_step: OnStep | None = None) -> Metrics:
    """One pass over the training photos; both networks are stepped once a batch, in the warm-up only the generator.

    Returns:
        Mean losses and discriminator accuracy over the photos, and images a second.

    Raises:
        GateError: a loss is not finite; nothing of this epoch is saved.
    """
    run.generator.train()
    run.discriminator.train()
    flips = torch.Generator().manual_seed(epoch_seed(run.config.seed, epoch))
    warmup = epoch <= run.config.warmup_epochs
    batches = list(epoch_batches(run.split.train, run.config.batch_size, run.config.seed, epoch))
    sums: dict[str, Tensor] = {}
    done = 0
    started = time.perf_counter()
    for step, indices in enumerate(batches, 1):
        flip = torch.rand(len(indices), generator=flips) < 0.5 if run.config.flip else None
        for name, value in _train_step(run, *run.batch(indices, flip), warmup).items():
            sums[name] = sums.get(name, 0) + value * len(indices)
        done += len(indices)
        if step % CHECK_EVERY == 0 or step == len(batches):
            _check_finite(run, sums, epoch, step)
        if on_step:
            on_step(done, len(run.split.train), {name: value / done for name, value in sums.items()})
    metrics = {f"train_{name}": float(value) / done for name, value in sums.items()}
    return {**metrics, "images_per_second": done / (time.perf_counter() - started)}


@torch.no_grad()
def calibrate_batch_norm(run: Run, epoch: int) -> None:
    """Set the generator's batch norm statistics from its weights as they now are.

    The running averages of training lag behind the weights, and after few steps still hold their initial values;
    evaluation and export use these statistics. (Precise batch norm: Wu and Johnson 2021, "Rethinking 'Batch' in
    BatchNorm", section 3.) Training itself never reads them.
    """
    layers = [layer for layer in run.generator.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over all batches
    run.generator.train()
    done = 0
    for indices in epoch_batches(run.split.train, run.config.batch_size, run.config.seed, epoch):
        with run.autocast():
            run.generator(run.batch(indices)[0])
        done += len(indices)
        if done >= CALIBRATION_PHOTOS:
            break
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


@torch.no_grad()
def evaluate(run: Run, inception: FeatureNetwork | None = None) -> Metrics:
    """Means over the held-out photos, in float32 and evaluation mode; COLOR_METRICS leave out near-gray photos.

    Raises:
        GateError: a loss is not finite, as after a last step that broke the weights.
    """
    run.generator.eval()
    run.discriminator.eval()
    fid = FID(inception, run.device) if inception else None
    columns: dict[str, list[Tensor]] = {}
    for indices in torch.split(torch.tensor(run.split.test), run.config.batch_size):
        gray, color = run.batch(indices)
        picture = run.generator(gray)
        real, fake = run.discriminator(torch.cat([gray, color], 1)), run.discriminator(torch.cat([gray, picture], 1))
        values = {
            "l1": (picture - color).abs().mean(dim=(1, 2, 3)),
            "psnr": psnr(picture, color),
            "gray_psnr": psnr(gray.expand_as(color), color),
            "colorfulness": colorfulness(picture),
            "real_colorfulness": colorfulness(color),
            "discriminator_loss": discriminator_loss(real, fake, run.config.label_smoothing).expand(len(gray)),
            "discriminator_accuracy": discriminator_accuracy(real, fake).expand(len(gray)),
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value.double().cpu())
        if fid:
            fid.update(picture, color)
    photos = {name: torch.cat(parts) for name, parts in columns.items()}
    broken = [name for name in ("l1", "discriminator_loss") if not photos[name].isfinite().all()]
    _refuse_broken(run, broken, f"on the held-out photos after epoch {len(run.history) + 1}")
    # A gray photo has infinite PSNR against its own luma: such photos say nothing about colouring.
    colored = photos["real_colorfulness"] >= NEAR_GRAY
    metrics: Metrics = {"test_photos": len(colored), "test_near_gray_photos": int((~colored).sum())}
    for name, values_ in photos.items():
        chosen = values_[colored] if name in COLOR_METRICS and colored.any() else values_
        metrics[f"test_{name}"] = float(chosen.mean())
    if fid:
        metrics["test_fid"] = fid.compute()
    return metrics


def fit(
    run: Run,
    inception: FeatureNetwork | None = None,
    on_step: OnStep | None = None,
    on_epoch: Callable[[Metrics], None] | None = None,
) -> None:
    """Train until config.epochs are done; after each epoch calibrate, evaluate, save and draw samples.

    Raises:
        GateError: a loss is not finite, or the run folder cannot be written.
    """
    for epoch in range(len(run.history) + 1, run.config.epochs + 1):
        metrics: Metrics = {"epoch": epoch, **train_epoch(run, epoch, on_step)}
        calibrate_batch_norm(run, epoch)
        metrics |= evaluate(run, inception)
        run.history.append(metrics)
        _finish_epoch(run)
        if on_epoch:
            on_epoch(metrics)


def _train_step(run: Run, gray: Tensor, color: Tensor, warmup: bool) -> Metrics:
    """One step of each network; the generator is stepped on the updated discriminator.

    During the warm-up only the generator is stepped, on L1 alone.
    """
    with run.autocast():
        picture = run.generator(gray)
    l1 = reconstruction_loss(picture, color)
    if warmup:
        _step(run, "generator_adam", run.config.l1_weight * l1)
        run.scaler.update()
        return {"l1": l1.detach()}
    losses = _discriminator_step(run, gray, color, picture.detach())
    run.discriminator.requires_grad_(False)  # its weights' gradients are not needed here
    with run.autocast():
        logits = run.discriminator(torch.cat([gray, picture], 1))
    adversarial = adversarial_loss(logits)
    _step(run, "generator_adam", adversarial + run.config.l1_weight * l1)
    run.discriminator.requires_grad_(True)
    run.scaler.update()
    return {"l1": l1.detach(), "adversarial": adversarial.detach(), **losses}


def _discriminator_step(run: Run, gray: Tensor, color: Tensor, picture: Tensor) -> Metrics:
    with run.autocast():
        real_logits = run.discriminator(torch.cat([gray, color], 1))
        fake_logits = run.discriminator(torch.cat([gray, picture], 1))
    loss = discriminator_loss(real_logits, fake_logits, run.config.label_smoothing)
    _step(run, "discriminator_adam", loss)
    return {
        "discriminator_loss": loss.detach(),
        "discriminator_accuracy": discriminator_accuracy(real_logits.detach(), fake_logits.detach()),
    }


def _step(run: Run, name: str, loss: Tensor) -> None:
    optimizer = run.optimizers[name]
    optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    run.scaler.step(optimizer)


def _check_finite(run: Run, sums: dict[str, Tensor], epoch: int, step: int) -> None:
    broken = [name for name, value in sums.items() if not torch.isfinite(value)]
    _refuse_broken(run, broken, f"by step {step} of epoch {epoch}")


def _refuse_broken(run: Run, broken: list[str], when: str) -> None:
    if broken:
        last = run.folder.generator_file
        raise GateError(
            f"{', '.join(broken)} not finite {when}; last good checkpoint: "
            f"{last if last.exists() else 'none yet'}; try a smaller --lr or --precision fp32"
        )


def _finish_epoch(run: Run) -> None:
    """Write the run folder as of now: the state first, then what can be made from it again."""
    run.folder.save(run.networks, run.optimizers, {"history": run.history, "scaler": run.scaler.state_dict()})
    _publish(run)


@torch.no_grad()
def _publish(run: Run) -> None:
    run.folder.publish(run.generator, run.config, run.history)
    run.generator.eval()
    gray, color = run.batch(torch.tensor(run.split.test[:SAMPLE_PHOTOS]))
    run.folder.save_samples(sample_grid(gray, run.generator(gray), color), len(run.history))


def _on_device(pixels: Tensor, device: torch.device) -> Tensor:
    """All photos on the GPU if they take at most half of its free memory, so that no loader is needed."""
    if device.type == "cuda" and pixels.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
        return pixels.to(device)
    return pixels


def _cpu_computes_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "cgan": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": name,
        "threads": torch.get_num_threads(),
    }
