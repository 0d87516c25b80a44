"""A photo in: what of a file is kept beside its luma."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile, PngInfo

from infer.colorizer import Colorizer
from infer.photo.decode import Photo, decode
from infer.photo.encode import write_photo
from infer.photo.formats import ProfileUse
from tests.infer.photo import icc_profiles as icc
from tests.infer.photo.exif_blocks import ASCII, LONG, SHORT, Structure
from tests.infer.pictures import chunk, content_of, png_of, saved

RNG = np.random.default_rng(0)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="view"/></x:xmpmeta>'


def tags_of(photo: Photo) -> dict[int, object]:
    exif = Image.Exif()
    exif.load(photo.exif or b"")
    return dict(exif)


def gray_u8(height: int = 24, width: int = 31) -> np.ndarray:
    return RNG.integers(0, 256, (height, width), np.uint8)


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


def test_sixteen_bits_with_a_transparent_value(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 30_000, 65_535]], np.uint16)
    photo = decode(saved(tmp_path, "a.png", Image.fromarray(values), transparency=1000))
    assert np.array_equal(photo.luma, values)
    assert photo.alpha is not None
    assert np.asarray(photo.alpha).tolist() == [[255, 0, 255, 255]]


def test_transparent_colour_of_sixteen_bits() -> None:
    samples = np.full((3, 4, 3), 40_000, np.uint16)
    samples[1, 2] = (10_000, 20_000, 30_000)
    key = chunk(b"tRNS", struct.pack(">HHH", 10_000, 20_000, 30_000))
    alpha = decode(png_of(samples, 2, key), "a.png").alpha
    assert alpha is not None
    assert np.argwhere(np.asarray(alpha) == 0).tolist() == [[1, 2]]


@pytest.mark.parametrize(("bits", "level"), [(2, 1), (4, 5)])
def test_transparent_gray_of_few_bits(bits: int, level: int) -> None:
    pixels = 8 // bits
    row = b"\0" + bytes([level << (8 - bits)])  # the first pixel is of that level, the others black
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", pixels, 1, bits, 0, 0, 0, 0))
    content = header + chunk(b"tRNS", struct.pack(">H", level)) + chunk(b"IDAT", zlib.compress(row))
    alpha = decode(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""), "a.png").alpha
    assert alpha is not None
    assert np.asarray(alpha).tolist() == [[0] + [255] * (pixels - 1)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_removed(tmp_path: Path, orientation: int) -> None:
    gray = gray_u8(10, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    path = saved(tmp_path, "a.png", Image.fromarray(gray), exif=exif)
    photo = decode(path)
    assert np.array_equal(photo.luma, np.asarray(ImageOps.exif_transpose(Image.open(path))))
    assert tags_of(photo) == {0x0112: 1, 0x010F: "maker"}


def test_orientation_turns_alpha_and_sixteen_bits_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = Image.fromarray(RNG.integers(0, 256, (6, 9, 4), np.uint8))
    photo = decode(saved(tmp_path, "a.png", rgba, exif=exif))
    assert photo.alpha is not None
    assert np.array_equal(np.asarray(photo.alpha), np.rot90(np.asarray(rgba)[..., 3], -1))
    values = RNG.integers(0, 65_536, (6, 9)).astype(np.uint16)
    assert np.array_equal(
        decode(saved(tmp_path, "b.png", Image.fromarray(values), exif=exif)).luma, np.rot90(values, -1)
    )


def test_orientation_in_xmp_alone_is_applied(tmp_path: Path) -> None:
    gray = gray_u8(10, 16)
    photo = decode(content_of(Image.fromarray(gray), "WEBP", xmp=XMP, lossless=True), "a.webp")
    assert np.array_equal(photo.luma, np.rot90(gray, -1))


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_is_read_without_its_orientation(format_: str) -> None:
    options: dict[str, Any] = {"xmp": XMP}
    if format_ == "PNG":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif format_ == "TIFF":
        options = {"tiffinfo": {700: XMP}}
    photo = decode(content_of(Image.fromarray(gray_u8()).convert("RGB"), format_, **options), f"a.{format_.lower()}")
    assert photo.xmp == XMP.replace(b' tiff:Orientation="6"', b"")


def test_extended_xmp_is_said() -> None:
    content = content_of(Image.fromarray(gray_u8()).convert("RGB"), "JPEG", xmp=XMP)
    segment = b"http://ns.adobe.com/xmp/extension/\0" + bytes(50)
    content = content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + content[2:]
    photo = decode(content, "a.jpg")
    assert photo.xmp
    assert any("extension" in note for note in photo.notes)


@pytest.mark.parametrize("order", ["<", ">"])
def test_metadata_say_srgb_after_a_conversion(order: str) -> None:
    image, block = Image.fromarray(RNG.integers(0, 256, (12, 9, 3), np.uint8)), color_block(order, 0xFFFF, b"R03\0")
    packet = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
        <rdf:Description xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
        photoshop:ICCProfile="Adobe RGB (1998)" exif:ColorSpace="65535" photoshop:City="Ulm"/></rdf:RDF></x:xmpmeta>"""
    content = content_of(image, "JPEG", icc_profile=icc.ADOBE, exif=block, xmp=packet)
    photo, kept = decode(content), decode(content, profile=ProfileUse.KEEP)
    assert photo.exif == color_block(order, 1, b"R98\0")
    assert photo.xmp is not None
    assert b"Ulm" in photo.xmp
    assert b"ICCProfile" not in photo.xmp
    assert b"65535" not in photo.xmp
    assert photo.notes[1:] == (
        "EXIF ColorSpace changed to sRGB",
        "XMP properties left out: ICCProfile, ColorSpace, which describe other colours",
    )
    assert (kept.exif, kept.xmp, kept.notes) == (block, packet, ())


