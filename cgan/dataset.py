"""From a folder of photos to tensors: scan, prepared uint8 cache, seeded split, batches."""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cgan.spec import PHOTO_FORMATS, UserError, atomic_path, json_sha256

CACHE_VERSION = 1
"""Raised when the preparation below changes, so that older caches are not read."""

MAX_UNREADABLE = 0.05
"""A larger share of unreadable photos is an error rather than a warning."""


@dataclass(frozen=True)
class Photos:
    """Prepared photos of one folder, all of one size."""

    pixels: Tensor
    """N x 3 x size x size uint8, RGB, in the order of `names`."""
    names: tuple[str, ...]
    """Paths below the folder, with forward slashes, sorted."""
    sha256: tuple[str, ...]
    """Digest of each file's bytes."""
    unreadable: dict[str, str]
    """Paths that could not be read, with the reason."""


@dataclass(frozen=True)
class Split:
    """Which photos train and which are held out, as indices into `Photos`."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    """In random order: the first few are a fair sample."""


def default_cache_folder() -> Path:
    """Where prepared photos are kept: $CGAN_CACHE, or cgan in the user's cache folder."""
    if folder := os.environ.get("CGAN_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cgan"


def scan(folder: Path) -> list[Path]:
    """The photo files below `folder`, sorted by path; links to folders are not followed.

    Raises:
        UserError: the folder is missing or holds no photos.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: found no such folder, expected one that holds photos")
    found = (Path(root) / name for root, _, names in os.walk(folder) for name in names if not name.startswith("."))
    # is_file() leaves out FIFOs, which would block, and links that lead nowhere
    paths = [path for path in found if path.suffix.lower() in PHOTO_FORMATS and path.is_file()]
    if not paths:
        raise UserError(f"{folder}: found no photos ({', '.join(PHOTO_FORMATS)}) in it or below it")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def prepare(
    folder: Path, size: int, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Photos:
    """Photos of a folder as one uint8 tensor, decoded once and then read from a cache on disk.

    Each photo is turned upright, converted to RGB and squashed (not cropped) to size x size. The cache is
    keyed by the names and bytes of all photos and the size, so a changed folder is prepared anew.

    Args:
        folder: searched recursively.
        size: height and width in pixels.
        cache: where caches lie; `default_cache_folder()` when None.
        progress: called with (done, total) while photos are decoded.

    Raises:
        UserError: no photos, or more than 5% of them cannot be read.
    """
    paths = scan(folder)
    names = [path.relative_to(folder).as_posix() for path in paths]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest_or_empty, paths))
    key = json_sha256([CACHE_VERSION, size, list(zip(names, digests, strict=True))])
    cache = cache or default_cache_folder()
    pixels_file, index_file = cache / f"{key}.npy", cache / f"{key}.json"
    cached = _read_cache(pixels_file, index_file)
    if cached is None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            unreadable = _decode_all(paths, names, size, pixels_file, progress)
            with atomic_path(index_file) as temporary:  # written last: its presence says that both are whole
                temporary.write_text(json.dumps({"unreadable": unreadable}))
            cached = np.load(pixels_file), unreadable
        except OSError as error:
            raise UserError(
                f"cannot write the prepared photos below {cache} ({error}); set CGAN_CACHE to another folder"
            ) from error
    prepared, unreadable = cached
    if len(unreadable) > MAX_UNREADABLE * len(paths):
        name, reason = next(iter(unreadable.items()))
        raise UserError(
            f"{folder}: {len(unreadable)} of {len(paths)} photos cannot be read, more than "
            f"{MAX_UNREADABLE:.0%} (first: {name}: {reason}); mend or remove them"
        )
    good = [i for i, name in enumerate(names) if name not in unreadable]
    pixels = torch.from_numpy(prepared).permute(0, 3, 1, 2)
    return Photos(pixels, tuple(names[i] for i in good), tuple(digests[i] for i in good), unreadable)


def split(sha256: tuple[str, ...], test_fraction: float, seed: int) -> Split:
    """Seeded shuffle into training and held-out photos; equal files never straddle the two.

    Args:
        sha256: content digest of each photo.
        test_fraction: share to hold out, in (0, 1); at least one photo is held out.
        seed: equal seeds give equal splits.

    Raises:
        UserError: fewer than two different photos.
    """
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(sha256):
        groups.setdefault(digest, []).append(index)
    if len(groups) < 2:
        raise UserError(
            f"found {len(groups)} different photo(s), expected at least 2: one to train on, one to hold out"
        )
    shuffled = sorted(groups)
    random.Random(seed).shuffle(shuffled)
    wanted = max(1, round(test_fraction * len(sha256)))
    test: list[int] = []
    while len(test) < wanted and len(shuffled) > 1:
        test += groups[shuffled.pop()]
    return Split(tuple(sorted(i for digest in shuffled for i in groups[digest])), tuple(test))


def epoch_batches(indices: tuple[int, ...], batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Shuffled batches of indices for one epoch, a function of seed and epoch alone.

    A last batch of one photo joins the batch before it: batch norm cannot train on one photo at the
    smallest scale.
    """
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    order = torch.tensor(indices)[torch.randperm(len(indices), generator=generator)]
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    yield from batches


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of one epoch's random choices, in [0, 2^63)."""
    return (seed * 1_000_003 + epoch) % 2**63


def _read_cache(pixels_file: Path, index_file: Path) -> tuple[np.ndarray, dict[str, str]] | None:
    """Prepared pixels and unreadable photos, or None where they are missing or damaged and have to be made again."""
    try:
        return np.load(pixels_file), json.loads(index_file.read_text())["unreadable"]
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _digest_or_empty(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""  # decoding fails too, and says why


def _decode(path: Path, size: int) -> np.ndarray | str:
    try:
        with Image.open(path, formats=tuple(set(PHOTO_FORMATS.values()))) as image:
            if image.mode.startswith(("I", "F")):
                return f"gray of more than 8 bits ({image.mode}) has no colours to learn from"
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC))
    except Exception as error:  # decoders also raise struct.error, TypeError and others on broken files
        return f"{type(error).__name__}: {error}"


def _decode_all(
    paths: list[Path], names: list[str], size: int, target: Path, progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    unreadable: dict[str, str] = {}
    pixels = np.empty((len(paths), size, size, 3), np.uint8)
    done = 0
    with ThreadPoolExecutor() as pool:
        for i, result in enumerate(pool.map(lambda path: _decode(path, size), paths)):
            if isinstance(result, str):
                unreadable[names[i]] = result
            else:
                pixels[done] = result
                done += 1
            if progress:
                progress(i + 1, len(paths))
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.save(file, pixels[:done])
    return unreadable
