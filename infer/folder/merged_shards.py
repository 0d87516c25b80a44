"""Shards of an OUTPUT together: the sums of their reports, and which photos of INPUT their journals have as settled."""

import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from cgan.errors import UserError
from cgan.readers import FormatError, parse_json, typed_field
from cgan.text import json_text
from infer.folder.credentials import HIDDEN
from infer.folder.journal_files import journal_parts
from infer.folder.journal_row import BEGUN, DONE, FAILED, Row
from infer.folder.local_folder import LocalFolder
from infer.folder.open_storage import open_source
from infer.folder.options import ColoringOptions
from infer.folder.plan import make_plan
from infer.folder.remote import RemoteFolder
from infer.folder.report import REPORT_NAME, is_report
from infer.folder.request import copied_journal, unwritable, work_folder
from infer.folder.shard import Shard, shard_of
from infer.folder.shared_journal import is_in_use
from infer.folder.storage import Storage, numbered

COUNTS = ("photos", "done", "skipped", "failed", "color_photos", "not_begun", "other_files")
BY_NAME = ("failures", "notes", "passed_over")
"""Fields of a report that hold values by the names of photos."""

OF_SHARD = re.compile(r"report-[0-9]+-of-([0-9]+)\.json")
"""Names of the reports of shards; the group is the number of shards."""

COMPARED = (*ColoringOptions().recipe(), "format")
"""Options that change the outputs, and so should be those of all shards."""


@dataclass
class Merged:
    """What the reports and journals of shards tell of INPUT."""

    shards: int
    begun: set[int] = field(default_factory=set)
    """Numbers of the shards that have a journal."""
    without_report: list[int] = field(default_factory=list)
    """Numbers of the shards that have no report, because they never ended."""
    stopped: dict[int, str] = field(default_factory=dict)
    """Why a shard ended before its last photo, by number."""
    at_work: set[int] = field(default_factory=set)
    """Numbers of the unfinished shards that are running now."""
    last_runs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    """Sums over the last run of each shard."""
    by_name: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: {} for name in BY_NAME})
    inputs: set[str] = field(default_factory=set)
    models: dict[str, str] = field(default_factory=dict)
    """Names of the models that coloured the photos, by digest."""
    made_with: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Numbers of the shards by option and value, and by "model" and its name."""
    photos: int = 0
    """Number of photos in INPUT."""
    settled: int = 0
    """Number of those whose output is there, or that need none."""
    missing: list[str] = field(default_factory=list)
    """Photos of INPUT that no shard has settled, sorted."""
    gone: dict[str, str] = field(default_factory=dict)
    """Outputs that are recorded as done but no longer in OUTPUT, by photo."""
    left: set[int] = field(default_factory=set)
    """Numbers of the shards of these photos, missing and gone."""
    not_in_input: list[str] = field(default_factory=list)
    """Photos that were coloured but are not in INPUT, sorted."""

    def all_shards(self) -> list[Shard]:
        """Return all shards."""
        return [Shard(number, self.shards) for number in range(1, self.shards + 1)]

    @property
    def different(self) -> dict[str, dict[str, list[int]]]:
        """The part of `made_with` in which the shards differ."""
        return {name: found for name, found in self.made_with.items() if len(found) > 1}

    @property
    def unfinished(self) -> set[int]:
        """Numbers of the shards that have not ended, or have photos to do."""
        return {*self.without_report, *self.stopped, *self.left}

    @property
    def run_next(self) -> list[int]:
        """Numbers of the shards to run next, sorted."""
        return sorted(self.unfinished - self.at_work)


def read_reports(target: Storage) -> Merged:
    """Return the sums over the reports in an OUTPUT; INPUT is not known yet.

    Raises:
        UserError: there are no files of shards, those of different numbers of shards, or a report that was edited.
    """
    try:
        names, parts = _own_names(target), journal_parts(target, work_folder(target))
    except OSError as error:
        raise unwritable(target, error) from error
    counts = {int(found[1]) for name in names if (found := OF_SHARD.fullmatch(name))}
    counts |= {int(part.rpartition("-")[2]) for part in parts if part}
    if len(counts) != 1:
        shown = f"those of {' and of '.join(map(str, sorted(counts)))} shards" if counts else "none"
        raise UserError(
            f"{target}: looked for reports and journals of shards, found {shown}, expected those of one number; give "
            "the OUTPUT of runs with --shard, and move others away"
        )
    merged = Merged(counts.pop(), {int(part.split("-")[1]) for part in parts if part})
    for shard in merged.all_shards():
        name = numbered(REPORT_NAME, shard.part)
        try:
            content = target.fetch(name)
            content = content if isinstance(content, bytes) else content.read_bytes()
        except FileNotFoundError:
            merged.without_report.append(shard.number)
            continue
        if not is_report(content):
            raise UserError(f"{target}/{name}: found no report as a run wrote it; run shard {shard.text} again")
        try:
            _add(merged, shard, parse_json(content))
        except FormatError as error:
            raise UserError(f"{target}/{name}: {error}; run shard {shard.text} again") from error
    _find_at_work(merged, target)
    return merged


def _find_at_work(merged: Merged, target: Storage) -> None:
    """Note which of the unfinished shards are running.

    Raises:
        UserError: OUTPUT or a journal cannot be read.
    """
    try:
        for number in merged.unfinished & merged.begun - merged.at_work:
            if is_in_use(target, work_folder(target), Shard(number, merged.shards).part):
                merged.at_work.add(number)
    except OSError as error:
        raise unwritable(target, error) from error


def _own_names(target: Storage) -> list[str]:
    """Return the names of files at the top of an OUTPUT."""
    if isinstance(target, RemoteFolder):
        return target.names_in("")
    assert isinstance(target, LocalFolder)
    return [path.name for path in target.path.iterdir()] if target.path.is_dir() else []


def _add(merged: Merged, shard: Shard, report: dict[str, Any]) -> None:
    """Add the report of a shard.

    Raises:
        FormatError: a field is missing or has another type.
    """
    for name in COUNTS:
        merged.last_runs[name] += typed_field(report, name, int)
    for name in BY_NAME:
        merged.by_name[name] |= typed_field(report, name, dict)
    merged.inputs.add(typed_field(report, "input", str))
    made_with: dict[str, str] = {}
    if isinstance(model := report.get("model"), dict):
        digest, file = (typed_field(model, name, str) for name in ("digest", "file"))
        made_with["model"] = merged.models.setdefault(digest, f"{PurePath(file).name} {digest[:16]}")
    if isinstance(options := report.get("options"), dict):
        found = {name: options[name] for name in COMPARED if name in options}
        made_with |= {name: value if isinstance(value, str) else json_text(value) for name, value in found.items()}
    for name, value in made_with.items():
        merged.made_with.setdefault(name, {}).setdefault(value, []).append(shard.number)
    if report.get("stopped") is not None:
        merged.stopped[shard.number] = typed_field(report, "stopped", str)


def source_of(merged: Merged, given: Sequence[str]) -> Storage:
    """Return INPUT: as given, else that of the reports.

    Raises:
        UserError: it was not given, and the reports name several, or one that cannot be found by its name.
    """
    if given:
        return open_source(given)
    advice = "give it with --input"
    if len(merged.inputs) > 1:
        two = " and ".join(sorted(merged.inputs)[:2])
        raise UserError(f"found several INPUT in the reports, such as {two}, expected one; {advice}")
    (place,) = merged.inputs
    if HIDDEN in place:
        raise UserError(f"{place}: found no password of INPUT in the reports, which never hold one; {advice}")
    source = open_source([place])
    if source.place != place:
        raise UserError(f"{place}: found a relative path of INPUT in the reports, expected an absolute one; {advice}")
    if isinstance(source, LocalFolder) and not source.path.exists():
        raise UserError(f"{place}: found nothing there, expected the INPUT that the reports name; {advice}")
    return source


def compare(merged: Merged, source: Storage, target: Storage) -> None:
    """Compare INPUT with the journals: find the photos that are settled as they are now, and those that are not.

    Args:
        merged: sums over the reports, which this completes.
        source: INPUT.
        target: OUTPUT.

    Raises:
        UserError: INPUT or OUTPUT cannot be searched, or a journal cannot be read.
    """
    try:
        plan = make_plan(source, target)
    except OSError as error:
        raise UserError(f"{source}: cannot be searched ({error}); check the address and the access") from error
    try:
        there = target.all_names()
    except OSError as error:
        raise unwritable(target, error) from error
    merged.photos = len(plan.jobs)
    of_shard: list[dict[str, str]] = [{} for _ in range(merged.shards)]
    for job in plan.jobs:
        of_shard[shard_of(job.name, merged.shards) - 1][job.name] = job.identity
    failures = merged.by_name["failures"] = plan.unreadable | merged.by_name["failures"]
    for shard, photos in zip(merged.all_shards(), of_shard, strict=True):
        known = _known(shard, target, photos, there)
        failures.update((name, why) for name, why in known.failed.items() if name not in failures)
        merged.settled += len(known.settled - failures.keys())
        missing = photos.keys() - known.settled - known.gone.keys() - failures.keys()
        if missing or known.gone:
            merged.left.add(shard.number)
        merged.missing += missing
        merged.gone |= known.gone
        merged.not_in_input += known.not_in_input
    merged.missing.sort()
    merged.not_in_input.sort()
    _find_at_work(merged, target)


class _Known(NamedTuple):
    """What a shard's journal tells of INPUT as it is now."""

    settled: set[str]
    """Photos whose output is there, or that need none."""
    failed: dict[str, str]
    """Reasons by photo."""
    gone: dict[str, str]
    """Outputs that are gone, by photo."""
    not_in_input: set[str]
    """Photos that were coloured but are not in INPUT."""


