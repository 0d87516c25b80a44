"""Metadata that a coloured photo keeps: byte for byte what lies in the file, without what would be untrue."""

import math
from dataclasses import dataclass, replace
from typing import BinaryIO

from PIL import Image

from infer.photo import containers, exif, xmp
from infer.photo.exif import ON_ITS_SIDE

MAX_DPI = 1e6
"""Largest plausible resolution; higher values do not fit into the fields of some formats."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata of an upright, coloured photo."""

    orientation: int = 1
    """Orientation that the file had, 1 to 8."""
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comments: tuple[bytes, ...] = ()
    texts: tuple[tuple[bytes, bytes], ...] = ()
    """Types and contents of a PNG's text chunks."""
    geo: bytes | None = None
    """Tags of GeoTIFF, as an EXIF block."""
    dpi: tuple[float, float] | None = None
    """Horizontal and vertical dots per inch."""


def read(image: Image.Image, file: BinaryIO, notes: list[str]) -> Metadata:
    """Return the metadata of a loaded photo; damaged ones are left out with a note.

    Args:
        image: loaded by Pillow; a profile that Pillow does not read is added to its `info`. An orientation there is
            that of the file itself, which comes before those of EXIF and XMP.
        file: its file; the position is moved.
        notes: list to which notes are appended.

    Raises:
        LimitError: they are larger than `cgan.photo_limits.MAX_METADATA`.
    """
    blocks = containers.read(image, file)
    if blocks.icc_profile:
        image.info.setdefault("icc_profile", blocks.icc_profile)
    if blocks.has_icc_segments and not image.info.get("icc_profile"):  # Pillow says nothing
        blocks.note("ICC profile left out: damaged (parts of it are missing)")
    if getattr(image, "is_animated", False):
        blocks.notes = [note for note in blocks.notes if note != containers.OTHERS_NOTE]  # which is said already
    kept_xmp, orientation = _kept_xmp(blocks)
    own: int | None = image.info.get("orientation")
    orientation = own or orientation
    kept_exif = None
    if blocks.exif not in (b"", exif.IDENTIFIER):
        try:
            kept_exif, orientation = exif.upright(blocks.exif, orientation, blocks.notes, own)
        except ValueError as error:
            blocks.note(f"EXIF and orientation left out: damaged ({error})")
    geo = blocks.geo or None
    if geo and orientation != 1:
        blocks.note("GeoTIFF tags left out: the photo was turned")
        geo = None
    dpi = _resolution(image, kept_exif, orientation, blocks)
    notes += dict.fromkeys(note for note in blocks.notes if note not in notes)
    return Metadata(
        orientation=orientation,
        exif=kept_exif,
        xmp=kept_xmp,
        iptc=blocks.iptc or None,
        comments=tuple(comment for comment in blocks.comments if comment),
        texts=tuple(blocks.texts),
        geo=geo,
        dpi=dpi,
    )


def _kept_xmp(blocks: containers.Blocks) -> tuple[bytes | None, int]:
    """Return XMP without what is untrue, and the orientation that it gives."""
    packet = blocks.xmp
    if blocks.extension:
        try:
            packet = xmp.whole(packet, blocks.extension)
        except ValueError as error:
            blocks.note(f"XMP kept without its extension: damaged ({error})")
    if not packet:
        return None, 1
    try:
        return xmp.truthful(packet, exif.orientation_of(blocks.exif), blocks.notes)
    except ValueError as error:
        blocks.note(f"XMP left out: damaged ({error})")
        return None, 1


def _resolution(
    image: Image.Image, block: bytes | None, orientation: int, blocks: containers.Blocks
) -> tuple[float, float] | None:
    """Return horizontal and vertical dots per inch of the upright photo; None if unknown or implausible."""
    given = image.info.get("dpi")
    # Of a PNG and of a JPEG's JFIF segment where they give no unit.
    sides = image.info.get("aspect") or (image.info.get("jfif_unit") == 0 and image.info.get("jfif_density"))
    if sides and sides[0] != sides[1]:
        blocks.note(f"pixels are written as squares; in the file {sides[0]} across are as long as {sides[1]} down")
    if image.format == "TIFF" or (image.format in ("JPEG", "MPO") and not image.info.get("jfif_unit")):
        given = exif.resolution(block) if block else None  # where Pillow gives another value if there is none
    elif given and orientation in ON_ITS_SIDE:
        given = given[::-1]
    if not given:
        return None
    across, down = float(given[0]), float(given[1])
    if not all(math.isfinite(dpi) and dpi <= MAX_DPI for dpi in (across, down)):
        blocks.note(f"resolution left out: {across:g} x {down:g} dots per inch")
        return None
    return (across, down) if min(across, down) > 0 else None


def in_srgb(kept: Metadata, notes: list[str]) -> Metadata:
    """Return the metadata of a photo whose colours were converted to sRGB, without claims of other colours."""
    block, packet = kept.exif, kept.xmp
    if block:
        block = exif.in_srgb(block, notes)
    if packet:
        try:
            packet = xmp.without_colors(packet, notes)
        except ValueError as error:
            notes.append(f"XMP left out: damaged ({error})")
            packet = None
    return replace(kept, exif=block, xmp=packet)
