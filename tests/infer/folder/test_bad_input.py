"""Bad input: one folder with a file of each kind, coloured by the command."""

import json
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infer.cli import main
from infer.folder.storage import WORK_FOLDER
from infer.photo.decode import PhotoError, decode, use_own_pixel_limit

GRAY = np.random.default_rng(0).integers(0, 256, (33, 47), np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (33, 47, 4), np.uint8)

GOOD = {
    "gray.jpg",
    "progressive.jpg",
    "gray16.png",
    "gray16.tif",
    "color16.png",
    "float.tif",
    "la.png",
    "rgba.png",
    "palette.png",
    "cmyk.jpg",
    "bits.png",
    "rotated.jpg",
    "color.jpg",
    "animated.gif",
    "animated.webp",
    "pages.tif",
    "pixel.png",
    "line.png",
    "seven.png",
    "same.png",
    "same.jpg",
    "same.webp",
    "sub/same.png",
    "new\nline.png",
    os.fsdecode(b"latin-\xe9.png"),
    "link.png",
    "exif.jpg",
}
NOTES = {
    "animated.gif": "first frame of several",
    "animated.webp": "first frame of several",
    "pages.tif": "first frame of several",
    "xmp.jpg": "XMP kept without its extension, parts of which are missing",
    "profile.png": "ICC profile left out: damaged (it has no header of an ICC profile)",
    "stretched.tif": "values from -3 to 7 stretched to the range of gray",
}
"""Good files of which there is something to say."""
GOOD |= NOTES.keys()
BAD = {
    "empty.jpg": "the file is empty",
    "truncated.jpg": "damaged: the file ends after ",
    "truncated.png": "damaged: ",
    "truncated.tif": "damaged: ",
    "truncated.webp": "damaged: ",
    "nan.tif": "it has values that are not finite numbers",
    "text.png": "not an image",
    "jpeg.png": "its content is JPEG but its name says PNG",
    "bomb.png": "the limit is",
}


