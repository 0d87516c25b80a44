"""Metadata as they lie in a file: the blocks of JPEG, PNG, WebP, GIF, BMP and TIFF beside the pixels.

`infer.photo.metadata` makes of them what the coloured photo keeps.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from PIL import Image, TiffTags

from cgan.photo_limits import MAX_METADATA, LimitError, check_time
from infer.photo import boxes, exif, iptc, tiff, xmp
from infer.photo.exif import THUMBNAIL_NOTE
from infer.photo.tiff import listed

XMP_KEY = "XML:com.adobe.xmp"
RAW_PROFILE = "Raw profile type "
"""First words of PNG texts in which ImageMagick and exiftool keep EXIF, IPTC and XMP as hexadecimal digits."""

ICC_SEGMENT = b"ICC_PROFILE\0"
XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
XMP_MAIN = b"http://ns.adobe.com/xap/1.0/\0"
ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"

LAYOUT_SEGMENTS = (
    b"JFIF\0",
    b"Exif\0\0",
    XMP_MAIN,
    XMP_EXTENSION,
    ICC_SEGMENT,
    b"Adobe",
    b"Ducky",
    iptc.JPEG_HEADER,
)
"""First bytes of JPEG segments that are kept or describe the compression; others are noted."""

OTHERS_NOTE = "other pictures of the file left out"

TEXT_CHUNKS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
NOTED_CHUNKS = frozenset({b"tIME", b"oFFs", b"sCAL", b"pCAL", b"sTER", b"caBX", b"vpAg"})
"""Chunks of a PNG beside those of its pixels and colours, which are not written to outputs."""

GIF_IMAGE, GIF_EXTENSION, GIF_COMMENT, GIF_APPLICATION = 0x2C, 0x21, 0xFE, 0xFF
GIF_ANIMATION = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
GIF_XMP, GIF_ICC = b"XMP DataXMP", b"ICCRGBG1012"

BMP_V5, BMP_EMBEDDED_PROFILE = 124, b"DEBM"
"""Size of a header of version 5, and its colour space with an embedded profile."""

LAYOUT_TAGS = frozenset(
    {
        *range(254, 260),  # NewSubfileType to Compression
        *range(262, 267),  # PhotometricInterpretation to FillOrder
        *(273, *range(277, 282), 284),  # strips, SamplesPerPixel, MinSampleValue, MaxSampleValue, PlanarConfiguration
        *(*range(288, 294), 317, 320),  # free space, curve of gray, fax options, Predictor, ColorMap
        *range(322, 329),  # tiles, lines damaged on the way
        *(*range(332, 335), *range(336, 342), *range(345, 348), *range(512, 522)),  # inks, samples, JPEG streams
        *(529, 530, 532, 559),  # YCbCr and its range, rows of strips
        *(xmp.TIFF_TAG, iptc.TIFF_TAG, iptc.TIFF_RESOURCES, 34675),  # which are kept apart: XMP, IPTC, ICC profile
    }
)
"""Tags of a TIFF that describe the layout of its pixels, which is another one in the output."""

GEO_TAGS = frozenset({33550, 33922, 34264, 34735, 34736, 34737})
"""Tags of GeoTIFF: scale, tie points, transformation, keys and their values."""

LEFT_OUT_TAGS = frozenset({301, 318, 319, 321, 330, 342, 37724, 50838, 50839, *range(50706, 51182)})
"""Tags of curves and primaries of the gray scan, other pictures, layers, ImageJ's counts, and raw data of a DNG."""

STACKS = (b"images=", b"channels=", b"slices=", b"frames=", b'{"shape"', b"<OME ")
"""Parts of image descriptions of ImageJ, tifffile and OME that describe the samples of the scan."""


@dataclass
class Blocks:
    """Metadata of a file, as they lie."""

    exif: bytes = b""
    xmp: bytes = b""
    extension: bytes = b""
    """Extended XMP of a JPEG."""
    iptc: bytes = b""
    comments: list[bytes] = field(default_factory=list)
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Types and contents of a PNG's text chunks, without EXIF, IPTC and XMP."""
    geo: bytes = b""
    """GeoTIFF's tags, as an EXIF block."""
    icc_profile: bytes = b""
    """Profiles that Pillow does not read."""
    has_icc_segments: bool = False
    """True if a JPEG has segments of a profile, whole or not."""
    notes: list[str] = field(default_factory=list)

    def note(self, note: str) -> None:
        """Add a note, once."""
        if note not in self.notes:
            self.notes.append(note)


def read(image: Image.Image, file: BinaryIO) -> Blocks:
    """Return the metadata of a photo that Pillow has opened.

    Args:
        image: the loaded image.
        file: its file; the position is moved.

    Raises:
        LimitError: they are larger than MAX_METADATA.
    """
    if image.format == "TIFF":
        return of_tiff(file)
    found = Blocks(exif=image.info.get("exif") or b"", xmp=_bytes(image.info.get("xmp")))
    if image.format in ("JPEG", "MPO"):
        _read_jpeg(found, getattr(image, "applist", ()))
    elif image.format == "PNG":
        _read_png(found, getattr(image, "text", {}), file)
    elif image.format == "GIF":
        _read_gif(found, _content(file))
    elif image.format == "BMP":
        _read_bmp(found, file)
    elif image.format == "JPEG2000":
        _read_jp2_colors(found, file, image.mode)
    if image.format in ("JPEG2000", "JXL"):
        _read_boxes(found, file)
    return found


