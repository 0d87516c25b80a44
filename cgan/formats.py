"""The photo formats that are read, by file suffix; `infer.photo.formats` has those that are written."""

PHOTO_FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""Suffixes of photo files, and Pillow's name of their format. No other format is decoded, because some of Pillow's
decoders start other programs."""

READABLE_FORMATS = PHOTO_FORMATS | {
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".j2k": "JPEG2000",
    ".jp2": "JPEG2000",
    ".jpf": "JPEG2000",
    ".jpx": "JPEG2000",
    ".jxl": "JXL",
}
"""Suffixes of the files that `cgan-infer` colours; training reads those of PHOTO_FORMATS."""
