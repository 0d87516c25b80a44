"""Photos that set the ranges of an int8 model's activations, as a folder run would show them to it."""

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
from infer.photo.decode import decode, model_input

DEFAULT_LIMIT = 64
"""With 8 or 16 photos the worst of 300 others could be at 15 dB, since what none of them shows is clipped; from 32 on
the worst stayed where it is with 256."""

LEAST_PHOTOS = 8
"""Fewer are refused."""


SHARPENED, SHARPENED_BLURRED = 2.0, 0.5
"""Amount of `augment.sharpened` for a second copy of each photo, and that for models that blur their input. Photos
that are sharper than those of the folder otherwise leave the ranges and are clipped: of a model of 128 pixels without a
blur, 43 dB in place of 50. Behind a blur 2.0 is too much: of the packaged model 48 dB on sharper photos, 51 with 0.5
and 52 without copies, which leave its worst other photo 2 dB further off (`python -m benchmarks int8`)."""


@dataclass(frozen=True)
class Calibration:
    """What `calibration_batches` read, and what it could not read."""

    gray: NDArray[np.float32]
    """Luma in [0, 1], N x 1 x size x size."""
    photos: tuple[Path, ...]
    """Where each came from."""
    failures: tuple[tuple[Path, str], ...]
    """Photos that cannot be read, with the reason."""


def calibration_batches(
    folder: Path, size: int, limit: int = DEFAULT_LIMIT, seed: int = 0, *, from_end: bool = False
) -> Calibration:
    """Photos of a folder, chosen at random, decoded as `cgan-infer folder` decodes them.

    The choice depends on the seed and on the names below the folder alone. Photos that cannot be read are reported,
    and others take their place.

    Args:
        folder: searched recursively.
        size: height and width in pixels, the model's render size.
        limit: photos at most; at least LEAST_PHOTOS.
        seed: of the order in which photos are tried.
        from_end: try them in the reverse order, so that two choices of a large folder share no photo.

    Raises:
        UserError: no such folder, or fewer than LEAST_PHOTOS readable photos in it.
        ValueError: a limit below LEAST_PHOTOS.
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
            f"{folder}: found {len(read)} readable photos and {len(failures)} others{first}, calibration needs at "
            f"least {LEAST_PHOTOS}; add photos like those that the model will colour"
        )
    return Calibration(np.stack(list(read.values())), tuple(read), tuple(failures))


def with_sharper_copies(gray: NDArray[np.float32], blurred: bool) -> NDArray[np.float32]:
    """The photos, then each once more, sharpened: what sets the ranges.

    Args:
        gray: N x 1 x H x W in [0, 1].
        blurred: whether the model blurs its input.

    Returns:
        2N x 1 x H x W in [0, 1].
    """
    copies = sharpened(torch.from_numpy(gray), torch.full((len(gray),), SHARPENED_BLURRED if blurred else SHARPENED))
    return np.concatenate([gray, copies.contiguous().numpy()])


def _gray_or_reason(path: Path, size: int) -> NDArray[np.float32] | str:
    """What the network sees of a photo, 1 x size x size, or why it cannot be read."""
    try:
        return model_input(decode(path), size, size)
    except Exception as error:  # as in a folder run: one photo's failure, whatever its kind
        return str(error) or type(error).__name__
