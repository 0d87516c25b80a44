"""JPEG files: the same picture from both encoders, and segments in the order that readers expect."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgan.jpeg_scans import layout_of
from infer.photo.decode import Photo
from infer.photo.jpeg_writer import EXACT_QUALITY, write_jpeg

RNG = np.random.default_rng(2)


def photo_with(**metadata: Any) -> Photo:
    values = {"alpha": None, "exif": None, "icc_profile": None, "dpi": None, "notes": ()} | metadata
    return Photo(luma=np.zeros((1, 1), np.uint8), **values)


def some_planes(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, b, r = (RNG.integers(0, 256, (height, width), np.uint8) for _ in range(3))
    return y, b, r


@pytest.mark.parametrize("quality", [1, EXACT_QUALITY - 1, EXACT_QUALITY, 100])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (33, 50)])
def test_both_encoders_write_what_pillow_writes(size: tuple[int, int], quality: int) -> None:
    planes = some_planes(*size)
    file = io.BytesIO()
    Image.merge("YCbCr", [Image.fromarray(plane) for plane in planes]).save(
        file, "JPEG", quality=quality, subsampling=0
    )
    assert write_jpeg(planes, photo_with(), quality) == file.getvalue()


def test_metadata_are_read_back() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a mill"
    profile = bytes(range(256)) * 600  # three segments
    photo = photo_with(
        exif=exif.tobytes(), xmp=b"<x:xmpmeta/>", icc_profile=profile, dpi=(299.9, 300.2), comments=(b"one", b"two")
    )
    content = write_jpeg(some_planes(8, 8), photo, 96)
    image = Image.open(io.BytesIO(content))
    assert image.getexif()[0x010E] == "a mill"
    assert image.info["xmp"] == b"<x:xmpmeta/>" and image.info["icc_profile"] == profile
    assert image.info["dpi"] == (300, 300) and image.info["comment"] == b"two" and b"\xff\xfe\x00\x05one" in content
    assert content[2:4] == b"\xff\xe0" and content[20:22] == b"\xff\xe1"  # JFIF, then EXIF
    assert layout_of(content).ended
