"""Photos one by one from Python: the same pictures as a folder run makes."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from cgan.errors import UserError
from infer import Colored, Colorizer
from infer.cli import main
from infer.photo.decode import PhotoError
from tests.conftest import exit_code
from tests.infer.photo.icc_profiles import PROPHOTO
from tests.infer.pictures import content_of, png_of


@pytest.fixture(scope="module")
def colorizer(exported_onnx: Path) -> Iterator[Colorizer]:
    with Colorizer(exported_onnx, device="cpu") as made:
        yield made


@pytest.fixture
def gray_image() -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 15), np.uint8))
    return small.resize((150, 120), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("lenient", [False, True])
def test_a_photo_that_lacks_pixels_is_refused(
    colorizer: Colorizer, gray_image: Image.Image, monkeypatch: pytest.MonkeyPatch, lenient: bool
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    whole = content_of(gray_image, "JPEG", quality=95)
    cut = whole[: len(whole) * 2 // 3] + b"\xff\xd9"
    with pytest.raises(PhotoError, match=r"^damaged: the file ends after [0-9]+% of its rows$"):
        colorizer.color_photo(cut)
    with pytest.raises(OSError, match="the file ends after"):
        colorizer.color(Image.open(io.BytesIO(cut)))
    colored = colorizer.color_photo(whole[:-2])
    assert colored.notes == ("the end marker is missing; every pixel is there",)
    assert colored.content == colorizer.color_photo(whole).content
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


def luma_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), np.int16)


def test_an_image_keeps_its_size_and_its_luma(colorizer: Colorizer, gray_image: Image.Image) -> None:
    colored = colorizer.color(gray_image)
    assert (colored.mode, colored.size) == ("RGB", gray_image.size)
    assert np.abs(luma_of(colored) - luma_of(gray_image)).max() <= 1
    assert np.ptp(np.asarray(colored, np.int16), axis=2).max() > 2
    assert gray_image.mode == "L"


def test_both_ways_and_a_folder_run_give_the_same_picture(
    colorizer: Colorizer, gray_image: Image.Image, exported_onnx: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.png"
    gray_image.save(path)
    command = ["folder", tmp_path / "in", tmp_path / "out", "--model", exported_onnx, "--device", "cpu", "--quiet"]
    assert exit_code(main, *command) == 0
    of_run = (tmp_path / "out" / "a.png").read_bytes()
    assert colorizer.color_photo(path).content == of_run
    assert colorizer.color_photo(path.read_bytes()).content == of_run
    with Image.open(io.BytesIO(of_run)) as image:
        assert np.array_equal(np.asarray(colorizer.color(gray_image)), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_images_of_all_modes(colorizer: Colorizer, gray_image: Image.Image, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gray_image).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(gray_image, np.float32) / 255)
    elif mode == "I":
        image = Image.fromarray(np.asarray(gray_image).astype(np.int32) * 257)
    else:
        image = gray_image.convert(mode)
    colored = colorizer.color(image)
    assert (colored.mode, colored.size) == ("RGBA" if mode.endswith("A") else "RGB", image.size)
    expected = luma_of(image.convert("RGB")) if mode in ("1", "CMYK") else luma_of(gray_image)
    assert np.abs(luma_of(colored.convert("RGB")) - expected).max() <= 1


def test_transparency_and_info_stay(colorizer: Colorizer, gray_image: Image.Image) -> None:
    gray_image.putalpha(Image.new("L", gray_image.size, 77))
    rgb_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray_image.info = {"dpi": (300, 300), "icc_profile": rgb_profile, "transparency": 3, "compression": "group4"}
    colored = colorizer.color(gray_image)
    assert colored.getchannel("A").getextrema() == (77, 77)
    assert colored.info == {"dpi": (300, 300), "icc_profile": rgb_profile}
    gray_image.info["icc_profile"] = rgb_profile[:16] + b"GRAY" + rgb_profile[20:]
    assert colorizer.color(gray_image).info == {"dpi": (300, 300)}


def test_profiles_are_converted_or_kept(colorizer: Colorizer, gray_image: Image.Image) -> None:
    image = Image.merge("RGB", [gray_image, gray_image.rotate(180), gray_image])
    image.info["icc_profile"] = PROPHOTO
    content = content_of(image, "PNG", icc_profile=PROPHOTO)
    kept, converted = (
        (
            colorizer.color(image, profile=use),
            Image.open(io.BytesIO(colorizer.color_photo(content, profile=use).content)),
        )
        for use in ("keep", "convert")
    )
    for one in kept:
        assert one.info["icc_profile"] == PROPHOTO
        assert np.abs(luma_of(one) - luma_of(image)).max() <= 1
    srgb = ImageCms.profileToProfile(
        image, ImageCms.ImageCmsProfile(io.BytesIO(PROPHOTO)), ImageCms.createProfile("sRGB"), ImageCms.Intent(1)
    )
    assert srgb is not None
    assert np.abs(luma_of(srgb) - luma_of(image)).max() > 5
    for one in converted:
        assert "icc_profile" not in one.info
        assert np.abs(luma_of(one) - luma_of(srgb)).max() <= 2
    for call in (lambda: colorizer.color(image, profile="drop"), lambda: colorizer.color_photo(content, profile="")):
        with pytest.raises(UserError, match=r"^profile: found '(drop)?', expected one of convert, keep$"):
            call()


def test_a_photo_of_16_bits_keeps_them_and_notes_are_told(colorizer: Colorizer, gray_image: Image.Image) -> None:
    deep = np.asarray(gray_image).astype(np.uint16)[..., None] * 257 + 3
    colored = colorizer.color_photo(png_of(deep, 0))
    assert colored.content[24] == 16  # bits a channel, in a PNG's header
    assert colored.notes == ()
    assert "written with 8 bits" in str(colorizer.color_photo(png_of(deep, 0), "jpg").notes)


def test_format_and_quality_change_the_file(colorizer: Colorizer, gray_image: Image.Image) -> None:
    photo = content_of(gray_image, "BMP")
    formats = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}
    for name, found in formats.items():
        with Image.open(io.BytesIO(colorizer.color_photo(photo, name).content)) as image:
            assert (image.format, image.size) == (found, gray_image.size)
    assert len(colorizer.color_photo(photo, "jpg", quality=30).content) < len(
        colorizer.color_photo(photo, "jpg").content
    )


def test_strength_scales_the_colours(colorizer: Colorizer, gray_image: Image.Image) -> None:
    photo = content_of(gray_image, "PNG")
    spreads = []
    for strength in (0, 0.5, 1, 2):
        image = colorizer.color(gray_image, strength=strength)
        colored = colorizer.color_photo(photo, strength=strength)
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(colored.content))))
        spreads.append(float(np.ptp(np.asarray(image, np.int16), axis=2).mean()))
    assert spreads[0] == 0
    assert spreads == sorted(set(spreads))
    for refused in (-1, 2.5, float("nan")):
        with pytest.raises(UserError, match="strength: found"):
            colorizer.color(gray_image, strength=refused)
        with pytest.raises(UserError, match="strength: found"):
            colorizer.color_photo(photo, strength=refused)


def test_a_colour_photo_is_told_from_a_gray_one(colorizer: Colorizer, photo_folder: Path) -> None:
    colored = colorizer.color_photo(next(photo_folder.rglob("*.jpg")))
    assert colored.was_color
    assert "a colour photo, coloured anew" in colored.notes
    with Image.open(next(photo_folder.rglob("*.png"))) as image:
        gray = colorizer.color_photo(content_of(image.convert("L").convert("RGB"), "JPEG"))
    assert (gray.was_color, gray.notes) == (False, ())


def test_images_that_cannot_be_meant_are_refused(colorizer: Colorizer, gray_image: Image.Image) -> None:
    assert colorizer.color(gray_image.convert("LA").convert("La")).mode == "RGBA"
    with pytest.raises(PhotoError, match="empty"):
        colorizer.color(Image.new("L", (0, 5)))
    for mode, values in (("F", np.array([[0, 60]], np.float32)), ("I", np.array([[0, 70_000]], np.int32))):
        with pytest.raises(PhotoError, match=rf"stretched to the range of gray, expected 0 to \d+ in mode {mode}"):
            colorizer.color(Image.fromarray(values))


def test_options_reach_the_backend(exported_onnx: Path, trained_run: Path, gray_image: Image.Image) -> None:
    with Colorizer(exported_onnx, backend="openvino", device="cpu", threads=1) as other:
        assert other.backend.engine.startswith("OpenVINO")
        assert (other.backend.device, other.backend.threads) == ("cpu", 1)
    with Colorizer(str(trained_run), device="cpu") as other:
        assert "PyTorch" in other.backend.engine
    for options, message in (
        ({"backend": "nope"}, "backend: found 'nope'"),
        ({"device": "cuda"}, "^device cuda: found no NVIDIA GPU"),
        ({"backend": "tensorrt"}, "found an .onnx file and backend tensorrt.*or use backend ort$"),
        ({"device": "gpu"}, "device: found 'gpu'"),
        ({"threads": -1}, "threads: found -1"),
        ({"backend": "openvino", "provider": "cpu"}, "provider"),
    ):
        with pytest.raises(UserError, match=message):
            Colorizer(exported_onnx, **options)


def test_the_default_is_the_package_s_whatever_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowers").mkdir()
    monkeypatch.chdir(tmp_path)
    with Colorizer() as colorizer:
        assert colorizer.backend.path.is_file()


def test_what_is_no_photo_is_refused(colorizer: Colorizer, tmp_path: Path, gray_image: Image.Image) -> None:
    photo = content_of(gray_image, "PNG")
    for array in (np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(TypeError, match=r"found an array \(4, 4.* of .*expected a PIL.Image.Image or an H x W"):
            colorizer.color(array)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="found bytes, expected a PIL"):
        colorizer.color(photo)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="found BytesIO, expected bytes or a path"):
        colorizer.color_photo(io.BytesIO(photo))  # type: ignore[arg-type]
    for options, message in (
        ({"format": "gif"}, "expected one of jpg, png, webp, tiff, jpeg, tif$"),
        ({"quality": 101}, "expected 1 to 100"),
    ):
        with pytest.raises(UserError, match=message):
            colorizer.color_photo(photo, **options)
    with pytest.raises(PhotoError, match=r"the limit is 100; raise max_pixels$"):
        colorizer.color_photo(photo, max_pixels=100)
    with pytest.raises(PhotoError, match=r"not done after 1e-09 s; raise timeout$"):
        colorizer.color_photo(photo, timeout=1e-9)
    with pytest.raises(PhotoError, match="empty"):
        colorizer.color_photo(b"")
    with pytest.raises(PhotoError, match="not an image"):
        colorizer.color_photo(b"no photo")
    with pytest.raises(FileNotFoundError):
        colorizer.color_photo(str(tmp_path / "nothing.png"))
    with pytest.raises(UserError, match="found no such file"):
        Colorizer("roses")


def test_threads_share_one(colorizer: Colorizer, gray_image: Image.Image) -> None:
    images = [gray_image.rotate(90 * i, expand=True) for i in range(8)]
    expected = [np.asarray(colorizer.color(image)) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(colorizer.color, images))
    assert all(np.array_equal(np.asarray(a), b) for a, b in zip(found, expected, strict=True))


def test_the_packaged_model_is_the_default_and_is_closed(gray_image: Image.Image) -> None:
    colorizer = Colorizer()
    assert colorizer.backend.path.name == "flowers.onnx"
    assert colorizer.color(gray_image).mode == "RGB"
    colorizer.close()
    with pytest.raises(RuntimeError, match="is closed"):
        colorizer.color(gray_image)


# batches


def test_batches_give_the_same_pictures_with_one_call_of_the_network_each(
    colorizer: Colorizer, gray_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [gray_image.resize((40 + 7 * i, 50)).rotate(90 * i) for i in range(5)]
    expected = [np.asarray(colorizer.color(image), np.int16) for image in images]
    files = [content_of(image, "PNG") for image in images]
    sizes: list[int] = []
    run = colorizer.backend.run
    monkeypatch.setattr(colorizer.backend, "run", lambda gray: sizes.append(len(gray)) or run(gray))  # type: ignore[func-returns-value]
    found = list(colorizer.color_batch(iter(images), batch_size=2))
    colored = list(colorizer.color_photos(iter(files), "png", batch_size=3))
    assert sizes == [2, 2, 1, 3, 2]
    for image, one, other in zip(expected, found, colored, strict=True):
        assert np.abs(np.asarray(one, np.int16) - image).max() <= 1
        assert np.abs(np.asarray(Image.open(io.BytesIO(other.content)), np.int16) - image).max() <= 1
    assert list(colorizer.color_batch([])) == []


def test_a_batch_takes_no_more_photos_than_it_needs(colorizer: Colorizer, gray_image: Image.Image) -> None:
    taken: list[int] = []

    def images() -> Iterator[Image.Image]:
        for number in range(9):
            taken.append(number)
            yield gray_image

    colored = colorizer.color_batch(images(), batch_size=2)
    assert taken == []
    next(colored)
    assert taken == [0, 1]
    list(colorizer.color_batch(images()))
    for size in (0, -1):
        with pytest.raises(UserError, match=f"batch_size: found {size}, expected 1 or more"):
            colorizer.color_batch([], batch_size=size)
        with pytest.raises(UserError, match="batch_size"):
            colorizer.color_photos([], batch_size=size)


def test_a_photo_that_fails_ends_its_batch(colorizer: Colorizer, gray_image: Image.Image) -> None:
    photo = content_of(gray_image, "PNG")
    colored = colorizer.color_photos([photo, b"no photo"], batch_size=1)
    assert isinstance(next(colored), Colored)
    with pytest.raises(PhotoError, match="not an image"):
        next(colored)


def test_arrays_are_images(colorizer: Colorizer, gray_image: Image.Image) -> None:
    gray = np.asarray(gray_image)
    expected = np.asarray(colorizer.color(gray_image))
    assert np.array_equal(np.asarray(colorizer.color(gray)), expected)
    deep = np.asarray(colorizer.color(gray.astype(np.uint16) * 257))  # the network's input is rounded in another way
    difference = np.abs(deep.astype(np.int16) - expected)
    assert difference.max() <= 6  # 2 or 3, by the processor
    assert difference.mean() < 0.25


def test_names_of_formats(colorizer: Colorizer, gray_image: Image.Image) -> None:
    photo = content_of(gray_image, "PNG")
    for name, other in (("jpeg", "jpg"), ("JPG", "jpg"), ("TIF", "tiff"), ("Png", "png")):
        assert colorizer.color_photo(photo, name).content == colorizer.color_photo(photo, other).content


def test_representations_are_short(colorizer: Colorizer, gray_image: Image.Image) -> None:
    colored = colorizer.color_photo(content_of(gray_image, "PNG"))
    size = len(colored.content)
    assert repr(colored) == f"Colored({size} bytes, notes=(), was_color=False)"
    name = colorizer.backend.path.name
    assert repr(colorizer) == f"Colorizer({name!r}, {colorizer.backend.engine})"
    other = Colorizer()
    other.close()
    assert repr(other) == "Colorizer('flowers.onnx', closed)"
