"""Limits on the memory and the time that one photo may take; what exceeds them fails with its size and the limit.

Training and folder runs open all photos here. A limit is checked before the bytes, pixels or seconds are spent, since a
call of a C library cannot be interrupted: the limits make each call short, and `check_time` is called between them.
"""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import (
    ExifTags,
    Image,
    TiffImagePlugin,  # also registered here, or Pillow would import all of its plugins to find these two
    TiffTags,
    WebPImagePlugin,  # noqa: F401
)

MAX_PIXELS = 2**28
"""Default limit of pixels: 268 megapixels, 16,384 x 16,384."""

MAX_SIDE = 65_500
"""Largest side in pixels, which is libjpeg's. Buffers of whole rows would make longer ones take many times the memory
of other photos with as many pixels."""

MAX_METADATA = 2**26
"""Largest metadata in bytes: EXIF, XMP, profiles, comments and directories of a file together. A JPEG's profile has 16
MiB at most, and the largest XMP that editors are known to write has some tens of MiB."""

MAX_NUMBERS = 2**22
"""Largest size in bytes of the numbers among the metadata. In memory Pillow makes up to a hundred times as many bytes
of them; two numbers for each of 500,000 strips or tiles reach it."""

MAX_TILE = 2**24
"""Most pixels of a tile of a TIFF that is larger than its picture. libtiff decodes whole tiles."""

MAX_PIXEL_BYTES = 8
"""Bytes of a pixel in the largest format: four channels of 16 bits. Compressed data of more are padding."""

MAX_HEADER_READS = 2**18
"""Reads of Pillow before the pixels. A TIFF of 65,535 tags takes 200,000; a comment in a PGM takes one per byte."""

EXIF = b"Exif\0\0"
MAX_EXIF_PARTS = 64
"""Segments of EXIF in a JPEG, of 64 KiB each. Pillow joins them in a time that grows with the square of the number."""

MAX_SECONDS = 300.0
"""Default limit of the time in which a photo is opened, decoded and encoded. A photo of MAX_PIXELS takes a fifth of it
on one core."""

_clock = threading.local()
"""Of each thread: `seconds`, the limit of its photo, and `end`, the time at which it is reached."""


class LimitError(Exception):
    """A photo exceeds a limit; the message is the reason that reports give.

    Args:
        reason: what was found and the limit.
        option: option of `cgan-infer folder` that raises the limit.
    """

    def __init__(self, reason: str, option: str = "") -> None:
        super().__init__(reason)
        self.option = option


def check_file_size(size: int, max_pixels: int = MAX_PIXELS) -> None:
    """Check the size of a file in bytes, before it is read.

    Raises:
        LimitError: it is larger than the largest uncompressed photo of `max_pixels` with its metadata.
    """
    most = MAX_PIXEL_BYTES * max_pixels + MAX_METADATA
    if size > most:
        raise LimitError(f"{size} bytes, the limit is {most}", "--max-pixels")


@contextmanager
def time_limit(seconds: float, spent: float = 0.0) -> Iterator[None]:
    """Let `check_time` raise in this thread once the block has taken too long.

    Args:
        seconds: limit of the photo's time; 0 is no limit.
        spent: the part of it that earlier blocks have taken.
    """
    _clock.seconds, _clock.end = seconds, time.monotonic() + seconds - spent if seconds else None
    try:
        yield
    finally:
        _clock.end = None


def check_time() -> None:
    """Check the time of this thread's photo; to be called between the steps of long work.

    Raises:
        LimitError: the block of `time_limit` has taken longer than its limit.
    """
    end = getattr(_clock, "end", None)
    if end is not None and time.monotonic() > end:
        raise out_of_time(_clock.seconds)


def out_of_time(seconds: float) -> LimitError:
    """Return the error of a photo that took longer than `seconds`."""
    return LimitError(f"not done after {seconds:g} s", "--timeout")


