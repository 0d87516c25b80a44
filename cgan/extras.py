"""Optional packages, with the extra that installs them."""

from collections.abc import Iterator
from contextlib import contextmanager

from cgan.errors import UserError


@contextmanager
def needed(what: str, extra: str) -> Iterator[None]:
    """Name the extra to install if an import in the block finds a package missing.

    Args:
        what: the feature that needs the package, for the message: "measuring models".
        extra: the extra of this distribution that installs it: "train".

    Raises:
        UserError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs the package {error.name}; install it with pip install 'cgan[{extra}]'"
        ) from error
