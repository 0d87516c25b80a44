"""The numeric gate: an artefact is compared with the trained model and rejected where they differ too much."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgan.checkpoint_record import CheckpointRecord
from cgan.errors import ChangedFileError, GateError
from cgan.metrics.psnr import psnr_of_error
from cgan.networks import GrayToRGB
from cgan.spec import ModelSpec
from cgan.text import told_apart
from cgan.training.checkpoint import load_checkpoint
from export.choices import ONNX_BATCHES, Device, Images
from export.tolerance import TOLERANCES, Tolerance
from infer.backends import open_model
from infer.backends.base import Backend

Gray = NDArray[np.float32]

LEVEL = 1 / 255
"""One level of an 8-bit picture: smaller differences can vanish in rounding, larger ones cannot."""
SECOND_SIZE = (5, 7)
"""Height and width, in size multiples, of one more comparison for artefacts of dynamic size: odd and unequal."""
SEED = 20


@dataclass(frozen=True)
class Comparison:
    """Differences between artefact and reference on one batch."""

    images: Images
    batch_size: int
    height: int
    width: int
    max_difference: float
    mean_difference: float
    psnr: float | None
    """In dB; None where there is no difference."""
    off: float
    """Share of the values that differ by more than one 8-bit level."""
    excess: float
    """Largest |difference| - rtol x |reference|, which `Tolerance.atol` limits; not stored in the sidecar."""

    @property
    def psnr_or_inf(self) -> float:
        """PSNR in dB, infinite where there is no difference."""
        return math.inf if self.psnr is None else self.psnr

    def within(self, tolerance: Tolerance) -> bool:
        """Return True if every limit of the tolerance holds; False if a difference is not a number."""
        return (
            (tolerance.atol is None or self.excess <= tolerance.atol)
            and (tolerance.min_psnr is None or self.psnr_or_inf >= tolerance.min_psnr)
            and (tolerance.max_off is None or self.off <= tolerance.max_off)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields that the sidecar stores."""
        return {name: value for name, value in asdict(self).items() if name != "excess"}


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of a comparison that passed: reference, photos, limits and differences."""

    reference: str
    """Name of the reference; see `Reference.name`."""
    checkpoint: CheckpointRecord | None
    """Checkpoint of the reference; None where it is an ONNX file."""
    engine: str
    """Engine that ran the artefact; see `infer.backends.base.Backend.engine`."""
    photos: int | None
    """Number of photos to choose from; None where noise with the spectrum of photos took their place."""
    tolerance: Tolerance
    comparisons: tuple[Comparison, ...]
    """At least one."""

    @property
    def max_difference(self) -> float:
        """Largest absolute difference of a value."""
        return max(c.max_difference for c in self.comparisons)

    @property
    def min_psnr(self) -> float | None:
        """Lowest PSNR in dB on photos or natural images; None where no batch of these differs."""
        return min((c.psnr for c in self.comparisons if c.psnr is not None and c.images != "random"), default=None)

    @property
    def max_off(self) -> float:
        """Largest share of values that differ by more than one 8-bit level."""
        return max(c.off for c in self.comparisons)

    def to_json(self) -> dict[str, Any]:
        """Return the verification of the sidecar as JSON values."""
        return {
            "verified": True,
            "reference": self.reference,
            "checkpoint": self.checkpoint.to_json() if self.checkpoint else None,
            "engine": self.engine,
            "photos": "noise with the spectrum of photos" if self.photos is None else self.photos,
            "tolerance": asdict(self.tolerance),
            "max_difference": self.max_difference,
            "min_psnr": self.min_psnr,
            "max_off": self.max_off,
            "comparisons": [c.to_json() for c in self.comparisons],
        }


@dataclass(frozen=True)
class NotVerified:
    """The artefact was not compared, with the reason."""

    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the verification of the sidecar as JSON values."""
        return {"verified": False, "reason": f"not verified: {self.reason}"}


