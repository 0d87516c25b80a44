"""How good a model's colours are: its pictures against the photos themselves."""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from infer.backends.base import Backend
from infer.quality.feature_sets import Distributions
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
"""What each figure is called, and its unit; one without a name here is called by the metric of its fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured of a model."""

    model: dict[str, Any]
    """Path, engine, precision and weights."""
    photos: int
    near_gray: int
    """Photos among them that are near gray and left out of everything but FID and KID."""
    failures: dict[str, str]
    """Photos that cannot be read, with the reason."""
    figures: dict[str, Measured]
    """By the names in FIGURES."""
    cache_note: str | None = None
    """Why features are not kept any more."""

    def table(self) -> str:
        """The figures, for a terminal."""
        lines = [
            f"model   {self.model['path']} ({self.model['engine']}, {self.model['precision']}): "
            f"{described(self.model['checkpoint'])}",
            f"photos  {self.photos}, of which {self.near_gray} near gray count for FID and KID alone; "
            f"{len(self.failures)} that cannot be read",
            "",
        ]
        for name, measured in self.figures.items():
            label, unit = FIGURES[name]
            lines.append(f"{label or measured.fingerprint['metric']:<30} {measured.value:.6g} {unit}".rstrip())
        return "\n".join(lines)

    def notes(self) -> list[str]:
        """What has to be read with the figures."""
        gray = "all photos are near gray, so the figures do not tell how near colours come to real ones"
        own = (gray if self.near_gray == self.photos else None, self.cache_note)
        return list(dict.fromkeys(n for n in (*(f.note for f in self.figures.values()), *own) if n))

    def against(self, former: dict[str, Measured]) -> dict[str, float]:
        """This evaluation's figures minus those of another one, where both are finite.

        Raises:
            UserError: figures of different fingerprints.
        """
        differences = {name: figure.minus(former[name]) for name, figure in self.figures.items() if name in former}
        return {name: value for name, value in differences.items() if math.isfinite(value)}

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "model": self.model,
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
    """Colour photos' luma at the model's own size, and compare with the photos squashed to it.

    Args:
        model: entered.
        photos: names, and files or contents; their order does not matter.
        features: network for FID and KID, which runs where the model runs; None leaves them out.
        cache: folder in which features are kept; needed with `features`.
        batch_size: photos in a run of the model; its own choice when None.
        workers: threads; one for each core when None.
        progress: told of photos done and photos in all.

    Raises:
        UserError: no photo that can be read, or too few for FID.
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
    spec = model.spec
    opened = {"path": str(model.path), "engine": model.engine, "note": model.note, "precision": spec.precision}
    return Evaluation(
        model={
            **opened,
            "color_space": spec.color_space,
            "weights_sha256": spec.weights_sha256,
            "checkpoint": model.checkpoint,
        },
        photos=counts["photos"],
        near_gray=counts["near_gray_photos"],
        failures=seen.failures,
        figures=seen.stamp(figures),
        cache_note=measurement.distributions.note,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch use one CPU thread in each thread that begins in the block."""

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Measurement:
    """The model, what runs in threads, and what is added up."""

    def __init__(
        self, model: Backend, batch_size: int | None, network: FeatureNetwork | None, folder: Path | None
    ) -> None:
        self.batch = model.within_range(batch_size or model.default_batch)
        self.model = model
        self.columns: dict[str, list[Tensor]] = {}
        self.distributions = Distributions(network, folder, model.on_gpu, sets=2)

    def work(self, unit: Unit) -> tuple[dict[str, Tensor], list[Tensor]]:
        """In a thread: scores of each photo, and features of photos and of pictures."""

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
        """In order: add up what a thread found; of each photo no more than its scores is kept."""
        columns, features = result
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)
        self.distributions.add(features, size)

    def figures(self, size: tuple[int, int]) -> tuple[dict[str, int], dict[str, Measured]]:
        """Numbers of photos, and the figures."""

        found = means({name: torch.cat(parts) for name, parts in self.columns.items()})
        counts = {name: int(found.pop(name)) for name in ("photos", "near_gray_photos")}
        if counts["near_gray_photos"] < counts["photos"]:  # of near-gray photos it would be a ratio of noise
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
    """The figures in a file of `cgan-infer evaluate --json`.

    Raises:
        UserError: it is none.
    """

    try:
        figures = json.loads(path.read_text())["figures"]
        return by_today({name: Measured.from_json(values) for name, values in figures.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--against {path}: found no evaluation in it ({error!r}); give a file of cgan-infer evaluate --json"
        ) from error
