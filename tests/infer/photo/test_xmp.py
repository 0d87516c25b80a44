"""XMP: what is untrue of the coloured photo goes, the rest stays byte for byte."""

import hashlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infer.photo import exif, mark, xmp
from infer.photo.decode import Photo, decode
from infer.photo.encode import write_photo
from tests.infer.pictures import content_of

RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
TIFF = "http://ns.adobe.com/tiff/1.0/"
GRAY = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))


def packet(attributes: str = "", inner: str = "", more: str = "") -> str:
    """A packet with one description; parts marked by {} around them are those to be cut out."""
    return (
        f'<?xpacket begin="\ufeff"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n<rdf:RDF {RDF}>'
        f'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"{attributes}>'
        f"<dc:title>caf\u00e9 &amp; \u5199\u771f</dc:title>{inner}</rdf:Description>{more}</rdf:RDF></x:xmpmeta>\n\n"
        '<?xpacket end="w"?>'
    )


def cut(marked: str) -> tuple[bytes, bytes]:
    """The text with and without the parts between ⟦ and ⟧."""
    whole, rest, depth = marked.replace("⟦", "").replace("⟧", ""), "", 0
    for letter in marked:
        depth += (letter == "⟦") - (letter == "⟧")
        rest += "" if depth or letter == "⟧" else letter
    return whole.encode(), rest.encode()


@pytest.mark.parametrize(
    "form",
    [
        packet(f' xmlns:tiff="{TIFF}"⟦ tiff:Orientation="6"⟧'),
        packet(f" xmlns:tiff='{TIFF}'⟦\n  tiff:Orientation = '6'⟧ dc:format='image/jpeg'"),
        packet(f' xmlns:t="{TIFF}"⟦ t:Orientation="6"⟧'),
        packet(f' xmlns:tiff="{TIFF}"', "\n<tiff:Make>Acme</tiff:Make>⟦<tiff:Orientation> 6 </tiff:Orientation>⟧\n"),
        packet("", f'⟦<o:Orientation xmlns:o="{TIFF}">6</o:Orientation>⟧'),
        packet("", f'⟦<Orientation xmlns="{TIFF}">6</Orientation>⟧'),
        packet(more=f'<rdf:Description rdf:about="" xmlns:tiff="{TIFF}"⟦ tiff:Orientation="6"⟧/>'),
        packet('⟦ tiff:Orientation="6"⟧'),
        packet(
            f' xmlns:tiff="{TIFF}"',
            '⟦<tiff:Orientation rdf:parseType="Resource"><rdf:value>6</rdf:value></tiff:Orientation>⟧',
        ),
    ],
)
def test_orientation_is_cut_out_in_any_form_of_xml(form: str) -> None:
    content, expected = cut(form)
    assert xmp.truthful(content, None, []) == (expected, 6)
    photo = decode(content_of(GRAY.convert("RGB"), "JPEG", xmp=content), "a.jpg")
    assert photo.xmp == expected
    assert photo.size == (10, 6)


@pytest.mark.parametrize(
    "form",
    [
        packet(' xmlns:tiff="urn:another" tiff:Orientation="6"'),
        packet(
            "", f'<dc:source rdf:parseType="Resource"><t:Orientation xmlns:t="{TIFF}">6</t:Orientation></dc:source>'
        ),
        packet("", f'<!-- tiff:Orientation="6" {TIFF} -->'),
    ],
)
def test_what_only_looks_like_an_orientation_stays(form: str) -> None:
    assert xmp.truthful(form.encode(), None, []) == (form.encode(), 1)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_other_encodings_stay_what_they_are(codec: str) -> None:
    content, expected = (
        ("\ufeff" + text.decode()).encode(codec) for text in cut(packet(f' xmlns:tiff="{TIFF}"⟦ tiff:Orientation="8"⟧'))
    )
    assert xmp.truthful(content, None, []) == (expected, 8)
    photo = Photo(np.asarray(GRAY), None, None, None, None, (), xmp=expected)
    black = np.zeros((3, 4, 4), np.float32)
    png = Image.open(io.BytesIO(write_photo(photo, black[:1], black, "PNG")[0]))
    assert png.info["xmp"] == expected.decode(codec).encode()


