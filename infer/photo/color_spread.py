"""Spread of colours around the tone scale, which tells colour photos from toned gray ones.

A gray photo with a cast, in sepia or on yellowed paper has one colour for each luma, however far from gray. In a colour
photo, pixels of equal luma differ in colour.
"""

import dataclasses
from typing import BinaryIO

import numpy as np
from PIL import Image

from cgan.jpeg_decoder import decode_reduced
from infer.photo.samples import COLORS, Samples, luma_and_alpha

COLOR_SPREAD = 4.5
"""Spread above which a photo counts as a colour photo. `python -m benchmarks color-photos` on 200 photos: of toned
gray ones 0 to 1 in 100 are above it, 2 where paper is more yellow at its edges (at 4: 9); of colour photos 1 in 200 is
not, of those with half of their chroma 1 in 8. More photos in doubt count as gray, since those are what is coloured."""

SIDE = 32
"""Largest side in pixels of the copy that is measured. Means of blocks remove noise, fringes and JPEG artefacts."""

SAMPLED_SIDE = 256
"""Pixels a side that are read of a decoded photo, so that the time does not grow with its size."""

GROUPS = 32
"""Groups of pixels of similar luma."""

LEAST_OF_GROUP = 8
"""Least pixels of a group, for photos of few pixels."""

CHROMA_ZERO = 128
OPAQUE = 128
"""Alpha from which the colour of a pixel counts."""


def spread_of(image: Image.Image) -> float:
    """Return the standard deviation of chroma among pixels of similar luma, in levels of Cb and Cr, 0 to 180.

    Args:
        image: small copy of a photo, in mode RGB or RGBA.
    """
    pixels = np.asarray(image.convert("YCbCr")).reshape(-1, 3).T
    order = np.argsort(pixels[0], kind="stable")
    if image.mode == "RGBA":
        order = order[np.asarray(image.getchannel("A")).reshape(-1)[order] >= OPAQUE]
    groups = min(GROUPS, len(order) // LEAST_OF_GROUP) or 1
    size = len(order) // groups
    if not size:
        return 0.0
    chroma = pixels[1:].take(order[: groups * size], axis=1).reshape(2 * groups, size) - np.float32(CHROMA_ZERO)
    means = chroma.sum(axis=1) / size
    squares = np.vdot(chroma, chroma) / size - np.vdot(means, means)
    return float(np.sqrt(max(squares / groups, 0)))


def color_spread(decoded: Image.Image | Samples) -> float:
    """Return `spread_of` a decoded photo; 0 for a photo without colour channels."""
    if isinstance(decoded, Samples):
        return spread_of(_small(_eight_bits(decoded))) if COLORS[decoded.model] > 1 else 0.0
    return 0.0 if decoded.mode in ("1", "L", "LA", "I", "I;16", "F") else spread_of(_small(decoded))


def jpeg_spread(image: Image.Image, file: BinaryIO) -> float:
    """Return `spread_of` a JPEG of which only luma was decoded.

    Args:
        image: the opened photo.
        file: its file, whose position is moved.
    """
    file.seek(0)
    return spread_of(_small(decode_reduced(file.read(), image.size, SIDE, "progressive" in image.info)))


def _small(image: Image.Image) -> Image.Image:
    """Return a copy of at most SIDE pixels a side, in mode RGB, or RGBA if it has transparency."""
    width, height = image.size
    if max(width, height) > SAMPLED_SIDE:
        image = image.resize((min(width, SAMPLED_SIDE), min(height, SAMPLED_SIDE)), Image.Resampling.NEAREST)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    return image.resize((min(width, SIDE), min(height, SIDE)), Image.Resampling.BOX)


def _eight_bits(samples: Samples) -> Image.Image:
    """Return some pixels of samples of any depth in 8 bits."""
    down, across = (max(1, side // SAMPLED_SIDE) for side in samples.values.shape[:2])
    values, colors = samples.values[::down, ::across], COLORS[samples.model]
    if samples.model == "RGB" and values.dtype == np.uint8 and values.shape[2] == colors and samples.bits == 8:
        return Image.fromarray(np.ascontiguousarray(values))
    planes, alpha = [], None
    for channel in range(colors):
        one = values[..., [channel, *range(colors, values.shape[2])]]
        plane, alpha = luma_and_alpha(dataclasses.replace(samples, values=one, model="L", transparent=None), [])
        planes.append(Image.fromarray(plane if plane.dtype == np.uint8 else (plane >> 8).astype(np.uint8)))
    image = Image.merge(samples.model, planes).convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image
