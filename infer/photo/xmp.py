"""XMP packets, edited in place: what becomes untrue is cut out, the other properties stay byte for byte.

A packet is XML (XMP specification part 1, section 7). An XML parser finds the places of its properties; the bytes
between the places stay as they are.
"""

import codecs
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from cgan.photo_limits import check_time
from infer.photo.exif import ON_ITS_SIDE, THUMBNAIL_NOTE
from infer.photo.tiff import listed

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = "http://ns.adobe.com/xap/1.0/"
XMP_NOTE = "http://ns.adobe.com/xmp/note/"
TIFF = "http://ns.adobe.com/tiff/1.0/"
GAIN_MAPS = frozenset({"http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.apple.com/HDRGainMap/1.0/"})
CAMERA = "http://ns.google.com/photos/1.0/camera/"
CONTAINER = "http://ns.google.com/photos/1.0/container/"
PREFIXES = {"rdf": RDF, "xmp": XMP, "xap": XMP, "tiff": TIFF}
"""Namespaces of prefixes that a packet uses without declaring them."""

TIFF_TAG = 700

MOST_PARTS = 2**19
"""Most tags and attributes of a packet, each of which takes some hundred bytes while it is edited."""

PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
RGB = {
    (PHOTOSHOP, "ColorMode"): {"3"},
    (TIFF, "PhotometricInterpretation"): {"2", "6"},
    (TIFF, "SamplesPerPixel"): {"3"},
}
"""Properties that say whether the scan had colours, and their values if it had."""
OF_GRAY = frozenset({*RGB, (PHOTOSHOP, "ICCProfile"), (TIFF, "BitsPerSample")})
"""Properties that are untrue of the coloured photo if the scan was gray."""

EXIF = "http://ns.adobe.com/exif/1.0/"
OF_COLORS = frozenset({(PHOTOSHOP, "ICCProfile"), (EXIF, "ColorSpace")})
"""Properties that are untrue of a photo whose colours were converted to sRGB."""
SIDES = frozenset(
    {(TIFF, name) for name in ("ImageWidth", "ImageLength", "XResolution", "YResolution")}
    | {(EXIF, name) for name in ("PixelXDimension", "PixelYDimension")}
)
"""Properties that are untrue of a photo turned by a quarter."""

LIES = re.compile(
    rb"Orientation|Thumbnails|hdr-gain-map|HDRGainMap|ns\.google\.com/photos/1\.0/(?:camera|container)|ColorMode|"
    rb"PhotometricInterpretation|SamplesPerPixel|ImageWidth|ImageLength|[XY]Resolution|Pixel[XY]Dimension"
)
"""Parts of the names of everything that `truthful` cuts out."""

ALWAYS_PARSED = 2**15
"""Bytes from which on a packet is parsed without these names too: with the mark it may not fit into one segment of a
JPEG, and only well-formed packets can be split."""

GAIN_MAP_NOTE = "gain map left out: the output is the photo in standard range"

DESCRIPTION, VALUE = (RDF, "Description"), (RDF, "value")
ORIENTATION, EXTENSION = (TIFF, "Orientation"), (XMP_NOTE, "HasExtendedXMP")

