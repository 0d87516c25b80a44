"""The JSON report of a folder run."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cgan.documents import check_document, json_with, write_document
from cgan.errors import GateError, UserError, cannot_write
from cgan.files import OccupiedError, json_sha256
from infer.backends.base import Backend
from infer.folder.local_folder import LocalFolder
from infer.folder.options import FolderOptions, Outcome
from infer.folder.plan import Plan
from infer.folder.storage import Storage

REPORT_NAME = "report.json"


def report_values(
    plan: Plan, outcome: Outcome, options: FolderOptions, format_: str, backend: Backend, digest: str, watched: bool
) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        plan: all jobs, of a watched folder those of the last round.
        outcome: what became of them, of a watched folder of all so far.
        options: as they were chosen.
        format_: --format.
        backend: entered.
        digest: of the model.
        watched: whether the folder was watched, so that nothing is left to begin.
    """
    from cgan import __version__

    stages = {
        name: {"seconds": round(stage.seconds, 3), "images_per_second": round(stage.files / stage.seconds, 1)}
        for name, stage in outcome.stages.items()
        if stage.seconds
    }
    return {
        "photos": outcome.settled if watched else len(plan.jobs),
        "done": outcome.done,
        "skipped": outcome.skipped,
        "failed": len(outcome.failed),
        "not_begun": 0 if watched else len(plan.jobs) + len(plan.unreadable) - outcome.settled,
        "stopped": outcome.stopped,
        "failures": outcome.failed,
        "notes": outcome.notes,
        "run_notes": outcome.run_notes,
        "passed_over": plan.passed_over,
        "other_files": plan.other_files,
        "seconds": round(outcome.seconds, 3),
        "images_per_second": round(outcome.done / outcome.seconds, 2) if outcome.seconds else 0.0,
        "stages": stages,
        "options": {**asdict(options), "format": format_},
        "model": {
            "file": str(backend.path),
            "digest": digest,
            "engine": backend.engine,
            "note": backend.note,
            "spec": backend.spec.to_json(),
        },
        "version": __version__,
    }


REPORT_KEYS = frozenset({"not_begun", "version"})
"""Of a report, and of no other JSON file of this project."""


SEAL = "report_sha256"
"""Key of the digest of all other values: a report that was edited is no longer the run's own."""


def sealed(values: dict[str, Any]) -> bytes:
    """The report as a file holds it."""
    return (json.dumps({**values, SEAL: json_sha256(values)}, indent=2) + "\n").encode()


def is_report(content: bytes) -> bool:
    """Return True for a report that nobody edited; earlier versions wrote no digest."""
    if not json_with(REPORT_KEYS)(content):
        return False
    values = json.loads(content)
    digest = values.pop(SEAL, None)
    return digest is None or digest == json_sha256(values)


class ReportFile:
    """Where the report of a run goes: a file, a stream, or an object in a store.

    Args:
        target: OUTPUT, which has the report unless `path` says otherwise.
        path: from --report.
        overwrite: whether any file called report.json in OUTPUT may be replaced.
    """

    def __init__(self, target: Storage, path: Path | None, overwrite: bool) -> None:
        self.target = target
        self.path = path or (target.path / REPORT_NAME if isinstance(target, LocalFolder) else None)
        """None in a store."""
        self._asked = path is not None
        self._any = overwrite and path is None and not (self.path and self.path.is_symlink())

    def __str__(self) -> str:
        return str(self.path or f"{self.target}/{REPORT_NAME}")

    def check(self, plan: Plan | None = None, source: Storage | None = None) -> None:
        """Check that the report can be written and replaces nothing but an earlier one, before anything slow begins.

        Args:
            plan, source: where they are known, no photo and no output may have its name.

        Raises:
            UserError: it cannot, or it would.
            GateError: the disk is full.
        """
        if self.path is None:
            self._own_in_store()
        elif self._asked or self.path.parent.is_dir():  # an OUTPUT that is not there yet has no report
            check_document(self.path, self._is_own, "--report" if self._asked else "")
        if self._asked and self.path and plan:  # report.json is the name of no photo
            for folder, names in (
                (self.target, (job.output for job in plan.jobs)),
                (source, (job.name for job in plan.jobs)),
            ):
                own = _name_below(self.path, folder)
                if own is not None and any(name.casefold() == own for name in names):
                    raise UserError(f"--report {self.path}: found the name of a photo or an output; give another name")

    def write(self, values: dict[str, Any]) -> None:
        """Write the report.

        Raises:
            GateError: it cannot be written.
        """
        content = sealed(values)
        try:
            if self.path is None:
                self.target.publish(REPORT_NAME, content, self._own_in_store())
            else:
                write_document(self.path, content, self._is_own)
        except OSError as error:
            advice = "move it away" if isinstance(error, OccupiedError) else "make room there"
            raise GateError(
                f"{self}: the report cannot be written ({error}); {advice} and run the same command again"
            ) from error

    def _own_in_store(self) -> frozenset[str] | None:
        """The content of the object that the report may replace, as of `Storage.publish`.

        Raises:
            UserError: it is no report.
        """
        if self._any:
            return None
        try:
            content = self.target.fetch(REPORT_NAME)
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise cannot_write(str(self.target), error) from error
        assert isinstance(content, bytes)
        if content and not self._is_own(content):
            raise UserError(
                f"{self}: found something that is no report of a run, expected none or one; move it away, or name "
                "another with --report"
            )
        return frozenset({hashlib.sha256(content).hexdigest()})

    def _is_own(self, content: bytes) -> bool:
        return self._any or is_report(content)


def _name_below(path: Path, folder: Storage | None) -> str | None:
    """The name of a file below a folder where case does not count, None where it lies elsewhere."""
    if not isinstance(folder, LocalFolder):
        return None
    real = Path(os.path.realpath(path))
    root = Path(folder.identity)
    return str(real.relative_to(root)).casefold() if real.is_relative_to(root) else None
