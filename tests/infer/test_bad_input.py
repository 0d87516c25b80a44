"""What bad input gets: one folder with a file of each kind, coloured by the command."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infer.cli import main

GRAY = np.random.default_rng(0).integers(0, 256, (33, 47), np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (33, 47, 4), np.uint8)

GOOD = {
    "gray.jpg",
    "progressive.jpg",
    "gray16.png",
    "gray16.tif",
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
}
BAD = {
    "empty.jpg": "the file is empty",
    "truncated.jpg": "truncated",
    "text.png": "not an image",
    "jpeg.png": "its content is JPEG but its name says PNG",
    "bomb.png": "the limit is",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all kinds, with links and special files beside them."""
    folder = tmp_path_factory.mktemp("hostile") / "in"
    (folder / "sub").mkdir(parents=True)
    gray, color = Image.fromarray(GRAY), Image.fromarray(COLOR)
    rgb = color.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [rgb.rotate(90)]}
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

    (folder / "empty.jpg").write_bytes(b"")
    content = (folder / "color.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
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
    assert report["passed_over"].keys() == {"loop", "pipe.png"}
    outputs = [path for path in out.rglob("*") if path.is_file() and path.name != "report.json"]
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
    assert "PermissionError" in report["failures"]["a.png"]
    (tmp_path / "out2").mkdir(mode=0o500)
    with pytest.raises(SystemExit) as end:
        main(["folder", str(tmp_path / "in"), str(tmp_path / "out2"), "--quiet"])
    assert end.value.code == 2
