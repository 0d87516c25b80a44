"""Luma and colour conversions against Pillow and colorsys, gradients, training targets, their way through ONNX."""

import colorsys
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cgan.color import (
    COLOR_TARGETS,
    hsv_to_rgb,
    luma_uint8,
    rgb_to_hsv,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)
from cgan.spec import COLOR_SPACES, LUMA_FIXED_POINT, LUMA_REC601, ColorSpaceName

Conversion = Callable[[Tensor], Tensor]

CONVERSIONS = (rgb_to_ycbcr, ycbcr_to_rgb, rgb_to_hsv, hsv_to_rgb)
LEVEL = 1 / 255

unit = st.floats(0, 1, width=32)
colors_in_range = st.tuples(unit, unit, unit)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pixels(*colors: tuple[float, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Colours side by side in one picture, 1 x 3 x 1 x colours."""
    return torch.tensor(colors, dtype=dtype).T[None, :, None]


def photo() -> NDArray[np.uint8]:
    """H x W x 3: every combination of six levels that hold the extremes, the grays, and random colours."""
    levels = np.array([0, 1, 127, 128, 254, 255], dtype=np.uint8)
    extremes = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    grays = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    random = np.random.default_rng(0).integers(0, 256, (2**16 - 216 - 256, 3), dtype=np.uint8)
    return np.concatenate([extremes, grays, random]).reshape(256, 256, 3)


def photo_batch() -> Tensor:
    """`photo` as 1 x 3 x H x W uint8."""
    return torch.from_numpy(photo()).permute(2, 0, 1)[None]


def in_mode(picture: NDArray[np.uint8], mode: str, target: str) -> NDArray[np.float32]:
    """Pillow's conversion, C x H x W in [0, 1]."""
    found = np.asarray(Image.fromarray(picture, mode=mode).convert(target), np.float32) / 255
    return np.atleast_3d(found).transpose(2, 0, 1).astype(np.float32)


def hue_distance(a: Tensor, b: Tensor) -> Tensor:
    """Along the colour circle, in turns."""
    return ((a - b + 0.5) % 1 - 0.5).abs()


@pytest.mark.parametrize("high_bits", range(8))
def test_luma_of_every_colour_is_that_of_pillow(high_bits: int) -> None:
    codes = np.arange(2**21, dtype=np.uint32) + high_bits * 2**21
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1).astype(np.uint8).reshape(1024, 2048, 3)
    expected = np.asarray(Image.fromarray(colors).convert("L"))
    found = luma_uint8(torch.from_numpy(colors).permute(2, 0, 1))
    assert found.shape == (1, 1024, 2048)
    assert found.dtype == torch.uint8
    assert np.array_equal(found[0].numpy(), expected)


def test_luma_uint8_takes_batches() -> None:
    photos = torch.randint(0, 256, (5, 2, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = luma_uint8(photos)
    assert found.shape == (5, 2, 1, 4, 6)
    assert torch.equal(found[3, 1], luma_uint8(photos[3, 1]))


def test_fixed_point_weights_sum_to_one() -> None:
    assert LUMA_FIXED_POINT == (19595, 38470, 7471)
    assert sum(LUMA_FIXED_POINT) == 2**16


def test_luma_weights_are_those_of_the_contract() -> None:
    rgb = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact = torch.einsum("c,chw->hw", torch.tensor(LUMA_REC601, dtype=torch.float64), rgb.double())
    assert (luma_uint8(rgb)[0].double() - exact).abs().max() <= 0.5 + 255 / 2**16


def test_ycbcr_is_that_of_pillow() -> None:
    found = rgb_to_ycbcr(photo_batch().float() / 255)[0].numpy()
    difference = np.abs(found - in_mode(photo(), "RGB", "YCbCr")).max(axis=(1, 2))
    assert difference[0] <= 1.01 * LEVEL  # Pillow's fixed point has 6 bits, and truncates
    assert difference[1:].max() <= 0.55 * LEVEL  # with gray at 128/255 it would be 0.98
    rounded_luma = in_mode(photo(), "RGB", "L")
    assert np.abs(found[:1] - rounded_luma).max() <= 0.505 * LEVEL


def test_rgb_of_ycbcr_is_that_of_pillow() -> None:
    """Photo as YCbCr codes, many of them out of gamut, where Pillow clips."""
    codes = photo_batch().float() / 255
    codes[:, 1:] += 0.5 - 128 / 255  # files store gray as 128
    found = ycbcr_to_rgb(codes)[0].clamp(0, 1).numpy()
    assert np.abs(found - in_mode(photo(), "YCbCr", "RGB")).max() <= LEVEL


def test_ycbcr_has_the_coefficients_of_jfif() -> None:
    primaries = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)
    published = [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
    found = rgb_to_ycbcr(primaries).view(3, 3).T - torch.tensor([[0], [0.5], [0.5]], dtype=torch.float64)
    assert torch.allclose(found, torch.tensor(published, dtype=torch.float64), atol=5e-5, rtol=0)

    neutral = torch.tensor([0, 0.5, 0.5], dtype=torch.float64).view(3, 1, 1)
    published = [[1, 0, 1.402], [1, -0.34414, -0.71414], [1, 1.772, 0]]
    found = ycbcr_to_rgb(primaries + neutral).view(3, 3).T
    assert torch.allclose(found, torch.tensor(published, dtype=torch.float64), atol=5e-6, rtol=0)


def test_ycbcr_of_every_corner_is_within_range_and_touches_it() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).view(8, 3, 1, 1)
    found = rgb_to_ycbcr(corners)
    assert found.amin(dim=(0, 2, 3)).tolist() == [0, 0, 0]
    assert found.amax(dim=(0, 2, 3)).tolist() == [1, 1, 1]


@given(colors_in_range)
def test_ycbcr_round_trips(values: tuple[float, ...]) -> None:
    start = pixels(values)
    assert torch.allclose(ycbcr_to_rgb(rgb_to_ycbcr(start)), start, atol=1e-14, rtol=0)
    assert torch.allclose(rgb_to_ycbcr(ycbcr_to_rgb(start)), start, atol=1e-14, rtol=0)  # out of gamut too


def test_hsv_of_a_photo_is_that_of_colorsys() -> None:
    colors = (photo_batch().float() / 255)[..., ::16, ::4]
    expected = torch.tensor([colorsys.rgb_to_hsv(*rgb) for rgb in colors.flatten(2)[0].T.tolist()])
    assert (rgb_to_hsv(colors).flatten(2)[0].T - expected).abs().max() <= 1e-6


def test_rgb_of_hsv_is_that_of_colorsys() -> None:
    hues = torch.cat([torch.arange(13) / 12, torch.arange(7) / 6 + 1e-6, seeded(20)]).clamp(0, 1)
    grid = torch.cartesian_prod(hues, torch.linspace(0, 1, 6), torch.linspace(0, 1, 6))
    expected = torch.tensor([colorsys.hsv_to_rgb(*hsv) for hsv in grid.tolist()])
    assert (hsv_to_rgb(grid.T[:, None])[:, 0].T - expected).abs().max() <= 1e-6


@given(colors_in_range)
def test_hsv_of_any_colour_is_that_of_colorsys(values: tuple[float, ...]) -> None:
    found, expected = rgb_to_hsv(pixels(values)).flatten(), torch.tensor(colorsys.rgb_to_hsv(*values))
    assert hue_distance(found[0], expected[0]) <= 1e-6
    assert torch.allclose(found[1:], expected[1:].double(), atol=1e-6, rtol=0)
    assert 0 <= found[0] < 1
    assert torch.allclose(hsv_to_rgb(pixels(values)).flatten().float(), torch.tensor(colorsys.hsv_to_rgb(*values)))


@given(colors_in_range)
def test_rgb_round_trips_through_hsv(values: tuple[float, ...]) -> None:
    assert torch.allclose(hsv_to_rgb(rgb_to_hsv(pixels(values))), pixels(values), atol=1e-14, rtol=0)


@given(unit, st.floats(0.01, 1), st.floats(0.01, 1))
def test_hsv_round_trips_through_rgb(hue: float, saturation: float, value: float) -> None:
    start = pixels((hue, saturation, value))
    difference = rgb_to_hsv(hsv_to_rgb(start)) - start
    assert hue_distance(difference[:, 0], torch.zeros(1)).max() <= 1e-11
    assert difference[:, 1:].abs().max() <= 1e-11


def test_hue_one_is_hue_zero() -> None:
    saturation_value = seeded(1, 2, 4, 4)
    first, last = (torch.cat([torch.full((1, 1, 4, 4), hue), saturation_value], dim=1) for hue in (0.0, 1.0))
    assert torch.equal(hsv_to_rgb(first), hsv_to_rgb(last))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hue_that_rounds_to_one_wraps_to_zero(dtype: torch.dtype) -> None:
    for blue in (1e-30, 1e-18, 1e-9, 1e-8, 3e-7):
        hue = rgb_to_hsv(pixels((1, 0, blue), dtype=dtype))[0, 0].item()
        assert 0 <= hue < 1
        assert min(hue, 1 - hue) == pytest.approx(blue / 6, abs=1e-7)


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_conversions_take_any_leading_dimensions_and_memory_format(convert: Conversion) -> None:
    batch = seeded(2, 5, 3, 4, 6)
    found = convert(batch)
    assert found.shape == batch.shape
    assert found.dtype == batch.dtype
    assert torch.equal(convert(batch[1, 2]), found[1, 2])
    assert torch.equal(convert(batch[1].contiguous(memory_format=torch.channels_last)), found[1])


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_conversions_refuse_anything_but_three_channels(convert: Conversion) -> None:
    with pytest.raises(ValueError, match="unpack"):
        convert(seeded(2, 6, 4, 4))


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_gradients_are_those_of_finite_differences(convert: Conversion) -> None:
    colors = seeded(1, 3, 4, 8, seed=1).double()
    if convert is rgb_to_hsv:  # its kinks are ties and the step of hue at red
        low, middle, high = colors.sort(dim=1).values.unbind(dim=1)
        assert torch.minimum(middle - low, high - middle).min() > 1e-4
    assert torch.autograd.gradcheck(convert, colors.requires_grad_())


KINKS = [
    *[(level, level, level) for level in (0.0, 0.25, 1.0)],
    *[(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0)],
    *[(0.5, 0.5, 0.25), (0.5, 0.25, 0.25), (0.25, 0.5, 0.5), (0.25, 0.25, 0.5), (0.5, 0.25, 0.5), (0.25, 0.5, 0.25)],
    *[(sixths / 6, saturation, value) for sixths in range(7) for saturation in (0.0, 1.0) for value in (0.0, 1.0)],
    *[(tiny, 0.0, 0.0) for tiny in (1e-45, 1e-40, 1.2e-38, 1e-30)],
    *[(0.0, tiny, 2 * tiny) for tiny in (1e-45, 1e-40, 1.2e-38, 1e-30)],
    *[(1.0, 1.0, 1 - 2**-24), (1.0, 1 - 2**-24, 1.0), (1 - 2**-24, 1.0, 1.0), (5e-324, 0.0, 0.0), (0.0, 0.0, 1e-308)],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("convert", CONVERSIONS)
def test_values_and_gradients_are_finite_at_the_kinks(convert: Conversion, dtype: torch.dtype) -> None:
    kinks = pixels(*KINKS, dtype=dtype).requires_grad_()
    for channel in convert(kinks).unbind(dim=1):
        assert channel.isfinite().all()
        (gradient,) = torch.autograd.grad(channel.sum(), kinks, retain_graph=True)
        broken = [KINKS[i] for i in (~gradient.isfinite()).any(dim=1).flatten().nonzero().flatten()]
        assert not broken


def test_hue_and_saturation_of_gray_are_zero_without_gradient() -> None:
    grays = pixels(*[(level, level, level) for level in (0.0, 0.3, 1.0)]).requires_grad_()
    hue, saturation, value = rgb_to_hsv(grays).unbind(dim=1)
    for channel in (hue, saturation):
        assert not channel.any()
        assert not torch.autograd.grad(channel.sum(), grays, retain_graph=True)[0].any()
    (gradient,) = torch.autograd.grad(value.sum(), grays)
    assert torch.allclose(gradient, torch.full_like(gradient, 1 / 3))


def test_targets_are_the_colour_spaces_of_the_contract() -> None:
    assert tuple(COLOR_TARGETS) == COLOR_SPACES
    assert {name: space.name for name, space in COLOR_TARGETS.items()} == {name: name for name in COLOR_SPACES}
    assert {name: space.channels for name, space in COLOR_TARGETS.items()} == {"rgb": 3, "hsv": 2, "ycbcr": 2}


@pytest.mark.parametrize("name", COLOR_SPACES)
def test_gray_and_target_have_the_shapes_and_ranges_of_the_network(name: ColorSpaceName) -> None:
    space = COLOR_TARGETS[name]
    for tensor, channels in zip(space.split(photo_batch().expand(2, -1, -1, -1)), (1, space.channels), strict=True):
        assert tensor.shape == (2, channels, 256, 256)
        assert tensor.dtype == torch.float32
        assert tensor.min() >= 0
        assert tensor.max() <= 1


@pytest.mark.parametrize("name", COLOR_SPACES)
def test_gray_is_luma_or_value(name: ColorSpaceName) -> None:
    gray, _ = COLOR_TARGETS[name].split(photo_batch())
    expected = photo().max(axis=-1)[None] / np.float32(255) if name == "hsv" else in_mode(photo(), "RGB", "L")
    assert np.array_equal(gray[0].numpy(), expected)


@pytest.mark.parametrize(
    ("name", "rgb", "target"),
    [
        ("rgb", (255, 51, 0), (1, 0.2, 0)),
        ("hsv", (0, 255, 0), (1 / 3, 1)),
        ("hsv", (204, 102, 204), (5 / 6, 0.5)),
        ("ycbcr", (0, 0, 255), (1, 0.5 - 0.114 / 1.402)),
        ("ycbcr", (255, 0, 0), (0.5 - 0.299 / 1.772, 1)),
        ("ycbcr", (0, 255, 0), (0.5 - 0.587 / 1.772, 0.5 - 0.587 / 1.402)),
    ],
)
def test_target_of_a_known_colour(name: ColorSpaceName, rgb: tuple[float, ...], target: tuple[float, ...]) -> None:
    _, found = COLOR_TARGETS[name].split(pixels(rgb, dtype=torch.uint8))
    assert found.flatten().tolist() == pytest.approx(target, abs=1e-6)


# Rounded luma shifts R, G and B alike, by half a level and the little by which Pillow's weights are rounded.
@pytest.mark.parametrize(("name", "levels"), [("rgb", 0), ("hsv", 2e-4), ("ycbcr", 0.505)])
def test_a_photo_comes_back_from_gray_and_target(name: ColorSpaceName, levels: float) -> None:
    space = COLOR_TARGETS[name]
    found = space.to_rgb(*space.split(photo_batch()))
    assert found.dtype == torch.float32
    assert (found - photo_batch().float() / 255).abs().max() <= levels * LEVEL
    assert ((255 * found).round() - photo_batch().float()).abs().max() <= 1


@pytest.mark.parametrize("name", COLOR_SPACES)
def test_a_gray_photo_stays_gray(name: ColorSpaceName) -> None:
    grays = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(-1, 3, -1, -1)
    space = COLOR_TARGETS[name]
    gray, target = space.split(grays)
    assert torch.equal(space.to_rgb(gray, target), grays.float() / 255)
    neutral = {
        "rgb": gray.expand(-1, 3, -1, -1),
        "hsv": torch.zeros(1, 2, 16, 16),
        "ycbcr": torch.full_like(target, 0.5),
    }
    assert torch.equal(target, neutral[name])


@pytest.mark.parametrize("name", ["hsv", "ycbcr"])
def test_gray_keeps_its_meaning_whatever_is_predicted(name: ColorSpaceName) -> None:
    """The largest channel of the RGB picture is V, and its luma is Y, out of gamut too."""
    gray, color = seeded(2, 1, 8, 8).double(), seeded(2, 2, 8, 8, seed=1).double()
    rgb = COLOR_TARGETS[name].to_rgb(gray, color)
    luma = torch.einsum("c,nchw->nhw", torch.tensor(LUMA_REC601, dtype=torch.float64), rgb)[:, None]
    assert torch.allclose(rgb.amax(dim=1, keepdim=True) if name == "hsv" else luma, gray, atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", COLOR_SPACES)
def test_a_loss_in_rgb_reaches_the_prediction(name: ColorSpaceName) -> None:
    space = COLOR_TARGETS[name]
    gray, color = seeded(1, 1, 4, 4).double(), seeded(1, space.channels, 4, 4, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda prediction: space.to_rgb(gray, prediction), color)


def test_ycbcr_is_not_clamped_and_learns_out_of_gamut() -> None:
    gray, color = torch.ones(1, 1, 1, 1), torch.ones(1, 2, 1, 1, requires_grad=True)
    rgb = COLOR_TARGETS["ycbcr"].to_rgb(gray, color)
    assert rgb[0, 0].item() == pytest.approx(1.701)
    assert rgb[0, 2].item() == pytest.approx(1.886)
    (gradient,) = torch.autograd.grad(rgb[:, ::2].sum(), color)
    assert gradient.flatten().tolist() == pytest.approx([1.772, 1.402])


@pytest.mark.parametrize("name", ["hsv", "ycbcr"])
def test_a_prediction_in_half_precision_is_converted_in_that_of_gray(name: ColorSpaceName) -> None:
    gray, color = seeded(1, 1, 8, 8), seeded(1, 2, 8, 8, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = COLOR_TARGETS[name].to_rgb(gray, color)
    assert torch.equal(found, COLOR_TARGETS[name].to_rgb(gray, color.float()))


class ToRGB(nn.Module):
    """`ColorSpace.to_rgb` as the exporter takes it: a module, of gray and colour stacked to N x 3 x H x W."""

    def __init__(self, name: ColorSpaceName) -> None:
        super().__init__()
        self.to_rgb = COLOR_TARGETS[name].to_rgb

    def forward(self, stacked: Tensor) -> Tensor:
        return self.to_rgb(stacked[:, :1], stacked[:, 1:])


@pytest.mark.parametrize("name", ["hsv", "ycbcr"])
@pytest.mark.slow
def test_onnx_computes_the_same_at_any_batch_and_size(name: ColorSpaceName) -> None:
    module = ToRGB(name).eval()
    program = torch.onnx.export(
        module,
        (seeded(2, 3, 16, 32),),
        dynamo=True,
        opset_version=20,
        input_names=["stacked"],
        dynamic_shapes={"stacked": {dim: torch.export.Dim(f"d{dim}", min=1) for dim in (0, 2, 3)}},
        verbose=False,
    )
    assert program is not None
    session = ort.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    hues = torch.cat([torch.arange(7) / 6 + offset for offset in (-1e-7, 0, 1e-7)]).clamp(0, 1)
    grid = torch.cartesian_prod(torch.linspace(0, 1, 9), hues, torch.linspace(0, 1, 9)).T[None, :, None]
    for stacked in (grid.contiguous(), seeded(5, 3, 7, 1), seeded(1, 3, 1, 50)):
        (found,) = session.run(None, {"stacked": stacked.numpy()})
        assert found.shape == stacked.shape
        assert np.abs(found - module(stacked).numpy()).max() < 1e-5
