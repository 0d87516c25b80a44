"""Run, the state of a training run: networks, optimisers, data and devices; how it is built."""

import copy
import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgan import __version__
from cgan.color import COLOR_TARGETS, ColorSpace
from cgan.config import BestBy, Device, TrainConfig, TrainPrecision, flag
from cgan.data.prefetch import prefetch
from cgan.data.prepared import Photos
from cgan.data.split import Split, epoch_batches
from cgan.efficientnet import load_weights
from cgan.errors import UserError
from cgan.networks import Generator, build_discriminator, build_generator
from cgan.training.checkpoint import weights_digest
from cgan.training.distributed import World
from cgan.training.exported import ExportedGenerator, load_network, unfold_batch_norm
from cgan.training.run_folder import RunFolder

Metrics = dict[str, Any]

UNFOLDING_PIXELS, LEAST_UNFOLDING = 2**20, 16
"""Pixels, and least number of photos, for the batch norm statistics of an exported generator: about 0.7 GB at width
16."""

AUTOCAST_DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Type of autocast for each precision of training."""


@dataclass
class Run:
    """The state of one training run."""

    folder: RunFolder
    config: TrainConfig
    world: World
    device: torch.device
    generator: Generator
    discriminator: nn.Module | None
    average: Generator | None
    """Moving average of the generator's weights, with --ema."""
    optimizers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    pixels: Tensor
    """All photos, N x 3 x size x size uint8; on the device if they fit."""
    split: Split
    compiled: dict[str, nn.Module] = field(default_factory=dict)
    """The networks, compiled with --compile."""
    stepped: dict[str, nn.Module] = field(default_factory=dict)
    """The compiled networks with gradients averaged over the processes; used in a network's own step."""
    history: list[Metrics] = field(default_factory=list)
    """Metrics of the finished epochs."""
    steps: int = 0
    """Number of generator steps so far."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All networks, by their names in the training state file."""
        named = {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}
        return {name: network for name, network in named.items() if network is not None}

    @property
    def result(self) -> Generator:
        """The generator that is evaluated and exported: the average, if there is one."""
        return self.average or self.generator

    @property
    def target(self) -> ColorSpace:
        """The colour space that the generator predicts."""
        return COLOR_TARGETS[self.config.color_space]

    @cached_property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type of mixed precision; None in fp32."""
        return AUTOCAST_DTYPES[self.config.precision]

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context of mixed precision for forward passes; it does nothing in fp32."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def epoch_batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield the indices of each step's training photos, over all processes, with at least one for each process."""
        smallest = max(2, self.world.size)
        config = self.config
        return epoch_batches(self.split.train, config.batch_size, config.seed, epoch, smallest=smallest)

    def photos(self, indices: Tensor, flip: Tensor | None = None) -> Tensor:
        """Return photos by index, N x 3 x size x size uint8, on the device of `pixels`.

        Args:
            indices: indices of photos, N.
            flip: N booleans, True to mirror a photo.
        """
        pixels = self.pixels[indices.to(self.pixels.device)]
        if flip is not None:
            pixels = torch.where(flip.to(pixels.device)[:, None, None, None], pixels.flip(-1), pixels)
        return pixels

    def batches(self, choices: list[tuple[Tensor, Tensor | None]]) -> Iterator[Tensor]:
        """Yield batches by (indices, flip) on the device, each N x 3 x size x size uint8.

        If the photos are not on the GPU, the next batches are prepared while it computes.
        """
        if self.device.type == "cpu" or self.pixels.is_cuda:
            yield from (self.photos(*choice) for choice in choices)
            return
        with closing(prefetch(choices, self._pinned)) as ready:
            for pixels in ready:
                yield pixels.to(self.device, non_blocking=True)

    def _pinned(self, choice: tuple[Tensor, Tensor | None]) -> Tensor:
        torch.cuda.set_device(self.device)  # a new thread pins memory for the first GPU by default
        return self.photos(*choice).pin_memory()

    def gray_and_truth(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the generator's input and the true colours for the losses, float32 in [0, 1], channels last.

        Args:
            pixels: N x 3 x H x W uint8, on the device.

        Returns:
            N x 1 x H x W, and N x config.loss_channels x H x W in the loss's colour space.
        """
        gray, truth = self.target.split(pixels)
        if self.config.loss_space == "rgb":
            truth = pixels.float() / 255
        # Not contiguous(): it keeps the layout of a single channel, and a concatenation would take over that layout.
        return gray.to(memory_format=torch.channels_last), truth.to(memory_format=torch.channels_last)

    def in_loss_space(self, gray: Tensor, prediction: Tensor) -> Tensor:
        """Convert the generator's colours to the loss's colour space, N x config.loss_channels x H x W."""
        return self.target.to_rgb(gray, prediction.float()) if self.config.loss_space == "rgb" else prediction

    def picture(self, gray: Tensor) -> Tensor:
        """Colour gray, N x 1 x H x W, with the result generator: RGB in [0, 1], N x 3 x H x W."""
        return self.target.to_rgb(gray, self.result(gray).float()).clamp(0, 1)


def resolve(config: TrainConfig) -> TrainConfig:
    """Replace "auto" by the device, the precision and the metric of this machine and run.

    Raises:
        UserError: the device is missing, or does not support the precision.
    """
    cuda = torch.cuda.is_available()
    device: Device = config.device
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    if device == "cuda" and not cuda:
        raise UserError("--device cuda: torch finds no CUDA device here, only the CPU; use --device cpu or auto")
    precision: TrainPrecision = config.precision
    if precision == "auto":
        precision = "fp16" if device == "cuda" else "bf16" if _cpu_computes_bf16() else "fp32"
    if precision == "fp16" and device == "cpu":
        raise UserError("--precision fp16: found the CPU, expected a CUDA device; use bf16, fp32 or auto")
    best_by: BestBy = config.best_by
    if best_by == "auto":
        best_by = "fid" if config.fid else "psnr"
    return replace(config, device=device, precision=precision, best_by=best_by)


def with_frozen_weights(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the digest of the frozen weights of --discriminator projected.

    Raises:
        UserError: there are no such weights, or others than the run began with.
    """
    if config.discriminator != "projected":
        return config
    weights = load_weights("lite0", "--discriminator projected")
    if config.projected_sha256 not in ("", weights.sha256):
        raise UserError(
            f"--resume: found weights of EfficientNet-Lite0 in {weights.source} with sha256 {weights.sha256[:16]}..., "
            f"expected {config.projected_sha256[:16]}... that the run began with; install the same weights"
        )
    return replace(config, projected_sha256=weights.sha256)


@dataclass(frozen=True)
class Start:
    """The generator that a run begins with."""

    source: str
    """The name that the user gave."""
    generator: Generator
    options: Mapping[str, Any]
    """Fields of a TrainConfig that describe it: those of its architecture, and the size that it was trained at."""
    sha256: str
    """Digest of its weights."""

    def adopted(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the generator, without those that the user gave.

        The size may be another one, and so may the blur, which suits a size and has no weights.

        Args:
            given: options of the user by field.

        Raises:
            UserError: a given option contradicts the generator.
        """
        wrong = {
            name: value
            for name, value in self.options.items()
            if name in given and given[name] != value and name not in ("size", "input_blur")
        }
        if wrong:
            found, expected = (
                " ".join(f"{flag(name)} {value}" for name, value in values.items())
                for values in ({name: given[name] for name in wrong}, wrong)
            )
            raise UserError(
                f"--init {self.source}: found {found}, expected {expected}, with which that model was made; leave "
                f"{'it' if len(wrong) == 1 else 'them'} out"
            )
        return {name: value for name, value in self.options.items() if name not in given}


def load_start(source: Path, name: str) -> Start:
    """Load the generator of --init.

    Args:
        source: a run folder (its best checkpoint), a checkpoint or an exported fp32 ONNX file.
        name: the name that the user gave it, for messages.

    Raises:
        UserError: there is no such file, it is none of these, or its weights are not finite.
        GateError: its weights were changed.
    """
    generator, spec = load_network(source)
    if spoiled := [name for name, weights in generator.state_dict().items() if not weights.isfinite().all()]:
        raise UserError(f"--init {name}: found weights in {spoiled[0]} that are not finite numbers; give another model")
    options = {
        "color_space": spec.color_space,
        "width": spec.base_width,
        "blocks": spec.blocks,
        "input_blur": spec.input_blur,
        "size": spec.render_size,
    }
    # The weights in an exported file are not those of the checkpoint: batch norm is folded.
    folded = isinstance(generator, ExportedGenerator)
    digest = weights_digest(generator.state_dict()) if folded else spec.weights_sha256
    return Start(name, generator, options, digest)


def build(
    folder: RunFolder,
    config: TrainConfig,
    photos: Photos,
    split: Split,
    world: World,
    start: Generator | None = None,
) -> Run:
    """Build the networks, optimisers and data of a new run.

    Args:
        folder: the run folder.
        config: resolved configuration (see `resolve`).
        photos: prepared photos of config.size.
        split: training and held-out photos.
        world: the processes that train together.
        start: the generator to begin with; None for random weights.
    """
    device = torch.device("cuda", world.local_rank) if config.device == "cuda" else torch.device("cpu")
    torch.manual_seed(config.seed)
    networks: dict[str, nn.Module] = {"generator": build_generator(config)}
    if start is not None:  # random weights were drawn all the same, so that the discriminator's do not change
        if isinstance(start, ExportedGenerator):
            unfold_batch_norm(start, _gray(photos, split, config))
        networks["generator"].load_state_dict(start.state_dict())
    if discriminator := build_discriminator(config):
        networks["discriminator"] = discriminator
    betas = (config.beta1, config.beta2)
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for name, network in networks.items():
        network.to(device).to(memory_format=torch.channels_last)
        networks[name] = network = world.synchronize_batch_norm(network)
        optimizers[f"{name}_adam"] = torch.optim.Adam(network.parameters(), config.lr, betas, fused=True)
    compiled = {name: compile_network(network) if config.compile else network for name, network in networks.items()}
    generator = networks["generator"]
    assert isinstance(generator, Generator)
    return Run(
        folder=folder,
        config=config,
        world=world,
        device=device,
        generator=generator,
        discriminator=networks.get("discriminator"),
        average=copy.deepcopy(generator).requires_grad_(False) if config.ema else None,
        optimizers=optimizers,
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        pixels=_on_device(photos.pixels, device),
        split=split,
        compiled=compiled,
        stepped={name: world.parallel(network) for name, network in compiled.items()},
    )


def _gray(photos: Photos, split: Split, config: TrainConfig) -> Tensor:
    """Return some training photos as input of the generator, N x 1 x size x size."""
    count = max(LEAST_UNFOLDING, UNFOLDING_PIXELS // config.size**2)
    evenly = split.train[:: max(1, len(split.train) // count)][:count]  # the photos are sorted by name, often by class
    return COLOR_TARGETS[config.color_space].split(photos.pixels[torch.tensor(evenly)])[0]


def compile_network(network: nn.Module) -> nn.Module:
    """Compile a network with torch.compile; the result shares its weights."""
    compiled = torch.compile(network)
    assert isinstance(compiled, nn.Module)
    return compiled


def environment(run: Run) -> dict[str, Any]:
    """Return versions and device for environment.json."""
    on_gpu = run.device.type == "cuda"
    name = torch.cuda.get_device_name(run.device) if on_gpu else platform.processor() or platform.machine()
    return {
        "cgan": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "device": name,
        "processes": run.world.size,
        "threads": torch.get_num_threads(),
        "photos_on_device": run.pixels.device.type == run.device.type,
    }


def _on_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Move all photos to the GPU if they fill at most half of its free memory; then no loader is needed."""
    if device.type == "cuda" and pixels.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
        return pixels.to(device)
    return pixels


def _cpu_computes_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
