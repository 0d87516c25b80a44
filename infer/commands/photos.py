"""The command `cgan-infer color`, whose name can be left out, and the group that knows photos from commands."""

import difflib
import os
import sys
from pathlib import Path, PurePath
from typing import Any

import click
from click.shell_completion import CompletionItem

from cgan.errors import UserError
from cgan.formats import READABLE_FORMATS
from infer.commands.coloring_options import coloring_options, request_values

STREAM = "-"
"""Name of standard input as a photo, whose output goes to standard output, and as a list of photos."""


class PhotoGroup(click.Group):
    """A group whose command `color` can be left out: `cgan-infer photo.jpg` is `cgan-infer color photo.jpg`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take options in front of all names for those of `color`, unless the group has them itself."""
        own = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        if args and args[0].startswith("-") and args[0].partition("=")[0] not in own:
            args = ["color", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take the name of a photo or of anything that exists for an argument of `color`."""
        if self.get_command(ctx, args[0]) is None:
            if not _is_file_name(args[0]):
                near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
                advice = f"did you mean {near[0]}?" if near else "cgan-infer --help lists the commands"
                raise UserError(f"{args[0]}: found neither a photo nor a command of this name; {advice}")
            args = ["color", *args]
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands and files, and options of the group and of `color`."""
        items = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            return items + self.commands["color"].shell_complete(ctx, incomplete)
        return [CompletionItem(incomplete, type="file"), *items]  # in this order: bash clears the list for files


def _is_file_name(name: str) -> bool:
    """Return True for a path that exists, has a folder in it, or has the suffix of a photo."""
    return os.path.lexists(name) or "/" in name or PurePath(name).suffix.lower() in READABLE_FORMATS


def names_from(listed: str | None, null: bool) -> list[str]:
    """Return the names in a list of photos.

    Args:
        listed: value of --files-from; None for no list.
        null: names end with NUL; otherwise with a line end.

    Raises:
        UserError: the list cannot be read or has no names, or --null was given without a list.
    """
    if listed is None:
        if null:
            raise UserError("--null: it has no effect without --files-from; leave it out")
        return []
    try:
        content = sys.stdin.buffer.read() if listed == STREAM else Path(listed).read_bytes()
    except OSError as error:
        raise UserError(f"--files-from {listed}: cannot be read ({error.strerror}); give a list of photos") from error
    if not null and b"\0" in content:
        raise UserError(f"--files-from {listed}: found NUL in it, expected one name a line; add --null")
    lines = content.split(b"\0") if null else content.splitlines()
    if not (names := [os.fsdecode(line) for line in lines if line]):
        raise UserError(f"--files-from {listed}: found no names in it, expected one a line; list photos there")
    return names


@click.command(short_help="Colour photos beside themselves; same without the word color.")
@click.argument("photos", nargs=-1, type=click.Path(allow_dash=True), metavar="PHOTO...")
@coloring_options
@click.option("--overwrite", is_flag=True, help="Replace outputs that have cgan's mark in their XMP.")
def color(photos: tuple[str, ...], files_from: str | None, null: bool, quiet: bool, **given: Any) -> None:
    """Colour photos: photo.jpg becomes photo-color.jpg in the same folder.

    The word color can be left out: cgan-infer photo.jpg. With - for PHOTO, one photo goes from standard input to
    standard output. No file is replaced without --overwrite. Exit code 1: some photos failed; reasons are printed.
    """
    names = [*photos, *names_from(files_from, null)]
    if not names:
        raise UserError("found no photos, expected one or more: cgan-infer PHOTO... ; cgan-infer --help has the rest")
    if STREAM in names and len(names) > 1:
        raise UserError(
            "-: found other photos beside standard input, expected it alone; colour them in another command"
        )
    if len(photos) == 2 and os.path.lexists(photos[0]) and not os.path.lexists(photos[1]):
        raise UserError(
            f"{photos[1]} does not exist; to colour {photos[0]} into it: cgan-infer folder {photos[0]} {photos[1]}"
        )
    folder = next((name for name in photos if Path(name).is_dir()), None)
    if folder is not None:
        raise UserError(f"{folder} is a folder; to colour it: cgan-infer folder {folder} OUTPUT")

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the workers already use all cores
    from infer.folder.console import Console
    from infer.folder.photo_run import color_beside, color_stream
    from infer.folder.request import ColoringRequest

    request, console = ColoringRequest(**request_values(given)), Console(quiet)
    sys.exit(color_stream(request, console) if names == [STREAM] else color_beside(request, names, console))
