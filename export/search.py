"""Which precision to ship: the smallest or fastest one that still equals the trained model."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cgan.errors import GateError
from export.artefact import Artefact, ExportOptions, make_onnx
from export.verify import natural_images
from infer.backends import open_model

TIMED_SECONDS = 2.0


@dataclass(frozen=True)
class Trial:
    """One precision that was tried."""

    precision: str
    megabytes: float | None
    images_per_second: float | None
    """ONNX Runtime on this machine's CPU."""
    psnr: float | None
    failure: str | None
    """Why it did not pass, or None."""


def search_precision(source: Path, options: ExportOptions, prefer: str) -> tuple[str | None, list[Trial]]:
    """Try every precision that SOURCE can be exported in.

    Args:
        source: a run or checkpoint.
        options: with the tolerance that all are held to; int8 is tried where there are calibration photos.
        prefer: "size" for the smallest file that passes, "speed" for the fastest.

    Returns:
        The chosen precision, None where none passed, and what was tried.
    """
    candidates = ("int8", "fp16", "fp32") if options.calibration else ("fp16", "fp32")
    trials = [_try(source, replace(options, precision=precision)) for precision in candidates]
    passed = [trial for trial in trials if trial.failure is None]
    if not passed:
        return None, trials
    best = min(passed, key=lambda t: (t.megabytes or 0.0) if prefer == "size" else -(t.images_per_second or 0.0))
    return best.precision, trials


def _try(source: Path, options: ExportOptions) -> Trial:
    with tempfile.TemporaryDirectory() as folder:
        try:
            artefact = make_onnx(source, Path(folder), options)
        except GateError as error:
            return Trial(options.precision, None, None, None, str(error))
        return Trial(
            options.precision,
            artefact.path.stat().st_size / 1e6,
            _speed(artefact, options.batch_sizes[-1]),
            artefact.sidecar.verification["min_psnr"],
            None,
        )


def _speed(artefact: Artefact, batch_size: int) -> float:
    gray = natural_images(batch_size, artefact.sidecar.spec.render_size, 0)
    with open_model(artefact.path, "cpu") as backend:
        backend.run(gray)  # warm-up
        done, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < TIMED_SECONDS:
            backend.run(gray)
            done += batch_size
    return done / elapsed
