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
