"""Click commands run as programs: a user error becomes one line and an exit code.

It imports neither torch nor numpy, because `infer` imports it.
"""

import errno
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from cgan.cores import available_cores, quota_is_tighter
from cgan.errors import FULL_DISK, GateError, UserError
from cgan.text import printable, safe_stderr, say

BAD_PATH = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP})
"""Errors of the path itself. A missing file is not among them, because it can be a bug."""


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a `UserError` into one line on stderr and its exit code; a bug keeps its traceback."""
    try:
        yield
    except UserError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)


def run_command(command: Any, arguments: list[str] | None, name: str) -> NoReturn:
    """Run a click command as a program: user errors are one line, and Ctrl-C is exit code 130 at any time.

    The command line is the object of click's context, for documents that name it.
    """
    import click

    if sys.stderr is None:  # closed: the next opened file would get descriptor 2, and the messages of libraries
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if quota_is_tighter():  # read by torch and numpy when they are imported; they know nothing of quotas
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    given = sys.argv[1:] if arguments is None else arguments
    with safe_stderr(), exit_on_user_error():
        if any(argument == "" or re.fullmatch("--[a-z0-9-]+=", argument) for argument in given):
            raise UserError("found an empty argument, expected a value; write . for the current folder")
        try:
            try:
                typed = shlex.join([name, *given])
                sys.exit(command.main(given, prog_name=name, standalone_mode=False, obj=typed) or 0)
            finally:
                if sys.stdout:  # None if it is closed
                    with suppress(BrokenPipeError):  # the reader has closed the pipe
                        sys.stdout.flush()
        except click.ClickException as error:
            if not isinstance(error, click.exceptions.NoArgsIsHelpError):  # whose message is the help, many lines
                error.message = printable(error.message)  # type: ignore[misc]  # click puts names and values into it
            error.show()
            sys.exit(error.exit_code)
        except click.Abort:
            say("interrupted")
            sys.exit(130)
        except OSError as error:
            if error.errno in BAD_PATH and error.filename is not None:
                raise UserError(
                    f"{error.filename}: {error.strerror}; give permission there, or choose another path"
                ) from error
            if "temporary directory" in str(error):  # from tempfile; its message lists the folders that it tried
                raise GateError(f"{error.strerror}; make room in one of them, or name another as TMPDIR") from error
            if error.errno not in FULL_DISK:
                raise
            if error.filename is not None:
                raise GateError(f"{error.filename}: cannot be written ({error.strerror}); make room there") from error
            # Otherwise Python tries to write the rest at exit and prints another error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise GateError(f"the output cannot be written ({error}); make room where it goes") from error