Verdict = Verification | NotVerified
"""Outcome of the gate for an artefact that may be published; a failed comparison is a GateError."""


@dataclass(frozen=True)
class Reference:
    """The model that an artefact has to equal."""

    rgb: Callable[[Gray], Gray]
    """Gray, N x 1 x H x W, to RGB, N x 3 x H x W."""
    spec: ModelSpec
    name: str
    """Engine, precision and device, for people."""
    source: Path
    checkpoint: CheckpointRecord | None = None
    """The checkpoint that it was loaded from; None for an ONNX file."""


def checkpoint_reference(source: Path) -> Reference:
    """Return PyTorch in fp32 on the CPU with the weights of a run or checkpoint as they are on disk now.

    Raises:
        UserError: `source` is not a run or checkpoint.
        GateError: its weights were changed after training.
    """
    generator, spec, record = load_checkpoint(source)
    model = GrayToRGB(generator, spec.color_space).eval()

    @torch.no_grad()
    def rgb(gray: Gray) -> Gray:
        result: Tensor = model(torch.from_numpy(gray))
        return np.asarray(result)

    return Reference(rgb, spec, f"PyTorch {torch.__version__}, fp32, CPU", record.path, record)


def onnx_reference(path: Path) -> Reference:
    """Return an ONNX file of this project in ONNX Runtime on the CPU, for an engine that was built from it."""

    def rgb(gray: Gray) -> Gray:
        with open_model(path, "cpu") as backend:
            return backend.run(gray)

    with open_model(path, "cpu") as backend:
        return Reference(rgb, backend.spec, backend.engine, path)


def verify(
    artefact: Path,
    reference: Reference,
    photos: Gray | None = None,
    tolerance: Tolerance | None = None,
    batch_sizes: tuple[int, ...] = ONNX_BATCHES,
    *,
    device: Device = "cpu",
    name: str | None = None,
    on_batch: Callable[[Images, int], None] = lambda images, count: None,
) -> Verification:
    """Run an artefact and its reference on the same images and compare the results.

    Args:
        artefact: a model file that `infer.backends` can run.
        reference: the model that it has to equal.
        photos: N x 1 x size x size float32 in [0, 1] at the model's render size; None for noise with the spectrum of
            photos.
        tolerance: the limits; the precision of the artefact sets those that are left open.
        batch_sizes: number of photos in each batch; photos are repeated where there are fewer.
        device: where the artefact runs.
        name: final name of the artefact, where it still has a temporary one.
        on_batch: called with the kind and number of images of each batch before it is run.

    Raises:
        UserError: the artefact cannot be opened, or this project did not write it.
        GateError: the artefact has other weights or another contract, cannot be run like the model, or differs from
            it by more than the tolerance.
    """
    name = name or artefact.name
    try:
        with open_model(artefact, device=device, suffix=Path(name).suffix) as backend:
            _check_origin(name, backend.spec, reference)
            tolerance = (tolerance or Tolerance()).or_else(TOLERANCES[backend.spec.precision])
            comparisons = []
            for images, gray in _batches(backend.spec, photos, batch_sizes):
                on_batch(images, len(gray))
                found = _run(backend, gray, name)
                comparisons.append(_compare(images, gray, reference.rgb(gray), found, tolerance.rtol))
            engine = backend.engine
    except ChangedFileError as error:
        raise GateError(str(error)) from error
    _check(name, tuple(comparisons), tolerance)
    return Verification(
        reference=reference.name,
        checkpoint=reference.checkpoint,
        engine=engine,
        photos=None if photos is None else len(photos),
        tolerance=tolerance,
        comparisons=tuple(comparisons),
    )


def random_images(count: int, height: int, seed: int, width: int | None = None) -> Gray:
    """Return uniform noise in [0, 1], count x 1 x height x width, which reaches extremes that photos do not."""
    return np.random.default_rng(seed).random((count, 1, height, width or height), np.float32)


