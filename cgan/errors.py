"""Errors that a user can put right, which the commands print as one line. Imports neither torch nor numpy."""

import errno
from pathlib import Path

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a request that was right when it began: exit code 1 rather than 2."""


class UserError(Exception):
    """Something the user can put right: what was found, what was expected, what to do next.

    The commands print it as one line and exit with `exit_code`: 2, the request itself was wrong.
    """

    exit_code = 2


class GateError(UserError):
    """The work ran and its result failed a check, or a file could not be written: exit code 1."""

    exit_code = 1


def cannot_write(path: Path | str, error: OSError, kind: type[UserError] | None = None) -> UserError:
    """The error to raise where `path` could not be written; unless given, a GateError if the disk is full or broken."""
    kind = kind or (GateError if error.errno in FULL_DISK else UserError)
    return kind(f"{path}: cannot be written ({error}); make room or permission there, or choose another place")


class ChangedFileError(UserError):
    """A file's bytes are not those that its sidecar vouches for."""
