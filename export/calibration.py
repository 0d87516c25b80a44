"""Calibration photos, which set the activation ranges of an int8 model, decoded as in a folder run."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cgan.data.augment import sharpened
from cgan.data.prefetch import PREPARE_AHEAD, PREPARE_THREADS, prefetch
from cgan.data.scan import scan
from cgan.errors import UserError
from cgan.text import counted
from infer.photo.decode import decode, model_input

DEFAULT_LIMIT = 64
"""Values beyond the range of all calibration photos are clipped: with 8 or 16 photos the worst of 300 others fell to
15 dB; with 32 or more it was as good as with 256."""

LEAST_PHOTOS = 8
"""A folder with fewer readable photos is refused."""


SHARPENED, SHARPENED_BLURRED = 2.0, 0.5
"""Amount of `augment.sharpened` for a second copy of each photo, without and with an input blur. Without copies, photos
sharper than those of the folder exceed the ranges and are clipped: 43 dB instead of 50 for a model of 128 pixels
without a blur. For the packaged model, which has a blur, sharper photos reach 48 dB with amount 2.0, 51 with 0.5 and
52 without copies, but without copies its worst other photo loses 2 dB (`python -m benchmarks int8`)."""


@dataclass(frozen=True)
class Calibration:
    """Photos that `calibration_batches` read, and those that it could not read."""

    gray: NDArray[np.float32]
    """Luma in [0, 1], N x 1 x size x size."""
    photos: tuple[Path, ...]
    """Path of each photo."""
    failures: tuple[tuple[Path, str], ...]
    """Photos that cannot be read, each with the reason."""


def calibration_batches(
    folder: Path, size: int, limit: int = DEFAULT_LIMIT, seed: int = 0, *, from_end: bool = False
) -> Calibration:
    """Choose photos of a folder at random and decode them as `cgan-infer folder` does.

    The choice depends only on the seed and on the names below the folder. Photos that cannot be read are reported and
    replaced by others.

    Args:
        folder: searched recursively.
        size: height and width in pixels, the model's render size.
        limit: maximum number of photos; at least LEAST_PHOTOS.
        seed: of the order in which photos are tried.
        from_end: try them in the reverse order, so that two choices of a large folder share no photo.

    Raises:
        UserError: the folder is missing or has fewer than LEAST_PHOTOS readable photos.
        ValueError: the limit is below LEAST_PHOTOS.
    """
    if limit < LEAST_PHOTOS:
        raise ValueError(f"limit is {limit}, expected at least {LEAST_PHOTOS}")
    paths = scan(folder)
    random.Random(seed).shuffle(paths)
    if from_end:
        paths.reverse()
    read: dict[Path, NDArray[np.float32]] = {}
    failures: list[tuple[Path, str]] = []
    results = prefetch(paths, lambda path: _gray_or_reason(path, size), PREPARE_AHEAD, PREPARE_THREADS)
    for path, result in zip(paths, results, strict=False):
        if isinstance(result, str):
            failures.append((path, result))
        else:
            read[path] = result
        if len(read) == limit:
            break
    results.close()
    if len(read) < LEAST_PHOTOS:
        first = f" ({failures[0][0].name}: {failures[0][1]})" if failures else ""
        raise UserError(
            f"{folder}: found {counted(len(read), 'readable photo')} and {counted(len(failures), 'other')}{first}, "
            f"calibration needs at least {LEAST_PHOTOS}; add photos like those that the model will colour"
        )
    return Calibration(np.stack(list(read.values())), tuple(read), tuple(failures))


def with_sharper_copies(gray: NDArray[np.float32], blurred: bool) -> NDArray[np.float32]:
    """Append a sharpened copy of each photo; together they set the ranges.

    Args:
        gray: N x 1 x H x W in [0, 1].
        blurred: True if the model blurs its input.

    Returns:
        2N x 1 x H x W in [0, 1].
    """
    copies = sharpened(torch.from_numpy(gray), torch.full((len(gray),), SHARPENED_BLURRED if blurred else SHARPENED))
    return np.concatenate([gray, copies.contiguous().numpy()])


def _gray_or_reason(path: Path, size: int) -> NDArray[np.float32] | str:
    """Return the model input of a photo, 1 x size x size, or the reason why it cannot be read."""
    try:
        return model_input(decode(path), size, size)
    except Exception as error:  # as in a folder run: one photo's failure, whatever its kind
        return str(error) or type(error).__name__
