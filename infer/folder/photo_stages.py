"""Stages of a photo in memory: header, decode, run in batches, encode. Folder runs and the server share them."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from cgan.photo_limits import out_of_time, time_limit
from infer.backends.base import Backend, OutOfMemory
from infer.folder.options import ColoringOptions, FolderOptions
from infer.folder.photo_item import Item
from infer.folder.scheduler import AfterFailure, Way
from infer.photo.decode import PhotoError, decode, header_of, model_input, render_size_for
from infer.photo.encode import encoding_bytes, write_photo
from infer.photo.formats import ColorPhotos, Resolution
from infer.photo.mark import Mark

HANGING_SECONDS = 5.0
"""Time after the limit of a photo's time from which its thread is taken to hang in a library. Until then it has the
opportunity to end with the reason itself."""

STAGES = ("fetch", "decode", "run", "encode", "publish")


T = TypeVar("T", bound=Item)


@dataclass(eq=False)
class PhotoStages(Generic[T]):
    """The part of `infer.folder.scheduler.Work` that needs neither a folder nor a journal."""

    backend: Backend
    options: FolderOptions

    def __post_init__(self) -> None:
        self.batch_size = self.options.batch_size

    def options_of(self, item: T) -> ColoringOptions:
        """Return the options of a photo's output: those of all photos."""
        return self.options

    @contextmanager
    def timed(self, item: T) -> Iterator[None]:
        """Count the time of the block to that of the photo, which `check_time` bounds."""
        begun, limit = time.monotonic(), self.options.timeout
        item.until = begun + limit - item.spent if limit else None
        try:
            with time_limit(limit, item.spent):
                yield
        finally:
            item.until = None
            item.spent += time.monotonic() - begun

    def read_header(self, item: T) -> None:
        """Read the photo's size from the header of its file or content."""
        assert isinstance(item.content, Path | bytes)
        with self.timed(item):
            header = header_of(item.content, item.job.name, self.options.max_pixels)
        item.pixels = header.pixels
        item.memory = header.memory + encoding_bytes(header.size, self._render_size(header.size)[0], item.job.format)

    def decode(self, item: T) -> None:
        """Decode the photo, and scale its luma to the render size."""
        assert isinstance(item.content, Path | bytes)
        options = self.options_of(item)
        with self.timed(item):
            photo = decode(item.content, item.job.name, self.options.max_pixels, profile=options.profile)
            content, item.content, item.notes = item.content, None, photo.notes
            if photo.was_color:
                item.color = options.color_photos
                item.notes += (item.color.note,)
            if item.way is Way.RUN:
                item.photo, item.gray = photo, model_input(photo, *self._render_size(photo.size))
            elif item.way is Way.PUBLISH:
                self._copy(item, content)

    def _copy(self, item: T, content: Path | bytes) -> None:
        """Make the content of the file that of the output."""
        if item.is_copied_apart and item.copy_refusal:
            raise PhotoError(item.copy_refusal)
        item.content = content.read_bytes() if isinstance(content, Path) else content
        item.size, item.digest = len(item.content), hashlib.sha256(item.content).hexdigest()
        item.notes = (ColorPhotos.COPY.note,)  # the others are on what colouring would change

    def _render_size(self, size: tuple[int, int]) -> tuple[int, int]:
        spec, longest = self.backend.spec, self.options.render_longest
        if longest:
            height, width = render_size_for(size, longest, spec.size_multiple)
            least = self.backend.least_side
            return max(height, least), max(width, least)
        return self.backend.own_size

    def run(self, batch: list[T]) -> None:
        """Run the model on a batch."""
        rgb = self.backend.run(np.stack([item.gray for item in batch if item.gray is not None]))
        for item, colors in zip(batch, rgb, strict=True):
            item.colors = colors

    def encode(self, item: T) -> None:
        """Merge colours and luma at the photo's own size, and encode the output."""
        assert item.photo is not None and item.gray is not None and item.colors is not None
        options = self.options_of(item)
        with self.timed(item):
            item.content, notes = write_photo(
                item.photo,
                item.gray,
                item.colors,
                item.job.format,
                quality=options.quality,
                strength=options.strength,
                raw=options.resolution == Resolution.MODEL,
                mark=Mark(self.backend.path.name, self.backend.digest) if options.mark else None,
            )
        item.notes += notes
        item.size, item.digest = len(item.content), hashlib.sha256(item.content).hexdigest()
        item.photo = item.gray = item.colors = None

    def batch_failed(self, batch: list[T], error: BaseException) -> AfterFailure:
        """Halve the batch size if memory ran out; otherwise run the photos one by one to find the one at fault."""
        ran = max(len(batch), self.batch_size if self.backend.pads else 0)
        # Batches below the engine's minimum are padded, so halving no longer helps.
        if isinstance(error, OutOfMemory) and ran > self.backend.batch_range[0]:
            half = -(-ran // 2)
            if half < self.batch_size:
                self.batch_size = self.backend.batch_size = half
                self.smaller_batches(f"{error}; going on with batches of {half}")
            return AfterFailure.AGAIN
        return AfterFailure.SINGLY if isinstance(error, Exception) and len(batch) > 1 else AfterFailure.FAIL

    def smaller_batches(self, note: str) -> None:
        """Called with a note when the batch size was halved."""
        raise NotImplementedError

    def overdue(self, item: T) -> Exception | None:
        """Return the error of a photo that took longer than --timeout and did not end by itself."""
        until = item.until
        hangs = until is not None and time.monotonic() > until + HANGING_SECONDS
        return out_of_time(self.options.timeout) if hangs else None
