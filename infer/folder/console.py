"""Output of a run: progress and messages on a terminal, or lines of JSON for programs; handling of signals."""

import contextlib
import os
import shutil
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cgan.progress import Progress
from cgan.text import json_text, print_result, printable, say

if TYPE_CHECKING:
    from infer.folder.options import Event, Outcome

SHOWN_FAILURES = 20
"""Largest number of failures that are printed; report.json lists all."""


class Console:
    """Progress of a run: a bar on a terminal, a line now and then elsewhere; or JSON for machines.

    Args:
        quiet: say only what went wrong.
        log_json: write an object a line to standard output instead of progress; with `quiet` only begin, end and what
            went wrong.
    """

    def __init__(self, quiet: bool = False, log_json: bool = False) -> None:
        self.quiet = quiet or log_json
        self._terse = quiet
        self.log_json = log_json
        self._progress: Progress | None = None
        self._total = 0

    def begin(self, total: int, leave: bool = True) -> None:
        """Start the progress of `total` files; `leave` keeps the finished bar on the screen."""
        self._total = total
        self._progress = Progress(self.quiet, leave=leave)
        self._progress.begin(total)

    def update(self, event: "Event", outcome: "Outcome") -> None:
        """Show that one more file was settled."""
        routine = event.state != "failed"  # not State.FAILED, whose module imports numpy
        values = {"name": event.job.name, "output": event.output, "state": event.state, "reason": event.reason}
        self.log("file", routine, **values, notes=outcome.notes.get(event.job.name, []))
        if self._progress:
            line = f"{outcome.settled}/{self._total}  {counts(outcome)}"
            found = {"done": outcome.done, "skipped": outcome.skipped, "failed": len(outcome.failed)}
            self._progress.update(outcome.settled, self._total, line, beside=found)

    def stopping(self, in_hand: int) -> None:
        """Say after a signal how many photos are being finished, on a line of its own; also if quiet."""
        if self._progress:
            self._progress.close()
            self._progress = None
        say(f"finishing the {in_hand} photos in progress; {SECOND_SIGNAL}")

    def end(self) -> None:
        """End the progress; all files are settled, or the run stopped."""
        if self._progress:
            self._progress.close()

    def note(self, text: str) -> None:
        """Print information for people, unless quiet."""
        if not self.quiet:
            say(*_wrapped(text))

    def fail(self, text: str) -> None:
        """Print the failure of a file; with --log-json it is reported by an event instead."""
        if not self.log_json:
            say(*_wrapped(text))

    def warn(self, text: str) -> None:
        """Print a warning, even if quiet."""
        self.log("warning", text=text)
        self.fail(text)

    def failures(self, failed: Mapping[str, str], report: object = None) -> None:
        """Print the first failures, and where the others are listed.

        Args:
            failed: reasons by name.
            report: the file that lists all; None if there is none, so that all are printed.
        """
        for number, (name, reason) in enumerate(failed.items()):
            if report is not None and number == SHOWN_FAILURES:
                self.warn(f"failed: {len(failed) - number} more, see {report}")
                break
            self.warn(f"failed: {name}: {reason}")

    def log(self, event: str, routine: bool = False, **values: Any) -> None:
        """Write a JSON object for programs; `routine` objects are left out if quiet."""
        if self.log_json and not (routine and self._terse):
            try:
                print_result(json_text({"event": event, "time": round(time.time(), 3), **values}))
            except OSError as error:  # the disk is full, which does not end the run
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                say(f"note: standard output takes no more ({error.strerror}), so the rest of it is lost")


SECOND_SIGNAL = "a second signal ends at once"


class stop_on_signal:  # noqa: N801 (used like a function)
    """Sets an event on the first Ctrl-C or SIGTERM, so that photos in progress are finished; a second signal exits.

    A thread receives the signals. It also does so during long calls of the main thread, and cannot deadlock on a lock
    that interrupted code holds. Signals that the parent process ignored stay ignored.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.received: int | None = None
        """Number of the first signal, None before it."""
        self.answered = False
        """True while other code answers the first signal, which knows of the progress on the terminal."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "stop_on_signal":
        self._told, self._telling = socket.socketpair()
        self._telling.setblocking(False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._previous_fd = signal.set_wakeup_fd(self._telling.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.getsignal(number)
        self.arm()
        return self

    def arm(self) -> None:
        """Receive the signals, again if a library has set handlers of its own."""
        for number in self._previous:
            signal.signal(number, lambda *_: None)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(self._previous_fd)
        self._telling.close()
        self._thread.join()
        self._told.close()

    @property
    def exit_code(self) -> int:
        """Exit code that shells report for a process ended by the signal."""
        return 128 + (self.received or signal.SIGINT)

    def _listen(self) -> None:
        while number := int.from_bytes(self._told.recv(1)):  # nothing when the other end is closed
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self.received is not None:
                # Waiting for threads could take minutes; a killed run is taken up where it was.
                os._exit(128 + number)
            self.received = number
            with contextlib.suppress(OSError):  # not through sys.stderr, which other code may be writing to
                if not self.answered:
                    os.write(2, f"stopping as soon as possible; {SECOND_SIGNAL}\n".encode())
            self.event.set()


def _wrapped(text: str) -> list[str]:
    """Return the lines of a message: several that fit the terminal, or one where standard error is none."""
    if not sys.stderr.isatty():
        return [text]
    width = shutil.get_terminal_size().columns
    whole_paths = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return whole_paths.wrap(printable(text))


def counts(outcome: "Outcome") -> str:
    """Return the numbers of files done, skipped and failed as text."""
    return f"done {outcome.done}  skipped {outcome.skipped}  failed {len(outcome.failed)}"