def of_tiff(file: BinaryIO) -> Blocks:
    """Return the metadata of a TIFF; arguments and errors are those of `read`."""
    found = Blocks()
    try:
        reader = tiff.Reader(file)
        first = reader.directory(reader.first)
    except ValueError as error:
        found.note(f"TIFF tags left out: damaged ({error})")
        return found
    for tag, name in ((xmp.TIFF_TAG, "xmp"), (iptc.TIFF_TAG, "iptc")):
        if entry := first[tag]:
            setattr(found, name, reader.value(entry))
    if entry := first[iptc.TIFF_RESOURCES]:
        _read_resources(found, reader.value(entry))
    kept, left_out, seen = [], [], set()
    for entry in first.entries:
        if entry.tag in LAYOUT_TAGS or entry.tag in GEO_TAGS or entry.tag in seen:
            continue
        seen.add(entry.tag)
        if entry.tag in LEFT_OUT_TAGS:
            left_out.append(entry.tag)
        elif entry.tag == exif.DESCRIPTION and _describes_samples(reader.value(entry)):
            found.note("image description left out: it describes the samples of the scan")
        else:
            kept.append(entry)
    left_out += [tag for tag in first.odd if tag not in LAYOUT_TAGS]
    if left_out:
        found.note(f"TIFF tags left out: {names_of(left_out)}")
    found.exif = exif.packed(reader, kept, found.notes) or b""
    found.geo = exif.packed(reader, [entry for entry in first.entries if entry.tag in GEO_TAGS], found.notes) or b""
    return found


def names_of(tags: list[int]) -> str:
    """Return names of TIFF tags for a note; numbers where there is no name."""
    names = ((tag, TiffTags.lookup(tag).name) for tag in tags)
    return listed(str(tag) if name == "unknown" else name for tag, name in names)


def _describes_samples(description: bytes) -> bool:
    start = description[:1024]
    return start.startswith((b"ImageJ=", b'{"shape"', b"<?xml", b"<OME ")) and any(part in start for part in STACKS)


def _read_jpeg(found: Blocks, segments: Any) -> None:
    resources, parts, others = b"", [], []
    for kind, content in segments:
        if kind == "COM":
            found.comments.append(content)
        elif content.startswith(iptc.JPEG_HEADER):
            resources += content[len(iptc.JPEG_HEADER) :]
        elif content.startswith(XMP_EXTENSION):
            parts.append(content[len(XMP_EXTENSION) :])
        elif content.startswith(b"JFXX\0"):
            found.note(THUMBNAIL_NOTE)
        elif content.startswith(ICC_SEGMENT):
            found.has_icc_segments = True
        elif content.startswith(ISO_GAIN_MAP):
            found.note(xmp.GAIN_MAP_NOTE)
        elif content.startswith(b"MPF\0"):
            found.note(OTHERS_NOTE)
        elif not content.startswith(LAYOUT_SEGMENTS) and content:
            others.append(f"{kind} {content[:12].split(bytes(1))[0].decode('ascii', 'replace')}")
    if others:
        found.note(f"JPEG segments left out: {listed(others)}")
    _read_resources(found, resources)
    if parts:
        found.extension = _assembled(parts, found.xmp)
        if not found.extension:
            found.note("XMP kept without its extension, parts of which are missing")


def _assembled(parts: list[bytes], main: bytes) -> bytes:
    """Return the extension of a JPEG's XMP: identifier, length and offset come before each part."""
    pieces: dict[int, bytes] = {}
    length = 0
    for part in parts:
        if len(part) > 40 and part[:32] in main:
            length, offset = struct.unpack(">LL", part[32:40])
            pieces[offset] = part[40:]
    content = b""
    for offset in sorted(pieces):
        content += pieces[offset] if offset == len(content) else b""
    return content if len(content) == length else b""


def _read_resources(found: Blocks, content: bytes) -> None:
    """Read the captions of Photoshop's image resources, and note the others."""
    others = []
    for resource, value in iptc.resources(content):
        if resource == iptc.RESOURCE:
            found.iptc = found.iptc or value
        elif resource in iptc.THUMBNAILS:
            found.note(THUMBNAIL_NOTE)
        else:
            others.append(f"0x{resource:04X}")
    if others:
        found.note(f"Photoshop resources left out: {listed(others)}")


