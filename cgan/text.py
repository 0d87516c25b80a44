"""Text for people: the only way to a terminal, where foreign text cannot give it commands.

Foreign text is what a program does not choose itself: file names, fields of files, messages of libraries. It may hold
escape sequences, carriage returns or marks that reverse the direction of writing. Imports neither torch nor numpy.
"""

import json
import os
import reprlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

MOST_SHOWN = 200
"""Characters of a foreign text in a message; a field of a damaged file can have megabytes."""


def printable(text: str, keep: str = "") -> str:
    r"""Return a text with its unprintable characters escaped, so that it cannot control a terminal or a page.

    Escaped are controls (C0, DEL, C1), marks of direction and of format, line separators, unassigned characters and
    bytes of a name that are no text: ESC becomes \x1b, U+202E \u202e.

    Args:
        text: one line; its line ends are escaped too.
        keep: unprintable characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def shown(value: object) -> str:
    """Return the representation of a foreign value for a message, shortened to about MOST_SHOWN characters."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = MOST_SHOWN
_SHORT.maxdict = _SHORT.maxlist = 20


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 photo", "2 photos"; `plural` is for nouns that take more than an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def told_apart(found: float | str, expected: float | str, digits: int = 4) -> tuple[str, str]:
    """Return two values as texts that differ where the values do.

    Returns:
        Numbers with at least `digits` significant digits, digests and other texts with at least 16 characters.
    """
    if isinstance(found, str) or isinstance(expected, str):
        one, other = str(found), str(expected)
        end = next((n for n in range(16, max(len(one), len(other)) + 1) if one[:n] != other[:n]), 16)
        return _cut(one, end), _cut(other, end)
    if found != expected:
        digits = next((n for n in range(digits, 17) if f"{found:.{n}g}" != f"{expected:.{n}g}"), 17)
    return f"{found:.{digits}g}", f"{expected:.{digits}g}"


def _cut(text: str, end: int) -> str:
    return text if len(text) <= end else f"{text[:end]}..."


def json_text(values: Any, indent: int | None = None) -> str:
    """Return JSON of pure ASCII: all values are exact, and no control character is raw, not even DEL.

    Raises:
        ValueError: a number is not finite, which JSON cannot hold.
    """
    return json.dumps(values, indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


def say(*lines: str) -> None:
    """Print lines to standard error at once; each argument is one line, whatever it contains."""
    try:
        _print(map(printable, lines), sys.stderr)
    except OSError:  # the disk is full, which does not end the work
        _discard(sys.stderr)


def print_result(*lines: str) -> None:
    """Print lines to standard output at once; each argument is one line, whatever it contains.

    Raises:
        OSError: the disk is full.
    """
    _print(map(printable, lines), sys.stdout)


def print_json(values: Any) -> None:
    """Print a JSON document to standard output.

    Raises:
        OSError: the disk is full.
    """
    _print([json_text(values, indent=2)], sys.stdout)


def print_bytes(content: bytes) -> None:
    """Write a file to standard output.

    Raises:
        OSError: the disk is full.
    """
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)


def _print(texts: Iterable[str], file: TextIO) -> None:
    try:
        for text in texts:
            print(text, file=file, flush=True)
    except BrokenPipeError:  # the reader is gone, which does not end the work
        _discard(file)


def _discard(file: TextIO) -> None:
    """Send the rest of a stream nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


@contextmanager
def safe_stderr() -> Iterator[None]:
    """Escape in the block what reaches standard error by other ways: warnings and logs of libraries."""
    stream = sys.stderr
    sys.stderr = cast(TextIO, _SafeStream(stream))
    try:
        yield
    finally:
        sys.stderr = stream


class _SafeStream:
    """A text stream whose unprintable characters are escaped, except line ends and tabs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        # A bar of tqdm begins with a carriage return and contains no foreign text.
        return self._stream.write(printable(text, "\r\n\t" if text.startswith("\r") else "\n\t"))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
