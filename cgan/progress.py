"""Progress on standard error: a bar on a terminal, elsewhere a line at intervals."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from cgan.text import printable, say

if TYPE_CHECKING:
    from tqdm import tqdm

TEXT_BAR = "{desc}  {percentage:3.0f}%|{bar}|"
"""Format of a bar with a text of its own."""

PLAIN_SECONDS = 30
"""Seconds between two lines of progress where standard error is not a terminal."""


class Progress:
    """One bar after another on a terminal; elsewhere a line every PLAIN_SECONDS.

    Args:
        quiet: show nothing.
        say: prints a line where there is no terminal; None shows nothing there.
        leave: keep a finished bar on the screen.
        unit: what is counted.
    """

    def __init__(
        self, quiet: bool, say: Callable[[str], None] | None = say, leave: bool = False, unit: str = "img"
    ) -> None:
        terminal = sys.stderr.isatty()
        self._shows_bar = not quiet and terminal
        self._say = None if quiet or terminal else say
        self._leave = leave
        self._unit = unit
        self._bar: tqdm[Any] | None = None
        self._label = ""
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, total: int, label: str = "", text: str = "") -> None:
        """Show a new bar in place of the last one.

        Args:
            total: number of items.
            label: name of the bar.
            text: as of `update`.
        """
        if self._shows_bar:
            from tqdm import tqdm

            self.close()
            self._label = label
            self._bar = tqdm(
                total=total,
                desc=text or printable(label) or None,
                unit=self._unit,
                leave=self._leave,
                bar_format=TEXT_BAR if text else None,
            )

    def update(
        self,
        done: int,
        total: int,
        line: str = "",
        label: str = "",
        text: str = "",
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        """Show how far the work is; another label, or fewer items than before, begins a new bar.

        Args:
            done: items finished so far.
            total: items in all.
            line: the text where there is no terminal; `done/total` when empty.
            label: name of the bar.
            text: printable text in front of the bar, in place of its name, counts and rate.
            beside: names and values to show beside the bar.
        """
        if self._shows_bar:
            if self._bar is not None and (label != self._label or done < self._bar.n):
                self.close()  # a step of another bar
            if self._bar is None and (text or done < total):  # a bar that was closed after its last item stays closed
                self.begin(total, label, text)
            if self._bar is not None:
                if beside:
                    self._bar.set_postfix(beside, refresh=False)
                if text:
                    self._bar.set_description_str(text, refresh=False)
                self._bar.update(done - self._bar.n)
                if text and done == total:
                    self._bar.refresh()  # tqdm leaves out steps that follow too fast, and no other one comes
        elif self._say and time.monotonic() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self._say(line or f"{done}/{total}")

    def close(self) -> None:
        """Remove the bar, or leave it finished; the next update begins another one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
