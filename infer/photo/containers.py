"""Metadata as they lie in a file: the blocks of JPEG, PNG, WebP, GIF, BMP and TIFF beside the pixels.

`infer.photo.metadata` makes of them what the coloured photo keeps.
"""

import io
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from PIL import Image, TiffTags

from cgan.photo_limits import MAX_METADATA, LimitError, check_time
from infer.photo import bmp_fields, boxes, exif, gif_extensions, headers, iptc, png_chunks, ppm_header, tiff, xmp
from infer.photo.exif import THUMBNAIL_NOTE
from infer.photo.tiff import listed
from infer.photo.tiff_pages import TiffPages, photo_page

ICC_SEGMENT = b"ICC_PROFILE\0"
XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
XMP_MAIN = b"http://ns.adobe.com/xap/1.0/\0"
ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"

LAYOUT_SEGMENTS = {"APP0": (b"JFIF\0",), "APP12": (b"Ducky",), "APP14": (b"Adobe",)}
"""First bytes of JPEG segments that describe the compression."""

END, PADDING, TAIL = b"\xff\xd9", b"\0\r\n ", 256
"""End marker of a JPEG, bytes that may follow it without a meaning, and bytes at the end in which it mostly lies."""

WEBP_CHUNKS = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP "})

BLOCK_NAMES = {"exif": "EXIF", "xmp": "XMP", "iptc": "IPTC captions"}

OTHERS_NOTE = "other pictures of the file left out"

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

    def keep(self, kind: Literal["exif", "xmp", "iptc"], content: bytes) -> None:
        """Keep a block; a further one of the same kind with another content is noted."""
        if not getattr(self, kind):
            setattr(self, kind, content)
        elif getattr(self, kind) != content:
            self.note(f"second block of {BLOCK_NAMES[kind]} left out: only the first is kept")


def read(image: Image.Image, file: BinaryIO) -> Blocks:
    """Return the metadata of a photo that Pillow has opened.

    Args:
        image: the loaded image.
        file: its file; the position is moved.

    Raises:
        LimitError: they are larger than MAX_METADATA.
    """
    if image.format == "TIFF":
        return of_tiff(file, photo_page(image, []).directory if isinstance(image, TiffPages) else None)
    found = Blocks()
    if image.format in ("JPEG", "MPO"):
        _read_jpeg(found, getattr(image, "applist", ()))
        _note_rest(found, file)
        return found
    if image.format == "PNG":  # Pillow reads chunks behind the pixels only while it decodes
        _read_png(found, image, file)
        return found
    found.exif, found.xmp = image.info.get("exif") or b"", _bytes(image.info.get("xmp"))
    if image.format == "GIF":
        _read_gif(found, _content(file))
    elif image.format == "BMP":
        _read_bmp(found, file)
    elif image.format == "WEBP":
        _note_webp_chunks(found, file)
    elif image.format == "HEIF":
        _note_heic_items(found, image.info)
    elif image.format == "PPM":
        _read_ppm(found, file)
    elif image.format == "JPEG2000":
        found.comments += boxes.comments(file)
        _read_jp2_colors(found, file, image.mode)
    if image.format in ("JPEG2000", "JXL"):
        _read_boxes(found, file)
    return found


