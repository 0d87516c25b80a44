"""A process of a Ray cluster that colours photos: it holds one model, and the driver feeds its pipeline.

Photos go from INPUT to OUTPUT through the `Storage` of this process; only names and outcomes pass between processes.
"""

import platform
import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cgan
from cgan.errors import UserError
from cgan.files import MARK
from cgan.spec import ModelSpec
from infer.backends.base import Backend
from infer.folder.bookkeeping import Failure
from infer.folder.local_folder import LocalFolder
from infer.folder.open_storage import open_source, open_storage
from infer.folder.options import Stage
from infer.folder.photo_item import Item
from infer.folder.photo_stages import STAGES
from infer.folder.pipeline import PhotoWork, limits_of
from infer.folder.plan import Job, identity_of
from infer.folder.request import FolderRequest, opened_model
from infer.folder.scheduler import GRACE_SECONDS, Scheduler
from infer.folder.thread_pools import Dispatcher
from infer.photo.decode import use_own_pixel_limit

ELSEWHERE = "not the folder that the command sees, expected one that all machines share; mount it there"

ANSWER_SECONDS = 0.5
"""Longest time in seconds until a process tells what it has settled."""


@dataclass(frozen=True)
class Facts:
    """Facts on the model of a process, by the names of `Backend`."""

    node: str
    """Name of the machine."""
    version: str
    """Version of cgan."""
    digest: str
    engine: str
    arithmetic: str | None
    note: str | None
    spec: ModelSpec
    on_gpu: bool
    fixed_size: tuple[int, int] | None
    size_range: tuple[int, int] | None
    batch_range: tuple[int, int | None]


@dataclass(frozen=True)
class Sample:
    """Files by which a process tells that it sees the same folders as the driver; empty names are not checked."""

    token: str
    """Path relative to OUTPUT of a temporary file, and its content."""
    content: str
    photo: str
    """Path relative to INPUT of a photo, and its identity."""
    identity: str


@dataclass
class Answer:
    """Results of a process since its last answer."""

    done: list[Item] = field(default_factory=list)
    """Photos that are published or need no output, without their pixels."""
    failed: list[tuple[str, Failure]] = field(default_factory=list)
    """Names of photos that failed, and why."""
    publishing: list[tuple[str, str, str]] = field(default_factory=list)
    """Outputs that are about to be published, each with its SHA-256 and its notes, one per line."""
    notes: list[str] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)
    """Time spent since the process joined the run."""
    has_ended: bool = False
    """True if the pipeline has stopped and writes nothing more."""


