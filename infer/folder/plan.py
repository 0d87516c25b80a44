"""Which input goes to which output: the plan that is made before a run begins."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import PurePath

from cgan.errors import UserError
from cgan.files import OccupiedError
from cgan.formats import PHOTO_FORMATS
from infer.folder.journal import BEGUN, DONE, FAILED, Journal, Row
from infer.folder.local_folder import LocalFile, LocalFolder
from infer.folder.storage import WORK_FOLDER, Entry, Status, Storage, is_below
from infer.photo.decode import WRITE_FORMATS

FORMAT_SUFFIXES = {format_: f".{name}" for name, format_ in WRITE_FORMATS.items()}
KEPT_FORMATS = frozenset({*FORMAT_SUFFIXES, "BMP"})
"""Formats that hold colour and are written; photos in others become PNG."""

NOT_READ = frozenset(
    {
        *(".apng", ".avif", ".dcm", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jpx", ".jxl"),
        *(".jxr", ".mpo", ".pcx", ".psd", ".svg", ".tga"),
        *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
    }
)
"""Suffixes of pictures that are not read; a report that left them out would look complete."""


@dataclass(frozen=True, slots=True)
class Job:
    """One photo to colour."""

    name: str
    """Path below INPUT."""
    output: str
    """Path below OUTPUT."""
    format: str
    """Pillow's name of the output format."""
    identity: str
    """Size and version of the input when it was found."""


@dataclass(frozen=True)
class Plan:
    """All jobs of a run, and what was passed over while they were found."""

    jobs: tuple[Job, ...]
    passed_over: dict[str, str]
    """Paths that are not inputs, with the reason: links to folders, FIFOs, links that lead nowhere."""
    unreadable: dict[str, str]
    """Folders that could not be searched, and photos that no output can be named after, with the reason."""
    other_files: int
    """Files whose names are not those of photos, hidden files included."""


def make_plan(
    source: Storage,
    target: Storage,
    format_: str = "same",
    known: Collection[tuple[str, str]] = (),
    choose: Callable[[Entry], bool] | None = None,
) -> Plan:
    """Find the photos below `source` and give each an output of its own below `target`.

    Paths are mirrored. A photo whose format is kept keeps its name; otherwise the suffix changes, or is
    added where two photos would meet in one output.

    Args:
        source: photos, searched recursively.
        target: the outputs; never searched, though it may lie inside `source`.
        format_: "same" or a key of WRITE_FORMATS.
        known: inputs and outputs of earlier runs, which stay together.
        choose: which files to take for now; all when None, and then there have to be photos.

    Raises:
        UserError: `source` is not there, the two folders would overwrite inputs, or there are no photos.
        OSError: a store that cannot be searched.
    """
    check_folders(source, target)
    found: dict[str, str] = {}
    passed_over: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    other_files = 0
    for entry in source.walk(target):
        path = PurePath(entry.name)
        if entry.unreadable:
            unreadable[entry.name] = str(entry.problem)
        elif entry.status is None:
            passed_over[entry.name] = str(entry.problem)
        elif path.suffix.lower() in NOT_READ and not path.name.startswith("."):
            passed_over[entry.name] = f"a picture in {path.suffix.lower()[1:].upper()}, which is not read; convert it"
        elif path.suffix.lower() not in PHOTO_FORMATS or path.name.startswith(".") or path.parts[0] == WORK_FOLDER:
            other_files += 1
        elif not is_below(entry.name, anywhere=not isinstance(source, LocalFolder)):
            unreadable[entry.name] = "its name leads out of the folder, so its output would too; rename it"
        elif choose is None or choose(entry):
            found[entry.name] = identity_of(entry.status)
    if choose is None and unreadable and not found:
        raise UserError(f"{source}: cannot be searched ({next(iter(unreadable.values()))}); give permission to read it")
    if choose is None and not found:
        where = "expected a photo" if isinstance(source, LocalFile) else "found no photos in it or below it"
        raise UserError(f"{source}: {where} ({', '.join(PHOTO_FORMATS)})")
    names = sorted(found)
    jobs = tuple(
        Job(name, output, _output_format(name, format_), found[name])
        for name, output in zip(names, _output_names(names, format_, known), strict=True)
    )
    _refuse_overwriting_inputs(jobs, source, target)
    return Plan(jobs, passed_over, unreadable, other_files)


def identity_of(status: Status) -> str:
    """What tells a version of an input from another without reading it."""
    return f"{status.size}:{status.version}"


@dataclass(frozen=True)
class Judgement:
    """What a run has to do with a job, and what it found at its output."""

    verdict: str
    """"do", "skip" or "fail"."""
    reason: str
    row: Row | None
    there: Status | None
    content: str
    """SHA-256 of the file there, empty where it was not read."""


