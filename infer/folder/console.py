"""What a run tells people on a terminal, and machines as lines of JSON."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

from cgan.progress import Progress

if TYPE_CHECKING:
    from infer.folder.options import Event, Outcome

SHOWN_FAILURES = 20
"""Failures listed on screen; the report has all."""


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

    def begin(self, total: int) -> None:
        """Files are about to be settled, so many in all."""
        self._total = total
        self._progress = Progress(self.quiet, say, leave=True)
        self._progress.begin(total)

    def update(self, event: "Event", outcome: "Outcome") -> None:
        """One more file was settled."""
        routine = event.state != "failed"
        values = {"name": event.job.name, "output": event.job.output, "state": event.state, "reason": event.reason}
        self.log("file", routine, **values, notes=outcome.notes.get(event.job.name, []))
        if self._progress:
            line = f"{outcome.settled}/{self._total}  {counts(outcome)}"
            found = {"done": outcome.done, "skipped": outcome.skipped, "failed": len(outcome.failed)}
            self._progress.update(outcome.settled, self._total, line, beside=found)

    def end(self) -> None:
        """All files are settled, or the run stopped."""
        if self._progress:
            self._progress.close()

    def note(self, text: str) -> None:
        """What people want to know, unless they want quiet."""
        if not self.quiet:
            say(text)

    def fail(self, text: str) -> None:
        """What went wrong with a file, of which machines have an event."""
        if not self.log_json:
            say(text)

    def warn(self, text: str) -> None:
        """What has to be known in any case."""
        self.log("warning", text=text)
        self.fail(text)

    def log(self, event: str, routine: bool = False, **values: Any) -> None:
        """An object for machines; `routine` ones are left out with `quiet`."""
        if self.log_json and not (routine and self._terse):
            _print(json.dumps({"event": event, "time": round(time.time(), 3), **values}), sys.stdout)


class stop_on_signal:  # noqa: N801 (used like a function)
    """The first Ctrl-C or SIGTERM sets an event, so that files under way are finished; another ends the process.

    A thread takes the signals in: it hears of them also while the main thread is in a long call, and setting the event
    cannot meet a lock that the interrupted code holds. A signal that the parent process had ignored stays ignored.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.received: int | None = None
        """The signal that came."""
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
                signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(self._previous_fd)
        self._telling.close()
        self._thread.join()
        self._told.close()

    @property
    def exit_code(self) -> int:
        """What shells report for a process that the signal ended."""
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
                os.write(2, b"finishing the photos under way; a second signal ends at once\n")
            self.event.set()


def counts(outcome: "Outcome") -> str:
    """How many files were done, skipped and failed."""
    return f"done {outcome.done}  skipped {outcome.skipped}  failed {len(outcome.failed)}"


def say(line: str) -> None:
    """A line on standard error."""
    _print(printable(line), sys.stderr)


def printable(line: str) -> str:
    """A line in which nothing of a file name can move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def _print(line: str, file: TextIO) -> None:
    try:
        print(line, file=file, flush=True)
    except OSError as error:  # whoever read it is gone, or a disk is full, which is no reason to end the run
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        if file is sys.stdout and not isinstance(error, BrokenPipeError):
            say(f"note: standard output takes no more ({error.strerror}), so the rest of it is lost")
