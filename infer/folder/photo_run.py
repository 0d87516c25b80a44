"""Colouring of single photos: each output appears beside its photo or under a given name, and no journal is kept."""

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from cgan.cores import available_cores
from cgan.errors import UserError
from cgan.files import OccupiedError, atomic_path, read_regular
from cgan.formats import READABLE_FORMATS
from cgan.photo_limits import MAX_METADATA, MAX_PIXEL_BYTES, MAX_PIXELS, LimitError, check_file_size
from cgan.text import print_bytes
from infer.folder.console import Console, counts, stop_on_signal
from infer.folder.journal import Journal
from infer.folder.journal_row import DONE, Row
from infer.folder.local_folder import NEW_FILE, LocalFolder, entry_of
from infer.folder.open_storage import is_url
from infer.folder.options import Event, Outcome
from infer.folder.output_names import KEPT_FORMATS, output_format, output_names, suffix_of_content
from infer.folder.pipeline import Pipeline
from infer.folder.plan import Job, identity_of, not_read
from infer.folder.request import ColoringRequest, check_options, note_on_sidecar, opened_model
from infer.photo.decode import reason_of, use_own_pixel_limit
from infer.photo.formats import SAME, WRITE_FORMATS, ColorPhotos, PillowFormat
from infer.photo.mark import is_marked
from infer.photo.refusals import UnreadError

ADDED = "-color"
"""What the name of an output has more than that of its photo."""

STANDARD_INPUT = "standard input"

SHOWN_LINES = 20
"""Largest number of outputs that are printed."""


class _Beside(LocalFolder):
    """The folder of the photos. An unfinished output is beside its place, under a temporary name."""

    def prepare(self, marks: Collection[str] = (), is_own: Callable[[str], bool] = lambda sha256: False) -> None:
        """Do nothing: the folders are there."""

    def publish(
        self, name: str, content: bytes | memoryview, replaces: Collection[str] | None = (), mode: int = 0o666
    ) -> None:
        """Write to a temporary file, flush to disk, then rename; missing folders are not created."""
        with atomic_path(self.path / name, replaces) as temporary:
            descriptor = os.open(temporary, NEW_FILE, mode & 0o666 | stat.S_IRUSR)
            with open(descriptor, "wb") as file:  # noqa: PTH123
                file.write(content)


@dataclass
class _Photos:
    """The photos of a command."""

    jobs: list[Job] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons by the names of photos that are not begun."""
    passed_over: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, Row] = field(default_factory=dict)
    """Rows of files that outputs may replace, by output."""


def color_beside(request: ColoringRequest, names: list[str], console: Console) -> int:
    """Colour photos, each into a file beside it, and return the exit code.

    Args:
        request: model and options; `overwrite` replaces files that have cgan's mark.
        names: paths of the photos.
        console: for messages.

    Raises:
        UserError: the model or an option cannot be used.
    """
    photos = _Photos()
    found: dict[str, str] = {}
    for name in dict.fromkeys(name if is_url(name) else str(PurePath(name)) for name in names):
        entry = entry_of(name, Path(name))
        if is_url(name):
            photos.failed[name] = "found a URL, expected a file; write cgan-infer folder URL OUTPUT"
        elif entry.status is None:
            photos.failed[name] = str(entry.problem)
        elif problem := not_read(name):
            photos.failed[name] = problem
        elif PurePath(name).stem.endswith(ADDED) and _own(name):
            photos.passed_over[name] = "coloured by cgan already; to colour it again, rename it"
        else:
            found[name] = identity_of(entry.status)
    for name, output in zip(found, output_names(list(found), request.format, ()), strict=True):
        path = PurePath(output)
        output = str(path.with_name(f"{path.stem}{ADDED}{path.suffix}"))
        _add(photos, request, name, output, output_format(name, request.format), found[name])
    return _finish(photos, *_color(request, photos, Path(), console), console)


def is_for_one_photo(sources: Sequence[str], target: str) -> bool:
    """Return True if INPUT is one photo and OUTPUT the name of a file, not of a folder."""
    return (
        len(sources) == 1
        and not any(map(is_url, (*sources, target)))
        and Path(sources[0]).is_file()
        and not (target.endswith("/") or Path(target).is_dir())
        and PurePath(target).suffix.lower() in READABLE_FORMATS
    )


def color_one(request: ColoringRequest, name: str, output: str, console: Console) -> int:
    """Colour one photo into a file of any name, whose suffix gives the format, and return the exit code.

    Raises:
        UserError: the output cannot have this name, or the model or an option cannot be used.
    """
    format_ = READABLE_FORMATS[PurePath(output).suffix.lower()]
    if format_ not in KEPT_FORMATS:
        raise UserError(f"{output}: found a format that is not written, expected .jpg, .png, .webp, .tif or .bmp")
    if request.format != SAME and WRITE_FORMATS[request.format] != format_:
        raise UserError(f"--format {request.format}: {output} is the name of a {format_}; leave the option out")
    if not Path(output).parent.is_dir():
        raise UserError(f"{output}: found no folder {Path(output).parent}; make it, or choose another OUTPUT")
    photos = _Photos()
    if problem := not_read(name):
        raise UserError(f"{name}: {problem}")
    status = entry_of(name, Path(name)).status
    _add(photos, request, name, output, PillowFormat(format_), identity_of(status) if status else "")
    return _finish(photos, *_color(request, photos, Path(), console), console)


def color_stream(request: ColoringRequest, console: Console) -> int:
    """Colour a photo from standard input to standard output, and return the exit code.

    Raises:
        UserError: a stream is a terminal, or the model or an option cannot be used.
    """
    for stream, what in ((sys.stdin, "a photo"), (sys.stdout, "a file or a pipe")):
        if stream is None or stream.isatty():  # None if it is closed
            raise UserError(f"-: found a terminal or nothing, expected {what}; write cgan-infer - < PHOTO > OUTPUT")
    if request.color_photos is ColorPhotos.SKIP:
        raise UserError("--color-photos skip: with - there must be an output; leave the option out")
    content = sys.stdin.buffer.read(MAX_PIXEL_BYTES * request.max_pixels + MAX_METADATA + 1)
    try:
        check_file_size(len(content), request.max_pixels)
        name = STANDARD_INPUT + suffix_of_content(content)
    except (LimitError, UnreadError) as error:
        console.failures({STANDARD_INPUT: reason_of(error)})
        return 1
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(content)
        photos = _Photos([Job(name, "output", output_format(name, request.format), f"{len(content)}:")])
        outcome, outputs, code = _color(request, photos, Path(folder), console)
        for notes in outcome.notes.values():
            console.note(f"note: {STANDARD_INPUT}: {'; '.join(notes)}")
        _tell_failures(outcome, console)
        for output in outputs.values():
            print_bytes(Path(folder, output).read_bytes())
    return code


def _add(
    photos: _Photos, request: ColoringRequest, name: str, output: str, format_: PillowFormat, identity: str
) -> None:
    """Add a photo, unless one of its outputs would replace a file that must stay."""
    suffix = PurePath(name).suffix
    copies = request.color_photos is ColorPhotos.COPY and READABLE_FORMATS[suffix.lower()] != format_
    copy = str(PurePath(output).with_suffix(suffix)) if copies else ""
    for place in filter(None, (output, copy)):
        if not os.path.lexists(place):
            continue
        if Path(place).exists() and Path(place).samefile(name):
            photos.failed[name] = f"{place} is the photo itself; give another name"
            return
        digest = _own(place)
        if digest is None:
            photos.failed[name] = f"{place} is there and has no mark of cgan in its XMP; move it away"
            return
        if not request.overwrite:
            of_this_photo = PurePath(place).stem.endswith(ADDED)
            if of_this_photo:
                photos.passed_over[name] = "its output is there; to make it anew, give --overwrite"
            else:
                photos.failed[name] = f"{place} is there, made by cgan; to make it anew, give --overwrite"
            return
        size = Path(place).stat().st_size
        photos.replaced[place] = Row(name, "", "", "", str(Path().resolve()), DONE, size, "", digest)
    photos.jobs.append(Job(name, output, format_, identity, copy))


def _own(name: str) -> str | None:
    """Return the SHA-256 of a photo that has cgan's mark; None for any other file."""
    try:
        content = read_regular(name, MAX_PIXEL_BYTES * MAX_PIXELS + MAX_METADATA)
    except OccupiedError:
        return None
    return hashlib.sha256(content).hexdigest() if content and is_marked(content) else None


