"""ICC profiles: conversion of a photo's gray, RGB or CMYK to sRGB with littleCMS.

Relative colorimetric with black point compensation, as Photoshop converts by default: white becomes white, black black.
"""

import functools
import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from cgan.spec import LUMA_REC601
from infer.photo.formats import ProfileUse
from infer.photo.samples import Array, Convert

SPACES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}
"""Colour spaces of profiles (ICC.1:2022, table 19) that photos are converted from, and their colour models."""
NAMES = {"L": "gray", "RGB": "RGB", "CMYK": "CMYK"}
CLASSES = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})
"""Classes of profiles that describe the colours of a photo."""

FLOAT_TAGS = frozenset({b"D2B0", b"D2B1", b"D2B2", b"D2B3"})
"""Optional transforms of any number of steps, which could take hours. Other tags describe the same without them."""

HEADER = 128
MOST_BYTES = 2**23
"""Largest profile that is converted from, which bounds the cache; those of printers have up to 3 MB."""

INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
EXACT = int(FLAGS | ImageCms.Flags.NOOPTIMIZE)
"""Without littleCMS's tables of a few nodes, which are off by up to ten levels of 8 bits in linear gray and in RGB of
16 bits."""

LEVEL = 257
"""One level of 8 bits in 16."""
TOLERANCE, LUMA_TOLERANCE = 2 * LEVEL, LEVEL
"""Differences from sRGB up to which a profile is one of sRGB; the rounded primaries of some are over one level off."""
PROBES = 6
"""Values of each channel in the colours by which a profile is compared with sRGB."""
LONGEST_NAME = 60

D65 = (0.3127, 0.329, 1.0)
PRIMARIES = [0.64, 0.33, 1.0, 0.3, 0.6, 1.0, 0.15, 0.06, 1.0]
"""White and primaries of sRGB (IEC 61966-2-1), as x, y and Y."""
STEPS = 2**20
"""Steps of light: the darkest level of 16 bits has one."""
SUM_TOLERANCE = LEVEL // 32


@functools.cache
def _srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@functools.cache
def _linear() -> bytes:
    """Return a profile of sRGB's primaries without its curve."""
    import imagecodecs

    profile: bytes = imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=PRIMARIES, gamma=1.0)
    return profile


@dataclass(frozen=True, eq=False)
class Profile:
    """A profile that photos can be converted from."""

    content: bytes
    """The profile as littleCMS reads it."""
    model: str
    """L, RGB or CMYK."""
    name: str
    is_srgb: bool
    """True if sRGB gives the same colours within TOLERANCE and the same luma within LUMA_TOLERANCE."""
    curve: Array | None
    """Level of sRGB of each level of gray, 65,536 of 16 bits; None for RGB and CMYK."""
    transform: ImageCms.ImageCmsTransform
    """Transform of 8 bits a channel. Threads may share it."""

    def convert(self, band: Array) -> Array:
        """Convert levels of 8 or 16 bits, H x W x channels of the model, to sRGB: H x W x 1 of gray, else x 3."""
        if band.dtype == np.uint16:
            if self.curve is not None:
                return self.curve.take(band)
            if self._lights is None:
                return _exact(self.content, self.model, band)
            return _summed(self._lights, band)
        if self.curve is not None:  # three times as fast as numpy's take
            return np.frombuffer(band.tobytes().translate(self._levels), np.uint8).reshape(band.shape)
        image = Image.frombytes(self.model, band.shape[1::-1], band.tobytes())
        return np.asarray(ImageCms.applyTransform(image, self.transform))

    @functools.cached_property
    def _levels(self) -> bytes:
        assert self.curve is not None
        return np.round(self.curve[::LEVEL] / LEVEL).astype(np.uint8).tobytes()

    @functools.cached_property
    def _lights(self) -> Array | None:
        """Light in sRGB's primaries of each level of R, G and B, 3 x 65,536 x 3; None if colours are not their sum.

        They are sums in profiles of a matrix and curves, and computed at seven times the speed of `_exact`.
        """
        if self.model != "RGB":
            return None
        ramps = np.zeros((3, 2**16, 3), np.uint16)
        for channel in range(3):
            ramps[channel, :, channel] = np.arange(2**16)
        lights = _exact(self.content, "RGB", ramps, _linear(), np.float32)
        probes = _probes(3)
        if not np.isfinite(lights).all():
            return None
        differences = _summed(lights, probes).astype(np.int64) - _exact(self.content, "RGB", probes)
        return lights if np.abs(differences).max() <= SUM_TOLERANCE else None


def _exact(
    content: bytes, model: str, band: Array, target: bytes | None = None, dtype: type[np.generic] = np.uint16
) -> Array:
    """Convert levels of 16 bits, H x W x channels, to sRGB or to the RGB of another profile."""
    import imagecodecs

    space = {"L": "gray", "RGB": "rgb", "CMYK": "cmyk"}[model]
    values = np.ascontiguousarray(band if model != "L" else band[..., 0], np.uint16)
    converted: Array = imagecodecs.cms_transform(
        values,
        content,
        target or _srgb(),
        colorspace=space,
        outcolorspace="rgb",
        outdtype=dtype,
        intent=int(INTENT),
        flags=EXACT,
    )
    return converted


def _summed(lights: Array, band: Array) -> Array:
    """Return levels of sRGB of 16 bits, H x W x 3, whose light is the sum of those of R, G and B."""
    light: Array = lights[0].take(band[..., 0], axis=0)
    for channel in (1, 2):
        light += lights[channel].take(band[..., channel], axis=0)
    np.clip(light, 0, 1, out=light)
    light *= STEPS - 1
    light += 0.5
    return _levels_of_light().take(light.astype(np.int32))