def _read_png(found: Blocks, texts: dict[str, str], file: BinaryIO) -> None:
    others, size = [], 0
    for kind, place, length in _png_chunks(file):
        if kind in TEXT_CHUNKS:
            size += length
            if size > MAX_METADATA:
                raise LimitError(f"more than {MAX_METADATA} bytes of metadata, the limit")
            file.seek(place)
            content = file.read(length)
            if not content.startswith((XMP_KEY.encode(), RAW_PROFILE.encode())):
                found.texts.append((kind, content))
        elif kind in NOTED_CHUNKS:
            others.append(kind.decode())
    if others:
        found.note(f"PNG chunks left out: {listed(others)}")
    for key, text in texts.items():
        if not key.startswith(RAW_PROFILE):
            continue
        profile, data = key.removeprefix(RAW_PROFILE).lower(), _raw_profile(text)
        if data is None:
            found.note(f"PNG text left out: {key}, which is damaged")
        elif profile in ("exif", "app1") and data.startswith(exif.IDENTIFIER):
            found.exif = found.exif or data
        elif profile in ("xmp", "app1"):
            found.xmp = found.xmp or data.removeprefix(XMP_MAIN)
        elif profile in ("iptc", "8bim"):
            _read_resources(found, data.removeprefix(iptc.JPEG_HEADER))
            if data.startswith(iptc.FIRST_BYTE):
                found.iptc = found.iptc or data
        else:
            found.note(f"PNG text left out: {key}")


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, place and length of each chunk."""
    place = 8
    while True:
        check_time()
        file.seek(place)
        start = file.read(8)
        if len(start) < 8 or start[4:] == b"IEND":
            return
        length = int.from_bytes(start[:4])
        yield start[4:], place + 8, length
        place += 12 + length


def _raw_profile(text: str) -> bytes | None:
    """Return the content of a raw profile: its name, its length, and hexadecimal digits; None if it is damaged."""
    parts = text.split(None, 2)
    try:
        content = bytes.fromhex(parts[2])
        return content if len(content) == int(parts[1]) else None
    except (IndexError, ValueError):
        return None


def _read_gif(found: Blocks, content: bytes) -> None:
    for label, name, place, end in _gif_extensions(content):
        if label == GIF_COMMENT:
            found.comments.append(_joined(content, place))
        elif name == GIF_XMP:  # not in sub-blocks; a ramp of bytes ends it for programs that expect them
            found.xmp = content[place + 12 : content.rfind(b"\1\xff\xfe", place, end)]
        elif name == GIF_ICC:
            found.icc_profile = _joined(content, place + 12)
        elif label == GIF_APPLICATION and name not in GIF_ANIMATION:
            found.note(f"GIF application block left out: {name.decode('ascii', 'replace').strip()}")


def _gif_extensions(content: bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield label, name, place and end of the sub-blocks of each extension of a GIF (GIF89a, section 23)."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    place = 13 + table(content[10])
    while place + 10 < len(content) and content[place] in (GIF_IMAGE, GIF_EXTENSION):
        label = content[place + 1] if content[place] == GIF_EXTENSION else 0
        start = place = place + (2 if label else 11 + table(content[place + 9]))
        while place < len(content) and content[place]:
            check_time()
            place += content[place] + 1
        if label:
            yield label, content[start + 1 : start + 12] if label == GIF_APPLICATION else b"", start, place
        place += 1


def _joined(content: bytes, place: int) -> bytes:
    """Return the content of the sub-blocks at an offset."""
    parts = []
    while place < len(content) and content[place]:
        parts.append(content[place + 1 : place + 1 + content[place]])
        place += content[place] + 1
    return b"".join(parts)


def _read_bmp(found: Blocks, file: BinaryIO) -> None:
    file.seek(14)
    header = file.read(BMP_V5)
    if len(header) < BMP_V5 or int.from_bytes(header[:4], "little") < BMP_V5 or header[56:60] != BMP_EMBEDDED_PROFILE:
        return
    offset, size = struct.unpack("<LL", header[112:120])
    file.seek(14 + offset)
    found.icc_profile = file.read(min(size, MAX_METADATA))


def _read_boxes(found: Blocks, file: BinaryIO) -> None:
    others = []
    for box in boxes.boxes(file):
        if box.kind in boxes.LAYOUT:
            continue
        name, content = boxes.metadata_of(file, box)
        if name in ("exif", "xmp", "iptc") and content and not getattr(found, name):
            setattr(found, name, content)
        else:
            others.append(name)
    if others:
        found.note(f"boxes left out: {listed(others)}")


def _read_jp2_colors(found: Blocks, file: BinaryIO, mode: str) -> None:
    color = boxes.color_of(file)
    if color is None:
        return
    file.seek(color.start)
    content = file.read(min(color.size, MAX_METADATA))
    space = int.from_bytes(content[3:7])
    if content[0] in boxes.PROFILES:
        found.icc_profile = content[3:]
    elif mode != "CMYK" and (content[0] != boxes.ENUMERATED or space not in boxes.UNDERSTOOD):
        found.note(f"its colours, of colour space {space} by JPEG 2000, are not converted to sRGB")


def _content(file: BinaryIO) -> bytes:
    file.seek(0, io.SEEK_SET)
    return file.read()


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
