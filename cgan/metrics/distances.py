"""Distances between a set of pictures and a set of photos: FID and KID.

Metrics of single pictures are in `cgan.metrics.pictures`, feature networks in `cgan.metrics.features`.
"""

import math
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgan.errors import UserError
from cgan.metrics.features import (
    FeatureNetwork,
    exact_convolutions,
    library_versions,
    torcheval_fid,
)
from cgan.metrics.measurement import Measured, distance

KID_ESTIMATOR = "unbiased MMD^2 of all photos, no subsets"
KID_KERNEL = "(x.y/d + 1)^3"
KID_BLOCK = 1024
"""Rows and columns of the kernel matrix in memory at a time."""

SPOOLED_BYTES = 2**26
"""Bytes of features that a set keeps in memory; with more, all are in a temporary file."""

CPU = torch.device("cpu")


class FeatureSet:
    """Features of a set of pictures: their sums in memory, the features themselves in a temporary file.

    Memory does not grow with the number of pictures; `blocks` reads all features block by block.

    Args:
        network: the feature network.
        device: where the sums are computed.
    """

    def __init__(self, network: FeatureNetwork, device: torch.device = CPU) -> None:
        self.network = network
        self.device = device
        self.count = 0
        self.total = torch.zeros(network.dimensions, dtype=torch.float64, device=device)
        self.products = torch.zeros(network.dimensions, network.dimensions, dtype=torch.float64, device=device)
        self.size: tuple[int, int] | None = None
        """Height and width of the pictures, before the network's own resize."""
        self._dtype = np.dtype(np.float32)
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES)  # noqa: SIM115 (it lives as long as the set)
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self.count

    def add_pictures(self, pictures: Tensor) -> None:
        """Add the features of pictures, N x 3 x H x W float32 in [0, 1].

        Raises:
            ValueError: another type, a value outside [0, 1], or a size other than before.
        """
        self.add(self.network.extract(pictures, self.device), (pictures.shape[2], pictures.shape[3]))

    def add(self, features: Tensor, size: tuple[int, int]) -> None:
        """Add features, N x dimensions of float32 or float64, of pictures of this height and width.

        Raises:
            ValueError: pictures of another size than before.
        """
        if self.size not in (None, size):
            raise ValueError(f"found pictures of {size} after those of {self.size}, expected one size")
        self.size = size
        wide = features.to(self.device, torch.float64)
        self.count += len(wide)
        self.total += wide.sum(dim=0)
        self.products += wide.T @ wide
        rows = features.cpu().numpy()
        self._dtype = rows.dtype
        self._file.seek(0, 2)
        self._file.write(rows.tobytes())

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Yield the features in order, at most `size` x dimensions at a time, on the set's device."""
        dimensions = self.network.dimensions
        row_bytes = dimensions * self._dtype.itemsize
        for start in range(0, self.count, size):
            self._file.seek(start * row_bytes)
            content = self._file.read(min(size, self.count - start) * row_bytes)
            rows = np.frombuffer(content, self._dtype).reshape(-1, dimensions).copy()
            yield torch.from_numpy(rows).to(self.device)

    def fingerprint(self) -> dict[str, Any]:
        """Return what figures of this set depend on besides its content."""
        size = f"{self.size[0]} x {self.size[1]}" if self.size else None
        return {"photos": self.count, "pictures": size, **self.network.fingerprint, "versions": library_versions()}


def measure_fid(real: FeatureSet, fake: FeatureSet) -> Measured:
    """Return the Fréchet inception distance (Heusel et al. 2017) of two sets, by torcheval from float64 statistics.

    With another network than Inception with its published weights, its name is Fréchet distance.

    In float32 torcheval's covariances are differences of large sums, and its trace term takes roots of eigenvalues that
    should be 0. Measured on synthetic features (2,048, non-negative, mean 0.27) against singular values of the
    centred features: float32 is off by 2.5 of 125.6 at 200 photos and by 5e-4 of 18.2 at 5,000, float64 by 2e-4 and
    2e-12.

    Raises:
        UserError: fewer than 2 photos, or features that are not finite.
    """
    _check_pair(real, fake)
    metric = torcheval_fid().FrechetInceptionDistance(torch.nn.Identity(), real.network.dimensions, real.device)
    for name, features in (("real", real), ("fake", fake)):
        setattr(metric, f"{name}_sum", features.total)
        setattr(metric, f"{name}_cov_sum", features.products)
        setattr(metric, f"num_{name}_images", torch.tensor(features.count, device=real.device))
    # With NaN, LAPACK prints to stdout and, from some hundred features on, crashes the process.
    finite = all(bool(features.products.isfinite().all()) for features in (real, fake))
    name = distance("fid", real.network.name)[1]
    value = _finite(name, float(metric.compute()) if finite else math.nan, real)
    note = None
    if real.count <= real.network.dimensions:
        note = (
            f"{real.count} photos are too few for {real.network.dimensions} features: the covariances are "
            f"rank-deficient and {name} is strongly biased, so compare it only with values of "
            f"as many photos, or use {distance('kid', real.network.name)[1]}."
        )
    return Measured(value, {"metric": name, **real.fingerprint()}, note)


