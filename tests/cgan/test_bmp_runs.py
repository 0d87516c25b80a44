"""Run-length coded BMPs: pixels of an independent drawing."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from cgan.bmp_runs import NO_RUNS
from cgan.completeness import load


def loaded(runs: bytes, bits: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels and notes of a BMP of 8 x 4 pixels, whose palette is a ramp from black to white."""
    palette = b"".join(bytes((level, level, level, 0)) for level in np.linspace(0, 255, 1 << bits).astype(int).tolist())
    start = 54 + len(palette)
    header = struct.pack("<LiiHHLLiiLL", 40, 8, 4, 1, bits, {8: 1, 4: 2}[bits], len(runs), 0, 0, 0, 0)
    content = b"BM" + struct.pack("<LLL", start + len(runs), 0, start) + header + palette + runs
    with Image.open(io.BytesIO(content)) as image:
        notes = load(image)
        return np.asarray(image.convert("L")), notes


def test_pixels_behind_the_end_mark_are_noted() -> None:
    pixels, notes = loaded(b"\3\x64" + b"\0\2\1\0" + b"\4\xc8" + b"\0\0" + b"\0\2\2\1" + b"\0\3\1\2\3\0" + b"\0\1", 8)
    expected = np.zeros((4, 8))
    expected[3], expected[1, 2:5] = [100, 100, 100, 0, 200, 200, 200, 200], [1, 2, 3]
    assert np.array_equal(pixels, expected)
    assert notes == (NO_RUNS,)
    pixels, notes = loaded(b"\5\x12" + b"\0\1", 4)
    assert pixels[3].tolist() == [17, 34, 17, 34, 17, 0, 0, 0]
    assert notes == (NO_RUNS,)


def test_a_whole_picture_needs_no_note() -> None:
    pixels, notes = loaded(b"\x08\x40\0\0" * 4 + b"\0\1", 8)
    assert (pixels == 64).all()
    assert notes == ()


@pytest.mark.parametrize("runs", [b"\x08\x40\0\0", b"\x08\x40\0\0\3", b""])
def test_missing_pixels_without_an_end_mark_are_damage(runs: bytes) -> None:
    with pytest.raises(ValueError, match="not enough image data"):
        loaded(runs, 8)
