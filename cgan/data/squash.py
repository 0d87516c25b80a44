"""A photo as training sees it, from the file that Pillow opened."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cgan.completeness import load


def squashed(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Upright, RGB, squashed and not cropped.

    Args:
        image: opened and not loaded yet, of at most 8 bits a channel; it forgets its file's name.
        height, width: of the result, in pixels.

    Returns:
        height x width x 3.

    Raises:
        MissingPixelsError: the file lacks pixels.
    """
    # Pillow maps uncompressed files of that name, and a TIFF on its side by the size that it has upright: sheared.
    image.filename = ""  # type: ignore[attr-defined]
    load(image)
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC))
