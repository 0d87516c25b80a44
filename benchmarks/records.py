"""Records of benchmarks, JSON files that name the arguments and the machine; the option --json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.command import arguments
from benchmarks.machine import machine
from cgan.documents import check_document, json_with, write_document
from cgan.errors import UserError

IS_RECORD = json_with(frozenset({"arguments"}))
"""Tells an earlier record, which may be replaced, from other files."""


def _checked(_: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a place where no record can be written, before the measurement begins."""
    if path is not None:
        try:
            check_document(path, IS_RECORD, option.opts[0])
        except UserError as error:
            raise click.UsageError(str(error)) from error
    return path


json_option = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), callback=_checked, help="Write the record to this file."
)


def record(**values: Any) -> dict[str, Any]:
    """Return the record of the running benchmark: its arguments, the machine, then the values.

    Args:
        values: JSON values. A `machine` among them replaces the description of this machine.
    """
    return {"arguments": arguments(), "machine": machine(), **values}


def write_record(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write a record, as `record` gives it; nothing where `path` is None.

    Raises:
        click.ClickException: the file cannot be written, or another file is there.
    """
    if path is None:
        return
    try:
        write_document(path, (json.dumps(values, indent=2) + "\n").encode(), IS_RECORD)
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be written ({error}); choose another place") from error