def natural_images(count: int, height: int, seed: int, width: int | None = None) -> Gray:
    """Return noise with the amplitude spectrum of photos, 1/f (Field 1987); count x 1 x height x width in [0, 1]."""
    width = width or height
    noise = np.random.default_rng(seed).standard_normal((count, height, width))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    frequency[0, 0] = 1  # the mean is set by the stretch below
    images = np.fft.ifft2(np.fft.fft2(noise) / frequency).real
    low, high = images.min(axis=(1, 2), keepdims=True), images.max(axis=(1, 2), keepdims=True)
    stretched: Gray = ((images - low) / (high - low)).astype(np.float32)[:, None]
    return stretched


def _batches(spec: ModelSpec, photos: Gray | None, batch_sizes: tuple[int, ...]) -> Iterator[tuple[Images, Gray]]:
    """Yield the batches to compare on; fp32 is also compared on uniform noise, less precise artefacts are not."""
    size = spec.render_size
    begun = 0
    for count in batch_sizes:
        if photos is None:
            yield "natural", natural_images(count, size, SEED + count)
        else:
            yield "photos", photos[np.arange(begun, begun + count) % len(photos)]
            begun += count
        if spec.precision == "fp32":
            yield "random", random_images(count, size, SEED + count)
    if spec.dynamic_size:
        height, width = (multiples * spec.size_multiple for multiples in SECOND_SIZE)
        yield "natural", natural_images(2, height, SEED, width)


def _run(backend: Backend, gray: Gray, name: str) -> Gray:
    try:
        return backend.run(gray)
    except Exception as error:  # the base class and each engine raise types of their own
        reason = str(error).partition("\n")[0]
        raise GateError(f"{name} cannot be run like the trained model ({reason}); do not ship it") from error


def _compare(images: Images, gray: Gray, expected: Gray, found: Gray, rtol: float) -> Comparison:
    difference = np.abs(found.astype(np.float64) - expected)
    error = float(np.square(difference).mean())
    return Comparison(
        images=images,
        batch_size=len(gray),
        height=gray.shape[2],
        width=gray.shape[3],
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        psnr=psnr_of_error(error) if error else None,
        off=float((difference > LEVEL).mean()),
        excess=float((difference - rtol * np.abs(expected)).max()),
    )


def _check(name: str, comparisons: tuple[Comparison, ...], tolerance: Tolerance) -> None:
    """Raise GateError for the worst of the batches that exceed the tolerance."""
    failed = [c for c in comparisons if not c.within(tolerance)]
    if failed:
        worst = min(failed, key=lambda c: c.psnr_or_inf)
        psnr, _ = told_apart(worst.psnr_or_inf, tolerance.min_psnr or 0.0)
        off, _ = told_apart(100 * worst.off, 100 * (tolerance.max_off or 0.0))
        raise GateError(
            f"{name} is not the trained model: on {worst.images} images at batch {worst.batch_size}, "
            f"{worst.height} x {worst.width}, it differs by up to {worst.max_difference:.3g}, PSNR "
            f"{psnr} dB, {off}% of the values more than 1/255 off; allowed is {tolerance}; "
            "do not ship it"
        )


def _check_origin(name: str, found: ModelSpec, reference: Reference) -> None:
    """Raise GateError unless the artefact has the weights and, apart from the export's own fields, the contract."""
    expected = reference.spec.weights_sha256
    if found.weights_sha256 != expected:
        one, other = told_apart(found.weights_sha256, expected)
        raise GateError(
            f"{name} comes from other weights ({one}) than {reference.source} now holds ({other}); export it again"
        )
    free = {name: getattr(found, name) for name in ("precision", "dynamic_size", "created_with")}
    contract = replace(reference.spec, **free).to_json()
    if changed := [name for name, value in found.to_json().items() if value != contract[name]]:
        raise GateError(
            f"{name} has another contract than {reference.source}: {', '.join(changed)} differ; export it again"
        )
