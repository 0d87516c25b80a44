"""The memory that training needs, estimated before anything is allocated, and the memory that is there.

A step holds the parameters of both networks four times in fp32 (weights, gradients and Adam's two moments), the average
of --ema, and, for each photo of the batch, what autograd keeps of one generator and two discriminator passes. Where an
epoch ends, the activations are gone, and weights and moments are copied to be written.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cgan.config import TrainConfig
from cgan.cores import control_groups
from cgan.errors import UserError
from cgan.networks import build_discriminator, build_generator, count_parameters
from cgan.projected import heads, projected_side

FLOAT_BYTES = 4

STATES = 4
"""Weights, gradients and both moments of Adam."""

WRITTEN = 4 * 3
"""Copies of weights and moments at the end of an epoch: of the tensors, of the file, and twice while its header is put
in order."""

UNET_VALUES, BLOCK_VALUES = 9.0, 11.7
"""Values that autograd keeps of a U-Net for each pixel and base width, beside and in each block at a scale; counted
with `torch.autograd.graph.saved_tensors_hooks`."""

PATCH_VALUES = 13.1
"""The same of the patch and dense discriminators."""

FROZEN_VALUES, HEAD_VALUES = 265.0, 0.9
"""The same of the projected discriminator in the generator's step, for each pixel of what its frozen network sees: of
that network, and of the heads for each base width."""

PENALTY = 3
"""A penalty's pass with its second derivative, in passes of the discriminator in fp32."""

BASE_BYTES = 900 * 2**20
"""An interpreter with torch and this package, and the libraries that draw and write an epoch."""

LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
"""Files of a control group with its limit, in version 2 and 1."""


@dataclass(frozen=True)
class Need:
    """Bytes that one process of a training run needs."""

    fixed: int
    """Whatever the batch is."""
    per_photo: int
    """For each photo of its batch."""
    batch: int
    """Photos of a step in this process."""

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.fixed + self.batch * self.per_photo


@dataclass(frozen=True)
class Memory:
    """Bytes that one process can have."""

    size: int
    where: str
    """Such as "the machine"."""


def need_of(config: TrainConfig, processes: int = 1) -> Need:
    """Return an estimate of the memory of one process, without FID's network and the photos, which are mapped.

    Peak RSS of runs of an epoch on 65 photos on the CPU in fp32 was from 0.90 to 1.08 of it: of widths 4 to 32, sizes
    32 to 128 and batches 4 to 64, 0.9 to 2.8 GiB.

    Args:
        config: resolved configuration, see `cgan.training.run_state.resolve`.
        processes: processes that share a batch.
    """
    with torch.device("meta"):  # no allocation
        generator, discriminator = build_generator(config), _trained(config)
    count = count_parameters(generator)
    average = count if config.ema else 0
    passes = UNET_VALUES + BLOCK_VALUES * config.blocks
    value_bytes: float = FLOAT_BYTES if config.precision == "fp32" else FLOAT_BYTES / 2
    values = passes * config.width * value_bytes
    if discriminator is not None:
        count += count_parameters(discriminator)
        penalties = (config.r1 > 0) + (config.gradient_penalty > 0)
        # Only the generator's step keeps the frozen features; the others keep two passes in the discriminator's.
        passes = 1 if config.discriminator == "projected" else 2
        values += _judging(config) * (passes * value_bytes + PENALTY * penalties * FLOAT_BYTES)
    base = BASE_BYTES if config.device == "cpu" else 0
    states = base + FLOAT_BYTES * (STATES * count + average)
    written = FLOAT_BYTES * WRITTEN * count if config.device == "cpu" else 0
    batch = -(-config.batch_size // processes)
    per_photo = round(values * config.size**2)
    return Need(max(states, states + written - batch * per_photo), per_photo, batch)


def _judging(config: TrainConfig) -> float:
    """Return the values that autograd keeps of a pass of the discriminator, for each pixel of a photo."""
    width, blocks = config.discriminator_width or config.width, config.discriminator_blocks
    if config.discriminator == "projected":
        return (FROZEN_VALUES + HEAD_VALUES * width) * (projected_side(config.size) / config.size) ** 2
    return width * (UNET_VALUES + BLOCK_VALUES * blocks if config.discriminator == "unet" else PATCH_VALUES * blocks)


def _trained(config: TrainConfig) -> nn.Module | None:
    """Return the part of the discriminator that is trained."""
    if config.discriminator == "projected":
        return heads(config.discriminator_width or config.width)
    return build_discriminator(replace(config, spectral_norm=False))


def memory_of(config: TrainConfig, processes_here: int = 1) -> Memory:
    """Return the memory that a process can have: its GPU's, or its share of the machine's or of the cgroup's.

    Args:
        config: resolved configuration.
        processes_here: processes on this machine.
    """
    if config.device == "cuda":
        return Memory(torch.cuda.mem_get_info()[1], "the GPU")
    sizes = [Memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine")]
    sizes += [Memory(size, "the cgroup") for size in cgroup_limits()]
    least = min(sizes, key=lambda memory: memory.size)
    return replace(least, size=least.size // processes_here)


def cgroup_limits() -> list[int]:
    """Return the memory limits in bytes of this process's cgroups and those above them, of version 1 and 2."""
    files = (group / name for group in control_groups("memory") for name in LIMIT_FILES)
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text != "max"]


def check_memory(config: TrainConfig) -> dict[str, Any]:
    """Refuse a configuration that needs more memory than there is.

    Args:
        config: resolved configuration.

    Returns:
        The estimate and the memory as JSON values, in bytes for each process.

    Raises:
        UserError: the estimate exceeds the memory; the message names the largest batch that fits.
    """
    processes, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    need, memory = need_of(config, processes), memory_of(config, here)
    if need.total > memory.size:
        fits = processes * max(0, (memory.size - need.fixed) // need.per_photo)
        advice = (
            f"the largest --batch-size that fits is about {fits}"
            if fits
            else "no batch fits; give a smaller --width, --blocks or --size"
        )
        raise UserError(
            f"--batch-size {config.batch_size}: training needs about {_gigabytes(need.total)} of memory with --width "
            f"{config.width} --blocks {config.blocks} --size {config.size}, found {_gigabytes(memory.size)} of "
            f"{memory.where}; {advice}"
        )
    return {"needed": need.total, "of_each_photo": need.per_photo, "found": memory.size, "found_in": memory.where}


def _gigabytes(size: int) -> str:
    return f"{float(f'{size / 1e9:.3g}'):,.15g} GB"
