"""Prepared photos: decoded once, resized, and kept as uint8 pixels in a cache on disk with digests."""

import contextlib
import hashlib
import json
import mmap
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from cgan.data.prefetch import PREPARE_AHEAD, PREPARE_THREADS, prefetch
from cgan.data.resize import resized_rgb
from cgan.data.scan import scan
from cgan.errors import FULL_DISK, GateError, UserError
from cgan.files import atomic_path, json_sha256, remove_temporaries
from cgan.formats import PHOTO_FORMATS
from cgan.jpeg_decoder import MissingPixelsError
from cgan.marks import Sharing, noted
from cgan.memory_budget import MemoryBudget
from cgan.metrics.pictures import NEAR_GRAY, colorfulness
from cgan.npy import npy_header
from cgan.photo_limits import MAX_SECONDS, LimitError, check_file_size, opened, time_limit
from cgan.readers import LARGE_BYTES, FormatError, read_json, typed_field, typed_list, typed_object
from cgan.text import counted
from cgan.user_folders import cache_folder

CACHE_VERSION = 3
"""Increased when the preparation changes, so that older caches are not read."""

_contents, _memory = MemoryBudget(2**29), MemoryBudget(2**31)
"""Budgets in bytes of the contents of all files that are read at a time, and of the memory in which they are decoded. A
single larger photo is decoded alone."""

DECODED_BYTES = 24
"""Most bytes of memory a pixel: a progressive JPEG is decoded twice, then turned upright and converted to RGB."""

MAX_UNREADABLE = 0.05
"""A larger share of unreadable photos is an error rather than a warning."""

NEAR_GRAY_BATCH = 64
"""Photos whose colourfulness is computed at a time; one by one, torch would start threads for each of them."""

BLOCK_BYTES = 2**24
DIGEST_THREADS = 4
"""The digests of the pixel file are of blocks of this size, and are computed by this many threads."""

MARKS_FILE = ".cgan-marks"
"""File in the cache with the marks of the processes that prepare photos (see `cgan.marks`)."""

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Defined by Python 3.13 and later; the value is from Linux's asm-generic/mman.h."""


@dataclass(frozen=True)
class Photos:
    """Prepared photos of one folder, all of one size."""

    pixels: Tensor
    """N x 3 x size x size uint8, RGB, in the order of `names`. It is mapped from the cache file; processes share
    its pages, and a write changes only this process's copy."""
    names: tuple[str, ...]
    """Paths below the folder, with forward slashes, sorted."""
    sha256: tuple[str, ...]
    """Digest of each file's bytes."""
    unreadable: dict[str, str]
    """Photos that could not be read: path and reason."""
    near_gray: frozenset[int] = frozenset()
    """Indices of photos with a colourfulness below NEAR_GRAY, from which colours cannot be learned."""
    note: str | None = None
    """A note if the cache was damaged."""


def prepare(
    folder: Path,
    size: int,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    paths: Sequence[Path] | None = None,
) -> Photos:
    """Return the photos of a folder as one uint8 tensor, decoded once and then read from a cache on disk.

    Each photo is turned upright, converted to RGB and resized to size x size without cropping. The key of the cache is
    a digest of the size and of the names and bytes of all photos, so a changed folder is prepared again. The pixels are
    never all in memory: they are written as they are decoded, and then mapped from the file. A damaged cache is
    prepared again in a new file; processes that have mapped the old file keep it.

    Args:
        folder: searched recursively.
        size: height and width in pixels.
        cache: folder of caches; None for `cache_folder()`.
        progress: called with (done, total) while photos are decoded.
        paths: result of `scan(folder)`; None to scan the folder.

    Raises:
        UserError: there are no photos, more than 5% of them cannot be read, a photo changes during the preparation, or
            the cache cannot be written.
        GateError: the disk is full.
    """
    paths = scan(folder) if paths is None else paths
    names = [path.relative_to(folder).as_posix() for path in paths]
    digests = list(prefetch(paths, _digest_or_empty, PREPARE_AHEAD, PREPARE_THREADS))
    entry = _Entry(cache or cache_folder(), json_sha256([CACHE_VERSION, size, list(zip(names, digests, strict=True))]))
    note = None
    try:
        found = _read(entry, len(paths), size)
    except _DamagedError as error:
        note, found = f"{entry.pixels}: the prepared photos were damaged ({error}) and are prepared again", None
    if found is None:
        found = _make(entry, [_Photo(*photo) for photo in zip(paths, names, digests, strict=True)], size, progress)
    prepared, index = found
    if len(index.unreadable) > MAX_UNREADABLE * len(paths):
        name, reason = next(iter(index.unreadable.items()))
        raise UserError(
            f"{folder}: {len(index.unreadable)} of {counted(len(paths), 'photo')} cannot be read, more than "
            f"{MAX_UNREADABLE:.0%} (first: {name}: {reason}); repair or remove them"
        )
    good = [i for i, name in enumerate(names) if name not in index.unreadable]
    return Photos(
        pixels=torch.from_numpy(prepared).permute(0, 3, 1, 2),
        names=tuple(names[i] for i in good),
        sha256=tuple(digests[i] for i in good),
        unreadable=index.unreadable,
        near_gray=frozenset(index.near_gray),
        note=note,
    )


