"""Photos as files and bytes, for the tests of infer.photo.decode and infer.photo.encode."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image


def saved(tmp_path: Path, name: str, image: Image.Image, **options: Any) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def content_of(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced PNG: the first column and row of each, and the steps between them."""


def png_of(samples: np.ndarray, color_type: int, before_data: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write: H x W x channels; further chunks may come first."""
    height, width, _ = samples.shape
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, interlaced)
    chunks = chunk(b"IHDR", header) + before_data + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff_of(samples: np.ndarray, byte_order: str = "<", planar: bool = False, compressed: bool = False) -> bytes:
    """A TIFF of 16 bits a channel, in planes or not: H x W x 3."""
    height, width, channels = samples.shape
    strips = [samples[..., i] for i in range(channels)] if planar else [samples]
    content = [strip.astype(f"{byte_order}u2").tobytes() for strip in strips]
    if compressed:
        content = [zlib.compress(strip) for strip in content]
    start = 8
    depths_at = start + sum(map(len, content))
    offsets_at = depths_at + 2 * channels
    sizes_at = offsets_at + 4 * len(content)
    directory_at = sizes_at + 4 * len(content)
    offsets = [start + sum(map(len, content[:i])) for i in range(len(content))]
    single = len(content) == 1
    long, short = 4, 3
    tags = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, channels, depths_at),
        (259, long, 1, 8 if compressed else 1),
        (262, long, 1, 2),
        (273, long, len(content), offsets[0] if single else offsets_at),
        (277, long, 1, channels),
        (278, long, 1, height),
        (279, long, len(content), len(content[0]) if single else sizes_at),
        (284, long, 1, 2 if planar else 1),
    ]
    return b"".join(
        [
            struct.pack(f"{byte_order}2sHI", b"II" if byte_order == "<" else b"MM", 42, directory_at),
            *content,
            struct.pack(f"{byte_order}{channels}H", *[16] * channels),
            struct.pack(f"{byte_order}{len(content)}I", *offsets),
            struct.pack(f"{byte_order}{len(content)}I", *map(len, content)),
            struct.pack(f"{byte_order}H", len(tags)),
            *(struct.pack(f"{byte_order}HHII", *tag) for tag in tags),
            bytes(4),
        ]
    )


def gray_tiff_of(values: np.ndarray, byte_order: Literal["<", ">"] = "<", compressed: bool = False) -> bytes:
    """A TIFF of one channel, H x W, with the kind and bits of the values, in either byte order."""
    data = values.astype(values.dtype.newbyteorder(byte_order)).tobytes()
    data = zlib.compress(data) if compressed else data
    height, width = values.shape
    bits, kind = 8 * values.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: width, 257: height, 258: bits, 259: 8 if compressed else 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: kind}
    directory = struct.pack(f"{byte_order}H", len(tags))
    for tag, value in tags.items():
        long = tag in (256, 257, 273, 278, 279)
        directory += struct.pack(f"{byte_order}HHI", tag, 4 if long else 3, 1)
        directory += struct.pack(f"{byte_order}I" if long else f"{byte_order}H2x", value)
    header = struct.pack(f"{byte_order}2sHI", b"II" if byte_order == "<" else b"MM", 42, 8 + len(data))
    return header + data + directory + bytes(4)
