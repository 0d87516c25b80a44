"""TIFF files of kinds that Pillow does not read, made by tifffile or by hand."""

import io
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from benchmarks.photo_kinds import Kind, kinds, ycbcr_tiff
from infer.photo.decode import Photo, PhotoError, decode, header_of
from tests.infer.pictures import content_of

RNG = np.random.default_rng(0)
RAMP = np.add.outer(np.arange(48), np.arange(64)) / 110
GRAY = np.round(RAMP * 255).astype(np.uint8)
WIDE = np.round(RAMP * 65_535).astype(np.uint16)
TIFFS = [kind for kind in kinds() if kind.format == "TIFF"]


def tiff(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **{"photometric": "minisblack"} | options)
    return file.getvalue()


def photo(content: bytes) -> Photo:
    return decode(content, "a.tif")


def refusal(content: bytes) -> str:
    with pytest.raises(PhotoError) as found:
        photo(content)
    return str(found.value)


@pytest.mark.parametrize("kind", TIFFS, ids=lambda kind: kind.name)
@pytest.mark.slow
def test_every_kind_has_the_luma_of_its_picture_or_a_reason(kind: Kind) -> None:
    try:
        found = photo(bytes(kind.make()))
    except PhotoError as error:
        assert "a compression that is not read: JPEG 2000" in str(error) or "JPEG XL" in str(error)
        return
    assert np.abs(found.luma / np.iinfo(found.luma.dtype).max - kind.luma).max() <= kind.tolerance


def test_16_bits_with_white_at_zero_big_endian() -> None:
    found = photo(tiff(65_535 - WIDE, photometric="miniswhite", byteorder=">"))
    assert np.array_equal(found.luma, WIDE)
    assert found.notes == ()


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_floats_of_any_size_are_the_same(bits: int) -> None:
    luma = photo(tiff(RAMP.astype(f"f{bits // 8}"))).luma
    assert np.abs(luma.astype(int) - WIDE).max() <= (32 if bits == 16 else 1)


def test_gray_of_16_bits_with_alpha_keeps_all_bits_of_gray() -> None:
    found = photo(tiff(np.stack([WIDE, 65_535 - WIDE], -1), extrasamples=["unassalpha"]))
    assert np.array_equal(found.luma, WIDE)
    assert np.array_equal(np.asarray(found.alpha), np.round((65_535 - WIDE) / 257))


def test_associated_alpha_is_divided_out_and_kept() -> None:
    alpha = np.full_like(GRAY, 128)
    alpha[:4] = 0
    stored = np.round(GRAY * (alpha / 255)).astype(np.uint8)
    found = photo(tiff(np.stack([stored, alpha], -1), extrasamples=["assocalpha"]))
    assert np.abs(found.luma[4:].astype(int) - GRAY[4:]).max() <= 1
    assert not found.luma[:4].any()
    assert np.array_equal(np.asarray(found.alpha), alpha)


@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_of_8_or_16_bits_is_not_black(scale: int) -> None:
    colormap = np.stack([np.arange(256)] * 3).astype(np.uint16) * scale
    assert np.array_equal(photo(tiff(GRAY, photometric="palette", colormap=colormap)).luma, GRAY)


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("across, down", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 4)])
def test_subsampled_ycbcr_is_what_libtiff_makes_of_it(across: int, down: int, video: bool) -> None:
    content = ycbcr_tiff(across, down, video)
    rgb = imagecodecs.tiff_decode(content, asrgb=True)[..., :3]
    assert np.array_equal(photo(content).luma, np.asarray(Image.fromarray(rgb).convert("L")))


def test_webp_in_a_tiff() -> None:
    rgb = np.stack([GRAY] * 3, -1)
    found = photo(tiff(rgb, photometric="rgb", compression="webp", compressionargs={"lossless": True, "level": 9}))
    assert np.array_equal(found.luma, GRAY)


def old_jpeg(stream: bytes, width: int = 64) -> bytes:
    """A TIFF with old-style JPEG compression, of one stream."""
    tags = {256: width, 257: 48, 258: 8, 259: 6, 262: 1, 273: 8, 277: 1, 278: 48, 279: len(stream), 513: 8}
    tags[514] = len(stream)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(stream)) + stream + directory + bytes(4)


