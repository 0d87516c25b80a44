"""Padding and concatenation of channels-last tensors, with their own gradients on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cgan.cpu_autograd import concatenate, reflect_pad
from cgan.networks import PatchDiscriminator, UNet

LAYOUTS = [torch.channels_last, torch.contiguous_format]
SHAPES = [(1, 1, 2, 2), (2, 3, 2, 5), (1, 2, 5, 2), (2, 2, 3, 3), (2, 3, 4, 6)]

sides = st.integers(2, 9)
layouts = st.sampled_from(LAYOUTS)
counts, channels, seeds = st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1)


def random_tensor(
    shape: tuple[int, ...], layout: torch.memory_format, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Random values in a memory format, with gradients."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return values.contiguous(memory_format=layout).requires_grad_()


def steps_back(output: Tensor) -> set[str]:
    """Names of all steps of the backward pass."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None:
            seen.add(node.name())
            waiting += [following for following, _ in node.next_functions]
    return seen


def torch_pad(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


def torch_concatenate(x: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([x, skip], dim=1)


def assert_equal_gradients(
    ours: Callable[..., Tensor], torch_s: Callable[..., Tensor], inputs: list[Tensor], seed: int
) -> None:
    """Values, gradients and second gradients of a nonlinear function of the outputs."""

    def derivatives(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        copies = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
        output = function(*copies)
        weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(seed))
        first = torch.autograd.grad((output.pow(3) * weights).sum(), copies, create_graph=True)
        second = torch.autograd.grad(torch.stack([gradient.square().sum() for gradient in first]).sum(), copies)
        return output, *first, *second

    output, *found = derivatives(ours)
    expected_output, *expected = derivatives(torch_s)
    assert torch.equal(output, expected_output)
    for gradient, other in zip(found, expected, strict=True):
        assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-4)


# padding


@given(counts, channels, sides, sides, layouts, seeds)
def test_reflect_pad_is_torch_s_reflect_padding(
    count: int, channels: int, height: int, width: int, layout: torch.memory_format, seed: int
) -> None:
    assert_equal_gradients(
        reflect_pad, torch_pad, [random_tensor((count, channels, height, width), layout, seed)], seed
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.slow
def test_gradients_of_reflect_pad_are_its_derivatives(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x = random_tensor(shape, layout, dtype=torch.float64)
    assert torch.autograd.gradcheck(reflect_pad, x)
    assert torch.autograd.gradgradcheck(reflect_pad, x)


@pytest.mark.parametrize("gradient", ["expanded", "contiguous", "sliced"])
def test_reflect_pad_takes_a_gradient_of_any_layout(gradient: str) -> None:
    ours, torch_s = (random_tensor((2, 3, 4, 5), torch.channels_last) for _ in range(2))
    g = {
        "expanded": torch.ones(()).expand(2, 3, 6, 7),
        "contiguous": torch.arange(252.0).view(2, 3, 6, 7),
        "sliced": torch.arange(504.0).view(2, 6, 6, 7)[:, ::2],
    }[gradient]
    before = g.clone()
    reflect_pad(ours).backward(g)
    torch_pad(torch_s).backward(g)
    assert torch.equal(g, before)
    assert ours.grad is not None and torch_s.grad is not None
    assert torch.equal(ours.grad, torch_s.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_reflect_pad_keeps_type_and_layout(dtype: torch.dtype) -> None:
    x = random_tensor((2, 4, 6, 8), torch.channels_last, dtype=dtype)
    padded = reflect_pad(x)
    assert torch.equal(padded, torch_pad(x))
    assert padded.dtype == dtype
    assert padded.is_contiguous(memory_format=torch.channels_last)


def test_only_channels_last_tensors_take_their_own_way() -> None:
    slow, fast = (random_tensor((2, 3, 4, 4), layout) for layout in LAYOUTS)
    own = {"_ReflectPadBackward", "_DenseGradientBackward"}
    assert steps_back(reflect_pad(slow)) | steps_back(concatenate(slow, fast)) > own
    assert not own & (steps_back(reflect_pad(fast)) | steps_back(concatenate(fast, slow)))


def test_torch_compile_sees_torch_s_own_operations() -> None:
    x = random_tensor((2, 3, 4, 4), torch.channels_last)
    pad, join = (torch.compile(function, backend="eager") for function in (reflect_pad, concatenate))
    padded, joined = pad(x), join(x, x)
    assert torch.equal(padded, torch_pad(x))
    assert torch.equal(joined, torch_concatenate(x, x))
    own = {"ReflectionPad2DBackward0", "CatBackward0", "torch::autograd::AccumulateGrad"}
    assert steps_back(padded) | steps_back(joined) == own


# concatenation


@given(counts, channels, channels, sides, sides, layouts, layouts, seeds)
def test_concatenate_is_torch_s_concatenation(
    count: int, first: int, second: int, height: int, width: int, layout: Any, other_layout: Any, seed: int
) -> None:
    x = random_tensor((count, first, height, width), layout, seed)
    skip = random_tensor((count, second, height, width), other_layout, seed + 1)
    assert_equal_gradients(concatenate, torch_concatenate, [x, skip], seed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.slow
def test_gradients_of_concatenate_are_its_derivatives(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x, skip = (random_tensor(shape, layout, seed, torch.float64) for seed in range(2))
    assert torch.autograd.gradcheck(concatenate, (x, skip))
    assert torch.autograd.gradgradcheck(concatenate, (x, skip))


def test_the_gradient_before_a_concatenation_is_dense() -> None:
    seen: list[Tensor] = []
    leaf, skip = (random_tensor((2, 3, 4, 4), torch.channels_last, seed) for seed in range(2))
    x = leaf * 1
    x.register_hook(lambda gradient: seen.append(gradient))
    (concatenate(x, skip) * random_tensor((2, 6, 4, 4), torch.channels_last)).sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_concatenate_needs_no_gradient() -> None:
    x, skip = (random_tensor((2, 3, 4, 4), torch.channels_last, seed).detach() for seed in range(2))
    assert torch.equal(concatenate(x, skip), torch_concatenate(x, skip))
    assert not concatenate(x, skip).requires_grad


# whole networks


@pytest.mark.parametrize(
    "build", [lambda: UNet(4, 1, 2), lambda: UNet(4, 1, 2, 2, 3), lambda: PatchDiscriminator(4, 2)]
)
def test_the_layout_of_the_memory_does_not_change_what_a_network_learns(build: Callable[[], nn.Module]) -> None:
    found = []
    for layout in LAYOUTS:
        torch.manual_seed(0)
        network = build().double().to(memory_format=layout)
        x = random_tensor((2, 4, 32, 32), layout, dtype=torch.float64)
        logits = network(x)
        assert (layout == torch.channels_last) == ("_ReflectPadBackward" in steps_back(logits))
        (gradient,) = torch.autograd.grad(logits.square().mean(), x, create_graph=True)
        loss = logits.mean() + gradient.square().sum()
        found.append([logits, gradient, *torch.autograd.grad(loss, list(network.parameters()))])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)
