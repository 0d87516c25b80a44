"""Which input goes to which output: the plan that is made before a run begins."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cgan.spec import PHOTO_FORMATS, UserError
from infer.images import WRITE_FORMATS

WORK_FOLDER = ".cgan"
"""Folder in OUTPUT for files that are not whole yet."""

FORMAT_SUFFIXES = {format_: f".{name}" for name, format_ in WRITE_FORMATS.items()}
KEPT_FORMATS = frozenset({*FORMAT_SUFFIXES, "BMP"})
"""Formats that hold colour and are written; photos in others become PNG."""


@dataclass(frozen=True)
class Job:
    """One photo to colour."""

    name: str
    """Path below INPUT, for reports."""
    source: Path
    target: Path
    format: str
    """Pillow's name of the output format."""


@dataclass(frozen=True)
class Plan:
    """All jobs of a run, and what was passed over while they were found."""

    jobs: tuple[Job, ...]
    passed_over: dict[str, str]
    """Paths that are not inputs, with the reason: links to folders, FIFOs, links that lead nowhere."""
    unreadable: dict[str, str]
    """Folders that could not be searched, with the reason: photos in them are missing from the run."""
    other_files: int
    """Files whose names are not those of photos, hidden files included."""


def make_plan(source: Path, target: Path, format_: str = "same") -> Plan:
    """Find the photos below `source` and give each an output of its own below `target`.

    Paths are mirrored. A photo whose format is kept keeps its name; otherwise the suffix changes, or is
    added where two photos would meet in one output.

    Args:
        source: folder of photos, searched recursively.
        target: folder for the outputs; never searched, though it may lie inside `source`.
        format_: "same" or a key of WRITE_FORMATS.

    Raises:
        UserError: `source` is no folder, the two folders would overwrite inputs, or there are no photos.
    """
    if not source.is_dir():
        if source.exists():
            raise UserError(f"{source}: found a file, expected a folder of photos")
        raise UserError(f"{source}: found no such folder, expected one that holds photos")
    real_source, real_target = source.resolve(), target.resolve()
    if real_source.is_relative_to(real_target):
        raise UserError(f"{target}: outputs there could overwrite the inputs in {source}; choose another OUTPUT")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: found a file, expected a folder for the outputs")
    names: list[str] = []
    passed_over: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    other_files = 0
    for path, problem in _walk(real_source, real_target, unreadable):
        name = os.path.relpath(path, real_source)
        if problem:
            passed_over[name] = problem
        elif path.suffix.lower() in PHOTO_FORMATS and not path.name.startswith("."):
            names.append(name)
        else:
            other_files += 1
    if unreadable and not names:
        raise UserError(f"{source}: cannot be searched ({next(iter(unreadable.values()))}); give permission to read it")
    if not names:
        raise UserError(f"{source}: found no photos in it or below it ({', '.join(PHOTO_FORMATS)})")
    names.sort()
    jobs = []
    for name, output in zip(names, _output_names(names, format_), strict=True):
        jobs.append(Job(name, source / name, target / output, _output_format(name, format_)))
    _refuse_overwriting_inputs(jobs)
    return Plan(tuple(jobs), passed_over, unreadable, other_files)


def _refuse_overwriting_inputs(jobs: list[Job]) -> None:
    """Links can make an output the same file as an input, whatever the two are called."""
    inputs = {_identity(job.source) for job in jobs}
    for job in jobs:
        identity = _identity(job.target)
        if identity and identity in inputs:
            raise UserError(f"{job.target}: this output is one of the input files; choose another OUTPUT")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _output_format(name: str, format_: str) -> str:
    if format_ != "same":
        return WRITE_FORMATS[format_]
    found = PHOTO_FORMATS[Path(name).suffix.lower()]
    return found if found in KEPT_FORMATS else "PNG"


def _output_names(names: list[str], format_: str) -> list[str]:
    """One output path for each input path, all different, also where case does not distinguish files."""
    wanted = []
    for name in names:
        kept = PHOTO_FORMATS[Path(name).suffix.lower()] == _output_format(name, format_)
        wanted.append(name if kept else str(Path(name).with_suffix(FORMAT_SUFFIXES[_output_format(name, format_)])))
    counts = Counter(output.casefold() for output in wanted)
    taken = {output.casefold() for output, name in zip(wanted, names, strict=True) if output == name}
    outputs = []
    for name, output in zip(names, wanted, strict=True):
        if output != name and (counts[output.casefold()] > 1 or output.casefold() in taken):
            suffix = FORMAT_SUFFIXES[_output_format(name, format_)]
            output = name + suffix
            number = 2
            while output.casefold() in taken or counts[output.casefold()]:
                output = f"{name}.{number}{suffix}"
                number += 1
        taken.add(output.casefold())
        outputs.append(output)
    return outputs


def _walk(source: Path, target: Path, unreadable: dict[str, str]) -> Iterator[tuple[Path, str | None]]:
    """Files below source, and what is not followed or not a file, each with the reason; fills in `unreadable`."""
    folders = [source]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            unreadable[os.path.relpath(folder, source)] = f"folder cannot be read: {error.strerror}"
            continue
        for entry in entries:
            path = Path(entry.path)
            if path == target:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            else:
                yield path, _problem(path)


def _problem(path: Path) -> str | None:
    """Why a path is not followed as an input, or None."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"link leads nowhere: {error.strerror}" if path.is_symlink() else str(error.strerror)
    if stat.S_ISDIR(mode):
        return "link to a folder, not followed"
    if not stat.S_ISREG(mode):
        return "not a regular file"
    return None