@contextmanager
def opened(source: Path | bytes, formats: tuple[str, ...], max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a photo with Pillow within the limits; its pixels are not loaded yet.

    Args:
        source: the file, or its content.
        formats: Pillow's names of the formats to try.
        max_pixels: limit of pixels.

    Raises:
        LimitError: file, sides, pixels, header or metadata exceed their limits.
        OSError: the file cannot be read. Pillow also raises other types for damaged content.
    """
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    check_file_size(size, max_pixels)
    file = _BufferedPhoto(io.FileIO(source)) if isinstance(source, Path) else _PhotoInMemory(source)
    with file:
        head = file.read(12)
        is_read_at_once = head[8:] == b"WEBP" or head[4:8] == b"ftyp"  # by the plugins of WebP, AVIF and HEIC
        file.left = [MAX_HEADER_READS, 2 * size if is_read_at_once else MAX_METADATA]
        with Image.open(file, formats=formats) as image:
            check_size(image.size, max_pixels)
            metadata_of(image)
            file.left = None
            yield image


def check_size(size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> None:
    """Check width and height in pixels, before memory is allocated for them.

    Raises:
        LimitError: a side or the number of pixels exceeds its limit.
    """
    width, height = size
    if max(width, height) > MAX_SIDE:
        raise LimitError(f"{width} x {height} pixels, the limit is {MAX_SIDE} a side")
    if width * height > max_pixels:
        raise LimitError(f"{width} x {height} pixels, the limit is {max_pixels}", "--max-pixels")


def metadata_of(image: Image.Image) -> int:
    """Return the bytes of all metadata of an opened image.

    Raises:
        LimitError: they are more than MAX_METADATA.
    """
    tags: Any = getattr(image, "tag_v2", None)  # of a TIFF, whose `info` is made of them
    values = image.info.values() if tags is None else tags._tagdata.values()
    size = sum(len(value) for value in values if isinstance(value, bytes | str))
    if size > MAX_METADATA:
        raise LimitError(f"{size} bytes of metadata, the limit is {MAX_METADATA}")
    if tags is not None:
        _check_numbers(tags)
    return size


def check_exif(exif: Image.Exif) -> None:
    """Check the EXIF of an image before its values are read, all of which Pillow makes objects of.

    Raises:
        LimitError: it has more than MAX_NUMBERS bytes of numbers in a directory.
    """
    found: Any = exif
    directory = found._info
    if directory is None:
        return
    _check_numbers(directory)
    for tag, inner in ((ExifTags.IFD.Exif, ExifTags.IFD.Interop), (ExifTags.IFD.GPSInfo, None)):
        below = _directory_at(found, exif.get(tag))
        if below is not None and inner is not None:
            _directory_at(found, below.get(inner))


def _directory_at(exif: Any, place: object) -> Any:
    """Return a directory of EXIF after its check; None if there is none."""
    if not isinstance(place, int):
        return None
    directory = TiffImagePlugin.ImageFileDirectory_v2(exif.head)
    exif.fp.seek(place)
    directory.load(exif.fp)
    _check_numbers(directory)
    return directory


def _check_numbers(directory: Any) -> None:
    """Check a directory whose values are not read yet."""
    kinds = directory.tagtype
    size = sum(len(value) for tag, value in directory._tagdata.items() if kinds.get(tag) not in _TEXTS)
    if size > MAX_NUMBERS:
        raise LimitError(f"{size} bytes of numbers in its metadata, the limit is {MAX_NUMBERS}")


_TEXTS = frozenset({TiffTags.BYTE, TiffTags.ASCII, TiffTags.UNDEFINED})
"""Types of a tag whose value stays bytes or becomes a text."""


def check_tile(tile: tuple[int, int], picture: tuple[int, int]) -> None:
    """Check width and height of the tiles of a TIFF, before one is decoded.

    Raises:
        LimitError: a tile has more than MAX_TILE pixels, and more than the picture rounded up to multiples of 16.
    """
    limit = max(MAX_TILE, (picture[0] + 15) * (picture[1] + 15))
    if tile[0] * tile[1] > limit:
        raise LimitError(f"tiles of {tile[0]} x {tile[1]} pixels, the limit is {limit}")


class _Reads(io.BufferedIOBase):
    """A file of which Pillow may read only so much before the image is opened."""

    left: list[int] | None = None
    """Reads and bytes that are left; None for no limit."""
    exif_parts = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as the file does.

        Raises:
            LimitError: a limit of the header or of the time is exceeded.
        """
        check_time()
        if self.left is None:
            return super().read(size)
        content = super().read(min(size, self.left[1] + 1) if size is not None and size >= 0 else self.left[1] + 1)
        self.left = [self.left[0] - 1, self.left[1] - len(content)]
        if content.startswith(EXIF):
            self.exif_parts += 1
            if self.exif_parts > MAX_EXIF_PARTS:
                raise LimitError(f"more than {MAX_EXIF_PARTS} parts of EXIF, the limit")
        if self.left[1] < 0:
            raise LimitError(f"more than {MAX_METADATA} bytes before its pixels, the limit of metadata")
        if self.left[0] < 0:
            raise LimitError(f"more than {MAX_HEADER_READS} parts before its pixels, the limit of a header")
        return content


class _BufferedPhoto(_Reads, io.BufferedReader):
    pass


class _PhotoInMemory(_Reads, io.BytesIO):
    pass
