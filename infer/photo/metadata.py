"""What is kept beside a photo's pixels, as Pillow read it: EXIF, XMP, ICC profile, resolution."""

import math
import re

from PIL import ExifTags, Image

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
"""Of a TIFF's tags, those that describe the photo; the others lay out the file."""

ON_ITS_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations of photos whose rows are columns when upright."""

MAX_DPI = 1e6
"""No photo's resolution is higher; formats hold it in fields that a higher one does not fit."""

XMP_ORIENTATION = re.compile(rb'tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')

XMP_KEY = "XML:com.adobe.xmp"

EMPTY_EXIF = b"Exif\0\0II*\0\x08\0\0\0" + bytes(6)
"""A block with no tags in it: its name, the header of a TIFF and a directory of nothing."""

EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/"
"""How a JPEG's segment begins that continues its XMP."""


def other_profile(image: Image.Image) -> str | None:
    """What an ICC profile describes if it is anything but RGB, which its header says in bytes 16 to 19."""
    profile: bytes = image.info.get("icc_profile") or b""
    if not profile or profile[16:20] == b"RGB ":
        return None
    return profile[16:20].decode("ascii", "replace").strip() or "no known colours"


def rgb_profile(image: Image.Image, notes: list[str]) -> bytes | None:
    """The ICC profile where it can describe RGB."""
    if other := other_profile(image):
        notes.append(f"ICC profile left out: it is for {other}, not RGB")
        return None
    return image.info.get("icc_profile") or None


def resolution(image: Image.Image, notes: list[str]) -> tuple[float, float] | None:
    """Dots per inch across and down as the photo lies, where they are known and some that a file can hold."""
    if not (given := image.info.get("dpi")):
        return None
    if image.format == "TIFF" and ExifTags.Base.XResolution not in image.tag_v2:  # type: ignore[attr-defined]
        return None  # Pillow says 1 where there is none
    across, down = float(given[0]), float(given[1])
    if not all(math.isfinite(dpi) and dpi <= MAX_DPI for dpi in (across, down)):
        notes.append(f"resolution left out: {across:g} x {down:g} dots per inch")
        return None
    return (across, down) if min(across, down) > 0 else None


def exif_and_xmp(image: Image.Image, notes: list[str]) -> tuple[bytes | None, bytes | None, int]:
    """EXIF and XMP of the photo upright, and how it lies; damaged EXIF is left out with a note."""
    xmp = image.info.get("xmp")
    kept_xmp = XMP_ORIENTATION.sub(b"", xmp) if isinstance(xmp, bytes) and xmp else None
    if any(segment.startswith(EXTENDED_XMP) for _, segment in getattr(image, "applist", ())):
        notes.append("XMP kept without its extension: Pillow reads only the part that fits into 64 KiB")
    try:
        exif = image.getexif()
        if not exif and len(image.info.get("exif", b"")) > len(EMPTY_EXIF):  # Pillow passes over what it cannot parse
            raise ValueError("it has no tag that can be read")
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        for tag in list(exif):
            if tag == ExifTags.Base.Orientation or (image.format == "TIFF" and tag not in TIFF_DESCRIPTIVE_TAGS):
                del exif[tag]
        across, down = exif.get(ExifTags.Base.XResolution), exif.get(ExifTags.Base.YResolution)
        if orientation in ON_ITS_SIDE and None not in (across, down):
            exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = down, across
        exif.bigtiff = False  # of a BigTIFF it would be packed as one, which no EXIF is
        return exif.tobytes() if len(exif) else None, kept_xmp, orientation
    except Exception as error:  # Pillow's parser raises whatever the damage leads to
        notes.append(f"EXIF and orientation left out: damaged ({error})")
        return None, kept_xmp, 1


def note_text(image: Image.Image, notes: list[str]) -> None:
    """Note the texts of a PNG, such as its author, which no output gets; XMP and EXIF are kept by themselves."""
    keys = getattr(image, "text", {}) if image.format == "PNG" else {}
    if names := sorted(key for key in keys if key != XMP_KEY and not key.startswith("Raw profile type")):
        notes.append(f"PNG text left out: {', '.join(names)}")
