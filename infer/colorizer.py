"""Colouring of photos from Python, with the same steps as `cgan-infer folder` but no folders and no journal.

`Colorizer().color(image)` colours an image in memory, `Colorizer().color_photo(file)` a file or its bytes;
`color_batch` and `color_photos` colour many.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cgan.errors import UserError
from cgan.photo_limits import MAX_PIXELS, MAX_SECONDS
from infer.backends import open_model
from infer.packaged import DEFAULT_MODEL, model_path
from infer.photo.chroma import with_strength
from infer.photo.decode import Floats, Photo, model_input, photo_of
from infer.photo.encode import rgb_image
from infer.photo.formats import QUALITY, ProfileUse, check_strength, written_format
from infer.photo.mark import Mark
from infer.photo.prepared_photo import Colored, naming_arguments, prepare, profile_use

KEPT_INFO = frozenset({"comment", "dpi", "exif", "xmp"})
"""Keys of an image's `info` that describe the photo; other keys describe its source file."""


Gray = Image.Image | NDArray[np.uint8] | NDArray[np.uint16]
"""An image in memory; an array is H x W."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Output:
    """Checked options of an output file, as `Colorizer.color_photo` describes them."""

    format: str
    quality: int
    strength: float
    profile: str
    mark: bool
    max_pixels: int
    timeout: float

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality: found {self.quality}, expected 1 to 100")
        check_strength(self.strength)
        written_format(self.format)
        profile_use(self.profile)


class Colorizer:
    """A loaded model that colours photos. Use it as a context manager, or call `close`. It is thread-safe.

    Args:
        model: a file of cgan-export, a run or checkpoint of cgan-train, the name of a packaged model: "flowers"
            (default) or "flowers-int8", or "hf://owner/name" for one on the Hugging Face Hub.
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
        notes: list[str] = []
        with naming_arguments():
            path = model_path(model, notes.append) if isinstance(model, str) else model
            self.backend = open_model(path, device, threads, backend=backend, provider=provider)
            """The entered backend; its `engine` names engine and device, its `note` holds warnings for the user."""
            self.backend.__enter__()
        self.backend.note = "; ".join(filter(None, [self.backend.note, *notes])) or None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else self.backend.engine
        return f"Colorizer({self.backend.path.name!r}, {state})"

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

    def color(self, image: Gray, *, strength: float = 1.0, profile: str = "convert") -> Image.Image:
        """Colour an image in memory.

        Args:
            image: image of any mode, or H x W array of uint8 or uint16; only its luma is used. Gray values are in
                [0, 1] in mode F, and in [0, 65535] in mode I and in 16-bit modes and arrays. EXIF orientation is not
                applied; call PIL.ImageOps.exif_transpose first.
            strength: factor of chroma, 0 (gray) to 2; luma and hue stay.
            profile: "convert" or "keep", as --profile of cgan-infer folder, for an ICC profile in `info`.

        Returns:
            An image of the same size and luma, in mode RGB, or RGBA if the image has transparency. Resolution, EXIF,
            XMP and comment are copied from `info`, and the profile if it describes the colours of the result.

        Raises:
            PhotoError: the image has no pixels, or values outside these ranges.
            OSError: the image is not loaded yet, and its file is damaged.
            RuntimeError: this object is closed, or the engine failed.
            TypeError: `image` is neither an image nor such an array.
            UserError: unknown `profile`, or `strength` is out of range.
        """
        (colored,) = self.color_batch([image], strength=strength, profile=profile)
        return colored

    def color_batch(
        self,
        images: Iterable[Gray],
        *,
        strength: float = 1.0,
        profile: str = "convert",
        batch_size: int | None = None,
    ) -> Iterator[Image.Image]:
        """Colour many images, with one call of the network for each batch.

        The results are those of `color`, up to the rounding of the engine, which can depend on the size of a batch.

        Args:
            images: as for `color`, of any sizes; taken batch by batch, so that a generator bounds the memory.
            strength: as for `color`.
            profile: as for `color`.
            batch_size: images in a batch, at least 1; None for 4, on a GPU 64, or what the engine allows.

        Yields:
            The coloured images, in the order of `images`.

        Raises:
            UserError: at once, if an argument is out of range.
            PhotoError, OSError, RuntimeError, TypeError: as `color`, for the batch with that image.
        """
        check_strength(strength)
        use, size = profile_use(profile), self._batch_size(batch_size)
        return self._images(images, strength, use, size)

    def _images(
        self, images: Iterable[Gray], strength: float, profile: ProfileUse, batch_size: int
    ) -> Iterator[Image.Image]:
        for batch in _batches(map(_image_of, images), batch_size):
            photos = [photo_of(image, profile) for image in batch]
            for image, photo, (gray, rgb) in zip(batch, photos, self._colors(photos), strict=True):
                colored = rgb_image(photo, gray, with_strength(rgb, strength))
                colored.info = {name: value for name, value in image.info.items() if name in KEPT_INFO}
                if photo.icc_profile:
                    colored.info["icc_profile"] = photo.icc_profile
                yield colored

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
            format: format of the result: "jpg" or "jpeg", "png", "webp", "tiff" or "tif"; capitals are the same.
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
            RuntimeError: this object is closed, or the engine failed.
            TypeError: `source` is neither bytes nor a path.
            UserError: unknown format or profile, or quality or strength out of range.
        """
        output = _Output(format, quality, strength, profile, mark, max_pixels, timeout)
        (colored,) = self._files([source], output, 1)
        return colored

    def color_photos(
        self,
        sources: Iterable[bytes | str | Path],
        format: str = "png",
        *,
        batch_size: int | None = None,
        quality: int = QUALITY,
        strength: float = 1.0,
        profile: str = "convert",
        mark: bool = True,
        max_pixels: int = MAX_PIXELS,
        timeout: float = MAX_SECONDS,
    ) -> Iterator[Colored]:
        """Colour many files or their contents, with one call of the network for each batch.

        The results are those of `color_photo`, up to the rounding of the engine, which can depend on the size of a
        batch. A photo that fails ends the iteration; `cgan-infer folder` goes on.

        Args:
            sources: as for `color_photo`; taken batch by batch, so that a generator bounds the memory.
            batch_size: photos in a batch, at least 1; None for 4, on a GPU 64, or what the engine allows.
            format, quality, strength, profile, mark, max_pixels, timeout: as for `color_photo`, for each photo.

        Yields:
            The coloured photos, in the order of `sources`.

        Raises:
            UserError: at once, if an argument is out of range.
            PhotoError, LimitError, OSError, RuntimeError, TypeError: as `color_photo`, for the batch with that photo.
        """
        if isinstance(sources, str | bytes | Path):
            raise TypeError(f"found one {type(sources).__name__}, expected several in a list; or call color_photo")
        output = _Output(format, quality, strength, profile, mark, max_pixels, timeout)
        return self._files(sources, output, self._batch_size(batch_size))

    def _files(self, sources: Iterable[bytes | str | Path], output: _Output, batch_size: int) -> Iterator[Colored]:
        self._check_open()
        mark = Mark(self.backend.path.name, self.backend.digest) if output.mark else None
        for batch in _batches(sources, batch_size):
            self._check_open()
            photos = [
                prepare(
                    source,
                    *self.backend.own_size,
                    profile=output.profile,
                    max_pixels=output.max_pixels,
                    timeout=output.timeout,
                )
                for source in batch
            ]
            for photo, rgb in zip(photos, self.backend.run(np.stack([photo.gray for photo in photos])), strict=True):
                yield photo.finish(
                    rgb,
                    output.format,
                    quality=output.quality,
                    strength=output.strength,
                    mark=mark,
                    timeout=output.timeout,
                )

    def _batch_size(self, asked: int | None) -> int:
        """Return the number of photos of a batch.

        Raises:
            UserError: the engine does not allow the number that was asked for.
        """
        if asked is None:
            return self.backend.default_batch
        if asked < 1 or self.backend.within_range(asked) < asked:
            most = self.backend.batch_range[1]
            raise UserError(f"batch_size: found {asked}, expected {f'1 to {most}' if most else '1 or more'}")
        return asked

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this Colorizer is closed; create a new one")

    def _colors(self, photos: list[Photo]) -> Iterator[tuple[Floats, Floats]]:
        """Return for each photo the input of the model, 1 x h x w, and its output, 3 x h x w, both in [0, 1]."""
        self._check_open()
        grays = [model_input(photo, *self.backend.own_size) for photo in photos]
        return zip(grays, self.backend.run(np.stack(grays)), strict=True)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    waiting = iter(items)
    while batch := list(islice(waiting, size)):
        yield batch


def _image_of(image: Gray) -> Image.Image:
    """Return an image in memory, made of the array if it is one."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype in (np.uint8, np.uint16):
        return Image.fromarray(image)
    found = f"an array {image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
    raise TypeError(
        f"found {found}, expected a PIL.Image.Image or an H x W array of uint8 or uint16; pass files and bytes to "
        "color_photo"
    )
