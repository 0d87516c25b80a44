"""Metadata from each format into each, with exiftool as the referee."""

import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infer.photo import iptc
from infer.photo.decode import decode
from infer.photo.encode import write_photo
from tests.infer.photo.exif_blocks import exif_block, tiff_file

pytestmark = pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")

GRAY = np.arange(31 * 24, dtype=np.uint16).reshape(24, 31).astype(np.uint8)
CAPTIONS = b"\x1c\x02\x78\x00\x04Rose" + b"\x1c\x02\x50\x00\x05Flora"
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/x">'
    b"<dc:subject><rdf:Bag><rdf:li>caf\xc3\xa9</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
)
LAYOUT = re.compile(
    r"IFD0:(ImageWidth|ImageHeight|BitsPerSample|Compression|PhotometricInterpretation|StripOffsets|SamplesPerPixel|"
    r"RowsPerStrip|StripByteCounts|PlanarConfiguration|Predictor|Orientation)="
)
GROUPS = re.compile(r"(IFD\d|ExifIFD|InteropIFD|GPS|Canon|PrintIM|XMP-\w+|IPTC|GeoTiff):")


def tags(folder: Path, files: dict[str, bytes]) -> dict[str, set[str]]:
    """What exiftool finds in each file, without the layout of its pixels."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    command = ["exiftool", "-a", "-G1", "-s", "-u", "-n", "-charset", "exif=utf8", *files]
    output = subprocess.run(command, capture_output=True, check=True, cwd=folder).stdout
    found: dict[str, set[str]] = {}
    for part in output.decode("utf-8", "backslashreplace").split("======== ")[1:]:
        name, *lines = part.splitlines()
        assert not [line for line in lines if "Warning" in line or "Error" in line]
        named = {re.sub(r"^\[(\S+)\]\s+(\S+)\s*: ", r"\1:\2=", line) for line in lines}
        found[name] = {line for line in named if GROUPS.match(line) and not LAYOUT.match(line)}
    return found


def photo(format_: str, order: str) -> bytes:
    """A gray photo with EXIF, XMP and captions."""
    file, image = io.BytesIO(), Image.fromarray(GRAY)
    if format_ == "TIFF":
        further = [(700, 1, XMP), (33723, 7, CAPTIONS)]
        return tiff_file(GRAY.tobytes(), 31, order, further=further)
    options: dict[str, Any] = {"exif": exif_block(order, orientation=1, thumbnail=False), "xmp": XMP}
    if format_ == "JPEG":
        options["extra"] = iptc.jpeg_segment(CAPTIONS)
    elif format_ == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
        options["pnginfo"].add(*iptc.png_chunk(CAPTIONS))
    image.save(file, format_, **options)
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.slow
def test_every_tag_is_equal_or_named(tmp_path: Path, source: str, order: str) -> None:
    content = photo(source, order)
    decoded, answer = decode(content), np.full((3, 8, 8), 0.5, np.float32)
    outputs, notes = {"source": content}, {}
    for target in ("JPEG", "PNG", "WEBP", "TIFF"):
        output, notes[target] = write_photo(decoded, answer[:1], answer, target)
        outputs[target] = bytes(output)
    found = tags(tmp_path, outputs)
    assert {"Canon:OwnerName=Ansel Adams", "IFD0:Make=Canon", "XMP-dc:Format=image/x"} <= found["source"]
    for target in notes:
        lost = found["source"] - found[target]
        if any("IPTC captions left out" in note for note in notes[target]):
            lost = {line for line in lost if not line.startswith("IPTC:")}
        assert lost == set(), (target, decoded.notes, notes[target])
