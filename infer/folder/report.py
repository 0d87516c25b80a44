"""report.json: the values of a folder run, and the file that holds them."""

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cgan.documents import check_document, json_with, write_document
from cgan.errors import GateError, UserError, cannot_write
from cgan.files import OccupiedError, json_sha256
from cgan.hub import origin
from cgan.readers import parse_json
from cgan.text import json_text
from infer.backends.base import Backend
from infer.folder.local_folder import LocalFolder
from infer.folder.options import FolderOptions, Outcome, Stage
from infer.folder.plan import Plan
from infer.folder.storage import Storage, numbered

REPORT_NAME = "report.json"


@dataclass(frozen=True, kw_only=True)
class ReportedModel:
    """The model that coloured the photos."""

    file: str
    hub: str | None
    """Address and commit of a model of the Hugging Face Hub."""
    digest: str
    """See `Backend.digest`."""
    engine: str
    note: str | None
    spec: dict[str, Any]
    """The contract as JSON values."""

    @classmethod
    def of(cls, backend: Backend) -> "ReportedModel":
        """Describe the model of an entered backend."""
        return cls(
            file=str(backend.path),
            hub=origin(backend.path),
            digest=backend.digest,
            engine=backend.engine,
            note=backend.note,
            spec=backend.spec.to_json(),
        )


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Time that all threads together spent in one stage."""

    seconds: float
    images_per_second: float

    @classmethod
    def of(cls, stage: Stage) -> "StageTime":
        """Return time and speed of a stage that has taken any time."""
        return cls(seconds=round(stage.seconds, 3), images_per_second=round(stage.files / stage.seconds, 1))


@dataclass(frozen=True, kw_only=True)
class Report:
    """The values of report.json, in the order of the file."""

    photos: int
    """Photos of the plan; of a watched folder, photos settled so far."""
    done: int
    skipped: int
    failed: int
    color_photos: int
    """Those of them that are in colour, which options.color_photos says how to handle."""
    not_begun: int
    """Photos that were left when the run stopped."""
    stopped: str | None
    """Why the run ended before its last photo, None if it did not."""
    failures: dict[str, str]
    """Reasons by name."""
    notes: dict[str, list[str]]
    """Notes on photos that are done, and why photos without an output were skipped, by name."""
    run_notes: list[str]
    passed_over: dict[str, str]
    other_files: int
    """Files that are not photos."""
    seconds: float
    images_per_second: float
    stages: dict[str, StageTime]
    options: dict[str, Any]
    model: ReportedModel
    version: str
    """Version of cgan."""
    input: str
    """See `Storage.place`."""
    output: str
    journal: str

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def make_report(
    plan: Plan,
    outcome: Outcome,
    options: FolderOptions,
    *,
    format_: str,
    backend: Backend,
    watched: bool,
    source: Storage,
    target: Storage,
    journal: Path | str | None,
) -> Report:
    """Return the report of a run.

    Args:
        plan: all jobs; of a watched folder, those of the last round.
        outcome: result of the run; of a watched folder, of all rounds so far.
        options: options of the run.
        format_: value of --format.
        backend: the entered backend.
        watched: whether the folder was watched; nothing is left to begin then.
        source: INPUT.
        target: OUTPUT.
        journal: path of the journal, or of its log.
    """
    from cgan import __version__

    return Report(
        photos=outcome.settled if watched else len(plan.jobs),
        done=outcome.done,
        skipped=outcome.skipped,
        failed=len(outcome.failed),
        color_photos=outcome.color_photos(),
        not_begun=0 if watched else len(plan.jobs) + len(plan.unreadable) - outcome.settled,
        stopped=outcome.stopped,
        failures=outcome.failed,
        notes=outcome.notes,
        run_notes=outcome.run_notes,
        passed_over=plan.passed_over,
        other_files=plan.other_files,
        seconds=round(outcome.seconds, 3),
        images_per_second=round(outcome.done / outcome.seconds, 2) if outcome.seconds else 0.0,
        stages={name: StageTime.of(stage) for name, stage in outcome.stages.items() if stage.seconds},
        options={**asdict(options), "format": format_},
        model=ReportedModel.of(backend),
        version=__version__,
        input=source.place,
        output=str(target),
        journal=str(journal),
    )


REPORT_KEYS = frozenset({"not_begun", "version"})
"""Keys that the report has and no other JSON file of this project."""

SEAL = "report_sha256"
"""Key of the digest of all other values, by which an edited report is told from one that a run may replace."""


def sealed(report: Report) -> bytes:
    """Return the content of report.json: the values, and the digest of them."""
    values = report.to_json()
    return (json_text({**values, SEAL: json_sha256(values)}, indent=2) + "\n").encode()


def is_report(content: bytes) -> bool:
    """Return True for a report that was not edited; reports of earlier versions have no digest and are accepted."""
    if not json_with(REPORT_KEYS)(content):
        return False
    values = parse_json(content)
    digest = values.pop(SEAL, None)
    return digest is None or digest == json_sha256(values)


class ReportFile:
    """The destination of the report: a file, a stream, or an object in a store.

    Args:
        target: OUTPUT, where report.json goes if no `path` is given.
        path: value of --report.
        overwrite: whether any file of its name in OUTPUT may be replaced.
    """

    def __init__(self, target: Storage, path: Path | None, overwrite: bool) -> None:
        self.target = target
        self.name = numbered(REPORT_NAME, target.part)
        self.path = path or (target.path / self.name if isinstance(target, LocalFolder) else None)
        """Path of the report; None in a store."""
        self._asked = path is not None
        self._any = overwrite and path is None and not (self.path and self.path.is_symlink())

    def __str__(self) -> str:
        return str(self.path or f"{self.target}/{self.name}")

    def check(self, plan: Plan | None = None, source: Storage | None = None) -> None:
        """Check, before anything slow begins, that the report can be written and replaces only an earlier report.

        Args:
            plan, source: if given, the name of the report must differ from those of all photos and outputs.

        Raises:
            UserError: the report cannot be written, or would replace another file.
            GateError: the disk is full.
        """
        if self.path is None:
            self._own_in_store()
        elif self._asked or self.path.parent.is_dir():  # a new OUTPUT has no report
            check_document(self.path, self._is_own, "--report" if self._asked else "")
        if not self._asked and plan and any(job.output.casefold().startswith(f"{self.name}/") for job in plan.jobs):
            raise UserError(
                f"{self}: found a folder of photos of this name in {source}; give another name with --report"
            )
        if self._asked and self.path and plan:  # the default name is never that of a photo
            for folder, names in (
                (self.target, (name for job in plan.jobs for name in (job.output, job.copy) if name)),
                (source, (job.name for job in plan.jobs)),
            ):
                own = _name_below(self.path, folder)
                if own is not None and any(name.casefold() == own for name in names):
                    raise UserError(f"--report {self.path}: found the name of a photo or an output; give another name")

    def write(self, report: Report) -> None:
        """Write the report.

        Raises:
            GateError: the report cannot be written.
        """
        content = sealed(report)
        try:
            if self.path is None:
                self.target.publish(self.name, content, self._own_in_store())
            else:
                write_document(self.path, content, self._is_own)
        except OSError as error:
            advice = "move it away" if isinstance(error, OccupiedError) else "make room there"
            raise GateError(
                f"{self}: the report cannot be written ({error}); {advice} and run the same command again"
            ) from error

    def _own_in_store(self) -> frozenset[str] | None:
        """Return the digests that the report may replace in a store, as for `Storage.publish`.

        Raises:
            UserError: another object has the name of the report.
        """
        if self._any:
            return None
        try:
            content = self.target.fetch(self.name)
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise cannot_write(str(self.target), error) from error
        assert isinstance(content, bytes)
        if content and not self._is_own(content):
            raise UserError(
                f"{self}: found a file that is not the report of a run; move it away, or give another name with "
                "--report"
            )
        return frozenset({hashlib.sha256(content).hexdigest()})

    def _is_own(self, content: bytes) -> bool:
        return self._any or is_report(content)


def _name_below(path: Path, folder: Storage | None) -> str | None:
    """Return the case-folded name of a file relative to a folder, None if the file lies elsewhere."""
    if not isinstance(folder, LocalFolder):
        return None
    real = Path(os.path.realpath(path))
    root = Path(folder.identity)
    return str(real.relative_to(root)).casefold() if real.is_relative_to(root) else None