START_TAG = re.compile(rb"<[^\s/>]+((?:\s+[^\s=]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*)\s*(/?)>")
ATTRIBUTE = re.compile(rb"\s+([^\s=]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
BYTE_ORDERS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
"""First bytes of packets that are not in UTF-8, and their encodings."""

Edit = tuple[int, int, bytes]
"""Beginning and end of bytes that are replaced, and what replaces them."""


@dataclass(eq=False)
class Element:
    """An XML element; places are offsets in the packet as UTF-8."""

    name: tuple[str, str]
    """Namespace and local name."""
    start: int
    inner: int
    """End of its start tag."""
    is_empty: bool
    """True for `<a/>`."""
    scope: dict[str, str]
    """Namespaces by their prefixes."""
    inner_end: int = 0
    """Beginning of its end tag."""
    end: int = 0
    text: str = ""
    child: "Element | None" = None
    """Its first child element."""


@dataclass
class Property:
    """A property of the photo."""

    name: tuple[str, str]
    """Namespace and local name."""
    start: int
    end: int
    value: str
    """Its text; empty for lists and structures."""
    element: Element | None
    """None if it is an attribute."""


class Packet:
    """A packet of XMP.

    Args:
        content: the packet, in UTF-8, UTF-16 or UTF-32.

    Raises:
        ValueError: it is not well-formed XML.
    """

    def __init__(self, content: bytes) -> None:
        self.codec = _codec(content)
        self.content = in_utf8(content)
        """The packet in UTF-8."""
        self.properties: list[Property] = []
        self.rdf: Element | None = None
        """The element rdf:RDF."""
        self.descriptions: list[Element] = []
        """The elements rdf:Description that hold the properties of the photo."""
        self._open: list[Element] = []
        self._parser = expat.ParserCreate("utf-8")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._doctype
        if self.content.count(b"<") + self.content.count(b"=") > MOST_PARTS:
            raise ValueError(f"more than {MOST_PARTS} tags and attributes")
        # Bytes that are no UTF-8, and zeros, would end the parser; this text has the same places.
        readable = self.content.decode("utf-8", "surrogateescape").encode("utf-8", "replace").replace(b"\0", b" ")
        try:
            self._parser.Parse(readable, True)
        except expat.ExpatError as error:
            raise ValueError(f"no XML: {error}") from error

    def edited(self, edits: Iterable[Edit]) -> bytes:
        """Return the packet with edits, in its own encoding; an edit inside another one is dropped."""
        parts, place = [], 0
        for start, end, new in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
            if start >= place:
                parts += [self.content[place:start], new]
                place = end
        content = b"".join((*parts, self.content[place:]))
        return content if self.codec == "utf-8" else content.decode().encode(self.codec)

    def without(self, is_left_out: Callable[[Property], bool]) -> list[Edit]:
        """Return the edits that remove properties."""
        return [(found.start, found.end, b"") for found in self.properties if is_left_out(found)]

    def find(self, name: tuple[str, str]) -> Property | None:
        """Return the first property of a name."""
        return next((found for found in self.properties if found.name == name), None)

    def _doctype(self, *_: object) -> None:
        raise ValueError("it declares a document type, which XMP must not")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        check_time()
        place = self._parser.CurrentByteIndex
        match = START_TAG.match(self.content, place)
        if match is None:
            raise ValueError(f"a tag at byte {place} that cannot be read")
        parent = self._open[-1] if self._open else None
        scope = parent.scope if parent else {}
        if declared := {key: value for key, value in attributes.items() if key.split(":")[0] == "xmlns"}:
            scope = scope | {key[6:]: value for key, value in declared.items()}
        element = Element(_expanded(tag, scope), place, match.end(), bool(match[2]), scope)
        if element.name == (RDF, "RDF"):
            self.rdf = self.rdf or element
        elif element.name == DESCRIPTION and not any(outer.name == DESCRIPTION for outer in self._open):
            self.descriptions.append(element)
            for found in ATTRIBUTE.finditer(self.content, match.start(1), match.end(1)):
                key = found[1].decode("utf-8", "replace")
                if ":" in key and key not in declared:
                    value = attributes.get(key, "")
                    self.properties.append(Property(_expanded(key, scope), found.start(), found.end(), value, None))
        if parent and parent.child is None:
            parent.child = element
        self._open.append(element)

    def _end(self, _: str) -> None:
        element = self._open.pop()
        place = self._parser.CurrentByteIndex
        element.inner_end = element.inner if element.is_empty else place
        element.end = element.inner if element.is_empty else self.content.index(b">", place) + 1
        if self._open and self._open[-1] in self.descriptions[-1:]:
            simple = element.child if element.child and element.child.name == VALUE else element
            value = "" if simple.child else simple.text.strip()
            self.properties.append(Property(element.name, element.start, element.end, value, element))

    def _text(self, text: str) -> None:
        self._open[-1].text += text


def _expanded(tag: str, scope: dict[str, str]) -> tuple[str, str]:
    prefix, _, local = tag.rpartition(":")
    return scope.get(prefix, PREFIXES.get(prefix, "")), local


def truthful(content: bytes, given: int | None, notes: list[str]) -> tuple[bytes, int]:
    """Return a packet without what is untrue of the upright, coloured photo alone, and its orientation, 1 to 8.

    Cut out are the orientation, thumbnails, the claims of a gain map, a video or other files behind the photo, samples
    and colours of a gray scan, and the sides of one that is turned by a quarter.

    Args:
        content: the packet.
        given: orientation of the EXIF block, which comes before that of XMP; None if it has none.
        notes: list to which notes on what was cut out are appended.

    Raises:
        ValueError: it is not well-formed XML.
    """
    if len(content) < ALWAYS_PARSED and not LIES.search(content.replace(b"\0", b"")):
        return content, 1
    packet = Packet(content)
    values = {found.name: found.value.strip() for found in packet.properties}
    own = values.get(ORIENTATION, "")
    orientation = int(own) if own in set("12345678") else 1
    is_gray = any(values.get(name, "") not in ("", *true) for name, true in RGB.items())
    is_turned = (given or orientation) in ON_ITS_SIDE
    lies: list[Property] = []
    of_pixels: list[str] = []
    for found in packet.properties:
        namespace, local = found.name
        if found.name == ORIENTATION:
            pass
        elif (is_gray and found.name in OF_GRAY) or (is_turned and found.name in SIDES):
            of_pixels.append(local)
        elif found.name == (XMP, "Thumbnails"):
            _once(notes, THUMBNAIL_NOTE)
        elif namespace in GAIN_MAPS:
            _once(notes, GAIN_MAP_NOTE)
        elif namespace == CAMERA and local.startswith(("MotionPhoto", "MicroVideo")):
            _once(notes, "video of the motion photo left out")
        elif namespace == CONTAINER:
            inner = packet.content[found.start : found.end]
            _once(notes, GAIN_MAP_NOTE if b"GainMap" in inner else "files behind the photo left out")
        else:
            continue
        lies.append(found)
    if of_pixels:
        notes.append(f"XMP properties left out: {listed(of_pixels)}, which describe the pixels of the scan")
    return packet.edited((found.start, found.end, b"") for found in lies) if lies else content, orientation


def without_colors(content: bytes, notes: list[str]) -> bytes:
    """Return a packet without the properties that say in which colour space the photo was; they are noted.

    Raises:
        ValueError: it is not well-formed XML.
    """
    if not any(local.encode() in content.replace(b"\0", b"") for _, local in OF_COLORS):
        return content
    packet = Packet(content)
    found = [one for one in packet.properties if one.name in OF_COLORS]
    if found:
        notes.append(f"XMP properties left out: {listed(one.name[1] for one in found)}, which describe other colours")
    return packet.edited((one.start, one.end, b"") for one in found) if found else content


def whole(content: bytes, extension: bytes) -> bytes:
    """Return a JPEG's packet with the properties of its extension, as one packet.

    Raises:
        ValueError: one of them is not well-formed, or has no rdf:RDF.
    """
    main, further = Packet(content), Packet(extension)
    if main.rdf is None or main.rdf.is_empty or further.rdf is None:
        raise ValueError("no rdf:RDF")
    parts = []
    for element in further.descriptions:
        part = further.content[element.start : element.end]
        tag = part[: element.inner - element.start]
        missing = [
            f" xmlns:{name}={quoteattr(uri)}".encode()
            for name, uri in element.scope.items()
            if name and main.rdf.scope.get(name) != uri and not re.search(rf"xmlns:{re.escape(name)}\s*=".encode(), tag)
        ]
        place = tag.index(b"Description") + len(b"Description")
        parts.append(part[:place] + b"".join(missing) + part[place:])
    edits = main.without(lambda found: found.name == EXTENSION)
    return main.edited([*edits, (main.rdf.inner_end, main.rdf.inner_end, b"".join(parts))])


def in_utf8(content: bytes) -> bytes:
    """Return a packet in UTF-8, which PNG requires."""
    codec = _codec(content)
    return content if codec == "utf-8" else content.decode(codec).encode()


def _codec(content: bytes) -> str:
    return next((codec for first, codec in BYTE_ORDERS if content.startswith(first)), "utf-8")


def _once(notes: list[str], note: str) -> None:
    if note not in notes:
        notes.append(note)
