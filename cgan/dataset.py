"""From a folder of photos to tensors: source, scan, prepared uint8 cache, seeded split, batches."""

import contextlib
import fcntl
import hashlib
import io
import json
import mmap
import os
import random
import shutil
import sys
import tarfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgan.cache import cache_folder
from cgan.errors import FULL_DISK, GateError, UserError
from cgan.files import atomic_path, json_sha256
from cgan.formats import PHOTO_FORMATS
from cgan.jpeg_decoder import MissingPixelsError
from cgan.metrics import NEAR_GRAY, colorfulness
from cgan.squash import squashed

FLOWERS102 = "flowers102"
"""The word that stands for the Oxford 102 Flowers photos, which torchvision downloads."""

FLOWERS102_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
"""Where a user finds 102flowers.tgz, imagelabels.mat and setid.mat."""

WHOLE = ".whole"
"""Name of the empty file that is put into the folder of photos once all of them are there."""

CACHE_VERSION = 3
"""Raised when the preparation below changes, so that older caches are not read."""

MAX_UNREADABLE = 0.05
"""A larger share of unreadable photos is an error rather than a warning."""

PREPARE_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Threads that read and decode photos."""

PREPARE_AHEAD = 4 * PREPARE_THREADS
"""Photos that may wait, decoded, while a slow one before them is decoded."""

NEAR_GRAY_BATCH = 64
"""Photos judged at once: torch would start threads beside the decoding threads for each single one."""

ABANDONED_SECONDS = 24 * 3600
"""A temporary file in the cache that nobody wrote to for so long belongs to a process that was killed."""

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Python has a name for it from 3.13 on; the value is Linux's (asm-generic/mman.h)."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Photos:
    """Prepared photos of one folder, all of one size."""

    pixels: Tensor
    """N x 3 x size x size uint8, RGB, in the order of `names`; pages of the cache file, shared by all processes that
    read them. Writing to it changes this process's copy alone."""
    names: tuple[str, ...]
    """Paths below the folder, with forward slashes, sorted."""
    sha256: tuple[str, ...]
    """Digest of each file's bytes."""
    unreadable: dict[str, str]
    """Paths that could not be read, with the reason."""
    near_gray: int = 0
    """How many of the prepared photos have a colourfulness below NEAR_GRAY: they teach no colour."""


