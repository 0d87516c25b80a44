"""The arithmetic of the page gives the numbers of infer.photo."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgan import __version__
from infer.photo.chroma import with_strength
from infer.photo.color_spread import spread_of
from infer.photo.decode import Photo, model_input, photo_of
from infer.photo.encode import rgb_image
from infer.photo.mark import Mark, marked
from tests.web.conftest import WEB

RENDER = 16
SIZES = ((16, 16), (1, 1), (7, 3), (40, 9), (9, 70), (33, 50), (131, 97), (200, 35))
"""Widths and heights: the render size, smaller than it, longer in one direction or both, with and without reduction."""

STRENGTHS = (1.0, 0.0, 0.6, 2.0)


def colors(seed: int) -> np.ndarray:
    """An output of the network, 3 x RENDER x RENDER, smooth and strongly coloured."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((RENDER, RENDER), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)


def photo(size: tuple[int, int]) -> Photo:
    """Blotches and noise."""
    random = np.random.default_rng(size[0])
    blotches = Image.fromarray(random.integers(0, 256, (3, 4), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = random.integers(-20, 21, size[::-1])
    return photo_of(Image.fromarray(np.clip(np.asarray(blotches) + noise, 0, 255).astype(np.uint8)))


def toned(cast: tuple[int, int, int], color: int) -> Image.Image:
    """An RGBA ramp with a cast and some colour."""
    random = np.random.default_rng(0)
    values = np.linspace(0, 255, 256)[:, None] + np.array(cast) + random.normal(0, color + 1e-6, (256, 3))
    rgb = np.clip(values, 0, 255).astype(np.uint8).reshape(16, 16, 3)
    image = Image.fromarray(rgb)
    image.putalpha(255)
    return image


@pytest.fixture(scope="module")
def computed(node: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page computes."""
    script = tmp_path_factory.mktemp("numbers") / "numbers.mjs"
    source = Path(__file__).with_name("numbers.ts")
    version = f'CGAN_VERSION:"{__version__}"'
    options = ("--platform=node", "--transform.define", version, "--file", str(script))
    subprocess.run(["node_modules/.bin/rolldown", str(source), *options], cwd=WEB, check=True, capture_output=True)
    cases = [
        {
            "width": size[0],
            "height": size[1],
            "luma": photo(size).luma.ravel().tolist(),
            "render": RENDER,
            "rgb": colors(seed).ravel().tolist(),
            "strength": strength,
        }
        for seed, (size, strength) in enumerate(every_case())
    ]
    spreads = [np.asarray(toned(*ramp)).ravel().tolist() for ramp in RAMPS]
    given = {"cases": cases, "spreads": spreads, "mark": {"model": "a.onnx", "digest": "0" * 64}}
    done = subprocess.run([node, script], input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


RAMPS = (((0, 0, 0), 0), ((30, 10, -20), 0), ((0, 0, 0), 12), ((30, 10, -20), 40))


def every_case() -> list[tuple[tuple[int, int], float]]:
    return [(size, strength) for size in SIZES for strength in STRENGTHS]


def test_the_input_of_the_model_is_that_of_a_folder_run(computed: dict[str, Any]) -> None:
    for (size, _), result in zip(every_case(), computed["cases"], strict=True):
        assert result["gray"] == model_input(photo(size), RENDER, RENDER).ravel().tolist(), size


def test_colours_are_those_of_a_folder_run(computed: dict[str, Any]) -> None:
    for seed, ((size, strength), result) in enumerate(zip(every_case(), computed["cases"], strict=True)):
        gray = model_input(photo(size), RENDER, RENDER)
        expected = rgb_image(photo(size), gray, with_strength(colors(seed), strength))
        found = np.array(result["pixels"], np.int16).reshape(*size[::-1], 4)
        off = np.abs(found[..., :3] - np.asarray(expected, np.int16))
        assert off.max() <= 1, (size, strength)
        assert (off > 0).mean() < 0.002, (size, strength)  # values halfway between two levels
        assert (found[..., 3] == 255).all()


def test_colour_photos_are_told_from_toned_ones(computed: dict[str, Any]) -> None:
    expected = [spread_of(toned(*ramp)) for ramp in RAMPS]
    assert computed["spreads"] == pytest.approx(expected, abs=0.6)  # the page does not round chroma
    assert [value > 4.5 for value in computed["spreads"]] == [False, False, True, True]


def test_licences_of_what_is_bundled_are_named() -> None:
    named = (WEB / "public" / "licences.txt").read_text()
    assert all(name in named for name in json.loads((WEB / "package.json").read_text())["dependencies"])


def test_the_mark_is_that_of_a_folder_run(computed: dict[str, Any]) -> None:
    expected = marked(None, Mark("a.onnx", "0" * 64), []).decode()
    assert computed["mark"] == expected