def of_tiff(file: BinaryIO, photo: tiff.Directory | None = None) -> Blocks:
    """Return the metadata of a TIFF; other arguments and errors are those of `read`.

    Args:
        file: the file; the position is moved.
        photo: directory of the photo, whose tags come before those of the first one, which can be a thumbnail's.
    """
    found = Blocks()
    try:
        reader = tiff.Reader(file)
        first = reader.directory(reader.first)
    except ValueError as error:
        found.note(f"TIFF tags left out: damaged ({error})")
        return found
    directories = [first] if photo is None or photo.place == first.place else [photo, first]
    entries: dict[int, tiff.Entry] = {}
    for directory in directories:
        for entry in directory.entries:
            entries.setdefault(entry.tag, entry)
    if packet := entries.get(xmp.TIFF_TAG):
        found.xmp = reader.value(packet)
    if block := entries.get(iptc.TIFF_TAG):
        found.iptc = iptc.in_order(reader.value(block), block.kind == tiff.LONG)
    if resources := entries.get(iptc.TIFF_RESOURCES):
        _read_resources(found, reader.value(resources))
    kept, geo, left_out = [], [], []
    for tag, entry in entries.items():
        if tag in GEO_TAGS:
            geo.append(entry)
        elif tag in LEFT_OUT_TAGS:
            left_out.append(tag)
        elif tag == exif.DESCRIPTION and _describes_samples(reader.value(entry)):
            found.note("image description left out: it describes the samples of the scan")
        elif tag not in LAYOUT_TAGS:
            kept.append(entry)
    odd = dict.fromkeys(tag for directory in directories for tag in directory.odd)
    left_out += [tag for tag in odd if tag not in LAYOUT_TAGS and tag not in entries]
    if left_out:
        found.note(f"TIFF tags left out: {names_of(left_out)}")
    found.exif = exif.packed(reader, kept, found.notes) or b""
    found.geo = exif.packed(reader, geo, found.notes) or b""
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
        header = next((first for first in iptc.HEADERS if content.startswith(first)), None)
        if kind == "COM":
            found.comments.append(content)
        elif content.startswith(exif.IDENTIFIER):
            block = content[len(exif.IDENTIFIER) :]
            if found.exif and not block.startswith(tiff.STARTS):  # it goes on in a further segment
                found.exif += block
            else:
                found.keep("exif", content)
        elif content.startswith(XMP_MAIN):
            found.keep("xmp", content[len(XMP_MAIN) :])
        elif kind == "APP13" and header:
            resources += content[len(header) :]
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
        elif not content.startswith(LAYOUT_SEGMENTS.get(kind, ())) and content:
            others.append(f"{kind} {content[:12].split(bytes(1))[0].decode('ascii', 'replace')}")
    if others:
        found.note(f"JPEG segments left out: {listed(others)}")
    _read_resources(found, resources)
    if parts:
        found.extension = _assembled(parts, found.xmp)
        if not found.extension:
            found.note("XMP kept without its extension, parts of which are missing")


def _note_rest(found: Blocks, file: BinaryIO) -> None:
    """Note what lies behind the end marker of a JPEG; other pictures there are noted by their segment."""
    file.seek(max(0, file.seek(0, io.SEEK_END) - TAIL))
    if OTHERS_NOTE in found.notes or file.read().rstrip(PADDING).endswith(END):
        return
    content = _content(file)
    if rest := content[headers.end_of(content) :].strip(PADDING):
        found.note(f"{len(rest):,} bytes behind the photo left out")


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
    resources, is_whole = iptc.resources(content)
    for resource, value in resources:
        if resource == iptc.RESOURCE:
            found.keep("iptc", value)
        elif resource in iptc.THUMBNAILS:
            found.note(THUMBNAIL_NOTE)
        else:
            others.append(f"0x{resource:04X}")
    if others:
        found.note(f"Photoshop resources left out: {listed(others)}")
    if not is_whole:
        found.note("Photoshop resources left out: damaged")


def _read_png(found: Blocks, image: Image.Image, file: BinaryIO) -> None:
    others, size = [], 0
    profiles: list[tuple[str, bytes | None]] = []
    for kind, place, length in png_chunks.chunks(file):
        if kind in png_chunks.TEXTS or kind == png_chunks.EXIF:
            size += length
            if size > MAX_METADATA:
                raise LimitError(f"more than {MAX_METADATA} bytes of metadata, the limit")
            file.seek(place)
            content = file.read(length)
            key = png_chunks.key_of(content)
            if kind == png_chunks.EXIF:
                found.keep("exif", exif.IDENTIFIER + content.removeprefix(exif.IDENTIFIER))
            elif key == png_chunks.XMP_KEY or key.startswith(png_chunks.RAW_PROFILE):
                profiles.append((key.decode("latin-1"), png_chunks.text_of(kind, content)))
            else:
                found.texts.append((kind, content))
        elif kind not in png_chunks.PICTURE:
            others.append(kind.decode("ascii", "replace"))
    if others:
        found.note(f"PNG chunks left out: {listed(others)}")
    if "icc_profile" in image.info and not image.info["icc_profile"]:
        found.note("ICC profile left out: damaged")
    for name, text in profiles:
        _read_png_profile(found, name, text)


