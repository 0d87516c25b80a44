"""The plan of a run: an output for each input, and the action that each job needs."""

import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePath
from typing import NamedTuple

from cgan.errors import UserError
from cgan.files import OccupiedError
from cgan.formats import READABLE_FORMATS
from infer.folder.journal import Journal
from infer.folder.journal_row import BEGUN, DONE, FAILED, LEFT, Row
from infer.folder.local_folder import LocalFiles, LocalFolder
from infer.folder.output_names import copy_name, output_formats, output_names, suffix_of
from infer.folder.shard import Shard
from infer.folder.storage import WORK_FOLDER, Entry, Status, Storage, is_below
from infer.photo.formats import SAME, PillowFormat

NOT_READ = frozenset(
    {
        *(".apng", ".dcm", ".eps", ".exr", ".hdr", ".ico"),
        *(".jxr", ".mpo", ".pcx", ".psd", ".svg", ".tga"),
        *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
    }
)
"""Suffixes of picture formats that are not supported. The report lists such files, so that it is complete."""


class Job(NamedTuple):
    """One photo to colour."""

    name: str
    """Path relative to INPUT."""
    output: str
    """Path relative to OUTPUT."""
    format: PillowFormat
    """Format of the output."""
    identity: str
    """Size and version of the input at the time of the search, see `identity_of`."""
    copy: str = ""
    """Path of an unchanged copy relative to OUTPUT, if it may be made and is not `output`."""

    @property
    def size(self) -> int:
        """Size of the input in bytes; 0 also where a store does not tell it."""
        return int(self.identity.partition(":")[0] or 0)


@dataclass(frozen=True)
class Plan:
    """All jobs of a run, and the files that the search passed over."""

    jobs: tuple[Job, ...]
    passed_over: dict[str, str]
    """Reasons by the paths of entries that are not inputs: links to folders, FIFOs, dangling links."""
    unreadable: dict[str, str]
    """Reasons by the paths of folders that could not be searched, and of photos whose names no output can have."""
    other_files: int
    """Number of files that are not photos, including hidden files."""


def make_plan(
    source: Storage,
    target: Storage,
    format_: str = SAME,
    known: Collection[tuple[str, str]] = (),
    choose: Callable[[Entry], bool] | None = None,
    copies: bool = False,
    shard: Shard | None = None,
) -> Plan:
    """Find the photos below `source` and assign each a unique output below `target`.

    Paths are mirrored. A photo whose format is kept keeps its name. Otherwise its suffix is replaced, or appended if
    two photos would have the same output.

    Args:
        source: INPUT, searched recursively.
        target: OUTPUT; not searched, even if it is inside `source`.
        format_: "same" or a key of WRITE_FORMATS.
        known: pairs of input and output of earlier runs, which are kept.
        choose: returns True for files to include; None includes all files and requires at least one photo.
        copies: name unchanged copies of photos too.
        shard: the photos and other files to keep; None keeps all. Names of outputs are those of a plan of all.

    Raises:
        UserError: `source` does not exist or has no photos, or outputs would overwrite inputs.
        OSError: a store cannot be searched.
    """
    check_folders(source, target)
    found: dict[str, str] = {}
    passed_over: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    other_files = 0
    from_elsewhere = not isinstance(source, LocalFolder)
    for entry in source.walk(target):
        suffix, is_hidden = suffix_of(entry.name), entry.name.rpartition("/")[2].startswith(".")
        is_ours = shard is None or shard.holds(entry.name)
        if entry.unreadable:
            unreadable[entry.name] = str(entry.problem)
        elif entry.status is None:
            passed_over[entry.name] = str(entry.problem)
        elif suffix in NOT_READ and not is_hidden:
            passed_over[entry.name] = not_read(entry.name)
        elif suffix not in READABLE_FORMATS or is_hidden or entry.name.startswith(f"{WORK_FOLDER}/"):
            other_files += is_ours
        elif not is_below(entry.name, anywhere=from_elsewhere):
            unreadable[entry.name] = "its name leads out of the folder, so its output would too; rename it"
        elif choose is None or choose(entry):
            found[entry.name] = identity_of(entry.status)
    if choose is None and unreadable and not found:
        raise UserError(f"{source}: cannot be searched ({next(iter(unreadable.values()))}); give permission to read it")
    if choose is None and not found:
        where = "expected a photo" if isinstance(source, LocalFiles) else "found no photos in it or below it"
        raise UserError(f"{source}: {where} ({', '.join(READABLE_FORMATS)})")
    jobs = _jobs(found, format_, known, copies)
    _refuse_overwriting_inputs(jobs, source, target)
    plan = Plan(jobs, passed_over, unreadable, other_files)
    return _part(plan, shard) if shard else plan