@dataclass(frozen=True)
class Split:
    """Which photos train and which are held out, as indices into `Photos`."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    """In random order: the first few are a fair sample."""


def source_folder(data: str) -> Path:
    """The folder of photos that DATA names: the word flowers102, or else a path.

    The first use of flowers102 downloads Oxford 102 Flowers (345 MB) below `cache_folder()`; torchvision shows
    its progress on stderr. All 8,189 photos are there, not one of torchvision's three parts: the report splits anew.
    "./flowers102" is a folder of that name.

    Raises:
        UserError: the download failed.
        GateError: the disk is full.
    """
    if data != FLOWERS102:
        return Path(data)
    root = cache_folder() / FLOWERS102
    photos = root / "flowers-102" / "jpg"  # torchvision's names
    try:
        if not (photos / WHOLE).exists():
            _download_flowers102(root, photos)
    except (OSError, RuntimeError, EOFError, tarfile.TarError, zlib.error, HTTPException) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if isinstance(error, RuntimeError):
            reason = f"a file is missing or not the published one: {reason}"
        kind = GateError if isinstance(error, OSError) and error.errno in FULL_DISK else UserError
        raise kind(
            f"{FLOWERS102} cannot be downloaded into {photos.parent} ({reason}); try again, put 102flowers.tgz, "
            f"imagelabels.mat and setid.mat of {FLOWERS102_URL} there by hand, or give a folder of photos"
        ) from error
    return photos


def scan(folder: Path) -> list[Path]:
    """The photo files below `folder`, sorted by path; links to folders are not followed.

    Raises:
        UserError: the folder is missing or holds no photos, or one below it cannot be searched.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: found {what}, expected a folder that holds photos")

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be searched ({error.strerror}), and photos in it would be missing unnoticed; "
            "make it readable or move it elsewhere"
        ) from error

    walked = os.walk(folder, onerror=refuse)
    found = (Path(root) / name for root, _, names in walked for name in names if not name.startswith("."))
    # is_file() leaves out FIFOs, which would block, and links that lead nowhere
    paths = [path for path in found if path.suffix.lower() in PHOTO_FORMATS and path.is_file()]
    if not paths:
        raise UserError(f"{folder}: found no photos ({', '.join(PHOTO_FORMATS)}) in it or below it")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def prepare(
    folder: Path,
    size: int,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    paths: Sequence[Path] | None = None,
) -> Photos:
    """Photos of a folder as one uint8 tensor, decoded once and then read from a cache on disk.

    Each photo is turned upright, converted to RGB and squashed (not cropped) to size x size. The cache is
    keyed by the names and bytes of all photos and the size, so a changed folder is prepared anew. Neither making nor
    reading it takes memory for the pixels: they are written as they are decoded, and then mapped from the file.

    Args:
        folder: searched recursively.
        size: height and width in pixels.
        cache: where caches lie; `cache_folder()` when None.
        progress: called with (done, total) while photos are decoded.
        paths: what `scan(folder)` gave, where the caller has it already.

    Raises:
        UserError: no photos, more than 5% of them cannot be read, or the cache cannot be written.
        GateError: the disk is full.
    """
    paths = scan(folder) if paths is None else paths
    names = [path.relative_to(folder).as_posix() for path in paths]
    digests = list(prefetch(paths, _digest_or_empty, PREPARE_AHEAD, PREPARE_THREADS))
    key = json_sha256([CACHE_VERSION, size, list(zip(names, digests, strict=True))])
    cache = cache or cache_folder()
    pixels_file, index_file = cache / f"{key}.npy", cache / f"{key}.json"
    cached = _read_cache(pixels_file, index_file, len(paths), size)
    if cached is None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(cache)
            unreadable, near_gray = _decode_all(paths, names, size, pixels_file, progress)
            with atomic_path(index_file) as temporary:  # written last: its presence says that both are whole
                temporary.write_text(json.dumps({"unreadable": unreadable, "near_gray": near_gray}))
            cached = _map_pixels(pixels_file, len(paths) - len(unreadable), size), unreadable, near_gray
        except OSError as error:
            kind = GateError if error.errno in FULL_DISK else UserError
            raise kind(
                f"cannot keep the prepared photos below {cache} ({error}); make room there or set CGAN_CACHE to "
                "another folder"
            ) from error
    prepared, unreadable, near_gray = cached
    if len(unreadable) > MAX_UNREADABLE * len(paths):
        name, reason = next(iter(unreadable.items()))
        raise UserError(
            f"{folder}: {len(unreadable)} of {len(paths)} photos cannot be read, more than "
            f"{MAX_UNREADABLE:.0%} (first: {name}: {reason}); mend or remove them"
        )
    good = [i for i, name in enumerate(names) if name not in unreadable]
    pixels = torch.from_numpy(prepared).permute(0, 3, 1, 2)
    return Photos(pixels, tuple(names[i] for i in good), tuple(digests[i] for i in good), unreadable, near_gray)


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


def epoch_batches(
    indices: tuple[int, ...], batch_size: int, seed: int, epoch: int, *, smallest: int = 2
) -> Iterator[Tensor]:
    """Shuffled batches of indices for one epoch, a function of seed and epoch alone.

    A last batch of fewer than `smallest` photos joins the batch before it: batch norm cannot train on one photo at
    the smallest scale, and of several processes each takes its slice of a batch.

    Args:
        indices: photos, N.
        batch_size: photos in each batch but the last.
        seed: equal seeds give equal batches.
        epoch: counted from 1.
        smallest: at most `batch_size`; a single batch is never refused, however small.

    Yields:
        Indices, int64, each of N once.
    """
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    order = torch.tensor(indices)[torch.randperm(len(indices), generator=generator)]
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) < smallest:
        batches[-2:] = [torch.cat(batches[-2:])]
    yield from batches


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of one epoch's random choices, in [0, 2^63)."""
    return (seed * 1_000_003 + epoch) % 2**63


