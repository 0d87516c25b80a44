"""PackBits of samples that are no whole bytes. imagecodecs has libtiff decode such strips row by row.

libtiff then drops what is left of a run at the end of a row, in silence; writers that let runs go on in the next row
are many. So it is asked for plain bytes, of which it decodes whole strips.
"""

from collections.abc import Sequence

import numpy as np

from infer.photo import tiff_pages as tiff
from infer.photo.samples import Array
from infer.photo.tiff_pages import Page

PACKBITS = 32773
BYTE = 8


def is_packed(page: Page) -> bool:
    """Return True for strips of PackBits whose samples are no whole bytes."""
    return page.number(tiff.COMPRESSION, 1) == PACKBITS and page.bits % BYTE != 0 and tiff.TILE_OFFSETS not in page


def layout_of(page: Page) -> dict[int, Sequence[int]]:
    """Return the tags that describe the rows as gray bytes."""
    planes = page.channels if _in_planes(page) else 1
    return {
        tiff.PHOTOMETRIC: [tiff.BLACK_IS_ZERO],
        tiff.CHANNELS: [planes],
        tiff.BITS: [BYTE] * planes,
        tiff.WIDTH: [-(-_samples_of_row(page) * page.bits // BYTE)],
        tiff.EXTRA_SAMPLES: [],
        tiff.SAMPLE_FORMAT: [],
    }


def unpacked(values: Array, page: Page) -> Array:
    """Return the samples, H x W x C, of rows of bytes, H x B x P: P planes, or 1 for channels side by side."""
    import imagecodecs

    dtype = (
        np.bool_ if page.bits == 1 else np.uint8 if page.bits < BYTE else np.uint16 if page.bits <= 16 else np.uint32
    )
    length = _samples_of_row(page)
    planes = [
        imagecodecs.packints_decode(np.ascontiguousarray(values[..., i]).tobytes(), dtype, page.bits, runlen=length)
        for i in range(values.shape[2])
    ]
    width, height = page.size
    return np.stack(planes, -1).reshape(height, width, page.channels)


def _in_planes(page: Page) -> bool:
    return page.number(tiff.PLANAR) == tiff.PLANES and page.channels > 1


def _samples_of_row(page: Page) -> int:
    return page.size[0] * (1 if _in_planes(page) else page.channels)
