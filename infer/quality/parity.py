"""Parity: a candidate model against PyTorch on its training run, over the same photos, judged by gates."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgan.checkpoint_record import described
from cgan.errors import GateError, UserError
from cgan.metrics.bootstrap import Interval, fid_delta_interval
from cgan.metrics.distances import measure_fid, measure_kid
from cgan.metrics.features import FeatureNetwork
from cgan.metrics.measurement import Measured, distance
from cgan.training.checkpoint import made_of
from infer.backends import open_model
from infer.backends.base import Backend
from infer.quality.differences import (
    LEVEL_EDGES,
    PSNR_CEILING,
    Counts,
    Differences,
    PhotoDifference,
    UnitDifferences,
    compare_pictures,
)
from infer.quality.feature_sets import Distributions
from infer.quality.gates import WORST_PHOTO_MARGIN, Gates, Verdict
from infer.quality.measured_model import MeasuredModel
from infer.quality.photos import UNIT, Progress, Seen, Source, Unit, read_again, run_batches, work_through

THREADS = 1
"""CPU threads per run of a model. With one thread per run, parallel runs do not wait for each other, and the last bits
of a picture do not depend on the number of workers."""

PAIRED_KID_NOTE = (
    "both sets show the same photos, so this is not an unbiased estimate: it leaves out the similarity of each picture "
    "with itself, and is below 0 for equal pictures"
)

FIGURES = {
    "psnr": ("PSNR over all values", "dB"),
    "worst_psnr": ("PSNR of the worst photo", "dB"),
    "ssim": ("SSIM", ""),
    "max_difference": ("largest |difference|", "of 1"),
    "mean_difference": ("mean |difference|", "of 1"),
    "delta_e": ("CIEDE2000, mean", ""),
    "delta_e_p99": ("CIEDE2000, 99th percentile", ""),
    "fid_reference": ("FID(reference, photos)", ""),
    "fid_candidate": ("FID(candidate, photos)", ""),
    "fid_delta": ("FID(candidate, photos) - FID(reference, photos)", ""),
    "fid_between": ("FID(candidate, reference)", ""),
    "kid_between": ("KID(candidate, reference)", ""),
    "frechet_reference": ("Fréchet distance ({}), reference to photos", ""),
    "frechet_candidate": ("Fréchet distance ({}), candidate to photos", ""),
    "frechet_delta": ("Fréchet distance ({}), difference of the two", ""),
    "frechet_between": ("Fréchet distance ({}), candidate to reference", ""),
    "kernel_between": ("kernel distance ({}), candidate to reference", ""),
}
"""Label and unit of each figure; {} stands for the name of a feature network other than Inception."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Result of a comparison."""

    candidate: MeasuredModel
    reference: MeasuredModel
    photos: int
    failures: dict[str, str]
    """Reasons by the names of photos that cannot be read; they are left out of both sides."""
    figures: dict[str, Measured]
    """By the names in FIGURES."""
    interval: Interval | None
    """Of the difference of the FIDs."""
    verdicts: tuple[Verdict, ...]
    worst: list[PhotoDifference]
    """Photos of lowest PSNR, worst first."""
    level_bins: Counts
    """Values between each two of LEVEL_EDGES."""
    cache_note: str | None = None
    """Why the cache of features was switched off, None if it was not."""
    network: str | None = None
    """Name of the feature network, None for Inception with its published weights; see `measured.distance`."""

    @property
    def passed(self) -> bool:
        """True if every gate passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def table(self) -> list[str]:
        """Return figures, gates and worst photos as lines for a terminal."""
        lines = [
            f"candidate  {self.candidate.path} ({self.candidate.engine}, {self.candidate.precision})",
            f"reference  {self.reference.path} ({self.reference.engine})",
            f"           {described(self.reference.checkpoint)}",
            f"photos     {self.photos} compared, {len(self.failures)} that cannot be read left out of both",
            "",
        ]
        lines += [f"{label:<50}{value}" for label, value in self.rows()]
        lines += ["", "worst photos by PSNR"]
        lines += [
            f"  {w.psnr:6.1f} dB  CIEDE2000 {w.delta_e:6.3f}  |difference| up to {w.max_difference:.2g}  {w.name}"
            for w in self.worst[:5]
        ]
        gates = [f"{'pass' if verdict.passed else 'FAIL'}  {verdict}" for verdict in self.verdicts]
        return [*lines, "", *gates]

    def failed_gates(self) -> str:
        """Return the failed gates in one line, empty if all passed."""
        return "; ".join(str(verdict) for verdict in self.verdicts if not verdict.passed)

    def refusal(self) -> str:
        """Return why the candidate must not replace the reference, and what to do, in one line."""
        found, advice = "differs too much from", "export it again"
        if self.candidate.weights_sha256 != self.reference.weights_sha256:
            found = "is not"
        elif self.candidate.precision == "int8":
            advice = "calibrate on more photos like these, or export it in fp32"
        model = f"the model of {self.reference.path}"
        return f"{self.candidate.path} {found} {model} ({self.failed_gates()}); {advice}"

    def rows(self) -> list[tuple[str, str]]:
        """Return label and formatted value of each figure."""
        rows = []
        for name, measured in self.figures.items():
            label, unit = FIGURES[name]
            least = "at least " if name in ("psnr", "worst_psnr") and measured.value >= PSNR_CEILING else ""
            label = label.format(self.network)
            text = f"{least}{measured.value:.6g} {unit}".rstrip()
            if name in ("fid_delta", "frechet_delta") and self.interval:
                text += f" ({self.interval.level:.0%} between {self.interval.low:.4g} and {self.interval.high:.4g})"
            rows.append((label, text))
        return rows

    def notes(self) -> list[str]:
        """Return the notes on the figures, without duplicates."""
        return list(dict.fromkeys(n for n in (*(f.note for f in self.figures.values()), self.cache_note) if n))

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pictures as JSON values."""
        pictures = {"reference", "candidate", "gray", "real"}
        return {
            "passed": self.passed,
            "gates": [asdict(verdict) for verdict in self.verdicts],
            "candidate": asdict(self.candidate),
            "reference": asdict(self.reference),
            "photos": self.photos,
            "failed": self.failures,
            "figures": {name: value.to_json() for name, value in self.figures.items()},
            f"{_prefix(self.network)}_delta_interval": asdict(self.interval) if self.interval else None,
            "worst": [
                {key: value for key, value in vars(photo).items() if key not in pictures} for photo in self.worst
            ],
            "difference_histogram": {"edges_in_levels": LEVEL_EDGES, "values": self.level_bins.tolist()},
        }


