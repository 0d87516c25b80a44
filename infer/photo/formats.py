"""Output formats and other options of outputs, as users give them; imports neither numpy nor Pillow."""

from enum import StrEnum

from cgan.errors import UserError


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

OTHER_NAMES = {"jpeg": "jpg", "tif": "tiff"}
"""Other names of formats that Python programs can give."""

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


class ColorPhotos(StrEnum):
    """Handling of photos that are in colour already."""

    RECOLOR = "recolor"
    """Colour their luma anew."""
    SKIP = "skip"
    """Write no output."""
    COPY = "copy"
    """Write the file as it is."""

    @property
    def note(self) -> str:
        """The note on such a photo in the report."""
        return f"a colour photo, {COLOR_PHOTO_HANDLING[self]}"


COLOR_PHOTO_HANDLING = {
    ColorPhotos.RECOLOR: "coloured anew",
    ColorPhotos.SKIP: "skipped",
    ColorPhotos.COPY: "copied unchanged",
}


def written_format(name: str) -> PillowFormat:
    """Return the format of a name that a Python program gives, in upper or lower case.

    Raises:
        UserError: no format that is written has this name.
    """
    known = OTHER_NAMES.get(name.lower(), name.lower())
    if known not in WRITE_FORMATS:
        raise UserError(f"format: found {name!r}, expected one of {', '.join((*WRITE_FORMATS, *OTHER_NAMES))}")
    return WRITE_FORMATS[known]


MOST_STRENGTH = 2.0


def check_strength(strength: float, option: str = "strength") -> float:
    """Return a factor for chroma, 0 to MOST_STRENGTH.

    Raises:
        UserError: it is outside this range, or not a number.
    """
    if not 0 <= strength <= MOST_STRENGTH:  # also true for nan
        raise UserError(
            f"{option}: found {strength:g}, expected a number from 0 (gray) to {MOST_STRENGTH:g}; leave it out for the "
            "colours of the model"
        )
    return strength
