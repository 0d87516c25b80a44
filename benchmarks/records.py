"""The --json option of benchmarks: a record that replaces nothing but an earlier one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cgan.documents import check_document, json_with, write_document
from cgan.errors import UserError

IS_RECORD = json_with(frozenset({"arguments"}))


def _checked(_: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a place where no record can be written, before the measurement."""
    if path is not None:
        try:
            check_document(path, IS_RECORD, option.opts[0])
        except UserError as error:
            raise click.UsageError(str(error)) from error
    return path


json_option = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), callback=_checked, help="Write the figures there."
)


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a record, JSON values with the key "arguments".

    Raises:
        click.ClickException: it cannot be written, or something else is there.
    """
    try:
        write_document(path, (json.dumps(values, indent=2) + "\n").encode(), IS_RECORD)
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be written ({error})") from error
