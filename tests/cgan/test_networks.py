"""The networks: sizes of the original report, shapes, wiring, spectral norm."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cgan.config import DiscriminatorName, LossSpace, TrainConfig
from cgan.networks import (
    DenseDiscriminator,
    GaussianBlur,
    Generator,
    PatchDiscriminator,
    ReflectConv2d,
    UNet,
    build_discriminator,
    build_generator,
    conv_block,
    count_parameters,
    down_block,
    up_block,
)
from cgan.spec import COLOR_SPACES, ColorSpaceName

REPORT_TOTALS = {"unet": 29_279_268, "patch": 20_494_884, "dense": 20_759_077}
"""Parameters of the generator for RGB and a discriminator together."""

GENERATOR_PARAMETERS = {"rgb": 14_639_267, "hsv": 14_639_202, "ycbcr": 14_639_202}
"""65 fewer for two outputs: 64 weights and a bias of the head."""

DISCRIMINATOR_PARAMETERS = {
    "unet": {4: 14_640_001, 3: 14_639_713},
    "patch": {4: 5_855_617, 3: 5_855_041},
    "dense": {4: 6_119_810, 3: 6_119_234},
}
"""By channels of the input: the first 3x3 convolution has 9 weights fewer for each of its 32 or 64 outputs."""


REPORTED = ("unet", "patch", "dense")
"""The discriminators of the original report; tests/cgan/test_projected.py has the other one."""


def seeded(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def judge(name: str, **options: Any) -> nn.Module:
    """A discriminator of width 2 for RGB photos of 32 pixels."""
    network = build_discriminator(TrainConfig(**{"discriminator": name, "width": 2, "size": 32, **options}))
    assert network is not None
    return network


# parameters


@pytest.mark.parametrize(
    ("color_space", "loss_space"),
    [*((space, "native") for space in COLOR_SPACES), ("hsv", "rgb"), ("ycbcr", "rgb")],
)
@pytest.mark.parametrize("name", REPORTED)
def test_the_networks_have_the_parameters_of_the_report(
    color_space: ColorSpaceName, loss_space: LossSpace, name: DiscriminatorName
) -> None:
    config = TrainConfig(color_space=color_space, discriminator=name, loss_space=loss_space)
    with torch.device("meta"):
        generator, discriminator = build_generator(config), build_discriminator(config)
    assert discriminator is not None
    found = count_parameters(generator), count_parameters(discriminator)
    channels = 4 if "rgb" in (color_space, loss_space) else 3
    assert found == (GENERATOR_PARAMETERS[color_space], DISCRIMINATOR_PARAMETERS[name][channels])
    if color_space == "rgb":
        assert sum(found) == REPORT_TOTALS[name]


def convolution(channels_in: int, channels_out: int, side: int) -> int:
    """Weights of a convolution without bias and of the batch norm after it."""
    return channels_in * channels_out * side**2 + 2 * channels_out


def unet_parameters(channels_in: int, channels_out: int, width: int, blocks: int, scales: int) -> int:
    """The U-Net counted from the original report's description, with further conv blocks at each scale."""

    def conv_blocks(first: int, channels: int) -> int:
        return convolution(first, channels, 3) + (blocks - 1) * convolution(channels, channels, 3)

    widths = [width * 2**scale for scale in range(scales)]
    total = conv_blocks(channels_in, width) + conv_blocks(widths[-1], widths[-1])
    for channels in widths[:-1]:
        total += convolution(channels, 2 * channels, 4) + conv_blocks(2 * channels, 2 * channels)
        total += convolution(4 * channels, channels, 4) + conv_blocks(channels, channels)
    return total + 2 * width * channels_out + channels_out


@pytest.mark.parametrize("scales", [2, 3, 4, 5])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_and_scales_change_the_parameters_as_described(blocks: int, scales: int) -> None:
    assert unet_parameters(1, 3, 32, 1, 5) == GENERATOR_PARAMETERS["rgb"]
    with torch.device("meta"):
        found = count_parameters(UNet(4, 1, 6, blocks, scales))
    assert found == unet_parameters(4, 1, 6, blocks, scales)


