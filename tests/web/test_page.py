"""The page in headless Chromium: photos in, coloured files out, offline, and accessible."""

import base64
import io
import mimetypes
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infer.cli import main
from infer.photo.mark import is_marked
from tests.conftest import Result
from tests.web.conftest import PATH, WEB, serving

pytestmark = pytest.mark.slow

LUMA = np.array((0.299, 0.587, 0.114))
SIZES = ((640, 427), (90, 300), (64, 64), (31, 20), (1500, 1100))


def picture(size: tuple[int, int]) -> Image.Image:
    """A gray photo: blotches with noise."""
    random = np.random.default_rng(size[0])
    blotches = Image.fromarray(random.integers(0, 256, (7, 9), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = random.integers(-9, 10, size[::-1])
    return Image.fromarray(np.clip(np.asarray(blotches) + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of gray PNGs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for size in SIZES:
        picture(size).save(folder / f"{size[0]}.png")
    return folder


def drop(page: Any, *paths: Path) -> None:
    """Drop files on the page."""
    data = page.evaluate_handle(
        """files => {
            const data = new DataTransfer();
            for (const { name, type, text } of files) {
                const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
                data.items.add(new File([bytes], name, { type }));
            }
            return data;
        }""",
        [
            {
                "name": path.name,
                "type": mimetypes.guess_type(path.name)[0] or "",
                "text": base64.b64encode(path.read_bytes()).decode(),
            }
            for path in paths
        ],
    )
    page.dispatch_event("main", "drop", {"dataTransfer": data})


def card(page: Any, name: str) -> Any:
    """The part of the page about a photo, once it is coloured or failed."""
    found = page.locator(".card", has=page.get_by_role("heading", name=name))
    found.locator("xpath=self::*[contains(@class, 'colored') or contains(@class, 'failed')]").wait_for()
    return found


def download(page: Any, photo: Any, kind: str) -> tuple[str, bytes]:
    """Name and content of a downloaded file."""
    with page.expect_download() as waiting:
        photo.get_by_role("button", name=f"Download {kind}").click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def set_strength(photo: Any, value: float) -> None:
    """Move the slider, and wait until the photo is shown so."""
    photo.get_by_label("Strength").fill(str(value))
    photo.locator("output", has_text=f"{value:.2f}").wait_for()
    photo.locator("xpath=self::*[not(@aria-busy = 'true')]").wait_for()


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((found - expected) ** 2).mean(), 1e-9)))


def test_pngs_are_those_of_a_folder_run(page: Any, photos: Path, invoke: Callable[..., Result]) -> None:
    sources = sorted(photos.iterdir())
    drop(page, *sources)
    for strength in (1, 0.4):
        target = photos.parent / f"colored-{strength}"
        options = ("--model", "flowers-int8", "--format", "png", "--strength", strength)
        assert invoke(main, "folder", photos, target, *options).code == 0
        for source in sources:
            photo = card(page, source.name)
            set_strength(photo, strength)
            name, content = download(page, photo, "PNG")
            assert name == f"{source.stem}-color.png"
            assert is_marked(content)
            found, expected = pixels(content), pixels((target / source.name).read_bytes())
            assert found.shape == expected.shape
            assert np.abs(found @ LUMA - expected @ LUMA).max() <= 1, source.name
            assert psnr(found, expected) > 45, source.name


def test_strength_divider_and_removal(page: Any, photos: Path) -> None:
    drop(page, photos / "640.png")
    photo = card(page, "640.png")
    shown = photo.locator(".after")

    def chroma() -> float:
        with Image.open(io.BytesIO(shown.screenshot())) as image:
            values = np.asarray(image.convert("RGB"), np.float64)
        return float((values.max(axis=2) - values.min(axis=2))[:, values.shape[1] * 3 // 4 :].mean())

    before = chroma()
    set_strength(photo, 2)
    strong = chroma()
    set_strength(photo, 0)
    gray = chroma()
    assert gray < 1 < before < strong
    divider = photo.get_by_role("slider", name="Gray photo up to this point")
    divider.focus()
    page.keyboard.press("End")
    assert photo.locator(".picture").evaluate("element => element.style.getPropertyValue('--divide')") == "100%"
    photo.get_by_role("button", name="Remove 640.png").press("Enter")
    assert page.locator(".card").count() == 0


def test_jpegs_are_marked_and_gray_results_are_not(page: Any, photos: Path) -> None:
    drop(page, photos / "640.png")
    photo = card(page, "640.png")
    name, content = download(page, photo, "JPEG")
    assert name == "640-color.jpg"
    assert is_marked(content)
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("JPEG", (640, 427))
        assert "xmp" in image.info
    set_strength(photo, 0)
    content = download(page, photo, "PNG")[1]
    assert not is_marked(content)
    assert np.ptp(pixels(content), axis=2).max() == 0


def test_what_is_special_about_a_photo(page: Any, tmp_path: Path) -> None:
    size = (120, 80)
    turned = Image.Exif()
    turned[0x0112] = 6
    colored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize(size)
    colored.save(tmp_path / "turned.jpg", exif=turned)
    clear = picture(size)
    clear.putalpha(Image.new("L", size, 128))
    clear.save(tmp_path / "clear.png")
    drop(page, tmp_path / "turned.jpg", tmp_path / "clear.png")
    assert card(page, "turned.jpg").get_by_text("colours of its own").is_visible()
    assert card(page, "turned.jpg").get_by_text("80 × 120").is_visible()
    photo = card(page, "clear.png")
    assert not photo.get_by_text("colours of its own").is_visible()
    assert not photo.get_by_role("button", name="Download JPEG").is_visible()
    with Image.open(io.BytesIO(download(page, photo, "PNG")[1])) as image:
        assert image.getchannel("A").getextrema() == (128, 128)


def test_each_failure_is_a_line_beside_the_photo(page: Any, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "damaged.jpg").write_bytes((photos / "64.png").read_bytes()[:99])
    picture((32, 32)).save(tmp_path / "scan.tif")
    Image.new("L", (16_385, 1)).save(tmp_path / "long.png")
    Image.new("1", (8193, 8193)).save(tmp_path / "large.png")
    reasons = {
        "notes.txt": "Not a photo",
        "empty.png": "The file is empty",
        "damaged.jpg": "This browser cannot read the photo",
        "scan.tif": "This browser cannot read the photo",
        "long.png": "Found 16,385 x 1 pixels, expected at most",
        "large.png": "Found 8,193 x 8,193 pixels, expected at most 67 megapixels",
    }
    drop(page, *(tmp_path / name for name in reasons), photos / "31.png")
    for name, reason in reasons.items():
        (text,) = card(page, name).locator(".problem").all_inner_texts()
        assert text.startswith(reason)
        assert "\n" not in text
    assert card(page, "31.png").get_by_role("button", name="Download PNG").is_visible()


def test_photos_are_chosen_and_pasted_and_examples_are_there(page: Any, photos: Path) -> None:
    page.locator("#chooser").set_input_files([photos / "31.png", photos / "64.png"])
    card(page, "64.png")
    page.evaluate(
        """bytes => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], "pasted.png", { type: "image/png" }));
            dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }""",
        list((photos / "31.png").read_bytes()),
    )
    card(page, "pasted.png")
    page.get_by_role("button", name="dandelions").click()
    assert "960 × 540" in card(page, "dandelions.jpg").inner_text()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_keys_open_the_chooser(page: Any, photos: Path, key: str) -> None:
    page.locator("#chooser").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press(key)
    chooser.value.set_files([photos / "31.png"])
    card(page, "31.png")


def test_photos_in_a_dropped_folder_are_taken(page: Any, tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    (folder / "below").mkdir(parents=True)
    for name in ("10.png", "9.png", "below/1.PNG", ".hidden.png"):
        picture((20, 20)).save(folder / name)
    (folder / "notes.txt").write_text("not a photo")
    (tmp_path / "empty").mkdir()
    protocol = page.context.new_cdp_session(page)
    for name in ("empty", "holiday"):
        data = {"items": [], "files": [str(tmp_path / name)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            protocol.send("Input.dispatchDragEvent", {"type": kind, "x": 100, "y": 100, "data": data})
        if name == "empty":
            page.get_by_role("status").get_by_text("Found no photo there").wait_for()
    for name in ("9.png", "10.png", "1.PNG"):
        card(page, name)
    assert page.locator(".card .name").all_inner_texts() == ["9.png", "10.png", "1.PNG"]


def test_cards_far_from_the_window_hold_no_pictures(page: Any, photos: Path) -> None:
    page.set_viewport_size({"width": 400, "height": 400})
    names = [f"{number}.png" for number in range(8)]
    for name in names:
        shutil.copy(photos / "90.png", photos / name)
    drop(page, *(photos / name for name in names))
    card(page, names[-1])
    for near, far in ((names[0], names[-1]), (names[-1], names[0])):
        card(page, near).scroll_into_view_if_needed()
        card(page, near).locator(".after[width]:not([width='0'])").wait_for(state="attached")
        card(page, far).locator(".after[width='0']").wait_for(state="attached")


def test_long_photos_are_not_higher_than_the_window(page: Any, tmp_path: Path) -> None:
    for name, size in (("high.png", (3, 3000)), ("wide.png", (3000, 3))):
        picture(size).save(tmp_path / name)
        drop(page, tmp_path / name)
        assert 90 < card(page, name).locator(".picture").bounding_box()["height"] < 900


def test_a_photo_that_is_gone_is_said_to_be(page: Any, photos: Path) -> None:
    page.locator("#chooser").set_input_files([photos / "64.png"])
    photo = card(page, "64.png")
    (photos / "64.png").unlink()
    photo.get_by_role("button", name="Download PNG").click()
    photo.get_by_text("The file was moved, changed or deleted after it was chosen").wait_for()


def test_it_works_offline_and_asks_no_other_host(page: Any, photos: Path, address: str) -> None:
    asked: list[tuple[str, str]] = []
    page.context.on("request", lambda request: asked.append((request.method, request.url)))
    page.get_by_text("Saved for use without a network").wait_for()
    page.context.set_offline(True)
    try:
        page.reload()
        drop(page, photos / "640.png")
        assert download(page, card(page, "640.png"), "PNG")[1]
        assert all(method == "GET" and url.startswith((address, "blob:")) for method, url in asked), asked
        other = page.context.new_page()
        for name, text in (("index.html", "Colour grayscale photos"), ("licences.txt", "MIT License")):
            other.goto(address + name)
            assert text in other.inner_text("body")
        other.close()
    finally:
        page.context.set_offline(False)


def test_a_newer_version_is_kept_whole(browser: Any, build: Path, tmp_path: Path) -> None:
    site = shutil.copytree(build / PATH, tmp_path / "site")
    for path in site.rglob("*"):
        os.utime(path, (1e9, 1e9))  # old files, which browsers keep without asking again
    with serving(site) as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.get_by_text("Saved for use without a network").wait_for()
        (script,) = site.glob("assets/index-*.js")
        script.rename(script.with_name("index-newer.js"))
        for name in ("index.html", "service-worker.js"):
            path = site / name
            text = path.read_text().replace(script.name, "index-newer.js")
            path.write_text(re.sub('VERSION = "[^"]*"', 'VERSION = "newer"', text))
            os.utime(path, (1.1e9, 1.1e9))
        page.reload()
        kept = page.evaluate(
            """async () => {
                for (;;) {
                    const name = (await caches.keys()).find((each) => each.endsWith("newer"));
                    const page = name && (await (await caches.open(name)).match("./"));
                    if (page) return page.text();
                    await new Promise((resolve) => setTimeout(resolve, 50));
                }
            }"""
        )
        assert "index-newer.js" in kept


def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_window(
    page: Any, photos: Path, tmp_path: Path
) -> None:
    page.evaluate((WEB / "node_modules/axe-core/axe.min.js").read_text())
    (tmp_path / "notes.txt").write_text("not a photo")
    for files in ((), (photos / "640.png", tmp_path / "notes.txt")):
        drop(page, *files)
        for path in files:
            card(page, path.name)
        for width, scheme in ((320, "light"), (1280, "dark")):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate("axe.run()")["violations"]
            assert not [(one["id"], one["nodes"]) for one in found if one["impact"] in ("serious", "critical")]
            edges = "[...document.querySelectorAll('button, p, span')].map(x => x.getBoundingClientRect().right)"
            assert max(page.evaluate(edges)) <= width - 16
