"""TIFF files whose directory is unusual: other types, missing tags, BigTIFF, streams in parts."""

import io
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from infer.photo.decode import Photo, PhotoError, decode
from infer.photo.tiff_pages import TiffPages, alone
from tests.infer.photo.tiff_files import gray_tags, tiff_of
from tests.infer.pictures import content_of

WIDTH, HEIGHT = 64, 48
RAMP = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) / 110
GRAY = np.round(RAMP * 255).astype(np.uint8)
COLORS = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], -1)
LUMA = np.asarray(Image.fromarray(COLORS).convert("L"))
JPEG, OLD_JPEG = 7, 6
PLACE, LENGTH, PROCESS, Q, DC, AC = 513, 514, 512, 519, 520, 521


def photo(content: bytes) -> Photo:
    return decode(content, "a.tif")


def refusal(content: bytes) -> str:
    with pytest.raises(PhotoError) as found:
        photo(content)
    return str(found.value)


def gray_of(**changes: Any) -> dict[int, Any]:
    return gray_tags(WIDTH, HEIGHT, **changes)


def rgb_of(**changes: Any) -> dict[int, Any]:
    return gray_of(**({"t258": [8] * 3, "t262": 2, "t277": 3} | changes))


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_jpeg_of_12_bits_has_the_range_of_12_bits(lossless: bool, white_is_zero: bool) -> None:
    values = np.round(RAMP * 4095).astype(np.uint16)
    stored = 4095 - values if white_is_zero else values
    stream = bytes(
        imagecodecs.jpeg8_encode(stored, bitspersample=12, lossless=lossless, level=None if lossless else 98)
    )
    found = photo(tiff_of([stream], gray_of(t258=12, t259=JPEG, t262=int(not white_is_zero))))
    assert found.luma.dtype == np.uint16
    assert np.abs(found.luma / 65_535 - values / 4095).max() <= (1e-4 if lossless else 0.005)


