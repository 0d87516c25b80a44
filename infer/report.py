"""The JSON report of a folder run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cgan.errors import GateError
from cgan.files import atomic_path
from infer.backends.base import Backend
from infer.jobs import Plan
from infer.run import FolderOptions, Outcome
from infer.storage import Storage

REPORT_NAME = "report.json"


def report(
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


def write_report(values: dict[str, Any], target: Storage, path: Path | None) -> None:
    """Write the report to `path`, or into the store `target` where that is None.

    Raises:
        GateError: it cannot be written.
    """
    text = json.dumps(values, indent=2) + "\n"
    try:
        if path is None:
            target.publish(REPORT_NAME, text.encode())
            return
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    except OSError as error:
        reason = f"the report cannot be written ({error})"
        raise GateError(
            f"{path or f'{target}/{REPORT_NAME}'}: {reason}; make room there and run the same command again"
        ) from error
