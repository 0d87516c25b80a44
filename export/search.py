"""Search for --precision auto: the smallest or fastest precision that passes the gate."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cgan.errors import GateError
from cgan.spec import Precision
from export.artefact import Artefact, ExportOptions, make_onnx, no_report
from export.choices import Preference
from export.verify import natural_images
from infer.backends import open_model

TIMED_SECONDS = 2.0
"""Duration of the timing of each precision."""


@dataclass(frozen=True)
class Trial:
    """Result of one precision. The figures are None where it failed."""

    precision: Precision
    megabytes: float | None
    """Size of the file in 10**6 bytes."""
    images_per_second: float | None
    """Speed in ONNX Runtime on the CPU of this machine, at the largest batch size of the comparison."""
    psnr: float | None
    """Lowest PSNR in dB; None also where nothing differs."""
    failure: str | None
    """Reason why it failed; None where it passed."""


def search_precision(source: Path, options: ExportOptions, prefer: Preference) -> tuple[Precision | None, list[Trial]]:
    """Export SOURCE in every precision into a temporary folder and choose one.

    Args:
        source: a run or checkpoint.
        options: their tolerance applies to every precision; int8 is tried where there are calibration photos.
        prefer: "size" for the smallest file that passes, "speed" for the fastest.

    Returns:
        The chosen precision, None where none passed, and the trials in order.

    Raises:
        UserError: the source or the calibration folder cannot be used.
    """
    candidates: tuple[Precision, ...] = ("int8", "fp16", "fp32") if options.calibration else ("fp16", "fp32")
    trials = [_try(source, replace(options, precision=precision)) for precision in candidates]
    passed = [trial for trial in trials if trial.failure is None]
    if not passed:
        return None, trials
    best = min(passed, key=lambda t: (t.megabytes or 0.0) if prefer == "size" else -(t.images_per_second or 0.0))
    return best.precision, trials


def _try(source: Path, options: ExportOptions) -> Trial:
    options.on_step("try", options.precision)
    with tempfile.TemporaryDirectory() as folder:
        try:
            artefact = make_onnx(source, Path(folder), replace(options, on_step=no_report))
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
    """Images a second of an ONNX file in ONNX Runtime on the CPU."""
    gray = natural_images(batch_size, artefact.sidecar.spec.render_size, 0)
    with open_model(artefact.path, "cpu") as backend:
        backend.run(gray)  # warm-up
        done, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < TIMED_SECONDS:
            backend.run(gray)
            done += batch_size
    return done / elapsed