def prefetch(items: Iterable[T], make: Callable[[T], R], depth: int = 2, workers: int = 1) -> Generator[R, None, None]:
    """make(item) of each item, in order, computed in background threads ahead of the consumer.

    Closing the generator, as leaving a for loop early does, ends the threads. In them torch's gradient mode and
    current CUDA device are the defaults, not the consumer's.

    Args:
        items: drawn in the consumer's thread.
        make: what it raises is raised to the consumer in place of that result.
        depth: how many results may wait, or be in the making, while the consumer works; at least 1.
        workers: background threads.
    """
    pool = ThreadPoolExecutor(workers, "prefetch")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _download_flowers102(root: Path, photos: Path) -> None:
    """Have torchvision download and unpack the photos, from the start where a former try was cut off."""
    try:
        from torchvision.datasets import Flowers102
    except ModuleNotFoundError as error:
        raise UserError(f"{FLOWERS102} needs the package {error.name}; pip install 'cgan[train]'") from error
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits for the first one's download
        if (photos / WHOLE).exists():
            return
        # torchvision checks the archives' digests, but takes photos for whole however few there are
        if photos.exists():
            shutil.rmtree(photos)
        with contextlib.suppress(ImportError):  # in the end it reads labels with scipy; the photos need none
            Flowers102(str(root), download=True)
        os.sync()  # or a power cut could leave WHOLE beside empty photos
        (photos / WHOLE).touch()


def _read_cache(
    pixels_file: Path, index_file: Path, total: int, size: int
) -> tuple[np.ndarray, dict[str, str], int] | None:
    """Prepared pixels, unreadable photos and the number of near-gray ones, or None where they have to be made anew."""
    try:
        index = json.loads(index_file.read_text())
        unreadable, near_gray = dict(index["unreadable"]), int(index["near_gray"])
        return _map_pixels(pixels_file, total - len(unreadable), size), unreadable, near_gray
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged
        return None


def _map_pixels(file: Path, count: int, size: int) -> np.ndarray:
    """The array in a .npy file of prepared photos, count x size x size x 3, copied only where it is written to.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such array.
    """
    # np.load(mmap_mode="c") reserves memory for a copy of all pages, which Linux refuses where they exceed the RAM
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE | MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
    header = _npy_header(count, size)
    if mapped[: len(header)] != header or len(mapped) != len(header) + count * size * size * 3:
        raise ValueError(f"{file}: not {count} photos of {size} x {size}")
    return np.ndarray((count, size, size, 3), np.uint8, mapped, len(header))


def _npy_header(count: int, size: int) -> bytes:
    """What a .npy file of uint8 photos begins with; numpy makes it equally long for every count."""
    header, shape = io.BytesIO(), (count, size, size, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _remove_abandoned(cache: Path) -> None:
    """Delete what `atomic_path` could not because the process was killed."""
    for path in cache.glob(".cgan-*.tmp"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                path.unlink()


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
            return squashed(image, size, size)
    except MissingPixelsError as error:
        return str(error)
    except Exception as error:  # decoders also raise struct.error, TypeError and others on broken files
        return f"{type(error).__name__}: {error}"


def _decode_all(
    paths: Sequence[Path], names: list[str], size: int, target: Path, progress: Callable[[int, int], None] | None
) -> tuple[dict[str, str], int]:
    """Write the photos to `target`, a .npy file; return the unreadable ones and the number of near-gray ones."""
    unreadable: dict[str, str] = {}
    near_gray = 0
    unjudged: list[np.ndarray] = []
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        file.write(_npy_header(len(paths), size))
        decoded = prefetch(paths, lambda path: _decode(path, size), PREPARE_AHEAD, PREPARE_THREADS)
        with contextlib.closing(decoded):
            for i, result in enumerate(decoded):
                if isinstance(result, str):
                    unreadable[names[i]] = result
                else:
                    file.write(result.data)
                    unjudged.append(result)
                if len(unjudged) == NEAR_GRAY_BATCH:
                    near_gray += _count_near_gray(unjudged)
                    unjudged = []
                if progress:
                    progress(i + 1, len(paths))
        file.seek(0)
        file.write(_npy_header(len(paths) - len(unreadable), size))
    return unreadable, near_gray + _count_near_gray(unjudged)


def _count_near_gray(photos: list[np.ndarray]) -> int:
    if not photos:
        return 0
    pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)
    return int((colorfulness(pixels.float() / 255) < NEAR_GRAY).sum())
