"""Reading of colour and alpha with 16 bits a channel, of which Pillow reads only the high bytes.

Pillow's unpackers take the high byte of samples in a given byte order. With the other byte order they take the low
byte, so a file is decoded twice.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from cgan.spec import LUMA_FIXED_POINT

Tiles = list[ImageFile._Tile]
"""Pillow's description of the location and layout of an image's samples, for its decoders."""

ORDERS = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""Byte orders in Pillow's raw modes, and the order with which the low bytes are read as high bytes."""

COLORS = frozenset({"RGB", "RGBX", "RGBA", *"RGBA"})
"""Channels in raw modes, before the byte order: all channels, or the single channel of a plane."""

CHUNKY = 1
"""Planar configuration of a TIFF with interleaved samples."""

BAND_PIXELS = 2**20
"""Pixels that are processed at a time."""


@dataclass(frozen=True)
class Reading:
    """The two passes that read all bits of an image."""

    first: Tiles
    """Tiles that give the high bytes; for gray with alpha both bytes, each as a channel."""
    second: Tiles | None
    """Tiles that give the low bytes; None for gray with alpha."""


def reading_of(image: Image.Image) -> Reading | None:
    """Return the passes for an image that is not loaded yet.

    Returns:
        None for images of 8 bits and gray images without alpha, which Pillow reads in full, and for images that cannot
        be read this way: compressed planes, premultiplied alpha, CMYK.
    """
    tiles: Tiles = getattr(image, "tile", [])
    if not tiles:
        return None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, CHUNKY) != CHUNKY:
            if tiles[0].codec_name != "raw" or set(tags[TiffImagePlugin.BITSPERSAMPLE]) != {16}:
                return None
            # Pillow describes each plane as 8 bits: "R".
            order = "16B" if tags.prefix == TiffImagePlugin.MM else "16L"
            tiles = [of_raw_mode(tile, f"{raw_mode(tile)};{order}") for tile in tiles]
    if image.format == "PPM" and tiles[0].codec_name == "ppm" and tiles[0].args == ("RGB", 65_535):
        # Pillow's own decoder scales samples to 8 bits; its raw decoder reads the same layout.
        tiles = [tile._replace(codec_name="raw", args="RGB;16B") for tile in tiles]
    mode = raw_mode(tiles[0])
    if image.format == "PNG" and mode == "LA;16B":  # Pillow opens it in mode RGBA
        return Reading([of_raw_mode(tile, "RGBA") for tile in tiles], None)
    channels, _, order = mode.partition(";")
    if channels not in COLORS or order not in ORDERS:
        return None
    return Reading(tiles, [_of_low_bytes(tile) for tile in tiles])


def luma_and_alpha(
    first: Image.Image, second: Image.Image | None, transparent: tuple[int, ...] | None
) -> tuple[Image.Image, Image.Image | None, bool]:
    """Return Rec.601 luma of 16 bits, and alpha of 8 bits.

    Args:
        first: image loaded with `Reading.first`.
        second: image loaded with `Reading.second`.
        transparent: 16-bit red, green and blue of the colour key of a photo without alpha.

    Returns:
        Luma in mode I;16, alpha in mode L of the same size or None, and whether alpha lost bits.
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
    """Yield rows and their samples of 16 bits, rows x width x channels, in bands that keep numpy's copies small."""
    step = max(1, BAND_PIXELS // first.width)
    for top in range(0, first.height, step):
        box = (0, top, first.width, min(top + step, first.height))
        samples = np.asarray(first.crop(box))
        if second is None:
            yield slice(top, box[3]), samples.view(">u2").astype(np.uint16)
        else:
            yield slice(top, box[3]), samples * np.uint16(256) + np.asarray(second.crop(box))


def raw_mode(tile: ImageFile._Tile) -> str:
    """Return the raw mode of a tile, such as "RGB;16B"."""
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def of_raw_mode(tile: ImageFile._Tile, mode: str) -> ImageFile._Tile:
    """Return the tile with another raw mode."""
    rest = tile.args[1:] if isinstance(tile.args, tuple) else ()
    return tile._replace(args=(mode, *rest) if rest else mode)


def _of_low_bytes(tile: ImageFile._Tile) -> ImageFile._Tile:
    channels, _, order = raw_mode(tile).partition(";")
    return of_raw_mode(tile, f"{channels};{ORDERS[order]}")