def _part(plan: Plan, shard: Shard) -> Plan:
    """Return the part of a plan that a shard holds."""
    passed_over, unreadable = (
        {name: reason for name, reason in reasons.items() if shard.holds(name)}
        for reasons in (plan.passed_over, plan.unreadable)
    )
    jobs = tuple(job for job in plan.jobs if shard.holds(job.name))
    return replace(plan, jobs=jobs, passed_over=passed_over, unreadable=unreadable)


def not_read(name: str) -> str:
    """Return why a file is not read, by its suffix; empty if it is read."""
    suffix = suffix_of(name)
    if suffix in NOT_READ:
        return f"a picture in {suffix[1:].upper()}, which is not read; convert it"
    return "" if suffix in READABLE_FORMATS else f"expected a photo ({', '.join(READABLE_FORMATS)})"


def _jobs(found: dict[str, str], format_: str, known: Collection[tuple[str, str]], copies: bool) -> tuple[Job, ...]:
    """Return the jobs of photos, given by name and identity; the other arguments are those of `make_plan`."""
    names, formats = sorted(found), output_formats(format_)
    return tuple(
        Job(
            name,
            output,
            formats[suffix_of(name)],
            found[name],
            copy_name(name, output, format_) if copies else "",
        )
        for name, output in zip(names, output_names(names, format_, known), strict=True)
    )


def identity_of(status: Status) -> str:
    """Return size and version of an input, which tell its versions apart without reading it."""
    return f"{status.size}:{status.version}"


class Action(StrEnum):
    """Action of a run on a job."""

    DO = "do"
    """Colour the photo and write its output."""
    SKIP = "skip"
    """Leave the output of an earlier run as it is."""
    FAIL = "fail"
    """Report a failure and write nothing."""


class Judgement(NamedTuple):
    """The action that a job needs, and the state of its output that decided it."""

    action: Action
    reason: str
    """Why; empty for a job that is skipped."""
    output: str
    """The output that was judged."""
    row: Row | None
    """Row of the output in the journal."""
    there: Status | None
    """The file at the output's name, None where there is none."""
    content: str
    """SHA-256 of that file, empty where it was not read."""


def judge(
    job: Job, checksum: str, journal: Journal, target: Storage, *, recipe: str, root: str, overwrite: bool
) -> Judgement:
    """Inspect the output of a job and decide the action that it needs.

    Args are those of `check`, and `checksum`: SHA-256 of the photo, empty without --checksum.

    Raises:
        JournalError: the journal cannot be read.
        OSError: the output cannot be inspected.
    """
    if job.copy and (row := journal.find(job.copy)) and row.name == job.name and not overwrite:
        copied = job._replace(output=job.copy, copy="")
        found = judge(copied, checksum, journal, target, recipe=recipe, root=root, overwrite=False)
        if found.action is Action.SKIP:
            return found
    row, there = journal.find(job.output), target.status(job.output)
    content = target.checksum(job.output) if content_decides(row, there) else ""
    same = row is not None and row.is_of(job.identity, checksum)
    verdict = check(job, row, there, content, same, recipe, root, overwrite)
    return Judgement(*verdict, job.output, row, there, content)


