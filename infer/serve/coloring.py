"""The thread that colours: photos of requests pass through the stages of a folder run, in batches on a GPU."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from infer.backends.base import Backend
from infer.folder.options import ColoringOptions, FolderOptions, Stage
from infer.folder.output_names import output_format, suffix_of_content
from infer.folder.photo_item import Item
from infer.folder.photo_stages import STAGES, PhotoStages
from infer.folder.pipeline import GROUP_PIXELS, MEMORY_UNDER_WAY
from infer.folder.plan import Job
from infer.folder.scheduler import Limits, Scheduler
from infer.folder.thread_pools import Dispatcher
from infer.photo.formats import PillowFormat
from infer.serve.form import photo_in_form
from infer.serve.line import FullError, Line
from infer.serve.memory import give_back_freed
from infer.serve.metrics import Metrics

NAME = "photo"
"""Name of a photo in the pipeline; that of the client's file is not used."""


@dataclass(eq=False, kw_only=True)
class Upload(Item):
    """A photo in a request."""

    client: str
    """Address of the client."""
    body: bytearray
    """Content of the request, released once the photo is taken out of it."""
    options: ColoringOptions
    format: str
    """"same" or a key of `infer.photo.formats.WRITE_FORMATS`."""
    boundary: bytes | None = None
    """Boundary of a multipart form; None if the body is the photo."""
    arrived: float = field(default_factory=time.monotonic)
    answer: "Future[Upload]" = field(default_factory=Future)
    """Gets the photo once it is done, or the error. Cancelled once nobody waits for it."""

    @classmethod
    def of(cls, client: str, body: bytearray, options: ColoringOptions, format_: str, boundary: bytes | None) -> Self:
        """Return a photo that is still unknown but for the size of its request."""
        job = Job(NAME, NAME, PillowFormat.PNG, f"{len(body)}:")
        return cls(job, client=client, body=body, options=options, format=format_, boundary=boundary)

    @property
    def at_model(self) -> bool:
        """True between decoding and the end of the model's run."""
        return self.gray is not None and self.colors is None

    def settle(self, error: Exception | None = None) -> None:
        """Answer the request, if somebody still waits for the answer."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error) if error else self.answer.set_result(self)


PIXELS_IN_HAND = 2**25
"""Pixels for each worker above which no further photo leaves the line. Otherwise many large photos of one client could
be in hand, and so be done before the only one of another."""


IDLE_SECONDS = 1.0
"""Time without a photo after which memory that was freed goes back to the system. Earlier, the next photo would only
have to ask for it again."""


class AbandonedError(Exception):
    """Nobody waits for the photo any longer."""


@dataclass(eq=False)
class RequestWork(PhotoStages[Upload]):
    """The work on photos of requests, for `Scheduler`."""

    line: Line[Upload]
    metrics: Metrics
    most: int
    """Largest number of photos in hand, which have left the line and are not done: more could only wait elsewhere."""
    stopping = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._in_hand: set[Upload] = set()

    def options_of(self, item: Upload) -> ColoringOptions:
        """Return the options of the request."""
        return item.options

    def next(self) -> Upload | None:
        """Return the next photo, None if none waits or enough are in hand."""
        workers, unknown = self.options.workers, sum(not item.pixels for item in self._in_hand)
        is_full = sum(item.pixels for item in self._in_hand) > workers * PIXELS_IN_HAND
        if len(self._in_hand) >= self.most or unknown > workers or is_full or (item := self.line.take()) is None:
            return None
        self._in_hand.add(item)
        item.spent = time.monotonic() - item.arrived
        return item

    def fetch(self, item: Upload) -> None:
        """Take the photo out of the request, and read its size from the header."""
        _check_awaited(item)
        with self.timed(item):
            content = bytes(item.body) if item.boundary is None else photo_in_form(item.body, item.boundary)
        item.body = bytearray()
        name = NAME + suffix_of_content(content)
        item.job = item.job._replace(name=name, format=output_format(name, item.format))
        item.content = content
        self.read_header(item)

    def decode(self, item: Upload) -> None:
        """Decode the photo, unless nobody waits for it."""
        _check_awaited(item)
        super().decode(item)

    def run(self, batch: list[Upload]) -> None:
        """Run the model on a batch."""
        self.metrics.batch.observe(len(batch))
        super().run(batch)

    def encode(self, item: Upload) -> None:
        """Encode the output, unless nobody waits for it."""
        _check_awaited(item)
        super().encode(item)

    def publish(self, item: Upload) -> None:
        """Do nothing: the request takes the content."""

    def before_publishing(self, items: list[Upload]) -> bool:
        """Return True: no journal is kept."""
        return True

    def finished(self, item: Upload) -> None:
        """Answer the request."""
        self._in_hand.remove(item)
        self.metrics.pixels.inc(item.pixels)
        item.settle()

    def failed(self, item: Upload, error: Exception) -> None:
        """Answer the request with an error."""
        self._in_hand.remove(item)
        item.settle(error)

    def smaller_batches(self, note: str) -> None:
        """Count the lack of memory."""
        self.metrics.halved.inc()

    def winding_up(self, in_hand: int) -> None:
        """Do nothing: the line is closed instead, and what is in it is coloured."""

    def tick(self) -> None:
        """Do nothing."""


def _check_awaited(item: Upload) -> None:
    if item.answer.cancelled():
        raise AbandonedError


class Coloring:
    """Colours photos in a thread of its own. Use it as a context manager.

    Args:
        backend: the entered backend.
        options: options of all photos, and the numbers of threads and batches.
        places: photos that can wait.
        batch_wait: longest time in seconds that a photo waits for others to share its batch.
        metrics: gets the figures.
    """

    def __init__(
        self, backend: Backend, options: FolderOptions, places: int, batch_wait: float, metrics: Metrics
    ) -> None:
        self.backend, self.options = backend, options
        self.stopping = False
        """True once the server is to end; photos in hand are still coloured."""
        self.line: Line[Upload] = Line(places)
        # As many as run, are encoded and are decoded for the next batches.
        most = (options.streams + 2) * options.batch_size + 2 * options.workers
        self.work = RequestWork(backend, options, self.line, metrics, most)
        self._pools = Dispatcher(options.workers, {name: Stage() for name in STAGES})
        self._limits = Limits(
            workers=options.workers,
            streams=options.streams,
            weight=MEMORY_UNDER_WAY,
            group=1,  # the photos of a task would all wait for the last of them
            group_effort=GROUP_PIXELS,
            fetch_singly=True,
            batch_wait=batch_wait,
        )
        self._thread = threading.Thread(target=self._color, name="coloring")
        metrics.waiting.set_function(lambda: len(self.line))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: nobody waits for a photo any longer, and a thread that hangs in one is given up."""
        self.work.stopping = True
        self.line.close()
        self._pools.wake()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """True while photos are coloured; a bug ends the thread."""
        return self._thread.is_alive()

    def put(self, item: Upload) -> None:
        """Begin a photo; `item.answer` gets the result.

        Raises:
            FullError: too many photos wait.
        """
        if last := self.line.put(item.client, item):
            last.settle(FullError())
        self._pools.wake()

    def drop(self, item: Upload) -> None:
        """Give a photo up."""
        item.answer.cancel()
        self.line.remove(item.client, item)

    def _color(self) -> None:
        with self._pools:
            scheduler = Scheduler(self.work, self._pools, self._limits)
            while self.line.wait() and not self.work.stopping:
                scheduler.run_all()
                if not self.line.wait(IDLE_SECONDS):
                    give_back_freed()
