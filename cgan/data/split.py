"""Seeded split into training and held-out photos, and the order of an epoch."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cgan.errors import UserError
from cgan.text import counted


@dataclass(frozen=True)
class Split:
    """Training and held-out photos, as indices into `Photos`."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    """In random order, so that the first ones are a fair sample."""


def split(sha256: tuple[str, ...], test_fraction: float, seed: int) -> Split:
    """Split photos at random into training and held-out ones; equal files go to the same side.

    Args:
        sha256: digest of each photo's file.
        test_fraction: share of held-out photos, in (0, 1); at least one photo is held out.
        seed: equal seeds give equal splits.

    Raises:
        UserError: fewer than two different photos.
    """
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(sha256):
        groups.setdefault(digest, []).append(index)
    if len(groups) < 2:
        raise UserError(
            f"found {counted(len(groups), 'different photo')}, expected at least 2: one to train on, one to hold out"
        )
    shuffled = sorted(groups)
    random.Random(seed).shuffle(shuffled)
    wanted = max(1, round(test_fraction * len(sha256)))
    test: list[int] = []
    while len(test) < wanted and len(shuffled) > 1:
        test += groups[shuffled.pop()]
    return Split(tuple(sorted(i for digest in shuffled for i in groups[digest])), tuple(test))


def epoch_batches(
    indices: tuple[int, ...], batch_size: int, seed: int, epoch: int, *, smallest: int = 2
) -> Iterator[Tensor]:
    """Yield shuffled batches of indices for one epoch; they depend on seed and epoch alone.

    A last batch of fewer than `smallest` photos joins the batch before it: batch norm cannot train on one photo at the
    smallest scale, and each process needs its share of every batch.

    Args:
        indices: photos, N.
        batch_size: photos in each batch but the last.
        seed: equal seeds give equal batches.
        epoch: counted from 1.
        smallest: at most `batch_size`; a single batch may be smaller.

    Yields:
        Indices, int64; each of the N photos once.
    """
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    order = torch.tensor(indices)[torch.randperm(len(indices), generator=generator)]
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) < smallest:
        batches[-2:] = [torch.cat(batches[-2:])]
    yield from batches


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of one epoch's random choices, in [0, 2^63)."""
    return (seed * 1_000_003 + epoch) % 2**63
