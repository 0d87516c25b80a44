"""The numeric gate between the trained model and an artefact."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgan.errors import ChangedFileError, GateError, UserError
from cgan.networks import GrayToRGB
from cgan.spec import ModelSpec
from cgan.training.checkpoint import load_checkpoint
from infer.backends import open_model
from infer.backends.base import Backend

Gray = NDArray[np.float32]

BATCH_SIZES = (1, 3, 8)
LEVEL = 1 / 255
"""One level of an 8-bit picture: smaller differences can vanish in rounding, larger ones cannot."""
SECOND_SIZE = (5, 7)
"""Height and width, in size multiples, at which an artefact of dynamic size is compared once more: odd and unequal."""
SEED = 20


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What an artefact may differ from the trained model by; a limit that is None is left open.

    Raises:
        UserError: a limit out of its range.
    """

    atol: float | None = None
    """Largest absolute difference of a value in [0, 1], beside rtol x |reference|."""
    rtol: float = 0.0
    min_psnr: float | None = None
    """Least peak signal-to-noise ratio over a batch of photos in dB."""
    max_off: float | None = None
    """Largest share of the values of a batch of photos that are more than one 8-bit level off."""

    def __post_init__(self) -> None:
        for flag, value in (("--atol", self.atol), ("--rtol", self.rtol), ("--max-off", self.max_off)):
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{flag}: found {value}, expected a number from 0 to 1")
        if self.min_psnr is not None and not math.isfinite(self.min_psnr):
            raise UserError(f"--min-psnr: found {self.min_psnr}, expected a finite number")

    def or_else(self, other: "Tolerance") -> "Tolerance":
        """These limits, with those of `other` where they are left open."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **own)

    def __str__(self) -> str:
        limits = [
            (self.atol, f"max {self.atol} + {self.rtol:g} x |reference|"),
            (self.min_psnr, f"PSNR at least {self.min_psnr} dB"),
            (self.max_off, f"at most {self.max_off or 0:.1%} more than 1/255 off"),
        ]
        return ", ".join(text for limit, text in limits if limit is not None)


TOLERANCES = {
    # A fortieth of an 8-bit level: far above the rounding of fp32 sums (about 1e-6), far below what can be seen.
    "fp32": Tolerance(atol=1e-4),
    # Half precision keeps 11 bits; trained models come to 68 to 83 dB and move no value by an 8-bit level.
    "fp16": Tolerance(min_psnr=60.0, max_off=0.001),
    # Eight bits an activation: models came to 42 to 54 dB (YCbCr least), with 7 to 55 values in a hundred a level off.
    "int8": Tolerance(min_psnr=40.0, max_off=0.6),
}
"""What each precision is held to by default."""


@dataclass(frozen=True)
class Comparison:
    """Differences between artefact and reference for one batch."""

    images: str
    batch_size: int
    height: int
    width: int
    max_difference: float
    mean_difference: float
    psnr: float | None
    """In dB; None where there is no difference at all."""
    off: float
    """Share of values more than one 8-bit level off."""
    excess: float
    """Largest |difference| - rtol |reference|, which atol bounds."""


@dataclass(frozen=True)
class Reference:
    """What an artefact has to equal."""

    rgb: Callable[[Gray], Gray]
    """Gray, N x 1 x H x W, to RGB, N x 3 x H x W."""
    spec: ModelSpec
    name: str
    """What it is, for people."""
    source: Path
    checkpoint: dict[str, Any] | None = None
    """What is known of the checkpoint, see `cgan.checkpoint_record.CheckpointRecord.to_json`."""


def checkpoint_reference(source: Path) -> Reference:
    """PyTorch in fp32 on the run or checkpoint as it now lies on disk.

    Raises:
        UserError: not a run or checkpoint.
        GateError: its weights were changed.
    """
    generator, spec, record = load_checkpoint(source)
    model = GrayToRGB(generator, spec.color_space).eval()

    @torch.no_grad()
    def rgb(gray: Gray) -> Gray:
        result: Tensor = model(torch.from_numpy(gray))
        return np.asarray(result)

    return Reference(rgb, spec, f"PyTorch {torch.__version__}, fp32, CPU", record.path, record.to_json())


def onnx_reference(path: Path) -> Reference:
    """An ONNX file of this project in ONNX Runtime on the CPU, for an engine that was built from it."""

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
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    *,
    device: str = "cpu",
    name: str | None = None,
) -> dict[str, Any]:
    """Run an artefact against its reference on the same photos.

    Args:
        artefact: a model file that `infer.backends` can run.
        reference: what it has to equal.
        photos: N x 1 x size x size float32 in [0, 1] at the model's render size; noise with the spectrum of photos
            when None.
        tolerance: the limits; those that it leaves open are the ones of the artefact's precision.
        batch_sizes: photos in each batch that is compared; fewer photos than that are repeated.
        device: where the artefact runs, "cpu" or "cuda".
        name: what the artefact will be called, where it still lies under a temporary name.

    Returns:
        The numbers for the sidecar, as JSON values.

    Raises:
        GateError: another checkpoint's artefact, one that cannot be run like the model, or one that differs by more
            than the tolerance.
    """
    name = name or artefact.name
    try:
        with open_model(artefact, device=device, suffix=Path(name).suffix) as backend:
            _check_origin(name, backend.spec, reference)
            tolerance = (tolerance or Tolerance()).or_else(TOLERANCES[backend.spec.precision])
            comparisons = [
                _compare(kind, gray, reference.rgb(gray), _artefact_rgb(backend, gray, name), tolerance.rtol)
                for kind, gray in _batches(backend.spec, photos, batch_sizes)
            ]
            engine = backend.engine
    except ChangedFileError as error:
        raise GateError(str(error)) from error
    _check(name, comparisons, tolerance)
    of_photos = [c.psnr for c in comparisons if c.psnr is not None and c.images != "random"]
    return {
        "verified": True,
        "reference": reference.name,
        "checkpoint": reference.checkpoint,
        "engine": engine,
        "photos": "noise with the spectrum of photos" if photos is None else len(photos),
        "tolerance": asdict(tolerance),
        "max_difference": max(c.max_difference for c in comparisons),
        "min_psnr": min(of_photos, default=None),
        "max_off": max(c.off for c in comparisons),
        "comparisons": [{k: v for k, v in asdict(c).items() if k != "excess"} for c in comparisons],
    }


def random_images(count: int, height: int, seed: int, width: int | None = None) -> Gray:
    """Uniform noise in [0, 1], count x 1 x height x width: reaches the extremes that photos do not."""
    return np.random.default_rng(seed).random((count, 1, height, width or height), np.float32)


def natural_images(count: int, height: int, seed: int, width: int | None = None) -> Gray:
    """Noise with the amplitude spectrum of photos, 1/f (Field 1987), in [0, 1]; count x 1 x height x width."""
    width = width or height
    noise = np.random.default_rng(seed).standard_normal((count, height, width))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    frequency[0, 0] = 1  # the mean is set by the stretch below
    images = np.fft.ifft2(np.fft.fft2(noise) / frequency).real
    low, high = images.min(axis=(1, 2), keepdims=True), images.max(axis=(1, 2), keepdims=True)
    stretched: Gray = ((images - low) / (high - low)).astype(np.float32)[:, None]
    return stretched


def _batches(spec: ModelSpec, photos: Gray | None, batch_sizes: tuple[int, ...]) -> Iterator[tuple[str, Gray]]:
    size = spec.render_size
    begun = 0
    for count in batch_sizes:
        if photos is None:
            yield "natural", natural_images(count, size, SEED + count)
        else:
            yield "photos", photos[np.arange(begun, begun + count) % len(photos)]
            begun += count
        if spec.precision == "fp32":  # less precise ones answer for photos alone
            yield "random", random_images(count, size, SEED + count)
    if spec.dynamic_size:
        height, width = (multiples * spec.size_multiple for multiples in SECOND_SIZE)
        yield "natural", natural_images(2, height, SEED, width)


def _artefact_rgb(backend: Backend, gray: Gray, name: str) -> Gray:
    try:
        return backend.run(gray)
    except Exception as error:  # the base class and each engine raise types of their own
        reason = str(error).partition("\n")[0]
        raise GateError(f"{name} cannot be run like the trained model ({reason}); do not ship it") from error


def _compare(images: str, gray: Gray, expected: Gray, found: Gray, rtol: float) -> Comparison:
    difference = np.abs(found.astype(np.float64) - expected)
    error = float(np.square(difference).mean())
    return Comparison(
        images=images,
        batch_size=len(gray),
        height=gray.shape[2],
        width=gray.shape[3],
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        psnr=-10 * math.log10(error) if error else None,
        off=float((difference > LEVEL).mean()),
        excess=float((difference - rtol * np.abs(expected)).max()),
    )


def _check(name: str, comparisons: list[Comparison], tolerance: Tolerance) -> None:
    """Raise for the worst batch that breaks a limit."""
    psnr = {id(c): math.inf if c.psnr is None else c.psnr for c in comparisons}
    broken = [
        c
        for c in comparisons
        if not (
            (tolerance.atol is None or c.excess <= tolerance.atol)
            and (tolerance.min_psnr is None or psnr[id(c)] >= tolerance.min_psnr)
            and (tolerance.max_off is None or c.off <= tolerance.max_off)
        )
    ]
    if broken:
        worst = min(broken, key=lambda c: psnr[id(c)])
        raise GateError(
            f"{name} is not the trained model: on {worst.images} images at batch {worst.batch_size}, "
            f"{worst.height} x {worst.width}, it differs by up to {worst.max_difference:.3g}, PSNR "
            f"{psnr[id(worst)]:.1f} dB, {worst.off:.1%} of the values more than 1/255 off; allowed is {tolerance}; "
            "do not ship it"
        )


def _check_origin(name: str, found: ModelSpec, reference: Reference) -> None:
    expected = reference.spec.weights_sha256
    if found.weights_sha256 != expected:
        raise GateError(
            f"{name} comes from other weights ({found.weights_sha256[:16]}...) than {reference.source} now holds "
            f"({expected[:16]}...); export it again"
        )
    free = {name: getattr(found, name) for name in ("precision", "dynamic_size", "created_with")}
    contract = replace(reference.spec, **free).to_json()
    if changed := [name for name, value in found.to_json().items() if value != contract[name]]:
        raise GateError(
            f"{name} has another contract than {reference.source}: {', '.join(changed)} differ; export it again"
        )
