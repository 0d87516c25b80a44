"""Colouring of single photos from Python, with the same steps as `cgan-infer folder` but no folders and no journal.

`Colorizer().color(image)` colours a PIL.Image.Image, `Colorizer().color_photo(file)` a file or its bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image

from cgan.errors import UserError
from cgan.photo_limits import MAX_PIXELS, MAX_SECONDS, time_limit
from infer.backends import open_model
from infer.packaged import DEFAULT_MODEL, model_path
from infer.photo.chroma import with_strength
from infer.photo.decode import Floats, Photo, decode, model_input, photo_of
from infer.photo.encode import rgb_image, write_photo
from infer.photo.formats import QUALITY, WRITE_FORMATS, ColorPhotos, ProfileUse, check_strength
from infer.photo.mark import Mark

KEPT_INFO = frozenset({"comment", "dpi", "exif", "xmp"})
"""Keys of an image's `info` that describe the photo; other keys describe its source file."""


@dataclass(frozen=True)
class Colored:
    """A coloured photo as the content of a file."""

    content: bytes
    notes: tuple[str, ...]
    """Metadata and properties that were left out or changed, in the words of the report."""
    was_color: bool = False
    """True if the file was a colour photo, which `cgan-infer folder --color-photos` can skip or copy. A gray photo with
    a cast or in sepia is none."""


class Colorizer:
    """A loaded model that colours photos. Use it as a context manager, or call `close`. It is thread-safe.

    Args:
        model: a file of cgan-export, a run or checkpoint of cgan-train, or the name of a packaged model: "flowers"
            (default) or "flowers-int8".
        backend: as --backend of cgan-infer folder.
        provider: as --provider of cgan-infer folder.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads per photo; 0 leaves the choice to the engine.

    Raises:
        UserError: the model or the device is missing, or the file was changed since its export.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        backend: str = "auto",
        provider: str | None = None,
        device: str = "auto",
        threads: int = 0,
    ) -> None:
        path = model_path(model) if isinstance(model, str) else model
        self.backend = open_model(path, device, threads, backend=backend, provider=provider)
        """The entered backend; its `engine` names engine and device, its `note` holds warnings for the user."""
        self.backend.__enter__()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the model. No thread may be colouring a photo."""
        self._closed = True
        self.backend.__exit__(None, None, None)

    def color(self, image: Image.Image, *, strength: float = 1.0, profile: str = "convert") -> Image.Image:
        """Colour an image in memory.

        Args:
            image: image of any mode; only its luma is used. Gray values are in [0, 1] in mode F, and in [0, 65535] in
                mode I and in 16-bit modes. EXIF orientation is not applied; call PIL.ImageOps.exif_transpose first.
            strength: factor of chroma, 0 (gray) to 2; luma and hue stay.
            profile: as --profile of cgan-infer folder, for an ICC profile in `info`.

        Returns:
            An image of the same size and luma, in mode RGB, or RGBA if the image has transparency. Resolution, EXIF,
            XMP and comment are copied from `info`, and the profile if it describes the colours of the result.

        Raises:
            PhotoError: the image has no pixels, or values outside these ranges.
            OSError: the image is not loaded yet, and its file is damaged.
            RuntimeError: this object is closed, or the engine failed.
            TypeError: `image` is not a PIL.Image.Image.
            UserError: unknown `profile`, or `strength` is out of range.
        """
        check_strength(strength)
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"found {type(image).__name__}, expected a PIL.Image.Image; convert arrays with "
                "PIL.Image.fromarray, and pass files and bytes to color_photo"
            )
        photo = photo_of(image, _profile_use(profile))
        gray, rgb = self._colors(photo)
        colored = rgb_image(photo, gray, with_strength(rgb, strength))
        colored.info = {name: value for name, value in image.info.items() if name in KEPT_INFO}
        if photo.icc_profile:
            colored.info["icc_profile"] = photo.icc_profile
        return colored

    def color_photo(
        self,
        source: bytes | str | Path,
        format: str = "png",
        *,
        quality: int = QUALITY,
        strength: float = 1.0,
        profile: str = "convert",
        mark: bool = True,
        max_pixels: int = MAX_PIXELS,
        timeout: float = MAX_SECONDS,
    ) -> Colored:
        """Colour a file or its content. Bit depth, metadata and orientation are kept as in a folder run.

        Args:
            source: path or content of the file.
            format: format of the result: "jpg", "png", "webp" or "tiff".
            quality: quality of JPEG and WebP, 1 to 100.
            strength: factor of chroma, 0 (gray) to 2; luma and hue stay.
            profile: "convert" or "keep", as --profile of cgan-infer folder.
            mark: say in the XMP of the result that a model has coloured it, and which.
            max_pixels: limit of pixels, checked on the header. Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS, applies
                too: above it Pillow warns, above twice the limit it raises.
            timeout: limit in seconds of decoding and of encoding, checked between their steps; 0 for no limit.

        Raises:
            PhotoError: the content is empty, not an image, damaged, in another format than its suffix says, or too
                large for `max_pixels`, for the other limits of `cgan.photo_limits` or for the output format.
            LimitError: encoding took longer than `timeout`.
            OSError: the file cannot be read.
            UserError: unknown format or profile, or quality or strength out of range.
        """
        if format not in WRITE_FORMATS:
            raise UserError(f"format: found {format!r}, expected one of {', '.join(WRITE_FORMATS)}")
        if not 1 <= quality <= 100:
            raise UserError(f"quality: found {quality}, expected 1 to 100")
        check_strength(strength)
        use = _profile_use(profile)
        if not isinstance(source, bytes | str | Path):
            raise TypeError(
                f"found {type(source).__name__}, expected bytes or a path; pass the result of read() for a file object"
            )
        with time_limit(timeout):
            path = Path(source) if isinstance(source, str) else source
            photo = decode(path, max_pixels=max_pixels, profile=use)
        colors = self._colors(photo)
        named = Mark(self.backend.path.name, self.backend.digest) if mark else None
        with time_limit(timeout):
            content, notes = write_photo(
                photo, *colors, WRITE_FORMATS[format], quality=quality, strength=strength, mark=named
            )
        notes = (*photo.notes, *((ColorPhotos.RECOLOR.note,) if photo.was_color else ()), *notes)
        return Colored(bytes(content), notes, photo.was_color)

    def _colors(self, photo: Photo) -> tuple[Floats, Floats]:
        """Return the input of the model, 1 x h x w, and its output, 3 x h x w, both in [0, 1]."""
        if self._closed:
            raise RuntimeError("this Colorizer is closed; create a new one")
        gray = model_input(photo, *self.backend.own_size)
        return gray, self.backend.run(gray[None])[0]


def _profile_use(profile: str) -> ProfileUse:
    if profile not in list(ProfileUse):
        raise UserError(f"profile: found {profile!r}, expected one of {', '.join(ProfileUse)}")
    return ProfileUse(profile)
