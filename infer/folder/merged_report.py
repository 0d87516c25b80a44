"""`cgan-infer merge-reports`: prints and writes what the shards of an OUTPUT have done together."""

import hashlib
from collections.abc import Sequence

from cgan.documents import check_document, json_with, write_document
from cgan.errors import UserError, cannot_write
from cgan.files import json_sha256
from cgan.text import counted, json_text
from infer.folder.console import Console
from infer.folder.local_folder import LocalFolder
from infer.folder.merged_shards import Merged, compare, read_reports, source_of
from infer.folder.open_storage import open_storage
from infer.folder.report import SEAL
from infer.folder.storage import Storage

MERGED_NAME = "report-merged.json"
MERGED_KEYS = frozenset({"shards", "missing", SEAL})
"""Keys that no other JSON file of this project has."""
SHOWN = 5
"""Largest number of photos or shards that a message names."""


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
    merged = read_reports(target)
    if not (sources or merged.inputs):
        _print_states(merged, console)
        raise UserError("found no report of a shard, so INPUT is unknown; give it with --input")
    source = source_of(merged, sources)
    compare(merged, source, target)
    failures = merged.by_name["failures"]
    values = {
        "shards": merged.shards,
        "photos": merged.photos,
        "settled": merged.settled,
        "failed": len(failures),
        "missing": merged.missing,
        "gone": merged.gone,
        "not_in_input": merged.not_in_input,
        "without_report": merged.without_report,
        "stopped": {str(number): why for number, why in merged.stopped.items()},
        "at_work": sorted(merged.at_work),
        "run_next": merged.run_next,
        "different": merged.different,
        "last_runs": merged.last_runs,
        **merged.by_name,
        "input": source.place,
        "output": str(target),
    }
    _write(target, (json_text({**values, SEAL: json_sha256(values)}, indent=2) + "\n").encode())
    console.failures(failures, f"{target}/{MERGED_NAME}")
    _print_states(merged, console)
    _print_names(merged, target, console)
    found = {"failed": len(failures), "gone": len(merged.gone), "missing": len(merged.missing)}
    console.note(
        f"{counted(merged.shards, 'shard')}: {merged.settled} of {counted(merged.photos, 'photo')} settled, "
        + ", ".join(f"{name} {count}" for name, count in found.items())
    )
    console.note(f"input     {source.place}")
    console.note(f"report    {target}/{MERGED_NAME}")
    return int(bool(failures or merged.unfinished))


def _print_states(merged: Merged, console: Console) -> None:
    """Print which shards have not ended, and those to run next."""
    for number in sorted(merged.at_work):
        console.warn(f"shard {number}/{merged.shards}: at work")
    for number in merged.without_report:
        if number not in merged.at_work:
            began = number in merged.begun
            console.warn(f"shard {number}/{merged.shards}: {'ended without a report' if began else 'has not begun'}")
    for number, why in merged.stopped.items():
        if number not in merged.at_work:
            console.warn(f"shard {number}/{merged.shards}: stopped: {why}")
    if numbers := merged.run_next:
        console.warn(f"run next: {_some([f'--shard {number}/{merged.shards}' for number in numbers])}")


def _print_names(merged: Merged, target: Storage, console: Console) -> None:
    """Print photos that are left, and differences that a user may not know of."""
    if merged.missing:
        console.warn(f"missing: {_some(merged.missing)}")
    if merged.gone:
        console.warn(f"gone: {_some([*merged.gone.values()])}, recorded as done but no longer in {target}")
    for option, values in merged.different.items():
        found = (
            f"{value} in shard{'s' * (len(numbers) > 1)} {_some([f'{number}/{merged.shards}' for number in numbers])}"
            for value, numbers in values.items()
        )
        console.warn(f"note: the shards differ in {option}: {'; '.join(found)}")
    if merged.not_in_input:
        were = "photo that was coloured is" if len(merged.not_in_input) == 1 else "photos that were coloured are"
        console.warn(f"note: {len(merged.not_in_input)} {were} not in INPUT: {_some(merged.not_in_input)}")


def _some(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others and where to find them."""
    more = f" and {len(names) - SHOWN} more (all are in {MERGED_NAME})" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


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
