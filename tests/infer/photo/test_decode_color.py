"""Colour at the photo's own resolution: luma, gamut, edges."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from cgan.spec import LUMA_REC601
from infer.photo import bands
from infer.photo import encode as render
from infer.photo.chroma import color_maps
from infer.photo.decode import Photo, model_input
from infer.photo.encode import write_photo

RNG = np.random.default_rng(0)
TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
"""JFIF 1.02, page 3: what a decoder does to Y, Cb - 128 and Cr - 128."""


def photo_of(luma: np.ndarray) -> Photo:
    return Photo(luma=luma, alpha=None, exif=None, icc_profile=None, dpi=None, notes=())


def gray_u8(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width), np.uint8)


def colored(photo: Photo, gray: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """The output photo as 8-bit RGB, H x W x 3."""
    content, _ = write_photo(photo, gray, rgb, "BMP")
    return np.asarray(Image.open(io.BytesIO(content)))


def ycbcr(photo: Photo, gray: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Return the samples for a JPEG encoder, H x W x 3."""
    return np.stack(render._planes(photo, gray, rgb), axis=-1)


def luma_of(rgb: np.ndarray) -> np.ndarray:
    """Not rounded."""
    luma: np.ndarray = rgb @ np.array(LUMA_REC601)
    return luma


def uniform(color: tuple[float, float, float], size: int = 16) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.float32)[:, None, None], (3, size, size)).copy()


sides = st.integers(1, 40)
lumas = st.one_of(
    hnp.arrays(np.uint8, st.tuples(sides, sides)),
    hnp.arrays(np.uint16, st.tuples(sides, sides)),
)


