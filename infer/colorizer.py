"""Photos one by one from Python: what `cgan-infer folder` does with each, without folders and journal.

`Colorizer().color(image)` colours a PIL.Image.Image, `Colorizer().color_photo(file)` a file or its bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image

from cgan.errors import UserError
from infer.backends import open_model
from infer.packaged import DEFAULT_MODEL, model_path
from infer.photo.decode import MAX_PIXELS, WRITE_FORMATS, Floats, Photo, decode, model_input, photo_of
from infer.photo.encode import rgb_image, write_photo
from infer.photo.metadata import other_profile

KEPT_INFO = frozenset({"comment", "dpi", "exif", "icc_profile", "xmp"})
"""Of an image's `info`, what describes the photo; the rest is of the file that it came from."""


@dataclass(frozen=True)
class Colored:
    """A photo in colour, as a file holds it."""

    content: bytes
    notes: tuple[str, ...]
    """What was left out or changed, as a run's report tells it."""


class Colorizer:
    """A loaded model that colours photos; close it, or use it as a context. Several threads may share one.

    Args:
        model: a file of cgan-export, a run or checkpoint, or "flowers" (default) or "flowers-int8", which lie in the
            package.
        backend: as --backend of cgan-infer folder.
        provider: as --provider.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads for one photo; 0 leaves the choice to the engine.

    Raises:
        UserError: a model or a device that is not here, or a changed file.
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
        """Its `engine` says what runs where, its `note` what else a user should know."""
        self.backend.__enter__()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the model; no thread may be colouring."""
        self._closed = True
        self.backend.__exit__(None, None, None)

    def color(self, image: Image.Image) -> Image.Image:
        """An image in memory, in colour.

        Args:
            image: of any mode; of colours only their luma is seen. Gray in mode F is from 0 to 1, in mode I and those
                of 16 bits from 0 to 65535. Its EXIF orientation is not applied, which PIL.ImageOps.exif_transpose does.

        Returns:
            Mode RGB, or RGBA where there was transparency, of the same size and luma, with what `info` holds of
            resolution, EXIF, XMP, comment and an RGB profile.

        Raises:
            PhotoError: no pixels, or values out of those ranges.
            OSError: the file behind an image that is not loaded yet is damaged.
            RuntimeError: it is closed, or the engine failed.
            TypeError: not an image.
        """
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"found {type(image).__name__}, expected a PIL.Image.Image; PIL.Image.fromarray makes one of an array, "
                "color_photo takes files and bytes"
            )
        photo = photo_of(image)
        colored = rgb_image(photo, *self._colors(photo))
        kept = KEPT_INFO - {"icc_profile"} if other_profile(image) else KEPT_INFO
        colored.info = {name: value for name, value in image.info.items() if name in kept}
        return colored

    def color_photo(
        self, source: bytes | str | Path, format: str = "png", *, quality: int = 95, max_pixels: int = MAX_PIXELS
    ) -> Colored:
        """A file, or its content, in colour, with all that a folder run keeps: 16 bits, metadata, orientation.

        Args:
            source: where the file lies, or its bytes.
            format: "jpg", "png", "webp" or "tiff", of the result.
            quality: of JPEG and WebP, 1 to 100.
            max_pixels: larger photos are refused from their header. Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS,
                holds too, with a warning from there on and an error from twice as many.

        Raises:
            PhotoError: empty, not an image, of a content that its name denies, damaged, too large, or too large for
                the format.
            OSError: the file cannot be read.
            UserError: another format or quality.
        """
        if format not in WRITE_FORMATS:
            raise UserError(f"format: found {format!r}, expected one of {', '.join(WRITE_FORMATS)}")
        if not 1 <= quality <= 100:
            raise UserError(f"quality: found {quality}, expected 1 to 100")
        if not isinstance(source, bytes | str | Path):
            raise TypeError(f"found {type(source).__name__}, expected bytes or a path; read() gives a file's bytes")
        photo = decode(Path(source) if isinstance(source, str) else source, max_pixels=max_pixels)
        content, notes = write_photo(photo, *self._colors(photo), WRITE_FORMATS[format], quality=quality)
        return Colored(bytes(content), photo.notes + notes)

    def _colors(self, photo: Photo) -> tuple[Floats, Floats]:
        """What the model sees, 1 x h x w, and what it answers, 3 x h x w."""
        if self._closed:
            raise RuntimeError("this Colorizer is closed; make another")
        gray = model_input(photo, *self.backend.own_size)
        return gray, self.backend.run(gray[None])[0]
