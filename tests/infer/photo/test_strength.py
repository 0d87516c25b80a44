"""--strength scales chroma, and leaves luma and hue as they are."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cgan.errors import UserError
from infer.photo.chroma import with_strength
from infer.photo.decode import Photo, model_input
from infer.photo.encode import write_photo
from infer.photo.formats import check_strength

STRENGTHS = st.floats(0, 2, width=32)
SEEDS = st.integers(0, 2**32 - 1)


def case(seed: int, size: tuple[int, int] = (24, 20), dtype: Any = np.uint8) -> tuple[Photo, np.ndarray]:
    """A photo, and an output of the network for it of 16 x 16."""
    rng = np.random.default_rng(seed)
    luma = rng.integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True)
    return Photo(luma, None, None, None, None, ()), rng.random((3, 16, 16), np.float32)


def colored(photo: Photo, rgb: np.ndarray, format_: str = "PNG", **options: object) -> np.ndarray:
    content, _ = write_photo(photo, model_input(photo, 16, 16), rgb, format_, **options)  # type: ignore[arg-type]
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def luma_of(pixels: np.ndarray) -> np.ndarray:
    luma: np.ndarray = pixels @ np.array([0.299, 0.587, 0.114])
    return luma


@given(SEEDS, STRENGTHS)
def test_luma_stays(seed: int, strength: float) -> None:
    photo, rgb = case(seed)
    assert np.abs(luma_of(colored(photo, rgb, strength=strength)) - photo.luma).max() <= 1


@given(SEEDS, st.booleans())
def test_zero_is_gray_and_one_changes_nothing(seed: int, raw: bool) -> None:
    photo, rgb = case(seed)
    gray = colored(photo, rgb, strength=0, raw=raw)
    assert np.ptp(gray, axis=2).max() == 0
    if not raw:
        assert np.array_equal(gray[..., 0], photo.luma)
    assert np.array_equal(colored(photo, rgb, strength=1, raw=raw), colored(photo, rgb, raw=raw))


@pytest.mark.parametrize("format_", ["JPEG", "TIFF", "BMP"])
def test_zero_is_gray_in_other_formats_too(format_: str) -> None:
    photo, rgb = case(0)
    assert np.ptp(colored(photo, rgb, format_, strength=0, quality=100), axis=2).max() == 0


def test_zero_is_gray_with_16_bits() -> None:
    import imagecodecs

    photo, rgb = case(0, dtype=np.uint16)
    content, _ = write_photo(photo, model_input(photo, 16, 16), rgb, "PNG", strength=0)
    assert np.array_equal(imagecodecs.png_decode(bytes(content)), np.repeat(photo.luma[..., None], 3, axis=2))


@given(SEEDS, STRENGTHS, STRENGTHS, st.booleans())
def test_chroma_grows_with_strength(seed: int, one: float, other: float, raw: bool) -> None:
    photo, rgb = case(seed)
    less, more = (colored(photo, rgb, strength=strength, raw=raw) for strength in sorted((one, other)))
    ranges = np.ptp(less, axis=2), np.ptp(more, axis=2)
    assert (ranges[1] - ranges[0]).min() >= -2  # of rounding


@given(SEEDS, STRENGTHS)
def test_the_network_s_own_output_keeps_its_luma_and_its_hue(seed: int, strength: float) -> None:
    photo, rgb = case(seed)
    before, after = colored(photo, rgb, raw=True), colored(photo, rgb, raw=True, strength=strength)
    assert np.abs(luma_of(after) - luma_of(before)).max() <= 1.5
    chroma = [(pixels - luma_of(pixels)[..., None]).reshape(-1, 3) for pixels in (before, after)]
    lengths = [np.linalg.norm(part, axis=1) for part in chroma]
    clear = (lengths[0] > 30) & (lengths[1] > 30)
    cosines = (chroma[0] * chroma[1]).sum(axis=1)[clear] / (lengths[0] * lengths[1])[clear]
    assert (cosines > 0.99).all()


def test_one_is_the_same_array() -> None:
    _, rgb = case(0)
    assert with_strength(rgb, 1.0) is rgb
    assert not np.array_equal(with_strength(rgb, 1.5), rgb)


@pytest.mark.parametrize("strength", [-0.1, 2.001, float("nan"), float("inf")])
def test_other_factors_are_refused_in_one_line(strength: float) -> None:
    with pytest.raises(UserError, match=r"^strength: found \S+, expected a number from 0 \(gray\) to 2; leave it out"):
        check_strength(strength)


def test_jpeg_and_png_agree() -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(60, 200, (6, 5), np.uint8)).resize((40, 48), Image.Resampling.BICUBIC)
    photo = Photo(np.asarray(smooth), None, None, None, None, ())
    rgb = np.full((3, 16, 16), 0.5, np.float32)
    rgb[0] = 0.6
    png, jpeg = (colored(photo, rgb, format_, strength=1.7, quality=100) for format_ in ("PNG", "JPEG"))
    assert np.abs(png - jpeg).max() <= 4
