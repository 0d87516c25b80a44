"""Decode, merge and encode of single photos."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms, ImageOps

from infer import images
from infer.cli import FORMAT_CHOICES
from infer.images import Photo, PhotoError, decode, encode, merge, model_input, raw_output

RNG = np.random.default_rng(0)


def photo_of(luma: np.ndarray, alpha: Image.Image | None = None) -> Photo:
    return Photo(luma=luma, alpha=alpha, exif=None, icc_profile=None, dpi=None, notes=())


def saved(tmp_path: Path, name: str, image: Image.Image, **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def luma_of(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L")).astype(int)


def tags_of(photo: Photo) -> dict[int, object]:
    exif = Image.Exif()
    exif.load(photo.exif or b"")
    return dict(exif)


def gray_u8(height: int = 24, width: int = 31) -> np.ndarray:
    return RNG.integers(0, 256, (height, width), np.uint8)


# decode


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".pgm", ".gif"])
def test_gray_of_lossless_formats_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    gray = gray_u8()
    path = saved(tmp_path, f"a{suffix}", Image.fromarray(gray))
    assert np.array_equal(decode(path).luma, gray)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P", "YCbCr", "HSV"])
def test_colour_photos_give_pillows_luma(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)).convert(mode)
    if mode == "HSV":
        image = image.convert("RGB")
    path = saved(tmp_path, "a.tif" if mode != "P" else "a.png", image)
    expected = np.asarray(Image.open(path).convert("RGB").convert("L"))
    assert np.array_equal(decode(path).luma, expected)


def test_progressive_jpeg(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jpg", Image.fromarray(gray_u8()), progressive=True, quality=90)
    assert np.array_equal(decode(path).luma, np.asarray(Image.open(path)))


def test_one_bit(tmp_path: Path) -> None:
    bits = Image.fromarray(gray_u8() > 128)
    path = saved(tmp_path, "a.png", bits)
    assert np.array_equal(decode(path).luma, np.asarray(bits.convert("L")))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_not_cut(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 24 * 31).round().astype(np.uint16).reshape(24, 31)
    photo = decode(saved(tmp_path, f"a{suffix}", Image.fromarray(values)))
    assert photo.luma.dtype == np.uint16
    assert np.array_equal(photo.luma, values)
    assert any("8 bits" in note for note in photo.notes)


def test_float_tiff_in_its_natural_range(tmp_path: Path) -> None:
    values = np.linspace(0.25, 0.75, 100, dtype=np.float32).reshape(10, 10)
    photo = decode(saved(tmp_path, "a.tif", Image.fromarray(values)))
    assert np.allclose(photo.luma / 65535, values, atol=1e-5)


def test_float_tiff_out_of_range_is_stretched_and_said(tmp_path: Path) -> None:
    values = np.linspace(-3, 7, 100, dtype=np.float32).reshape(10, 10)
    photo = decode(saved(tmp_path, "a.tif", Image.fromarray(values)))
    assert (photo.luma.min(), photo.luma.max()) == (0, 65535)
    assert any("stretched" in note for note in photo.notes)


def test_float_tiff_with_nan_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.tif", Image.fromarray(np.full((4, 4), np.nan, np.float32)))
    with pytest.raises(PhotoError, match="not finite"):
        decode(path)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_alpha_is_kept(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (12, 9, 4), np.uint8))
    alpha = image.getchannel("A")
    stored = image.convert("LA") if mode in {"LA", "PA"} else image
    path = saved(tmp_path, "a.png", stored)
    found = decode(path).alpha
    assert found is not None
    assert np.array_equal(np.asarray(found), np.asarray(alpha))


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 200, 200, 200])
    photo = decode(saved(tmp_path, "a.png", image, transparency=0))
    assert photo.alpha is not None
    assert np.array_equal(np.asarray(photo.alpha), [[0, 255], [255, 0]])
    assert photo.luma[0, 1] == 200


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_removed(tmp_path: Path, orientation: int) -> None:
    gray = gray_u8(10, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    path = saved(tmp_path, "a.png", Image.fromarray(gray), exif=exif)
    photo = decode(path)
    assert np.array_equal(photo.luma, np.asarray(ImageOps.exif_transpose(Image.open(path))))
    assert tags_of(photo) == {0x010F: "maker"}


def test_first_frame_with_a_note(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    for name in ("a.gif", "a.tif"):
        path = saved(tmp_path, name, frames[0], save_all=True, append_images=frames[1:])
        photo = decode(path)
        assert photo.luma.max() == 10
        assert "first frame of several" in photo.notes


def test_gray_profile_is_left_out_and_said(tmp_path: Path) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert profile[16:20] == b"RGB "
    kept = decode(saved(tmp_path, "a.png", Image.fromarray(gray_u8()), icc_profile=bytes(profile)))
    assert kept.icc_profile == bytes(profile)
    profile[16:20] = b"GRAY"
    dropped = decode(saved(tmp_path, "b.png", Image.fromarray(gray_u8()), icc_profile=bytes(profile)))
    assert dropped.icc_profile is None
    assert any("GRAY" in note for note in dropped.notes)


def wide_tiff(path: Path, values: np.ndarray, bits: int, photometric: int = 1, packed: bytes | None = None) -> Path:
    """A TIFF that Pillow does not write itself: `bits` a sample, white as 0 where photometric is 0."""
    data = packed or values.astype(f"<u{bits // 8}").tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + bytes(4)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory)
    return path


def test_tiff_whose_white_is_zero(tmp_path: Path) -> None:
    values = (np.arange(48).reshape(6, 8) * 1000).astype(np.uint16)
    photo = decode(wide_tiff(tmp_path / "a.tif", values, 16, photometric=0))
    assert np.array_equal(photo.luma, 65535 - values)


def test_twelve_bits_fill_the_range(tmp_path: Path) -> None:
    values = np.array([[0, 4095, 2048, 1024]])
    packed = bytes.fromhex("000fff800400")
    photo = decode(wide_tiff(tmp_path / "a.tif", values, 12, packed=packed))
    assert np.allclose(photo.luma / 65535, values / 4095, atol=1e-4)


def test_thirty_two_unsigned_bits_keep_their_order(tmp_path: Path) -> None:
    values = np.array([[0, 2**31 - 1, 2**31, 2**32 - 1]], np.uint32)
    photo = decode(wide_tiff(tmp_path / "a.tif", values, 32))
    assert np.allclose(photo.luma / 65535, values / (2**32 - 1), atol=1e-4)
    assert any("stretched" in note for note in photo.notes)


def test_sixteen_bits_with_a_transparent_value(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 30_000, 65_535]], np.uint16)
    photo = decode(saved(tmp_path, "a.png", Image.fromarray(values), transparency=1000))
    assert np.array_equal(photo.luma, values)
    assert photo.alpha is not None
    assert np.asarray(photo.alpha).tolist() == [[255, 0, 255, 255]]


def test_damaged_exif_costs_the_exif_and_not_the_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    path = saved(tmp_path, "a.jpg", Image.fromarray(gray_u8()), exif=exif)
    rng = np.random.default_rng(0)
    content = path.read_bytes()
    start = content.index(b"Exif")
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(start + 6, start + len(exif.tobytes()), 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        photo = decode(path)
        for format_ in ("JPEG", "PNG", "TIFF"):
            file = io.BytesIO()
            encode(Image.new("RGB", photo.size[::-1]), photo, file, format_)
            assert Image.open(file).size == photo.size[::-1]


def test_tiff_is_compressed_unless_exif_forbids_it(tmp_path: Path) -> None:
    for tag, compressed in ((0x0131, True), (0x8769, False)):
        exif = Image.Exif()
        if tag == 0x8769:
            exif.get_ifd(tag)[0x9003] = "2001:02:03 04:05:06"
        else:
            exif[tag] = "scanner"
        photo = decode(saved(tmp_path, "a.jpg", Image.fromarray(gray_u8()), exif=exif))
        file = io.BytesIO()
        encode(Image.new("RGB", (400, 400)), photo, file, "TIFF")
        assert (len(file.getvalue()) < 100_000) == compressed


def test_hostile_files_give_a_reason(tmp_path: Path) -> None:
    good = saved(tmp_path, "good.jpg", Image.fromarray(gray_u8(64, 64)))
    cases = {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"hello, not a photo", "not an image"),
        "half.jpg": (good.read_bytes()[: good.stat().st_size // 2], "truncated"),
        "other.png": (good.read_bytes(), "its content is JPEG but its name says PNG"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises((PhotoError, OSError), match=reason):
            decode(tmp_path / name)


def test_pixel_limit_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, "a.png", Image.new("1", (3000, 3000)))
    monkeypatch.setattr(images, "_decode", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(PhotoError, match=r"3000 x 3000 pixels, the limit is 1000000; raise --max-pixels"):
        decode(path, max_pixels=1_000_000)


# the network's input


def test_model_input_of_equal_size_is_the_luma(tmp_path: Path) -> None:
    gray = gray_u8(32, 32)
    assert np.array_equal(model_input(photo_of(gray), 32, 32)[0], gray.astype(np.float32) / np.float32(255))


def test_model_input_of_sixteen_bits_agrees_with_eight() -> None:
    gray = np.asarray(Image.fromarray(gray_u8(6, 8)).resize((80, 60), Image.Resampling.BILINEAR))
    eight = model_input(photo_of(gray), 32, 32)
    sixteen = model_input(photo_of(gray.astype(np.uint16) * 257), 32, 32)
    assert np.abs(eight - sixteen).max() <= 1.5 / 255  # Pillow rounds 8 bits in both directions of a resize
    assert 0 <= sixteen.min() <= sixteen.max() <= 1


# merge

lumas = st.one_of(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    hnp.arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 40))),
)


@settings(max_examples=60, deadline=None)
@given(lumas, st.integers(0, 2**32 - 1))
def test_merge_keeps_luma_within_one_level(luma: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.random((3, 16, 16), np.float32)
    out = np.asarray(merge(photo_of(luma), rng.random((1, 16, 16), np.float32), rgb))
    expected = luma.astype(float) * (255 / np.iinfo(luma.dtype).max)
    assert out.shape == (*luma.shape, 3)
    assert np.abs(luma_of(out) - expected).max() <= 1


def test_merge_at_render_size_is_the_networks_colour_where_luma_agrees() -> None:
    # Mid tones, so that every colour is in gamut at its luma.
    rgb = RNG.uniform(0.3, 0.7, (3, 16, 16)).astype(np.float32)
    luma = luma_of((rgb.transpose(1, 2, 0) * 255).round().astype(np.uint8)).astype(np.uint8)
    out = np.asarray(merge(photo_of(luma), luma[None].astype(np.float32) / 255, rgb))
    assert np.abs(out / 255 - rgb.transpose(1, 2, 0)).max() <= 1.5 / 255


def test_out_of_gamut_colour_keeps_its_hue() -> None:
    rgb = np.empty((3, 16, 16), np.float32)
    rgb[:] = np.array([1, 0, 0], np.float32)[:, None, None]  # pure red, asked for at a far higher luma
    luma = np.full((16, 16), 230, np.uint8)
    out = np.asarray(merge(photo_of(luma), luma[None].astype(np.float32) / 255, rgb)).astype(float)
    red, green, blue = out[0, 0]
    assert red > green
    assert abs(green - blue) <= 1
    assert np.abs(luma_of(out.astype(np.uint8)) - 230).max() <= 1


def test_gray_answer_gives_a_gray_picture() -> None:
    luma = gray_u8(50, 70)
    gray = model_input(photo_of(luma), 16, 16)
    out = np.asarray(merge(photo_of(luma), gray, np.repeat(gray, 3, axis=0)))
    assert np.abs(out.astype(int) - luma[..., None]).max() <= 1


def test_bands_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    luma = gray_u8(97, 64)
    gray = model_input(photo_of(luma), 16, 16)
    rgb = RNG.random((3, 16, 16), np.float32)
    whole = np.asarray(merge(photo_of(luma), gray, rgb)).astype(int)
    monkeypatch.setattr(images, "BAND_PIXELS", 64 * 7)
    assert np.abs(np.asarray(merge(photo_of(luma), gray, rgb)) - whole).max() <= 1


def test_a_coloured_edge_bleeds_less_than_with_bilinear_chroma() -> None:
    """Left half dark and red, right half bright and blue, the edge inside a small pixel."""
    size, small, edge = 512, 64, 259
    left, right = np.array([0.6, 0.2, 0.2]), np.array([0.6, 0.7, 0.95])
    truth = np.where((np.arange(size) < edge)[None, :, None], left, right).astype(np.float32)
    truth = np.broadcast_to(truth, (size, size, 3))
    picture = Image.fromarray((truth * 255).round().astype(np.uint8))
    photo = photo_of(np.asarray(picture.convert("L")))
    answer = np.asarray(picture.resize((small, small), Image.Resampling.BOX), np.float32).transpose(2, 0, 1) / 255
    gray = model_input(photo, small, small)
    guided = np.asarray(merge(photo, gray, answer)) / 255
    bilinear = np.asarray(raw_output(answer).resize((size, size), Image.Resampling.BILINEAR)) / 255

    def chroma_error(rgb: np.ndarray) -> float:
        def chroma(values: np.ndarray) -> np.ndarray:
            return (values - values @ np.array(images.LUMA_REC601)[:, None])[:, edge - 24 : edge + 24]

        return float(np.abs(chroma(rgb) - chroma(truth)).mean())

    assert chroma_error(guided) < 0.5 * chroma_error(bilinear)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (3, 7), (127, 129), (300, 20)])
def test_any_size_works(shape: tuple[int, int]) -> None:
    luma = gray_u8(*shape)
    out = merge(photo_of(luma), model_input(photo_of(luma), 16, 16), RNG.random((3, 16, 16), np.float32))
    assert out.size == shape[::-1]


# encode


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_metadata_survives(tmp_path: Path, format_: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif.get_ifd(0x8769)[0x9003] = "2001:02:03 04:05:06"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {"exif": exif, "icc_profile": profile, "dpi": (300, 300), "quality": 95}
    photo = decode(saved(tmp_path, "a.jpg", Image.fromarray(gray_u8()), **options))
    with (tmp_path / "out").open("wb") as file:
        assert encode(Image.new("RGB", (31, 24)), photo, file, format_) == ()
    with Image.open(tmp_path / "out") as found:
        assert found.info["icc_profile"] == profile
        assert found.getexif()[0x010F] == "maker"
        assert found.getexif().get_ifd(0x8769)[0x9003] == "2001:02:03 04:05:06"
        if format_ != "WEBP":  # holds no resolution of its own
            assert np.allclose([float(d) for d in found.info["dpi"]], 300, atol=0.1)


def test_exif_too_large_for_jpeg_is_left_out_and_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    photo = decode(saved(tmp_path, "a.png", Image.fromarray(gray_u8()), exif=exif))
    with (tmp_path / "out").open("wb") as file:
        assert "EXIF left out" in encode(Image.new("RGB", (31, 24)), photo, file, "JPEG")[0]
        assert encode(Image.new("RGB", (31, 24)), photo, file, "PNG") == ()


def test_layout_tags_of_a_tiff_are_not_copied(tmp_path: Path) -> None:
    photo = decode(saved(tmp_path, "a.tif", Image.fromarray(gray_u8()), description="a view", compression="tiff_lzw"))
    assert tags_of(photo) == {0x010E: "a view"}


def test_alpha_where_the_format_holds_it(tmp_path: Path) -> None:
    alpha = Image.fromarray(gray_u8(6, 5))
    photo = photo_of(gray_u8(6, 5), alpha)
    for format_, held in (("PNG", True), ("TIFF", True), ("JPEG", False)):
        with (tmp_path / "out").open("wb") as file:
            notes = encode(Image.new("RGB", (5, 6)), photo, file, format_)
        with Image.open(tmp_path / "out") as found:
            assert ("A" in found.getbands()) == held
            if held:
                assert np.array_equal(np.asarray(found.getchannel("A")), np.asarray(alpha))
        assert bool(notes) != held


def test_quality_changes_the_size(tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
    sizes = []
    for quality in (30, 95):
        with (tmp_path / "out").open("wb") as file:
            encode(image, photo_of(gray_u8(64, 64)), file, "JPEG", quality)
        sizes.append((tmp_path / "out").stat().st_size)
    assert sizes[0] < sizes[1]


def test_choices_of_the_command_are_the_formats() -> None:
    assert ("same", *images.WRITE_FORMATS) == FORMAT_CHOICES
