"""Colour and alpha of 16 bits a channel, of which Pillow by itself reads the high bytes alone.

Its unpackers take the high byte of samples in a given byte order. Told of the other order they take the low one, so a
file is decoded twice.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from cgan.spec import LUMA_FIXED_POINT

Tiles = list[ImageFile._Tile]
"""What Pillow's decoders are told of where an image's samples lie and how."""

ORDERS = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""Byte orders in Pillow's raw modes, and what takes for the high bytes those that are the low ones."""

COLORS = frozenset({"RGB", "RGBX", "RGBA", *"RGBA"})
"""What stands before the byte order in raw modes: the channels, or the one of a plane."""

CHUNKY = 1
"""A TIFF's planar configuration where a pixel's samples lie together."""

BAND_PIXELS = 2**20


@dataclass(frozen=True)
class Reading:
    """How to read all bits of an image."""

    first: Tiles
    """Gives the high bytes; of gray with alpha everything, each byte as a channel."""
    second: Tiles | None
    """Gives the low bytes; None of gray with alpha."""


def reading_of(image: Image.Image) -> Reading | None:
    """How to read an image that is not loaded yet.

    Returns:
        None of what has 8 bits or is gray alone, which Pillow reads whole, and of what cannot be read this way:
        compressed planes, alpha multiplied in, CMYK.
    """
    tiles: Tiles = getattr(image, "tile", [])
    if not tiles:
        return None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, CHUNKY) != CHUNKY:
            if tiles[0].codec_name != "raw" or set(tags[TiffImagePlugin.BITSPERSAMPLE]) != {16}:
                return None
            # To Pillow each plane is of 8 bits: "R".
            order = "16B" if tags.prefix == TiffImagePlugin.MM else "16L"
            tiles = [of_raw_mode(tile, f"{raw_mode(tile)};{order}") for tile in tiles]
    if image.format == "PPM" and tiles[0].codec_name == "ppm" and tiles[0].args == ("RGB", 65_535):
        # Pillow would scale these to 8 bits one by one; they are what its raw decoder reads.
        tiles = [tile._replace(codec_name="raw", args="RGB;16B") for tile in tiles]
    mode = raw_mode(tiles[0])
    if image.format == "PNG" and mode == "LA;16B":  # of mode RGBA to Pillow
        return Reading([of_raw_mode(tile, "RGBA") for tile in tiles], None)
    channels, _, order = mode.partition(";")
    if channels not in COLORS or order not in ORDERS:
        return None
    return Reading(tiles, [_of_low_bytes(tile) for tile in tiles])


def luma_and_alpha(
    first: Image.Image, second: Image.Image | None, transparent: tuple[int, ...] | None
) -> tuple[Image.Image, Image.Image | None, bool]:
    """Rec.601 luma of 16 bits, and alpha of 8.

    Args:
        first: loaded with `Reading.first`.
        second: loaded with `Reading.second`.
        transparent: red, green and blue of 16 bits that stand for transparency in a photo without alpha.

    Returns:
        Mode I;16; mode L of the same size or None; and whether alpha had more than the bits that are left of it.
    """
    size = first.height, first.width
    luma, cut = np.empty(size, np.uint16), False
    has_alpha = first.mode == "RGBA"
    alpha = np.empty(size, np.uint8) if has_alpha or transparent else None
    for rows, samples in _bands(first, second):
        if second is None:
            luma[rows] = samples[..., 0]
        else:
            # At most 65,535 x 65,536 + 32,768, which is less than 2^32.
            weighted = (samples[..., i] * np.uint32(weight) for i, weight in enumerate(LUMA_FIXED_POINT))
            luma[rows] = (sum(weighted) + np.uint32(32_768)) >> 16
        if alpha is None:
            continue
        if has_alpha:
            own = samples[..., -1]
            alpha[rows] = own >> 8
            cut = cut or bool((alpha[rows] * np.uint16(257) != own).any())
        else:
            alpha[rows] = np.where((samples[..., :3] == np.array(transparent)).all(axis=-1), 0, 255)
    return Image.fromarray(luma), None if alpha is None else Image.fromarray(alpha), cut


def _bands(first: Image.Image, second: Image.Image | None) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
    """Samples of 16 bits, rows x width x channels, some rows at a time: numpy's copies of whole images are large."""
    step = max(1, BAND_PIXELS // first.width)
    for top in range(0, first.height, step):
        box = (0, top, first.width, min(top + step, first.height))
        samples = np.asarray(first.crop(box))
        if second is None:
            yield slice(top, box[3]), samples.view(">u2").astype(np.uint16)
        else:
            yield slice(top, box[3]), samples * np.uint16(256) + np.asarray(second.crop(box))


def raw_mode(tile: ImageFile._Tile) -> str:
    """What a decoder is told of the samples: "RGB;16B"."""
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def of_raw_mode(tile: ImageFile._Tile, mode: str) -> ImageFile._Tile:
    """The tile with its decoder told something else of the samples."""
    rest = tile.args[1:] if isinstance(tile.args, tuple) else ()
    return tile._replace(args=(mode, *rest) if rest else mode)


def _of_low_bytes(tile: ImageFile._Tile) -> ImageFile._Tile:
    channels, _, order = raw_mode(tile).partition(";")
    return of_raw_mode(tile, f"{channels};{ORDERS[order]}")
