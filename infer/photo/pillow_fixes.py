"""What Pillow gets wrong of some files, set right between opening and loading them."""

from typing import Any

from infer.photo.wide_color import of_raw_mode, raw_mode

PNG_KEY_SCALES = {"L;2": 85, "L;4": 17}
"""Pillow widens gray PNGs of 2 and 4 bits to 8, but not the value that they name as transparent."""

NATIVE_ORDER = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}
"""libtiff gives samples in the machine's byte order, which Pillow knows only of unsigned ones of 16 bits."""


def mend(image: Any) -> None:
    """Have Pillow load an image right that was opened just now.

    Args:
        image: of any format; its tiles, its name and what it names as transparent are changed.
    """
    if image.format == "TIFF":
        # Pillow maps uncompressed ones from the file of this name, and does so by the size of the picture upright:
        # photos that lie on their side would come out sheared. From what is open it reads them right.
        image.filename = ""
        image.tile = [
            of_raw_mode(tile, NATIVE_ORDER.get(raw_mode(tile), raw_mode(tile)))
            if tile.codec_name == "libtiff"
            else tile
            for tile in image.tile
        ]
    elif image.format == "PNG" and isinstance(key := image.info.get("transparency"), int) and image.tile:
        image.info["transparency"] = key * PNG_KEY_SCALES.get(raw_mode(image.tile[0]), 1)
