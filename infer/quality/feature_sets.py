"""Feature sets for FID and KID of photos and of models' pictures, extracted in threads and added in order."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cgan.metrics.distances import FeatureSet
from cgan.metrics.feature_cache import FeatureCache
from cgan.metrics.features import FeatureNetwork, exact_convolutions
from infer.quality.photos import UNIT


class Distributions:
    """Feature sets over the same photos: first that of the photos themselves, then one per model.

    Args:
        network: the feature network; None extracts no features.
        folder: folder for the cache of features.
        on_gpu: whether the network runs on a GPU.
        sets: number of sets.
    """

    note: str | None = None
    """Why the cache was switched off, None if it was not; set on exit."""

    def __init__(self, network: FeatureNetwork | None, folder: Path | None, on_gpu: bool, sets: int) -> None:
        if network is None:
            self.cache, self.sets = None, []
            return

        if folder is None:
            raise ValueError("found no folder for the cache of features, which is required with a feature network")
        device = torch.device("cuda" if on_gpu else "cpu")
        self.cache = FeatureCache(folder, network, device)
        network = replace(network, fingerprint={**network.fingerprint, "device": device.type})
        self.sets = [FeatureSet(network) for _ in range(sets)]

    def __enter__(self) -> "Distributions":
        if self.cache:
            self._exact = ExitStack()
            self._exact.enter_context(exact_convolutions())
        return self

    def __exit__(self, *_: object) -> None:
        if self.cache:
            self._exact.close()
            self.cache.close()
            self.note = self.cache.note

    def extract(self, *pictures: Tensor) -> list[Tensor]:
        """Return, in a worker thread, features of each set's pictures, N x 3 x H x W float32 in [0, 1]."""
        return [self.cache.extract(part) for part in pictures] if self.cache else []

    def add(self, features: list[Tensor], size: tuple[int, int]) -> None:
        """Add the result of `extract` for pictures of this height and width; called in the order of the units."""
        for own, rows in zip(self.sets if features else [], features, strict=True):
            for start in range(0, len(rows), UNIT):  # fixed lengths, so that sums do not depend on the batch size
                own.add(rows[start : start + UNIT], size)
