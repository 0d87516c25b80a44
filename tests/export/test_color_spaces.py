"""Generators of every colour space leave as gray in, RGB out."""

import colorsys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from cgan.config import TrainConfig
from cgan.errors import GateError
from cgan.networks import Generator, GrayToRGB, build_generator
from cgan.spec import COLOR_SPACES, LUMA_REC601, ColorSpaceName, ModelSpec
from cgan.training.checkpoint import load_generator, save_generator
from export.onnx_model import export_onnx
from export.verify import checkpoint_reference, verify


class Export(NamedTuple):
    """A generator of random weights on its way out."""

    generator: Generator
    spec: ModelSpec
    checkpoint: Path
    artefact: Path


def vivid_generator(config: TrainConfig) -> Generator:
    """Colours from end to end of their ranges, so that YCbCr leaves the gamut of RGB."""
    torch.manual_seed(0)
    generator = build_generator(config)
    with torch.no_grad():
        for seed in range(20):
            generator(random_gray(4, seed))
        generator.body.head.weight *= 8
    return generator.eval()


def random_gray(count: int, seed: int = 9) -> Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ColorSpaceName], Export]:
    """`exported(color_space)`: made on the first call; rgb has two blocks at each scale and a blur before them."""
    made: dict[str, Export] = {}

    def export(color_space: ColorSpaceName) -> Export:
        if color_space not in made:
            folder = tmp_path_factory.mktemp(color_space)
            changes: dict[str, Any] = {"blocks": 2, "input_blur": 1.5} if color_space == "rgb" else {}
            config = TrainConfig(width=4, size=32, color_space=color_space, **changes)
            generator = vivid_generator(config)
            spec = save_generator(folder / "last.safetensors", generator, config)
            export_onnx(generator, spec, folder / "model.onnx")
            made[color_space] = Export(generator, spec, folder / "last.safetensors", folder / "model.onnx")
        return made[color_space]

    return export


def run_onnx(artefact: Path, gray: Tensor) -> np.ndarray:
    session = ort.InferenceSession(artefact, providers=["CPUExecutionProvider"])
    (rgb,) = session.run(["rgb"], {"gray": gray.numpy()})
    return np.asarray(rgb)


@torch.no_grad()
def rgb_by_hand(color_space: ColorSpaceName, generator: Generator, gray: Tensor) -> np.ndarray:
    """The generator's colours as RGB, by Python's colorsys and by the numbers of JPEG's YCbCr."""
    colors: np.ndarray = generator(gray).double().numpy()
    if color_space == "rgb":
        return colors
    first, second, y = colors[:, 0], colors[:, 1], gray[:, 0].double().numpy()
    if color_space == "hsv":
        return np.stack(np.vectorize(colorsys.hsv_to_rgb)(first, second, y), axis=1)
    cb, cr = first - 0.5, second - 0.5
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=1).clip(0, 1)


# the wrapper


@pytest.mark.parametrize("color_space", COLOR_SPACES)
def test_the_wrapper_gives_rgb_for_gray(color_space: ColorSpaceName) -> None:
    generator = vivid_generator(TrainConfig(width=2, size=32, color_space=color_space))
    gray = random_gray(2)
    with torch.no_grad():
        rgb = GrayToRGB(generator, color_space)(gray)
    assert rgb.shape == (2, 3, 32, 32)
    assert 0 <= rgb.min() < rgb.max() <= 1
    assert np.abs(rgb.numpy() - rgb_by_hand(color_space, generator, gray)).max() < 1e-5
    if color_space == "rgb":
        assert torch.equal(rgb, generator(gray))


def test_colours_beyond_rgb_are_clamped() -> None:
    generator = vivid_generator(TrainConfig(width=2, size=32, color_space="ycbcr"))
    with torch.no_grad():
        rgb = GrayToRGB(generator, "ycbcr")(random_gray(2))
    assert (rgb == 0).any() and (rgb == 1).any()


# the exported file


@pytest.mark.parametrize("color_space", COLOR_SPACES)
@pytest.mark.slow
def test_the_exported_file_passes_the_gate(
    exported: Callable[[ColorSpaceName], Export], color_space: ColorSpaceName
) -> None:
    export = exported(color_space)
    numbers = verify(export.artefact, checkpoint_reference(export.checkpoint)).to_json()
    assert numbers["verified"] is True
    assert numbers["max_difference"] < 1e-4
    metadata = {entry.key: entry.value for entry in onnx.load(export.artefact).metadata_props}
    found = ModelSpec.from_metadata(metadata, export.artefact)
    more = (2, 1.5) if color_space == "rgb" else (1, 0)
    assert (found.color_space, found.blocks, found.input_blur) == (color_space, *more)


@pytest.mark.parametrize("color_space", COLOR_SPACES)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.slow
def test_the_exported_file_gives_rgb_in_0_to_1(
    exported: Callable[[ColorSpaceName], Export], color_space: ColorSpaceName, count: int
) -> None:
    export, gray = exported(color_space), random_gray(count)
    found = run_onnx(export.artefact, gray)
    generator, spec = load_generator(export.checkpoint)
    with torch.no_grad():
        expected = GrayToRGB(generator, spec.color_space)(gray).numpy()
    assert found.shape == (count, 3, 32, 32)
    assert found.dtype == np.float32
    assert 0 <= found.min() < found.max() <= 1
    assert found.std() > 0.1  # the comparison is not one of flat gray with flat gray
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - rgb_by_hand(color_space, generator, gray)).max() < 1e-5


def test_what_gray_means_in_each_colour_space(exported: Callable[[ColorSpaceName], Export]) -> None:
    gray = random_gray(2)
    value = run_onnx(exported("hsv").artefact, gray).max(axis=1)
    assert np.abs(value - gray[:, 0].numpy()).max() < 1e-6
    rgb = run_onnx(exported("ycbcr").artefact, gray)
    inside = ((rgb > 0) & (rgb < 1)).all(axis=1)
    luma = np.tensordot(rgb, LUMA_REC601, axes=(1, 0))
    assert inside.sum() > 100
    assert np.abs(luma - gray[:, 0].numpy())[inside].max() < 1e-5


@pytest.mark.parametrize(("trained", "claimed"), [("hsv", "ycbcr"), ("ycbcr", "hsv")])
def test_the_gate_notices_another_colour_space(
    exported: Callable[[ColorSpaceName], Export], tmp_path: Path, trained: ColorSpaceName, claimed: ColorSpaceName
) -> None:
    export = exported(trained)
    export_onnx(export.generator, replace(export.spec, color_space=claimed), tmp_path / "model.onnx")
    with pytest.raises(GateError, match=r"model\.onnx has another contract than .*: color_space differ"):
        verify(tmp_path / "model.onnx", checkpoint_reference(export.checkpoint))


def test_the_gate_notices_a_foreign_graph_under_the_right_contract(
    exported: Callable[[ColorSpaceName], Export], tmp_path: Path
) -> None:
    hsv, ycbcr = exported("hsv"), exported("ycbcr")
    model = onnx.load(hsv.artefact)
    onnx.helper.set_model_props(model, ycbcr.spec.to_metadata())
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(GateError, match="is not the trained model"):
        verify(tmp_path / "model.onnx", checkpoint_reference(ycbcr.checkpoint))
