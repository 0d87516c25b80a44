"""The confidence interval of a difference of two FIDs: a bootstrap over photos."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cgan.metrics.distances import FeatureSet

REPLICATES = 100
LEVEL = 0.95
"""Confidence level of the interval."""
SEED = 0
BLOCK = 512
"""Features read at a time; as many more as the network has dimensions are in memory, too."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, from photos resampled `replicates` times."""

    low: float
    high: float
    level: float
    replicates: int

    @property
    def farthest(self) -> float:
        """The larger of the absolute values of both ends."""
        return max(abs(self.low), abs(self.high))


def fid_delta_interval(
    real: FeatureSet, reference: FeatureSet, candidate: FeatureSet, delta: float, replicates: int = REPLICATES
) -> Interval:
    """Return the interval of FID(candidate, real) - FID(reference, real), photos drawn with replacement (Efron 1979).

    A photo is drawn together with both of its pictures. A drawn set has fewer different photos than the measured set,
    so its FID is more biased; only the spread of the differences is taken from the draws, around the measured
    difference. The draws depend on a fixed seed alone.

    The Fréchet distance is computed from factors of the covariances (see `_frechet`), not with torcheval as in
    `measure_fid`: that needs d x d eigenvalues for each replicate, and is inexact with fewer photos than features.

    Args:
        real: features of photos.
        reference, candidate: features of their pictures in the same order.
        delta: the measured difference.
        replicates: number of draws.
    """
    count = len(real)
    random = np.random.default_rng(SEED)
    deltas = []
    for _ in range(replicates):
        drawn = torch.from_numpy(np.bincount(random.integers(0, count, count), minlength=count))
        photos, one, other = (_gaussian(features, drawn) for features in (real, reference, candidate))
        deltas.append(_frechet(other, photos) - _frechet(one, photos))
    tail = (1 - LEVEL) / 2
    spread = np.quantile(np.array(deltas) - np.mean(deltas), [tail, 1 - tail])
    return Interval(delta + float(spread[0]), delta + float(spread[1]), LEVEL, replicates)


def _gaussian(features: FeatureSet, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (d) and factor X (at most d x d) of the covariance X^T X, with row i repeated times[i] times."""
    dimensions = features.network.dimensions
    count = int(times.sum())
    mean = torch.zeros(dimensions, dtype=torch.float64)
    for rows, weights in zip(features.blocks(BLOCK), torch.split(times, BLOCK), strict=True):
        mean += weights.double() @ rows.cpu().double()
    mean /= count
    factor = torch.empty(0, dimensions, dtype=torch.float64)
    for rows, weights in zip(features.blocks(BLOCK), torch.split(times, BLOCK), strict=True):
        drawn = weights > 0
        centred = rows.cpu()[drawn].double() - mean
        factor = torch.cat([factor, (weights[drawn] / (count - 1)).sqrt()[:, None] * centred])
        if len(factor) > dimensions:
            factor = torch.linalg.qr(factor, mode="r").R
    return mean, factor


def _frechet(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Squared Fréchet distance between normal distributions (Dowson and Landau 1982).

    With covariances Si = Xi^T Xi, the trace of the root of S1 S2 is the sum of the singular values of X1 X2^T.
    """
    (mean_1, factor_1), (mean_2, factor_2) = one, other
    traces = factor_1.square().sum() + factor_2.square().sum()
    root = torch.linalg.svdvals(factor_1 @ factor_2.T).sum()
    return float((mean_1 - mean_2).square().sum() + traces - 2 * root)
