"""Blocks beside the pixels of each format: kept, or named in a note."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from infer.photo import containers, exif, iptc, xmp
from infer.photo.decode import Photo, decode
from infer.photo.encode import write_photo
from tests.infer.photo.exif_blocks import exif_block
from tests.infer.pictures import chunk, content_of, png_of

GRAY = Image.fromarray(np.arange(24 * 31, dtype=np.uint16).reshape(24, 31).astype(np.uint8))
CAPTIONS = b"\x1c\x02\x78\x00\x06Fishes"
PACKET = b'<x xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:RDF><rdf:Description/></rdf:RDF></x>'
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def resource(number: int, content: bytes, name: bytes = b"") -> bytes:
    pascal = bytes([len(name)]) + name
    return (
        b"8BIM"
        + struct.pack(">H", number)
        + pascal
        + bytes(len(pascal) % 2)
        + struct.pack(">L", len(content))
        + content
        + bytes(len(content) % 2)
    )


def jpeg(*segments: bytes) -> Photo:
    content = content_of(GRAY, "JPEG")
    return decode(content[:2] + b"".join(segments) + content[2:], "a.jpg")


def png(*chunks: bytes) -> Photo:
    content = content_of(GRAY, "PNG")
    return decode(content[:33] + b"".join(chunks) + content[33:], "a.png")


def colored(photo: Photo, format_: str) -> tuple[bytes, tuple[str, ...]]:
    answer = np.full((3, 8, 8), 0.5, np.float32)
    content, notes = write_photo(photo, answer[:1], answer, format_)
    return bytes(content), notes


def test_all_comments_of_a_jpeg_are_kept() -> None:
    photo = jpeg(segment(0xFE, b"first"), segment(0xFE, "zweiter é".encode("latin-1")))
    assert photo.comments == (b"first", "zweiter é".encode("latin-1"))
    output, notes = colored(photo, "JPEG")
    assert notes == ()
    assert decode(output, "a.jpg").comments == photo.comments


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (segment(0xE0, b"JFXX\0\x10" + b"\xff\xd8\xff\xd9"), exif.THUMBNAIL_NOTE),
        (segment(0xE2, b"MPF\0II*\0"), "other pictures of the file left out"),
        (segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0"), xmp.GAIN_MAP_NOTE),
        (segment(0xEB, b"JP\0\1content credentials"), "JPEG segments left out: APP11 JP"),
        (segment(0xED, iptc.JPEG_HEADER + resource(0x040C, b"small")), exif.THUMBNAIL_NOTE),
        (
            segment(0xED, iptc.JPEG_HEADER + resource(0x03ED, bytes(16)) + resource(0x07D0, b"path", b"way")),
            "Photoshop resources left out: 0x03ED, 0x07D0",
        ),
        (segment(0xED, b"Adobe_CM\0\0\1"), "JPEG segments left out: APP13 Adobe_CM"),
        (
            segment(0xED, iptc.JPEG_HEADER + b"8BIM"),
            "Photoshop resources left out: damaged",
        ),
    ],
)
def test_other_segments_of_a_jpeg_are_named(content: bytes, note: str) -> None:
    assert jpeg(content).notes == (note,)


@pytest.mark.parametrize("header", iptc.HEADERS)
@pytest.mark.parametrize("signature", [b"MeSa", b"AgHg", b"PHUT", b"DCSR"])
def test_captions_behind_resources_of_other_programs_are_kept(header: bytes, signature: bytes) -> None:
    other = resource(0x1B58, bytes(9)).replace(b"8BIM", signature)
    photo = jpeg(segment(0xED, header + other + resource(iptc.RESOURCE, CAPTIONS)))
    assert photo.iptc == CAPTIONS
    assert photo.notes == ("Photoshop resources left out: 0x1B58",)


def test_a_second_block_of_a_kind_is_noted_if_it_differs() -> None:
    first, second = (exif_block(order, orientation=1, thumbnail=False) for order in "<>")
    captions = iptc.JPEG_HEADER + resource(iptc.RESOURCE, CAPTIONS)
    photo = jpeg(
        *(segment(0xE1, block) for block in (first, second, first)),
        *(segment(0xE1, containers.XMP_MAIN + packet) for packet in (PACKET, PACKET, PACKET + b" ")),
        *(segment(0xED, captions.replace(b"Fishes", name)) for name in (b"Fishes", b"Plants")),
    )
    assert (photo.exif, photo.xmp, photo.iptc) == (first, PACKET, CAPTIONS)
    assert photo.notes == tuple(
        f"second block of {name} left out: only the first is kept" for name in ("EXIF", "XMP", "IPTC captions")
    )


def test_exif_that_goes_on_in_a_further_segment_is_joined() -> None:
    block = exif_block(orientation=1, thumbnail=False)
    photo = jpeg(segment(0xE1, block[:200]), segment(0xE1, exif.IDENTIFIER + block[200:]))
    assert (photo.exif, photo.notes) == (block, ())


@pytest.mark.parametrize(
    ("rest", "notes"),
    [(b"\0\0video" * 20, ("138 bytes behind the photo left out",)), (b"\0" * 20 + b"\r\n", ()), (b"", ())],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_what_lies_behind_a_jpeg_is_noted(rest: bytes, notes: tuple[str, ...], progressive: bool) -> None:
    content = content_of(GRAY.convert("RGB"), "JPEG", progressive=progressive, exif=exif_block(orientation=1))
    photo = decode(content + rest, "a.jpg")
    assert tuple(note for note in photo.notes if note != exif.THUMBNAIL_NOTE) == notes


def test_photoshop_resources_in_several_segments_are_read_as_one_block() -> None:
    block = resource(0x03F3, b"odd", b"a name") + resource(iptc.RESOURCE, CAPTIONS)
    photo = jpeg(*(segment(0xED, iptc.JPEG_HEADER + part) for part in (block[:17], block[17:])))
    assert photo.iptc == CAPTIONS


def raw_profile(kind: str, content: bytes) -> bytes:
    text = f"\n{kind}\n{len(content):8}\n{content.hex()}\n".encode()
    return chunk(b"zTXt", f"Raw profile type {kind}".encode() + b"\0\0" + zlib.compress(text))


@pytest.mark.parametrize("content", [CAPTIONS, resource(iptc.RESOURCE, CAPTIONS)])
@pytest.mark.parametrize("kind", ["iptc", "8bim"])
def test_captions_of_a_png_are_kept(kind: str, content: bytes) -> None:
    photo = png(raw_profile(kind, content))
    assert photo.iptc == CAPTIONS
    for format_ in ("PNG", "JPEG", "TIFF"):
        output, _ = colored(photo, format_)
        assert decode(output, f"a.{format_.lower()}").iptc == CAPTIONS
    assert colored(photo, "WEBP")[1] == ("IPTC captions left out: WEBP cannot hold it",)


@pytest.mark.parametrize("kind", ["exif", "APP1"])
def test_exif_in_the_text_of_a_png_is_read(kind: str) -> None:
    photo = png(raw_profile(kind, exif_block(thumbnail=False)))
    assert photo.size == (31, 24)
    assert photo.exif is not None
    assert len(photo.exif) == len(exif_block(thumbnail=False))
    assert photo.notes == ()


@pytest.mark.parametrize("color_type", [0, 2])
def test_metadata_behind_the_pixels_of_a_png_are_read(color_type: int) -> None:
    samples = np.repeat(np.asarray(GRAY).astype(np.uint16)[..., None] * 257, (1, 3)[color_type > 0], axis=2)
    content = png_of(samples, color_type)
    behind = chunk(b"eXIf", exif_block(thumbnail=False)[6:]) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PACKET)
    photo = decode(content[:-12] + behind + content[-12:], "a.png")
    assert photo.size == (31, 24)  # turned
    assert photo.exif is not None
    assert photo.xmp == PACKET


@pytest.mark.parametrize(
    ("kind", "head"),
    [(b"tEXt", b"\0"), (b"zTXt", b"\0\0"), (b"iTXt", b"\0\0\0\0\0"), (b"iTXt", b"\0\1\0de\0Titel\0")],
)
def test_xmp_in_any_text_of_a_png_is_read(kind: bytes, head: bytes) -> None:
    is_packed = kind == b"zTXt" or head[1:2] == b"\1"
    text = b"XML:com.adobe.xmp" + head + (zlib.compress(PACKET) if is_packed else PACKET)
    assert png(chunk(kind, text)).xmp == PACKET
    if is_packed:
        assert png(chunk(kind, text[:-9])).notes == ("XMP left out: damaged",)


def test_raw_exif_of_a_png_needs_no_identifier() -> None:
    photo = png(raw_profile("exif", exif_block(thumbnail=False)[6:]))
    assert photo.size == (31, 24)
    assert photo.notes == ()


@pytest.mark.parametrize("profile", [b"x\0\0no zlib", b"x\0\0" + zlib.compress(bytes(range(200)))[:6]])
def test_a_damaged_profile_of_a_png_is_noted_and_gama_counts(profile: bytes) -> None:
    photo = png(chunk(b"gAMA", struct.pack(">L", 100_000)), chunk(b"iCCP", profile))
    assert [note.split(":")[0] for note in photo.notes] == [
        "tone curve of gamma 1 converted to that of sRGB",
        "ICC profile left out",
    ]


def test_a_profile_of_another_length_is_damaged() -> None:
    text = b"\niptc\n      99\n1c02\n"
    photo = png(chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text)))
    assert photo.notes == ("PNG text left out: Raw profile type iptc, which is damaged",)


def test_texts_of_a_png_are_copied_as_they_lie_and_other_chunks_named() -> None:
    texts = (
        (b"tEXt", b"Author\0J\xfcrgen"),
        (b"zTXt", b"Title\0\0" + zlib.compress(b"Fields")),
        (b"iTXt", b"Title\0\0\0de\0Titel\0" + "Fälder".encode()),
    )
    photo = png(*(chunk(*text) for text in texts), chunk(b"tIME", bytes(7)), chunk(b"prVt", bytes(9)))
    assert photo.texts == texts
    assert photo.notes == ("PNG chunks left out: tIME, prVt",)
    output, notes = colored(photo, "PNG")
    assert notes == ()
    assert all(chunk(*text) in output for text in texts)


def test_a_note_names_the_first_of_many() -> None:
    photo = png(*(chunk(b"tEXt", b"Key%02d\0text" % i) for i in range(40)))
    names = ", ".join(f"Key{i:02}" for i in range(12))
    assert colored(photo, "JPEG")[1] == (f"PNG text {names} and 28 more left out: JPEG cannot hold it",)


PIXELS = bytes(range(24))


@pytest.mark.parametrize(
    "head, data",
    [
        (b"P5\n# one\n6 # two\n4\n#three\n255\n", PIXELS),
        (b"P5 # one\n# two\n#three\n6 4 255\n", PIXELS),
        (b"P2\n# one\n6 4 255 # two\n", b" ".join(b"%d" % value for value in PIXELS[:20]) + b"\n#three\n1 2 3 4\n"),
        (b"P4\n# one\n# two\n#three\n6 4\n", PIXELS[:4]),
        (b"P6\n# one\n# two\n#three\n2 4\n255\n", PIXELS),
        (b"P5\n# one\n# two\n#three\n6 2\n65535\n", b"#\n" * 12),
    ],
)
def test_comments_of_a_ppm_are_kept_and_further_bytes_named(head: bytes, data: bytes) -> None:
    photo = decode(head + data, "a.ppm" if head[1:2] == b"6" else "a.pgm")
    assert photo.comments == (b"one", b"two", b"three")
    assert photo.notes == ()
    assert b"\xff\xfe\x00\x05two" in colored(photo, "JPEG")[0]
    if head[1:2] != b"2":
        assert decode(head + data + b"P5 1 1 255\n0", "a.pgm").notes == ("12 bytes behind the photo left out",)


def test_comments_of_a_jpeg_2000_are_kept_but_for_its_encoders_name() -> None:
    content = content_of(GRAY, "JPEG2000")
    assert decode(content, "a.jp2").comments == ()
    assert b"OpenJPEG" in content
    place = content.index(b"\xff\x64")
    own = b"\xff\x64\0\x0a\0\1Fishes"
    photo = decode(content[:place] + own + content[place:], "a.jp2")
    assert photo.comments == (b"Fishes",)


def test_comments_and_application_blocks_of_a_gif() -> None:
    content = content_of(GRAY, "GIF")
    start = 13 + 3 * 2 ** ((content[10] & 7) + 1)

    def blocks(data: bytes) -> bytes:
        pieces = (data[i : i + 255] for i in range(0, len(data), 255))
        return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"

    magic = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    extensions = (
        b"!\xfe" + blocks(b"one"),
        b"!\xfe" + blocks(b"x" * 300),
        b"!\xff\x0bXMP DataXMP" + PACKET + magic,
        b"!\xff\x0bICCRGBG1012" + blocks(PROFILE),
        b"!\xff\x0bABCDEFGH1.0" + blocks(b"data"),
        b"!\xff\x0bNETSCAPE2.0" + blocks(b"\1\0\0"),
    )
    photo = decode(content[:start] + b"".join(extensions) + content[start:], "a.gif")
    assert photo.comments == (b"one", b"x" * 300)
    assert photo.xmp == PACKET
    assert photo.icc_profile == PROFILE
    assert photo.notes == ("GIF application block left out: ABCDEFGH1.0",)
    assert np.array_equal(photo.luma, np.asarray(GRAY))


def test_the_profile_of_a_bmp_of_version_5_is_kept() -> None:
    plain = content_of(GRAY.convert("RGB"), "BMP")
    pixels = plain[54:]
    header = struct.pack("<LiiHHLLiiLL", 124, 31, 24, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    header += bytes(16) + b"DEBM" + bytes(36 + 12 + 4) + struct.pack("<LLL", 124 + len(pixels), len(PROFILE), 0)
    assert len(header) == 124
    start = b"BM" + struct.pack("<LLL", 14 + 124 + len(pixels) + len(PROFILE), 0, 14 + 124)
    photo = decode(start + header + pixels + PROFILE, "a.bmp")
    assert photo.icc_profile == PROFILE
    assert decode(plain, "a.bmp").icc_profile is None


def test_colours_that_the_header_of_a_bmp_calibrates_are_noted() -> None:
    pixels = content_of(GRAY.convert("RGB"), "BMP")[54:]

    def notes(space: bytes, ends: tuple[float, ...] = (0,) * 9, gamma: float = 0) -> tuple[str, ...]:
        header = struct.pack("<LiiHHLLiiLL", 108, 31, 24, 1, 24, 0, len(pixels), 0, 0, 0, 0) + bytes(16) + space
        header += struct.pack("<9l3L", *(round(end * 2**30) for end in ends), *[round(gamma * 2**16)] * 3)
        return decode(b"BM" + struct.pack("<LLL", 122 + len(pixels), 0, 122) + header + pixels, "a.bmp").notes

    srgb = (0.64, 0.33, 0.03, 0.3, 0.6, 0.1, 0.15, 0.06, 0.79)
    adobe = (*srgb[:3], 0.21, 0.71, 0.08, *srgb[6:])
    note = ("its colours, calibrated in the header of the BMP, are not converted to sRGB",)
    assert notes(bytes(4)) == notes(b"BGRs", adobe, 1) == notes(bytes(4), srgb, 2.2) == ()
    assert notes(bytes(4), adobe, 2.2) == notes(bytes(4), srgb, 1) == notes(b"KNIL") == note


def test_other_chunks_of_a_webp_are_named() -> None:
    content = content_of(GRAY, "WEBP", exif=exif_block(orientation=1, thumbnail=False), xmp=PACKET)
    content += b"ABCD\3\0\0\0new\0"
    assert decode(content[:4] + struct.pack("<L", len(content) - 8) + content[8:], "a.webp").notes == (
        "WebP chunks left out: ABCD",
    )


def test_the_profile_of_a_jp2_is_read() -> None:
    plain = content_of(GRAY.convert("RGB"), "JPEG2000", irreversible=False)
    start = plain.index(b"colr") - 4
    box = struct.pack(">L4s3B", 11 + len(PROFILE), b"colr", 2, 0, 0) + PROFILE
    header = plain.index(b"jp2h") - 4
    size = int.from_bytes(plain[header : header + 4]) + len(box) - 15
    content = plain[:header] + struct.pack(">L", size) + plain[header + 4 : start] + box + plain[start + 15 :]
    photo = decode(content, "a.jp2")
    assert photo.icc_profile == PROFILE
    assert np.array_equal(photo.luma, decode(plain, "a.jp2").luma)
    assert decode(plain, "a.jp2").icc_profile is None


def test_a_directory_that_cannot_be_read_costs_the_tags_alone() -> None:
    for content in (b"II*\0\xff\0\0\0", b"II*\0\x08\0\0\0\xff\xff" + bytes(20)):
        assert containers.of_tiff(io.BytesIO(content)).notes[0].startswith("TIFF tags left out: damaged (")


def test_a_jpeg_gets_no_resolution_that_its_source_has_not() -> None:
    block = exif_block(orientation=1, thumbnail=False)
    odd = block.replace(struct.pack("<HHL", 0x011A, 5, 1), struct.pack("<HHL", 0x011A, 2, 8))
    content = content_of(GRAY, "JPEG", exif=odd)
    assert decode(content, "a.jpg").dpi is None
    assert decode(content_of(GRAY, "JPEG", exif=block), "a.jpg").dpi == (204, 98)
    output, _ = colored(decode(content, "a.jpg"), "JPEG")
    assert Image.open(io.BytesIO(output)).info["jfif_unit"] == 0


def test_webp_gets_a_resolution_in_its_exif() -> None:
    block = exif_block(orientation=1, thumbnail=False)
    photo = Photo(np.asarray(GRAY), None, block, None, (300.0, 150.0), ())
    for format_ in ("WEBP", "TIFF"):
        output, notes = colored(photo, format_)
        assert notes == ("resolution of 300 x 150 dots per inch left out: EXIF has another one",)
        assert format_ == "TIFF" or Image.open(io.BytesIO(output)).info["exif"] == block[6:]
    assert colored(Photo(np.asarray(GRAY), None, block, None, (204.0, 98.0), ()), "WEBP")[1] == ()
    bare = Photo(np.asarray(GRAY), None, None, None, (300.0, 150.0), ())
    found = Image.open(io.BytesIO(colored(bare, "WEBP")[0])).getexif()
    assert (found[282], found[283], found[296]) == (300, 150, 2)
