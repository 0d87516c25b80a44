"""Differences between the pictures of two models: streamed figures over any number of photos, and the worst photos."""

from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgan.metrics.delta_e import delta_e
from cgan.metrics.measurement import Measured
from cgan.metrics.pictures import ssim
from cgan.metrics.psnr import psnr_of_error
from infer.photo.decode import Floats

Counts = NDArray[np.int64]

PSNR_CEILING = 100.0
"""Largest PSNR in dB that is told from equality: a root mean square error of 1/390 of an 8-bit level. Beyond it are
only rounding errors and equal pictures."""
LEAST_ERROR = 10 ** (-PSNR_CEILING / 10)

DELTA_E_STEP, DELTA_E_BINS = 0.01, 20_001
"""Width and number of the bins for the percentile of CIEDE2000. The first bin holds only 0, and the last one ends at
200, above the difference of any two colours."""
PERCENTILE = 0.99

LEVEL_EDGES = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 256.0)
"""Edges of the histogram of |difference|, in 8-bit levels."""

WORST = 8
"""Number of worst photos that are kept."""


@dataclass(frozen=True)
class PhotoDifference:
    """Differences between the two pictures of one photo."""

    name: str
    psnr: float
    """In dB, at most PSNR_CEILING."""
    ssim: float
    max_difference: float
    """Largest |difference| of values in [0, 1]."""
    delta_e: float
    """Mean CIEDE2000."""
    reference: Floats
    """Picture of the reference, 3 x H x W in [0, 1]."""
    candidate: Floats
    """Picture of the candidate, 3 x H x W in [0, 1]."""
    gray: Floats | None = None
    """Input of both models, 1 x H x W in [0, 1]; None unless the photo was read again for a page."""
    real: Floats | None = None
    """The photo in colour, 3 x H x W in [0, 1]; None as `gray`."""


@dataclass(frozen=True)
class UnitDifferences:
    """Differences of one unit of photos, computed in one thread."""

    photos: list[PhotoDifference]
    squares: list[float]
    """Mean squared difference of each photo."""
    absolutes: list[float]
    """Mean |difference| of each photo."""
    delta_e_bins: Counts
    level_bins: Counts


def compare_pictures(names: tuple[str, ...], reference: Floats, candidate: Floats) -> UnitDifferences:
    """Compare pictures in the calling thread.

    Args:
        names: names of the N photos.
        reference, candidate: pictures, N x 3 x H x W in [0, 1].
    """
    found = UnitDifferences([], [], [], np.zeros(DELTA_E_BINS, np.int64), np.zeros(len(LEVEL_EDGES) - 1, np.int64))
    for name, one, other in zip(
        names, reference, candidate, strict=True
    ):  # photo by photo, which fits into the CPU cache
        absolute = np.abs(one - other)
        square = float(np.mean(np.square(absolute, dtype=np.float64)))
        a, b = torch.from_numpy(other)[None], torch.from_numpy(one)[None]
        perceived = delta_e(a, b).numpy().ravel()
        bins = np.minimum(np.ceil(perceived / np.float32(DELTA_E_STEP)).astype(np.int64), DELTA_E_BINS - 1)
        found.delta_e_bins[:] += np.bincount(bins, minlength=DELTA_E_BINS)
        found.level_bins[:] += _level_counts(absolute)
        found.squares.append(square)
        found.absolutes.append(float(absolute.mean(dtype=np.float64)))
        found.photos.append(
            PhotoDifference(
                name=name,
                psnr=_psnr(square),
                ssim=float(ssim(a, b)[0]),
                max_difference=float(absolute.max()),
                delta_e=float(perceived.mean(dtype=np.float64)),
                reference=one,
                candidate=other,
            )
        )
    return found


def _level_counts(absolute: Floats) -> Counts:
    """Return the number of values between each two neighbouring LEVEL_EDGES."""
    above = [np.count_nonzero(absolute >= np.float32(edge / 255)) for edge in LEVEL_EDGES[:-1]]
    return np.array(above, np.int64) - np.array([*above[1:], 0], np.int64)


@dataclass
class Differences:
    """Figures over all added photos, in memory that does not grow with their number."""

    photos: int = 0
    worst: list[PhotoDifference] = field(default_factory=list)
    """The photos of lowest PSNR, worst first, at most WORST."""
    delta_e_bins: Counts = field(default_factory=lambda: np.zeros(DELTA_E_BINS, np.int64))
    level_bins: Counts = field(default_factory=lambda: np.zeros(len(LEVEL_EDGES) - 1, np.int64))
    size: tuple[int, int] = (0, 0)
    _sums: dict[str, float] = field(default_factory=dict)
    _max: float = 0.0

    def add(self, unit: UnitDifferences) -> None:
        """Add a unit. Units must come in a fixed order, so that sums are equal to the last bit."""
        for photo, square, absolute in zip(unit.photos, unit.squares, unit.absolutes, strict=True):
            values = {"square": square, "absolute": absolute, "ssim": photo.ssim, "delta_e": photo.delta_e}
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._max = max(self._max, photo.max_difference)
            self.size = (photo.reference.shape[1], photo.reference.shape[2])
        self.photos += len(unit.photos)
        self.delta_e_bins += unit.delta_e_bins
        self.level_bins += unit.level_bins
        known = {id(photo) for photo in self.worst}
        ranked = sorted([*self.worst, *unit.photos], key=lambda photo: (photo.psnr, -photo.max_difference, photo.name))[
            :WORST
        ]
        self.worst = [photo if id(photo) in known else _copied(photo) for photo in ranked]

    def figures(self) -> dict[str, Measured]:
        """Return PSNR over all values and of the worst photo (dB), SSIM, |difference| in [0, 1], CIEDE2000."""
        size = f"{self.size[0]} x {self.size[1]}"
        fingerprint: dict[str, Any] = {
            "photos": self.photos,
            "pictures": size,
            "resize": f"luma squashed to {size}, bicubic",
            "versions": {"torch": version("torch")},
        }
        means = {name: total / self.photos for name, total in self._sums.items()}
        values = {
            "psnr": _psnr(means["square"]),
            "worst_psnr": self.worst[0].psnr,
            "ssim": means["ssim"],
            "max_difference": self._max,
            "mean_difference": means["absolute"],
            "delta_e": means["delta_e"],
            "delta_e_p99": self.percentile(),
        }
        return {name: Measured(value, {"metric": name, **fingerprint}) for name, value in values.items()}

    def percentile(self) -> float:
        """Return the 99th percentile of CIEDE2000, at most DELTA_E_STEP too high; 0 for equal pictures."""
        reached = np.cumsum(self.delta_e_bins)
        return float(np.searchsorted(reached, PERCENTILE * reached[-1])) * DELTA_E_STEP


def _copied(photo: PhotoDifference) -> PhotoDifference:
    """Return the photo with copies of its pictures, so that the arrays of the whole unit can be freed."""
    return replace(photo, reference=photo.reference.copy(), candidate=photo.candidate.copy())


def _psnr(square: float) -> float:
    return psnr_of_error(max(square, LEAST_ERROR))
