"""Whether a model is still the one that was trained: a candidate and PyTorch over the same photos, and the gates."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
from infer.quality.photos import UNIT, Progress, Source, Unit, run_batches, work_through

THREADS = 1
"""CPU threads in a run of a model: as many runs as there are workers waste no time on waiting for each other, and the
last bits of a picture do not depend on the number of workers."""

PAIRED_KID_NOTE = (
    "both sets show the same photos: for equal pictures this is 0 less what a picture has in common with itself, so it "
    "lies below 0"
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
"""What each figure is called, and its unit; {} stands for the name of a feature network other than Inception."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What a comparison found."""

    candidate: dict[str, Any]
    reference: dict[str, Any]
    """Path, engine, precision and weights of the two models."""
    photos: int
    failures: dict[str, str]
    """Photos that cannot be read, with the reason; they are missing on both sides."""
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
    """Why features are not kept any more."""
    network: str | None = None
    """Name of the feature network, None for Inception with its published weights; see `measured.distance`."""

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def table(self) -> str:
        """Figures, gates and worst photos, for a terminal."""
        lines = [
            f"candidate  {self.candidate['path']} ({self.candidate['engine']}, {self.candidate['precision']})",
            f"reference  {self.reference['path']} ({self.reference['engine']})",
            f"           {described(self.reference['checkpoint'])}",
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
        return "\n".join([*lines, "", *gates])

    def failed_gates(self) -> str:
        """The gates that failed, in one line; empty where all passed."""
        return "; ".join(str(verdict) for verdict in self.verdicts if not verdict.passed)

    def refusal(self) -> str:
        """Why the candidate must not take the reference's place, and what to do, in one line."""
        found, advice = "differs too much from", "export it again"
        if self.candidate["weights_sha256"] != self.reference["weights_sha256"]:
            found = "is not"
        elif self.candidate["precision"] == "int8":
            advice = "calibrate on more photos like these, or export it in fp32"
        model = f"the model of {self.reference['path']}"
        return f"{self.candidate['path']} {found} {model} ({self.failed_gates()}); {advice}"

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure, for people."""
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
        """What has to be read with the figures, each sentence once."""
        return list(dict.fromkeys(n for n in (*(f.note for f in self.figures.values()), self.cache_note) if n))

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON values."""
        pictures = {"reference", "candidate"}
        return {
            "passed": self.passed,
            "gates": [asdict(verdict) for verdict in self.verdicts],
            "candidate": self.candidate,
            "reference": self.reference,
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
) -> Parity:
    """Compare a model with the run that it was made from.

    Args:
        candidate: the model, entered.
        run: run folder or checkpoint, which PyTorch runs in fp32; of a run the checkpoint that the candidate was made
            of, by the digest of its weights, and the best one if it was made of none.
        photos: names, and files or contents; their order does not matter.
        gates: the limits; those left open are the defaults of the candidate's precision.
        features: network for FID and KID; None leaves them out.
        cache: folder in which features are kept; needed with `features`.
        device: where the reference and the feature network run, "auto", "cpu" or "cuda".
        batch_size: photos in a run of the candidate; its own choice when None.
        workers: threads; one for each core when None.
        progress: told of photos done.

    Raises:
        UserError: no run, no photo that can be read, or models of different sizes.
        GateError: the candidate cannot be run on the photos.
    """

    with open_model(made_of(run, candidate.spec.weights_sha256), device, THREADS, backend="torch") as reference:
        size = _common_size(candidate, reference)
        comparison = _Comparison(candidate, reference, batch_size, features, cache)
        with comparison.distributions as distributions:
            seen = work_through(
                photos,
                size,
                comparison.work,
                comparison.add,
                workers=workers,
                batch=comparison.batch,
                color=bool(distributions.sets),
                progress=progress,
            )
        opened = _described(candidate), _described(reference)
    differences = comparison.differences
    figures, interval = comparison.figures()
    return Parity(
        candidate=opened[0],
        reference=opened[1],
        photos=differences.photos,
        failures=seen.failures,
        figures=seen.stamp(figures),
        interval=interval,
        verdicts=_verdicts(opened, figures, interval, gates or Gates(), features.name if features else None),
        worst=differences.worst,
        level_bins=differences.level_bins,
        cache_note=distributions.note,
        network=features.name if features else None,
    )


class _Comparison:
    """The two models, what runs in threads, and what is added up."""

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
        # Fixed, since the last bits of PyTorch's pictures depend on it.
        self.reference_batch = min(reference.default_batch, UNIT)
        self.differences = Differences()
        self.distributions = Distributions(network, folder, reference.on_gpu, sets=3)

    def work(self, unit: Unit) -> tuple[UnitDifferences, list[Tensor]]:
        """In a thread: both pictures of each photo, their difference, and features of photos and of pictures."""
        expected = run_batches(self.reference, unit.gray, self.reference_batch)
        try:
            found = run_batches(self.candidate, unit.gray, self.batch)
        except (RuntimeError, ValueError) as error:
            raise GateError(
                f"{self.candidate.path} cannot be run like the trained model on {unit.names[0]} and those after it "
                f"({error}); do not ship it"
            ) from error
        features: list[Tensor] = []
        if unit.color is not None:
            photos = torch.from_numpy(unit.color).float() / 255
            features = self.distributions.extract(photos, torch.from_numpy(expected), torch.from_numpy(found))
        return compare_pictures(unit.names, expected, found), features

    def add(self, result: tuple[UnitDifferences, list[Tensor]], size: tuple[int, int]) -> None:
        """In order: add up what a thread found."""
        differences, features = result
        self.differences.add(differences)
        self.distributions.add(features, size)

    def figures(self) -> tuple[dict[str, Measured], Interval | None]:
        """Figures of everything added, FID and KID only where a network was given."""
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
    """What the keys of its Frechet distances begin with."""
    return "fid" if network is None else "frechet"


def _common_size(candidate: Backend, reference: Backend) -> tuple[int, int]:
    """Height and width at which both models are run.

    Raises:
        UserError: they were made for different ones.
    """
    size, own = candidate.spec.render_size, reference.spec.render_size
    if size != own:
        raise UserError(
            f"{candidate.path}: found render size {size}, the reference {reference.path} has {own}; give the run "
            "that it was exported from"
        )
    return candidate.fixed_size or (size, size)


def _described(model: Backend) -> dict[str, Any]:
    spec = model.spec
    return {
        "path": str(model.path),
        "engine": model.engine,
        "note": model.note,
        "precision": spec.precision,
        "color_space": spec.color_space,
        "weights_sha256": spec.weights_sha256,
        "checkpoint": model.checkpoint,
    }


def _verdicts(
    described: tuple[dict[str, Any], dict[str, Any]],
    figures: dict[str, Measured],
    interval: Interval | None,
    gates: Gates,
    network: str | None = None,
) -> tuple[Verdict, ...]:
    """The gates, in the order in which they are printed."""
    limits = gates.or_default(described[0]["precision"])
    assert limits.min_psnr is not None and limits.max_delta_e is not None and limits.max_fid_delta is not None
    found, expected = (model["weights_sha256"] for model in described)
    psnr, worst, delta_e = (figures[name].value for name in ("psnr", "worst_psnr", "delta_e_p99"))
    worst_limit = max(limits.min_psnr - WORST_PHOTO_MARGIN, 0.0)
    verdicts = [
        Verdict("trained weights that it was made from", found[:16], expected[:16], found == expected),
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
