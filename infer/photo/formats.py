"""Output formats and resolutions, as options give them; imports neither numpy nor Pillow."""

from enum import StrEnum


class PillowFormat(StrEnum):
    """Formats that photos are written in, by Pillow's names."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WEBP"
    TIFF = "TIFF"
    BMP = "BMP"


WRITE_FORMATS: dict[str, PillowFormat] = {
    "jpg": PillowFormat.JPEG,
    "png": PillowFormat.PNG,
    "webp": PillowFormat.WEBP,
    "tiff": PillowFormat.TIFF,
}
"""Formats by the value of --format."""

QUALITY = 96
"""Default quality of JPEG and WebP: the lowest at which a JPEG is encoded without interleaving its planes first, see
`infer.photo.jpeg_writer`. Luma is off by 0.22 levels (RMS) in place of 0.30 at 95, in files 13% larger."""

SAME = "same"
"""Value of --format that keeps the format of each photo."""


class Resolution(StrEnum):
    """Size of the outputs."""

    ORIGINAL = "original"
    """Size and luma of the photo."""
    MODEL = "model"
    """Raw output of the network at its render size."""


class ProfileUse(StrEnum):
    """Use of RGB profiles other than sRGB."""

    CONVERT = "convert"
    """Colours are converted to sRGB; the output has no profile."""
    KEEP = "keep"
    """Luma stays as it is; the output has the profile."""
