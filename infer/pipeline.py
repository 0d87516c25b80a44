"""Folder runs: decode, batch, run, merge and encode, overlapped and bounded.

Everything happens in one pool of threads, which this thread feeds and empties. Only a few batches are under way
at a time, so memory does not grow with the folder.
"""

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from infer.backends.base import Backend
from infer.images import MAX_PIXELS, Floats, Photo, PhotoError, decode, encode, merge, model_input, raw_output
from infer.jobs import WORK_FOLDER, Job

STOPPING_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of the output file system that every later file would meet too."""

PREFETCHED_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How a folder is coloured."""

    batch_size: int
    workers: int
    """Threads that decode, run the model and encode."""
    streams: int = 1
    """Batches given to the model at a time; no more than `workers` of them run. On a CPU, runs of one thread each
    waste no time on waiting for each other, which the threads of a single run do."""
    quality: int = 95
    """Of JPEG and WebP."""
    resolution: str = "original"
    """"original", or "model" for the network's own output."""
    overwrite: bool = False
    """Whether outputs that are there are made again."""
    max_failures: int | None = None
    """Stop after more failures than this."""
    max_pixels: int = MAX_PIXELS


@dataclass
class Outcome:
    """What became of every job of a run."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Name and reason."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """What a user should know of files that are done."""
    stopped: str | None = None
    """Why the run ended before its last file, or None."""
    seconds: float = 0.0


OnFile = Callable[[Outcome], None]
Batch = list[tuple[Job, Photo, Floats]]


def color_folder(
    jobs: tuple[Job, ...],
    target: Path,
    backend: Backend,
    options: FolderOptions,
    on_file: OnFile | None = None,
    stop: threading.Event | None = None,
) -> Outcome:
    """Colour the jobs' photos; a file that fails is noted and the run goes on.

    Args:
        jobs: from `infer.jobs.make_plan`.
        target: the output folder; unfinished files lie in a folder inside it.
        backend: entered.
        options: see FolderOptions.
        on_file: called after each file.
        stop: when set, no more files are begun and those under way are finished.

    Returns:
        Each job as done, skipped or failed; jobs that were not begun when the run stopped are in none.

    Raises:
        OSError: nothing can be written below `target`; no photo was begun.
    """
    return _FolderRun(target, backend, options, on_file, stop or threading.Event()).color(jobs)


class _FolderRun:
    def __init__(
        self, target: Path, backend: Backend, options: FolderOptions, on_file: OnFile | None, stop: threading.Event
    ) -> None:
        self.backend = backend
        self.options = options
        self.on_file = on_file
        self.stop = stop
        self.outcome = Outcome()
        self.work_folder = target / WORK_FOLDER / f"{os.getpid()}-{secrets.token_hex(4)}"
        self.render_size = backend.fixed_size or (backend.spec.render_size, backend.spec.render_size)

    def color(self, jobs: tuple[Job, ...]) -> Outcome:
        """See `color_folder`."""
        started = time.perf_counter()
        _remove_abandoned(self.work_folder.parent)
        self.work_folder.mkdir(parents=True)
        running: deque[tuple[Batch, Future[Floats]]] = deque()
        encoding: deque[tuple[Job, Future[tuple[str, ...]]]] = deque()
        limit = PREFETCHED_BATCHES * self.options.batch_size
        try:
            with ThreadPoolExecutor(self.options.workers) as pool:
                for batch in self._batches(self._decoded(pool, jobs)):
                    if len(running) == self.options.streams:
                        encoding.extend(self._encode(pool, *running.popleft()))
                    running.append((batch, pool.submit(self._colors, batch)))
                    while len(encoding) > limit:
                        self._settle(*encoding.popleft())
                while running:
                    encoding.extend(self._encode(pool, *running.popleft()))
                while encoding:
                    self._settle(*encoding.popleft())
        finally:
            shutil.rmtree(self.work_folder, ignore_errors=True)
            _remove_if_empty(self.work_folder.parent)
        if self.stop.is_set() and self.outcome.stopped is None:
            self.outcome.stopped = "interrupted"
        self.outcome.seconds = time.perf_counter() - started
        return self.outcome

    def _decoded(self, pool: ThreadPoolExecutor, jobs: tuple[Job, ...]) -> Iterator[tuple[Job, Photo, Floats]]:
        """Photos in the order of jobs, decoded ahead by a bounded number of batches."""
        ahead: deque[tuple[Job, Future[tuple[Photo, Floats]]]] = deque()
        limit = PREFETCHED_BATCHES * self.options.batch_size
        waiting = iter(jobs)
        while True:
            while len(ahead) < limit and not self._stopping():
                job = next(waiting, None)
                if job is None:
                    break
                if not self.options.overwrite and _is_there(job.target):
                    self.outcome.skipped.append(job.name)
                    self._report()
                    continue
                ahead.append((job, pool.submit(self._prepare, job)))
            if not ahead:
                return
            job, future = ahead.popleft()
            try:
                photo, gray = future.result()
            except Exception as error:  # one file's failure, whatever its kind, must not end the run
                self._fail(job, error)
                continue
            yield job, photo, gray

    def _batches(self, photos: Iterator[tuple[Job, Photo, Floats]]) -> Iterator[Batch]:
        batch: Batch = []
        for item in photos:
            batch.append(item)
            if len(batch) == self.options.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _colors(self, batch: Batch) -> Floats:
        return self.backend.run(np.stack([gray for _, _, gray in batch]))

    def _encode(
        self, pool: ThreadPoolExecutor, batch: Batch, future: Future[Floats]
    ) -> list[tuple[Job, Future[tuple[str, ...]]]]:
        """Begin to write a batch's photos; where the network failed, the batch's files have failed."""
        try:
            colors = future.result()
        except RuntimeError as error:  # what befalls one batch: memory, values that are not finite
            for job, _, _ in batch:
                self._fail(job, error)
            return []
        return [
            (job, pool.submit(self._finish, job, photo, gray, rgb))
            for (job, photo, gray), rgb in zip(batch, colors, strict=True)
        ]

    def _prepare(self, job: Job) -> tuple[Photo, Floats]:
        photo = decode(job.source, self.options.max_pixels)
        return photo, model_input(photo, *self.render_size)

    def _finish(self, job: Job, photo: Photo, gray: Floats, colors: Floats) -> tuple[str, ...]:
        """Write one output under a name that no one looks for, then rename it."""
        image = raw_output(colors) if self.options.resolution == "model" else merge(photo, gray, colors)
        temporary = self.work_folder / secrets.token_hex(8)
        try:
            # Encoded in memory first: Pillow's codecs do not always notice that a disk is full, write() does.
            content = io.BytesIO()
            notes = encode(image, photo, content, job.format, self.options.quality)
            temporary.write_bytes(content.getbuffer())
            job.target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(job.target)
        finally:
            temporary.unlink(missing_ok=True)
        return (*photo.notes, *notes)

    def _settle(self, job: Job, future: Future[tuple[str, ...]]) -> None:
        try:
            notes = future.result()
        except Exception as error:  # as above
            self._fail(job, error)
            return
        self.outcome.done.append(job.name)
        if notes:
            self.outcome.notes[job.name] = list(notes)
        self._report()

    def _fail(self, job: Job, error: Exception) -> None:
        reason = str(error) if isinstance(error, PhotoError) else f"{type(error).__name__}: {error}"
        self.outcome.failed[job.name] = reason
        if isinstance(error, OSError) and error.errno in STOPPING_ERRORS:
            self.outcome.stopped = reason
        limit = self.options.max_failures
        if limit is not None and len(self.outcome.failed) > limit:
            self.outcome.stopped = f"more than {limit} files failed"
        self._report()

    def _stopping(self) -> bool:
        return self.stop.is_set() or self.outcome.stopped is not None

    def _report(self) -> None:
        if self.on_file:
            self.on_file(self.outcome)


def _is_there(path: Path) -> bool:
    """Whether a file with content has this name; a power cut can leave an empty one behind."""
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed runs left: work folders of processes that no longer exist."""
    for path in folder.glob("*-*"):
        pid = path.name.split("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is there and belongs to someone else
    return True


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another run's files are in it, or it never was
        folder.rmdir()
