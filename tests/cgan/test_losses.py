"""The losses against values computed by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cgan.losses import adversarial_loss, discriminator_accuracy, discriminator_loss, reconstruction_loss

logit = st.floats(-20, 20, width=32)


def cross_entropy(logit: float, target: float) -> float:
    share = 1 / (1 + math.exp(-logit))
    return -target * math.log(share) - (1 - target) * math.log(1 - share)


def test_an_undecided_discriminator_loses_ln_2() -> None:
    zeros = torch.zeros(2, 1, 4, 4)
    assert discriminator_loss(zeros, zeros, 0.9).item() == pytest.approx(math.log(2))
    assert adversarial_loss(zeros).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("real_label", [0.6, 0.9, 1.0])
def test_discriminator_loss_by_hand(real_label: float) -> None:
    found = discriminator_loss(torch.tensor([2.0, -1.0]), torch.tensor([[-3.0], [0.5]]), real_label)
    real = (cross_entropy(2, real_label) + cross_entropy(-1, real_label)) / 2
    fake = (cross_entropy(-3, 1 - real_label) + cross_entropy(0.5, 1 - real_label)) / 2
    assert found.item() == pytest.approx((real + fake) / 2, rel=1e-5)


def test_both_sides_weigh_the_same_however_many_logits_they_have() -> None:
    few, many = torch.tensor([1.0]), torch.full((100,), 1.0)
    assert discriminator_loss(few, many, 0.9).item() == pytest.approx(discriminator_loss(many, few, 0.9).item())


@given(st.floats(-6, 6, width=32))
def test_with_smoothing_the_best_logits_are_those_of_the_labels(value: float) -> None:
    best = math.log(9)  # the share 0.9
    least = discriminator_loss(torch.tensor([best]), torch.tensor([-best]), 0.9)
    assert least <= discriminator_loss(torch.tensor([value]), torch.tensor([-best]), 0.9) + 1e-6
    assert least <= discriminator_loss(torch.tensor([best]), torch.tensor([value]), 0.9) + 1e-6


@given(st.lists(logit, min_size=1, max_size=8))
def test_adversarial_loss_by_hand(logits: list[float]) -> None:
    expected = sum(math.log1p(math.exp(-value)) for value in logits) / len(logits)
    assert adversarial_loss(torch.tensor(logits)).item() == pytest.approx(expected, rel=1e-5, abs=1e-8)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8))
def test_the_generator_is_driven_to_higher_logits(logits: list[float]) -> None:
    values = torch.tensor(logits, requires_grad=True)
    adversarial_loss(values).backward()
    assert values.grad is not None and (values.grad < 0).all()


def test_reconstruction_loss_is_the_mean_absolute_difference() -> None:
    truth = torch.tensor([[0.0, 0.5], [1.0, 0.25]])
    assert reconstruction_loss(torch.tensor([[0.1, 0.5], [0.4, 0.45]]), truth).item() == pytest.approx(0.225)
    assert reconstruction_loss(truth, truth).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    large = torch.tensor([60000.0], dtype=dtype)
    for loss in (discriminator_loss(-large, large, 0.9), adversarial_loss(-large), reconstruction_loss(large, -large)):
        assert loss.dtype == torch.float32
        assert loss.isfinite()
    # 0.00033540..., which neither half type holds to six digits
    assert adversarial_loss(torch.full((3,), 8.0, dtype=dtype)).item() == pytest.approx(math.log1p(math.exp(-8)))


def test_accuracy_counts_the_right_side_of_zero() -> None:
    real, fake = torch.tensor([1.0, 2.0, -1.0, 0.0]), torch.tensor([[-1.0, 3.0]])
    assert discriminator_accuracy(real, fake).item() == (0.5 + 0.5) / 2
    assert discriminator_accuracy(torch.ones(3), -torch.ones(3)).item() == 1
    assert discriminator_accuracy(-torch.ones(3), torch.ones(3)).item() == 0
    assert discriminator_accuracy(torch.zeros(3), torch.zeros(3)).item() == 0.5  # no opinion is not a right one


@given(st.lists(logit, min_size=1), st.lists(logit, min_size=1))
def test_accuracy_is_a_share(real: list[float], fake: list[float]) -> None:
    assert 0 <= discriminator_accuracy(torch.tensor(real), torch.tensor(fake)).item() <= 1
