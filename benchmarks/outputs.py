"""Checks of the OUTPUT of `cgan-infer folder` from outside, for `python -m benchmarks stress`."""

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from cgan.files import file_sha256, temporary_mark
from infer.folder.journal import Journal
from infer.folder.journal_row import DONE
from infer.folder.report import REPORT_NAME
from infer.folder.storage import JOURNAL_NAME, WORK_FOLDER


class Outputs:
    """An OUTPUT that is checked between runs, while none is writing there."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.known: dict[str, object] = {}
        """Outputs at the last check, with the `version` of each."""
        self.problems: list[str] = []
        self.made_twice = 0
        """Outputs that were there at one check and were gone or replaced at the next."""

    def look(self) -> None:
        """Add a problem for each output that is not whole, was made twice, or is only in the journal."""
        now = {name: version(self.target / name) for name in files_below(self.target) if not _is_work(name)}
        for name, file in self.known.items():
            if now.get(name) != file:
                self.made_twice += 1
                self.problems.append(f"{name} was whole and {'was made again' if name in now else 'has gone'}")
        for name, file in now.items():
            if file != self.known.get(name) and (problem := problem_of(self.target / name)):
                self.problems.append(f"{name}: {problem}")
        self.problems += [
            f"{name} is done in the journal and not there" for name in journalled(self.target).keys() - now
        ]
        self.known = now

    def left_over(self) -> list[str]:
        """Return the files of a finished run that are neither outputs nor its records, such as unfinished files."""
        kept = {*journalled(self.target), REPORT_NAME, f"{WORK_FOLDER}/{JOURNAL_NAME}"}
        return [name for name in files_below(self.target) if name not in kept]


def _is_work(name: str) -> bool:
    """Return True for records of a run and for files that a killed run left unfinished."""
    return name == REPORT_NAME or name.startswith(f"{WORK_FOLDER}/") or temporary_mark(Path(name).name) is not None


def version(path: Path) -> object:
    """Return a value that changes when another file takes this place: a run replaces files whole."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def journalled(target: Path) -> dict[str, str]:
    """Return the finished outputs in the journal with their inputs, from a copy: opening a journal repairs it."""
    with tempfile.TemporaryDirectory() as folder:
        for path in (target / WORK_FOLDER).glob(f"{JOURNAL_NAME}*"):
            shutil.copyfile(path, Path(folder) / path.name)
        with closing(Journal(Path(folder) / JOURNAL_NAME)) as journal:
            rows = {output: journal.find(output) for _, output in journal.outputs()}
    return {output: row.name for output, row in rows.items() if row and row.state == DONE}


def files_below(folder: Path) -> list[str]:
    """Return the relative paths of all files below a folder, hidden ones included, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all files below a folder by relative path."""
    return {name: file_sha256(folder / name) for name in files_below(folder)}


def problem_of(path: Path, size: tuple[int, int] | None = None, colorful: bool = False) -> str:
    """Return the reason why a file is not a whole colour photo.

    Args:
        path: the file.
        size: width and height that it has to have.
        colorful: require a pixel that is not gray.

    Returns:
        The reason, "" where nothing is wrong.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in ("RGB", "RGBA"):
                return f"of mode {image.mode}, not a colour photo"
            if size and image.size != size:
                return f"{image.size[0]} x {image.size[1]} pixels, expected {size[0]} x {size[1]}"
            if colorful and not np.ptp(np.asarray(image.convert("RGB")), axis=-1).any():
                return "gray"
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all of them for damaged files
        return f"{type(error).__name__}: {error}"
    return ""