def judge(
    job: Job, checksum: str, journal: Journal, target: Storage, *, recipe: str, root: str, overwrite: bool
) -> Judgement:
    """Look at a job's output and decide what a run has to do; `checksum` is its photo's, other arguments as of `check`.

    Raises:
        JournalError: the journal cannot be read.
        OSError: the output cannot be looked at.
    """
    row, there = journal.find(job.output), target.status(job.output)
    content = target.checksum(job.output) if content_decides(row, there) else ""
    same = row is not None and row.is_of(job.identity, checksum)
    return Judgement(*check(job, row, there, content, same, recipe, root, overwrite), row, there, content)


def check(
    job: Job, row: Row | None, there: Status | None, content: str, same: bool, recipe: str, root: str, overwrite: bool
) -> tuple[str, str]:
    """Decide what a run has to do with a job.

    Args:
        job: the photo.
        row: what the journal knows of its output.
        there: the file at its output, None where there is none.
        content: SHA-256 of that file where `content_decides`, else empty.
        same: whether the row speaks of the input as it is now.
        recipe: digest of the model and the options that change the picture.
        root: the INPUT folder.
        overwrite: whether any output is made again.

    Returns:
        "do", "skip" or "fail", and why.
    """
    if overwrite:
        return "do", "--overwrite"
    if there is None:
        return "do", "no output yet" if row is None or row.state != DONE else "its output is gone"
    if row is None:
        return "fail", occupied(job.output)
    if row.name != job.name:
        return "fail", f"{job.output} was made from {row.name}; {ADVICE}"
    current = same and row.recipe == recipe
    if not there.regular and not (current and row.state == DONE and there.size == row.size):
        return "fail", f"{job.output} is a link or no file; {ADVICE}"
    if row.state == BEGUN:
        if there.size and not known_contents(row):
            return "do", "not known to be finished"  # whose output is left if it is equal
        if content and content == row.publishing and current:
            return "skip", ""  # a kill came before its note
        if content and content not in known_contents(row):
            return "fail", occupied(job.output)
        return "do", "not finished"
    if there.size == 0:  # after a power cut, on some file systems
        return "do", "its output is empty"
    if there.size != row.size:
        return "fail", changed(job.output) if row.size else occupied(job.output)
    if current and row.state == DONE:
        return "skip", ""
    if not known_contents(row):
        return "fail", f"{job.output} was made by an earlier version, which did not note its digest; {ADVICE}"
    if row.state == FAILED:
        return "do", "failed before"
    if same:
        return "do", "another model or other options"
    if row.root != root:
        return "fail", f"{job.output} was made from another photo of this name, in {row.root}; {ADVICE}"
    return "do", "the photo changed"


ADVICE = "move it away or choose another OUTPUT, or replace it with --overwrite"
EMPTY = hashlib.sha256().hexdigest()


def occupied(output: str) -> str:
    """The reason where a file of somebody else lies at an output."""
    return f"{output} is there and no run wrote it; {ADVICE}"


def refused(output: str, error: OccupiedError) -> str:
    """The reason where something appeared at an output, or was changed, while the photo was coloured."""
    return f"{error.strerror} ({output}), which no run wrote as it is now; {ADVICE}"


def changed(output: str) -> str:
    """The reason where an output is no longer what a run wrote."""
    return f"{output} was changed since it was written; {ADVICE}"


def content_decides(row: Row | None, there: Status | None) -> bool:
    """Return True if `check` needs the digest of the file at an output: a kill came between its note and its end."""
    return row is not None and row.state == BEGUN and there is not None and there.regular and there.size > 0


def known_contents(row: Row | None) -> frozenset[str]:
    """SHA-256 of the contents at an output that a run put there, so that they may be replaced."""
    return frozenset({row.digest, row.publishing} - {""}) if row else frozenset()


def replaceable_contents(row: Row | None, overwrite: bool) -> frozenset[str] | None:
    """What an output may replace, as of `Storage.publish`."""
    if overwrite:
        return None
    return known_contents(row) | {EMPTY} if row else frozenset()


