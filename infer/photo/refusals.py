"""Reasons for files that are not read, and names of the formats that they have."""

SIGNATURE_SIZE = 64
"""Bytes at the beginning of a file that tell its format."""

SIGNATURES = (
    (0, b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"CR\x02", "Canon raw (CR2)"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (8, b"WEBP", "WEBP"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypcrx", "Canon raw (CR3)"),
    (4, b"ftypqt", "a QuickTime video"),
    (4, b"ftyp", "a video, or another file of the ISO media format"),
    (0, b"8BPS", "PSD"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm raw (RAF)"),
    (0, b"IIRO", "Olympus raw (ORF)"),
    (0, b"IIRS", "Olympus raw (ORF)"),
    (0, b"MMOR", "Olympus raw (ORF)"),
    (0, b"IIU\0", "Panasonic raw (RW2)"),
    (0, b"\0MRM", "Minolta raw (MRW)"),
    (0, b"FOVb", "Sigma raw (X3F)"),
    (0, b"II\x1a\0\0\0HEAPCCDR", "Canon raw (CRW)"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"gimp xcf", "XCF"),
    (0, b"DDS ", "DDS"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"BM", "BMP"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
    (0, b"\x80\x2a\x5f\xd7", "Cineon"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"\x97JB2\r\n\x1a\n", "JBIG2"),
    (0, b"FLIF", "FLIF"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster file"),
    (0, b"\x01\xda\0", "SGI"),
    (0, b"\x01\xda\1", "SGI"),
    (0, b"\x0a\5\1", "PCX"),
    (0, b"id=ImageMagick", "MIFF"),
    (0, b"#define ", "XBM, or C source"),
    (0, b"/* XPM */", "XPM"),
    (0, b"icns", "an icon of macOS"),
    (40, b" EMF\0", "EMF"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE file, such as FlashPix or Thumbs.db"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\7", "a RAR archive"),
    (0, b"qoif", "QOI"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"PF\n", "PFM"),
    (0, b"Pf\n", "PFM"),
    (0, b"P7\n", "PAM"),
    (0, b"RIFF", "a RIFF file other than WebP"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML, such as SVG"),
    (0, b"<!DOCTYPE html", "HTML"),
    (0, b"<html", "HTML"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the photo"),
    (0, b"P1", "PPM"),
    (0, b"P2", "PPM"),
    (0, b"P3", "PPM"),
    (0, b"P4", "PPM"),
    (0, b"P5", "PPM"),
    (0, b"P6", "PPM"),
)
"""Offset, bytes and name. The first that fits counts."""

BRANDS = {b"mif1": "HEIC", b"msf1": "HEIC"}
"""Brands of the ISO media format that several formats share, and the likeliest."""

TGA_KINDS = frozenset({b"\1\1", b"\0\2", b"\0\3", b"\1\x09", b"\0\x0a", b"\0\x0b"})
TGA_BITS = frozenset({8, 15, 16, 24, 32})
"""Colour map and image type, and bits a pixel, of TGA, which has no signature."""


READ = frozenset({"JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG XL", "JPEG 2000", "AVIF", "HEIC"})
"""Formats of SIGNATURES that are read."""

NAMES = {"HEIF": "HEIC", "JXL": "JPEG XL", "JPEG2000": "JPEG 2000", "MPO": "JPEG"}
"""Usual names of formats, by Pillow's."""


class UnreadError(Exception):
    """A file of a kind that is not read; the message is the reason that the report gives."""


def name_of(pillow_name: str) -> str:
    """Return the usual name of a format; Pillow calls a JPEG with more than one picture MPO."""
    return NAMES.get(pillow_name, pillow_name)


def format_of(head: bytes) -> str | None:
    """Return the name of a file's format by its first SIGNATURE_SIZE bytes, None if it is unknown."""
    if head[4:8] == b"ftyp" and (brand := BRANDS.get(head[8:12])):
        return "AVIF" if b"avif" in head[16:SIGNATURE_SIZE] else brand
    for offset, signature, name in SIGNATURES:
        if head[offset : offset + len(signature)].lower() == signature.lower():
            return name
    if len(head) >= 18 and head[1:3] in TGA_KINDS and head[16] in TGA_BITS:
        return "TGA"
    return None


def unidentified(head: bytes, expected: str | None) -> str:
    """Return the reason for a file that no reader recognizes.

    Args:
        head: its first SIGNATURE_SIZE bytes.
        expected: format that its name says; None if it has none.
    """
    found = format_of(head)
    if found is None:
        return f"not an image, or of a format that is not known; expected {name_of(expected or 'a photo')}"
    if expected and found == name_of(expected):
        return f"damaged, or a kind of {found} that is not read: its header is not understood"
    says = f" but its name says {name_of(expected)}" if expected else ""
    advice = "rename it" if found in READ else "which is not read; convert it to TIFF, PNG or JPEG"
    return f"its content is {found}{says}{';' if found in READ else ','} {advice}"
