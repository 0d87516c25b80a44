"""Photos on their way through a model that runs anywhere, such as on an inference server.

`prepare(file, height, width).gray` is the model's input, and `finish(rgb)` makes the coloured file from its output.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgan.errors import UserError
from cgan.photo_limits import MAX_PIXELS, MAX_SECONDS, time_limit
from cgan.text import counted, shown
from infer.photo.decode import Floats, Photo, PhotoError, decode, model_input
from infer.photo.encode import write_photo
from infer.photo.formats import QUALITY, ColorPhotos, ProfileUse, check_strength, written_format
from infer.photo.mark import Mark

ARGUMENTS = ("backend", "device", "format", "max-pixels", "model", "profile", "provider", "timeout")
FLAG = re.compile(rf"(?<!cgan-export )--({'|'.join(ARGUMENTS)})\b")
"""Options of the command that are arguments here, as messages name them."""


@dataclass(frozen=True, repr=False)
class Colored:
    """A coloured photo as the content of a file."""

    content: bytes
    notes: tuple[str, ...]
    """Metadata and properties that were left out or changed, in the words of the report."""
    was_color: bool = False
    """True if the file was a colour photo, which `cgan-infer folder --color-photos` can skip or copy. A gray photo with
    a cast or in sepia is none."""

    def __repr__(self) -> str:
        return f"Colored({counted(len(self.content), 'byte')}, notes={shown(self.notes)}, was_color={self.was_color})"


@dataclass(frozen=True)
class PreparedPhoto:
    """A decoded photo, and the input for a model."""

    photo: Photo
    gray: Floats
    """Rec.601 luma, 1 x height x width float32 in [0, 1]."""

    def finish(
        self,
        rgb: Floats,
        format: str = "png",
        *,
        quality: int = QUALITY,
        strength: float = 1.0,
        mark: Mark | None = None,
        timeout: float = MAX_SECONDS,
    ) -> Colored:
        """Merge the colours of the model with the luma of the photo, and encode the result with the photo's metadata.

        Args:
            rgb: output of the model, 3 x height x width in [0, 1], sRGB.
            format, quality, strength, timeout: as for `Colorizer.color_photo`.
            mark: the model, to be named in the XMP of the result; None for no mark.

        Raises:
            PhotoError: the photo is too large for the format.
            LimitError: encoding took longer than `timeout`.
            UserError: unknown format, or quality or strength out of range.
            ValueError: `rgb` has another shape, or values that are not finite.
        """
        if not 1 <= quality <= 100:
            raise UserError(f"quality: found {quality}, expected 1 to 100")
        check_strength(strength)
        expected = (3, *self.gray.shape[1:])
        if rgb.shape != expected or not np.isfinite(rgb).all():
            raise ValueError(f"found an output of shape {rgb.shape}, expected {expected} of finite numbers")
        with naming_arguments(), time_limit(timeout):
            content, notes = write_photo(
                self.photo,
                self.gray,
                rgb,
                written_format(format),
                quality=quality,
                strength=strength,
                mark=mark,
            )
        color = (ColorPhotos.RECOLOR.note,) if self.photo.was_color else ()
        return Colored(bytes(content), (*self.photo.notes, *color, *notes), self.photo.was_color)


def prepare(
    source: bytes | str | Path,
    height: int,
    width: int,
    *,
    profile: str = "convert",
    max_pixels: int = MAX_PIXELS,
    timeout: float = MAX_SECONDS,
) -> PreparedPhoto:
    """Decode a photo and make the input for a model.

    Args:
        source: path or content of the file.
        height, width: size of the model's input in pixels.
        profile, max_pixels, timeout: as for `Colorizer.color_photo`.

    Raises:
        PhotoError, OSError, TypeError: as for `Colorizer.color_photo`.
        UserError: unknown profile.
    """
    if not isinstance(source, bytes | str | Path):
        raise TypeError(
            f"found {type(source).__name__}, expected bytes or a path; pass the result of read() for a file object"
        )
    use = profile_use(profile)
    with naming_arguments(), time_limit(timeout):
        photo = decode(Path(source) if isinstance(source, str) else source, max_pixels=max_pixels, profile=use)
    return PreparedPhoto(photo, model_input(photo, height, width))


@contextmanager
def naming_arguments() -> Iterator[None]:
    """Replace options of the command in messages by the arguments of the same name: --max-pixels by max_pixels."""
    try:
        yield
    except (PhotoError, UserError) as error:
        error.args = (FLAG.sub(lambda found: found[1].replace("-", "_"), str(error)),)
        raise


def profile_use(profile: str) -> ProfileUse:
    """Return the use of an ICC profile by its name.

    Raises:
        UserError: there is no such use.
    """
    if profile not in list(ProfileUse):
        raise UserError(f"profile: found {profile!r}, expected one of {', '.join(ProfileUse)}")
    return ProfileUse(profile)