def test_options_reach_the_network_that_they_are_about() -> None:
    config = TrainConfig(width=2, blocks=3, discriminator_width=5, discriminator_scales=3, discriminator_blocks=2)
    discriminator = build_discriminator(config)
    assert discriminator is not None
    assert count_parameters(build_generator(config)) == unet_parameters(1, 3, 2, 3, 5)
    assert count_parameters(discriminator) == unet_parameters(4, 1, 5, 2, 3)


@pytest.mark.parametrize("name", REPORTED)
def test_the_discriminator_has_as_many_blocks_as_asked_for(name: str) -> None:
    counts = [count_parameters(judge(name, discriminator_blocks=blocks)) for blocks in (1, 2, 3)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


@pytest.mark.parametrize("name", REPORTED)
def test_the_width_of_the_discriminator_is_the_generator_s_unless_given(name: str) -> None:
    narrow, same, wide = (count_parameters(judge(name, discriminator_width=width)) for width in (0, 2, 4))
    assert narrow == same < wide
    assert count_parameters(judge(name, width=4)) == wide


def test_without_a_discriminator_there_is_no_network() -> None:
    assert build_discriminator(TrainConfig(discriminator="none")) is None


def test_frozen_parameters_are_counted_too() -> None:
    layer = nn.Linear(3, 5)
    layer.bias.requires_grad_(False)
    assert count_parameters(layer) == 20


def test_one_block_a_scale_has_the_tensors_of_older_checkpoints() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    block = ["0.weight", *(f"1.{name}" for name in norm)]
    scale = [*block, *(f"3.{name}" for name in block)]
    scales = [f"{side}.{i}.{name}" for side in ("downs", "ups") for i in range(4) for name in scale]
    outer = [f"{part}.{name}" for part in ("stem", "bottleneck") for name in block]
    expected = {f"body.{name}" for name in (*scales, *outer, "head.weight", "head.bias")}
    assert Generator(width=2).state_dict().keys() == expected
    assert Generator(width=2, input_blur=1.5).state_dict().keys() == expected
    assert Generator(width=2, blocks=2).state_dict().keys() > expected


# the blur


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_the_blur_is_a_gaussian(sigma: float) -> None:
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    blurred = GaussianBlur(sigma)(point)[0, 0]
    distances = torch.arange(41) - 20.0
    gaussian = torch.exp(-distances.square() / (2 * sigma**2)) * (distances.abs() <= math.ceil(3 * sigma))
    gaussian /= gaussian.sum()
    assert torch.allclose(blurred, gaussian[:, None] * gaussian, atol=1e-7)


@pytest.mark.parametrize("size", [(16, 16), (16, 80), (33, 2)])
def test_the_blur_keeps_size_and_flat_photos(size: tuple[int, int]) -> None:
    flat = torch.full((2, 1, *size), 0.7)
    assert torch.allclose(GaussianBlur(8.0)(flat), flat, atol=1e-6)


@torch.no_grad()
def test_the_generator_sees_a_photo_through_its_blur() -> None:
    torch.manual_seed(0)
    plain, blurring = Generator(width=2).eval(), Generator(width=2, input_blur=2.0).eval()
    blurring.load_state_dict(plain.state_dict())
    gray = seeded(2, 1, 48, 32)
    assert torch.equal(blurring(gray), plain(GaussianBlur(2.0)(gray)))
    assert not torch.allclose(blurring(gray), plain(gray), atol=1e-3)


# logits


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("name", REPORTED)
@pytest.mark.parametrize("color_space", ["rgb", "hsv"])
def test_shapes_of_the_discriminators_logits(name: str, size: int, color_space: str) -> None:
    expected = {"unet": (2, 1, size, size), "patch": (2, 1, size // 8, size // 8), "dense": (2, 1)}[name]
    channels = 4 if color_space == "rgb" else 3
    assert judge(name, size=size, color_space=color_space)(seeded(2, channels, size, size)).shape == expected


def test_a_truncated_discriminator_judges_each_pixel_by_less_of_the_picture() -> None:
    reaches = []
    for scales in (2, 3, 4, 5):
        torch.manual_seed(0)
        x = seeded(2, 4, 96, 80).requires_grad_()
        logits = judge("unet", discriminator_scales=scales).eval()(x)
        assert logits.shape == (2, 1, 96, 80)
        (gradient,) = torch.autograd.grad(logits[0, 0, 0, 0], x)
        assert not gradient[1].any()
        reaches.append(int(gradient[0].abs().sum(dim=(0, 2)).nonzero().max()))
    assert reaches == sorted(set(reaches))


@pytest.mark.parametrize("blocks", [2, 3])
def test_more_blocks_keep_the_shape(blocks: int) -> None:
    torch.manual_seed(0)
    colors = Generator(2, 2, blocks)(seeded(2, 1, 32, 48))
    assert colors.shape == (2, 2, 32, 48)
    assert 0 <= colors.min() < colors.max() <= 1


def test_discriminators_give_logits_not_shares() -> None:
    for name in REPORTED:
        torch.manual_seed(0)
        logits = judge(name)(seeded(4, 4, 32, 32))
        assert logits.min() < 0 or logits.max() > 1


@pytest.mark.parametrize("size", [(16, 16), (16, 48), (32, 64), (160, 96)])
@pytest.mark.parametrize("training", [False, True])
def test_the_generator_takes_any_multiple_of_16(size: tuple[int, int], training: bool) -> None:
    colors = Generator(width=2).train(training)(seeded(2, 1, *size))
    assert colors.shape == (2, 3, *size)
    assert 0 <= colors.min() <= colors.max() <= 1
    assert colors.isfinite().all()


@pytest.mark.parametrize("size", [(15, 16), (16, 24), (100, 100), (1, 1), (33, 64)])
def test_the_generator_refuses_other_sizes_by_the_number(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"multiples of 16, found {size[0]} x {size[1]}"):
        Generator(width=2)(seeded(1, 1, *size))


def test_the_generator_predicts_as_many_channels_as_asked() -> None:
    assert Generator(channels_out=2, width=2)(seeded(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_blocks_keep_halve_and_double_the_size() -> None:
    x = seeded(2, 8, 16, 24)
    assert conv_block(8, 3)(x).shape == (2, 3, 16, 24)
    assert down_block(8)(x).shape == (2, 16, 8, 12)
    assert up_block(8)(x).shape == (2, 2, 32, 48)


def test_the_encoder_leaks_and_the_decoder_does_not() -> None:
    network = UNet(1, 3, 2)
    encoder = [*network.stem.modules(), *network.downs.modules(), *network.bottleneck.modules()]
    leaks = [module.negative_slope for module in encoder if isinstance(module, nn.LeakyReLU)]
    assert leaks == [0.2] * 10
    assert not any(isinstance(module, nn.ReLU) for module in encoder)
    assert sum(isinstance(module, nn.ReLU) for module in network.ups.modules()) == 8
    assert not any(isinstance(module, nn.LeakyReLU) for module in network.ups.modules())


def test_the_u_net_is_wired_as_in_the_report() -> None:
    torch.manual_seed(0)
    network = UNet(1, 3, 2).eval()
    x = seeded(2, 1, 32, 48).requires_grad_()
    encoder = [network.stem(x)]
    for down in network.downs:
        encoder.append(down(encoder[-1]))
    assert [tuple(scale.shape[1:]) for scale in encoder] == [
        *((2, 32, 48), (4, 16, 24), (8, 8, 12)),
        *((16, 4, 6), (32, 2, 3)),
    ]
    up5, up4, up3, up2 = network.ups
    decoded = up5(torch.cat([network.bottleneck(encoder[4]), encoder[4]], 1))
    decoded = up4(torch.cat([decoded, encoder[3]], 1))
    decoded = up3(torch.cat([decoded, encoder[2]], 1))
    decoded = up2(torch.cat([decoded, encoder[1]], 1))
    expected = network.head(torch.cat([decoded, encoder[0]], 1))
    assert torch.allclose(network(x), expected, atol=1e-6)
    network(x).sum().backward()
    assert x.grad is not None and (x.grad != 0).all()  # the whole picture reaches the logits


def test_a_flat_picture_stays_flat_up_to_the_border() -> None:
    layer = ReflectConv2d(2, 3)
    out = layer(torch.full((1, 2, 5, 7), 0.6))
    assert torch.allclose(out, out[:, :, :1, :1].expand_as(out), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (5, 1)])
def test_a_side_of_one_pixel_is_repeated(height: int, width: int) -> None:
    torch.manual_seed(0)
    layer = ReflectConv2d(2, 3)
    x = seeded(2, 2, height, width)
    rows = [0, 0, 0] if height == 1 else [1, *range(height), height - 2]
    columns = [0, 0, 0] if width == 1 else [1, *range(width), width - 2]
    expected = F.conv2d(x[:, :, rows][:, :, :, columns], layer.weight)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert expected.shape == (2, 3, height, width)


@pytest.mark.parametrize("build", [lambda: Generator(width=16), lambda: DenseDiscriminator(4, 16, 64)])
def test_weights_start_as_torch_draws_them(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    for module in build().modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.weight.numel() > 2000:
            fan_in = module.weight[0].numel()  # torch counts the second axis, also where it is the output's
            assert module.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


def test_equal_seeds_give_equal_weights() -> None:
    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        logits: torch.Tensor = PatchDiscriminator(4, 2)(seeded(1, 4, 32, 32))
        return logits

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


# discriminators without batch norm


@pytest.mark.parametrize("name", REPORTED)
@pytest.mark.parametrize("spectral", [False, True])
def test_without_batch_norm_the_rest_of_a_batch_does_not_matter(name: str, spectral: bool) -> None:
    torch.manual_seed(0)
    x = seeded(3, 4, 32, 32)
    alone = {}
    for norm in ("batch", "none"):
        network = judge(name, discriminator_norm=norm, spectral_norm=spectral).train()
        if spectral:  # each pass in training moves the estimate of the norm
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                    layer.parametrizations.weight[0].eval()  # type: ignore[union-attr, index]
        with torch.no_grad():
            alone[norm] = torch.allclose(network(x)[:1], network(x[:1]), atol=1e-5)
    assert alone == {"batch": False, "none": True}


@pytest.mark.parametrize("name", REPORTED)
def test_biases_stand_in_for_batch_norm(name: str) -> None:
    with_norm, without = judge(name), judge(name, discriminator_norm="none")
    norms = [module for module in with_norm.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(isinstance(module, nn.BatchNorm2d) for module in without.modules())
    assert count_parameters(without) == count_parameters(with_norm) - sum(norm.num_features for norm in norms)
    layers = [module for module in without.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    assert all(layer.bias is not None for layer in layers)


# spectral norm


@pytest.mark.parametrize("name", REPORTED)
@pytest.mark.slow
def test_spectral_norm_bounds_every_weight_matrix(name: str) -> None:
    torch.manual_seed(0)
    network = judge(name, spectral_norm=True)
    x = seeded(2, 4, 32, 32)
    with torch.no_grad():
        for _ in range(150):  # one power iteration each
            network(x)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    assert len(layers) == {"unet": 19, "patch": 8, "dense": 10}[name]
    for layer in layers:
        # torch keeps a transposed convolution's outputs on the second axis
        matrix = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
        assert torch.linalg.matrix_norm(matrix.flatten(1), ord=2).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", REPORTED)
def test_spectral_norm_keeps_the_parameters_and_renames_the_weights(name: str) -> None:
    plain, normed = judge(name), judge(name, spectral_norm=True)
    assert count_parameters(normed) == count_parameters(plain)
    layers = [
        key for key, module in plain.named_modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    tensors = ("original", "0._u", "0._v")
    added = {f"{layer}.parametrizations.weight.{tensor}" for layer in layers for tensor in tensors}
    removed = {f"{layer}.weight" for layer in layers}
    assert normed.state_dict().keys() == (plain.state_dict().keys() - removed) | added


def test_spectral_norm_is_part_of_the_gradient() -> None:
    # A weight's scale has no effect, so its gradient is perpendicular to it.
    torch.manual_seed(0)
    network = judge("patch", spectral_norm=True)
    network(seeded(2, 4, 32, 32)).square().mean().backward()
    for name, weights in network.named_parameters():
        if name.endswith("original"):
            assert weights.grad is not None
            cosine = torch.cosine_similarity(weights.grad.flatten(), weights.flatten(), dim=0)
            assert weights.grad.any()
            assert abs(cosine.item()) < 1e-2