def _read_png_profile(found: Blocks, name: str, text: bytes | None) -> None:
    """Read a text of a PNG that holds XMP, or EXIF, XMP or IPTC as a raw profile."""
    if name == png_chunks.XMP_KEY.decode():
        if text:
            found.keep("xmp", text)
        else:
            found.note("XMP left out: damaged")
        return
    profile = name.removeprefix(png_chunks.RAW_PROFILE.decode()).lower()
    data = None if text is None else png_chunks.raw_profile(text)
    if data is None:
        found.note(f"PNG text left out: {name}, which is damaged")
    elif profile in ("exif", "app1") and data.startswith((exif.IDENTIFIER, *tiff.STARTS)):
        found.keep("exif", exif.IDENTIFIER + data.removeprefix(exif.IDENTIFIER))
    elif profile in ("xmp", "app1"):
        found.keep("xmp", data.removeprefix(XMP_MAIN))
    elif profile in ("iptc", "8bim"):
        _read_resources(found, data.removeprefix(iptc.JPEG_HEADER))
        if data.startswith(iptc.FIRST_BYTE):
            found.keep("iptc", data)
    else:
        found.note(f"PNG text left out: {name}")


def _read_gif(found: Blocks, content: bytes) -> None:
    for label, name, place, end in gif_extensions.extensions(content):
        if label == gif_extensions.COMMENT:
            found.comments.append(gif_extensions.joined(content, place))
        elif name == gif_extensions.XMP:  # not in sub-blocks; a ramp of bytes ends it for programs that expect them
            found.xmp = content[place + 12 : content.rfind(b"\1\xff\xfe", place, end)]
        elif name == gif_extensions.ICC:
            found.icc_profile = gif_extensions.joined(content, place + 12)
        elif label == gif_extensions.APPLICATION and name not in gif_extensions.ANIMATION:
            found.note(f"GIF application block left out: {name.decode('ascii', 'replace').strip()}")


def _note_webp_chunks(found: Blocks, file: BinaryIO) -> None:
    others, place, end = [], 12, file.seek(0, io.SEEK_END)
    while place + 8 <= end:
        check_time()
        file.seek(place)
        kind, size = struct.unpack("<4sL", file.read(8))
        if kind not in WEBP_CHUNKS:
            others.append(kind.decode("ascii", "replace"))
        place += 8 + size + size % 2
    if others:
        found.note(f"WebP chunks left out: {listed(others)}")


def _note_heic_items(found: Blocks, info: dict[Any, Any]) -> None:
    if any("hdrgainmap" in kind for kind in info.get("aux") or ()):
        found.note(xmp.GAIN_MAP_NOTE)
    elif info.get("aux") or info.get("depth_images"):
        found.note(OTHERS_NOTE)
    if others := [str(item.get("content_type") or item.get("type")) for item in info.get("metadata") or ()]:
        found.note(f"metadata of HEIC left out: {listed(others)}")


def _read_bmp(found: Blocks, file: BinaryIO) -> None:
    file.seek(14)
    header = file.read(bmp_fields.V5_HEADER)
    if bmp_fields.is_calibrated(header):
        found.note("its colours, calibrated in the header of the BMP, are not converted to sRGB")
    found.icc_profile = bmp_fields.embedded_profile(header, file)


def _read_ppm(found: Blocks, file: BinaryIO) -> None:
    comments, behind = ppm_header.read(file)
    found.comments += comments
    if behind:
        found.note(f"{behind:,} bytes behind the photo left out")


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
