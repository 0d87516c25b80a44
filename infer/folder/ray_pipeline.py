"""The pipeline of a folder run on a Ray cluster: hands out names, and notes outcomes in the journal."""

import secrets
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cgan.errors import UserError
from cgan.files import temporary_name
from cgan.text import counted
from infer.folder.bookkeeping import Bookkeeper, Failure
from infer.folder.local_folder import LocalFolder
from infer.folder.photo_item import Item
from infer.folder.pipeline import Pipeline
from infer.folder.plan import Job, identity_of
from infer.folder.ray_fleet import Fleet, Member, Phase, RayBackend
from infer.folder.ray_services import RayLostError
from infer.folder.ray_worker import Answer, Sample
from infer.folder.scheduler import GRACE_SECONDS
from infer.folder.storage import WORK_FOLDER
from infer.folder.thread_pools import Dispatcher

LEAST_STOCK, MOST_STOCK = 64, 1000
"""Photos that a process keeps in hand: few, so that little is done again when it ends; never none."""

STOCK_SECONDS = 5.0
"""Work in seconds that a process keeps in hand."""

SUSPECTS = 32
"""Photos that are handed out together again after the process that had them ended. What is in hand when a process ends
a second time is handed out one by one, so that a photo that ends processes is found."""

MOST_ENDS = 3
"""Number of processes that may end with a photo in hand before it fails."""

MOST_LOSSES = 10
"""Number of processes that may end in a row, without a photo settled in between, before the run stops."""

LONGEST_REASON = 120
"""Characters of Ray's reason that are kept."""

STOP_SECONDS = 4 * GRACE_SECONDS
"""Time that processes have to tell what they have settled, once the run stops."""


@dataclass(eq=False)
class RayPipeline(Pipeline):
    """A pipeline whose photos are coloured in the processes of a cluster."""

    backend: RayBackend
    threads = 1  # they only compute checksums

    def run_all(self, jobs: tuple[Job, ...], books: Bookkeeper, pools: Dispatcher) -> None:
        """Colour the photos in the processes, until all are settled or the run stops."""
        with self._sample(jobs) as sample:
            _Dispatch(self.backend.fleet, books, books.to_do(jobs), len(jobs), self.target.part, sample).run_all()

    @contextmanager
    def _sample(self, jobs: tuple[Job, ...]) -> Iterator[Sample]:
        """Yield files by which processes tell that their folders are those of this one; the token is removed."""
        sample = Sample("", secrets.token_hex(16), *((jobs[0].name, jobs[0].identity) if jobs else ("", "")))
        if not isinstance(self.target, LocalFolder):
            yield sample
            return
        name = f"{WORK_FOLDER}/work{self.target.part}/{temporary_name()}"
        token = Path(self.target.path, name)
        try:
            token.write_text(sample.content)
            yield replace(sample, token=name)
        finally:
            with suppress(OSError):  # the next run removes it by its mark
                token.unlink()

    def clean(self) -> None:
        """Remove temporary files of processes that ended; the next run removes those of one that may still write."""
        fleet = self.backend.fleet
        here = {member.mark for member in fleet.members}
        writing = {member.mark for member in fleet.members if not member.has_ended}
        if gone := fleet.marks - here:
            self.target.prepare(gone, self.journal.knows)
        self.journal.forget_marks(fleet.marks - writing)
        fleet.marks.clear()