def _color(
    request: ColoringRequest, photos: _Photos, folder: Path, console: Console
) -> tuple[Outcome, Mapping[str, str], int]:
    """Colour photos by names relative to a folder; return the outcome, outputs by name, and the exit code."""
    outputs: dict[str, str] = {}
    if not photos.jobs:
        return Outcome(failed=photos.failed), outputs, 1 if photos.failed else 0
    use_own_pixel_limit()
    cores = available_cores()
    workers = request.workers or min(cores, len(photos.jobs))

    def settled(event: Event, outcome: Outcome) -> None:
        if event.state == "done" and event.output:
            outputs[event.job.name] = event.output
        console.update(event, outcome)

    with stop_on_signal() as stop, opened_model(request, max(1, cores // workers)) as backend:
        check_options(request, backend)
        options = replace(request.resolve(backend, workers, len(photos.jobs)), overwrite=False)
        backend.batch_size = options.batch_size
        source, target = LocalFolder(folder), _Beside(folder)
        with closing(Journal(None)) as journal:
            journal.begin(photos.replaced.items())
            console.begin(len(photos.jobs), leave=False)
            stop.answered = True
            parts = source, target, backend, options, journal, ""
            outcome = Pipeline(*parts, settled, stop.event, console.stopping).color(tuple(photos.jobs))
            stop.answered = False
            console.end()
        if backend.note:
            console.warn(f"note: {backend.note}")
        if note := note_on_sidecar(backend):
            console.note(note)
    outcome.failed = photos.failed | outcome.failed
    code = stop.exit_code if stop.event.is_set() else int(bool(outcome.failed or outcome.stopped))
    return outcome, outputs, code


def _finish(photos: _Photos, outcome: Outcome, outputs: Mapping[str, str], code: int, console: Console) -> int:
    """Print the outputs, notes and failures, and return the exit code."""
    lines = []
    for name in dict.fromkeys((*outputs, *outcome.notes)):
        notes = outcome.notes.get(name)
        output = f" -> {outputs[name]}" if name in outputs else ""
        lines.append(name + output + (f"  ({'; '.join(notes)})" if notes else ""))
    for line in (*lines[:SHOWN_LINES], *([f"{len(lines) - SHOWN_LINES} more"] if len(lines) > SHOWN_LINES else [])):
        console.note(line)
    by_reason: dict[str, list[str]] = {}
    for name, reason in photos.passed_over.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, (first, *more) in by_reason.items():
        console.note(f"passed over: {first}{f' and {len(more)} more' if more else ''}: {reason}")
    _tell_failures(outcome, console)
    outcome.skipped += len(photos.passed_over)
    if outcome.settled > 1:
        console.note(counts(outcome))
    return code


def _tell_failures(outcome: Outcome, console: Console) -> None:
    console.failures(outcome.failed)
    for note in outcome.run_notes:
        console.warn(f"note: {note}")
    if outcome.stopped:
        console.warn(f"stopped: {outcome.stopped}")