def check(
    job: Job, row: Row | None, there: Status | None, content: str, same: bool, recipe: str, root: str, overwrite: bool
) -> tuple[Action, str]:
    """Decide the action that a job needs.

    Args:
        job: the photo.
        row: row of the output in the journal, None if there is none.
        there: status of the file at the output's name, None if there is none.
        content: SHA-256 of that file if `content_decides`, else empty.
        same: whether the row describes the current version of the input.
        recipe: digest of the model and the options that change the picture.
        root: identity of INPUT.
        overwrite: value of --overwrite.

    Returns:
        The action, and why.
    """
    if overwrite:
        return Action.DO, "--overwrite"
    if row and row.state == LEFT and row.name == job.name and same and row.recipe == recipe:
        return Action.SKIP, row.reason
    if there is None:
        return Action.DO, "no output yet" if row is None or row.state != DONE else "its output is gone"
    if row is None:
        return Action.FAIL, occupied(job.output)
    if row.name != job.name:
        return Action.FAIL, made_from(job.output, row)
    current = same and row.recipe == recipe
    if not there.regular and not (current and row.state == DONE and there.size == row.size):
        return Action.FAIL, f"{job.output} is a link or no file; {ADVICE}"
    if row.state == BEGUN:
        if there.size and not row.publishing:
            # The process or machine that coloured it was lost. If the new output is equal, the file is left as it is.
            return (Action.DO, UNSURE) if current or row.digest else (Action.FAIL, of_a_lost_run(job.output))
        if content and content == row.publishing and current:
            return Action.SKIP, ""  # the run was killed before it noted the end
        if content and content not in known_contents(row):
            return Action.FAIL, occupied(job.output)
        return Action.DO, "not finished"
    if there.size == 0:  # after a power cut, on some file systems
        return Action.DO, "its output is empty"
    if there.size != row.size:
        return Action.FAIL, changed(job.output) if row.size else occupied(job.output)
    if current and row.state == DONE:
        return Action.SKIP, ""
    if not known_contents(row):
        return Action.FAIL, f"{job.output} was made by an earlier version, which did not note its digest; {ADVICE}"
    if row.state == FAILED:
        return Action.DO, "failed before"
    if same:
        return Action.DO, "another model or other options"
    if row.root != root:
        return Action.FAIL, f"{job.output} was made from another photo of this name, in {row.root}; {ADVICE}"
    return Action.DO, "the photo changed"


UNSURE = "not known to be finished"
ADVICE = "move it away or choose another OUTPUT, or replace it with --overwrite"
EMPTY = hashlib.sha256().hexdigest()


def occupied(output: str) -> str:
    """Return the reason for an output whose name belongs to a file that no run wrote."""
    return f"{output} is there and no run wrote it; {ADVICE}"


def made_from(output: str, row: Row) -> str:
    """Return the reason for an output that belongs to another photo."""
    return f"{output} was made from {row.name}; {ADVICE}"


def refused(output: str, error: OccupiedError) -> str:
    """Return the reason for an output that appeared or changed while its photo was coloured."""
    return f"{error.strerror} ({output}), which no run wrote as it is now; {ADVICE}"


def of_a_lost_run(output: str) -> str:
    """Return the reason for an output that a lost process may have made, with which no output of this run is equal."""
    return f"{output} may be of a run that was killed, with another model, other options or another photo; {ADVICE}"


def changed(output: str) -> str:
    """Return the reason for an output that was changed after a run wrote it."""
    return f"{output} was changed since it was written; {ADVICE}"


def content_decides(row: Row | None, there: Status | None) -> bool:
    """Return True if `check` needs the digest of the output: a run was killed between publishing and end."""
    is_publishing = row is not None and row.state == BEGUN and row.publishing != ""
    return is_publishing and there is not None and there.regular and there.size > 0


