"""Small ICC profiles, packed here without the code under test (ICC.1:2022)."""

import struct
from collections.abc import Callable, Sequence

import imagecodecs
import numpy as np
from PIL import ImageCms

D50 = (0.9642, 1.0, 0.8249)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _rgb(white: tuple[float, float], primaries: Sequence[float], gamma: float) -> bytes:
    profile: bytes = imagecodecs.cms_profile("rgb", whitepoint=(*white, 1.0), primaries=list(primaries), gamma=gamma)
    return profile


D65_XY = (0.3127, 0.329)
ADOBE = _rgb(D65_XY, (0.64, 0.33, 1, 0.21, 0.71, 1, 0.15, 0.06, 1), 563 / 256)
PROPHOTO = _rgb((0.3457, 0.3585), (0.7347, 0.2653, 1, 0.1596, 0.8404, 1, 0.0366, 0.0001, 1), 1.8)
P3 = _rgb(D65_XY, (0.68, 0.32, 1, 0.265, 0.69, 1, 0.15, 0.06, 1), 2.2)


def numbers(*values: float) -> bytes:
    return struct.pack(f">{len(values)}l", *(round(value * 65_536) for value in values))


def profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"prtr", pcs: bytes = b"XYZ ") -> bytes:
    body, table, start = b"", struct.pack(">L", len(tags)), 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">LL", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">L4sL4s4s4s", start + len(body), b"test", 0x02400000, kind, space, pcs)
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp"
    return head.ljust(68, b"\0") + numbers(*D50) + bytes(48) + table + body


def described(name: str) -> bytes:
    text = name.encode("latin-1") + b"\0"
    return b"desc" + bytes(4) + struct.pack(">L", len(text)) + text + bytes(78)


def curve(*values: int) -> bytes:
    """A curv: none is linear, one is a gamma times 256, more are a table of 16 bits."""
    return b"curv" + bytes(4) + struct.pack(f">L{len(values)}H", len(values), *values)


def parametric(kind: int, *values: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + numbers(*values)


def gray(tone: bytes, name: str = "gray", pcs: bytes = b"XYZ ") -> bytes:
    return profile(
        b"GRAY", {b"desc": described(name), b"wtpt": b"XYZ " + bytes(4) + numbers(*D50), b"kTRC": tone}, pcs=pcs
    )


def dot_gain(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """The light of gray 0 to 1 whose dots of 50% grow by a share (Murray-Davies)."""
    return lambda value: 1 - ((1 - value) + 4 * share * value * (1 - value))


DOT_GAIN_20 = gray(curve(*np.round(65_535 * dot_gain(0.2)(np.arange(256) / 255)).astype(int).tolist()), "Dot Gain 20%")


def cmyk(sixteen: bool = False) -> bytes:
    """A profile of inks by a table of 3 x 3 x 3 x 3 colours in Lab, of 8 or 16 bits (mft1, mft2)."""
    inks = np.stack(np.meshgrid(*[np.linspace(0, 1, 3)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    dark = 1 - inks[:, 3] * 0.9
    lightness = (1 - inks[:, :3] @ [0.3, 0.45, 0.1]) * dark * 95 + 3
    a, b = inks[:, :3] @ [-35, 70, -5] * dark, inks[:, :3] @ [-45, -5, 85] * dark
    top, white, neutral = (65_535, 65_280, 32_768) if sixteen else (255, 255, 128)
    colors = np.stack([lightness / 100 * white, *(neutral + neutral / 128 * part for part in (a, b))], axis=-1)
    kind = ">u2" if sixteen else "u1"
    table = np.round(colors).astype(kind).tobytes()
    ramp = np.linspace(0, top, 2 if sixteen else 256).astype(kind).tobytes()
    head = (b"mft2" if sixteen else b"mft1") + bytes(4) + bytes((4, 3, 3, 0)) + numbers(1, 0, 0, 0, 1, 0, 0, 0, 1)
    head += struct.pack(">HH", 2, 2) if sixteen else b""
    tags = {b"desc": described("inks"), b"wtpt": b"XYZ " + bytes(4) + numbers(*D50)}
    return profile(b"CMYK", {**tags, b"A2B0": head + ramp * 4 + table + ramp * 3}, pcs=b"Lab ")


def rgb_table() -> bytes:
    """An RGB profile whose colours come from a table of version 4 (mAB)."""
    nodes = np.stack(np.meshgrid(*[np.linspace(0, 1, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = np.stack([nodes @ [0.3, 0.6, 0.1] * 100, nodes @ [80, -90, 10], nodes @ [30, 50, -80]], axis=-1)
    grid = bytes((3, 3, 3)) + bytes(13) + bytes((2, 0, 0, 0))
    grid += np.round(np.add(lab, [0, 128, 128]) / [100, 255, 255] * 65_535).astype(">u2").tobytes()
    grid += bytes(-len(grid) % 4)
    curves = curve() * 3
    head = b"mAB " + bytes(4) + bytes((3, 3, 0, 0)) + struct.pack(">5L", 32, 0, 0, 32 + len(curves), 32)
    content = bytearray(
        profile(b"RGB ", {b"desc": described("table"), b"A2B0": head + curves + grid}, b"mntr", pcs=b"Lab ")
    )
    content[8:12] = bytes((4, 0x20, 0, 0))
    return bytes(content)
