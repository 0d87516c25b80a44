"""Files of a user in an OUTPUT while runs write to it: dropped, replaced and edited at random moments."""

import os
import random
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

PAUSE = (0.01, 0.4)
"""Seconds between two files."""


class Dropper:
    """Drops files into a folder from a thread while it is entered.

    Args:
        target: the folder.
        names: paths below it, at which files are dropped once each, in random order.
        aside: a new folder on the same file system, in which the files are prepared.
        seed: determines order, kinds and moments.
    """

    def __init__(self, target: Path, names: list[str], aside: Path, seed: int) -> None:
        self.target, self.aside = target, aside
        self.dropped: dict[str, bytes | None] = {}
        """Content that was put at each name; None stands for a dangling link."""
        self.edited: set[str] = set()
        """Names of outputs that were edited in place without changing their size."""
        self._random = random.Random(seed)
        self._waiting = self._random.sample(names, len(names))
        self._ended = threading.Event()
        aside.mkdir()

    def __enter__(self) -> Self:
        self._ended.clear()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def problems(self) -> list[str]:
        """Return a line for each dropped file that has changed."""
        changed = []
        for name, content in self.dropped.items():
            path = self.target / name
            if content is None:
                same = path.is_symlink() and path.readlink() == self.aside / "nowhere"
            else:
                same = path.is_file() and not path.is_symlink() and path.read_bytes() == content
            if not same:
                changed.append(f"{name}: not the file that was dropped there")
        return changed

    def _work(self) -> None:
        while self._waiting and not self._ended.wait(self._random.uniform(*PAUSE)):
            how = self._random.choice(["new", "edit", "link"])
            outputs = [name for name in self._waiting if (self.target / name).exists()] if how == "edit" else []
            name = outputs[0] if outputs else self._waiting[0]
            self._waiting.remove(name)
            path = self.target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if outputs:
                self._edit(name, path)
                continue
            draft = self.aside / secrets.token_hex(4)
            if how == "link":
                draft.symlink_to(self.aside / "nowhere")
                self.dropped[name] = None
            else:
                self.dropped[name] = secrets.token_bytes(self._random.randrange(1, 5_000))
                draft.write_bytes(self.dropped[name] or b"")
            draft.replace(path)  # as programs save: whole, over whatever is there

    def _edit(self, name: str, path: Path) -> None:
        """Change the last byte of an output."""
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            (last,) = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        self.dropped[name] = path.read_bytes()
        self.edited.add(name)
