"""The numeric gate between the trained model and an artefact."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgan.checkpoint import load_generator
from cgan.spec import ChangedFileError, GateError, ModelSpec
from export.onnx_model import GrayToRGB
from infer.backends import open_model
from infer.backends.base import Backend

BATCH_SIZES = (1, 3, 8)
DEFAULT_ATOL = 1e-4
"""A fortieth of an 8-bit level: far above the rounding of fp32 sums (about 1e-6), far below what can be seen."""
DEFAULT_RTOL = 0.0
SEED = 20


@dataclass(frozen=True)
class Comparison:
    """Differences between artefact and reference for one batch."""

    images: str
    batch_size: int
    max_difference: float
    mean_difference: float
    excess: float
    """Largest |difference| - (atol + rtol |reference|); above 0 is a failure."""


def verify(
    artefact: Path,
    source: Path,
    atol: float = DEFAULT_ATOL,
    rtol: float = DEFAULT_RTOL,
    name: str | None = None,
) -> dict[str, Any]:
    """Run an artefact against PyTorch in fp32 on the checkpoint as it now lies on disk.

    Args:
        artefact: a model file that `infer.backends` can run.
        source: the run folder or checkpoint that it was made from.
        atol: allowed absolute difference of a value in [0, 1].
        rtol: allowed difference relative to the reference.
        name: what the artefact will be called, where it still lies under a temporary name.

    Returns:
        The numbers for the sidecar, as JSON values.

    Raises:
        GateError: another checkpoint's artefact, one that cannot be run like the model, or one that differs by more
            than the tolerance.
    """
    name = name or artefact.name
    generator, spec = load_generator(source)
    reference = GrayToRGB(generator, spec.color_space).eval()
    try:
        with open_model(artefact, device="cpu", suffix=Path(name).suffix) as backend:
            _check_origin(name, backend.spec, source, spec)
            comparisons = [
                _compare(kind, gray, _torch_rgb(reference, gray), _artefact_rgb(backend, gray, name), atol, rtol)
                for batch_size in BATCH_SIZES
                for kind, gray in _images(batch_size, spec.render_size)
            ]
            engine = backend.engine
    except ChangedFileError as error:
        raise GateError(str(error)) from error
    worst = max(comparisons, key=lambda c: c.excess)
    if not worst.excess <= 0:
        raise GateError(
            f"{name} is not the trained model: on {worst.images} images at batch {worst.batch_size} it differs "
            f"by up to {worst.max_difference:.3g}, allowed is {atol:g} + {rtol:g} x |reference|; do not ship it"
        )
    return {
        "verified": True,
        "reference": f"PyTorch {torch.__version__}, fp32, CPU",
        "engine": engine,
        "atol": atol,
        "rtol": rtol,
        "max_difference": max(c.max_difference for c in comparisons),
        "comparisons": [{k: v for k, v in asdict(c).items() if k != "excess"} for c in comparisons],
    }


def random_images(count: int, size: int, seed: int) -> NDArray[np.float32]:
    """Uniform noise in [0, 1], count x 1 x size x size: reaches the extremes that photos do not."""
    return np.random.default_rng(seed).random((count, 1, size, size), np.float32)


def natural_images(count: int, size: int, seed: int) -> NDArray[np.float32]:
    """Noise with the amplitude spectrum of photos, 1/f (Field 1987), stretched to [0, 1]; count x 1 x size x size."""
    noise = np.random.default_rng(seed).standard_normal((count, size, size))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    frequency[0, 0] = 1  # the mean is set by the stretch below
    images = np.fft.ifft2(np.fft.fft2(noise) / frequency).real
    low, high = images.min(axis=(1, 2), keepdims=True), images.max(axis=(1, 2), keepdims=True)
    stretched: NDArray[np.float32] = ((images - low) / (high - low)).astype(np.float32)[:, None]
    return stretched


def _images(batch_size: int, size: int) -> list[tuple[str, NDArray[np.float32]]]:
    return [
        ("natural", natural_images(batch_size, size, SEED + batch_size)),
        ("random", random_images(batch_size, size, SEED + batch_size)),
    ]


@torch.no_grad()
def _torch_rgb(reference: GrayToRGB, gray: NDArray[np.float32]) -> NDArray[np.float32]:
    rgb: Tensor = reference(torch.from_numpy(gray))
    return np.asarray(rgb)


def _artefact_rgb(backend: Backend, gray: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    try:
        return backend.run(gray)
    except Exception as error:  # the base class and each engine raise types of their own
        reason = str(error).partition("\n")[0]
        raise GateError(f"{name} cannot be run like the trained model ({reason}); do not ship it") from error


def _compare(
    images: str,
    gray: NDArray[np.float32],
    expected: NDArray[np.float32],
    found: NDArray[np.float32],
    atol: float,
    rtol: float,
) -> Comparison:
    difference = np.abs(found.astype(np.float64) - expected)
    return Comparison(
        images=images,
        batch_size=len(gray),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        excess=float((difference - atol - rtol * np.abs(expected)).max()),
    )


def _check_origin(name: str, found: ModelSpec, source: Path, expected: ModelSpec) -> None:
    if found.weights_sha256 != expected.weights_sha256:
        raise GateError(
            f"{name} comes from other weights ({found.weights_sha256[:16]}...) than {source} now holds "
            f"({expected.weights_sha256[:16]}...); export it again"
        )
