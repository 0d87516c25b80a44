"""Optional packages, with the extra that installs them."""

from collections.abc import Iterator
from contextlib import contextmanager

from cgan.errors import UserError


@contextmanager
def needed(what: str, extra: str, instead: str = "") -> Iterator[None]:
    """Name the extra to install if an import in the block finds a package missing.

    Args:
        what: the feature that needs the package, for the message: "measuring models".
        extra: the extra of this distribution that installs it: "train".
        instead: another way out: "give an exported model"; empty if there is none.

    Raises:
        UserError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        advice = f"install it with pip install 'cgan[{extra}]'" + (f", or {instead}" if instead else "")
        raise UserError(f"{what} needs the package {error.name}; {advice}") from error
