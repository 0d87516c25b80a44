"""Photos one by one from Python: what `cgan-infer folder` does with each, without folders and journal.

from infer.colorizer import Colorizer

with Colorizer() as colorizer:
    colorizer.color(Image.open("gray.jpg")).save("color.jpg")
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image

from infer.backends import open_model
from infer.images import WRITE_FORMATS, Floats, Photo, decode, model_input, photo_of
from infer.metadata import other_profile
from infer.packaged import model_path
from infer.render import rgb_image, write_photo


@dataclass(frozen=True)
class Colored:
    """A photo in colour, as a file holds it."""

    content: bytes
    notes: tuple[str, ...]
    """What was left out or changed, as a run's report tells it."""


class Colorizer:
    """A loaded model that colours photos; close it, or use it as a context. Several threads may share one.

    Args:
        model: a file of cgan-export, a run or checkpoint, or "flowers" or "flowers-int8", which lie in the package.
        backend: as --backend of cgan-infer folder.
        provider: as --provider.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads for one photo; 0 leaves the choice to the engine.

    Raises:
        UserError: a model or a device that is not here, or a changed file.
    """

    def __init__(
        self,
        model: str | Path = "flowers",
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the model."""
        self.backend.__exit__(None, None, None)

    def color(self, image: Image.Image) -> Image.Image:
        """An image in memory, in colour.

        Args:
            image: of any mode; of colours only their luma is seen. Its EXIF orientation is not applied, which
                PIL.ImageOps.exif_transpose does.

        Returns:
            Mode RGB, or RGBA where there was transparency, of the same size and luma, with the `info` of the image.

        Raises:
            PhotoError: values that are not finite.
            OSError: the file behind an image that is not loaded yet is damaged.
        """
        photo = photo_of(image)
        colored = rgb_image(photo, *self._colors(photo))
        dropped = {"transparency"} | ({"icc_profile"} if other_profile(image) else set())
        colored.info = {name: value for name, value in image.info.items() if name not in dropped}
        return colored

    def color_photo(self, source: bytes | Path, format: str = "png", quality: int = 95) -> Colored:
        """A file, or its content, in colour, with all that a folder run keeps: 16 bits, metadata, orientation.

        Args:
            source: where the file lies, or its bytes.
            format: "jpg", "png", "webp" or "tiff", of the result.
            quality: of JPEG and WebP, 1 to 100.

        Raises:
            PhotoError: empty, not an image, damaged or too large.
            OSError: the file cannot be read.
            KeyError: another format.
        """
        photo = decode(source)
        content, notes = write_photo(photo, *self._colors(photo), WRITE_FORMATS[format], quality=quality)
        return Colored(bytes(content), photo.notes + notes)

    def _colors(self, photo: Photo) -> tuple[Floats, Floats]:
        """What the model sees, 1 x h x w, and what it answers, 3 x h x w."""
        spec = self.backend.spec
        gray = model_input(photo, *(self.backend.fixed_size or (spec.render_size, spec.render_size)))
        return gray, self.backend.run(gray[None])[0]
