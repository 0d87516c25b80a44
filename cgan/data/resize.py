"""One photo as training sees it: upright, RGB, resized without keeping its aspect ratio."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from cgan.completeness import load
from cgan.photo_limits import check_exif


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB, without regard to a colour profile."""
    return image.convert("RGB")


def resized_rgb(
    image: Image.Image, height: int, width: int, convert: Callable[[Image.Image], Image.Image] = to_rgb
) -> NDArray[np.uint8]:
    """Turn a photo upright, convert it to RGB and resize it (bicubic) without cropping or padding.

    Args:
        image: opened, not yet loaded, with at most 8 bits per channel; its file name is cleared.
        height, width: size of the result in pixels.
        convert: conversion of the loaded, upright image to RGB.

    Returns:
        height x width x 3 uint8.

    Raises:
        MissingPixelsError: the file is truncated.
        LimitError: its EXIF exceeds a limit.
    """
    # With a file name Pillow memory-maps uncompressed files, and then reads a TIFF that is rotated by its EXIF
    # orientation with the wrong row length, so the pixels come out sheared.
    image.filename = ""  # type: ignore[attr-defined]
    load(image)
    if (exif := image.getexif()).get(ExifTags.Base.Orientation, 1) != 1:  # otherwise Pillow reads nothing else of it
        check_exif(exif)
    upright = convert(ImageOps.exif_transpose(image))
    return np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC))
