"""`cgan-infer folder --dry-run`: the action that a run would take on each file, judged by the file's header."""

import os
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

from cgan.errors import UserError
from infer.folder.console import Console
from infer.folder.journal import Journal
from infer.folder.journal_row import LEFT, JournalError
from infer.folder.local_folder import LocalFolder
from infer.folder.plan import (
    UNSURE,
    Action,
    Job,
    Judgement,
    changed,
    judge,
    made_from,
    occupied,
    replaceable_contents,
)
from infer.folder.report import ReportFile
from infer.folder.request import (
    FolderRequest,
    check_options,
    copied_journal,
    opened_model,
    opened_places,
    plan_of,
    recipe_of,
    unwritable,
)
from infer.folder.storage import Storage
from infer.photo.decode import PhotoError, decode, header_of, reason_of, use_own_pixel_limit
from infer.photo.formats import ColorPhotos


def show_plan(request: FolderRequest, console: Console) -> int:
    """Print the action that a run would take on each file, and write nothing; return the exit code.

    Raises:
        UserError: the request cannot be met.
    """
    use_own_pixel_limit()
    source, target = opened_places(request)
    _check_reachable(target)
    found = Counter[Action]()
    with tempfile.TemporaryDirectory() as folder:
        journal = copied_journal(target, target.part, Path(folder)) or Journal(None)
        with closing(journal), opened_model(request, 0) as backend:
            check_options(request, backend)
            recipe = recipe_of(backend, request)
            plan = plan_of(request, source, target, journal)
            ReportFile(target, request.report, request.overwrite).check(plan, source)
            for job in plan.jobs:
                action, reason, output = _action_for(request, job, source, target, journal, recipe)
                found[action] += 1
                _tell(console, job.name, output, action, reason)
    for name, problem in plan.unreadable.items():
        found[Action.FAIL] += 1
        _tell(console, name, None, Action.FAIL, problem)
    for name, problem in plan.passed_over.items():
        console.log("passed over", True, name=name, reason=problem)
        console.note(f"pass {name}  ({problem})")
    done, skipped, failed = (found[action] for action in Action)
    console.note(f"to do {done}, to skip {skipped}, would fail {failed}; nothing written")
    return 1 if failed else 0


def _tell(console: Console, name: str, output: str | None, action: Action, reason: str) -> None:
    fails = action is Action.FAIL
    console.log("plan", not fails, name=name, output=output, verdict=action, reason=reason)
    say = console.fail if fails else console.note
    say(f"{action:<4} {name}{(output and f' -> {output}') or ''}{reason and f'  ({reason})'}")


def _check_reachable(target: Storage) -> None:
    """Check permissions, without writing, for making and filling OUTPUT.

    Raises:
        UserError: OUTPUT cannot be made or written to.
    """
    if not isinstance(target, LocalFolder):
        return
    path = target.path.absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "no permission to write to it" if there.is_dir() else "a file and no folder"
        raise UserError(f"{target}: cannot be written ({there}: found {why}); choose another OUTPUT")


def _action_for(
    request: FolderRequest, job: Job, source: Storage, target: Storage, journal: Journal, recipe: str
) -> tuple[Action, str, str | None]:
    """Return the action that a run would take on a job, why, and the output that the photo has or would get."""
    overwrite = request.overwrite
    try:
        checksum = source.checksum(job.name) if request.checksum else ""
        found = judge(job, checksum, journal, target, recipe=recipe, root=source.identity, overwrite=overwrite)
        allowed = replaceable_contents(found.row, overwrite)
        if (
            found.action is Action.DO
            and found.there
            and allowed is not None
            and found.reason != UNSURE
            and (found.content or target.checksum(job.output)) not in allowed
        ):
            return Action.FAIL, changed(job.output), job.output
        if found.action is Action.DO and not source.waits:  # of a store the whole file would have to be fetched
            return _judged_by_content(request, job, source, target, journal, found)
    except JournalError as error:
        raise unwritable(target, error) from error
    except (PhotoError, OSError) as error:
        return Action.FAIL, reason_of(error), job.output
    return found.action, found.reason, None if found.row and found.row.state == LEFT else found.output


def _judged_by_content(
    request: FolderRequest, job: Job, source: Storage, target: Storage, journal: Journal, found: Judgement
) -> tuple[Action, str, str | None]:
    """Return what `_action_for` returns, for a job to do. A photo is decoded only if the action depends on its colours.

    Raises:
        PhotoError: it cannot be coloured.
        OSError: it cannot be read.
    """
    choice, content = request.color_photos, source.fetch(job.name)
    header_of(content, job.name, request.max_pixels)
    if choice is ColorPhotos.RECOLOR or not decode(content, job.name, request.max_pixels, request.profile).was_color:
        return found.action, found.reason, job.output
    if choice is ColorPhotos.SKIP:
        return Action.SKIP, choice.note, None
    refusal = _refusal_of_copy(request, job, target, journal) if job.copy else ""
    return Action.FAIL if refusal else found.action, refusal or choice.note, job.copy or job.output


def _refusal_of_copy(request: FolderRequest, job: Job, target: Storage, journal: Journal) -> str:
    """Return why a photo cannot be copied to its name, empty if it can."""
    row, there = journal.find(job.copy), target.status(job.copy)
    if row and row.name != job.name and not request.overwrite:
        return made_from(job.copy, row)
    allowed = replaceable_contents(row, request.overwrite)
    if there is None or allowed is None or target.checksum(job.copy) in allowed:
        return ""
    return changed(job.copy) if row else occupied(job.copy)
