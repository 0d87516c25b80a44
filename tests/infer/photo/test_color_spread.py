"""Colour photos are told from gray ones with a cast or a toning, in every format."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cgan.jpeg_decoder import decode_reduced
from infer.photo.color_spread import COLOR_SPREAD, spread_of
from infer.photo.decode import decode
from tests.infer.pictures import content_of, png_of, tiff_of

SIZE = (96, 80)


def blotches(channels: int) -> np.ndarray:
    """Smooth random values, H x W x channels."""
    small = np.random.default_rng(3).integers(0, 256, (5, 6, 3), np.uint8)
    large = np.asarray(Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC))
    return large[..., :channels]


@pytest.fixture(scope="module")
def colored() -> Image.Image:
    return Image.fromarray(blotches(3))


@pytest.fixture(scope="module")
def sepia() -> Image.Image:
    luma = blotches(1).astype(np.float64)
    return Image.fromarray(np.minimum(luma * [1.351, 1.203, 0.937], 255).round().astype(np.uint8))


def sixteen_bits(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.uint16) * 257


FORMATS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpg": lambda image: content_of(image, "JPEG", quality=60),
    "progressive": lambda image: content_of(image, "JPEG", progressive=True),
    "rgb-jpg": lambda image: content_of(image, "JPEG", keep_rgb=True),
    "cmyk-jpg": lambda image: content_of(image.convert("CMYK"), "JPEG"),
    "no-end": lambda image: content_of(image, "JPEG")[:-2],
    "png": lambda image: content_of(image, "PNG"),
    "palette": lambda image: content_of(image.quantize(64), "PNG"),
    "rgba": lambda image: content_of(image.convert("RGBA"), "PNG"),
    "png16": lambda image: png_of(sixteen_bits(image), 2),
    "tiff16": lambda image: tiff_of(sixteen_bits(image)),
    "tiff-cmyk": lambda image: content_of(image.convert("CMYK"), "TIFF"),
    "webp": lambda image: content_of(image, "WEBP"),
    "gif": lambda image: content_of(image.quantize(128), "GIF"),
    "bmp": lambda image: content_of(image, "BMP"),
}


@pytest.mark.parametrize("format_", FORMATS)
def test_toned_photos_are_gray_in_every_format(format_: str, colored: Image.Image, sepia: Image.Image) -> None:
    encode = FORMATS[format_]
    assert decode(encode(colored)).was_color
    toned = decode(encode(sepia))
    assert not toned.was_color
    assert toned.color_spread > 0  # it was measured


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_a_photo_without_colour_channels_is_not_measured(
    mode: str, sepia: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("infer.photo.color_spread.spread_of")
    image = sepia.convert("L")
    image = Image.fromarray(sixteen_bits(image)) if mode == "I;16" else image.convert(mode)
    assert decode(content_of(image, "PNG")).color_spread == 0


def test_a_large_jpeg_is_judged_by_a_small_part_of_its_data() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    content = content_of(Image.fromarray(noise), "JPEG", progressive=True, quality=95)
    first = decode_reduced(content, (512, 512), 32, True)
    assert first.size == (64, 64)
    middle = len(content) // 2  # the first scan ends long before it
    spoilt = decode_reduced(content[:middle] + bytes(len(content) - middle), (512, 512), 32, True)
    assert first.tobytes() == spoilt.tobytes()
    whole = Image.open(io.BytesIO(content)).reduce(8)
    assert np.abs(np.asarray(first, np.int16) - np.asarray(whole, np.int16)).mean() < 12


def test_transparent_pixels_have_no_colour(sepia: Image.Image, colored: Image.Image) -> None:
    hidden = colored.convert("RGBA")
    hidden.putalpha(0)
    assert decode(content_of(hidden, "PNG")).color_spread == 0
    seen = Image.alpha_composite(hidden, Image.new("RGBA", SIZE, 0))
    seen.paste(sepia.crop((0, 0, 96, 40)).convert("RGBA"))
    assert not decode(content_of(seen, "PNG")).was_color


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (3, 7), (2000, 2)])
def test_photos_of_any_shape_are_judged(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for image, is_color in ((Image.fromarray(values), size != (1, 1)), (Image.new("RGB", size, (200, 150, 90)), False)):
        for format_ in ("PNG", "JPEG"):
            photo = decode(
                content_of(image, format_, **({"quality": 95, "subsampling": 0} if format_ == "JPEG" else {}))
            )
            assert photo.was_color == is_color


@given(st.tuples(*[st.integers(0, 90)] * 3), st.tuples(*[st.integers(160, 255)] * 3), st.integers(0, 2**32 - 1))
def test_a_toned_photo_is_gray_whatever_its_tones(dark: tuple[int, ...], light: tuple[int, ...], seed: int) -> None:
    share = np.random.default_rng(seed).random((32, 32, 1))
    toned = np.array(dark) + share * (np.array(light) - np.array(dark))
    assert spread_of(Image.fromarray(toned.round().astype(np.uint8))) < COLOR_SPREAD


def test_the_small_examples_are_what_their_sources_say() -> None:
    folder = Path(__file__).parent.parent.parent.parent / "examples"
    photos = [path for path in folder.iterdir() if path.suffix in (".jpg", ".png")]
    assert photos
    assert not any(decode(path).was_color for path in photos)
