"""Photos for benchmarks: copies of a folder's photos, or crops of the pictures in examples/."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from cgan.errors import UserError
from cgan.formats import PHOTO_FORMATS

EXAMPLES = Path(__file__).parent.parent / "examples"


def make_photos(photos: Path | None, target: Path, count: int, side: int | None = None) -> None:
    """Fill a new folder with photos.

    Args:
        photos: folder whose photos are copied in turn; without it, 128 x 128 crops of the pictures in examples/ are
            written.
        target: the folder to make.
        count: number of files.
        side: height and width in pixels to which every photo is resized as a gray JPEG; None keeps the photos as they
            are.

    Raises:
        UserError: there are no photos in `photos`.
    """
    target.mkdir()
    if photos:
        found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in PHOTO_FORMATS)
        if not found:
            raise UserError(f"{photos}: found no photos; give a folder with files such as .jpg or .png")
        for i in range(count):
            path = found[i % len(found)]
            if side is None:
                shutil.copyfile(path, target / f"{i:06d}{path.suffix}")
            else:
                photo = Image.open(path).convert("L").resize((side, side), Image.Resampling.BICUBIC)
                photo.save(target / f"{i:06d}.jpg", quality=90)
        return
    rng = np.random.default_rng(0)
    images = [Image.open(path).convert("L") for path in sorted(EXAMPLES.glob("*.*")) if path.suffix in PHOTO_FORMATS]
    for i in range(count):
        image = images[i % len(images)]
        left, top = (int(rng.integers(length - 127)) for length in image.size)
        crop = image.crop((left, top, left + 128, top + 128))
        crop = crop if side is None else crop.resize((side, side), Image.Resampling.BICUBIC)
        crop.save(target / f"{i:06d}.jpg", quality=90)