@dataclass(frozen=True)
class _Photo:
    """A photo to prepare."""

    path: Path
    name: str
    sha256: str
    """Digest of the file in the cache's key; empty if the file could not be read."""


@dataclass(frozen=True)
class _Entry:
    """The two files of one set of prepared photos."""

    folder: Path
    key: str

    @property
    def pixels(self) -> Path:
        return self.folder / f"{self.key}.npy"

    @property
    def index(self) -> Path:
        return self.folder / f"{self.key}.json"


@dataclass(frozen=True)
class _Index:
    """The JSON file beside the pixels."""

    unreadable: dict[str, str]
    """Photos that could not be read, with the reason; the pixel file has the other photos."""
    near_gray: list[int]
    """Indices of near-gray photos among the pixels."""
    blocks: list[str]
    """Digests of the pixel file, one for each block of BLOCK_BYTES."""

    def sealed(self, key: str) -> dict[str, object]:
        """Return JSON values with a digest of themselves and of the cache's key."""
        return {**asdict(self), "sha256": json_sha256([key, asdict(self)])}


class _DamagedError(Exception):
    """The content of a cache is not what was written."""


def _read(entry: _Entry, total: int, size: int) -> tuple[np.ndarray, _Index] | None:
    """Return the prepared pixels and their index; None if there is no cache.

    Raises:
        _DamagedError: the content is not what was written.
    """
    try:
        values = read_json(entry.index, LARGE_BYTES)
        index = _Index(
            unreadable=typed_object(typed_field(values, "unreadable", dict), "reason of", str),
            near_gray=typed_list(typed_field(values, "near_gray", list), "near_gray", int),
            blocks=typed_list(typed_field(values, "blocks", list), "blocks", str),
        )
        if values != index.sealed(entry.key):
            raise FormatError("found another digest of it than the one in it")
    except FileNotFoundError:
        return None
    except FormatError as error:
        raise _DamagedError(f"{entry.index.name} is not what was written: {error}") from error
    except OSError as error:
        raise _DamagedError(f"{entry.index.name}: {error}") from error
    try:
        if _block_digests(entry.pixels) != index.blocks:
            raise _DamagedError("its content has changed")
        return _map_pixels(entry.pixels, total - len(index.unreadable), size), index
    except (OSError, ValueError) as error:
        raise _DamagedError(str(error)) from error


def _make(
    entry: _Entry, photos: Sequence[_Photo], size: int, progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, _Index]:
    """Decode the photos into the cache.

    Raises:
        UserError: the cache cannot be written, or a photo has changed.
        GateError: the disk is full.
    """
    try:
        entry.folder.mkdir(parents=True, exist_ok=True)
        marks = entry.folder / MARKS_FILE
        with noted(marks, Sharing.TOGETHER, lambda marks: remove_temporaries(entry.folder, marks)):
            index = _decode_all(photos, size, entry.pixels, progress)
            with atomic_path(entry.index) as temporary:  # written last: if it exists, both files are complete
                temporary.write_text(json.dumps(index.sealed(entry.key)))
        return _map_pixels(entry.pixels, len(photos) - len(index.unreadable), size), index
    except OSError as error:
        kind = GateError if error.errno in FULL_DISK else UserError
        raise kind(
            f"cannot keep the prepared photos below {entry.folder} ({error}); make room there or set CGAN_CACHE to "
            "another folder"
        ) from error