@dataclass(eq=False)
class _Dispatch:
    """The handing out of photos."""

    fleet: Fleet
    books: Bookkeeper
    waiting: Iterator[Item]
    photos: int
    part: str
    sample: Sample
    suspects: deque[Item] = field(default_factory=deque)
    """Photos that were in hand when a process ended."""
    ends: dict[str, int] = field(default_factory=dict)
    """Number of processes that ended with a photo in hand, by its name."""
    losses: int = 0
    """Processes that ended since the last photo was settled."""
    exhausted: bool = False
    """True if all photos were handed out once."""

    def run_all(self) -> None:
        """Work until all photos are settled or the run stops."""
        try:
            self._hand_out_all()
            self._wind_up()
        except RayLostError as error:
            self.books.outcome.stopped = self.books.outcome.stopped or str(error)
            for member in self.fleet.members:
                for item in member.in_hand.values():
                    self.books.leave_begun(item)

    def _hand_out_all(self) -> None:
        for member in self.fleet.members:
            if member.phase is Phase.READY:  # of an earlier round
                member.phase = Phase.LOADED
            self._join(member)
        while not self.books.stopping:
            for member in self.fleet.members:
                self._hand_out(member)
            if self.exhausted and not self.suspects and not any(member.in_hand for member in self.fleet.members):
                break
            for member, result in self.fleet.wait():
                self._take(member, result)
            self.books.commit_if_due()

    def _join(self, member: Member) -> None:
        """Let a process that has loaded the model join the run."""
        if member.phase is Phase.LOADED and member.call is None:
            member.phase = Phase.JOINING
            member.call = member.handle.join.remote(self.part, self.photos, self._sample_as_it_is())

    def _sample_as_it_is(self) -> Sample:
        """Return the sample with the present identity of its photo: it can have changed since the plan was made."""
        source, sample = self.books.source, self.sample
        if not (sample.photo and isinstance(source, LocalFolder)):
            return sample
        status = source.status(sample.photo)
        return replace(sample, identity=identity_of(status)) if status else replace(sample, photo="", identity="")

    def _hand_out(self, member: Member) -> None:
        """Give more photos to a process that is not being asked, if it has few."""
        if member.phase is not Phase.READY or member.call is not None:
            return
        items = self._again(member) if self.suspects else self._more(member)
        if not items and not member.in_hand:
            return
        for item in items:
            member.in_hand[item.job.name] = item
        member.told = time.monotonic()
        member.call = member.handle.exchange.remote(items, False)

    def _more(self, member: Member) -> list[Item]:
        items: list[Item] = []
        # Towards the end each gets a fair share of the rest, so that none is idle.
        share = -(-(self.photos - self.books.outcome.settled) // (2 * len(self.fleet.members)))
        stock = max(1, min(share, max(member.stock, LEAST_STOCK)))
        while not self.exhausted and len(member.in_hand) + len(items) < stock:
            item = next(self.waiting, None)
            if item is None:
                self.exhausted = True
            else:
                items.append(item)
        return items

    def _again(self, member: Member) -> list[Item]:
        """Return photos for another trial, if the process has no others."""
        if member.in_hand:
            return []
        items = [self.suspects.popleft()]
        if self.ends[items[0].job.name] == 1:
            while self.suspects and len(items) < SUSPECTS and self.ends[self.suspects[0].job.name] == 1:
                items.append(self.suspects.popleft())
        return items

    def _take(self, member: Member, result: object) -> None:
        """Take in the result of a call."""
        try:
            if isinstance(result, self.fleet.ray.exceptions.RayError):
                self._lost(member, result)
            elif member.phase is Phase.LOADING:
                self.fleet.loaded(member, result)
                self._join(member)
            elif isinstance(result, BaseException):
                raise result
            elif member.phase is Phase.JOINING:
                self._joined(member, result)
            else:
                self._settle(member, result)
        except UserError as error:
            self.books.outcome.stopped = self.books.outcome.stopped or str(error)

    def _joined(self, member: Member, result: object) -> None:
        """Note the mark of a process before it writes.

        Raises:
            UserError: it sees other folders.
        """
        assert isinstance(result, tuple)
        member.mark, problem = result
        if problem:
            raise UserError(problem)
        member.stages, member.has_ended = {}, False
        self.fleet.marks.add(member.mark)
        if self.books.noted(self.books.journal.add_mark, member.mark) and self.books.noted(self.books.journal.commit):
            member.phase = Phase.READY

    def _settle(self, member: Member, answer: object) -> None:
        """Note in the journal what a process has told."""
        assert isinstance(answer, Answer)
        books = self.books
        done = {item.output for item in answer.done}
        if begun := [values for values in answer.publishing if values[0] not in done]:
            books.noted(books.journal.publishing, begun)
        for item in answer.done:
            if member.in_hand.pop(item.job.name, None) is not None:
                books.done(item)
        for name, failure in answer.failed:
            if (handed := member.in_hand.pop(name, None)) is not None:
                books.note_failure(handed.job, failure)
        for note in answer.notes:
            books.note(f"{member.node}: {note}")
        for name, stage in answer.stages.items():
            before = member.stages.get(name)
            total = books.outcome.stages[name]
            total.files += stage.files - (before.files if before else 0)
            total.seconds += stage.seconds - (before.seconds if before else 0.0)
        member.stages = answer.stages
        if settled := len(answer.done) + len(answer.failed):
            self.losses = 0
            rate = settled / max(time.monotonic() - member.told, 1e-3)
            member.stock = int(min(MOST_STOCK, rate * STOCK_SECONDS))

    def _lost(self, member: Member, error: Exception) -> None:
        """Replace a process that ended, and keep its photos for another."""
        books = self.books
        self.losses += 1
        reason = _reason(error)
        where = f"a process on {member.node or 'a machine of the cluster'} ended ({reason})"
        again = f"; {counted(len(member.in_hand), 'photo')} handed out again" if member.in_hand else ""
        books.note(f"{where}{again}")
        for name, item in member.in_hand.items():
            books.leave_begun(item)
            self.ends[name] = self.ends.get(name, 0) + 1
            if self.ends[name] >= MOST_ENDS:
                books.note_failure(item.job, Failure(f"{self.ends[name]} processes ended while they had it"))
            else:
                self.suspects.append(item)
        member.in_hand = {}
        if self.losses >= MOST_LOSSES:
            books.outcome.stopped = (
                books.outcome.stopped or f"{self.losses} processes ended one after the other; the last one: {reason}"
            )
            return
        self.fleet.replace(member)

    def _wind_up(self) -> None:
        """Take in what the processes have settled, and tell them to stop."""
        end = time.monotonic() + STOP_SECONDS
        told: set[Member] = set()
        while time.monotonic() < end:
            for member in self.fleet.members:
                if member.phase is Phase.READY and member.call is None and member not in told:
                    told.add(member)
                    member.call = member.handle.exchange.remote([], True)
            if not any(member.call is not None for member in self.fleet.members if member.phase is Phase.READY):
                break
            for member, result in self.fleet.wait():
                if member.phase is Phase.READY and isinstance(result, Answer):
                    self._settle(member, result)
                    member.has_ended = result.has_ended
                elif member.phase is Phase.READY:
                    member.phase = Phase.LOADED  # it ended; its photos stay begun
        for member in self.fleet.members:
            if member.phase is not Phase.READY or member.call is not None:
                for item in member.in_hand.values():
                    self.books.leave_begun(item)
            member.in_hand = {}
            member.phase = Phase.LOADED if member.phase is Phase.READY else member.phase


def _reason(error: Exception) -> str:
    """Return the first sentence of an error, in which Ray says what happened."""
    return str(error).partition("\n")[0].partition(". ")[0].strip(". :")[:LONGEST_REASON] or type(error).__name__
