"""JPEG, PNG, BMP and newer formats of kinds that Pillow reads in part, or not at all."""

import io
import struct
import sys
import types
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from benchmarks.photo_kinds import ALPHA, COLORS, RAMP, Kind, bmp_of_fields, kinds
from infer.photo import newer_formats, pixels
from infer.photo.decode import Photo, PhotoError, decode, header_of
from infer.photo.headers import plain_jpeg
from tests.infer.photo.exif_blocks import LONG, SHORT, Structure
from tests.infer.pictures import chunk, content_of, png_of

OTHERS = [kind for kind in kinds() if kind.format != "TIFF"]
GRAY = np.round(RAMP * 255).astype(np.uint8)
DEEP = np.round(RAMP * 4095).astype(np.uint16)


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
def test_every_kind_has_the_luma_of_its_picture(kind: Kind) -> None:
    content = bytes(kind.make())
    found = decode(content, "a" + kind.suffix)
    assert np.abs(found.luma / np.iinfo(found.luma.dtype).max - kind.luma).max() <= kind.tolerance
    assert header_of(content, "a" + kind.suffix).size == found.size


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_header_of_a_plain_jpeg_is_what_a_parser_reads(
    mode: str, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "scanner"
    content = content_of(Image.new(mode, (31, 24)), "JPEG", progressive=progressive, exif=exif)
    found = header_of(content, "a.jpg")
    assert found.size == (24, 31)
    monkeypatch.setattr("infer.photo.decode.plain_jpeg", lambda head: None)
    parsed = header_of(content, "a.jpg")
    assert found.size == parsed.size
    assert 0 <= found.memory - parsed.memory < 100  # the names of segments count too


def test_only_a_whole_header_of_8_bits_is_a_plain_jpeg() -> None:
    content = content_of(Image.new("RGB", (31, 24)), "JPEG")
    scan = content.index(b"\xff\xda")
    assert plain_jpeg(content) == plain_jpeg(content[: scan + 4]) == (31, 24, 3, False, 16 - 2)
    cut, renamed = content[: scan + 3], b"\x89PNG" + content[4:]
    cmyk, deep = content_of(Image.new("CMYK", (8, 8)), "JPEG"), bytes(imagecodecs.jpeg8_encode(DEEP, bitspersample=12))
    profiled = content_of(Image.new("L", (8, 8)), "JPEG", icc_profile=b"x" * 200)
    assert not any(plain_jpeg(other) for other in (cut, renamed, cmyk, deep, profiled))


def test_lossless_jpeg() -> None:
    rgb = np.stack([GRAY, 255 - GRAY, GRAY // 2], -1)
    found = decode(bytes(imagecodecs.jpeg8_encode(rgb, lossless=True)), "a.jpg")
    assert np.array_equal(found.luma, np.asarray(Image.fromarray(rgb).convert("L")))


@pytest.mark.parametrize("lossless", [False, True])
def test_a_jpeg_of_12_bits_that_is_cut_fails(lossless: bool) -> None:
    content = bytes(imagecodecs.jpeg8_encode(DEEP, bitspersample=12, lossless=lossless))
    assert decode(content, "a.jpg").luma.dtype == np.uint16
    assert decode(content[:-2], "a.jpg").notes == ("the end marker is missing; every pixel is there",)
    for end in range(len(content) // 2, len(content) - 8, 16):
        for rest in (b"", b"\xff\xd9"):
            with pytest.raises(PhotoError):
                decode(content[:end] + rest, "a.jpg")


def png(exponent: int | None = None, cicp: bytes = b"", srgb: bool = False, deep: bool = False) -> Photo:
    """A linear ramp as a PNG, whose gAMA is `exponent` / 100,000."""
    chunks = chunk(b"gAMA", struct.pack(">I", exponent)) if exponent is not None else b""
    chunks += (chunk(b"cICP", cicp) if cicp else b"") + (chunk(b"sRGB", b"\0") if srgb else b"")
    samples = np.round(RAMP * 65_535).astype(np.uint16)[..., None]
    if deep:
        return decode(png_of(samples, 0, before_data=chunks), "a.png")
    content = content_of(Image.fromarray(GRAY), "PNG")
    return decode(content[:33] + chunks + content[33:], "a.png")


def srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("exponent", [100_000, 55_556])
def test_a_png_is_as_light_as_viewers_show_it(exponent: int, deep: bool) -> None:
    found = png(exponent, deep=deep)
    top = np.iinfo(found.luma.dtype).max
    stored = np.round(RAMP * 65_535) / 65_535 if deep else GRAY / 255
    assert np.abs(found.luma / top - srgb(stored ** (100_000 / exponent))).max() < 1 / top
    assert found.notes == (f"tone curve of gamma {exponent / 100_000:g} converted to that of sRGB",)


def test_a_png_in_srgb_stays_as_it_is() -> None:
    for found in (png(45_455), png(100_000, srgb=True), png(cicp=bytes((1, 13, 0, 1))), png(0), png()):
        assert np.array_equal(found.luma, GRAY)
        assert found.notes == ()
    for gamma in (1, 1_000, 2**31 - 1):
        found = png(gamma)
        assert np.array_equal(found.luma, GRAY)
        assert "which no photo has" in found.notes[0]


def test_cicp_comes_before_gama_and_what_is_not_converted_is_said() -> None:
    assert "gamma 1 " in png(45_455, cicp=bytes((1, 8, 0, 1))).notes[0]
    assert "PQ, of high dynamic range, is not converted" in png(cicp=bytes((9, 16, 0, 1))).notes[0]
    assert "primaries 9 by cICP" in png(cicp=bytes((9, 13, 0, 1))).notes[0]


ADOBE_RGB = (31_270, 32_900, 64_000, 33_000, 21_000, 71_000, 15_000, 6_000)
SRGB = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)


@pytest.mark.parametrize(
    ("mode", "points", "after", "noted"),
    [
        ("RGB", ADOBE_RGB, b"", True),
        ("P", ADOBE_RGB, b"", True),
        ("L", ADOBE_RGB, b"", False),
        ("RGB", SRGB, b"", False),
        ("RGB", ADOBE_RGB, chunk(b"sRGB", b"\0"), False),
    ],
)
def test_primaries_of_a_png_that_are_not_converted_are_said(
    mode: str, points: tuple[int, ...], after: bytes, noted: bool
) -> None:
    content = content_of(Image.fromarray(GRAY).convert(mode), "PNG")
    found = decode(content[:33] + chunk(b"cHRM", struct.pack(">8I", *points)) + after + content[33:], "a.png")
    assert found.notes == ("its colours, of primaries by cHRM, are not converted to sRGB",) * noted


@pytest.mark.parametrize(
    ("primaries", "transfer", "note"),
    [
        (1, 13, None),
        (12, 13, "primaries 12 by nclx"),
        (9, 16, "tone curve PQ"),
        (1, 8, "tone curve of gamma 1 converted to that of sRGB"),
        (1, 17, "its tone curve, that of digital cinema, is not converted"),
    ],
)
@pytest.mark.parametrize("format_", ["AVIF", "HEIF"])
def test_colors_of_an_avif_or_heic_that_are_not_converted_are_said(
    format_: str, primaries: int, transfer: int, note: str | None
) -> None:
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = content_of(Image.fromarray(GRAY).convert("RGB"), format_)
    place = content.index(b"colrnclx") + 8
    found = decode(content[:place] + struct.pack(">HH", primaries, transfer) + content[place + 4 :], "a." + format_)
    assert len(found.notes) == bool(note)
    assert (note or "") in "".join(found.notes)
    plain = decode(content, "a." + format_).luma.astype(int)
    if transfer == 8:
        light = np.where(
            plain <= 0.0031308 * 255, 12.92 * plain, 1.055 * (plain / 255) ** (1 / 2.4) * 255 - 0.055 * 255
        )
        assert np.abs(found.luma - light).max() <= 2
    else:
        assert np.array_equal(found.luma, plain)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_the_tone_curve_leaves_alpha_as_it_is(mode: str) -> None:
    image = Image.fromarray(GRAY).convert("RGBA" if mode == "P" else mode)
    image.putalpha(Image.fromarray(np.round(ALPHA * 255).astype(np.uint8)))
    content = content_of(image.quantize(200) if mode == "P" else image, "PNG")
    linear = content[:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + content[33:]
    plain, converted = decode(content, "a.png"), decode(linear, "a.png")
    assert np.array_equal(np.asarray(plain.alpha), np.asarray(converted.alpha))
    assert converted.luma.mean() > plain.luma.mean() + 20


def test_a_bmp_with_bit_fields_that_is_cut_fails() -> None:
    content = bmp_of_fields((0xF00, 0xF0, 0xF))
    with pytest.raises(PhotoError, match="ends after"):
        decode(content[:-1], "a.bmp")
    with pytest.raises(PhotoError, match=r"^a BMP with bit fields that do not fit"):
        decode(bmp_of_fields((0xF00, 0xF0, 0xF))[:54] + bytes(12) + content[66:], "a.bmp")


def test_a_jpeg_without_its_height_is_named() -> None:
    content = content_of(Image.fromarray(GRAY), "JPEG")
    place = content.index(b"\xff\xc0") + 5
    with pytest.raises(PhotoError, match="says its height behind its pixels"):
        decode(content[:place] + bytes(2) + content[place + 2 :], "a.jpg")


def test_a_bmp_without_one_of_the_colors() -> None:
    content = bytearray(bmp_of_fields((0xF800, 0x7E0, 0x1F)))
    content[62:66] = bytes(4)
    without = np.asarray(Image.fromarray((COLORS * [255, 255, 0]).astype(np.uint8)).convert("L"))
    assert np.abs(decode(bytes(content), "a.bmp").luma.astype(int) - without).max() <= 4


@pytest.mark.parametrize(
    "size, kind, reason",
    [(40, 4, "an embedded JPEG"), (40, 5, "an embedded PNG"), (64, 4, "RLE of 24 bits"), (64, 3, "Huffman")],
)
def test_compressions_of_a_bmp_are_named_by_its_header(size: int, kind: int, reason: str) -> None:
    header = struct.pack("<IiiHHI", size, 8, 8, 1, 24, kind).ljust(size, b"\0")
    content = struct.pack("<2sIHHI", b"BM", 14 + size + 192, 0, 0, 14 + size) + header + bytes(192)
    with pytest.raises(PhotoError, match=f"a BMP with {reason}.*, which is not read"):
        decode(content, "a.bmp")


def test_bit_fields_of_alpha() -> None:
    assert decode(bmp_of_fields((0xF00, 0xF0, 0xF, 0xF000)), "a.bmp").alpha is not None
    assert decode(bmp_of_fields((0xF00, 0xF0, 0xF)), "a.bmp").alpha is None
    content = bmp_of_fields((0xF00, 0xF0, 0xF))  # with a mask of alpha that no pixel has a bit in
    assert decode(content[:66] + struct.pack("<L", 0xF000) + content[70:], "a.bmp").alpha is None


@pytest.mark.parametrize(
    "encode, suffix",
    [(imagecodecs.jpeg2k_encode, ".jp2"), (imagecodecs.jpegxl_encode, ".jxl"), (imagecodecs.avif_encode, ".avif")],
)
def test_newer_formats_that_are_cut_fail(encode: Callable[..., bytes], suffix: str) -> None:
    content = bytes(encode(np.stack([GRAY] * 3, -1)))
    for end in range(30, len(content) - 1, max(1, len(content) // 20)):
        with pytest.raises(PhotoError):
            decode(content[:end], "a" + suffix)


@pytest.mark.parametrize("bits", [10, 12])
def test_jpeg_xl_of_other_depths_fills_the_range(bits: int) -> None:
    values = np.round(RAMP * (2**bits - 1)).astype(np.uint16)
    found = decode(bytes(imagecodecs.jpegxl_encode(values, lossless=True, bitspersample=bits)), "a.jxl")
    assert np.abs(found.luma / 65_535 - RAMP).max() < 1 / 2**bits


def test_jpeg_2000_of_12_bits() -> None:
    found = decode(bytes(imagecodecs.jpeg2k_encode(DEEP, bitspersample=12)), "a.jp2")
    assert np.abs(found.luma.astype(int) - np.round(DEEP * (65_535 / 4095))).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 7])
def test_jpeg_2000_of_less_than_8_bits_fills_the_range(bits: int, channels: int) -> None:
    top = 2**bits - 1
    planes = [np.round(part * top).astype(np.uint8) for part in (RAMP, RAMP[::-1], RAMP[:, ::-1], RAMP)]
    values = np.stack(planes[:channels], -1) if channels > 1 else planes[0]
    found = decode(bytes(imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits, codecformat="jp2")), "a.jp2")
    light = np.round(np.stack(planes, -1) * (255 / top)).astype(np.uint8)
    expected = light[..., 0] if channels < 3 else np.asarray(Image.fromarray(light[..., :3]).convert("L"))
    assert np.array_equal(found.luma, expected)
    if channels in (2, 4):
        assert np.array_equal(np.asarray(found.alpha), light[..., channels - 1])


def test_a_palette_of_a_jpeg_2000_of_4_bits() -> None:
    numbers = np.round(RAMP * 15).astype(np.uint8)
    steps = np.arange(16) * 17
    colors = np.stack([steps, 255 - steps, steps * 7 % 256], -1).astype(np.uint8)
    content = bytes(imagecodecs.jpeg2k_encode(numbers, level=0, bitspersample=4, codecformat="jp2"))
    palette = struct.pack(">HB", 16, 3) + b"\7" * 3 + colors.tobytes()
    channels = b"".join(struct.pack(">HBB", 0, 1, i) for i in range(3))
    further = b"".join(
        struct.pack(">L", 8 + len(body)) + kind + body for kind, body in ((b"pclr", palette), (b"cmap", channels))
    )
    start = content.index(b"jp2h") - 4
    size = int.from_bytes(content[start : start + 4])
    header = content[start + 4 : start + size].replace(bytes([0, 0, 0, 17]), bytes([0, 0, 0, 16]))
    whole = content[:start] + (size + len(further)).to_bytes(4) + header + further + content[start + size :]
    expected = np.asarray(Image.fromarray(colors[numbers]).convert("L"))
    assert np.array_equal(decode(whole, "a.jp2").luma, expected)


def test_a_jpeg_2000_of_channels_of_different_depths_is_refused() -> None:
    content = bytearray(imagecodecs.jpeg2k_encode(np.stack([GRAY] * 4, -1), level=0, codecformat="jp2"))
    place = content.index(newer_formats.SIZES) + newer_formats.COMPONENTS_AT + 2
    content[place + 9] = 0
    with pytest.raises(PhotoError, match="channels with 1 and 8 bits, which is not read"):
        decode(bytes(content), "a.jp2")


def test_heic_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PhotoError, match=r"cgan\[heic\]"):
        decode(b"\0\0\0\x18ftypheic" + bytes(32), "a.heic")


def test_heic_of_more_than_8_bits_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for pillow-heif, which is not part of the development tools."""

    samples = np.round(RAMP * 65_535).astype(np.uint16)

    class HeifFile(types.SimpleNamespace):
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return np.stack([samples] * 3, -1)

    from PIL import ImageFile

    class Opener(ImageFile.ImageFile):
        format = "HEIF"
        format_description = "HEIC"

        def _open(self) -> None:
            self._size, self._mode, self.tile = (RAMP.shape[1], RAMP.shape[0]), "RGB", []
            self.info.update(bit_depth=10, exif=None)

    def open_heif(content: bytes, convert_hdr_to_8bit: bool) -> HeifFile:
        assert content[4:12] == b"ftypheic"
        assert not convert_hdr_to_8bit
        return HeifFile()

    stub = types.SimpleNamespace(
        register_heif_opener=lambda: Image.register_open("HEIF", Opener, lambda head: head[4:12] == b"ftypheic"),
        open_heif=open_heif,
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", stub)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    found = decode(b"\0\0\0\x18ftypheic" + bytes(32), "a.heic")
    assert np.array_equal(found.luma, samples)
    assert found.notes == ()


def jxl_with_boxes() -> bytes:
    stream = bytes(imagecodecs.jpegxl_encode(GRAY, lossless=True))
    exif = b"\0\0\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    boxes = [(b"ftyp", b"jxl \0\0\0\0jxl "), (b"Exif", exif), (b"xml ", b"<x:xmpmeta/>"), (b"jxlc", stream)]
    packed = b"".join(struct.pack(">I", 8 + len(body)) + kind + body for kind, body in boxes)
    return b"\0\0\0\x0cJXL \r\n\x87\n" + packed


def test_jpeg_xl_in_boxes_keeps_xmp_and_is_turned_once() -> None:
    found = decode(jxl_with_boxes(), "a.jxl")
    assert found.xmp == b"<x:xmpmeta/>"
    assert found.size == GRAY.shape  # the orientation is that of the codestream, not of EXIF


def test_raw_data_called_jpeg_are_said_to_be_raw() -> None:
    structure = Structure("<")
    rows = [
        (256, LONG, 4),
        (257, LONG, 4),
        (258, SHORT, 8),
        (262, SHORT, 32_803),
        (273, LONG, structure.add(bytes(16))),
    ]
    structure.begin_at(structure.directory([*rows, (277, SHORT, 1), (279, LONG, 16)]))
    with pytest.raises(PhotoError, match="raw data of a camera"):
        decode(bytes(structure.content), "a.jpg")


HEADS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "PSD": b"8BPS\0\1",
    "JPEG-LS": b"\xff\xd8\xff\xf7\0\x0b\x08" + bytes(40),
    "PDF": b"%PDF-1.7\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg">',
    "XML, such as SVG": b'<?xml version="1.0"?><svg>',
    "TGA": bytes(2) + b"\2" + bytes(9) + b"\x10\0\x10\0\x18\0" + bytes(99),
    "Canon raw (CR2)": b"II*\0\x10\0\0\0CR\2\0" + bytes(40),
    "Canon raw (CR3)": b"\0\0\0\x18ftypcrx ",
    "Fujifilm raw (RAF)": b"FUJIFILMCCD-RAW 0201",
    "PAM": b"P7\nWIDTH 1\n",
    "PFM": b"PF\n1 1\n-1.0\n",
    "JPEG XR": b"II\xbc\1" + bytes(20),
    "HTML": b"<!DOCTYPE html><html>",
    "DPX": b"SDPX\0\0\x20\0V1.0",
    "MNG": b"\x8aMNG\r\n\x1a\n",
    "SGI": b"\x01\xda\1\1\0\2",
    "PCX": b"\x0a\5\1\x08",
    "a Sun raster file": b"\x59\xa6\x6a\x95" + bytes(28),
    "EMF": b"\1\0\0\0" + bytes(36) + b" EMF\0\0\1\0",
    "a RAR archive": b"Rar!\x1a\7\0",
    "a ZIP archive": b"PK\3\4" + bytes(20),
}


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.png"])
@pytest.mark.parametrize("found", HEADS)
def test_files_of_other_formats_are_named(found: str, name: str) -> None:
    with pytest.raises(PhotoError) as refusal:
        decode(HEADS[found], name)
    reason = str(refusal.value)
    assert found in reason
    assert "damaged" not in reason


@pytest.mark.parametrize(
    "encode, found", [(imagecodecs.jpeg2k_encode, "JPEG 2000"), (imagecodecs.jpegxl_encode, "JPEG XL")]
)
def test_read_formats_with_another_suffix_are_to_be_renamed(encode: Callable[..., bytes], found: str) -> None:
    with pytest.raises(PhotoError, match=f"its content is {found} but its name says JPEG; rename it"):
        decode(bytes(encode(GRAY)), "a.jpg")


def test_16_bit_png_without_its_end_marker_is_said() -> None:
    samples = np.zeros((4, 4, 3), np.uint16)
    assert decode(png_of(samples, 2)[:-12], "a.png").notes == ("the end marker is missing; every pixel is there",)
    damaged = bytearray(png_of(samples, 2))
    damaged[-20] ^= 1
    with pytest.raises(PhotoError, match="damaged"):
        decode(bytes(damaged), "a.png")


def test_ppm_values_above_the_highest_are_refused() -> None:
    content = b"P6 1 1 1000\n" + struct.pack(">3H", 1, 2, 1001)
    with pytest.raises(PhotoError, match="a value of 1001, its header says 1000"):
        decode(content, "a.ppm")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_jpeg_2000_is_decoded_without_pythons_lock_and_as_pillow_does(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).convert(mode)
    content = content_of(picture, "JPEG2000", irreversible=True, quality_layers=[20])
    monkeypatch.setattr(pixels, "load", None)  # Pillow keeps the lock, and other threads wait for seconds
    found = decode(content, "a.jp2")
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(found.luma, np.asarray(image.convert("L")))


@pytest.mark.parametrize(
    ("component", "mode", "is_plain"),
    [(b"\7\1\1", "RGB", True), (b"\7\1\1", "P", False), (b"\7\2\2", "RGB", False), (b"\x87\1\1", "RGB", False)],
)
def test_other_kinds_of_jpeg_2000_are_left_to_pillow(component: bytes, mode: str, is_plain: bool) -> None:
    image = Image.new(mode, (2, 2))
    image.format = "JPEG2000"
    head = newer_formats.SIZES + bytes(36) + b"\0\3" + b"\7\1\1" * 2 + component
    assert newer_formats.is_plain_jpeg2000(image, head) is is_plain


def jp2_in(values: np.ndarray, space: int) -> bytes:
    """A JPEG 2000 whose header names a colour space by its number."""
    content = bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="jp2"))
    place = content.index(b"colr") + 7
    return content[:place] + space.to_bytes(4) + content[place + 4 :]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_jpeg_2000_in_cmyk_is_no_rgb_with_alpha(dtype: type) -> None:
    inks = np.random.default_rng(0).integers(0, 256, (16, 24, 4)).astype(np.uint8)
    expected = np.asarray(Image.frombytes("CMYK", (24, 16), inks.tobytes()).convert("RGB").convert("L"))
    photo = decode(jp2_in(inks * dtype(257 if dtype == np.uint16 else 1), 12), "a.jp2")
    assert photo.alpha is None
    assert np.abs(photo.luma / np.iinfo(dtype).max * 255 - expected).max() <= 2


@pytest.mark.parametrize("space, name", [(14, "Lab"), (24, "e-sYCC"), (13, "YCCK")])
def test_jpeg_2000_in_other_models_is_named(space: int, name: str) -> None:
    values = np.zeros((16, 24, 4 if name == "YCCK" else 3), np.uint16)
    with pytest.raises(PhotoError, match=f"a JPEG 2000 in {name}, which is not read"):
        decode(jp2_in(values, space), "a.jp2")