def test_old_style_jpeg() -> None:
    stream = content_of(Image.fromarray(GRAY), "JPEG", quality=95)
    assert np.abs(photo(old_jpeg(stream)).luma.astype(int) - GRAY).max() < 8
    assert "damaged" in refusal(old_jpeg(stream[: len(stream) // 2]))
    for content in (old_jpeg(b"\0" * 99), old_jpeg(stream, width=128)):
        assert refusal(content).startswith("a TIFF with old-style JPEG compression")


def with_pages(*pages: tuple[np.ndarray, dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for values, options in pages:
            writer.write(values, photometric="minisblack", metadata=None, **options)
    return file.getvalue()


SMALL = GRAY[::4, ::4]


@pytest.mark.parametrize(
    "first, second",
    [
        ({"subifds": 1, "subfiletype": 1}, {"subfiletype": 0}),
        ({"subfiletype": 1}, {"subfiletype": 0}),
        ({}, {}),
        ({"subifds": 1}, {"subfiletype": 0}),
    ],
)
def test_a_photo_below_its_thumbnail_is_coloured(first: dict[str, Any], second: dict[str, Any]) -> None:
    found = photo(with_pages((SMALL, first), (GRAY, second)))
    assert np.array_equal(found.luma, GRAY)
    assert "its first page is a thumbnail; the page of 64 x 48 pixels is coloured" in found.notes


def test_metadata_of_the_photo_come_before_those_of_its_thumbnail() -> None:
    artist, copyright_, description = 315, 33432, 270
    first = {"extratags": [(artist, 2, 0, "of the thumbnail", True), (copyright_, 2, 0, "mine", True)]}
    second = {"extratags": [(artist, 2, 0, "of the photo", True), (description, 2, 0, "a rose", True)]}
    found = photo(with_pages((SMALL, first), (GRAY, second)))
    tags = Image.Exif()
    assert found.exif
    tags.load(found.exif)
    assert {tag: tags[tag] for tag in (artist, copyright_, description)} == {
        artist: "of the photo",
        copyright_: "mine",
        description: "a rose",
    }


def test_a_photo_below_its_thumbnail_keeps_to_the_limit_of_pixels() -> None:
    content = with_pages((SMALL, {}), (GRAY, {}))
    with pytest.raises(PhotoError, match="64 x 48 pixels, the limit is 3000"):
        decode(content, "a.tif", max_pixels=3000)
    assert header_of(content, "a.tif").size == (48, 64)


def test_a_lone_thumbnail_and_pages_of_one_size_are_said() -> None:
    assert photo(with_pages((SMALL, {"subfiletype": 1}))).notes == (
        "only a thumbnail of 16 x 12 pixels is in the file",
    )
    assert photo(with_pages((GRAY, {}), (GRAY, {}))).notes == ("first frame of several",)
    assert photo(with_pages((GRAY, {}), (SMALL, {"subfiletype": 1}))).notes == ()  # a pyramid


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype, tile", [("u1", None), ("u2", (16, 16)), ("f4", None)])
def test_photos_of_every_orientation_are_turned_upright(dtype: str, tile: Any, orientation: int) -> None:
    values: Any = {"u1": GRAY, "u2": WIDE, "f4": RAMP.astype(np.float32)}[dtype]
    found = photo(tiff(values, tile=tile, extratags=[(274, 3, 1, orientation, True)]))
    image = Image.fromarray(GRAY)
    image.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.abs(found.luma / np.iinfo(found.luma.dtype).max * 255 - upright).max() < 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, on directories that are cut
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("codec", [None, "lzw", "zlib", "packbits", "zstd", "webp", "jpeg"])
@pytest.mark.slow
def test_a_file_that_is_cut_anywhere_fails(codec: str | None, tile: Any) -> None:
    values = np.stack([GRAY] * 3, -1)
    content = tiff(values, photometric="rgb", compression=codec, tile=tile, **({} if tile else {"rowsperstrip": 16}))
    for end in (*range(20, len(content), max(1, len(content) // 60)), len(content) - 1):
        assert refusal(content[:end])


@pytest.mark.parametrize(
    "kind, options",
    [
        ("YCbCr", {"photometric": "ycbcr", "subsampling": (1, 1)}),
        ("CMYK", {"photometric": "separated"}),
        ("planes", {"photometric": "rgb", "planarconfig": "separate"}),
        ("float", {}),
    ],
)
def test_damage_in_compressed_samples_fails(kind: str, options: dict[str, Any]) -> None:
    """Also where libtiff would go on if it were asked for RGB."""
    values = np.stack([GRAY] * 4, -1)
    values = values if kind == "CMYK" else RAMP.astype("f4") if kind == "float" else values[..., :3]
    content = bytearray(
        tiff(np.moveaxis(values, -1, 0) if kind == "planes" else values, compression="zlib", rowsperstrip=16, **options)
    )
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        place = file.pages[0].dataoffsets[1]
    content[place : place + 8] = bytes(8)
    assert refusal(bytes(content)).startswith("damaged: libtiff")


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"compression": "jpeg2000"}, "a compression that is not read: JPEG 2000"),
        ({"compression": "jpegxl"}, "a compression that is not read: JPEG XL"),
        ({"photometric": 32803}, "raw data of a camera"),
    ],
)
def test_what_is_not_read_is_named(options: dict[str, Any], reason: str) -> None:
    found = refusal(tiff(GRAY, **options))
    assert reason in found
    assert "damaged" not in found


def test_a_volume_is_named() -> None:
    private = 65_000  # tifffile writes no tag of depth by itself
    content = tiff(GRAY, extratags=[(private, 3, 1, 4, True)])
    assert "a volume with several slices" in refusal(content.replace(struct.pack("<H", private), b"\xe5\x80"))


def test_a_floating_point_range_without_end_is_a_reason() -> None:
    assert "a range that no float holds" in refusal(tiff(np.array([[-1.7e308, 1.7e308]])))
    assert "not finite" in refusal(tiff(np.array([[0.0, np.inf]])))


def test_lab_is_converted() -> None:
    lab = np.zeros((8, 8, 3), np.uint8)
    lab[..., 0] = np.linspace(0, 255, 8)
    luma = photo(tiff(lab, photometric="cielab")).luma
    assert (np.diff(luma[0].astype(int)) > 20).all()
