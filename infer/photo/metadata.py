"""Metadata of a photo, read with Pillow: EXIF, XMP, ICC profile, resolution."""

import math
import re

from PIL import ExifTags, Image

from cgan.photo_limits import LimitError, check_exif

PAGE_NAME = 285

TIFF_DESCRIPTIVE_TAGS = frozenset(
    {
        ExifTags.Base.DocumentName,
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.HostComputer,
        PAGE_NAME,
        ExifTags.Base.Copyright,
        ExifTags.Base.ExifOffset,
        ExifTags.Base.GPSInfo,
    }
)
"""Tags of a TIFF that describe the photo; other tags describe the layout of the file."""

ON_ITS_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap rows and columns."""

MAX_DPI = 1e6
"""Largest plausible resolution; higher values do not fit into the fields of some formats."""

XMP_ORIENTATION = re.compile(rb'tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')

XMP_KEY = "XML:com.adobe.xmp"

EMPTY_EXIF = b"Exif\0\0II*\0\x08\0\0\0" + bytes(6)
"""An EXIF block without tags: identifier, TIFF header and an empty directory."""

EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/"
"""First bytes of a JPEG segment with extended XMP."""


def other_profile(image: Image.Image) -> str | None:
    """Return the colour space of the ICC profile (bytes 16 to 19 of its header) if it is not RGB, else None."""
    profile: bytes = image.info.get("icc_profile") or b""
    if not profile or profile[16:20] == b"RGB ":
        return None
    return profile[16:20].decode("ascii", "replace").strip() or "no known colours"


def rgb_profile(image: Image.Image, notes: list[str]) -> bytes | None:
    """Return the ICC profile if its colour space is RGB; otherwise add a note."""
    if other := other_profile(image):
        notes.append(f"ICC profile left out: it is for {other}, not RGB")
        return None
    return image.info.get("icc_profile") or None


def resolution(image: Image.Image, notes: list[str]) -> tuple[float, float] | None:
    """Return horizontal and vertical dots per inch, before orientation; None if unknown or implausible."""
    if not (given := image.info.get("dpi")):
        return None
    if image.format == "TIFF" and ExifTags.Base.XResolution not in image.tag_v2:  # type: ignore[attr-defined]
        return None  # Pillow returns 1 if there is none
    across, down = float(given[0]), float(given[1])
    if not all(math.isfinite(dpi) and dpi <= MAX_DPI for dpi in (across, down)):
        notes.append(f"resolution left out: {across:g} x {down:g} dots per inch")
        return None
    return (across, down) if min(across, down) > 0 else None


def exif_and_xmp(image: Image.Image, notes: list[str]) -> tuple[bytes | None, bytes | None, int]:
    """Return EXIF and XMP without orientation, and the orientation; damaged EXIF is left out with a note."""
    xmp = image.info.get("xmp")
    kept_xmp = XMP_ORIENTATION.sub(b"", xmp) if isinstance(xmp, bytes) and xmp else None
    if any(segment.startswith(EXTENDED_XMP) for _, segment in getattr(image, "applist", ())):
        notes.append("XMP kept without its extension: Pillow reads only the part that fits into 64 KiB")
    try:
        exif = image.getexif()
        check_exif(exif)
        if not exif and len(image.info.get("exif", b"")) > len(EMPTY_EXIF):  # Pillow skips tags that it cannot parse
            raise ValueError("it has no tag that can be read")
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        for tag in list(exif):
            if tag == ExifTags.Base.Orientation or (image.format == "TIFF" and tag not in TIFF_DESCRIPTIVE_TAGS):
                del exif[tag]
        across, down = exif.get(ExifTags.Base.XResolution), exif.get(ExifTags.Base.YResolution)
        if orientation in ON_ITS_SIDE and None not in (across, down):
            exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = down, across
        exif.bigtiff = False  # EXIF of a BigTIFF would be packed as BigTIFF, which EXIF does not allow
        return exif.tobytes() if len(exif) else None, kept_xmp, orientation
    except LimitError:
        raise
    except Exception as error:  # Pillow's parser raises many types
        notes.append(f"EXIF and orientation left out: damaged ({error})")
        return None, kept_xmp, 1


def note_text(image: Image.Image, notes: list[str]) -> None:
    """Add a note on text chunks of a PNG, such as its author, which are not written to outputs. XMP and EXIF are."""
    keys = getattr(image, "text", {}) if image.format == "PNG" else {}
    if names := sorted(key for key in keys if key != XMP_KEY and not key.startswith("Raw profile type")):
        notes.append(f"PNG text left out: {', '.join(names)}")
