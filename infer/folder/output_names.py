"""Formats and names of outputs."""

from collections import Counter
from collections.abc import Collection
from pathlib import PurePath

from cgan.formats import READABLE_FORMATS
from infer.photo.formats import SAME, WRITE_FORMATS, PillowFormat
from infer.photo.refusals import SIGNATURE_SIZE, UnreadError, format_of, name_of, unidentified

FORMAT_SUFFIXES = {format_: f".{name}" for name, format_ in WRITE_FORMATS.items()}
EMPTY = "found nothing in it, expected a photo"
KEPT_FORMATS = frozenset({*FORMAT_SUFFIXES, PillowFormat.BMP})
"""Formats that are kept with --format same; photos in other formats become PNG."""

SAME_FORMATS = {
    suffix: PillowFormat(format_) if format_ in KEPT_FORMATS else PillowFormat.PNG
    for suffix, format_ in READABLE_FORMATS.items()
}
"""Formats of outputs with --format same, by the suffixes of photos."""


def suffix_of(name: str) -> str:
    """Return the suffix of a path with "/" as separator, in lower case, as `PurePath.suffix` at a tenth of its time."""
    dot = name.rfind(".")
    return name[dot:].lower() if name.rfind("/") + 1 < dot < len(name) - 1 else ""


def suffix_of_content(content: bytes) -> str:
    """Return the suffix of a photo without a name, by the first bytes of its content.

    Raises:
        UnreadError: they are of no format that is read.
    """
    found = format_of(content[:SIGNATURE_SIZE])
    for suffix in (*FORMAT_SUFFIXES.values(), *READABLE_FORMATS):
        if name_of(READABLE_FORMATS[suffix]) == found:
            return suffix
    raise UnreadError(unidentified(content[:SIGNATURE_SIZE], None) if content else EMPTY)


def with_suffix(name: str, suffix: str) -> str:
    """Return a path with another suffix in place of its own."""
    return name[: len(name) - len(suffix_of(name))] + suffix


def output_formats(format_: str) -> dict[str, PillowFormat]:
    """Return the formats of outputs by the suffixes of photos; `format_` is "same" or a key of WRITE_FORMATS."""
    return SAME_FORMATS if format_ == SAME else dict.fromkeys(SAME_FORMATS, WRITE_FORMATS[format_])


def output_format(name: str, format_: str) -> PillowFormat:
    """Return the format of a photo's output; `format_` is "same" or a key of WRITE_FORMATS."""
    if format_ != SAME:
        return WRITE_FORMATS[format_]
    return SAME_FORMATS[suffix_of(name)]


def output_names(names: list[str], format_: str, known: Collection[tuple[str, str]]) -> list[str]:
    """Return one output path per input path; all differ, also on file systems that ignore case."""
    wanted, formats = [], output_formats(format_)
    for name in names:
        suffix = suffix_of(name)
        format_written = formats[suffix]
        kept = READABLE_FORMATS[suffix] == format_written
        wanted.append(name if kept else with_suffix(name, FORMAT_SUFFIXES[format_written]))
    folded = list(map(_folded, wanted))
    counts = Counter(folded)
    # Outputs of earlier runs stay with their inputs, even if these are not among the names now.
    given = {name: output for name, output in known if _suits(output, name, formats)}
    owners: dict[str, str] = {}
    for name, output in known:
        owners.setdefault(_folded(output), name)
    keeps: dict[str, str] = {}  # the input that keeps its name, by the case-folded output
    for name, output, fold in zip(names, wanted, folded, strict=True):
        if output == name and owners.get(fold, name) == name:
            keeps.setdefault(fold, name)
    taken = set(keeps)
    outputs = []
    for name, output, fold in zip(names, wanted, folded, strict=True):
        earlier = given.get(name)
        if earlier == output and keeps.get(fold) == name:
            pass
        elif earlier is not None and _folded(earlier) not in taken:
            output, fold = earlier, _folded(earlier)
        elif owners.get(fold, name) != name or (keeps.get(fold) != name and (counts[fold] > 1 or fold in taken)):
            suffix = FORMAT_SUFFIXES.get(output_format(name, format_), PurePath(name).suffix)
            output = name + suffix
            number = 2
            while (fold := _folded(output)) in taken or counts[fold] or fold in owners:
                output = f"{name}.{number}{suffix}"
                number += 1
        taken.add(fold)
        outputs.append(output)
    return outputs


def _folded(name: str) -> str:
    """Return a name without differences of case; the same object where there are none, which saves memory."""
    folded = name.casefold()
    return name if folded == name else folded


def copy_name(name: str, output: str, format_: str) -> str:
    """Return the path of an unchanged copy: that of the output with the photo's own suffix; empty if it is the same.

    No output of another photo has this suffix, because it belongs to a format that is not written.
    """
    kept = READABLE_FORMATS[suffix_of(name)] == output_format(name, format_)
    return "" if kept else with_suffix(output, PurePath(name).suffix)


def _suits(output: str, name: str, formats: dict[str, PillowFormat]) -> bool:
    """Return True if an output of an earlier run has the format that this run writes; `formats` are by suffix."""
    suffix = suffix_of(name)
    suffix_there = suffix if output is name else suffix_of(output)
    return suffix in formats and READABLE_FORMATS.get(suffix_there) == formats[suffix]
