"""The mark of a photo coloured by a model, in its XMP: where its pixels come from, by which program and which model.

The mark has no date, so the same photo, model and options give the same bytes.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from xml.sax.saxutils import escape, quoteattr

from cgan import __version__
from infer.photo.xmp import RDF, XMP, XMP_NOTE, Edit, Packet

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""Term of IPTC's vocabulary "Digital Source Type": a picture of a camera or a scanner, edited with a trained model."""

IPTC_EXTENSION = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
MEDIA_MANAGEMENT = "http://ns.adobe.com/xap/1.0/mm/"
EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
CREATOR = f"cgan {__version__}"

REPLACED = {(IPTC_EXTENSION, "DigitalSourceType"): SOURCE_TYPE, (XMP, "CreatorTool"): CREATOR}
"""Properties that a photo has once, and their values."""
HISTORY = (MEDIA_MANAGEMENT, "History")

AGAIN = "coloured again: it was an output of cgan"
"""Note on a photo that has the mark already."""

PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    f'<rdf:RDF xmlns:rdf="{RDF}">{{}}</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)


@dataclass(frozen=True)
class Mark:
    """The model that colours a photo."""

    model: str
    """Name of its file."""
    digest: str | None = None
    """SHA-256 of the file; None if it lies on a server that does not tell."""

    def event(self) -> str:
        """Return the entry in the photo's history."""
        digest = f", SHA-256 {self.digest}" if self.digest else ""
        return (
            f'<rdf:li xmlns:rdf="{RDF}" xmlns:stEvt="{EVENT}" rdf:parseType="Resource">'
            f"<stEvt:action>edited</stEvt:action><stEvt:softwareAgent>{escape(CREATOR)}</stEvt:softwareAgent>"
            f"<stEvt:parameters>coloured by model {escape(self.model)}{digest}</stEvt:parameters>"
            "</rdf:li>"
        )


def is_marked(content: bytes) -> bool:
    """Return True for the content of a file that has the mark as cgan wrote it; other programs name themselves."""
    return f">{SOURCE_TYPE}<".encode() in content and b"<xmp:CreatorTool>cgan " in content


def marked(content: bytes | None, mark: Mark, notes: list[str]) -> bytes:
    """Return a photo's XMP with a mark; its other properties stay byte for byte.

    Args:
        content: the photo's own packet, None if it has none.
        mark: model and digest.
        notes: list to which notes on replaced properties are appended.
    """
    packet = None
    if content:
        if is_marked(content):
            notes.append(AGAIN)
        try:
            packet = Packet(content)
        except ValueError as error:
            notes.append(f"XMP replaced by the mark: damaged ({error})")
    if packet is None or packet.rdf is None or packet.rdf.is_empty:
        if packet and packet.rdf is None:
            notes.append("XMP replaced by the mark: it has no rdf:RDF")
        return _new(mark)
    edits: list[Edit] = []
    for found in packet.properties:
        if found.name in REPLACED:
            edits.append((found.start, found.end, b""))
            if found.value != REPLACED[found.name]:
                notes.append(f"XMP {found.name[1]} replaced by the mark: it was {found.value!r}")
    history = packet.find(HISTORY)
    events = history.element.child if history and history.element else None
    if history and events and not events.is_empty:
        edits.append((events.inner_end, events.inner_end, mark.event().encode()))
    elif history:
        edits.append((history.start, history.end, b""))
    about = packet.find((RDF, "about"))
    new = _description(about.value if about else "", "" if events and not events.is_empty else _history(mark))
    return packet.edited([*edits, (packet.rdf.inner_end, packet.rdf.inner_end, new.encode())])


@lru_cache(maxsize=4)
def _new(mark: Mark) -> bytes:
    return PACKET.format(_description("", _history(mark))).encode()


def split(content: bytes, limit: int) -> tuple[bytes, bytes]:
    """Return a packet as the two parts of a JPEG's XMP: the main packet, and its extension, b"" if it needs none.

    The main packet of two has only the mark's own properties; the extension has all (XMP specification part 3, section
    1.1.3.1).

    Args:
        content: the packet.
        limit: largest main packet in bytes.
    """
    if len(content) <= limit:
        return content, b""
    packet = Packet(content)
    has_mark = any(found.name in REPLACED and found.value == SOURCE_TYPE for found in packet.properties)
    about = found.value if (found := packet.find((RDF, "about"))) else ""
    extension = packet.edited(packet.without(lambda found: has_mark and found.name in REPLACED))
    note = (
        f'<rdf:Description rdf:about={quoteattr(about)} xmlns:xmpNote="{XMP_NOTE}" '
        f'xmpNote:HasExtendedXMP="{guid(extension)}"/>'
    )
    return PACKET.format((_description(about) if has_mark else "") + note).encode(), extension


def guid(extension: bytes) -> str:
    """Return the identifier of an extension, its MD5 in capitals."""
    return hashlib.md5(extension, usedforsecurity=False).hexdigest().upper()


def _history(mark: Mark) -> str:
    return f"<xmpMM:History><rdf:Seq>{mark.event()}</rdf:Seq></xmpMM:History>"


def _description(about: str, history: str = "") -> str:
    """Return an rdf:Description with the mark's properties."""
    return (
        f'<rdf:Description xmlns:rdf="{RDF}" rdf:about={quoteattr(about)} xmlns:Iptc4xmpExt="{IPTC_EXTENSION}" '
        f'xmlns:xmp="{XMP}" xmlns:xmpMM="{MEDIA_MANAGEMENT}"><Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}'
        f"</Iptc4xmpExt:DigitalSourceType><xmp:CreatorTool>{escape(CREATOR)}</xmp:CreatorTool>{history}</rdf:Description>"
    )
