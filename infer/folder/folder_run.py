"""Folder runs from end to end: plan, journal, model, pipeline, report. A run is done once, or repeated with --watch."""

import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgan.cores import available_cores
from cgan.errors import GateError, UserError
from cgan.extras import needed
from cgan.text import counted
from infer.backends.base import Backend
from infer.folder.console import Console, counts, stop_on_signal
from infer.folder.journal import Journal
from infer.folder.journal_row import JournalError
from infer.folder.local_folder import LocalFiles
from infer.folder.manifest import OutputLists
from infer.folder.options import Event, FolderOptions, Outcome
from infer.folder.pipeline import Pipeline
from infer.folder.plan import Plan, check_apart, identity_of
from infer.folder.report import Report, ReportFile, make_report
from infer.folder.request import (
    FolderRequest,
    check_options,
    has_journal,
    note_on_sidecar,
    opened_journal,
    opened_model,
    opened_places,
    plan_of,
    recipe_of,
    unwritable,
)
from infer.folder.storage import Entry, Storage
from infer.photo.decode import use_own_pixel_limit
from infer.photo.formats import COLOR_PHOTO_HANDLING

if TYPE_CHECKING:  # they need the package ray
    from infer.folder.ray_fleet import Fleet

CHECKED_PHOTOS = 64
"""Number of random photos of INPUT for --check-parity."""

WATCH_SECONDS = 2.0
"""Least pause between two searches of a watched folder. A file that does not change during the pause is complete."""

WATCH_SHARE = 10
"""Least ratio of the pause to the time of a search."""


def run_folder(request: FolderRequest, console: Console) -> int:
    """Colour a folder or a photo and return the exit code.

    Raises:
        UserError: the request cannot be met; nothing was written.
    """
    use_own_pixel_limit()
    with stop_on_signal() as stop:
        source, target = opened_places(request)
        report = ReportFile(target, request.report, request.overwrite)
        report.check()
        if request.watch and isinstance(source, LocalFiles):
            raise UserError(f"--watch: expected a folder to watch, found {source}; leave --watch out")
        workers = request.workers or available_cores()
        first = None if has_journal(target) or request.watch else plan_of(request, source, target)
        with _model(request, workers, console, stop) as backend:
            check_options(request, backend)
            if request.check_parity:
                plan = first or plan_of(request, source, target)
                _check_parity(request.check_parity, request.device, plan, source, backend, console)
            try:
                check_apart(source, target)
            except OSError as error:
                raise unwritable(target, error) from error
            with closing(opened_journal(target)) as journal:
                run = _Run(request, source, target, report, backend, journal, workers, console, stop)
                outcome = run.watch() if request.watch else run.once(first)
    if stop.event.is_set():
        return stop.exit_code
    return 1 if outcome.failed or outcome.stopped else 0


