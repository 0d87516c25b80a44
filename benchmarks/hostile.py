"""Photos in many formats and modes, with hostile files among them, for `python -m benchmarks stress`."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

HOSTILE_EVERY = 10
LONGEST = 256
ORIENTATION, TURNED = 0x0112, 6


@dataclass(frozen=True)
class Good:
    """Expectations of the output of a good photo."""

    size: tuple[int, int]
    """Width and height."""
    has_tones: bool
    """False where every pixel is black or white: such pixels have no colour with the same luma."""


def _content(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def _deep(gray: Image.Image) -> Image.Image:
    """Return the picture with 16 bits a channel."""
    return Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)


def _with_alpha(gray: Image.Image, mode: str) -> Image.Image:
    image = gray.convert(mode)
    image.putalpha(gray.point(lambda value: 255 - value // 2))
    return image


def _turned(gray: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    return _content(gray, "JPEG", exif=exif)


PHOTOS: dict[str, Callable[[Image.Image], bytes]] = {
    "gray.jpg": lambda gray: _content(gray, "JPEG"),
    "progressive.jpg": lambda gray: _content(gray, "JPEG", progressive=True),
    "rgb.jpg": lambda gray: _content(gray.convert("RGB"), "JPEG"),
    "cmyk.jpg": lambda gray: _content(gray.convert("RGB").convert("CMYK"), "JPEG"),
    "turned.jpg": _turned,
    "gray.png": lambda gray: _content(gray, "PNG"),
    "deep.png": lambda gray: _content(_deep(gray), "PNG"),
    "la.png": lambda gray: _content(_with_alpha(gray, "LA"), "PNG"),
    "rgba.png": lambda gray: _content(_with_alpha(gray, "RGBA"), "PNG"),
    "palette.png": lambda gray: _content(gray.convert("RGB").quantize(32), "PNG"),
    "bits.png": lambda gray: _content(gray.convert("1"), "PNG"),
    "gray.tif": lambda gray: _content(gray, "TIFF"),
    "deep.tif": lambda gray: _content(_deep(gray), "TIFF"),
    "gray.webp": lambda gray: _content(gray.convert("RGB"), "WEBP"),
}
"""Encoders of good photos, by the end of the file name."""


def _half(format_: str) -> Callable[[Image.Image], bytes]:
    def cut(gray: Image.Image) -> bytes:
        content = _content(gray.convert("RGB"), format_)
        return content[: len(content) // 2]

    return cut


HOSTILE: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "empty.jpg": (lambda _: b"", "the file is empty"),
    "half.jpg": (_half("JPEG"), "truncated"),
    "half.png": (_half("PNG"), "truncated"),
    "half.tif": (_half("TIFF"), "damaged"),
    "half.webp": (_half("WEBP"), "damaged"),
    "text.png": (lambda _: b"no photo at all\n", "not an image"),
    "other.jpg": (lambda gray: _content(gray, "PNG"), "its content is png but its name says jpeg"),
}
"""Encoders of hostile files, by the end of the file name, and words of the reason in report.json, in lower case."""


def make_mixed(sources: Path, target: Path, count: int) -> tuple[dict[str, Good], dict[str, str]]:
    """Write `count` files made from the photos in `sources`, one in ten of them hostile, in some subfolders.

    Returns:
        The good photos by their path below `target`, and the hostile files with words of their reason.
    """
    grays = []
    for path in sorted(sources.iterdir()):
        with Image.open(path) as image:
            gray = image.convert("L")
        gray.thumbnail((LONGEST, LONGEST))
        grays.append(gray.crop((0, 0, gray.width, gray.height * 3 // 4)))  # not square, so that a rotation shows
    good: dict[str, Good] = {}
    bad: dict[str, str] = {}
    for i in range(count):
        gray, hostile = grays[i % len(grays)], i % HOSTILE_EVERY == HOSTILE_EVERY - 1
        kinds = list(HOSTILE if hostile else PHOTOS)
        kind = kinds[(i // HOSTILE_EVERY if hostile else i) % len(kinds)]
        name = f"{i % 7}/{i:06d}-{kind}"
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if hostile:
            make, bad[name] = HOSTILE[kind]
        else:
            make = PHOTOS[kind]
            size = gray.size[::-1] if kind == "turned.jpg" else gray.size
            good[name] = Good(size, kind != "bits.png")
        path.write_bytes(make(gray))
    return good, bad