def png16(samples: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel in RGB, which Pillow does not write; H x W x 3, big-endian."""
    height, width, _ = samples.shape
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in samples)),
        b"IEND": b"",
    }
    written = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all kinds, with links and special files beside them."""
    folder = tmp_path_factory.mktemp("hostile") / "in"
    (folder / "sub").mkdir(parents=True)
    gray, color = Image.fromarray(GRAY), Image.fromarray(COLOR)
    rgb = color.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90)]}
    gray.save(folder / "gray.jpg")
    gray.save(folder / "progressive.jpg", progressive=True)
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(folder / "gray16.png")
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(folder / "gray16.tif")
    Image.fromarray(GRAY.astype(np.float32) / 255).save(folder / "float.tif")
    color.convert("LA").save(folder / "la.png")
    color.save(folder / "rgba.png")
    rgb.quantize(16).save(folder / "palette.png", transparency=3)
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    gray.convert("1").save(folder / "bits.png")
    gray.save(folder / "rotated.jpg", exif=exif)
    rgb.save(folder / "color.jpg")
    rgb.save(folder / "animated.gif", **frames)
    rgb.save(folder / "animated.webp", **frames)
    rgb.save(folder / "pages.tif", **frames)
    gray.resize((1, 1)).save(folder / "pixel.png")
    gray.resize((10_000, 1)).save(folder / "line.png")
    gray.resize((3, 7)).save(folder / "seven.png")
    for name in ("same.png", "same.jpg", "same.webp", "sub/same.png", "new\nline.png", "latin-\udce9.png"):
        gray.save(folder / name)
    (folder / "link.png").symlink_to(folder / "gray16.png")

    (folder / "color16.png").write_bytes(png16(COLOR[..., :3].astype(">u2") * 257))
    extension = b"\xff\xe1" + struct.pack(">H", 52) + b"http://ns.adobe.com/xmp/extension/\0" + bytes(15)
    content = (folder / "color.jpg").read_bytes()
    (folder / "xmp.jpg").write_bytes(content[:2] + extension + content[2:])
    gray.save(folder / "profile.png", icc_profile=bytes(16) + b"GRAY" + bytes(108))
    Image.fromarray(np.linspace(-3, 7, GRAY.size, dtype=np.float32).reshape(GRAY.shape)).save(folder / "stretched.tif")
    # The horizontal resolution as text, where a fraction belongs.
    text = struct.pack("<HHHI4sI", 1, 282, 2, 4, b"abc", 0)
    gray.save(folder / "exif.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + text)

    (folder / "empty.jpg").write_bytes(b"")
    for name in ("color.jpg", "rgba.png", "gray16.tif", "same.webp"):
        whole = (folder / name).read_bytes()
        (folder / f"truncated{Path(name).suffix}").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(folder / "nan.tif")
    (folder / "text.png").write_bytes(b"hello")
    (folder / "jpeg.png").write_bytes(content)
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.mark.parametrize("format_", ["same", "png", "jpg", "webp", "tiff"])
def test_each_file_is_done_or_named_with_a_true_reason(hostile: Path, tmp_path: Path, format_: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        main(["folder", str(hostile), str(out), "--format", format_, "--device", "cpu", "--quiet"])
    assert end.value.code == 1
    report = json.loads((out / "report.json").read_text())
    assert report["failures"].keys() == BAD.keys()
    for name, reason in BAD.items():
        assert reason in report["failures"][name]
    assert report["done"] == len(GOOD)
    for name, note in NOTES.items():
        assert [n for n in report["notes"][name] if n.startswith(note)], name
    assert report["passed_over"].keys() == {"loop", "pipe.png"}
    outputs = [path for path in out.rglob("*") if path.is_file() and path.name != "report.json"]
    outputs = [path for path in outputs if WORK_FOLDER not in path.parts]
    assert len(outputs) == len(GOOD)
    for path in outputs:
        with Image.open(path) as image:
            image.load()
            assert image.mode in {"RGB", "RGBA"}


def test_sizes_luma_and_transparency_are_kept(hostile: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["folder", str(hostile), str(tmp_path), "--format", "png", "--device", "cpu", "--quiet"])

    def luma(name: str) -> np.ndarray:
        with Image.open(tmp_path / name) as image:
            return np.asarray(image.convert("RGB").convert("L")).astype(int)

    for name in ("gray16.png", "gray16.tif.png", "float.png", "sub/same.png", "link.png"):
        assert np.abs(luma(name) - GRAY).max() <= 1, name
    with Image.open(hostile / "rotated.jpg") as image:
        turned = np.asarray(image.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(luma("rotated.png") - turned).max() <= 1
    with Image.open(tmp_path / "rgba.png") as image:
        assert np.array_equal(np.asarray(image.getchannel("A")), COLOR[..., 3])
    sizes = {"pixel.png": (1, 1), "line.png": (10_000, 1), "seven.png": (3, 7)}
    for name, size in sizes.items():
        with Image.open(tmp_path / name) as image:
            assert image.size == size


def test_inputs_are_untouched_and_read_only_inputs_work(hostile: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in hostile.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        main(["folder", str(hostile), str(tmp_path), "--device", "cpu", "--quiet"])
    assert {path: path.read_bytes() for path in hostile.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("pixels", [33 * 47 - 1, 33 * 47 // 2 - 1], ids=["a warning", "an error"])
def test_pillow_s_own_limit_gives_way_to_that_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, pixels: int
) -> None:
    """A photo of more pixels than Pillow's limit warns, one of twice as many is refused."""
    (tmp_path / "in").mkdir()
    Image.fromarray(GRAY).save(tmp_path / "in" / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    with pytest.raises(SystemExit) as end:
        main(["folder", str(tmp_path / "in"), str(tmp_path / "out"), "--device", "cpu", "--quiet"])
    assert end.value.code in (None, 0)
    assert [w for w in recwarn if issubclass(w.category, Image.DecompressionBombWarning)] == []


def test_the_own_limit_silences_pillow_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(PhotoError, match=r"^Image size .* decompression bomb"):
        decode(tmp_path / "a.png")
    use_own_pixel_limit()
    assert np.array_equal(decode(tmp_path / "a.png").luma, GRAY)
    with pytest.raises(PhotoError, match="47 x 33 pixels, the limit is 1550"):
        decode(tmp_path / "a.png", max_pixels=1550)
    for module in ("PIL.TiffImagePlugin", "PILLOW", "infer.photo.decode"):
        warnings.warn_explicit("truncated file", UserWarning, "a.py", 1, module=module, registry={})
    assert len(recwarn) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everything")
def test_unreadable_file_and_read_only_output(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(GRAY).save(tmp_path / "in" / "a.png")
    Image.fromarray(GRAY).save(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "a.png").chmod(0)
    with pytest.raises(SystemExit) as end:
        main(["folder", str(tmp_path / "in"), str(tmp_path / "out"), "--quiet"])
    assert end.value.code == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "Permission denied" in report["failures"]["a.png"]
    (tmp_path / "out2").mkdir(mode=0o500)
    with pytest.raises(SystemExit) as end:
        main(["folder", str(tmp_path / "in"), str(tmp_path / "out2"), "--quiet"])
    assert end.value.code == 2