@functools.cache
def _levels_of_light() -> Array:
    """Level of sRGB, 16 bits, of light from 0 to 1 in STEPS."""
    return np.round(coded(np.arange(STEPS) / (STEPS - 1)) * (2**16 - 1)).astype(np.uint16)


def coded(light: Array) -> Array:
    """Return values of sRGB, 0 to 1, of light from 0 to 1 (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@functools.lru_cache(maxsize=8)
def profile_of(content: bytes) -> Profile:
    """Read a profile; the last ones are remembered.

    Raises:
        ValueError: it is damaged, or does not describe gray, RGB or CMYK. The message completes "left out: ...".
    """
    import imagecodecs

    content = _checked(content)
    model = SPACES[content[16:20]]
    try:
        opened = ImageCms.getOpenProfile(io.BytesIO(content))
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), model, "RGB", INTENT, FLAGS)
        is_srgb, curve = False, None
        if model == "L":
            curve = _exact(content, model, np.arange(2**16).reshape(256, 256, 1))[..., 1].ravel()
        else:
            probes = _probes(len(model))
            converted = _exact(content, model, probes)
            is_srgb = model == "RGB" and _are_near(converted, probes)
    except (ImageCms.PyCMSError, imagecodecs.CmsError) as error:
        raise ValueError(f"littleCMS cannot use it ({error})") from error
    return Profile(content, model, _name(opened), is_srgb, curve, transform)


def _name(opened: ImageCms.ImageCmsProfile) -> str:
    try:
        name = " ".join((opened.profile.profile_description or "").split())
    except ValueError:  # Pillow cannot read a name in Latin-1
        name = ""
    return name[:LONGEST_NAME] or "without a readable name"


def _probes(channels: int) -> Array:
    """Return a grid of colours and 256 grays in 16 bits, 1 x N x channels."""
    steps = [np.linspace(0, 2**16 - 1, PROBES, dtype=np.uint16)] * channels
    grid = np.stack(np.meshgrid(*steps), axis=-1).reshape(1, -1, channels)
    grays = np.repeat(np.arange(0, 2**16, LEVEL, dtype=np.uint16)[None, :, None], channels, axis=2)
    return np.concatenate([grid, grays], axis=1)


def _are_near(converted: Array, probes: Array) -> bool:
    differences = converted.astype(np.float64) - probes
    luma = differences @ np.array(LUMA_REC601)
    return bool(np.abs(differences).max() <= TOLERANCE and np.abs(luma).max() <= LUMA_TOLERANCE)


def _checked(content: bytes) -> bytes:
    """Return a profile that littleCMS may read, without transforms in floats.

    Raises:
        ValueError: it is damaged, or of a kind that describes no photo.
    """
    size, tags = (int.from_bytes(content[place : place + 4]) for place in (0, HEADER))
    table = HEADER + 4 + 12 * tags
    if len(content) < HEADER + 4 or content[36:40] != b"acsp":
        raise ValueError("damaged (it has no header of an ICC profile)")
    if not table <= size <= len(content):
        raise ValueError(f"damaged ({len(content):,} bytes, expected {max(size, table):,})")
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has {len(content):,} bytes, expected at most {MOST_BYTES:,}")
    readable = bytearray(content)
    for place in range(HEADER + 4, table, 12):
        name, start, length = struct.unpack_from(">4sLL", content, place)
        if start + length > size:
            raise ValueError(f"damaged (a tag ends at {start + length:,} of {size:,} bytes)")
        if name in FLOAT_TAGS:
            readable[place : place + 4] = bytes(4)
    if content[16:20] not in SPACES or content[12:16] not in CLASSES:
        kind, space = (_text(content[place : place + 4]) for place in (12, 16))
        raise ValueError(f"it is of class {kind} for {space}, which describes no photo in gray, RGB or CMYK")
    return bytes(readable)


def _text(signature: bytes) -> str:
    return signature.decode("ascii", "replace").strip()


def needs_colors(content: bytes | None, use: ProfileUse) -> bool:
    """Return True if the luma of a photo with this profile is not that of its colours as they are stored."""
    if not content or _is_kept(content, use):
        return False
    try:
        return not profile_of(content).is_srgb
    except ValueError:  # `settle` says so
        return False


def _is_kept(content: bytes, use: ProfileUse) -> bool:
    return use == ProfileUse.KEEP and content[16:20] == b"RGB "


def settle(content: bytes | None, model: str, use: ProfileUse, notes: list[str]) -> tuple[Convert | None, bytes | None]:
    """Return the conversion of a photo's colours, and the profile of its output; None where there is none.

    Args:
        content: the photo's profile.
        model: the photo's colour model: L, RGB or CMYK.
        use: of profiles for RGB; others are always converted, since an output in RGB cannot have them.
        notes: list to which a note is appended on colours that are converted, or a profile that is left out.
    """
    if not content:
        return None, None
    try:
        profile = profile_of(content)
        if profile.is_srgb or _is_kept(content, use):
            return None, content
        if profile.model != model:
            raise ValueError(f"it is for {NAMES[profile.model]}, the photo is {NAMES[model]}")
    except ValueError as error:
        notes.append(f"ICC profile left out: {error}")
        return None, None
    notes.append(f"converted from its ICC profile to sRGB: {profile.name}")
    return profile.convert, None
