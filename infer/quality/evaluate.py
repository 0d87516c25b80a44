"""Evaluation: a model's pictures against the colour photos that it was given in gray."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgan.checkpoint_record import described
from cgan.errors import UserError
from cgan.metrics.distances import measure_fid, measure_kid
from cgan.metrics.features import FeatureNetwork
from cgan.metrics.measurement import Measured, by_today, distance
from cgan.metrics.pictures import means, scores, ssim
from cgan.readers import LARGE_BYTES, FormatError, read_json, typed_field, typed_object
from infer.backends.base import Backend
from infer.quality.feature_sets import Distributions
from infer.quality.measured_model import MeasuredModel
from infer.quality.photos import Progress, Source, Unit, run_batches, work_through

FIGURES = {
    "fid": ("FID", ""),
    "kid": ("KID", ""),
    "frechet_distance": ("", ""),
    "kernel_distance": ("", ""),
    "psnr": ("PSNR", "dB"),
    "gray_psnr": ("PSNR of the gray photos", "dB"),
    "ssim": ("SSIM", ""),
    "colorfulness": ("colourfulness", ""),
    "real_colorfulness": ("colourfulness of the photos", ""),
    "colorfulness_ratio": ("ratio of the two", ""),
}
"""Label and unit of each figure; an empty label stands for the metric in the figure's fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of an evaluation."""

    model: MeasuredModel
    photos: int
    near_gray: int
    """Photos among them that are near gray; only FID and KID include these."""
    failures: dict[str, str]
    """Reasons by the names of photos that cannot be read."""
    figures: dict[str, Measured]
    """By the names in FIGURES."""
    cache_note: str | None = None
    """Why the cache of features was switched off, None if it was not."""

    def table(self) -> list[str]:
        """Return the figures as lines for a terminal."""
        lines = [
            f"model   {self.model.path} ({self.model.engine}, {self.model.precision}): "
            f"{described(self.model.checkpoint)}",
            f"photos  {self.photos}; {self.near_gray} of them near gray, counted in FID and KID only; "
            f"{len(self.failures)} others cannot be read",
            "",
        ]
        for name, measured in self.figures.items():
            label, unit = FIGURES[name]
            lines.append(f"{label or measured.fingerprint['metric']:<30} {measured.value:.6g} {unit}".rstrip())
        return lines

    def notes(self) -> list[str]:
        """Return the notes on the figures, without duplicates."""
        gray = "all photos are near gray, so the figures do not tell how near colours come to real ones"
        own = (gray if self.near_gray == self.photos else None, self.cache_note)
        return list(dict.fromkeys(n for n in (*(f.note for f in self.figures.values()), *own) if n))

    def against(self, former: dict[str, Measured]) -> dict[str, float]:
        """Return the finite differences of this evaluation's figures minus those of an earlier one.

        Raises:
            UserError: two figures have different fingerprints.
        """
        differences = {name: figure.minus(former[name]) for name, figure in self.figures.items() if name in former}
        return {name: value for name, value in differences.items() if math.isfinite(value)}

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return {
            "model": asdict(self.model),
            "photos": self.photos,
            "near_gray_photos": self.near_gray,
            "failed": self.failures,
            "figures": {name: figure.to_json() for name, figure in self.figures.items()},
        }


def evaluate(
    model: Backend,
    photos: Iterable[Source],
    *,
    features: FeatureNetwork | None = None,
    cache: Path | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Colour the luma of photos at the model's own size, and compare the pictures with the photos squashed to it.

    Args:
        model: the entered model.
        photos: names, with files or contents, in any order.
        features: feature network for FID and KID, run on the device of the model; None leaves both out.
        cache: folder for the cache of features; required with `features`.
        batch_size: photos per batch; None for the default of the model.
        workers: threads; None for one per core.
        progress: called with the number of photos done and of all photos.

    Raises:
        UserError: no photo can be read, or there are too few for FID.
    """
    size = model.own_size
    measurement = _Measurement(model, batch_size, features, cache)
    with _one_thread(), measurement.distributions:  # each worker measures photos of its own
        seen = work_through(
            photos,
            size,
            measurement.work,
            measurement.add,
            workers=workers,
            batch=measurement.batch,
            color=True,
            progress=progress,
        )
    counts, figures = measurement.figures(size)
    return Evaluation(
        model=MeasuredModel.of(model),
        photos=counts["photos"],
        near_gray=counts["near_gray_photos"],
        failures=seen.failures,
        figures=seen.stamp(figures),
        cache_note=measurement.distributions.note,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one CPU thread in each thread that starts in the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Measurement:
    """The model, the work on a unit of photos in a thread, and the sums over all units."""

    def __init__(
        self, model: Backend, batch_size: int | None, network: FeatureNetwork | None, folder: Path | None
    ) -> None:
        self.batch = model.within_range(batch_size or model.default_batch)
        self.model = model
        self.columns: dict[str, list[Tensor]] = {}
        self.distributions = Distributions(network, folder, model.on_gpu, sets=2)

    def work(self, unit: Unit) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return, in a worker thread, the scores of each photo, and features of photos and pictures."""
        assert unit.color is not None
        rgb = torch.from_numpy(run_batches(self.model, unit.gray, self.batch))
        photos = torch.from_numpy(unit.color).float() / 255
        gray = torch.from_numpy(unit.gray)
        # Photo by photo, so that all of it stays in a processor's cache.
        parts = [
            {**scores(one, truth, luma), "ssim": ssim(one, truth)}
            for one, truth, luma in zip(*(torch.split(part, 1) for part in (rgb, photos, gray)), strict=True)
        ]
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return columns, self.distributions.extract(photos, rgb)

    def add(self, result: tuple[dict[str, Tensor], list[Tensor]], size: tuple[int, int]) -> None:
        """Add the result of `work`; called in the order of the units. Only the scores of each photo are kept."""
        columns, features = result
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)
        self.distributions.add(features, size)

    def figures(self, size: tuple[int, int]) -> tuple[dict[str, int], dict[str, Measured]]:
        """Return the numbers of photos, and the figures."""
        found = means({name: torch.cat(parts) for name, parts in self.columns.items()})
        counts = {name: int(found.pop(name)) for name in ("photos", "near_gray_photos")}
        if counts["near_gray_photos"] < counts["photos"]:  # for near-gray photos it is a ratio of noise
            found["colorfulness_ratio"] = found["colorfulness"] / found["real_colorfulness"]
        fingerprint = {
            **counts,
            "pictures": f"{size[0]} x {size[1]}",
            "resize": "squashed, bicubic",
            "versions": {"torch": version("torch")},
        }
        figures: dict[str, Measured] = {}
        if self.distributions.sets:
            real_set, fake = self.distributions.sets
            fid, kid = (distance(kind, real_set.network.name)[0] for kind in ("fid", "kid"))
            figures = {fid: measure_fid(real_set, fake), kid: measure_kid(real_set, fake)}
        figures |= {name: Measured(found[name], {"metric": name, **fingerprint}) for name in FIGURES if name in found}
        return counts, figures


def read_figures(path: Path) -> dict[str, Measured]:
    """Read the figures in a file of `cgan-infer evaluate --json`.

    Raises:
        UserError: the file cannot be read or holds no evaluation.
    """
    try:
        figures = typed_object(typed_field(read_json(path, LARGE_BYTES), "figures", dict), "figure", dict)
        return by_today({name: Measured.from_json(values) for name, values in figures.items()})
    except (OSError, FormatError) as error:
        raise UserError(
            f"--against {path}: found no evaluation in it ({error}); give a file of cgan-infer evaluate --json"
        ) from error