def _model(request: FolderRequest, workers: int, console: Console, stop: stop_on_signal) -> Backend:
    """Return the model, not entered yet, for this process or in those of a cluster."""
    if request.ray:
        from infer.folder.ray_fleet import Fleet, RayBackend  # needs the package ray when it is entered

        return RayBackend(Fleet(request, console.note, stop))
    cores = available_cores()
    if workers > cores:
        console.note(f"note: --workers {workers}: this process may use {cores} cores; more workers take memory only")
    return opened_model(request, max(1, cores // workers))


class _Run:
    """The parts of one run, opened and entered."""

    def __init__(
        self,
        request: FolderRequest,
        source: Storage,
        target: Storage,
        report: ReportFile,
        backend: Backend,
        journal: Journal,
        workers: int,
        console: Console,
        stop: stop_on_signal,
    ) -> None:
        self.request = request
        self.source = source
        self.target = target
        self.backend = backend
        self.journal = journal
        self.fleet: Fleet | None = getattr(backend, "fleet", None)
        self.workers = self.fleet.workers if self.fleet else workers
        self.console = console
        self.stop = stop
        self.recipe = recipe_of(backend, request)
        self.report = report
        self.lists = OutputLists(journal, target, request.overwrite) if request.manifest else None
        self.noted: str | None = None
        self.seen: dict[str, str] = {}
        """Identities of watched files that were coloured, by name."""
        self.growing: dict[str, str] = {}
        """Identities of watched files that may still be incomplete, by name."""

    def once(self, plan: Plan | None) -> Outcome:
        """Run once over all files; `plan` is made if it is None."""
        plan = plan or self._plan()
        self._check_documents(plan)
        options = self._options(len(plan.jobs))
        self._announce(counted(len(plan.jobs), "photo"), options)
        self.console.log("begin", photos=len(plan.jobs), model=str(self.backend.path), engine=self.backend.engine)
        outcome = self._color(plan, options)
        self._finish(plan, outcome, options)
        return outcome

    def watch(self) -> Outcome:
        """Run for the present files, and again whenever files arrive or change, until a signal."""
        self.report.check()
        total, began = Outcome(), time.monotonic()
        unreadable: dict[str, str] = {}
        options = self._options(None)
        self._announce(f"watching {self.source}; Ctrl-C ends", options)
        while not (self.stop.event.is_set() or total.stopped):
            if not self.journal.is_there():
                total.stopped = f"{self.target} was removed, and what this run noted in it"
                break
            try:
                self.journal.commit()  # says in a store that this run goes on
            except JournalError as error:
                raise GateError(str(error)) from error
            searched = time.monotonic()
            plan = self._plan(self._takes)
            pause = max(WATCH_SECONDS, WATCH_SHARE * (time.monotonic() - searched))
            if plan.jobs or plan.unreadable != unreadable:
                self._check_documents(plan)
                outcome = self._color(plan, replace(options, batch_size=self.backend.batch_size or options.batch_size))
                for name in unreadable:
                    total.failed.pop(name, None)
                unreadable = plan.unreadable
                for name in outcome.missing:  # the file may reappear unchanged
                    self.seen.pop(name, None)
                total.add(outcome, plan)
                limit = options.max_failures
                if limit is not None and len(total.failed) > limit and not total.stopped:
                    total.stopped = f"more than {counted(limit, 'file')} failed"
                total.seconds = time.monotonic() - began
                self._finish(plan, total, options)
            self.stop.event.wait(pause)
        return total

    def _takes(self, entry: Entry) -> bool:
        """Return True if a watched file is new or changed, and has not changed since the previous search."""
        assert entry.status is not None
        identity = identity_of(entry.status)
        if self.seen.get(entry.name) == identity:
            return False
        if self.growing.get(entry.name) != identity:
            self.growing[entry.name] = identity
            return False
        del self.growing[entry.name]
        self.seen[entry.name] = identity
        return True

    def _check_documents(self, plan: Plan) -> None:
        """Check that the report and the lists replace nothing but earlier ones."""
        self.report.check(plan, self.source)
        if self.lists:
            self.lists.check(plan)

    def _settled(self, event: Event, outcome: Outcome) -> None:
        if self.lists:
            self.lists.note(event)
        self.console.update(event, outcome)

    def _plan(self, choose: Any = None) -> Plan:
        return plan_of(self.request, self.source, self.target, self.journal, choose)

    def _options(self, photos: int | None) -> FolderOptions:
        """Return the options of a run over `photos`, and set the batch size of the backend."""
        options = self.request.resolve(self.backend, self.workers, photos)
        self.backend.batch_size = options.batch_size
        return options

    def _color(self, plan: Plan, options: FolderOptions) -> Outcome:
        self.console.begin(len(plan.jobs))
        self.stop.answered = self.fleet is None
        try:
            outcome = self._pipeline(options).color(plan.jobs)
        except OSError as error:
            raise unwritable(self.target, error) from error
        finally:
            self.stop.answered = False
            self.console.end()
        if self.journal.overtaken:  # the report is that of the other run
            raise GateError(self.journal.overtaken)
        outcome.failed.update(plan.unreadable)
        return outcome

    def _pipeline(self, options: FolderOptions) -> Pipeline:
        """Return the pipeline of one run over a plan."""
        kind: type[Pipeline] = Pipeline
        if self.fleet:
            from infer.folder.ray_pipeline import RayPipeline as kind  # noqa: N813
        books = self.journal, self.recipe, self._settled, self.stop.event
        return kind(self.source, self.target, self.backend, options, *books, self.console.stopping)

    def _announce(self, what: str, options: FolderOptions) -> None:
        """Print what is about to run; notes of the backend are printed even with --quiet."""
        backend = self.backend
        self._warn_of_backend()
        how = f"batch {options.batch_size}, {counted(options.workers, 'worker')}"
        if self.fleet:
            how += f" in each of {counted(self.fleet.actors, 'actor')}"
        self.console.note(f"{what}; {backend.path.name} on {backend.engine}; {how}")
        if note := note_on_sidecar(backend):
            self.console.note(note)

    def _warn_of_backend(self) -> None:
        """Print the note of the backend if it is new."""
        if self.backend.note and self.backend.note != self.noted:
            self.noted = self.backend.note
            self.console.warn(f"note: {self.noted}")

    def _finish(self, plan: Plan, outcome: Outcome, options: FolderOptions) -> None:
        """Print the result of the run and write the report."""
        console = self.console
        report = make_report(
            plan,
            outcome,
            options,
            format_=self.request.format,
            backend=self.backend,
            watched=self.request.watch,
            source=self.source,
            target=self.target,
            journal=self.journal.path,
        )
        console.failures(outcome.failed, self.report)
        self._warn_of_backend()
        for note in outcome.run_notes:
            console.warn(f"note: {note}")
        if outcome.stopped:
            again = "; run the same command again to go on" if report.not_begun else ""
            console.warn(f"stopped: {outcome.stopped}{again}")
        for name, reason in plan.passed_over.items():
            console.log("passed over", True, name=name, reason=reason)
            console.note(f"passed over: {name}: {reason}")
        self.report.write(report)
        if self.lists:
            self.lists.write(plan, outcome)
        self._summarize(report, counts(outcome), options)
        console.log(
            "end",
            done=report.done,
            skipped=report.skipped,
            failed=report.failed,
            color_photos=report.color_photos,
            stopped=report.stopped,
            seconds=report.seconds,
        )

    def _summarize(self, report: Report, files: str, options: FolderOptions) -> None:
        """Print in a few short lines what the run did and which files to look at next."""
        handling = f" {COLOR_PHOTO_HANDLING[options.color_photos]}" if report.done else " among them"
        colored = counted(report.color_photos, "colour photo") + handling
        ignored = f"{counted(report.other_files, 'other file')} ignored"
        speed = f"{report.images_per_second} images/s"
        parts = {files: True, colored: report.color_photos, speed: report.done, ignored: report.other_files}
        self.console.note("; ".join(text for text, is_told in parts.items() if is_told))
        self.console.note(f"outputs   {self.target}")
        if self.lists:
            self.console.note(f"manifest  {self.target}/{self.lists.manifest}")
        reasons = f" ({counted(report.failed, 'failure')} with reasons)" if report.failed else ""
        self.console.note(f"report    {self.report}{reasons}")


def _check_parity(run: Path, device: str, plan: Plan, source: Storage, backend: Backend, console: Console) -> None:
    """Compare the model with the run that it was exported from, on a sample of the photos to colour.

    Raises:
        UserError: `run` is not a run, or no photo can be read.
        GateError: the model differs from the run by more than the gates allow.
    """
    with needed("--check-parity", "train"):
        from infer.quality.parity import check_parity

    def photos() -> Iterator[tuple[str, Path | bytes]]:
        jobs = random.Random(0).sample(plan.jobs, min(CHECKED_PHOTOS, len(plan.jobs)))
        for job in jobs:
            try:
                yield job.name, source.fetch(job.name)
            except OSError as error:
                console.warn(f"note: {job.name}: not compared, {error}")

    parity = check_parity(backend, run, photos(), device=device)
    console.log(
        "parity", parity.passed, passed=parity.passed, figures={name: m.value for name, m in parity.figures.items()}
    )
    for line in parity.table():
        console.note(line)
    if not parity.passed:
        raise GateError(f"nothing was written: {parity.refusal()}")
