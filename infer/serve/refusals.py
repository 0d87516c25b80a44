"""Reasons why a request gets no picture: HTTP status, and one line of what was found, expected, and what to do."""

import re
from typing import Any

from cgan.photo_limits import LimitError
from infer.backends.base import OutOfMemory
from infer.photo.decode import reason_of
from infer.photo.refusals import UnreadError
from infer.serve.form import FormError
from infer.serve.line import FullError
from infer.serve.memory import NoMemoryError

RETRY_SECONDS = 2
"""Seconds after which a client may try again when the server is busy."""

GONE = 499
"""Status in the metrics of a request whose client went away before the answer, as nginx counts it."""

BUSY = "try again later"
OPTION = re.compile(r"--format (\w+)")
"""The option of the command in reasons, which is a parameter here."""


class RefusedError(Exception):
    """A request gets no picture.

    Args:
        status: HTTP status.
        reason: one line.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {"Retry-After": str(RETRY_SECONDS)} if self.status == 503 else {}

    @property
    def content(self) -> dict[str, Any]:
        """The answer, for JSON."""
        return {"error": str(self)}


def refusal_of(error: Exception, at_model: bool) -> RefusedError:
    """Return the refusal for an error of the work on a photo.

    Args:
        error: of a stage, or of the line.
        at_model: the model ran when it was raised, so the photo is not at fault.

    Raises:
        Exception: `error` itself, if it is the server's fault.
    """
    limit = next((each for each in (error, error.__cause__) if isinstance(each, LimitError)), None)
    if limit and limit.option == "--timeout":
        return RefusedError(503, f"{limit}; send a smaller photo, or {BUSY}")
    if limit:
        return RefusedError(413, f"found {limit}; send a smaller photo")
    if isinstance(error, FormError):
        return RefusedError(400, str(error))
    if isinstance(error, FullError):
        return RefusedError(503, f"found as many waiting photos as --queue allows; {BUSY}")
    if isinstance(error, NoMemoryError | MemoryError | OutOfMemory):
        return RefusedError(503, f"found no memory for the photo beside those in progress; {BUSY}")
    if at_model:
        raise error
    unread = isinstance(error, UnreadError) or isinstance(error.__cause__, UnreadError)
    return RefusedError(415 if unread else 422, OPTION.sub(r"format=\1", reason_of(error)))
