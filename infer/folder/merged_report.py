"""`cgan-infer merge-reports`: sums over the reports of shards, photos that none has settled, outputs that are gone."""

import hashlib
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgan.documents import check_document, json_with, write_document
from cgan.errors import UserError, cannot_write
from cgan.files import json_sha256
from cgan.readers import FormatError, parse_json, typed_field
from cgan.text import counted, json_text
from infer.folder.console import Console
from infer.folder.journal_files import journal_parts
from infer.folder.journal_row import BEGUN, DONE, Row
from infer.folder.local_folder import LocalFolder
from infer.folder.open_storage import open_source, open_storage
from infer.folder.plan import make_plan
from infer.folder.remote import RemoteFolder
from infer.folder.report import REPORT_NAME, SEAL, is_report
from infer.folder.request import copied_journal, unwritable, work_folder
from infer.folder.shard import Shard, shard_of
from infer.folder.storage import Storage, numbered

MERGED_NAME = "report-merged.json"
MERGED_KEYS = frozenset({"shards", "missing", SEAL})
"""Keys that no other JSON file of this project has."""
COUNTS = ("photos", "done", "skipped", "failed", "color_photos", "not_begun", "other_files")
BY_NAME = ("failures", "notes", "passed_over")
"""Fields of a report that hold values by the names of photos."""

OF_SHARD = re.compile(r"report-[0-9]+-of-([0-9]+)\.json")
"""Names of the reports of shards; the group is the number of shards."""

SHOWN_SHARDS = 5
"""Largest number of shards that a message names."""


@dataclass
class Merged:
    """Sums over the reports of shards."""

    shards: int
    without_report: list[int] = field(default_factory=list)
    """Numbers of the shards that have no report, because they never ended."""
    stopped: dict[int, str] = field(default_factory=dict)
    """Why a shard ended before its last photo, by number."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    by_name: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: {} for name in BY_NAME})
    inputs: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    """Digests of the models that coloured the photos."""
    missing: list[str] = field(default_factory=list)
    """Photos that no shard has settled, sorted."""
    gone: dict[str, str] = field(default_factory=dict)
    """Outputs that are recorded as done but no longer in OUTPUT, by photo."""

    def all_shards(self) -> list[Shard]:
        """Return all shards."""
        return [Shard(number, self.shards) for number in range(1, self.shards + 1)]


def merge_reports(output: str, sources: Sequence[str], console: Console) -> int:
    """Merge the reports of the shards of an OUTPUT into report-merged.json there, print the sums, return the exit code.

    Args:
        output: OUTPUT, a path or an fsspec URL.
        sources: INPUT; empty for that of the reports.
        console: for messages.

    Raises:
        UserError: OUTPUT has no reports of shards, or INPUT is unknown or cannot be searched.
    """
    target = open_storage(output)
    merged = merge(target, sources)
    values = {
        "shards": merged.shards,
        **merged.counts,
        "missing": merged.missing,
        "gone": merged.gone,
        "without_report": merged.without_report,
        "stopped": {str(number): why for number, why in merged.stopped.items()},
        **merged.by_name,
        "input": sorted(merged.inputs),
        "output": str(target),
    }
    _write(target, (json_text({**values, SEAL: json_sha256(values)}, indent=2) + "\n").encode())
    console.failures(merged.by_name["failures"], f"{target}/{MERGED_NAME}")
    for number in merged.without_report:
        console.warn(f"shard {number}/{merged.shards}: no report; run it again")
    for number, why in merged.stopped.items():
        console.warn(f"shard {number}/{merged.shards}: stopped: {why}; run it again")
    if len(merged.models) > 1:
        console.warn(f"note: {len(merged.models)} models coloured the photos; the reports of the shards name them")
    if merged.missing:
        console.warn(f"missing: {_some(merged.missing)}")
    if merged.gone:
        shards = sorted({shard_of(name, merged.shards) for name in merged.gone})
        console.warn(
            f"gone: {_some(list(merged.gone.values()))}, recorded as done but no longer in {target}; to make them "
            f"again, give {_some([f'--shard {number}/{merged.shards}' for number in shards], SHOWN_SHARDS)} again"
        )
    found = {name: merged.counts[name] for name in ("done", "skipped", "failed")}
    found |= {"missing": len(merged.missing)} | ({"gone": len(merged.gone)} if merged.gone else {})
    console.note(f"{counted(merged.shards, 'shard')}: " + "  ".join(f"{name} {count}" for name, count in found.items()))
    console.note(f"report    {target}/{MERGED_NAME}")
    return int(
        bool(merged.missing or merged.gone or merged.counts["failed"] or merged.without_report or merged.stopped)
    )


def _some(names: Sequence[str], most: int = 1) -> str:
    """Return the first names and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def merge(target: Storage, source: Sequence[str] | Storage) -> Merged:
    """Return the sums over the reports in an OUTPUT; `source` is INPUT. Errors are those of `merge_reports`."""
    merged = _read(target)
    places = source if isinstance(source, Storage) else _source(merged, source)
    _compare(merged, places, target)
    return merged


