"""The command `cgan-infer merge-reports`."""

import sys

import click

from cgan.errors import UserError


@click.command()
@click.argument("output", type=click.Path())
@click.option(
    "--input",
    "sources",
    type=click.Path(),
    multiple=True,
    help="INPUT of the shards; once for each of several.  [default: that of their reports]",
)
@click.option("--quiet", is_flag=True, help="Print only failures and errors.")
def merge_reports(output: str, sources: tuple[str, ...], quiet: bool) -> None:
    """Sum up what all shards in OUTPUT have settled, and name missing photos, outputs that are gone and shards to run.

    Writes OUTPUT/report-merged.json. Exit code 1: photos failed or are missing, outputs are gone, or a shard has not
    ended.
    """
    if not output:
        raise UserError("found an empty OUTPUT, expected the folder that shards have filled")
    from infer.folder.console import Console
    from infer.folder.merged_report import merge_reports

    sys.exit(merge_reports(output, sources, Console(quiet)))
