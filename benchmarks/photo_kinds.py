"""One small file of every kind of photo: format, colours, bits and compression, with the luma that it must have.

`docs.format_table` lists what becomes of them; `python -m benchmarks stress --check mutated` damages them.
"""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cgan.spec import LUMA_REC601

Array = NDArray[Any]

HEIGHT, WIDTH = 24, 40
"""Rows and columns; both are multiples of every subsampling."""

LEVEL = 1 / 255
LOSSY = 8 * LEVEL
"""Largest difference of luma, 0 to 1, of lossless and of lossy kinds."""

TIFF_CODECS = ("none", "LZW", "Deflate", "PackBits", "ZSTD", "LZMA", "LERC", "WebP", "JPEG", "JPEG 2000", "JPEG XL")
TIFF_NAMES = {"none": None, "Deflate": "zlib", "JPEG 2000": "jpeg2000", "JPEG XL": "jpegxl"}


@dataclass(frozen=True)
class Kind:
    """A photo of one kind."""

    format: str
    colors: str
    bits: str
    storage: str
    """Compression and layout."""
    suffix: str
    make: Callable[[], bytes | bytearray]
    luma: Array
    """H x W, 0 to 1."""
    tolerance: float = LEVEL

    @property
    def name(self) -> str:
        """The kind as a file name."""
        words = " ".join((self.format, self.colors, self.bits, self.storage))
        return "".join(letter if letter.isalnum() else "-" for letter in words) + self.suffix


def _ramp() -> Array:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    ramp: Array = rows / (HEIGHT - 1) * 0.4 + columns / (WIDTH - 1) * 0.6
    return ramp


RAMP = _ramp()
COLORS = np.stack([RAMP, 1 - RAMP / 2, 0.2 + RAMP / 3], axis=-1)
ALPHA = 0.4 + 0.6 * RAMP[::-1]


def _luma(colors: Array) -> Array:
    luma: Array = colors[..., :3] @ np.array(LUMA_REC601)
    return luma


def _integers(values: Array, bits: int) -> Array:
    size = next(size for size in (8, 16, 32, 64) if size >= bits)
    top = min(2**bits - 1, 2**64 - 2048)  # the highest float that converts
    integers: Array = np.round(values * top).astype(f"u{size // 8}")
    return integers


def _tiff(values: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, software=False, **options)
    return file.getvalue()


