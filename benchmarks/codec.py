"""CPU time of colouring one photo against its JPEG codec alone.

    python -m benchmarks codec PHOTO ... [--size 4000x3000 ...] [--rounds 9] [--quality 96] [--json FILE]

Each photo is made gray, scaled to each size and encoded as a JPEG. Two turns alternate in one process: Colorizer with
one thread makes a coloured JPEG of it; Pillow decodes the same gray JPEG and encodes the coloured picture, decoded
beforehand, with the same quality and full-resolution chroma. Times are of the CPU, so other work on the machine counts
less, but it does count through shared caches.
"""

import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
from PIL import Image

from benchmarks.command import COUNTS, benchmark, existing_path
from benchmarks.records import json_option, record, write_record
from benchmarks.rounds import rounds_of_turns
from infer import Colorizer
from infer.packaged import DEFAULT_MODEL
from infer.photo.formats import QUALITY

COLORIZER, CODEC = "colorizer", "codec"
GRAY_QUALITY = 92


class Size(click.ParamType[tuple[int, int]]):
    """Type of options that are a size in pixels."""

    name = "WIDTHxHEIGHT"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return width and height."""
        if isinstance(value, tuple):
            return value
        width, cross, height = value.partition("x")
        if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(f"found {value!r}, expected a size such as 4000x3000", param, ctx)
        return int(width), int(height)


@benchmark
@click.argument("photos", type=existing_path(), nargs=-1, required=True)
@click.option(
    "--size", "sizes", type=Size(), multiple=True, default=("128x128", "1024x1024", "4000x3000"), show_default=True
)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A model, as for cgan-infer folder.")
@click.option("--rounds", type=COUNTS, default=9, show_default=True, help="Turns of each kind, of which the medians.")
@click.option("--quality", type=click.IntRange(1, 100), default=QUALITY, show_default=True, help="Quality of outputs.")
@json_option
def main(
    photos: tuple[Path, ...],
    sizes: tuple[tuple[int, int], ...],
    model: str,
    rounds: int,
    quality: int,
    json_file: Path | None,
) -> None:
    """Compare the CPU time of colouring a gray JPEG with that of its codec alone."""
    rows = []
    with Colorizer(model, threads=1) as colorizer:
        for width, height in sizes:
            for photo in photos:
                gray = gray_jpeg(photo, (width, height))
                turns = turns_of(colorizer, gray, quality)
                times: dict[str, list[float]] = {name: [] for name in turns}
                for _, names in rounds_of_turns(list(turns), rounds):
                    for name in names:
                        times[name].append(cpu_seconds(turns[name]))
                medians = {name: statistics.median(values) for name, values in times.items()}
                ratio = medians[COLORIZER] / medians[CODEC]
                figures = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in medians.items())
                print(f"{photo.name} {width}x{height}: {figures}, ratio {ratio:.2f}")
                rows.append({"photo": photo.name, "size": [width, height], "seconds": medians, "ratio": ratio})
    write_record(json_file, record(rows=rows))


def gray_jpeg(photo: Path, size: tuple[int, int]) -> bytes:
    """Return a photo as a gray JPEG of a size in pixels, width and height."""
    file = io.BytesIO()
    with Image.open(photo) as image:
        image.convert("L").resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=GRAY_QUALITY)
    return file.getvalue()


def turns_of(colorizer: Colorizer, gray: bytes, quality: int) -> dict[str, Callable[[], object]]:
    """Return what is timed: colouring a gray JPEG, and decoding it and encoding the coloured picture."""
    colored = Image.open(io.BytesIO(colorizer.color_photo(gray, "jpg", quality=quality).content))
    colored.draft("YCbCr", None)  # as it is stored
    colored.load()

    def codec() -> None:
        Image.open(io.BytesIO(gray)).load()
        colored.save(io.BytesIO(), "JPEG", quality=quality, subsampling=0)

    return {COLORIZER: lambda: colorizer.color_photo(gray, "jpg", quality=quality), CODEC: codec}


def cpu_seconds(turn: Callable[[], object]) -> float:
    """Return the CPU time of this process for a call, in seconds."""
    begun = time.process_time()
    turn()
    return time.process_time() - begun