def test_bytes_that_are_no_text_stay() -> None:
    content, expected = (
        text.replace(b"caf", b"caf\xe9") + bytes(40) for text in cut(packet('⟦ tiff:Orientation="3"⟧'))
    )
    assert xmp.truthful(content, None, []) == (expected, 3)


SHOP = ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'


@pytest.mark.parametrize(
    ("form", "given", "names"),
    [
        (
            packet(SHOP + '⟦ photoshop:ColorMode="1"⟧⟦ photoshop:ICCProfile="Dot Gain 20%"⟧'),
            None,
            "ColorMode, ICCProfile",
        ),
        (packet(SHOP + ' photoshop:ColorMode="3" photoshop:ICCProfile="sRGB"'), 6, ""),
        (packet('⟦ tiff:SamplesPerPixel="1"⟧ tiff:Make="Acme"'), None, "SamplesPerPixel"),
        (packet('⟦ tiff:ImageWidth="9"⟧', "⟦<tiff:ImageLength>9</tiff:ImageLength>⟧"), 6, "ImageWidth, ImageLength"),
        (packet(' tiff:ImageWidth="9"', "<tiff:ImageLength>9</tiff:ImageLength>"), 3, ""),
        (packet('⟦ tiff:ImageWidth="9"⟧⟦ tiff:Orientation="6"⟧'), None, "ImageWidth"),
        (packet(' tiff:ImageWidth="9"⟦ tiff:Orientation="6"⟧'), 1, ""),
    ],
)
def test_what_describes_the_pixels_of_the_scan_goes_where_it_is_untrue(
    form: str, given: int | None, names: str
) -> None:
    content, expected = cut(form)
    notes: list[str] = []
    assert xmp.truthful(content, given, notes)[0] == expected
    assert notes == ([f"XMP properties left out: {names}, which describe the pixels of the scan"] if names else [])


GAIN_MAP = ' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"'
CONTAINER = ' xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:Item="urn:item"'
CAMERA = ' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"'
DIRECTORY = (
    '<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="{}"/></rdf:li>'
    "</rdf:Seq></Container:Directory>"
)


@pytest.mark.parametrize(
    ("form", "note"),
    [
        (packet(GAIN_MAP + '⟦ hdrgm:Version="1.0"⟧⟦ hdrgm:GainMapMax="2"⟧'), xmp.GAIN_MAP_NOTE),
        (packet(GAIN_MAP, "⟦<hdrgm:Gamma><rdf:Seq><rdf:li>1</rdf:li></rdf:Seq></hdrgm:Gamma>⟧"), xmp.GAIN_MAP_NOTE),
        (packet(CONTAINER, f"⟦{DIRECTORY.format('GainMap')}⟧"), xmp.GAIN_MAP_NOTE),
        (packet(CONTAINER, f"⟦{DIRECTORY.format('Depth')}⟧"), "files behind the photo left out"),
        (
            packet(CAMERA + '⟦ GCamera:MotionPhoto="1"⟧⟦ GCamera:MotionPhotoVersion="1"⟧'),
            "video of the motion photo left out",
        ),
        (
            packet(CAMERA, "⟦<GCamera:MicroVideoOffset>99</GCamera:MicroVideoOffset>⟧"),
            "video of the motion photo left out",
        ),
        (
            packet("", "⟦<xmp:Thumbnails><rdf:Alt><rdf:li>AAAA</rdf:li></rdf:Alt></xmp:Thumbnails>⟧"),
            exif.THUMBNAIL_NOTE,
        ),
    ],
)
def test_claims_of_what_is_left_out_go_with_a_note(form: str, note: str) -> None:
    content, expected = cut(form)
    photo = decode(content_of(GRAY.convert("RGB"), "WEBP", xmp=content), "a.webp")
    assert photo.xmp == expected
    assert photo.notes == (note,)