def _by_pillow(values: Array, format_: str, mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    if mode == "CMYK":
        image = Image.frombytes(mode, values.shape[1::-1], values.tobytes())
    else:
        image = Image.fromarray(values)
        image = image.convert(mode) if mode else image
    image.save(file, format_, **options)
    return file.getvalue()


def kinds() -> Iterator[Kind]:
    """Yield all kinds."""
    yield from _gray_tiffs()
    yield from _color_tiffs()
    yield from _compressed_tiffs()
    yield from _jpegs()
    yield from _pngs()
    yield from _simple()
    yield from _newer()


def _gray_tiffs() -> Iterator[Kind]:
    def kind(colors: str, bits: str, values: Array, storage: str = "none", **options: Any) -> Kind:
        return Kind("TIFF", colors, bits, storage, ".tif", partial(_tiff, values, **options), RAMP, 2 * LEVEL)

    for bits in (1, 2, 4, 8, 10, 12, 14, 16, 24, 32, 64):
        values = _integers(RAMP, bits)
        loss = 0.5 / (2**bits - 1) + LEVEL
        for colors, photometric, stored in (
            ("gray", "minisblack", values),
            ("gray, white is zero", "miniswhite", _integers(1 - RAMP, bits)),
        ):
            for order, name in (("<", ""), (">", ", big-endian")):
                if name and bits % 8:
                    continue  # tifffile packs these in another way than libtiff
                made = kind(
                    colors,
                    str(bits),
                    stored.astype(bool) if bits == 1 else stored,
                    "none" + name,
                    photometric=photometric,
                    byteorder=order,
                    bitspersample=None if bits in (8, 16, 32, 64) else bits,
                )
                yield replace(made, tolerance=loss)
    for bits in (8, 16, 32):
        signed = (_integers(RAMP, bits).astype(np.int64) - 2 ** (bits - 1)).astype(f"i{bits // 8}")
        yield kind("gray", f"{bits} signed", signed, photometric="minisblack")
    for bits in (16, 32, 64):
        for order, name in (("<", ""), (">", ", big-endian")):
            floats = RAMP.astype(f"f{bits // 8}")
            yield kind("gray", f"{bits} float", floats, "none" + name, photometric="minisblack", byteorder=order)
        yield kind("gray", f"{bits} float", floats, "Deflate, predictor 3", compression="zlib", predictor=3)
    for bits in (8, 16, 32):
        values = np.stack([_integers(RAMP, bits), _integers(ALPHA, bits)], axis=-1)
        yield kind("gray, alpha", str(bits), values, photometric="minisblack", extrasamples=["unassalpha"])
        values = np.stack([_integers(RAMP * ALPHA, bits), values[..., 1]], axis=-1)
        yield kind("gray, associated alpha", str(bits), values, photometric="minisblack", extrasamples=["assocalpha"])


def _color_tiffs() -> Iterator[Kind]:
    luma = _luma(COLORS)

    def kind(colors: str, bits: str, values: Array, storage: str, **options: Any) -> Kind:
        tolerance = 3 * LEVEL if "palette" in colors else 2 * LEVEL
        return Kind("TIFF", colors, bits, storage, ".tif", partial(_tiff, values, **options), luma, tolerance)

    straight = np.concatenate([COLORS, ALPHA[..., None]], axis=-1)
    associated = np.concatenate([COLORS * ALPHA[..., None], ALPHA[..., None]], axis=-1)
    for bits in ("8", "16", "16 float", "32 float", "64 float"):
        is_float = "float" in bits

        def stored(values: Array, bits: str = bits, is_float: bool = is_float) -> Array:
            return values.astype(f"f{int(bits[:2]) // 8}") if is_float else _integers(values, int(bits))

        layouts: tuple[tuple[str, dict[str, Any]], ...] = (
            ("strips", {"rowsperstrip": 7}),
            ("tiles", {"tile": (16, 16)}),
            ("planes", {"planarconfig": "separate", "rowsperstrip": 7}),
            ("planes in tiles", {"planarconfig": "separate", "tile": (16, 16)}),
            ("BigTIFF", {"bigtiff": True}),
            ("big-endian", {"byteorder": ">"}),
            ("BigTIFF, big-endian", {"bigtiff": True, "byteorder": ">"}),
        )
        for layout, options in layouts:
            planes: Callable[[Array], Array] = (
                (lambda a: np.moveaxis(a, -1, 0)) if "planes" in layout else (lambda a: a)
            )
            options = {"photometric": "rgb", **options}
            yield kind("RGB", bits, planes(stored(COLORS)), layout, **options)
            yield kind("RGB, alpha", bits, planes(stored(straight)), layout, extrasamples=["unassalpha"], **options)
            yield kind(
                "RGB, associated alpha",
                bits,
                planes(stored(associated)),
                layout,
                extrasamples=["assocalpha"],
                **options,
            )
    inks = np.concatenate([1 - COLORS, np.zeros((HEIGHT, WIDTH, 1))], axis=-1)
    for bits in ("8", "16"):
        yield kind("CMYK", bits, _integers(inks, int(bits)), "strips", photometric="separated")
    for name, photometric, zero in (("CIE Lab", "cielab", 0), ("ICC Lab", "icclab", 128)):
        for step, whole in ((1, 255), (256, 65_535 if zero == 0 else 65_280)):
            lab = np.full((HEIGHT, WIDTH, 3), zero * step, np.uint8 if step == 1 else np.uint16)
            lab[..., 0] = np.round(_lightness(RAMP) * whole)
            make = partial(_tiff, lab, photometric=photometric)
            yield Kind("TIFF", name, str(8 * lab.itemsize), "strips", ".tif", make, RAMP, 2 * LEVEL)
    indices = _integers(RAMP, 8)
    table = np.stack([np.arange(256), 255 - np.arange(256) / 2, 51 + np.arange(256) / 3])
    for name, map_ in (("palette", table * 257), ("palette of 8-bit values", table)):
        colormap = np.round(map_).astype(np.uint16)
        yield kind(name, "8", indices, "strips", photometric="palette", colormap=colormap)
    for across, down in ((1, 1), (2, 1), (2, 2), (4, 2), (4, 4)):
        for video in (False, True):
            name = "YCbCr" + (" of video range" if video else "")
            yield Kind(
                "TIFF", name, "8", f"subsampling {across} x {down}", ".tif",
                partial(ycbcr_tiff, across, down, video), RAMP, 2 * LEVEL,
            )  # fmt: skip


def _lightness(values: Array) -> Array:
    """Return L* of gray in sRGB, both 0 to 1 (IEC 61966-2-1, ISO 11664-4)."""
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    lightness: Array = (
        116 * np.where(light > (6 / 29) ** 3, np.cbrt(light), light * (29 / 6) ** 2 / 3 + 4 / 29) - 16
    ) / 100
    return lightness


def ycbcr_tiff(across: int, down: int, video: bool) -> bytes:
    """Return a gray ramp in YCbCr with subsampled chroma, in one uncompressed strip."""
    luma: Array = np.round(RAMP * 219 + 16 if video else RAMP * 255).astype(np.uint8)
    blocks: Array = luma.reshape(HEIGHT // down, down, WIDTH // across, across).swapaxes(1, 2)
    blocks = blocks.reshape(HEIGHT // down, WIDTH // across, down * across)
    gray = np.full((*blocks.shape[:2], 2), 128, np.uint8)
    data = np.concatenate([blocks, gray], axis=-1).tobytes()
    range_ = (16, 235, 128, 240, 128, 240) if video else (0, 255, 128, 255, 128, 255)
    reference = struct.pack("<12I", *(number for value in range_ for number in (value, 1)))
    bits_at = 8
    reference_at = bits_at + 6
    data_at = reference_at + len(reference)
    short, long, rational = 3, 4, 5
    tags = [
        (256, long, 1, WIDTH), (257, long, 1, HEIGHT), (258, short, 3, bits_at), (259, short, 1, 1),
        (262, short, 1, 6), (273, long, 1, data_at), (277, short, 1, 3), (278, long, 1, HEIGHT),
        (279, long, 1, len(data)), (530, short, 2, across | down << 16), (532, rational, 6, reference_at),
    ]  # fmt: skip
    body = struct.pack("<3H", 8, 8, 8) + reference + data
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory


def _compressed_tiffs() -> Iterator[Kind]:
    for codec in TIFF_CODECS:
        compression = TIFF_NAMES.get(codec, codec.lower())
        lossy = LOSSY if codec in ("WebP", "JPEG", "JPEG XL", "JPEG 2000") else LEVEL
        for colors, values, luma, photometric in (
            ("gray", _integers(RAMP, 8), RAMP, "minisblack"),
            ("RGB", _integers(COLORS, 8), _luma(COLORS), "rgb"),
        ):
            if codec == "WebP" and colors == "gray":
                continue  # WebP holds colours only
            for layout, tile in (("", None), (", tiles", (16, 16))):
                yield Kind(
                    "TIFF", colors, "8", codec + layout, ".tif",
                    partial(_tiff, values, photometric=photometric, compression=compression, tile=tile),
                    luma, lossy,
                )  # fmt: skip
    for bits in (8, 16):
        for codec in ("LZW", "Deflate", "ZSTD"):
            compression = TIFF_NAMES.get(codec, codec.lower())
            values = _integers(COLORS, bits)
            yield Kind(
                "TIFF", "RGB", str(bits), f"{codec}, predictor 2", ".tif",
                partial(_tiff, values, photometric="rgb", compression=compression, predictor=2),
                _luma(COLORS),
            )  # fmt: skip
    for codec in ("group3", "group4", "tiff_ccitt"):
        yield Kind(
            "TIFF", "gray", "1", {"group3": "CCITT G3", "group4": "CCITT G4"}.get(codec, "CCITT RLE"), ".tif",
            partial(_by_pillow, RAMP > 0.5, "TIFF", "1", compression=codec), (RAMP > 0.5) * 1.0,
        )  # fmt: skip
    stream = partial(imagecodecs.jpeg8_encode, _integers(RAMP, 12), 98, bitspersample=12)
    yield Kind("TIFF", "gray", "12", "JPEG", ".tif", lambda: _jpeg_tiff(bytes(stream()), 7, 12), RAMP, LOSSY)
    wide = partial(imagecodecs.jpeg8_encode, _integers(COLORS, 12), 98, bitspersample=12)
    yield Kind("TIFF", "YCbCr", "12", "JPEG", ".tif", lambda: _jpeg_tiff(bytes(wide()), 7, 12, 3), _luma(COLORS), LOSSY)
    old = partial(_by_pillow, _integers(RAMP, 8), "JPEG", quality=95)
    yield Kind("TIFF", "gray", "8", "old-style JPEG", ".tif", lambda: _jpeg_tiff(old(), 6, 8), RAMP, LOSSY)
    values = np.asarray(Image.fromarray(_integers(COLORS, 8)).convert("YCbCr"))
    yield Kind(
        "TIFF", "YCbCr", "8", "JPEG, subsampling 2 x 2", ".tif",
        lambda: _tiff(values, photometric="ycbcr", compression="jpeg", subsampling=(2, 2)), _luma(COLORS), LOSSY,
    )  # fmt: skip


def _jpeg_tiff(stream: bytes, compression: int, bits: int, channels: int = 1) -> bytes:
    """Return a TIFF of gray or YCbCr in one strip with a JPEG of 8 or 12 bits, new-style (7) or old-style (6)."""
    short, long, start = 3, 4, 8
    photometric = 1 if channels == 1 else 6
    tags = [
        (256, long, WIDTH), (257, long, HEIGHT), (258, short, bits), (259, short, compression),
        (262, short, photometric), (273, long, start), (277, short, channels), (278, long, HEIGHT),
        (279, long, len(stream)),
    ]  # fmt: skip
    tags += [(513, long, start), (514, long, len(stream))] if compression == 6 else []
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag[:2], 1, tag[2]) for tag in tags)
    return struct.pack("<2sHI", b"II", 42, start + len(stream)) + stream + directory + bytes(4)


def _jpegs() -> Iterator[Kind]:
    def kind(colors: str, bits: str, storage: str, make: Callable[[], bytes | bytearray], luma: Array) -> Kind:
        return Kind(
            "JPEG", colors, bits, storage, ".jpg", make, luma, LOSSY if "lossless" not in storage else 2 * LEVEL
        )

    gray, color, luma = _integers(RAMP, 8), _integers(COLORS, 8), _luma(COLORS)
    inks = 255 - np.concatenate([color, np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=-1)
    encode = imagecodecs.jpeg8_encode
    yield kind("gray", "8", "baseline", partial(_by_pillow, gray, "JPEG", quality=95), RAMP)
    yield kind("YCbCr", "8", "baseline", partial(_by_pillow, color, "JPEG", quality=95), luma)
    yield kind("YCbCr", "8", "progressive", partial(_by_pillow, color, "JPEG", quality=95, progressive=True), luma)
    yield kind("RGB", "8", "baseline", partial(_by_pillow, color, "JPEG", quality=95, keep_rgb=True), luma)
    yield kind("CMYK", "8", "baseline", partial(_by_pillow, inks, "JPEG", "CMYK", quality=95), luma)
    yield kind("YCCK", "8", "baseline", partial(encode, 255 - inks, 95, colorspace="CMYK", outcolorspace="YCCK"), luma)
    for bits in (8, 12, 16):
        deep = _integers(RAMP, bits)
        yield kind("gray", str(bits), "lossless", partial(encode, deep, lossless=True, bitspersample=bits), RAMP)
    yield kind("RGB", "8", "lossless", partial(encode, color, lossless=True), luma)
    yield kind("gray", "12", "extended", partial(encode, _integers(RAMP, 12), 95, bitspersample=12), RAMP)
    yield kind("YCbCr", "12", "extended", partial(encode, _integers(COLORS, 12), 95, bitspersample=12), luma)


def _pngs() -> Iterator[Kind]:
    gray, luma = _integers(RAMP, 8), _luma(COLORS)

    def kind(
        colors: str, bits: str, make: Callable[[], bytes | bytearray], luma: Array, tolerance: float = LEVEL
    ) -> Kind:
        return Kind("PNG", colors, bits, "Deflate", ".png", make, luma, tolerance)

    yield kind("gray", "1", partial(_by_pillow, RAMP > 0.5, "PNG"), (RAMP > 0.5) * 1.0)
    yield kind("gray", "8", partial(_by_pillow, gray, "PNG"), RAMP)
    yield kind("gray", "16", partial(imagecodecs.png_encode, _integers(RAMP, 16)), RAMP)
    yield kind("palette", "8", partial(_by_pillow, gray, "PNG", "P"), RAMP)
    for bits in (8, 16):
        straight = _integers(np.concatenate([COLORS, ALPHA[..., None]], axis=-1), bits)
        pair = _integers(np.stack([RAMP, ALPHA], axis=-1), bits)
        yield kind("RGB", str(bits), partial(imagecodecs.png_encode, _integers(COLORS, bits)), luma)
        yield kind("RGB, alpha", str(bits), partial(imagecodecs.png_encode, straight), luma)
        yield kind("gray, alpha", str(bits), partial(imagecodecs.png_encode, pair), RAMP)


def _simple() -> Iterator[Kind]:
    gray, color, luma = _integers(RAMP, 8), _integers(COLORS, 8), _luma(COLORS)
    yield Kind("GIF", "palette", "8", "LZW", ".gif", partial(_by_pillow, gray, "GIF"), RAMP, 2 * LEVEL)
    for name, masks in (
        ("555", (0x7C00, 0x3E0, 0x1F)), ("565", (0xF800, 0x7E0, 0x1F)), ("444", (0xF00, 0xF0, 0xF)),
        ("4444", (0xF00, 0xF0, 0xF, 0xF000)),
    ):  # fmt: skip
        yield Kind("BMP", "RGB", name, "none", ".bmp", partial(bmp_of_fields, masks), luma, 9 * LEVEL)
    yield Kind("BMP", "gray", "8", "none", ".bmp", partial(_by_pillow, gray, "BMP"), RAMP)
    yield Kind("BMP", "RGB", "24", "none", ".bmp", partial(_by_pillow, color, "BMP"), luma)
    yield Kind("WebP", "RGB", "8", "lossy", ".webp", partial(_by_pillow, color, "WEBP", quality=95), luma, LOSSY)
    yield Kind("WebP", "RGB", "8", "lossless", ".webp", partial(_by_pillow, color, "WEBP", lossless=True), luma)
    for top in (15, 255, 1023, 65_535):
        for letter, colors, values, expected in ((5, "gray", RAMP, RAMP), (6, "RGB", COLORS, luma)):
            stored = np.round(values * top).astype(">u2" if top > 255 else "u1")
            head = b"P%d %d %d %d\n" % (letter, WIDTH, HEIGHT, top)
            text = b"P%d %d %d %d\n" % (letter - 3, WIDTH, HEIGHT, top) + b"\n".join(b"%d" % v for v in stored.flat)
            suffix, loss = (".pgm" if letter == 5 else ".ppm"), 0.5 / top + LEVEL
            bits = f"0 to {top}"
            yield Kind("PPM", colors, bits, "raw", suffix, partial(bytes, head + stored.tobytes()), expected, loss)
            yield Kind("PPM", colors, bits, "plain", suffix, partial(bytes, text), expected, loss)


def bmp_of_fields(masks: tuple[int, ...]) -> bytes:
    """Return COLORS as a BMP of 16 bits a pixel with a channel in each mask; alpha is opaque."""
    words = np.zeros((HEIGHT, WIDTH), np.uint16)
    for channel, mask in enumerate(masks):
        shift = (mask & -mask).bit_length() - 1
        values = COLORS[..., channel] if channel < 3 else np.ones((HEIGHT, WIDTH))
        words |= np.round(values * (mask >> shift)).astype(np.uint16) << np.uint16(shift)
    data = words[::-1].astype("<u2").tobytes()
    fields = (*masks, 0)[:4]
    header = struct.pack("<IiiHHIIiiII4I", 56, WIDTH, HEIGHT, 1, 16, 3, len(data), 0, 0, 0, 0, *fields)
    return struct.pack("<2sIHHI", b"BM", 70 + len(data), 0, 0, 70) + header + data


def _newer() -> Iterator[Kind]:
    luma = _luma(COLORS)
    for colors, source, expected in (("gray", RAMP, RAMP), ("RGB", COLORS, luma)):
        for bits in (1, 4, 8, 12, 16):
            yield Kind(
                "JPEG 2000", colors, str(bits), "lossless", ".jp2",
                partial(imagecodecs.jpeg2k_encode, _integers(source, bits), bitspersample=bits), expected,
                0.5 / (2**bits - 1) + LEVEL,
            )  # fmt: skip
        for bits in (8, 16):
            yield Kind(
                "JPEG XL", colors, str(bits), "lossless", ".jxl",
                partial(imagecodecs.jpegxl_encode, _integers(source, bits), lossless=True), expected,
            )  # fmt: skip
        for bits in (8, 10, 12):
            values = _integers(source, bits)
            yield Kind(
                "AVIF", colors, str(bits), "lossless", ".avif",
                partial(imagecodecs.avif_encode, values, 100, bitspersample=bits), expected,
            )  # fmt: skip
