"""Messages of libtiff: the photo's own, and not on the terminal."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from cgan.completeness import load
from cgan.libtiff_messages import MOST, collected

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))


def damaged(compression: str) -> bytes:
    file = io.BytesIO()
    NOISE.save(file, "TIFF", compression=compression)
    content = bytearray(file.getvalue())
    content[200:2000:7] = b"\xff" * len(content[200:2000:7])
    return bytes(content)


def test_a_message_is_a_part_of_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="decoder error -2; libtiff: Using code not yet in table"):
        load(Image.open(io.BytesIO(damaged("tiff_lzw"))))
    assert capfd.readouterr() == ("", "")


def test_what_libtiff_goes_on_after_is_a_note(capfd: pytest.CaptureFixture[str]) -> None:
    notes = load(Image.open(io.BytesIO(damaged("jpeg"))))
    assert notes
    assert all(note.startswith("libtiff: ") for note in notes)
    assert len(notes) <= MOST
    assert capfd.readouterr() == ("", "")


def test_other_lines_still_reach_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with collected():
        print("mine", file=sys.stderr)
    with pytest.raises(OSError, match="decoder error"):
        Image.open(io.BytesIO(damaged("tiff_lzw"))).load()
    assert capfd.readouterr().err == "mine\nlibtiff: Using code not yet in table\n"
