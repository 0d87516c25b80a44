"""What an OUTPUT of `cgan-infer folder` holds, looked at from outside, for `python -m benchmarks stress`."""

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from cgan.files import file_sha256, temporary_mark
from infer.folder.journal import DONE, Journal
from infer.folder.report import REPORT_NAME
from infer.folder.storage import JOURNAL_NAME, WORK_FOLDER


class Outputs:
    """An OUTPUT that is looked at again and again, while no run is writing there."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.known: dict[str, object] = {}
        """Outputs that were there, with what tells one file from another."""
        self.problems: list[str] = []
        self.made_twice = 0
        """Outputs that were there, also if a kill came before the journal had them as done, and are other files now."""

    def look(self) -> None:
        """Note a problem for each output that is not whole, was made twice, or is only in the journal."""
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
        """Files of a run that came to its end which are neither outputs nor its records: unfinished ones among them."""
        kept = {*journalled(self.target), REPORT_NAME, f"{WORK_FOLDER}/{JOURNAL_NAME}"}
        return [name for name in files_below(self.target) if name not in kept]


def _is_work(name: str) -> bool:
    """Return True if it is a record of a run, or something that a run which was killed had not finished."""
    return name == REPORT_NAME or name.startswith(f"{WORK_FOLDER}/") or temporary_mark(Path(name).name) is not None


def version(path: Path) -> object:
    """What tells a file from another at its place: a run replaces files whole."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def journalled(target: Path) -> dict[str, str]:
    """Outputs that the journal has as done, with their inputs; from a copy, because opening a journal mends it."""
    with tempfile.TemporaryDirectory() as folder:
        for path in (target / WORK_FOLDER).glob(f"{JOURNAL_NAME}*"):
            shutil.copyfile(path, Path(folder) / path.name)
        with closing(Journal(Path(folder) / JOURNAL_NAME)) as journal:
            rows = {output: journal.find(output) for _, output in journal.outputs()}
    return {output: row.name for output, row in rows.items() if row and row.state == DONE}


def files_below(folder: Path) -> list[str]:
    """Paths of all files, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of all files by path."""
    return {name: file_sha256(folder / name) for name in files_below(folder)}


def problem_of(path: Path, size: tuple[int, int] | None = None, colorful: bool = False) -> str:
    """Why a file is not a whole colour photo.

    Args:
        path: the file.
        size: width and height that it has to have.
        colorful: whether one of its pixels has to be other than gray.

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
