"""The click command that every benchmark is: it keeps its arguments for the record and reports user errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cgan.command import exit_on_user_error
from infer.backends.cli_options import NumberRange

ARGUMENTS = "benchmarks.arguments"
"""Key of `click.Context.meta` with the arguments of the running benchmark."""


class Benchmark(click.Command):
    """A command that remembers its arguments. A `UserError` becomes one line and its exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments, then parse them."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the benchmark."""
        with exit_on_user_error():
            return super().invoke(ctx)


benchmark: Callable[[Callable[..., None]], click.Command] = click.command(
    cls=Benchmark, context_settings={"help_option_names": ["-h", "--help"]}
)
"""Decorator: makes a function the command of a benchmark."""


MOST = 10**6
"""Largest count of photos, steps or rounds; at a millisecond each it takes a quarter of an hour."""

MOST_TIME = 10_000.0
"""Longest time in the unit of an option: a week in minutes."""

COUNTS = click.IntRange(1, MOST)
"""Type of options that count something."""


DURATION = NumberRange(0, MOST_TIME)
"""Type of options in seconds or minutes."""


def existing_path(resolve: bool = False) -> "click.Path[Path]":
    """Return the type of options and arguments that name a file or folder that is there, as a Path.

    Args:
        resolve: return the absolute path without links.
    """
    return click.Path(exists=True, resolve_path=resolve, path_type=Path)


def arguments() -> list[str]:
    """Return the arguments of the running benchmark for its record: of each path only the last part.

    Raises:
        RuntimeError: no benchmark is running.
    """
    given: list[str] = click.get_current_context().meta[ARGUMENTS]
    return [Path(part).name if "/" in part else part for part in given]