def wide_jpeg(part: np.ndarray, rgb: bool) -> bytes:
    spaces: Any = {"colorspace": "RGB", "outcolorspace": "RGB"} if rgb else {}
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(part), 98, bitspersample=12, **spaces))


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
def test_color_jpeg_of_12_bits(tiled: bool, rgb: bool) -> None:
    gentle = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
    values = np.round(gentle * 4095).astype(np.uint16)
    padded = np.pad(values, ((0, 16), (0, 0), (0, 0)), "edge")
    tags = rgb_of(t258=[12] * 3, t259=JPEG, t262=2 if rgb else 6, t278=20, t530=[1, 1])
    if tiled:
        parts = [padded[row : row + 32, column : column + 32] for row in (0, 32) for column in (0, 32)]
        pieces = [wide_jpeg(part, rgb) for part in parts]
        places = [8 + sum(len(piece) + len(piece) % 2 for piece in pieces[:i]) for i in range(4)]
        tags |= {322: 32, 323: 32, 324: places, 325: [len(piece) for piece in pieces], 273: None, 279: None, 278: None}
    else:
        pieces = [wide_jpeg(values[row : row + 20], rgb) for row in range(0, HEIGHT, 20)]
    content = tiff_of(pieces, tags, kinds={324: 4, 325: 4})
    found = photo(content)
    assert found.luma.dtype == np.uint16
    expected = gentle @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found.luma / 65_535 - expected).max() <= 0.01
    assert found.notes == ()
    if not tiled:
        short = tiff_of([*pieces[:2], wide_jpeg(values[:4], rgb)], tags)
        assert "a strip or a tile is smaller than its page says" in refusal(short)
        cut = tiff_of([*pieces[:2], pieces[2][: len(pieces[2]) // 2]], tags)
        assert refusal(cut).startswith("damaged")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_integers_of_any_type_describe_the_pixels(kind: int, order: str) -> None:
    kinds = dict.fromkeys((258, 259, 262, 277, 256, 257, 278), kind)
    assert np.array_equal(photo(tiff_of([GRAY.tobytes()], gray_of(), order, kinds=kinds)).luma, GRAY)
    assert np.array_equal(photo(tiff_of([COLORS.tobytes()], rgb_of(), order, kinds=kinds)).luma, LUMA)


def test_a_missing_photometric_interpretation_is_guessed_and_noted() -> None:
    gray = photo(tiff_of([GRAY.tobytes()], gray_of(t262=None)))
    assert np.array_equal(gray.luma, GRAY)
    assert gray.notes == ("it does not say what its samples mean; taken for gray, 0 is black",)
    two_values = photo(tiff_of([GRAY.tobytes()], gray_of(t262=[0, 1])))  # which libtiff passes over
    assert np.array_equal(two_values.luma, GRAY) and two_values.notes == gray.notes
    color = photo(tiff_of([COLORS.tobytes()], rgb_of(t262=None)))
    assert np.array_equal(color.luma, LUMA)
    assert color.notes == ("it does not say what its samples mean; taken for RGB",)
    four = np.concatenate([COLORS, np.full_like(GRAY, 200)[..., None]], -1)
    assert np.array_equal(photo(tiff_of([four.tobytes()], rgb_of(t262=None, t277=4, t338=2))).luma, LUMA)
    two = np.stack([GRAY, np.full_like(GRAY, 200)], -1)
    assert np.array_equal(photo(tiff_of([two.tobytes()], gray_of(t262=None, t277=2, t258=[8, 8]))).luma, GRAY)
    assert "does not say what its 4 channels mean" in refusal(tiff_of([four.tobytes()], rgb_of(t262=None, t277=4)))
    stream = content_of(Image.fromarray(COLORS), "JPEG")
    assert "does not say what its 3 channels mean" in refusal(tiff_of([stream], rgb_of(t262=None, t259=JPEG)))


@pytest.mark.parametrize("kind", [1, 2])
def test_alpha_of_a_palette_is_not_in_its_colors(kind: int) -> None:
    colors = np.array([np.arange(256), np.arange(255, -1, -1), np.arange(256) * 7 % 256])
    indices = np.stack([GRAY, np.full_like(GRAY, 100)], -1)
    tags = gray_of(t262=3, t277=2, t258=[8, 8], t338=kind, t320=(colors * 257).ravel())
    found = photo(tiff_of([indices.tobytes()], tags))
    expected = Image.fromarray(colors.T[GRAY].astype(np.uint8)).convert("L")
    assert np.array_equal(found.luma, np.asarray(expected))
    assert found.alpha and found.alpha.getextrema() == (100, 100)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of samples of so many bits, the first in the highest bits, filled up to whole bytes."""
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((values[..., None] >> places & 1).astype(np.uint8).reshape(len(values), -1), axis=1)


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12])
@pytest.mark.parametrize("layout", ["gray", "side by side", "planes"])
def test_runs_of_packbits_that_cross_rows(bits: int, layout: str) -> None:
    top = 2**bits - 1
    channels = COLORS if layout != "gray" else GRAY[..., None]
    values = np.round(channels[:, :61] / 255 * top).astype(np.uint16)  # rows of 61 samples end inside a byte
    tags = (rgb_of if layout != "gray" else gray_of)(t256=61, t258=[bits] * channels.shape[2], t259=32773, t278=20)
    if layout == "planes":
        rows, tags[284] = [packed(values[..., i], bits) for i in range(3)], 2
    else:
        rows = [packed(values.reshape(HEIGHT, -1), bits)]
    strips = [bytes(imagecodecs.packbits_encode(part[i : i + 20].tobytes())) for part in rows for i in (0, 20, 40)]
    plain = [part[i : i + 20].tobytes() for part in rows for i in (0, 20, 40)]
    found, expected = photo(tiff_of(strips, tags)), photo(tiff_of(plain, tags | {259: 1}))
    assert np.array_equal(found.luma, expected.luma)
    if layout == "gray":
        white = 255 if bits <= 8 else 65_535
        assert np.array_equal(found.luma, np.round(values[..., 0] / top * white))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("smooth", [True, False])
def test_a_last_strip_of_deflate_that_was_filled_up_is_whole(dtype: type, smooth: bool) -> None:
    """libtiff would leave out the end of a smooth one and all of another, in silence."""
    noise = np.random.default_rng(0).integers(0, 256, (64, WIDTH), np.uint8)
    values: Any = (np.resize(GRAY, (64, WIDTH)) if smooth else noise).astype(dtype)
    values *= np.iinfo(dtype).max // 255
    strips = [zlib.compress(values[row : row + 20].tobytes()) for row in (0, 20, 40)]
    tags = gray_of(t258=dtype().itemsize * 8, t259=8, t278=20)
    found = photo(tiff_of(strips, tags))
    assert np.array_equal(found.luma, values[:HEIGHT]) and found.notes == ()
    planes = rgb_of(t258=[dtype().itemsize * 8] * 3, t259=8, t278=20, t284=2)
    assert np.array_equal(photo(tiff_of(strips * 3, planes)).luma, values[:HEIGHT])
    more = photo(tiff_of([zlib.compress(values.tobytes())], tags | {278: HEIGHT}))
    assert np.array_equal(more.luma, values[:HEIGHT])
    assert more.notes == ("samples behind the last row of a strip or tile left out",)


def test_a_tile_of_deflate_with_more_samples_is_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, WIDTH), np.uint8)
    tile = zlib.compress(noise.tobytes())
    tags = gray_of(t259=8, t322=WIDTH, t323=HEIGHT, t324=8, t325=len(tile), t273=None, t279=None, t278=None)
    found = photo(tiff_of([tile], tags, kinds={324: 4, 325: 4}))
    assert np.array_equal(found.luma, noise[:HEIGHT]) and len(found.notes) == 1


def test_a_strip_that_is_said_to_be_too_small_is_read_with_a_note() -> None:
    found = photo(tiff_of([GRAY.tobytes()], gray_of(t279=1000)))
    assert np.array_equal(found.luma, GRAY)
    assert found.notes == ("the sizes of its strips are too small, and were calculated",)


@pytest.mark.parametrize("width", [WIDTH + 1, WIDTH + 3])
def test_a_strip_that_goes_on_behind_the_end_of_the_file_is_cut(width: int) -> None:
    four = np.resize(GRAY, (HEIGHT, WIDTH, 4)).tobytes()
    assert "behind the end" in refusal(tiff_of([four], rgb_of(t256=width, t262=5, t277=4, t258=[8] * 4)))


@pytest.mark.parametrize("offset", [2, 7])
def test_a_strip_in_the_header_is_none(offset: int) -> None:
    content = tiff_of([GRAY.tobytes()], gray_of(t273=offset))
    assert "1 of its 1 strips are not in the file" in refusal(content)


def test_channels_of_different_kinds_are_refused_by_name() -> None:
    assert "different sample formats" in refusal(tiff_of([COLORS.tobytes()], rgb_of(t339=[1, 1, 2])))
    assert "different numbers of bits" in refusal(tiff_of([COLORS.tobytes()], rgb_of(t258=[8, 8, 4])))


@pytest.mark.parametrize("kind", [4, 13, 16, 18])
def test_a_photo_in_a_sub_directory_of_any_type(kind: int) -> None:
    """A page with a thumbnail that is patched to name the page of the photo as its sub-directory."""
    small = GRAY[::4, ::4]
    whole = bytearray(tiff_of([GRAY.tobytes()], gray_of(), big=True))
    sub_directory = int.from_bytes(whole[8:16], "little")
    tags = {**gray_tags(16, 12), 254: 1, 330: sub_directory}
    thumbnail = tiff_of([small.tobytes() + whole[16:]], tags, big=True, kinds={330: kind})
    moved = bytearray(thumbnail)
    shift = len(small.tobytes())  # the photo's directory and strip lie behind the thumbnail's pixels
    place = sub_directory + shift
    moved = bytearray(thumbnail.replace(sub_directory.to_bytes(8, "little"), place.to_bytes(8, "little")))
    strip = place + 8
    for entry in range(strip, strip + 20 * 20, 20):
        if int.from_bytes(moved[entry : entry + 2], "little") == 273:
            moved[entry + 12 : entry + 20] = (16 + shift).to_bytes(8, "little")
            break
    assert np.array_equal(photo(bytes(moved)).luma, GRAY)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "jpeg", "packbits"])
def test_bigtiff_of_both_byte_orders(order: str, compression: str | None) -> None:
    file = io.BytesIO()
    options: Any = {"photometric": "minisblack", "compression": compression, "bigtiff": True, "byteorder": order}
    tifffile.imwrite(file, GRAY, metadata=None, rowsperstrip=16, **options)
    found = photo(file.getvalue())
    assert np.abs(found.luma.astype(int) - GRAY).max() <= (8 if compression == "jpeg" else 0)


def test_bigtiff_of_16_bits_and_metadata() -> None:
    wide = np.round(RAMP * 65_535).astype(np.uint16)
    content = tiff_of([wide.astype(">u2").tobytes()], gray_of(t258=16, t315=b"Ansel\0"), ">", big=True, kinds={315: 7})
    assert np.array_equal(photo(content).luma, wide)


def test_a_reference_of_denominator_0_is_that_of_libtiff() -> None:
    tags = rgb_of(t262=6, t530=[1, 1], t532=[0, 0, 255, 0, 128, 0, 255, 0, 128, 0, 255, 0])
    content = tiff_of([COLORS.tobytes()], tags, kinds={532: 5})
    expected = imagecodecs.tiff_decode(content, asrgb=True)[..., :3]
    assert np.array_equal(photo(content).luma, np.asarray(Image.fromarray(expected).convert("L")))


LAB = np.stack([GRAY, GRAY[::-1] // 4 - 20, GRAY[:, ::-1] // 4 - 20], -1)  # a* and b* of two's complement


def test_lab_of_8_bits_is_what_littlecms_makes_of_it() -> None:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    exact, intent = ImageCms.Flags.NOOPTIMIZE, ImageCms.Intent.RELATIVE_COLORIMETRIC
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB", intent, exact)
    shifted = np.concatenate([LAB[..., :1], LAB[..., 1:] ^ 0x80], -1)  # Pillow's a* and b* have 128 as their zero
    image = Image.frombytes("LAB", (WIDTH, HEIGHT), LAB.tobytes())
    converted = ImageCms.applyTransform(image, transform)
    assert converted
    expected = np.asarray(converted.convert("L")).astype(int)
    assert np.abs(photo(tiff_of([LAB.tobytes()], rgb_of(t262=8))).luma - expected).max() <= 1
    assert np.abs(photo(tiff_of([shifted.tobytes()], rgb_of(t262=9))).luma - expected).max() <= 1


def test_lab_of_16_bits_keeps_them_and_its_alpha() -> None:
    lightness = np.round(RAMP * 65_535).astype(np.uint16)
    none = np.zeros_like(lightness)
    lab = np.stack([lightness, none, none, np.full_like(none, 65_535 // 5)], -1)
    found = photo(tiff_of([lab.tobytes()], rgb_of(t258=[16] * 4, t262=8, t277=4, t338=2)))
    share = (RAMP * 100 + 16) / 116
    light = np.where(share > 6 / 29, share**3, 3 * (6 / 29) ** 2 * (share - 4 / 29))
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(found.luma / 65_535 - srgb).max() < 2e-4
    assert np.unique(np.asarray(found.alpha)).tolist() == [51]


def segments(stream: bytes) -> list[tuple[int, bytes]]:
    """Markers and contents up to the first scan, then 0 and its data."""
    found, place = [], 2
    while True:
        marker, end = stream[place + 1], place + 2 + int.from_bytes(stream[place + 2 : place + 4])
        found.append((marker, stream[place + 4 : end]))
        place = end
        if marker == 0xDA:
            return [*found, (0, stream[place:-2])]


def tables_of(stream: bytes) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Quantisation tables and Huffman tables of DC and AC coefficients."""
    quantization, huffman = {}, {}
    for marker, body in segments(stream):
        while marker == 0xDB and body:
            quantization[body[0]], body = body[1:65], body[65:]
        while marker == 0xC4 and body:
            end = 17 + sum(body[1:17])
            huffman[body[0]], body = body[1:end], body[end:]
    return (
        [*quantization.values()],
        [huffman[i] for i in sorted(huffman) if i < 16],
        [huffman[i] for i in sorted(huffman) if i >= 16],
    )


def old_jpeg(image: Image.Image, rows: int = HEIGHT, **changes: Any) -> bytes:
    """A TIFF with old-style JPEG compression, whose tables are in tags and whose data are in strips of some rows."""
    channels = len(image.getbands())
    units = -(-WIDTH // 16) * (rows // 16) if channels == 3 else WIDTH // 8 * rows // 8
    options = {"subsampling": "4:2:0"} if channels == 3 else {}
    stream = content_of(image, "JPEG", quality=95, restart_marker_blocks=0 if rows == HEIGHT else units, **options)
    data = dict(segments(stream))[0]
    strips = []
    for i in range(HEIGHT // rows):
        part, _, data = data.partition(bytes([0xFF, 0xD0 + i]))
        strips.append(part)
    tables = tables_of(stream)
    places, place = [], 8
    for part in (*strips, *(table for kind in tables for table in kind)):
        places.append(place)
        place += len(part) + len(part) % 2
    starts = places[len(strips) :]
    tags = gray_of(t258=[8] * channels, t259=OLD_JPEG, t262=6 if channels == 3 else 1, t277=channels, t278=rows)
    tags |= {PROCESS: 1, 273: places[: len(strips)], 279: [len(strip) for strip in strips]}
    for tag, kind in zip((Q, DC, AC), tables, strict=True):
        tags[tag] = [starts[min(i, len(kind) - 1)] for i in range(channels)]
        starts = starts[len(kind) :]
    tags |= {530: [2, 2]} if channels == 3 else {}
    tags |= {int(name[1:]): value for name, value in changes.items()}
    parts = [*strips, *(table for kind in tables for table in kind)]
    return tiff_of(parts, tags, kinds={Q: 4, DC: 4, AC: 4})


@pytest.mark.parametrize("rows", [48, 16])
@pytest.mark.parametrize("colors", [False, True])
def test_old_jpeg_with_tables_in_tags(colors: bool, rows: int) -> None:
    image = Image.fromarray(COLORS if colors else GRAY)
    found = photo(old_jpeg(image, rows))
    assert np.abs(found.luma.astype(int) - np.asarray(image.convert("L"))).max() <= 12
    assert np.abs(found.luma.astype(int) - np.asarray(image.convert("L"))).mean() <= 1
    assert found.notes == ()


def test_old_jpeg_without_tables_is_a_reason() -> None:
    found = refusal(old_jpeg(Image.fromarray(GRAY), t519=None))
    assert found.startswith("a TIFF with old-style JPEG compression without a JPEG stream or its tables")
    assert "lossless or in planes" in refusal(old_jpeg(Image.fromarray(GRAY), t512=14))


def test_old_jpeg_with_a_strip_that_is_cut_is_damaged() -> None:
    content = old_jpeg(Image.fromarray(GRAY), t279=40)
    assert refusal(content).startswith("damaged")


def test_old_jpeg_with_a_header_apart_from_its_data() -> None:
    stream = content_of(Image.fromarray(GRAY), "JPEG", quality=95)
    parts = segments(stream)
    data = parts[-1][1]
    header = stream[: len(stream) - 2 - len(data)]
    start = 8 + len(data) + len(data) % 2
    tags = gray_of(t259=OLD_JPEG) | {PLACE: start, LENGTH: len(header), 273: 8, 279: len(data)}
    found = photo(tiff_of([data, header], tags, kinds={PLACE: 4, LENGTH: 4}))
    assert np.abs(found.luma.astype(int) - GRAY).max() <= 8


def test_subsampling_is_that_of_the_data() -> None:
    stream = content_of(Image.fromarray(COLORS), "JPEG", quality=95, subsampling="4:2:0")
    right, wrong = (photo(tiff_of([stream], rgb_of(t262=6, t259=JPEG, t530=found))) for found in ([2, 2], [1, 1]))
    assert np.array_equal(right.luma, wrong.luma)


def test_rows_per_strip_of_0_are_all_rows_and_a_missing_size_is_calculated() -> None:
    assert np.array_equal(photo(tiff_of([GRAY.tobytes()], gray_of(t278=0))).luma, GRAY)
    assert np.array_equal(photo(tiff_of([GRAY.tobytes()], gray_of(t278=None, t279=None))).luma, GRAY)
    for size in (0, 2**31):
        assert np.array_equal(photo(tiff_of([GRAY.tobytes()], gray_of(t279=size))).luma, GRAY)


def test_a_size_that_is_too_large_does_no_harm_where_all_samples_are_there() -> None:
    strips = [GRAY[:32].tobytes(), GRAY[32:].tobytes()]
    content = tiff_of(strips, gray_of(t278=32, t279=[32 * WIDTH, 9000]))
    assert np.array_equal(photo(content).luma, GRAY)
    place = content.index(strips[1])
    cut = content[:place] + content[place + WIDTH :]  # its directory moves up; a row is missing
    first = int.from_bytes(cut[4:8], "little") - WIDTH
    cut = cut[:4] + first.to_bytes(4, "little") + cut[8:]
    assert "damaged" in refusal(cut)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"t258": 40}, "samples of format 1 and 40 bits"),
        ({"t258": 16, "t259": JPEG}, "JPEG compression and 1 channels of 16 bits"),
        ({"t262": 3, "t320": [0] * 700}, "its colour map has 700 values, expected 768"),
        ({"t278": 16, "t273": [8, 1032, 2056], "t279": None}, "does not say how many bytes its strips"),
        ({"t273": [10**8]}, "samples go on behind the end of the file"),
        ({"t262": 10, "t258": [8] * 3, "t277": 3}, "a TIFF in ITU Lab"),
        ({"t262": 8, "t258": [12] * 3, "t277": 3}, "a TIFF in Lab of 12 bits"),
        ({"t258": b"\x08\0"}, "tags that describe its pixels cannot be read: BitsPerSample"),
        ({"t256": 0}, "a kind of TIFF that is not read: its header is not understood"),
    ],
)
def test_reasons_are_true(changes: dict[str, Any], reason: str) -> None:
    found = refusal(tiff_of([GRAY.tobytes()], gray_of(**changes), kinds={256: 3}))
    assert reason in found


def test_a_page_alone_has_the_tags_of_its_pixels_and_no_others() -> None:
    content = tiff_of([GRAY.tobytes()], gray_of(t315=b"Ansel\0", t274=6), ">", big=True)
    with Image.open(io.BytesIO(content), formats=("TIFF_PAGES",)) as image:
        assert isinstance(image, TiffPages)
        found = bytes(alone(bytearray(content), image.first, {256: [32], 257: [96]}))
    with tifffile.TiffFile(io.BytesIO(found)) as file:
        assert not file.is_bigtiff
        assert len(file.pages) == 1
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        assert page.shape == (96, 32)
        assert np.array_equal(page.asarray().ravel(), GRAY.ravel())
        assert not {315, 274} & {tag.code for tag in page.tags}
