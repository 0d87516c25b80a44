"""How good a model's colours are on photos that were held out from its training.

    python benchmarks/quality.py PHOTOS --split RUN/split.json [--model FILE] [--json FILE]

The held-out photos are turned gray, coloured by `cgan-infer folder` as a user would, and compared with the
originals at their own size. Near-gray originals are left out and counted. Needs the extra "train".
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageOps

from cgan.picture_metrics import NEAR_GRAY, colorfulness, psnr
from infer.backends import DEFAULT_MODEL, open_model
from infer.cli import main as cgan_infer


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--split", type=click.Path(exists=True, path_type=Path), required=True, help="split.json of the run.")
@click.option("--model", type=click.Path(exists=True, path_type=Path), default=DEFAULT_MODEL)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there.")
def main(photos: Path, split: Path, model: Path, json_file: Path | None) -> None:
    """Print PSNR and colourfulness of coloured, gray and real photos."""
    names = json.loads(split.read_text())["test"]
    truths = [ImageOps.exif_transpose(Image.open(photos / name)).convert("RGB") for name in names]
    columns: dict[str, list[float]] = {}
    near_gray = 0
    with tempfile.TemporaryDirectory() as folder:
        for resolution in ("original", "model"):
            color_all(truths, Path(folder), model, resolution)
        for i, truth in enumerate(truths):
            real = tensor_of(truth)
            if float(colorfulness(real)) < NEAR_GRAY:
                near_gray += 1
                continue
            raw = Image.open(Path(folder) / "model" / f"{i}.png").resize(truth.size, Image.Resampling.BICUBIC)
            pictures = {
                "colored": tensor_of(Image.open(Path(folder) / "original" / f"{i}.png")),
                "network": tensor_of(raw),
                "gray": tensor_of(truth.convert("L").convert("RGB")),
                "real": real,
            }
            for name, picture in pictures.items():
                columns.setdefault(f"{name}_colorfulness", []).append(float(colorfulness(picture)))
                if name != "real":
                    columns.setdefault(f"{name}_psnr", []).append(float(psnr(picture, real)))
    with open_model(model, "cpu") as backend:
        record = {
            "arguments": sys.argv[1:],
            "model_weights_sha256": backend.spec.weights_sha256,
            "engine": backend.engine,
            "held_out_photos": len(names),
            "near_gray_left_out": near_gray,
            **{name: round(statistics.mean(values), 3) for name, values in columns.items()},
        }
    record["colorfulness_ratio"] = round(record["colored_colorfulness"] / record["real_colorfulness"], 3)
    record["psnr_gain_over_gray"] = round(record["colored_psnr"] - record["gray_psnr"], 3)
    if json_file:
        json_file.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def color_all(truths: list[Image.Image], folder: Path, model: Path, resolution: str) -> None:
    """Colour the photos' luma with the command; every one has to come through."""
    gray = folder / "gray"
    gray.mkdir(exist_ok=True)
    for i, truth in enumerate(truths):
        truth.convert("L").save(gray / f"{i}.png")
    arguments = ["folder", str(gray), str(folder / resolution), "--model", str(model), "--resolution", resolution]
    try:
        cgan_infer([*arguments, "--device", "cpu", "--quiet"])
    except SystemExit as end:
        if end.code:
            raise


def tensor_of(image: Image.Image) -> torch.Tensor:
    """1 x 3 x H x W in [0, 1]."""
    pixels = np.asarray(image.convert("RGB")).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255


if __name__ == "__main__":
    main()