def _known(shard: Shard, target: Storage, photos: Mapping[str, str], there: Collection[str]) -> _Known:
    """Return what a shard's journal tells; nothing if there is none.

    Args:
        shard: the shard.
        target: OUTPUT.
        photos: identities of the shard's photos, by name.
        there: names of the files in OUTPUT.
    """
    known = _Known(set(), {}, {}, set())
    try:
        with tempfile.TemporaryDirectory() as folder:
            journal = copied_journal(target, shard.part, Path(folder))
            if journal is None:
                return known
            with closing(journal):
                for output, row in journal.rows():
                    identity = photos.get(row.name)
                    if identity is None and row.state is DONE:
                        known.not_in_input.add(row.name)
                    if identity != row.identity or not _is_settled(output, row, target):
                        continue
                    if row.state is FAILED:
                        known.failed[row.name] = row.reason
                    # A file system that ignores case can list another one.
                    elif row.state is not DONE or output in there or target.status(output):
                        known.settled.add(row.name)
                    else:
                        known.gone[row.name] = output
    except OSError as error:
        raise unwritable(target, error) from error
    for names in (known.gone, known.failed):  # a photo can have outputs of several formats
        for name in known.settled & names.keys():
            del names[name]
    return known


def _is_settled(output: str, row: Row, target: Storage) -> bool:
    """Return True for a photo that is done or failed, or whose output was published before a kill."""
    if row.state is not BEGUN:
        return True
    return bool(row.publishing and target.status(output) and target.checksum(output) == row.publishing)
