"""Workarounds for files that Pillow decodes wrongly, applied between opening and loading."""

from typing import Any

from infer.photo.sixteen_bit_color import of_raw_mode, raw_mode

PNG_KEY_SCALES = {"L;2": 85, "L;4": 17}
"""Factors for the transparent value of gray PNGs of 2 and 4 bits: Pillow scales their pixels to 8 bits, but not this
value."""

NATIVE_ORDER = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}
"""Raw modes in native byte order. libtiff returns samples in native order, which Pillow takes into account only for
unsigned 16-bit samples."""


def mend(image: Any) -> None:
    """Correct an opened image, so that Pillow loads it correctly.

    Args:
        image: image of any format that is not loaded yet; its tiles, file name and transparent value are changed.
    """
    if image.format == "TIFF":
        # Pillow memory-maps an uncompressed TIFF by its file name and uses the size of the upright picture, which
        # shears photos that lie on their side. Without a file name it reads the opened file, correctly.
        image.filename = ""
        image.tile = [
            of_raw_mode(tile, NATIVE_ORDER.get(raw_mode(tile), raw_mode(tile)))
            if tile.codec_name == "libtiff"
            else tile
            for tile in image.tile
        ]
    elif image.format == "PNG" and isinstance(key := image.info.get("transparency"), int) and image.tile:
        image.info["transparency"] = key * PNG_KEY_SCALES.get(raw_mode(image.tile[0]), 1)
