"""Samples of any depth as luma and alpha: what readers return where a Pillow image of 8 bits cannot hold a photo."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cgan.photo_limits import check_time
from cgan.spec import LUMA_FIXED_POINT
from infer.photo.refusals import UnreadError

Array = NDArray[Any]
Luma = NDArray[np.uint8] | NDArray[np.uint16]
Convert = Callable[[Array], Array]
"""Conversion of levels of 8 or 16 bits, H x W x channels, to those of sRGB with as many bits: H x W x 1 or 3."""

COLORS = {"L": 1, "RGB": 3, "CMYK": 4}
"""Channels of each colour model, without alpha."""

WIDE = 65_535
"""White of luma with 16 bits."""

MOST_NATURAL_BITS = 16
"""Integers of more bits mostly hold values of 16 bits, or values in units of their own."""
UNUSED_BITS = 8
"""Unsigned integers that leave fewer of their highest bits unused fill their range."""

BAND_PIXELS = 2**20
"""Pixels that are processed at a time, which keeps numpy's copies small."""


@dataclass(frozen=True)
class Samples:
    """The samples of a photo, as its file stores them."""

    values: Array
    """H x W x C: boolean, integers or floats. The colour channels come first, alpha after them."""
    model: Literal["L", "RGB", "CMYK"] = "L"
    bits: int = 16
    """Significant bits of integers."""
    alpha: Literal["straight", "premultiplied"] | None = None
    white_is_zero: bool = False
    transparent: tuple[int, ...] | None = None
    """The one colour that is transparent in a photo without alpha."""

    @property
    def is_luma(self) -> bool:
        """True if the values are gray of 8 bits and nothing else."""
        plain = self.model == "L" and not (self.alpha or self.transparent or self.white_is_zero)
        return plain and self.values.dtype == np.uint8 and self.bits == 8


def luma_and_alpha(
    samples: Samples, notes: list[str], convert: Convert | None = None
) -> tuple[Luma, Image.Image | None]:
    """Return Rec.601 luma and alpha.

    Args:
        samples: of any kind. Values outside the natural range are stretched from lowest to highest; the natural range
            of floats is 0 to 1, and that of integers has at most MOST_NATURAL_BITS unless unsigned ones fill theirs.
        notes: list to which notes are appended: values that were stretched, alpha that lost bits.
        convert: conversion of colours without alpha to sRGB, None if they are luma's own.

    Returns:
        Luma, H x W, of 8 bits if the samples have no more, else of 16; alpha in mode L, or None.

    Raises:
        UnreadError: a sample is not a finite number.
    """
    values, colors = samples.values, COLORS[samples.model]
    if samples.is_luma and convert is None:
        return values[..., 0], None
    is_float = values.dtype.kind == "f"
    most = MOST_NATURAL_BITS if samples.alpha != "premultiplied" else 64  # premultiplied values share alpha's range
    natural = 1.0 if is_float else 2.0 ** min(samples.bits, most) - 1
    low, high = _range(values[..., :colors])
    if values.dtype.kind == "u" and high >= 2.0 ** max(samples.bits - UNUSED_BITS, MOST_NATURAL_BITS):
        natural = 2.0**samples.bits - 1
    if samples.alpha:
        _range(values[..., colors:])  # raises
    offset = 0.0
    if low < 0 or high > natural:
        notes.append(f"values from {low:g} to {high:g} stretched to the range of gray")
        offset, natural = low, (high - low) or 1.0
    stretched = offset != 0 or natural != 2.0**samples.bits - 1
    top = 255 if samples.bits <= 8 and not is_float and not stretched else WIDE
    luma = np.empty(values.shape[:2], np.uint8 if top == 255 else np.uint16)
    alpha = np.empty(values.shape[:2], np.uint8) if samples.alpha or samples.transparent else None
    cut = False
    for rows in bands(values):
        band = _scaled(values[rows, :, :colors], offset, natural, top)
        if samples.white_is_zero:
            band = top - band
        if alpha is not None:
            share = _share(samples, rows)
            alpha[rows] = np.round(share * 255)
            cut = cut or bool(np.abs(alpha[rows] - share * 255).max() > 1e-3)
            if samples.alpha == "premultiplied":
                band = _divided(band, share, top)
        model: str = samples.model
        if convert:
            band = convert(band)
            model = "L" if band.shape[2] == 1 else "RGB"
        luma[rows] = _luma(band, model, top)
    if cut:
        notes.append(f"transparency read with 8 of its {8 * values.dtype.itemsize} bits")
    return luma, None if alpha is None else Image.fromarray(alpha)


def bands(values: Array) -> Iterator[slice]:
    """Yield the rows of each band of H x W or H x W x C values."""
    step = max(1, BAND_PIXELS // values.shape[1])
    for top in range(0, len(values), step):
        check_time()
        yield slice(top, top + step)


def _range(values: Array) -> tuple[float, float]:
    """Return the lowest and the highest value."""
    if values.dtype == bool:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnreadError("it has values that are not finite numbers")
    if not np.isfinite(high - low):
        raise UnreadError(f"it has values from {low:g} to {high:g}, a range that no float holds")
    return low, high


def _scaled(values: Array, offset: float, natural: float, top: int) -> Array:
    """Return a band in levels from 0 to `top`, as integers of the size that `top` needs."""
    dtype = np.uint8 if top == 255 else np.uint16
    if values.dtype == dtype and natural == top:
        return values
    scaled: Array = np.round((values.astype(np.float64) - offset) * (top / natural)).astype(dtype)
    return scaled


def _share(samples: Samples, rows: slice) -> Array:
    """Return the opacity of each pixel of some rows, 0 to 1."""
    values, colors = samples.values[rows], COLORS[samples.model]
    if samples.transparent:
        opaque: Array = (values[..., :colors] != np.array(samples.transparent)).any(axis=-1)
        return opaque.astype(np.float64)
    alpha = values[..., colors]
    bits = samples.bits - (alpha.dtype.kind == "i")
    share: Array = alpha.astype(np.float64) / (1 if alpha.dtype.kind == "f" else 2.0**bits - 1)
    return np.clip(share, 0, 1)


def _divided(band: Array, share: Array, top: int) -> Array:
    """Return premultiplied colours divided by alpha; a pixel without opacity has none."""
    share = share[..., None]
    safe = np.where(share > 0, share, 1)
    divided: Array = np.round(np.minimum(band, top * share) / safe).astype(band.dtype)
    return divided


def _luma(band: Array, model: str, top: int) -> Array:
    """Return Rec.601 luma of a band in levels from 0 to `top`."""
    if model == "L":
        return band[..., 0]
    if top == 255 and model == "RGB":  # four times as fast as numpy
        gray: Array = np.asarray(Image.fromarray(np.ascontiguousarray(band)).convert("L"))
        return gray
    if model == "CMYK":  # as libtiff converts it
        light = (top - band[..., :3].astype(np.float64)) * (top - band[..., 3:].astype(np.float64)) / top
        band = np.round(light).astype(band.dtype)
    # At most 65,535 x 65,536 + 32,768, which is less than 2^32.
    weighted: Any = (band[..., i] * np.uint32(weight) for i, weight in enumerate(LUMA_FIXED_POINT))
    total: Array = (sum(weighted) + np.uint32(32_768)) >> 16
    return total
