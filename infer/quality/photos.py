"""Photos to measure models on, ordered by their content and decoded as in folder runs.

Figures do not depend on names or on the order of a folder, and photos that cannot be read are left out of all sides.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from cgan.cores import available_cores
from cgan.data.prefetch import prefetch
from cgan.data.resize import resized_rgb, to_rgb
from cgan.data.scan import scan
from cgan.errors import GateError, UserError
from cgan.metrics.measurement import Measured
from cgan.photo_limits import opened
from cgan.text import counted
from infer.backends.base import Backend, OutOfMemory
from infer.photo import color_profile
from infer.photo.decode import READ_FORMATS, Floats, PhotoError, decode, model_input
from infer.photo.formats import ProfileUse
from infer.photo.pixels import WIDE_MODES, model_of

Source = tuple[str, Path | bytes]
"""A photo's name, and its file or content."""

UNIT = 16
"""Photos per task of a thread, unless batches are larger. All figures are sums over groups of this size."""

Progress = Callable[[int, int], None]
"""Callback with the number of photos done and of all photos."""

R = TypeVar("R")


@dataclass(frozen=True)
class Entry:
    """A photo that was found."""

    digest: bytes
    """sha256 of the file."""
    name: str
    source: Path | bytes


@dataclass(frozen=True)
class Sample:
    """Photos ordered by content, and the photos that could not be read."""

    entries: tuple[Entry, ...]
    failures: dict[str, str]
    """Reasons by name."""


@dataclass(frozen=True)
class Unit:
    """A unit of decoded photos."""

    names: tuple[str, ...]
    digests: tuple[bytes, ...]
    gray: Floats
    """Input of the models, N x 1 x H x W in [0, 1]."""
    color: NDArray[np.uint8] | None
    """The photos in colour, N x 3 x H x W, None if not requested."""
    failures: dict[str, str]


@dataclass(frozen=True)
class Seen:
    """Digest of the photos that were decoded, and the failures."""

    sha256: str
    """SHA-256 over the digests of the decoded photos, in order."""
    failures: dict[str, str]
    """Reasons by the names of photos that could not be read."""

    def stamp(self, figures: dict[str, Measured]) -> dict[str, Measured]:
        """Return the figures with the digest of the photos and the version of Pillow in their fingerprints."""

        def stamped(figure: Measured) -> Measured:
            versions = {**figure.fingerprint["versions"], "pillow": PIL.__version__}
            return replace(
                figure, fingerprint={**figure.fingerprint, "photos_sha256": self.sha256, "versions": versions}
            )

        return {name: stamped(figure) for name, figure in figures.items()}


def photos_below(folder: Path) -> list[Source]:
    """Return the photos below a folder, searched recursively, with names relative to it.

    Raises:
        UserError: the folder does not exist or has no photos.
    """
    return [(path.relative_to(folder).as_posix(), path) for path in scan(folder)]


def by_content(photos: Iterable[Source], workers: int) -> Sample:
    """Sort photos by their SHA-256, and photos of equal content by name.

    Raises:
        UserError: no photo can be read.
    """

    def digest(photo: Source) -> Entry | tuple[str, str]:
        name, source = photo
        try:
            if isinstance(source, bytes):
                return Entry(hashlib.sha256(source).digest(), name, source)
            with source.open("rb") as file:
                return Entry(hashlib.file_digest(file, "sha256").digest(), name, source)
        except OSError as error:
            return name, str(error)

    found = list(prefetch(photos, digest, 4 * workers, workers))
    entries = sorted((e for e in found if isinstance(e, Entry)), key=lambda e: (e.digest, e.name))
    failures = dict(e for e in found if not isinstance(e, Entry))
    if not entries:
        raise _none_readable(failures)
    return Sample(tuple(entries), failures)


