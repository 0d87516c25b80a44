"""Files that others may have written or damaged: read with limits, and checked before they are used.

A reader raises `FormatError`, which says what was found and what was expected; its caller adds the name of the file and
what to do next. Imports neither torch nor numpy.
"""

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cgan.files import OccupiedError, read_regular
from cgan.text import shown

SMALL_BYTES = 2**20
"""Largest size of a sidecar, a contract or a configuration, which have some kilobytes."""

LARGE_BYTES = 2**28
"""Largest size of a file with values for each photo or epoch: a report of a million failures has about 200 MB."""

MOST_NESTED = 64
"""Most levels of lists and objects in JSON. This project writes up to 8, and Python fails from 1,000 on."""

MOST_DIGITS = 20
"""Most characters of a whole number in JSON: that of a seed or a file size. Larger ones fit into no float or field."""

T = TypeVar("T")


class FormatError(ValueError):
    """The content of a file is not what such a file holds; the message says what was found and expected."""


def read_limited(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the content of a regular file; links are followed, and nothing blocks.

    Args:
        path: the file.
        limit: its largest size in bytes.

    Raises:
        FormatError: it is larger, or a folder, a device, a FIFO or a socket.
        OSError: it cannot be read.
    """
    try:
        content = read_regular(os.path.realpath(path), limit)
    except OccupiedError as error:
        raise FormatError(f"{error.strerror}, expected a file of at most {limit:,} bytes") from None
    if content is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    return content


def read_json(path: Path, limit: int = SMALL_BYTES) -> Any:
    """Return the value of a JSON file, read by `read_limited` and `parse_json`.

    Raises:
        FormatError: it is larger than `limit` bytes, no regular file or no JSON.
        OSError: it cannot be read.
    """
    return parse_json(read_limited(path, limit))


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Return the value of JSON text.

    Args:
        text: the JSON; bytes are UTF-8.
        finite: refuse NaN and infinity, which Python writes although JSON lacks them.

    Raises:
        FormatError: it is no JSON, nested more than MOST_NESTED levels deep, or has a number that is too large.
    """

    def number(digits: str) -> float:
        value = float(digits)
        if finite and not math.isfinite(value):
            raise FormatError(f"found the number {shown(digits)}, expected a finite one")
        return value

    try:
        values = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            parse_int=_whole_number,
            parse_float=number,
            parse_constant=number,
        )
    except FormatError:
        raise
    except RecursionError:
        raise FormatError(f"found JSON nested too deeply, expected at most {MOST_NESTED} levels") from None
    except ValueError as error:
        raise FormatError(f"found no JSON ({error}), expected JSON") from None
    _check_nesting(values)
    return values


def typed_field(values: object, name: str, kind: type[T], default: T | None = None) -> T:
    """Return a field of a JSON object.

    Args:
        values: the object.
        name: of the field.
        kind: type of its value; a whole number is a float too, and a bool is no number.
        default: value of a missing field; None if it must be there.

    Raises:
        FormatError: there is no such field, or it has another type.
    """
    if not isinstance(values, dict):
        raise FormatError(f"found {shown(values)}, expected an object with the field {name}")
    if name not in values:
        if default is not None:
            return default
        raise FormatError(f"found no field {name}, expected {_NAMES[kind]}")
    return typed(values[name], f"field {name}", kind)


def typed(value: object, what: str, kind: type[T]) -> T:
    """Return a JSON value of a type.

    Args:
        value: the value.
        what: its name for messages.
        kind: as of `typed_field`.

    Raises:
        FormatError: it has another type.
    """
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise FormatError(f"found {what} {shown(value)}, expected {_NAMES[kind]}")
    return value


def typed_list(value: object, what: str, kind: type[T]) -> list[T]:
    """Return a JSON list whose items have one type.

    Raises:
        FormatError: it is no list, or an item has another type.
    """
    return [typed(item, f"{what} item", kind) for item in typed(value, what, list)]


def typed_object(value: object, what: str, kind: type[T]) -> dict[str, T]:
    """Return a JSON object whose values have one type.

    Raises:
        FormatError: it is no object, or a value has another type.
    """
    return {name: typed(item, f"{what} {shown(name)}", kind) for name, item in typed(value, what, dict).items()}


_NAMES: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise FormatError(f"found a whole number of {len(digits)} digits, expected at most {MOST_DIGITS}")
    return int(digits)


def _check_nesting(values: Any) -> None:
    level = [values]
    for _ in range(MOST_NESTED):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise FormatError(f"found JSON nested too deeply, expected at most {MOST_NESTED} levels")
