"""`cgan-infer folder --dry-run`: what a run would do with each file, as far as its header tells."""

import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from cgan.errors import UserError
from infer.folder.console import Console
from infer.folder.journal import Journal, JournalError, journal_path
from infer.folder.local_folder import LocalFolder
from infer.folder.places import open_source, open_storage
from infer.folder.plan import Job, changed, check_folders, judge, replaceable_contents
from infer.folder.report import ReportFile
from infer.folder.request import (
    FolderRequest,
    check_options,
    opened_journal,
    opened_model,
    plan_of,
    recipe_of,
    unwritable,
    work_folder,
)
from infer.folder.storage import Storage
from infer.photo.decode import PhotoError, pixels_of, reason_of, use_own_pixel_limit


def show_plan(request: FolderRequest, console: Console) -> int:
    """Say what a run would do with each file, and write nothing; the command's exit code.

    Raises:
        UserError: the request cannot be met.
    """
    use_own_pixel_limit()
    source, target = open_source(request.source), open_storage(request.target)
    check_folders(source, target)
    _check_reachable(target)
    verdicts = {"do": 0, "skip": 0, "fail": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = journal_path(target.identity, work_folder(target))
        journal = opened_journal(_copied(path, Path(folder)), target, path)
        with closing(journal), opened_model(request, 0) as backend:
            check_options(request, backend)
            recipe = recipe_of(backend, request)
            plan = plan_of(request, source, target, journal)
            ReportFile(target, request.report, request.overwrite).check(plan, source)
            for job in plan.jobs:
                verdict, reason = _verdict(request, job, source, target, journal, recipe)
                verdicts[verdict] += 1
                _tell(console, job.name, job.output, verdict, reason)
    for name, problem in plan.unreadable.items():
        verdicts["fail"] += 1
        _tell(console, name, None, "fail", problem)
    for name, problem in plan.passed_over.items():
        console.log("passed over", True, name=name, reason=problem)
        console.note(f"pass {name}  ({problem})")
    console.note(f"to do {verdicts['do']}, to skip {verdicts['skip']}, would fail {verdicts['fail']}; nothing written")
    return 1 if verdicts["fail"] else 0


def _tell(console: Console, name: str, output: str | None, verdict: str, reason: str) -> None:
    fails = verdict == "fail"
    console.log("plan", not fails, name=name, output=output, verdict=verdict, reason=reason)
    say = console.fail if fails else console.note
    say(f"{verdict:<4} {name}{(output and f' -> {output}') or ''}{reason and f'  ({reason})'}")


def _check_reachable(target: Storage) -> None:
    """Check, as far as can be seen, that OUTPUT can be made where it is to be.

    Raises:
        UserError: it cannot.
    """
    if not isinstance(target, LocalFolder):
        return
    path = target.path.absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "no permission to write to it" if there.is_dir() else "a file and no folder"
        raise UserError(f"{target}: cannot be written ({there}: found {why}); choose another OUTPUT")


def _verdict(
    request: FolderRequest, job: Job, source: Storage, target: Storage, journal: Journal, recipe: str
) -> tuple[str, str]:
    """What a run does with a job, and why: "do", "skip" or "fail"."""
    overwrite = request.overwrite
    try:
        checksum = source.checksum(job.name) if request.checksum else ""
        found = judge(job, checksum, journal, target, recipe=recipe, root=source.identity, overwrite=overwrite)
        allowed = replaceable_contents(found.row, overwrite)
        if (
            found.verdict == "do"
            and found.there
            and allowed is not None
            and (found.content or target.checksum(job.output)) not in allowed
        ):
            return "fail", changed(job.output)
        if found.verdict == "do" and not source.waits:  # of a store the whole file would have to be fetched
            pixels_of(source.fetch(job.name), job.name, request.max_pixels)
    except JournalError as error:
        raise unwritable(target, error) from error
    except (PhotoError, OSError) as error:
        return "fail", reason_of(error)
    return found.verdict, found.reason


def _copied(journal: Path, folder: Path) -> Path | None:
    """A copy of a journal that can be looked at, None where there is none."""
    if not journal.exists():
        return None
    for path in (journal, journal.with_name(journal.name + "-wal")):
        if path.exists():
            shutil.copyfile(path, folder / path.name)
    return folder / journal.name