def work_through(
    photos: Iterable[Source],
    size: tuple[int, int],
    work: Callable[[Unit], R],
    add: Callable[[R, tuple[int, int]], None],
    *,
    workers: int | None,
    batch: int,
    color: bool,
    progress: Progress | None,
) -> Seen:
    """Decode photos and process them in threads, in the order of their content, with bounded memory.

    Args:
        photos: names, with files or contents, in any order.
        size: height and width of the models' input.
        work: called in threads with each non-empty unit; its exceptions are raised here.
        add: called in order, in the calling thread, with the result of `work` and the size.
        workers: threads; None for one per core.
        batch: largest batch of the models; a unit holds at least as many photos.
        color: whether units include the photos in colour.
        progress: called after each unit.

    Returns:
        The digest of the decoded photos, and the failures.

    Raises:
        UserError: no photo can be read.
    """
    workers = workers or available_cores()
    sample = by_content(photos, workers)
    length = -(-batch // UNIT) * UNIT
    parts = [sample.entries[i : i + length] for i in range(0, len(sample.entries), length)]

    def make(entries: tuple[Entry, ...]) -> tuple[Unit, R | None]:
        unit = _decoded(entries, size, color)
        return unit, work(unit) if unit.names else None

    failures = dict(sample.failures)
    done = len(failures)
    digest = hashlib.sha256()
    for unit, result in prefetch(parts, make, workers, workers):
        failures |= unit.failures
        digest.update(b"".join(unit.digests))
        done += len(unit.names) + len(unit.failures)
        if result is not None:
            add(result, size)
        if progress:
            progress(done, len(sample.entries) + len(sample.failures))
    if len(failures) == done:
        raise _none_readable(failures)
    return Seen(digest.hexdigest(), failures)


def _none_readable(failures: dict[str, str]) -> UserError:
    first = next((f" ({name}: {reason})" for name, reason in failures.items()), "")
    return UserError(f"found {counted(len(failures), 'photo')}, none that can be read{first}; give other photos")


def read_again(photos: Iterable[Source], names: Collection[str], size: tuple[int, int]) -> Unit:
    """Return some of the photos, in gray and in colour; those that cannot be read in colour are its failures.

    Args:
        photos: as of `work_through`.
        names: names of the photos.
        size: height and width of the models' input.
    """
    return _decoded(tuple(Entry(b"", name, source) for name, source in photos if name in names), size, True)


def run_batches(backend: Backend, gray: Floats, batch: int) -> Floats:
    """Colour photos batch by batch, with values clipped to [0, 1] as in written files.

    Args:
        backend: the entered model.
        gray: N x 1 x H x W in [0, 1].
        batch: photos per batch.

    Returns:
        N x 3 x H x W float32 in [0, 1].

    Raises:
        UserError: the model ran out of memory.
        GateError: the engine failed, or gave values that are not finite.
    """
    try:
        rgb = np.concatenate([backend.run(gray[i : i + batch]) for i in range(0, len(gray), batch)])
    except OutOfMemory as error:
        raise UserError(
            f"{backend.path}: found too little memory for batches of {batch} ({error}); choose a smaller --batch-size"
        ) from error
    except RuntimeError as error:
        raise GateError(f"{backend.path} cannot colour the photos ({error}); export it again") from error
    return np.clip(rgb, 0, 1, out=rgb)


def _decoded(entries: tuple[Entry, ...], size: tuple[int, int], color: bool) -> Unit:
    names, digests, grays, colors = [], [], [], []
    failures: dict[str, str] = {}
    for entry in entries:
        try:
            gray = model_input(decode(entry.source, entry.name), *size)
            pixels = _color(entry.source, *size) if color else None
        except Exception as error:  # as in a folder run, any error is the failure of this photo
            failures[entry.name] = str(error) or type(error).__name__
        else:
            names.append(entry.name)
            digests.append(entry.digest)
            grays.append(gray)
            colors.append(pixels)
    stacked = np.stack([pixels for pixels in colors if pixels is not None]) if color and names else None
    gray = np.stack(grays) if grays else np.empty((0, 1, *size), np.float32)
    return Unit(tuple(names), tuple(digests), gray, stacked, failures)


def _color(source: Path | bytes, height: int, width: int) -> NDArray[np.uint8]:
    """Return the photo in colour as in training, but in sRGB: 3 x height x width, upright, squashed.

    Raises:
        PhotoError: the photo is gray with more than 8 bits.
    """
    with opened(source, READ_FORMATS) as image:
        if image.mode in WIDE_MODES:
            raise PhotoError(f"gray of more than 8 bits ({image.mode}) has no colours to compare with")
        pixels = resized_rgb(image, height, width, _in_srgb)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image from its ICC profile, as `decode` does with its luma."""
    model = model_of(image)
    convert, _ = color_profile.settle(image.info.get("icc_profile"), model, ProfileUse.CONVERT, [])
    if convert is None:
        return to_rgb(image)
    converted = convert(np.atleast_3d(np.asarray(image.convert(model))))
    return Image.fromarray(np.broadcast_to(converted, (*converted.shape[:2], 3)))
