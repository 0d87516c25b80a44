"""Colour quality of models on photos that they were not trained on.

    python -m benchmarks quality PHOTOS [--split RUN/split.json] [--model FILE ...] [--features efficientnet-lite2]
        [--side 256] [--json FILE]

The photos, with --split the held-out ones of a run, are turned gray, coloured by `cgan-infer folder` as a user would,
and compared with the originals at their own size: PSNR, colourfulness and mean CIEDE2000, each a mean over photos. The
colour distance compares the colours of all photos together: 0 where each colour is as frequent as in the originals, 1
where none is shared; it shows, for example, a model that never paints violet. The same figures of the gray photos are
given for comparison. Near-gray originals are left out and counted. --features adds Fréchet and kernel distance to the
originals, --side resizes them first. Needs the extra "train".
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks.command import benchmark, existing_path
from benchmarks.records import json_option, record, write_record
from cgan.errors import UserError
from cgan.metrics.delta_e import delta_e, srgb_to_lab
from cgan.metrics.distances import FeatureSet, measure_fid, measure_kid
from cgan.metrics.features import FeatureNetwork, load_features
from cgan.metrics.pictures import NEAR_GRAY, colorfulness, psnr
from infer.backends import open_model
from infer.packaged import DEFAULT_MODEL
from infer.quality.photos import photos_below

COMMAND = [sys.executable, "-c", "from infer.cli import main; main()"]
AB_BIN, AB_REACH = 10, 115
"""Side of the squares of a* and b*, and how far they reach. Gray is the middle of one, as rounding would spread it over
four around a corner."""


@benchmark
@click.argument("photos", type=existing_path())
@click.option("--split", type=existing_path(), help="split.json of the run.")
@click.option(
    "--model",
    "models",
    type=existing_path(),
    multiple=True,
    default=[DEFAULT_MODEL],
    help="Model file; repeatable.  [default: the packaged model]",
)
@click.option("--features", help="Measure distances over this network, as for cgan-train.")
@click.option("--side", type=click.IntRange(32, 4096), help="Resize photos to so many pixels a side, squashed.")
@json_option
def main(
    photos: Path,
    split: Path | None,
    models: tuple[Path, ...],
    features: str | None,
    side: int | None,
    json_file: Path | None,
) -> None:
    """Compare the colours that models give held-out photos with the real ones.

    Prints the record: PSNR, CIEDE2000, colourfulness and colour distance of coloured and of gray photos.
    """
    if features and not side:
        raise UserError("--features: distances are between pictures of one size; give --side, such as 256")
    names = json.loads(split.read_text())["test"] if split else [name for name, _ in photos_below(photos)]
    truths = [ImageOps.exif_transpose(Image.open(photos / name)).convert("RGB") for name in names]
    if side:
        truths = [truth.resize((side, side), Image.Resampling.BICUBIC) for truth in truths]
    found = [(truth, float(colorfulness(tensor_of(truth)))) for truth in truths]
    colored, real = zip(*((truth, value) for truth, value in found if value >= NEAR_GRAY), strict=True)
    gray = [truth.convert("L").convert("RGB") for truth in colored]
    real_features = feature_set(load_features(features=features), colored) if features else None
    values = record(
        photos=len(truths),
        near_gray_left_out=len(truths) - len(colored),
        real_colorfulness=round(statistics.mean(real), 3),
        side=side,
        gray=compare(gray, colored, real_features),
        models=[measure(model, colored, real_features) for model in models],
    )
    for figures in values["models"]:
        figures["psnr_gain_over_gray"] = round(figures["psnr"] - values["gray"]["psnr"], 3)
        figures["colorfulness_ratio"] = round(figures["colorfulness"] / values["real_colorfulness"], 3)
    write_record(json_file, values)
    print(json.dumps(values, indent=2))


def measure(model: Path, truths: Sequence[Image.Image], real: FeatureSet | None = None) -> dict[str, object]:
    """Return the figures of one model, with its name, precision, colour space, digest and engine."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = color_all(truths, Path(folder), model)
        figures = compare(pictures, truths, real)
    with open_model(model, "cpu") as backend:
        spec = backend.spec
        known = {"model": model.name, "precision": spec.precision, "color_space": spec.color_space}
        return {**known, "weights_sha256": spec.weights_sha256, "engine": backend.engine, **figures}


def compare(
    pictures: Sequence[Image.Image], truths: Sequence[Image.Image], real: FeatureSet | None = None
) -> dict[str, object]:
    """Return means over photos of PSNR, CIEDE2000 and colourfulness, and the distances between all of both.

    Args:
        pictures: coloured or gray pictures.
        truths: the photos, of the same sizes.
        real: features of the photos; None measures no Fréchet and kernel distance.
    """
    columns: dict[str, list[float]] = {}
    for picture, truth in zip(pictures, truths, strict=True):
        one, other = tensor_of(picture), tensor_of(truth)
        values = {"psnr": psnr(one, other), "delta_e": delta_e(one, other).mean(), "colorfulness": colorfulness(one)}
        for name, value in values.items():
            columns.setdefault(name, []).append(float(value))
    figures: dict[str, object] = {name: round(statistics.mean(values), 3) for name, values in columns.items()}
    figures["color_distance"] = round(color_distance(pictures, truths), 3)
    if real is not None:
        found = feature_set(real.network, pictures)
        for distance in (measure_fid(real, found), measure_kid(real, found)):
            figures[str(distance.fingerprint["metric"])] = distance.to_json()
    return figures


def feature_set(network: FeatureNetwork, pictures: Sequence[Image.Image]) -> FeatureSet:
    """Return the features of pictures of any sizes."""
    features = FeatureSet(network)
    for picture in pictures:
        features.add_pictures(tensor_of(picture).float())
    return features


def color_distance(pictures: Sequence[Image.Image], truths: Sequence[Image.Image]) -> float:
    """Return the total variation distance between the colour distributions of both sets, 0 to 1; lightness is ignored.

    Colours are counted in squares of a* and b* with sides of AB_BIN, as in Zhang et al. 2016, "Colorful image
    colorization", section 2.2; each picture counts as much as any other.
    """
    one, other = (np.mean([_ab_histogram(picture) for picture in found], axis=0) for found in (pictures, truths))
    return float(np.abs(one - other).sum()) / 2


def _ab_histogram(picture: Image.Image) -> NDArray[np.float64]:
    """Return the share of the pixels in each square of a* and b*."""
    a, b = srgb_to_lab(tensor_of(picture))[0, 1:].flatten(1).numpy()
    counts, _, _ = np.histogram2d(a, b, bins=np.arange(-AB_REACH, AB_REACH + 1, AB_BIN))
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def color_all(truths: Sequence[Image.Image], folder: Path, model: Path) -> list[Image.Image]:
    """Colour the luma of the photos with `cgan-infer folder`; a photo that fails ends the benchmark."""
    gray, colored = folder / "gray", folder / "colored"
    gray.mkdir()
    for i, truth in enumerate(truths):
        truth.convert("L").save(gray / f"{i}.png")
    subprocess.run([*COMMAND, "folder", gray, colored, "--model", model, "--device", "cpu", "--quiet"], check=True)
    return [Image.open(colored / f"{i}.png").convert("RGB") for i in range(len(truths))]


def tensor_of(image: Image.Image) -> Tensor:
    """Return a picture as 1 x 3 x H x W float64 in [0, 1]."""
    pixels = np.asarray(image.convert("RGB")).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
