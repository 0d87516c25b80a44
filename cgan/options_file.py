"""Options of a command in a TOML file, which all commands share: --config reads them, `options_toml` writes them.

Imports neither torch nor numpy.
"""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from cgan.errors import UserError
from cgan.readers import SMALL_BYTES, FormatError, read_limited, typed, typed_list
from cgan.text import json_text, shown

F = TypeVar("F", bound=Callable[..., Any])

HEADER = re.compile(rb"# SHA-256 of what follows: ([0-9a-f]{64})\n")
"""First line of the files of `options_toml`, by which an earlier one is recognised, unless it was edited."""


def config_option(function: F) -> F:
    """Add --config FILE.toml: its values are the defaults of the other options, by their names without dashes.

    A group of commands has a table for each command. A key that is no option, or a value of another type than the
    option's, is a UserError.
    """
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        is_eager=True,  # the other options need its values
        expose_value=False,
        callback=_read,
        help="Read options from this TOML file; those on the command line win.",
    )(function)


def options_toml(command: click.Command, values: Mapping[str, Any]) -> str:
    """Return options as the content of a file for --config, each below its help.

    Args:
        command: the command.
        values: values by parameter name; None, an empty tuple and names of no option are left out.
    """
    lines = [f"# Options of {command.name}, for its --config. Paths are relative to the working folder.\n"]
    for key, option in _options(command).items():
        value = values.get(option.name or "")
        if value is not None and value != ():
            lines.append(f"\n# {option.help}\n{key} = {_literal(value)}\n")
    content = "".join(lines)
    return f"# SHA-256 of what follows: {hashlib.sha256(content.encode()).hexdigest()}\n{content}"


def is_options(content: bytes) -> bool:
    """Return True if a content is that of `options_toml`, not edited since."""
    found = HEADER.match(content)
    return found is not None and hashlib.sha256(content[found.end() :]).hexdigest() == found[1].decode()


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return json_text(value if isinstance(value, bool | int | float) else str(value))


def _read(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make the values of a file the defaults of a command."""
    if path is None:
        return
    try:
        values = tomllib.loads(read_limited(path, SMALL_BYTES).decode())
    except (OSError, ValueError, RecursionError) as error:  # FormatError and errors of the syntax are ValueErrors
        raise UserError(f"--config {path}: not readable as TOML ({error}); mend it, or give another file") from error
    try:
        context.default_map = _checked(context.command, values, context)
    except (UserError, FormatError, OverflowError) as error:
        raise UserError(f"--config {path}: {error}; mend it there") from error
    except click.BadParameter as error:
        key = error.param.opts[0].lstrip("-") if error.param else ""
        raise UserError(f"--config {path}: {key}: {error.message} Mend it there") from error


def _checked(command: click.Command, values: dict[str, Any], context: click.Context) -> dict[str, Any]:
    """Return the values of a file by parameter name, once all have the types and ranges of their options.

    Raises:
        FormatError: a key is unknown, or a value has another type than its option.
        click.BadParameter, UserError: a value is out of the option's range.
    """
    if isinstance(command, click.Group):
        tables = {name: typed(table, f"{name} =", dict) for name, table in _known(values, command.commands, "commands")}
        return {name: _checked(command.commands[name], table, context) for name, table in tables.items()}
    options = _options(command)
    return {
        options[key].name or "": _typed(options[key], key, value, context) for key, value in _known(values, options)
    }


def _known(
    values: dict[str, Any], names: Mapping[str, Any], meant: str = "options without dashes"
) -> list[tuple[str, Any]]:
    """Return the items of a table, all of whose keys must be among the names."""
    if unknown := next((key for key in values if key not in names), None):
        near = difflib.get_close_matches(unknown, names, 1)
        expected = f"expected {near[0]}" if near else f"expected {meant}, as --help lists them"
        raise FormatError(f"found the key {shown(unknown)}, {expected}")
    return list(values.items())


def _options(command: click.Command) -> dict[str, click.Option]:
    """Return the options that a file can set, by their names without dashes."""
    options = (p for p in command.params if isinstance(p, click.Option) and not p.is_eager)
    return {option.opts[0].lstrip("-"): option for option in options}


def _typed(option: click.Option, key: str, value: object, context: click.Context) -> Any:
    """Return a value, once the option has accepted it."""
    kind: type = str
    if option.is_flag:
        kind = bool
    elif isinstance(option.type, click.types.IntParamType):
        kind = int
    elif isinstance(option.type, click.types.FloatParamType):
        kind = float
    found: Any = typed_list(value, f"{key} =", kind) if option.multiple else typed(value, f"{key} =", kind)
    if found == "":
        raise FormatError(f"found {key} = '', expected a value")
    option.type_cast_value(context, found)
    return found