def _read(target: Storage) -> Merged:
    """Return the sums over the reports in an OUTPUT; missing photos and outputs are not known yet.

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
    merged = Merged(counts.pop())
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
    return merged


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
        merged.counts[name] += typed_field(report, name, int)
    for name in BY_NAME:
        merged.by_name[name] |= typed_field(report, name, dict)
    merged.inputs.add(typed_field(report, "input", str))
    if isinstance(model := report.get("model"), dict):
        merged.models.add(typed_field(model, "digest", str))
    if report.get("stopped") is not None:
        merged.stopped[shard.number] = typed_field(report, "stopped", str)


def _source(merged: Merged, given: Sequence[str]) -> Storage:
    """Return INPUT.

    Raises:
        UserError: it was not given, and the reports do not name one.
    """
    if given:
        return open_source(given)
    if len(merged.inputs) != 1:
        found = "several" if merged.inputs else "none"
        raise UserError(f"found {found} INPUT in the reports, expected one; give it with --input")
    (place,) = merged.inputs
    return open_source([place])


def _compare(merged: Merged, source: Storage, target: Storage) -> None:
    """Note the photos of INPUT that no shard has settled as they are now, and those whose outputs are gone.

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
    ended = {shard.number for shard in merged.all_shards()} - {*merged.without_report, *merged.stopped}
    of_shard: list[dict[str, str]] = [{} for _ in range(merged.shards)]
    for job in plan.jobs:
        of_shard[shard_of(job.name, merged.shards) - 1][job.name] = job.identity
    for shard, photos in zip(merged.all_shards(), of_shard, strict=True):
        known = _settled(shard, target, photos, there)
        if known is None and shard.number in ended:  # all of its photos failed, or it has none
            continue
        settled, gone = known or (set(), {})
        merged.gone |= gone
        merged.missing += photos.keys() - settled - gone.keys() - merged.by_name["failures"].keys()
    merged.missing.sort()


def _settled(
    shard: Shard, target: Storage, photos: Mapping[str, str], there: Collection[str]
) -> tuple[set[str], dict[str, str]] | None:
    """Return the photos that a shard's journal has as settled, as they are now.

    Args:
        shard: the shard.
        target: OUTPUT.
        photos: identities of the shard's photos, by name.
        there: names of the files in OUTPUT.

    Returns:
        The photos whose output is there or that need none, and the outputs that are gone, by photo; None without a
        journal.
    """
    settled, gone = set[str](), dict[str, str]()
    try:
        with tempfile.TemporaryDirectory() as folder:
            journal = copied_journal(target, shard.part, Path(folder))
            if journal is None:
                return None
            with closing(journal):
                for output, row in journal.rows():
                    if photos.get(row.name) != row.identity or not _is_settled(output, row, target):
                        continue
                    # A file system that ignores case can list another one.
                    if row.state is not DONE or output in there or target.status(output):
                        settled.add(row.name)
                    else:
                        gone[row.name] = output
    except OSError as error:
        raise unwritable(target, error) from error
    for name in settled & gone.keys():  # it has outputs of several formats
        del gone[name]
    return settled, gone


def _is_settled(output: str, row: Row, target: Storage) -> bool:
    """Return True for a photo that is done or failed, or whose output was published before a kill."""
    if row.state is not BEGUN:
        return True
    return bool(row.publishing and target.status(output) and target.checksum(output) == row.publishing)


def _write(target: Storage, content: bytes) -> None:
    """Write the merged report into OUTPUT; it replaces only an earlier one.

    Raises:
        UserError: another file has its name.
        GateError: it cannot be written.
    """
    is_own = json_with(MERGED_KEYS)
    if isinstance(target, LocalFolder):
        check_document(target.path / MERGED_NAME, is_own, "")
        write_document(target.path / MERGED_NAME, content, is_own)
        return
    try:
        earlier = target.fetch(MERGED_NAME)
        assert isinstance(earlier, bytes)
        if not is_own(earlier):
            raise UserError(f"{target}/{MERGED_NAME}: found a file that is no merged report; move it away")
        replaces = frozenset({hashlib.sha256(earlier).hexdigest()})
    except FileNotFoundError:
        replaces = frozenset()
    try:
        target.publish(MERGED_NAME, content, replaces)
    except OSError as error:
        raise cannot_write(f"{target}/{MERGED_NAME}", error) from error
