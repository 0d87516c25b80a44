"""Errors that a user can put right, which the commands print as one line. Imports neither torch nor numpy."""

import errno
from pathlib import Path

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""errno values of a full or broken disk. The request itself was right, so the exit code is 1 rather than 2."""


class UserError(Exception):
    """An error that the user can put right; it says what was found, what was expected and what to do next.

    The commands print it as one line and exit with `exit_code`: 2, the request itself was wrong.
    """

    exit_code = 2


class GateError(UserError):
    """The work ran and its result failed a check, or a file could not be written: exit code 1."""

    exit_code = 1


def cannot_write(path: Path | str, error: OSError, kind: type[UserError] | None = None) -> UserError:
    """Return the error for a `path` that cannot be written: by default a GateError if the disk is full or broken."""
    kind = kind or (GateError if error.errno in FULL_DISK else UserError)
    return kind(f"{path}: cannot be written ({error}); make room or permission there, or choose another place")


class ChangedFileError(UserError):
    """A file has another digest than its sidecar names."""