def measure_kid(real: FeatureSet, fake: FeatureSet) -> Measured:
    """Return the kernel inception distance of two sets, see `kid`; of another network its name is kernel distance.

    Raises:
        UserError: fewer than 2 photos, or features that are not finite.
    """
    _check_pair(real, fake)
    name = distance("kid", real.network.name)[1]
    value = _finite(name, kid(real, fake), real)
    how = {"metric": name, "estimator": KID_ESTIMATOR, "kernel": KID_KERNEL}
    return Measured(value, {**how, **real.fingerprint()})


def kid(real_features: Tensor | FeatureSet, fake_features: Tensor | FeatureSet, block: int = KID_BLOCK) -> float:
    """Return the kernel inception distance: the unbiased estimate of MMD^2 with the kernel (x.y/d + 1)^3, in float64.

    The kernel is that of Binkowski et al. 2018, "Demystifying MMD GANs"; the estimate is Gretton et al. 2012, "A Kernel
    Two-Sample Test", Lemma 6: the mean of k(x, x') over pairs of different x, plus that of k(y, y'), minus twice the
    mean of k(x, y). It uses all features without random subsets, and equals torch-fidelity's KID with one subset of all
    photos (kid_subsets=1, kid_subset_size=N). Samples of one distribution give 0 on average, so a value can be
    negative.

    Args:
        real_features: N x d, N at least 2, of any floating type.
        fake_features: M x d, M at least 2.
        block: rows and columns of the kernel matrix per step; the result does not depend on it.

    Raises:
        ValueError: fewer than 2 features.
    """
    real_count, fake_count = len(real_features), len(fake_features)
    if min(real_count, fake_count) < 2:
        raise ValueError(f"found {real_count} real and {fake_count} fake features, expected at least 2 each")
    within = sum(
        (_kernel_sum(x, x, block) - _kernel_diagonal(x, block)) / (len(x) * (len(x) - 1))
        for x in (real_features, fake_features)
    )
    across = _kernel_sum(real_features, fake_features, block) / (real_count * fake_count)
    return float(within - 2 * across)


def _blocks(features: Tensor | FeatureSet, size: int) -> Iterator[Tensor]:
    return features.blocks(size) if isinstance(features, FeatureSet) else iter(torch.split(features, size))


def _kernel_sum(x: Tensor | FeatureSet, y: Tensor | FeatureSet, block: int) -> float:
    """Return the sum of the kernel over all pairs of a row of x and a row of y."""
    total = 0.0
    for rows in _blocks(x, block):
        for columns in _blocks(y, block):
            total += float((rows.double() @ columns.double().T / rows.shape[1] + 1).pow(3).sum())
    return total


def _kernel_diagonal(x: Tensor | FeatureSet, block: int) -> float:
    """Return the sum of the kernel of each row of x with itself."""
    total = 0.0
    for rows in _blocks(x, block):
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        total += float((norms.square() / rows.shape[1] + 1).pow(3).sum())
    return total


class FeatureDistances:
    """FID and KID between photos and pictures that are added batch by batch.

    The network runs once for each photo and each picture.

    Args:
        network: the feature network.
        device: where it runs.
    """

    def __init__(self, network: FeatureNetwork, device: torch.device) -> None:
        self.real, self.fake = FeatureSet(network, device), FeatureSet(network, device)

    def update(self, pictures: Tensor, photos: Tensor) -> None:
        """Add pictures and their photos, each N x 3 x H x W float32 in [0, 1].

        Raises:
            ValueError: another type, a value outside [0, 1], or unequal numbers of pictures and photos.
        """
        if len(pictures) != len(photos):
            raise ValueError(f"found {len(pictures)} pictures and {len(photos)} photos, expected equal numbers")
        with exact_convolutions():
            self.fake.add_pictures(pictures)
            self.real.add_pictures(photos)

    def compute(self) -> dict[str, Measured]:
        """Return FID and KID of everything added so far, under the keys of `cgan.metrics.measurement.distance`.

        Raises:
            UserError: fewer than 2 photos, or a result that is not finite.
        """
        fid, kid = (distance(kind, self.real.network.name)[0] for kind in ("fid", "kid"))
        return {fid: measure_fid(self.real, self.fake), kid: measure_kid(self.real, self.fake)}


def _check_pair(real: FeatureSet, fake: FeatureSet) -> None:
    if real.count != fake.count or real.size != fake.size or real.network is not fake.network:
        raise ValueError(
            f"found {real.count} photos of {real.size} and {fake.count} pictures of {fake.size}, expected equal "
            "numbers and sizes, and features of one network"
        )
    if real.count < 2:
        raise UserError(
            f"FID and KID need at least 2 photos, found {real.count}; hold out more photos or pass --no-fid"
        )


def _finite(name: str, value: float, features: FeatureSet) -> float:
    if not math.isfinite(value):
        raise UserError(
            f"{name} of {features.count} photos is {value}, because features of the photos or the pictures are not "
            "finite; give other --inception-weights or pass --no-fid"
        )
    return value