@pytest.mark.parametrize("damaged", [b"<x", b"<x/>" * 2, b"no XML", b"<!DOCTYPE x><x/>"])
def test_damaged_xmp_is_left_out_and_said_where_it_may_be_untrue(damaged: bytes) -> None:
    assert decode(content_of(GRAY.convert("RGB"), "WEBP", xmp=damaged), "a.webp").xmp == damaged
    untrue = damaged + b"<!-- tiff:Orientation -->"
    photo = decode(content_of(GRAY.convert("RGB"), "WEBP", xmp=untrue), "a.webp")
    assert photo.xmp is None
    assert [note.split(" (")[0] for note in photo.notes] == ["XMP left out: damaged"]


def test_the_number_of_properties_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xmp, "MOST_PARTS", 20)
    with pytest.raises(ValueError, match="more than 20 tags and attributes"):
        xmp.Packet(packet("", "<dc:a/>" * 20).encode())


def extended(main: bytes, extension: bytes, step: int = 1000) -> bytes:
    """A JPEG with extended XMP in parts."""
    guid = hashlib.md5(extension).hexdigest().upper().encode()
    content = content_of(GRAY, "JPEG", xmp=main.replace(b"GUID", guid))
    for place in range(0, len(extension), step):
        part = guid + struct.pack(">LL", len(extension), place) + extension[place : place + step]
        body = b"http://ns.adobe.com/xmp/extension/\0" + part
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body + content[2:]
    return content


EXTENDED = packet(' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="GUID"').encode()
EXTENSION = (
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:a="urn:a"><rdf:RDF {RDF} xmlns:tiff="{TIFF}"><rdf:Description '
    f'tiff:Orientation="6" rdf:about=""><a:big>{"x" * 2500}</a:big></rdf:Description></rdf:RDF></x:xmpmeta>'
).encode()


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_extended_xmp_becomes_one_packet(format_: str) -> None:
    photo = decode(extended(EXTENDED, EXTENSION), "a.jpg")
    assert photo.notes == ()
    assert photo.size == (10, 6)
    black = np.zeros((3, 4, 4), np.float32)
    output, _ = write_photo(photo, black[:1], black, format_, mark=mark.Mark("m", "d"))
    found = xmp.Packet(decode(bytes(output), f"a.{format_}").xmp or b"")
    assert found.find(("urn:a", "big"))
    assert found.find(("http://purl.org/dc/elements/1.1/", "title"))
    assert found.find(xmp.EXTENSION) is None
    assert found.find(xmp.ORIENTATION) is None


@pytest.mark.parametrize("has_mark", [True, False])
def test_a_jpeg_gets_long_xmp_in_an_extension_again(has_mark: bool) -> None:
    long = packet("", "".join(f"<dc:p{i}>{'x' * 50_000}</dc:p{i}>" for i in range(3))).encode()
    photo = Photo(np.asarray(GRAY), None, None, None, None, (), xmp=long)
    black = np.zeros((3, 4, 4), np.float32)
    output, notes = write_photo(photo, black[:1], black, "JPEG", mark=mark.Mark("m", "d") if has_mark else None)
    assert notes == ()
    main = xmp.Packet(Image.open(io.BytesIO(output)).info["xmp"])
    assert bool(main.find((mark.IPTC_EXTENSION, "DigitalSourceType"))) == has_mark
    again = xmp.Packet(decode(bytes(output), "a.jpg").xmp or b"")
    names = [found.name for found in again.properties if found.name != (xmp.RDF, "about")]
    assert len(names) == len(set(names))
    assert {("http://purl.org/dc/elements/1.1/", f"p{i}") for i in range(3)} <= set(names)


def test_an_extension_with_missing_parts_is_said() -> None:
    content = extended(EXTENDED, EXTENSION)
    start = content.index(b"http://ns.adobe.com/xmp/extension/") - 4
    size = int.from_bytes(content[start + 2 : start + 4])
    photo = decode(content[:start] + content[start + 2 + size :], "a.jpg")
    assert photo.notes == ("XMP kept without its extension, parts of which are missing",)
    assert photo.xmp


@given(st.data())
def test_damage_raises_nothing_else(data: st.DataObject) -> None:
    content = bytearray(packet(f' xmlns:tiff="{TIFF}" tiff:Orientation="6"', DIRECTORY).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    notes: list[str] = []
    try:
        xmp.truthful(bytes(content), None, notes)
    except ValueError:
        notes.append("damaged")
    mark.marked(bytes(content), mark.Mark("m", "d"), notes)