def check_parity(
    candidate: Backend,
    run: Path,
    photos: Iterable[Source],
    gates: Gates | None = None,
    *,
    features: FeatureNetwork | None = None,
    cache: Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    pictures: bool = False,
) -> Parity:
    """Compare a model with the run that it was exported from.

    Args:
        candidate: the entered model.
        run: run folder or checkpoint, for PyTorch in fp32; of a run, that of the candidate's weights, else the best.
        photos: names, with files or contents, in any order.
        gates: the limits; None in a field stands for the default of the candidate's precision.
        features: feature network for FID and KID; None leaves both out.
        cache: folder for the cache of features; required with `features`.
        device: device of the reference and the feature network: "auto", "cpu" or "cuda".
        batch_size: photos per batch of the candidate; None for its default.
        workers: threads; None for one per core.
        progress: called with the number of photos done and of all photos.
        pictures: read the worst photos again, for a page that shows them.

    Raises:
        UserError: `run` is not a run, no photo can be read, or the models have different sizes.
        GateError: the candidate or the reference cannot be run on the photos.
    """
    photos = list(photos)
    with open_model(made_of(run, candidate.spec.weights_sha256), device, THREADS, backend="torch") as reference:
        size = _common_size(candidate, reference)
        comparison = _Comparison(candidate, reference, batch_size, features, cache)
        with comparison.distributions:
            seen = comparison.compare(photos, size, workers, progress)
        measured = MeasuredModel.of(candidate), MeasuredModel.of(reference)
    figures, interval = comparison.figures()
    worst = comparison.differences.worst
    return Parity(
        candidate=measured[0],
        reference=measured[1],
        photos=comparison.differences.photos,
        failures=seen.failures,
        figures=seen.stamp(figures),
        interval=interval,
        verdicts=_verdicts(*measured, figures, interval, gates or Gates(), features.name if features else None),
        worst=_with_photos(worst, photos, size) if pictures else worst,
        level_bins=comparison.differences.level_bins,
        cache_note=comparison.distributions.note,
        network=features.name if features else None,
    )


def _with_photos(
    worst: list[PhotoDifference], photos: Iterable[Source], size: tuple[int, int]
) -> list[PhotoDifference]:
    """Add the photos themselves, in gray and in colour, where they can be read in colour."""
    unit = read_again(photos, {photo.name for photo in worst}, size)
    if unit.color is None:
        return worst
    found = {
        name: (g, c.astype(np.float32) / 255) for name, g, c in zip(unit.names, unit.gray, unit.color, strict=True)
    }
    return [
        replace(photo, gray=found[photo.name][0], real=found[photo.name][1]) if photo.name in found else photo
        for photo in worst
    ]


