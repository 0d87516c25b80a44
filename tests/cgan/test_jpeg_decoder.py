"""JPEGs that one pass proves to be whole, and restart markers that show that pixels are missing."""

import io

import numpy as np
import pytest
from PIL import Image

from cgan.completeness import load
from cgan.jpeg_decoder import JpegDecoder, MissingPixelsError
from cgan.jpeg_scans import layout_of

EOI = b"\xff\xd9"


@pytest.mark.parametrize("draft", ["L", "RGB"])
@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("mode, subsampling", [("L", 0), ("RGB", 0), ("RGB", 1), ("RGB", 2), ("RGB", "4:1:1")])
def test_a_whole_jpeg_is_decoded_once_and_as_pillow_does(
    mode: str, subsampling: int | str, progressive: bool, draft: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (37, 51, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(
        file, "JPEG", subsampling=subsampling, progressive=progressive, keep_rgb=subsampling == 0
    )
    expected, image = Image.open(file), Image.open(io.BytesIO(file.getvalue()))
    expected.draft(draft, None)
    image.draft(draft, None)
    monkeypatch.setattr(JpegDecoder, "_huffman", None)  # which decodes twice
    assert load(image) == ()
    assert image.mode == expected.mode and image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("interval", [0, 3])
def test_restart_markers_out_of_place_are_missing_pixels(interval: int) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(4).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=90, restart_marker_blocks=interval)
    data = file.getvalue()
    scan = layout_of(data).scans[0]
    middle = (scan.begin + scan.end) // 2
    cut = data[:middle] + b"\xff\xd0" + EOI
    overwritten = data[:middle] + b"\xff\xd5" + data[middle + 2 :]
    for damaged in (cut, overwritten):
        with pytest.raises(MissingPixelsError):
            load(Image.open(io.BytesIO(damaged)))