def answer_for(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Any gray and any colours, the strongest among them."""
    rng = np.random.default_rng(seed)
    rgb = rng.random((3, 16, 16), np.float32)
    return rng.random((1, 16, 16), np.float32), rgb.round() if seed % 2 else rgb


@settings(max_examples=80, deadline=None)
@given(lumas, st.integers(0, 2**32 - 1))
def test_rgb_keeps_luma_within_half_a_level(luma: np.ndarray, seed: int) -> None:
    out = colored(photo_of(luma), *answer_for(seed))
    expected = luma * (255 / np.iinfo(luma.dtype).max)
    assert out.shape == (*luma.shape, 3)
    assert np.abs(luma_of(out) - expected).max() <= 0.501
    if luma.dtype == np.uint8:
        assert np.abs(np.asarray(Image.fromarray(out).convert("L")).astype(int) - luma).max() <= 1


@settings(max_examples=80, deadline=None)
@given(lumas, st.integers(0, 2**32 - 1))
def test_jpeg_is_given_the_luma_itself_and_colours_that_fit(luma: np.ndarray, seed: int) -> None:
    planes = ycbcr(photo_of(luma), *answer_for(seed)).astype(float)
    if luma.dtype == np.uint8:
        assert np.array_equal(planes[..., 0], luma)
    assert np.abs(planes[..., 0] - luma * (255 / np.iinfo(luma.dtype).max)).max() <= 0.501
    rgb = (planes - [0, 128, 128]) @ TO_RGB.T
    # Rounding Cb and Cr moves R, G and B by up to half of 1.402, 0.344 + 0.714 and 1.772 levels; where it leaves
    # 0 to 255 a decoder clips this little. With 16 bits Y is rounded too.
    rounded_luma = 0.5 if luma.dtype == np.uint16 else 0
    assert rgb.min() >= -0.89 - rounded_luma
    assert rgb.max() <= 255.89 + rounded_luma


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(sides, sides)), st.integers(0, 2**32 - 1))
def test_jpeg_and_rgb_are_the_same_colours(luma: np.ndarray, seed: int) -> None:
    photo, answer = photo_of(luma), answer_for(seed)
    from_ycbcr = (ycbcr(photo, *answer).astype(float) - [0, 128, 128]) @ TO_RGB.T
    assert np.abs(from_ycbcr - colored(photo, *answer)).max() <= 1.4  # what rounding both leaves: 0.89 and 0.5


@pytest.mark.parametrize(("color", "luma"), [((0, 0, 1), 29), ((1, 0, 0), 76), ((1, 1, 0), 226), ((0, 1, 1), 179)])
def test_primary_colours_at_their_own_luma(color: tuple[float, float, float], luma: int) -> None:
    """Where Cb or Cr reach their limits, 0.5 and 255.5."""
    photo = photo_of(np.full((16, 16), luma, np.uint8))
    gray = np.full((1, 16, 16), luma / 255, np.float32)
    expected = np.array(color) * 255
    assert np.abs(colored(photo, gray, uniform(color)) - expected).max() <= 2
    from_ycbcr = (ycbcr(photo, gray, uniform(color)).astype(float) - [0, 128, 128]) @ TO_RGB.T
    assert np.abs(from_ycbcr - expected).max() <= 2


@pytest.mark.parametrize(("color", "luma"), [((0, 0, 1), 7471), ((1, 0, 0), 19_595)])
def test_colours_at_the_end_of_chroma_do_not_wrap_around(color: tuple[float, float, float], luma: int) -> None:
    """16 bits of luma come so close to that of blue and red that Cb and Cr are 255.5, which is not to be 0."""
    gray = np.full((1, 16, 16), luma / 65_535, np.float32)
    planes = ycbcr(photo_of(np.full((16, 16), luma, np.uint16)), gray, uniform(color))
    assert planes[..., 1 if color[2] else 2].min() == 255


def test_jpeg_of_best_quality_has_the_luma_of_the_photo() -> None:
    luma = np.asarray(Image.fromarray(gray_u8(12, 17)).resize((136, 96), Image.Resampling.BICUBIC))
    photo = photo_of(luma)
    rgb = RNG.random((3, 16, 16), np.float32)
    content, notes = write_photo(photo, model_input(photo, 16, 16), rgb, "JPEG", quality=100)
    assert notes == ()
    with Image.open(io.BytesIO(content)) as image:
        assert isinstance(image, JpegImageFile)
        assert {(vertical, horizontal) for _, vertical, horizontal, _ in image.layer} == {(1, 1)}  # 4:4:4
        image.draft("YCbCr", None)
        assert np.abs(np.asarray(image)[..., 0].astype(int) - luma).max() <= 1


def test_at_render_size_it_is_the_networks_colour_where_luma_agrees() -> None:
    # Mid tones, so that every colour is in gamut at its luma.
    rgb = RNG.uniform(0.3, 0.7, (3, 16, 16)).astype(np.float32)
    luma = luma_of((rgb.transpose(1, 2, 0) * 255).round()).round().astype(np.uint8)
    out = colored(photo_of(luma), luma[None].astype(np.float32) / 255, rgb)
    assert np.abs(out / 255 - rgb.transpose(1, 2, 0)).max() <= 1.5 / 255


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_out_of_gamut_colour_keeps_its_hue(dtype: type) -> None:
    level = round(0.9 * np.iinfo(dtype).max)
    gray = np.full((1, 16, 16), 0.9, np.float32)
    # pure red, asked for at a far higher luma
    out = colored(photo_of(np.full((16, 16), level, dtype)), gray, uniform((1, 0, 0))).astype(float)
    red, green, blue = out[0, 0]
    assert red == 255  # as strong as fits
    assert red > green
    assert abs(green - blue) <= 1
    assert np.abs(luma_of(out) - 0.9 * 255).max() <= 1


def test_gray_answer_gives_a_gray_picture() -> None:
    luma = gray_u8(50, 70)
    gray = model_input(photo_of(luma), 16, 16)
    out = colored(photo_of(luma), gray, np.repeat(gray, 3, axis=0))
    assert np.abs(out.astype(int) - luma[..., None]).max() <= 1


@pytest.mark.parametrize("shape", [(97, 64), (5, 64), (64, 200)])
def test_bands_fit_together(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    luma = gray_u8(*shape)
    gray = model_input(photo_of(luma), 16, 16)
    rgb = RNG.random((3, 16, 16), np.float32)
    whole = colored(photo_of(luma), gray, rgb).astype(int)
    for pixels in (1, shape[1] * 7):
        monkeypatch.setattr(bands, "BAND_PIXELS", pixels)
        assert np.abs(colored(photo_of(luma), gray, rgb) - whole).max() <= 1


@pytest.mark.parametrize("size", [(7, 9), (16, 16), (33, 20), (129, 500)])
def test_colour_is_enlarged_as_pillow_enlarges(size: tuple[int, int]) -> None:
    """Without luma to steer it, that is at one luma everywhere."""
    photo = photo_of(np.full(size, 128, np.uint8))
    rgb = RNG.uniform(0.4, 0.6, (3, 16, 16)).astype(np.float32)
    gray = np.full((1, 16, 16), 128 / 255, np.float32)
    chroma = rgb - luma_of(rgb.transpose(1, 2, 0)).astype(np.float32)
    expected = np.stack(
        [np.asarray(Image.fromarray(c).resize(size[::-1], Image.Resampling.BILINEAR)) for c in chroma], -1
    )
    assert np.abs(colored(photo, gray, rgb) - (128 + 255 * expected)).max() <= 0.51


@given(luma=lumas, seed=st.integers(0, 9), size=st.sampled_from([1, 2, 16]))
def test_no_colour_out_of_gamut_is_missed(luma: np.ndarray, seed: int, size: int) -> None:
    photo, top = photo_of(luma), np.iinfo(luma.dtype).max
    gray = model_input(photo, size, size)
    rgb = np.random.default_rng(seed).random((3, size, size), np.float32)
    for form in (bands.RGB, bands.YCBCR):
        planes = []
        for least in (0, np.inf):  # pixels at risk, all pixels
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(bands, "LEAST_PIXELS", least)
                made = bands.bands(photo, gray, rgb, top, form)
                planes.append([(band.red.copy(), band.blue.copy()) for band in made])
        assert np.abs(np.array(planes[0]) - np.array(planes[1])).max() <= 1e-4 * top


def test_only_lumas_near_black_and_white_are_at_risk() -> None:
    luma = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    photo = photo_of(luma)
    gray = model_input(photo, 16, 16)
    rgb = np.clip(gray + np.array([0.1, 0, -0.1], np.float32)[:, None, None], 0, 1)
    maps = color_maps(photo.size, gray, rgb, np.float32(255))
    at_risk = bands._SafeLuma(maps, photo, 255).places_at_risk(photo, slice(0, 256)) % 256
    assert len(at_risk) and not ((at_risk > 40) & (at_risk < 215)).any()


def test_a_coloured_edge_bleeds_less_than_with_bilinear_chroma() -> None:
    """Left half dark and red, right half bright and blue, the edge inside a small pixel."""
    size, small, edge = 512, 64, 259
    left, right = np.array([0.6, 0.2, 0.2]), np.array([0.6, 0.7, 0.95])
    truth = np.where((np.arange(size) < edge)[None, :, None], left, right).astype(np.float32)
    truth = np.broadcast_to(truth, (size, size, 3))
    picture = Image.fromarray((truth * 255).round().astype(np.uint8))
    photo = photo_of(np.asarray(picture.convert("L")))
    small_picture = np.asarray(picture.resize((small, small), Image.Resampling.BOX), np.float32)
    answer = (small_picture.transpose(2, 0, 1) / 255).astype(np.float32)
    gray = model_input(photo, small, small)
    raw, _ = write_photo(photo, gray, answer, "PNG", raw=True)
    bilinear = np.asarray(Image.open(io.BytesIO(raw)).resize((size, size), Image.Resampling.BILINEAR)) / 255
    jpeg, _ = write_photo(photo, gray, answer, "JPEG", quality=100)

    def chroma_error(rgb: np.ndarray) -> float:
        def chroma(values: np.ndarray) -> np.ndarray:
            found: np.ndarray = (values - luma_of(values)[..., None])[:, edge - 24 : edge + 24]
            return found

        return float(np.abs(chroma(rgb) - chroma(truth)).mean())

    for guided in (colored(photo, gray, answer), np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))):
        assert chroma_error(guided / 255) < 0.5 * chroma_error(bilinear)


SHAPES = [(1, 1), (1, 10_000), (10_000, 1), (7, 3), (3, 7), (127, 129), (300, 20)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_size_works_in_every_format(tmp_path: Path, shape: tuple[int, int], format_: str, dtype: type) -> None:
    luma = RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    photo = photo_of(luma)
    content, _ = write_photo(photo, model_input(photo, 16, 16), RNG.random((3, 16, 16), np.float32), format_)
    (tmp_path / "out").write_bytes(content)
    with Image.open(tmp_path / "out") as image:
        assert image.format == format_
        assert image.size == shape[::-1]
        assert image.mode == "RGB"
        if format_ in {"PNG", "TIFF", "BMP"}:
            shown = np.asarray(image) * 1.0
            assert np.abs(luma_of(shown) - luma * (255 / np.iinfo(dtype).max)).max() <= 1.01
