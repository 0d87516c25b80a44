"""manifest-sha256.txt, the digests of all outputs in OUTPUT, and report.csv, a row for each photo of a run."""

import csv
import hashlib
import io
import os
from collections.abc import Iterator

from cgan.errors import GateError, UserError
from infer.folder.journal import Journal
from infer.folder.journal_row import BEGUN, DONE, Row
from infer.folder.options import Event, Outcome, State
from infer.folder.plan import EMPTY, Plan, known_contents, replaceable_contents
from infer.folder.storage import Storage, numbered

MANIFEST_NAME = "manifest-sha256.txt"
TABLE_NAME = "report.csv"
NAMES = (MANIFEST_NAME, TABLE_NAME)

COLUMNS = ("input", "output", "state", "notes", "bytes", "sha256")

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet compute a cell (OWASP, "CSV Injection")."""

NOT_UTF8 = r"its name is not UTF-8; other bytes are written as \xNN here"


class OutputLists:
    """Both files. The journal has a row for each, as for an output, so that only those of earlier runs are replaced.

    Args:
        journal: journal of OUTPUT.
        target: OUTPUT.
        overwrite: replace files of these names that no run wrote.
    """

    def __init__(self, journal: Journal, target: Storage, overwrite: bool) -> None:
        self.journal = journal
        self.target = target
        self.overwrite = overwrite
        self.manifest, self.table = self.names = tuple(numbered(name, target.part) for name in NAMES)
        self._events: dict[str, Event] = {}

    def note(self, event: Event) -> None:
        """Note that a photo was settled."""
        self._events[event.job.name] = event

    def check(self, plan: Plan) -> None:
        """Check that both files can have their names, before anything slow begins.

        Raises:
            UserError: a name belongs to a file that no run wrote, or to a folder of photos.
        """
        for name in self.names:
            if any(job.output.casefold().startswith(f"{name}/") for job in plan.jobs):
                raise UserError(f"--manifest: found a folder of photos named {name} in INPUT; rename it")
            if self.overwrite or not (there := self.target.status(name)):
                continue
            known = known_contents(self.journal.find(name)) | {EMPTY}
            if not there.regular or self.target.checksum(name) not in known:
                raise UserError(
                    f"{self.target}/{name}: found a file that no run wrote as it is, expected an earlier list; move it "
                    "away, or replace it with --overwrite"
                )

    def write(self, plan: Plan, outcome: Outcome) -> None:
        """Write both files, each whole or not at all.

        Raises:
            GateError: a file cannot be written.
        """
        try:
            self.target.prepare()
            try:
                self._publish(self.manifest, b"".join(map(_line, self._outputs())))
                self._publish(self.table, _csv(self._rows(plan, outcome)))
            finally:
                self.target.finish()
        except OSError as error:
            raise GateError(
                f"{self.target}: the manifest cannot be written ({error}); run the command again"
            ) from error

    def _publish(self, name: str, content: bytes) -> None:
        row, there = self.journal.find(name), self.target.status(name)
        found = self.target.checksum(name) if there and there.regular else ""
        kept = found if found in known_contents(row) else ""
        digest = hashlib.sha256(content).hexdigest()
        self.journal.begin([(name, Row(name, "", "", "", "", BEGUN, len(content), "", kept))])
        self.journal.publishing([(name, digest, "")])
        self.target.publish(name, content, replaceable_contents(row, self.overwrite))
        self.journal.settle(name, DONE, size=len(content), digest=digest)
        self.journal.commit()

    def _outputs(self) -> Iterator[tuple[str, str]]:
        """Yield path and SHA-256 of all outputs of this and earlier runs that are there, sorted by path."""
        for output in sorted((output for _, output in self.journal.outputs()), key=os.fsencode):
            row = self.journal.find(output)
            if output not in self.names and row and row.state is DONE and self.target.status(output):
                yield output, row.digest or self.target.checksum(output)

    def _rows(self, plan: Plan, outcome: Outcome) -> Iterator[tuple[str, ...]]:
        """Yield a row for each photo, sorted by name."""
        states = {job.name: "not begun" for job in plan.jobs} | dict.fromkeys(plan.unreadable, State.FAILED)
        states |= {name: event.state for name, event in self._events.items()}
        for name in sorted(states, key=os.fsencode):
            event = self._events.get(name)
            output = event.output if event and event.state is not State.FAILED else None
            row = self.journal.find(output) if output else None
            notes = [outcome.failed.get(name, ""), *outcome.notes.get(name, [])]
            if name != _text(name):
                notes.append(NOT_UTF8)
            made = (str(row.size), row.digest) if row else ("", "")
            yield name, output or "", states[name], "; ".join(filter(None, notes)), *made


def _line(output: tuple[str, str]) -> bytes:
    """Return the line of an output, as in a manifest of BagIt (RFC 8493, section 2.1.3), with the bytes of its name."""
    path, digest = output
    for character in "%\r\n":  # % first, because it escapes the others
        path = path.replace(character, f"%{ord(character):02X}")
    return f"{digest}  ".encode() + os.fsencode(path) + b"\n"


def _csv(rows: Iterator[tuple[str, ...]]) -> bytes:
    """Return a table in UTF-8 (RFC 4180). A cell that a spreadsheet would compute gets an apostrophe in front."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for row in rows:
        cells = map(_text, row)
        writer.writerow(f"'{cell}" if cell.startswith(FORMULA_SIGNS) else cell for cell in cells)
    return file.getvalue().encode()


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
