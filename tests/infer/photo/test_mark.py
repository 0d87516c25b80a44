"""The mark of a photo coloured by a model."""

import io

import numpy as np
import pytest
from PIL import Image

from cgan import __version__
from infer.colorizer import Colorizer
from infer.photo import mark, xmp
from infer.photo.decode import Photo, decode
from infer.photo.encode import write_photo
from tests.infer.photo.test_xmp import packet

MARK = mark.Mark("flowers <1>.onnx", "12ab")
GRAY = np.arange(60, dtype=np.uint8).reshape(6, 10)
TYPE, TOOL = (mark.IPTC_EXTENSION, "DigitalSourceType"), (xmp.XMP, "CreatorTool")


def values_of(content: bytes) -> dict[tuple[str, str], str]:
    properties = xmp.Packet(content).properties
    assert len({found.name for found in properties if found.name[0] != xmp.RDF}) == sum(
        found.name[0] != xmp.RDF for found in properties
    )
    return {found.name: found.value for found in properties}


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("own", [None, packet().encode()])
def test_every_format_with_xmp_is_marked(format_: str, own: bytes | None) -> None:
    photo = Photo(GRAY, None, None, None, None, (), xmp=own)
    black = np.zeros((3, 4, 4), np.float32)
    first, notes = write_photo(photo, black[:1], black, format_, mark=MARK)
    assert notes == ()
    assert bytes(first) == bytes(write_photo(photo, black[:1], black, format_, mark=MARK)[0])
    found = decode(bytes(first)).xmp or b""
    values = values_of(found)
    assert values[TYPE] == mark.SOURCE_TYPE
    assert values[TOOL] == f"cgan {__version__}"
    assert b"coloured by model flowers &lt;1&gt;.onnx, SHA-256 12ab" in found
    if own:
        assert found.startswith(own[: own.index(b"</rdf:RDF>")])
        assert found.endswith(own[own.index(b"</rdf:RDF>") :])


def test_a_bmp_cannot_be_marked_and_says_so() -> None:
    black = np.zeros((3, 4, 4), np.float32)
    _, notes = write_photo(Photo(GRAY, None, None, None, None, ()), black[:1], black, "BMP", mark=MARK)
    assert notes == ("mark of a coloured photo left out: BMP cannot hold XMP",)


def test_earlier_properties_of_these_names_are_replaced_and_said() -> None:
    own = packet(
        f' xmlns:i="{mark.IPTC_EXTENSION}" i:DigitalSourceType="urn:print"',
        '<xmp:CreatorTool xmlns:xmp="http://ns.adobe.com/xap/1.0/">Scan 1.0</xmp:CreatorTool>',
    )
    notes: list[str] = []
    values = values_of(mark.marked(own.encode(), MARK, notes))
    assert (values[TYPE], values[TOOL]) == (mark.SOURCE_TYPE, mark.CREATOR)
    assert notes == [
        "XMP DigitalSourceType replaced by the mark: it was 'urn:print'",
        "XMP CreatorTool replaced by the mark: it was 'Scan 1.0'",
    ]


def test_a_photo_with_the_mark_is_marked_again_and_named() -> None:
    notes: list[str] = []
    first = mark.marked(None, MARK, notes)
    assert notes == []
    again = mark.marked(first, MARK, notes)
    assert again.count(b"coloured by model") == 2
    assert notes == [mark.AGAIN]


@pytest.mark.parametrize(
    "earlier", ["<rdf:Seq><rdf:li>scanned</rdf:li></rdf:Seq>", "<rdf:Seq/>", "<rdf:Seq></rdf:Seq>", ""]
)
def test_the_entry_is_added_to_a_history(earlier: str) -> None:
    own = packet(f' xmlns:m="{mark.MEDIA_MANAGEMENT}"', f"<m:History>{earlier}</m:History>")
    found = mark.marked(own.encode(), MARK, [])
    assert values_of(found)[mark.HISTORY] == ""
    assert found.count(b"<stEvt:action>edited<") == 1
    assert (b"scanned" in found) == ("scanned" in earlier)
    notes: list[str] = []
    twice = mark.marked(found, MARK, notes)
    assert twice.count(b"<stEvt:action>edited<") == 2
    assert notes == [mark.AGAIN]


def test_the_mark_belongs_to_the_resource_of_the_packet() -> None:
    own = packet().replace('rdf:about=""', 'rdf:about="uuid:a&amp;b"').encode()
    assert mark.marked(own, MARK, []).count(b'rdf:about="uuid:a&amp;b"') == 2


@pytest.mark.parametrize("content", [b"no XML", b"<x/>"])
def test_a_packet_that_cannot_be_merged_is_replaced_and_said(content: bytes) -> None:
    notes: list[str] = []
    assert values_of(mark.marked(content, MARK, notes))[TYPE] == mark.SOURCE_TYPE
    assert notes[0].startswith("XMP replaced by the mark: ")


def test_python_marks_unless_told_not_to() -> None:
    file = io.BytesIO()
    Image.fromarray(GRAY).save(file, "PNG")
    with Colorizer("flowers", device="cpu") as colorizer:
        colored = colorizer.color_photo(file.getvalue(), "jpg").content
        plain = colorizer.color_photo(file.getvalue(), "jpg", mark=False).content
    assert b"compositeWithTrainedAlgorithmicMedia" in colored
    assert b"flowers.onnx, SHA-256 " in colored
    assert b"adobe" not in plain