def test_adobe_rgb_by_exif_alone_is_noted() -> None:
    image = Image.fromarray(RNG.integers(0, 256, (12, 9, 3), np.uint8))
    for index, notes in ((b"R03\0", 1), (b"R98\0", 0)):
        block = color_block("<", 0xFFFF, index)
        photo = decode(content_of(image, "JPEG", exif=block))
        assert photo.exif == block
        assert np.array_equal(photo.luma, decode(content_of(image, "JPEG")).luma)
        assert len(photo.notes) == notes
        assert all("Adobe RGB" in note for note in photo.notes)
        assert decode(content_of(image, "JPEG", exif=block, icc_profile=icc.SRGB)).notes == ()


def color_block(order: str, space: int, index: bytes) -> bytes:
    """An EXIF block with ColorSpace and InteroperabilityIndex."""
    structure = Structure(order)
    interop = structure.directory([(1, ASCII, index)])
    exif = structure.directory([(0xA001, SHORT, space), (0xA005, LONG, interop)])
    structure.begin_at(structure.directory([(0x010F, ASCII, b"Canon\0"), (0x8769, LONG, exif)]))
    return b"Exif\0\0" + bytes(structure.content)


def test_first_frame_with_a_note(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    for name in ("a.gif", "a.tif"):
        path = saved(tmp_path, name, frames[0], save_all=True, append_images=frames[1:])
        photo = decode(path)
        assert photo.luma.max() == 10
        assert "first frame of several" in photo.notes


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exif_that_cannot_be_read_at_all_is_said() -> None:
    image = Image.fromarray(gray_u8())
    for block in (b"Exif\0\0" + bytes(range(60)), b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(30)):
        photo = decode(content_of(image, "JPEG", exif=block), "a.jpg")
        assert photo.exif is None
        assert [note for note in photo.notes if note.startswith("EXIF and orientation left out: damaged")]
    for block in (b"Exif\0\0II*\0\x08\0\0\0" + bytes(6), b"Exif\0\0"):
        assert decode(content_of(image, "JPEG", exif=block), "a.jpg").notes == ()


@pytest.mark.parametrize("dpi", [(float("nan"), 72.0), (72.0, float("inf")), (2e6, 2e6)])
def test_a_resolution_that_no_file_can_hold_is_left_out_with_a_note(
    tmp_path: Path, dpi: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(gray_u8()))
    load = PngImageFile.load

    def loaded(image: PngImageFile) -> Any:
        image.info["dpi"] = dpi
        return load(image)

    monkeypatch.setattr(PngImageFile, "load", loaded)
    photo = decode(path)
    assert photo.dpi is None
    assert [note.split(":")[0] for note in photo.notes] == ["resolution left out"]


def test_a_tiff_without_resolution_gets_none(tmp_path: Path) -> None:
    tiff = saved(tmp_path, "a.tif", Image.new("L", (4, 4)))
    assert decode(tiff).dpi is None
    assert decode(saved(tmp_path, "b.tif", Image.new("L", (4, 4)), dpi=(300, 200))).dpi == (300, 200)


def test_texts_of_a_png_are_kept_in_a_png_and_noted_elsewhere(tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Title", "Fields")
    texts.add_itxt("Author", "Somebody")
    texts.add_itxt("XML:com.adobe.xmp", "<x/>")
    photo = decode(saved(tmp_path, "a.png", Image.new("L", (4, 4)), pnginfo=texts))
    assert photo.texts == ((b"tEXt", b"Title\0Fields"), (b"iTXt", b"Author\0\0\0\0\0Somebody"))
    black = np.zeros((3, 4, 4), np.float32)
    output, notes = write_photo(photo, black[:1], black, "PNG")
    assert decode(bytes(output)).texts == photo.texts
    assert notes == ()
    for format_ in ("JPEG", "WEBP", "TIFF"):
        _, notes = write_photo(photo, black[:1], black, format_)
        assert notes == (f"PNG text Author, Title left out: {format_} cannot hold it",)


def test_names_of_document_page_and_scanner_of_a_tiff_are_kept(tmp_path: Path) -> None:
    tags = Image.Exif()
    named = {269: "document", 285: "page", 316: "scanner"}
    tags.update(named)
    exif = Image.Exif()
    found = decode(saved(tmp_path, "a.tif", Image.new("L", (4, 4)), exif=tags)).exif
    assert found is not None
    exif.load(found)
    assert dict(exif) == named


@pytest.mark.parametrize("format_", ["png", "webp", "jpg", "tiff"])
def test_exif_of_a_bigtiff_is_exif_that_others_read(format_: str) -> None:
    tags = {270: "Grandma", 282: 300.0, 283: 300.0, 296: 2}
    content = content_of(Image.new("L", (3, 3)), "TIFF", big_tiff=True, tiffinfo=tags)
    with Colorizer("flowers", device="cpu") as colorizer:
        colored = colorizer.color_photo(content, format_)
    exif = Image.open(io.BytesIO(colored.content)).getexif()
    assert exif[270] == "Grandma"
    assert colored.notes == ()


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("orientation", "expected"), [(1, (204, 98)), (3, (204, 98)), (6, (98, 204)), (8, (98, 204))])
def test_resolution_turns_with_the_photo(format_: str, orientation: int, expected: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    if format_ != "TIFF":
        exif[282], exif[283] = 204.0, 98.0
    place = {"tiffinfo": {274: orientation}} if format_ == "TIFF" else {"exif": exif}
    photo = decode(content_of(Image.new("L", (40, 20)), format_, dpi=(204, 98), **place))
    assert photo.dpi == pytest.approx(expected, abs=0.02)
    if format_ != "TIFF":
        assert (tags_of(photo)[282], tags_of(photo)[283]) == expected


@pytest.mark.parametrize(("across", "down", "noted"), [(2, 1, True), (1, 1, False)])
def test_pixels_that_are_not_square_are_noted(across: int, down: int, noted: bool) -> None:
    image = Image.new("L", (4, 4))
    png, jpeg = content_of(image, "PNG"), content_of(image, "JPEG")
    png = png[:33] + chunk(b"pHYs", struct.pack(">LLB", across, down, 0)) + png[33:]
    jpeg = jpeg[:13] + b"\0" + struct.pack(">HH", across, down) + jpeg[18:]
    note = "pixels are written as squares; in the file 2 across are as long as 1 down"
    assert decode(png, "a.png").notes == decode(jpeg, "a.jpg").notes == (note,) * noted


def test_an_incomplete_profile_is_noted() -> None:
    content = write_jpeg_with_profile(bytes(range(256)) * 600)
    start = content.index(b"ICC_PROFILE\0", content.index(b"ICC_PROFILE\0") + 1) - 4
    length = int.from_bytes(content[start + 2 : start + 4])
    photo = decode(content[:start] + content[start + 2 + length :])
    assert "ICC profile left out: damaged (parts of it are missing)" in photo.notes


def write_jpeg_with_profile(profile: bytes) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "JPEG", icc_profile=profile)
    return file.getvalue()
