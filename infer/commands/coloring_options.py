"""Options that commands of cgan-infer share, and the type of MODEL with its completion."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from infer.backends.cli_options import BATCH_SIZES, WORKERS, backend_option, device_option, provider_option
from infer.packaged import DEFAULT_MODEL, PACKAGED_MODELS, model_path
from infer.photo.formats import (
    OTHER_NAMES,
    QUALITY,
    SAME,
    WRITE_FORMATS,
    ColorPhotos,
    ProfileUse,
    Resolution,
    check_strength,
)

MOST = 10**12
"""Largest value of limits: more than any run reaches, and a number that reports and clocks can hold."""

FORMAT_CHOICES = (SAME, *WRITE_FORMATS)

F = TypeVar("F", bound=Callable[..., Any])


class ModelType(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """A model: a file, a run, the name of a packaged model, or hf://owner/name for a model of the Hub."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path of a model."""
        if ctx and ctx.resilient_parsing:  # of a shell's completion, which downloads nothing
            return Path(value)
        return model_path(str(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete names of packaged models, and files."""
        names = [CompletionItem(name) for name in PACKAGED_MODELS if name.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file"), *names]  # in this order: bash clears the list for files


class FormatType(click.Choice):  # type: ignore[type-arg]  # not generic before click 8.2
    """Type of --format, which also takes jpeg and tif."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return a format by its name in WRITE_FORMATS."""
        found: str = super().convert(OTHER_NAMES.get(str(value), value), param, ctx)
        return found


MODEL = ModelType()

_MODEL: Sequence[Callable[[Any], Any]] = [
    click.option(
        "--model",
        type=MODEL,
        metavar="MODEL",
        default=str(DEFAULT_MODEL),
        help="File, run, name of a packaged model (flowers or flowers-int8), or hf://OWNER/NAME[@REVISION][/FILE] on "
        "the Hugging Face Hub.  [default: flowers]",
    ),
    backend_option,
    provider_option,
    device_option,
    click.option("--batch-size", type=BATCH_SIZES, help="Photos per batch.  [default: 4, on a GPU 64]"),
    click.option(
        "--workers", type=WORKERS, help="Threads that decode, run the model and encode.  [default: all cores]"
    ),
    click.option(
        "--render-size",
        "render_longest",
        type=click.IntRange(min=1),
        help="Longest side of the input of a model of dynamic size, aspect kept.  [default: the model's size, square]",
    ),
    click.option("--max-pixels", type=click.IntRange(1, MOST), help="Refuse larger photos.  [default: 268435456]"),
]

_COLORING: Sequence[Callable[[Any], Any]] = [
    click.option(
        "--format",
        type=FormatType(FORMAT_CHOICES),
        default=SAME,
        show_default=True,
        help="Output format; same keeps JPEG, PNG, WebP, TIFF and BMP, and writes PNG for other formats.",
    ),
    click.option(
        "--quality", type=click.IntRange(1, 100), default=QUALITY, show_default=True, help="Quality of JPEG and WebP."
    ),
    click.option(
        "--strength",
        type=float,
        default=1.0,
        show_default=True,
        callback=lambda _, option, value: check_strength(value, option.opts[0]),
        help="Factor of the colours, 0 (gray) to 2; luma and hue stay.",
    ),
    click.option(
        "--color-photos",
        type=click.Choice([choice.value for choice in ColorPhotos]),
        default=ColorPhotos.RECOLOR.value,
        show_default=True,
        help="Photos in colour: colour them anew, write no output, or copy the file as it is, with its own suffix "
        "whatever --format is. A gray photo with a cast or in sepia is not in colour.",
    ),
    click.option(
        "--resolution",
        type=click.Choice([resolution.value for resolution in Resolution]),
        default=Resolution.ORIGINAL.value,
        show_default=True,
        help="Size and luma of the photo, or the raw output of the network.",
    ),
    click.option(
        "--profile",
        type=click.Choice([use.value for use in ProfileUse]),
        default=ProfileUse.CONVERT.value,
        show_default=True,
        help="Convert photos with an RGB profile other than sRGB to sRGB, or keep their luma and profile.",
    ),
    click.option(
        "--mark/--no-mark",
        default=True,
        show_default=True,
        help="Say in the XMP of outputs that a model has coloured them, and which.",
    ),
    click.option(
        "--timeout",
        type=click.IntRange(0, MOST),
        metavar="SECONDS",
        help="Fail photos that take longer to open, decode and encode; 0 for no limit.  [default: 300]",
    ),
    click.option(
        "--files-from",
        type=click.Path(allow_dash=True),
        metavar="LIST",
        help="Read more photos from LIST, one name a line; - is standard input.",
    ),
    click.option("--null", "-0", is_flag=True, help="Names in LIST end with NUL, as of find -print0."),
    click.option("--quiet", is_flag=True, help="Print only failures and errors."),
]


class ShardType(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.2
    """Type of --shard."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the shard."""
        from infer.folder.shard import Shard

        return Shard.parse(str(value))


def model_options(function: F) -> F:
    """Add the options of the model and its engine, which all commands that colour share."""
    return _added(function, _MODEL)


def coloring_options(function: F) -> F:
    """Add the options that `folder` and `color` share; `request_values` takes their values."""
    return _added(function, [*_MODEL, *_COLORING])


def _added(function: F, options: Sequence[Callable[[Any], Any]]) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def request_values(given: dict[str, Any]) -> dict[str, Any]:
    """Return values of options as fields of `infer.folder.request.ColoringRequest`, with the defaults of limits."""
    from cgan.photo_limits import MAX_PIXELS, MAX_SECONDS

    return given | {
        "resolution": Resolution(given["resolution"]),
        "profile": ProfileUse(given["profile"]),
        "color_photos": ColorPhotos(given["color_photos"]),
        "max_pixels": given["max_pixels"] or MAX_PIXELS,
        "timeout": MAX_SECONDS if given["timeout"] is None else given["timeout"],
    }
