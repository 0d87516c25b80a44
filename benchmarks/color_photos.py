"""Error rates of telling colour photos from toned gray ones, by threshold.

    python -m benchmarks color-photos PHOTOS [--photos 200] [--json FILE]

Colour photos of PHOTOS are turned gray, toned and faded, or made paler, saved as JPEGs of random quality and
subsampling, and measured as a folder run does. A toned photo above the threshold would be taken for a colour photo, and
a colour photo up to it for a gray one.
"""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.command import COUNTS, benchmark, existing_path
from benchmarks.records import json_option, record, write_record
from cgan.spec import LUMA_REC601
from infer.photo.color_spread import COLOR_SPREAD
from infer.photo.decode import decode
from infer.quality.photos import photos_below

Pixels = NDArray[np.float64]
"""H x W x 3, 0 to 255."""
Kind = Callable[[Pixels, np.random.Generator], Pixels]

THRESHOLDS = (2.0, 3.0, 3.5, 4.0, COLOR_SPREAD, 5.0, 6.0, 8.0)
QUALITIES = (30, 95)
SUBSAMPLINGS = (0, 1, 2)
SEPIA = np.array([1.351, 1.203, 0.937])
"""Sums of the rows of the sepia matrix of the W3C's Filter Effects Module: gray in sepia."""
SHIFT = 0.002
"""Six pixels of 3,000."""
AGED_EDGE = np.array([0.95, 0.87, 0.72])


def gray(photo: Pixels, _: np.random.Generator) -> Pixels:
    """Gray in three channels."""
    luma: Pixels = photo @ np.array(LUMA_REC601)
    return np.repeat(luma[..., None], 3, axis=-1)


def cast(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """A scanner's colour cast: a gain and an offset for each channel."""
    result: Pixels = gray(photo, rng) * rng.uniform(0.8, 1.15, 3) + rng.uniform(-15, 15, 3)
    return result


def sepia(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Sepia of any strength, with clipped highlights."""
    before = gray(photo, rng)
    after: Pixels = before + rng.uniform(0.3, 1) * (np.minimum(before * SEPIA, 255) - before)
    return after


def yellowed(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """A print without deep blacks on evenly yellowed paper."""
    paper = rng.uniform((225, 205, 150), (250, 230, 200)) / 255
    result: Pixels = (30 + gray(photo, rng) * (225 / 255)) * paper
    return result


def aged_edges(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """A print on paper that is more yellow towards its edges."""
    down, across = np.ogrid[-1 : 1 : photo.shape[0] * 1j, -1 : 1 : photo.shape[1] * 1j]
    edge = np.clip(2 * np.maximum(abs(down), abs(across)) - 1, 0, 1)[..., None]
    paper = rng.uniform((235, 220, 185), (250, 235, 215)) / 255
    result: Pixels = gray(photo, rng) * paper * (1 - edge + edge * AGED_EDGE)
    return result


def split_toned(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Other colours in shadows, middle tones and highlights."""
    colors = rng.uniform((0, 90, 190), (70, 160, 255), (3, 3)).T
    luma = gray(photo, rng)[..., 0]
    return np.stack([np.interp(luma, (0, 128, 255), levels) for levels in colors.T], axis=-1)


def noisy(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Sepia with noise of each channel."""
    return sepia(photo, rng) + rng.normal(0, rng.uniform(3, 10), photo.shape)


def shifted(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """A cast, with red and blue off by SHIFT of a side, which is less than a pixel of a small photo."""
    toned = cast(photo, rng)
    for channel, axis in ((0, 1), (2, 0)):
        whole, part = divmod(SHIFT * photo.shape[axis], 1)
        near, far = (np.roll(toned[..., channel], int(whole) + more, axis) for more in (0, 1))
        toned[..., channel] = (1 - part) * near + part * far
    return toned


def paler(share: float) -> Kind:
    """Return a kind of colour photo with a share of its chroma."""
    return lambda photo, rng: gray(photo, rng) + share * (photo - gray(photo, rng))


def colored_part(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Gray, except for the ninth of its area in the middle."""
    height, width = photo.shape[:2]
    middle = slice(height // 3, 2 * height // 3), slice(width // 3, 2 * width // 3)
    result = gray(photo, rng)
    result[middle] = photo[middle]
    return result


GRAY: dict[str, Kind] = {
    "gray": gray,
    "cast": cast,
    "sepia": sepia,
    "yellowed paper": yellowed,
    "edges more yellow": aged_edges,
    "split toning": split_toned,
    "sepia, noise": noisy,
    "cast, channels shifted": shifted,
}
COLOR: dict[str, Kind] = {
    "colour": paler(1),
    "half its chroma": paler(0.5),
    "30% of its chroma": paler(0.3),
    "a ninth in colour": colored_part,
}


@benchmark
@click.argument("photos", type=existing_path())
@click.option("--photos", "count", type=COUNTS, default=200, show_default=True, help="Colour photos to use.")
@json_option
def main(photos: Path, count: int, json_file: Path | None) -> None:
    """Measure how often toned gray photos and colour photos are mistaken for each other.

    Prints for each kind the percentage of errors at several thresholds.
    """
    sources = [path for _, path in photos_below(photos) if isinstance(path, Path)]
    random.Random(0).shuffle(sources)
    rows = []
    for name, kind in (GRAY | COLOR).items():
        spreads = measured(sources[:count], kind)
        errors = {f"{limit:g}": error_rate(spreads, limit, name in COLOR) for limit in THRESHOLDS}
        rows.append({"kind": name, "is_color": name in COLOR, "errors_percent": errors})
        print(f"{name}: " + "; ".join(f"{rate}% at {limit}" for limit, rate in errors.items()))
    write_record(json_file, record(photos=len(sources[:count]), threshold=COLOR_SPREAD, rows=rows))


def measured(sources: list[Path], kind: Kind) -> list[float]:
    """Return the spread of each photo, made of this kind."""
    rng = np.random.default_rng(0)
    spreads = []
    for path in sources:
        with Image.open(path) as image:
            photo = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.float64)
        pixels = np.clip(np.round(kind(photo, rng)), 0, 255).astype(np.uint8)
        options: dict[str, Any] = {
            "quality": int(rng.integers(*QUALITIES)),
            "subsampling": int(rng.choice(SUBSAMPLINGS)),
        }
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", **options)
        spreads.append(decode(file.getvalue()).color_spread)
    return spreads


def error_rate(spreads: list[float], limit: float, is_color: bool) -> float:
    """Return the percentage of photos of a kind that a threshold takes for the other one."""
    return round(100 * sum((spread > limit) != is_color for spread in spreads) / len(spreads), 1)
