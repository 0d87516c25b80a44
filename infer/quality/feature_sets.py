"""Features of photos and of the pictures that models make of them, extracted in threads and added up in order."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cgan.metrics.distances import FeatureSet
from cgan.metrics.features import FeatureCache, FeatureNetwork, exact_convolutions
from infer.quality.photos import UNIT


class Distributions:
    """Sets of features of the same photos: those of the photos themselves first.

    Args:
        network: the feature network; None takes no features at all.
        folder: the cache in which features are kept.
        on_gpu: whether the network runs on a GPU.
        sets: how many sets there are.
    """

    note: str | None = None
    """Why features are not kept any more, known in the end."""

    def __init__(self, network: FeatureNetwork | None, folder: Path | None, on_gpu: bool, sets: int) -> None:
        if network is None:
            self.cache, self.sets = None, []
            return

        if folder is None:
            raise ValueError("features are kept in a cache: give its folder")
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
        """In a thread: features of each set's pictures, N x 3 x H x W float32 in [0, 1]; none without a network."""
        return [self.cache.extract(part) for part in pictures] if self.cache else []

    def add(self, features: list[Tensor], size: tuple[int, int]) -> None:
        """In order: add what `extract` gave for pictures of this height and width."""
        for own, rows in zip(self.sets if features else [], features, strict=True):
            for start in range(0, len(rows), UNIT):  # sums of so many whatever the batch, down to the last bit
                own.add(rows[start : start + UNIT], size)