class Outbox:
    """The `Books` of a pipeline whose journal another process keeps: collects the next answer."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.changed = threading.Condition()
        self.in_hand = 0
        """Number of photos that were received and are not settled."""
        self.broken: BaseException | None = None
        """The error that ended the pipeline."""
        self._answer = Answer()

    @property
    def stopping(self) -> bool:
        """True if no further photos are begun."""
        return self.stop.is_set()

    def note(self, text: str) -> None:
        """Add a note on the run."""
        with self.changed:
            self._answer.notes.append(text)

    def publishing(self, items: list[Item]) -> bool:
        """Tell that outputs may appear."""
        with self.changed:
            self._answer.publishing += [(item.output, item.digest, "\n".join(item.notes)) for item in items]
        return True

    def done(self, item: Item) -> None:
        """Tell that a photo is published, or needs no output."""
        bare = replace(item, content=None, photo=None, gray=None, colors=None, until=None)
        with self.changed:
            self._answer.done.append(bare)
            self._settled()

    def failed(self, job: Job, error: Exception, output: str = "") -> None:
        """Tell that a photo failed."""
        with self.changed:
            self._answer.failed.append((job.name, Failure.of(error, output or job.output)))
            self._settled()

    def commit_if_due(self) -> None:
        """Do nothing: the driver keeps the journal."""

    def take(self, stages: dict[str, Stage]) -> Answer:
        """Return all that was told since the last answer."""
        with self.changed:
            answer, self._answer = self._answer, Answer()
        answer.stages = {name: replace(stage) for name, stage in stages.items()}
        return answer

    def _settled(self) -> None:
        self.in_hand -= 1
        self.changed.notify_all()


class Worker:
    """The process. All methods are called by the driver.

    Args:
        request: the run; paths are absolute.
        workers: threads that decode, run the model and encode.
        threads: CPU threads of the engine per run of the model.
    """

    def __init__(self, request: FolderRequest, workers: int, threads: int) -> None:
        self.request, self.workers, self.threads = request, workers, threads
        self._open = ExitStack()

    def load(self) -> Facts | str:
        """Load the model, and return facts on it; or why it cannot be used."""
        use_own_pixel_limit()
        try:
            self.backend: Backend = self._open.enter_context(opened_model(self.request, self.threads))
            self.source, self.target = open_source(self.request.sources), open_storage(self.request.target)
        except UserError as error:
            return f"{platform.node()}: {error}"
        backend = self.backend
        return Facts(
            node=platform.node(),
            version=cgan.__version__,
            digest=backend.digest,
            engine=backend.engine,
            arithmetic=backend.arithmetic,
            note=backend.note,
            spec=backend.spec,
            on_gpu=backend.on_gpu,
            fixed_size=backend.fixed_size,
            size_range=backend.size_range,
            batch_range=backend.batch_range,
        )

    def run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the model on a batch, for --check-parity; arguments and result are those of `Backend.run`."""
        return self.backend.run(gray)

    def join(self, part: str, photos: int | None, sample: Sample) -> tuple[str, str]:
        """Begin a run over `photos`, None if their number is unknown.

        Args:
            part: ending of the names of the run's own files.
            photos: number of photos of the run, None if unknown.
            sample: files to look for.

        Returns:
            The mark of this process's temporary files; and why it cannot take part, empty if it can.
        """
        if problem := self._unlike(sample):
            return MARK, f"{platform.node()}: {problem}"
        self.target.part = part
        try:
            self.target.prepare()
        except OSError as error:
            return MARK, f"{platform.node()}: {self.target}: cannot be written to ({error}); give permission"
        options = self.request.resolve(self.backend, self.workers, photos)
        self.backend.batch_size = options.batch_size
        self._inbox: deque[Item] = deque()
        self._arrived, self._ended = threading.Event(), threading.Event()
        self._outbox, self._stages = Outbox(), {name: Stage() for name in STAGES}
        work = PhotoWork(self.backend, options, self.source, self.target, self._outbox, self._next)
        pools = Dispatcher(options.workers, self._stages)
        scheduler = Scheduler(work, pools, limits_of(self.source, self.target, options))
        threading.Thread(target=self._work, args=(scheduler, pools), daemon=True).start()
        return MARK, ""

    def _unlike(self, sample: Sample) -> str:
        """Return how INPUT or OUTPUT differ from those of the driver; empty if they do not."""
        if sample.token and isinstance(self.target, LocalFolder):
            try:
                same = Path(self.target.path, sample.token).read_text() == sample.content
            except OSError:
                same = False
            if not same:
                return f"{self.target}: {ELSEWHERE}"
        if sample.photo and isinstance(self.source, LocalFolder):
            status = self.source.status(sample.photo)
            if status is None or identity_of(status) != sample.identity:
                return f"{self.source}: {ELSEWHERE}"
        return ""

    def exchange(self, items: list[Item], stopping: bool) -> Answer:
        """Take photos and return results, at the latest after ANSWER_SECONDS; if stopping, once no photo is in hand.

        Raises:
            Exception: the pipeline ended with this error.
        """
        outbox = self._outbox
        with outbox.changed:
            outbox.in_hand += len(items)
        self._inbox.extend(items)
        if stopping:
            outbox.stop.set()
        self._arrived.set()
        if stopping:
            self._ended.wait(2 * GRACE_SECONDS + ANSWER_SECONDS)
        else:
            with outbox.changed:
                outbox.changed.wait_for(lambda: not outbox.in_hand or outbox.broken, ANSWER_SECONDS)
        if outbox.broken:
            raise outbox.broken
        answer = outbox.take(self._stages)
        answer.has_ended = self._ended.is_set()
        return answer

    def _next(self) -> Item | None:
        return self._inbox.popleft() if self._inbox else None

    def _work(self, scheduler: Scheduler[Item], pools: Dispatcher) -> None:
        """Run the pipeline whenever photos arrive, until the run stops."""
        outbox = self._outbox
        try:
            with pools:
                while not outbox.stop.is_set():
                    self._arrived.wait()
                    self._arrived.clear()
                    scheduler.run_all()
        except BaseException as error:
            with outbox.changed:
                outbox.broken = error
                outbox.changed.notify_all()
        finally:
            self._ended.set()
