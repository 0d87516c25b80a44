"""Photos on which an artefact is compared with its model."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgan.training.checkpoint import held_out_photos
from export.calibration import calibration_batches

COMPARED_PHOTOS = 64
"""Photos of a calibration folder on which an artefact is compared. They are chosen from the end of the random order,
those that calibrate int8 from its beginning, so only a small folder lends a photo to both."""


def comparison_photos(
    run: Path | None, size: int, calibration: Path | None
) -> tuple[NDArray[np.float32] | None, tuple[str, ...]]:
    """Choose photos of the calibration folder or, without one, the photos that the run held out.

    Args:
        run: a run folder, or a checkpoint in one; None for an ONNX file, whose run is not known.
        size: height and width in pixels, the model's render size.
        calibration: folder of photos.

    Returns:
        The photos, N x 1 x size x size in [0, 1], None where there are none; and notes on photos of the folder that
        cannot be read.

    Raises:
        UserError: the folder has too few readable photos, or the photos of the run cannot be used.
    """
    if calibration:
        chosen = calibration_batches(calibration, size, COMPARED_PHOTOS, from_end=True)
        return chosen.gray, tuple(f"{path}: not compared, {reason}" for path, reason in chosen.failures)
    return (None if run is None else held_out_photos(run, size)), ()