class _Comparison:
    """The two models, the work on a unit of photos in a thread, and the sums over all units."""

    def __init__(
        self,
        candidate: Backend,
        reference: Backend,
        batch_size: int | None,
        network: FeatureNetwork | None,
        folder: Path | None,
    ) -> None:
        self.batch = candidate.within_range(batch_size or candidate.batch_size or candidate.default_batch)
        self.candidate, self.reference = candidate, reference
        # Fixed, because the last bits of PyTorch's pictures depend on the batch size.
        self.reference_batch = min(reference.default_batch, UNIT)
        self.differences = Differences()
        self.distributions = Distributions(network, folder, reference.on_gpu, sets=3)

    def compare(
        self, photos: list[Source], size: tuple[int, int], workers: int | None, progress: Progress | None
    ) -> Seen:
        """Compare the pictures of all photos, in several threads."""
        return work_through(
            photos,
            size,
            self.work,
            self.add,
            workers=workers,
            batch=self.batch,
            color=bool(self.distributions.sets),
            progress=progress,
        )

    def work(self, unit: Unit) -> tuple[UnitDifferences, list[Tensor]]:
        """Return, in a worker thread, the differences of a unit's pictures, and features of its photos and pictures."""
        expected = run_batches(self.reference, unit.gray, self.reference_batch)
        try:
            found = run_batches(self.candidate, unit.gray, self.batch)
        except (GateError, ValueError) as error:
            raise GateError(
                f"{self.candidate.path} cannot be run like the trained model on {unit.names[0]} and those after it "
                f"({error.__cause__ or error}); do not ship it"
            ) from error
        features: list[Tensor] = []
        if unit.color is not None:
            photos = torch.from_numpy(unit.color).float() / 255
            features = self.distributions.extract(photos, torch.from_numpy(expected), torch.from_numpy(found))
        return compare_pictures(unit.names, expected, found), features

    def add(self, result: tuple[UnitDifferences, list[Tensor]], size: tuple[int, int]) -> None:
        """Add the result of `work`; called in the order of the units."""
        differences, features = result
        self.differences.add(differences)
        self.distributions.add(features, size)

    def figures(self) -> tuple[dict[str, Measured], Interval | None]:
        """Return the figures over all units, with FID and KID only if a feature network was given."""
        figures = self.differences.figures()
        if not self.distributions.sets:
            return figures, None

        real, reference, candidate = self.distributions.sets
        of_reference, of_candidate = measure_fid(real, reference), measure_fid(real, candidate)
        delta = of_candidate.minus(of_reference)
        prefix, kernel = _prefix(real.network.name), "kid" if real.network.name is None else "kernel"
        metric = f"difference of {distance('fid', real.network.name)[1]}"
        figures |= {
            f"{prefix}_reference": of_reference,
            f"{prefix}_candidate": of_candidate,
            f"{prefix}_delta": Measured(delta, {**of_candidate.fingerprint, "metric": metric}),
            f"{prefix}_between": measure_fid(reference, candidate),
            f"{kernel}_between": replace(measure_kid(reference, candidate), note=PAIRED_KID_NOTE),
        }
        return figures, fid_delta_interval(real, reference, candidate, delta)


def _prefix(network: str | None) -> str:
    """Return the prefix of the keys of Fréchet distances; `network` is None for the published Inception."""
    return "fid" if network is None else "frechet"


def _common_size(candidate: Backend, reference: Backend) -> tuple[int, int]:
    """Return the height and width at which both models run.

    Raises:
        UserError: the models have different render sizes.
    """
    size, own = candidate.spec.render_size, reference.spec.render_size
    if size != own:
        raise UserError(
            f"{candidate.path}: found render size {size}, but the reference {reference.path} has {own}; give the "
            "run that the model was exported from"
        )
    return candidate.fixed_size or (size, size)


def _verdicts(
    candidate: MeasuredModel,
    reference: MeasuredModel,
    figures: dict[str, Measured],
    interval: Interval | None,
    gates: Gates,
    network: str | None = None,
) -> tuple[Verdict, ...]:
    """Return the verdicts of all gates, in the order in which they are printed."""
    limits = gates.or_default(candidate.precision)
    assert limits.min_psnr is not None and limits.max_delta_e is not None and limits.max_fid_delta is not None
    found, expected = candidate.weights_sha256, reference.weights_sha256
    psnr, worst, delta_e = (figures[name].value for name in ("psnr", "worst_psnr", "delta_e_p99"))
    worst_limit = max(limits.min_psnr - WORST_PHOTO_MARGIN, 0.0)
    verdicts = [
        Verdict("trained weights that it was made from", found, expected, found == expected),
        Verdict("--min-psnr", psnr, limits.min_psnr, psnr >= limits.min_psnr),
        Verdict(f"worst photo, {WORST_PHOTO_MARGIN:g} dB below --min-psnr", worst, worst_limit, worst >= worst_limit),
        Verdict("--max-delta-e", delta_e, limits.max_delta_e, delta_e <= limits.max_delta_e),
    ]
    if interval:
        farthest, limit = interval.farthest, limits.max_fid_delta
        of = "" if network is None else f", here of the Fréchet distance ({network})"
        gate = f"--max-fid-delta{of}, far end of the interval"
        verdicts.append(Verdict(gate, farthest, limit, farthest <= limit))
    return tuple(verdicts)