def _block_digests(file: Path) -> list[str]:
    """Return the SHA-256 of each block of BLOCK_BYTES of a file.

    The file is read rather than mapped: truncating a mapped file would kill the process with SIGBUS.
    """

    def digest(start: int) -> str:
        with file.open("rb") as opened:
            opened.seek(start)
            return hashlib.sha256(opened.read(BLOCK_BYTES)).hexdigest()

    starts = range(0, file.stat().st_size, BLOCK_BYTES)
    return list(prefetch(starts, digest, DIGEST_THREADS, DIGEST_THREADS))


def _map_pixels(file: Path, count: int, size: int) -> np.ndarray:
    """Map the array in a .npy file of prepared photos, count x size x size x 3, copy on write.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds another array.
    """
    # np.load(mmap_mode="c") reserves memory for a copy of all pages, which Linux refuses beyond the size of the RAM
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE | MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
    header = npy_header((count, size, size, 3))
    if mapped[: len(header)] != header or len(mapped) != len(header) + count * size * size * 3:
        raise ValueError(f"{file}: not {count} photos of {size} x {size}")
    return np.ndarray((count, size, size, 3), np.uint8, mapped, len(header))


def _digest_or_empty(path: Path) -> str:
    try:
        check_file_size(path.stat().st_size)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, LimitError):
        return ""  # decoding fails too, with the reason


def _decode(photo: _Photo, size: int) -> np.ndarray | str:
    """Return the pixels of a photo, or the reason why it cannot be read.

    Raises:
        UserError: the file has changed since its digest was computed.
    """
    try:
        length = photo.path.stat().st_size
        check_file_size(length)
    except OSError:
        length = 0  # reading it fails too, with the reason
    except LimitError as error:
        return str(error)
    with _contents.taken(length):
        content, failure = b"", ""
        try:
            content = photo.path.read_bytes()  # read once, so that the digest is of the bytes that are decoded
        except OSError as error:
            failure = f"{type(error).__name__}: {error}"
        except MemoryError:
            return "MemoryError: the file is larger than the memory"
        if ("" if failure else hashlib.sha256(content).hexdigest()) != photo.sha256:
            raise UserError(
                f"{photo.name} changed while it was prepared; run the command again when nothing changes the folder"
            )
        return failure or _pixels(content, size)


def _pixels(content: bytes, size: int) -> np.ndarray | str:
    try:
        with opened(content, tuple(set(PHOTO_FORMATS.values()))) as image:
            if image.mode.startswith(("I", "F")):
                return f"gray of more than 8 bits ({image.mode}) has no colours to learn from"
            with _memory.taken(image.width * image.height * DECODED_BYTES), time_limit(MAX_SECONDS):
                return resized_rgb(image, size, size)
    except (MissingPixelsError, LimitError) as error:
        return str(error)
    except UnidentifiedImageError:  # its message contains a memory address
        return "UnidentifiedImageError: cannot identify image file"
    except Exception as error:  # decoders also raise struct.error, TypeError and others on broken files
        return f"{type(error).__name__}: {error}"


def _decode_all(
    photos: Sequence[_Photo], size: int, target: Path, progress: Callable[[int, int], None] | None
) -> _Index:
    """Write the photos to `target`, a .npy file, and return its index."""
    unreadable: dict[str, str] = {}
    gray: list[bool] = []
    unjudged: list[np.ndarray] = []
    with atomic_path(target) as temporary:
        with temporary.open("wb") as file:
            file.write(npy_header((len(photos), size, size, 3)))
            decoded = prefetch(photos, lambda photo: _decode(photo, size), PREPARE_AHEAD, PREPARE_THREADS)
            with contextlib.closing(decoded):
                for i, result in enumerate(decoded):
                    if isinstance(result, str):
                        unreadable[photos[i].name] = result
                    else:
                        file.write(result.data)
                        unjudged.append(result)
                    if len(unjudged) == NEAR_GRAY_BATCH:
                        gray += _near_gray(unjudged)
                        unjudged = []
                    if progress:
                        progress(i + 1, len(photos))
            file.seek(0)
            file.write(npy_header((len(photos) - len(unreadable), size, size, 3)))
        blocks = _block_digests(temporary)
    gray += _near_gray(unjudged)
    return _Index(unreadable, [i for i, is_gray in enumerate(gray) if is_gray], blocks)


def _near_gray(photos: list[np.ndarray]) -> list[bool]:
    if not photos:
        return []
    pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)
    return [bool(value < NEAR_GRAY) for value in colorfulness(pixels.float() / 255)]
