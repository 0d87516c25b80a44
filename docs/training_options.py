"""Writes the table of cgan-train's options in README.md, from the help of the command.

python -m docs.training_options
"""

from pathlib import Path

import click

from cgan.cli import command

README = Path(__file__).parent.parent / "README.md"
HEADER = "| option | default | |\n| --- | --- | --- |\n"


def table() -> str:
    """Return the table, a row for each option in the order of the help."""
    return HEADER + "".join(_row(option) for option in command.params if isinstance(option, click.Option))


def with_table(text: str) -> str:
    """Return a document with the table in place of the one that it has."""
    before, _, rest = text.partition(HEADER)
    rows = rest.splitlines(keepends=True)
    after = next(index for index, line in enumerate(rows) if not line.startswith("|"))
    return before + table() + "".join(rows[after:])


def _row(option: click.Option) -> str:
    flags = "/".join((*option.opts, *option.secondary_opts))
    if isinstance(option.type, click.Choice):
        flags += " " + ", ".join(option.type.choices)
    switch = option.is_flag and not option.secondary_opts
    return f"| `{flags}` | {'' if switch else _default(option.default)} | {option.help or ''} |\n"


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else value if isinstance(value, str) else ""


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