def known_contents(row: Row | None) -> frozenset[str]:
    """Return the SHA-256 digests of contents that runs wrote to an output and that may be replaced."""
    return frozenset({row.digest, row.publishing} - {""}) if row else frozenset()


def replaceable_contents(row: Row | None, overwrite: bool) -> frozenset[str] | None:
    """Return the contents that an output may replace, as for `Storage.publish`."""
    if overwrite:
        return None
    return known_contents(row) | {EMPTY} if row else frozenset()


def check_folders(source: Storage, target: Storage) -> None:
    """Check INPUT and OUTPUT before a run.

    Raises:
        UserError: INPUT does not exist, or OUTPUT is not a folder or could overwrite the inputs.
    """
    if not target.writable:
        raise UserError(
            f"{target}: found an archive, expected a folder for the outputs; choose a folder, and pack it later"
        )
    if isinstance(source, LocalFolder) and not source.path.is_dir():
        if source.path.exists():
            raise UserError(
                f"{source}: found something else, expected a photo or a folder of photos; choose another INPUT"
            )
        raise UserError(f"{source}: found nothing there, expected a photo or a folder of photos; choose another INPUT")
    if isinstance(target, LocalFolder) and target.path.exists() and not target.path.is_dir():
        raise UserError(f"{target}: found a file, expected a folder for the outputs; choose another OUTPUT")
    if isinstance(source, LocalFiles) and _names_a_photo(target):
        raise UserError(f"{target}: found the name of a photo, expected a folder for the output; name its folder")
    # A given file could be overwritten only by its own output, which `make_plan` refuses.
    folders = map(str, source.folders) if isinstance(source, LocalFiles) else [source.identity]
    same_kind = type(source) is type(target) or (isinstance(source, LocalFiles) and isinstance(target, LocalFolder))
    if same_kind and any(PurePath(folder).is_relative_to(target.identity) for folder in folders):
        raise UserError(f"{target}: outputs there could overwrite the inputs in {source}; choose another OUTPUT")


def check_apart(source: Storage, target: Storage) -> None:
    """Check with a probe that OUTPUT is not INPUT, inside it or around it under another name of the server.

    Two local folders are not probed; `check_folders` compares their paths.

    Raises:
        UserError: the folders overlap.
        OSError: OUTPUT cannot be written to.
    """
    if not source.writable or (isinstance(source, LocalFolder) and isinstance(target, LocalFolder)):
        return
    if type(source) is type(target) and f"{target.identity}/".startswith(f"{source.identity}/"):
        return  # the same name, so the search leaves it out
    with target.probe() as probe:
        seen = source.sees(probe)
    if seen:
        raise UserError(
            f"{target}: found in {source} or around it under another name, so outputs could overwrite inputs or be "
            "taken for them; choose another OUTPUT"
        )


def _names_a_photo(target: Storage) -> bool:
    return (
        isinstance(target, LocalFolder) and not target.path.exists() and target.path.suffix.lower() in READABLE_FORMATS
    )


def _refuse_overwriting_inputs(jobs: tuple[Job, ...], source: Storage, target: Storage) -> None:
    """Refuse outputs that are the same file as an input through links."""
    if not (isinstance(source, LocalFolder) and isinstance(target, LocalFolder)):
        return
    names = (name for job in jobs for name in (job.output, job.copy) if name)
    root, input_root = str(target.path), str(source.path)
    outputs = {found: name for name in names if (found := _file(root, name))}
    if outputs and (name := next((outputs[f] for job in jobs if (f := _file(input_root, job.name)) in outputs), None)):
        raise UserError(f"{target.path / name}: this output is one of the input files; choose another OUTPUT")


def _file(folder: str, name: str) -> tuple[int, int] | None:
    try:
        status = os.stat(f"{folder}/{name}")  # noqa: PTH116 (a Path takes as long again)
    except OSError:
        return None
    return status.st_dev, status.st_ino
