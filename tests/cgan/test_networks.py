"""The networks: sizes of the report, shapes, padding."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cgan.networks import (
    DISCRIMINATORS,
    DenseDiscriminator,
    Generator,
    PatchDiscriminator,
    ReflectConv2d,
    UNet,
    build_discriminator,
    conv_block,
    count_parameters,
    down_block,
    reflect_pad,
    up_block,
)

GENERATOR_PARAMETERS = 14_639_267


def seeded(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_the_generator_has_the_parameters_of_the_report() -> None:
    with torch.device("meta"):
        assert count_parameters(Generator()) == GENERATOR_PARAMETERS


@pytest.mark.parametrize(
    ("name", "parameters", "with_generator"),
    [
        ("unet", 14_640_001, 29_279_268),
        ("patch", 5_855_617, 20_494_884),
        ("dense", 6_119_810, 20_759_077),
    ],
)
def test_the_discriminators_have_the_parameters_of_the_report(name: str, parameters: int, with_generator: int) -> None:
    with torch.device("meta"):
        found = count_parameters(build_discriminator(name, 4, 32, 128))
    assert found == parameters
    assert found + GENERATOR_PARAMETERS == with_generator


def test_frozen_parameters_are_not_counted() -> None:
    layer = nn.Linear(3, 5)
    assert count_parameters(layer) == 20
    layer.bias.requires_grad_(False)
    assert count_parameters(layer) == 15


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_shapes_of_the_discriminators_logits(name: str, size: int) -> None:
    expected = {"unet": (2, 1, size, size), "patch": (2, 1, size // 8, size // 8), "dense": (2, 1)}[name]
    assert build_discriminator(name, 4, 2, size)(seeded(2, 4, size, size)).shape == expected


def test_discriminators_give_logits_not_shares() -> None:
    for name in DISCRIMINATORS:
        torch.manual_seed(0)
        network = build_discriminator(name, 4, 2, 32)
        logits = network(seeded(4, 4, 32, 32))
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


sides = st.integers(2, 9)


@given(st.integers(1, 3), st.integers(1, 5), sides, sides, st.booleans(), st.integers(0, 2**32 - 1))
def test_reflect_pad_is_torch_s_reflect_padding(
    count: int, channels: int, height: int, width: int, channels_last: bool, seed: int
) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(count, channels, height, width, generator=random).contiguous(memory_format=layout)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    padded, expected = reflect_pad(ours), F.pad(theirs, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(padded, expected)
    weights = torch.rand(padded.shape, generator=random)
    (padded * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)


def test_reflect_pad_keeps_channels_last() -> None:
    x = seeded(2, 4, 6, 8).contiguous(memory_format=torch.channels_last)
    assert reflect_pad(x).is_contiguous(memory_format=torch.channels_last)


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
        return PatchDiscriminator(4, 2)(seeded(1, 4, 32, 32))

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