def check_folders(source: Storage, target: Storage) -> None:
    """Refuse an INPUT that is not there, and an OUTPUT that is no folder or could overwrite the inputs.

    Raises:
        UserError: see above.
    """
    if not target.writable:
        raise UserError(f"{target}: found an archive, expected a folder for the outputs; name one, and pack it later")
    if isinstance(source, LocalFolder) and not source.path.is_dir():
        if source.path.exists():
            raise UserError(f"{source}: found something else, expected a photo or a folder of photos")
        raise UserError(f"{source}: found nothing there, expected a photo or a folder of photos")
    if isinstance(target, LocalFolder) and target.path.exists() and not target.path.is_dir():
        raise UserError(f"{target}: found a file, expected a folder for the outputs")
    if isinstance(source, LocalFile) and _names_a_photo(target):
        raise UserError(f"{target}: found the name of a photo, expected a folder for the output; name its folder")
    # Of a single file only its own output could overwrite it, which the plan refuses.
    if type(source) is type(target) and PurePath(source.identity).is_relative_to(target.identity):
        raise UserError(f"{target}: outputs there could overwrite the inputs in {source}; choose another OUTPUT")


def check_apart(source: Storage, target: Storage) -> None:
    """Refuse an OUTPUT that is INPUT under another name, or lies in it or around it: a server has several names.

    Nothing is asked of two folders of this machine, whose paths tell it.

    Raises:
        UserError: see above.
        OSError: OUTPUT cannot be written to.
    """
    if not source.writable or (isinstance(source, LocalFolder) and isinstance(target, LocalFolder)):
        return
    if type(source) is type(target) and f"{target.identity}/".startswith(f"{source.identity}/"):
        return  # under the same name, so it is left out of the search
    with target.probe() as probe:
        seen = source.sees(probe)
    if seen:
        raise UserError(
            f"{target}: found in {source} or around it under another name, so outputs could overwrite inputs or be "
            "taken for them; choose another OUTPUT"
        )


def _names_a_photo(target: Storage) -> bool:
    return isinstance(target, LocalFolder) and not target.path.exists() and target.path.suffix.lower() in PHOTO_FORMATS


def _refuse_overwriting_inputs(jobs: tuple[Job, ...], source: Storage, target: Storage) -> None:
    """Links can make an output the same file as an input, whatever the two are called."""
    if not (isinstance(source, LocalFolder) and isinstance(target, LocalFolder)):
        return
    outputs = {found: job for job in jobs if (found := _file(target, job.output))}
    if outputs and (job := next((outputs[f] for j in jobs if (f := _file(source, j.name)) in outputs), None)):
        raise UserError(f"{target.path / job.output}: this output is one of the input files; choose another OUTPUT")


def _file(folder: LocalFolder, name: str) -> tuple[int, int] | None:
    try:
        status = (folder.path / name).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _output_format(name: str, format_: str) -> str:
    if format_ != "same":
        return WRITE_FORMATS[format_]
    found = PHOTO_FORMATS[PurePath(name).suffix.lower()]
    return found if found in KEPT_FORMATS else "PNG"


def _output_names(names: list[str], format_: str, known: Collection[tuple[str, str]]) -> list[str]:
    """One output path for each input path, all different, also where case does not distinguish files."""
    wanted = []
    for name in names:
        output_format = _output_format(name, format_)
        kept = PHOTO_FORMATS[PurePath(name).suffix.lower()] == output_format
        wanted.append(name if kept else str(PurePath(name).with_suffix(FORMAT_SUFFIXES[output_format])))
    counts = Counter(output.casefold() for output in wanted)
    # Outputs that earlier runs gave away stay with their inputs, also while those are not among the names.
    given = {name: output for name, output in known if _suits(output, name, format_)}
    owners: dict[str, str] = {}
    for name, output in known:
        owners.setdefault(output.casefold(), name)
    keeps: dict[str, str] = {}  # the one input that keeps its name, by the output where case does not count
    for name, output in zip(names, wanted, strict=True):
        if output == name and owners.get(output.casefold(), name) == name:
            keeps.setdefault(output.casefold(), name)
    taken = set(keeps)
    outputs = []
    for name, output in zip(names, wanted, strict=True):
        if name in given and given[name].casefold() not in taken:
            output = given[name]
        elif owners.get(output.casefold(), name) != name or (
            keeps.get(output.casefold()) != name and (counts[output.casefold()] > 1 or output.casefold() in taken)
        ):
            suffix = FORMAT_SUFFIXES.get(_output_format(name, format_), PurePath(name).suffix)
            output = name + suffix
            number = 2
            while output.casefold() in taken or counts[output.casefold()] or output.casefold() in owners:
                output = f"{name}.{number}{suffix}"
                number += 1
        taken.add(output.casefold())
        outputs.append(output)
    return outputs


def _suits(output: str, name: str, format_: str) -> bool:
    """Whether an output that an earlier run named has the format that this run writes."""
    if PurePath(name).suffix.lower() not in PHOTO_FORMATS:
        return False
    return PHOTO_FORMATS.get(PurePath(output).suffix.lower()) == _output_format(name, format_)
