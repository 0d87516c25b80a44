"""The command cgan-infer. Numpy, Pillow and engines are imported only when a command runs."""

import click

from cgan.command import run_command
from cgan.options_file import config_option
from infer.commands.folder import folder
from infer.commands.info import info
from infer.commands.merge_reports import merge_reports
from infer.commands.photos import PhotoGroup, color
from infer.commands.serve import serve
from infer.quality.cli import evaluate, parity


@click.group(
    cls=PhotoGroup,
    subcommand_metavar="PHOTO... | COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@config_option
@click.version_option(package_name="cgan")
def command() -> None:
    """Colour grayscale photos with an exported model.

    \b
    cgan-infer photo.jpg              writes photo-color.jpg beside it
    cgan-infer folder PHOTOS OUTPUT   colours a whole folder
    """


for subcommand in (folder, color, serve, merge_reports, info, parity, evaluate):
    command.add_command(subcommand)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of cgan-infer."""
    run_command(command, arguments, "cgan-infer")
