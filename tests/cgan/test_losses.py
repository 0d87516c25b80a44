"""The losses against values computed by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cgan.losses import (
    GAN_LOSSES,
    bce_discriminator,
    bce_generator,
    color_weights,
    discriminator_accuracy,
    hinge_discriminator,
    perceptual_loss,
    reconstruction_loss,
    score_generator,
    wasserstein_discriminator,
)

logit = st.floats(-20, 20, width=32)
logits = st.lists(logit, min_size=1, max_size=8)

REAL, FAKE = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([[-3.0], [0.5]])


def cross_entropy(logit: float, target: float) -> float:
    share = 1 / (1 + math.exp(-logit))
    return -target * math.log(share) - (1 - target) * math.log(1 - share)


def slope(values: list[float], generator_loss: str) -> Tensor:
    """Gradient of the generator's loss with respect to the logits of its pictures."""
    fake = torch.tensor(values, requires_grad=True)
    GAN_LOSSES[generator_loss].generator(fake, 1.0).backward()
    assert fake.grad is not None
    return fake.grad


def slopes(real: Tensor, fake: Tensor, discriminator_loss: str) -> tuple[Tensor, Tensor]:
    """Gradients of the discriminator's loss with respect to both sides' logits."""
    real, fake = real.clone().requires_grad_(), fake.clone().requires_grad_()
    GAN_LOSSES[discriminator_loss].discriminator(real, fake, 0.9).backward()
    assert real.grad is not None and fake.grad is not None
    return real.grad, fake.grad


# all games


def test_each_name_stands_for_its_game() -> None:
    games = {name: (game.discriminator, game.generator) for name, game in GAN_LOSSES.items()}
    assert games == {
        "bce": (bce_discriminator, bce_generator),
        "wasserstein": (wasserstein_discriminator, score_generator),
        "hinge": (hinge_discriminator, score_generator),
    }


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_the_discriminator_is_driven_apart_and_the_generator_up(name: str) -> None:
    real, fake = slopes(torch.tensor([0.5, -1.0]), torch.tensor([0.5, -0.5]), name)
    assert (real < 0).all() and (fake > 0).all()
    assert (slope([-2.0, 0.0, 2.0], name) < 0).all()


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_both_sides_weigh_the_same_however_many_logits_they_have(name: str) -> None:
    loss = GAN_LOSSES[name].discriminator
    few, many = torch.tensor([0.25]), torch.full((10, 1, 4, 4), 0.25)
    values = [loss(real, fake, 0.9).item() for real, fake in ((few, few), (few, many), (many, few), (many, many))]
    assert values == pytest.approx([values[0]] * 4)


@pytest.mark.parametrize("name", GAN_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    game = GAN_LOSSES[name]
    large = torch.full((2, 1, 8, 8), 60000.0, dtype=dtype)
    for loss in (
        game.discriminator(-large, large, 0.9),
        game.generator(-large, 1.0),
        reconstruction_loss(large, -large),
    ):
        assert loss.dtype == torch.float32
        assert loss.isfinite()
    assert game.discriminator(-large, large, 1.0).item() >= 0.9 * large[0, 0, 0, 0].item()
    # means that neither half type holds to six digits
    uneven = torch.tensor([8.0, 8.0, 8.0625], dtype=dtype)
    exact = uneven.double()
    expected = torch.log1p(torch.exp(-exact)).mean() if name == "bce" else -exact.mean()
    assert game.generator(uneven, 1.0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert game.discriminator(uneven, -uneven, 0.9).item() == pytest.approx(
        game.discriminator(exact.float(), -exact.float(), 0.9).item(), rel=1e-5
    )


# binary cross entropy


def test_an_undecided_discriminator_loses_ln_2() -> None:
    zeros = torch.zeros(2, 1, 4, 4)
    assert bce_discriminator(zeros, zeros, 0.9).item() == pytest.approx(math.log(2))
    assert bce_generator(zeros).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("real_label", [0.6, 0.9, 1.0])
def test_bce_discriminator_by_hand(real_label: float) -> None:
    real = sum(cross_entropy(value, real_label) for value in (2, -1, 0.5)) / 3
    fake = (cross_entropy(-3, 1 - real_label) + cross_entropy(0.5, 1 - real_label)) / 2
    assert bce_discriminator(REAL, FAKE, real_label).item() == pytest.approx((real + fake) / 2, rel=1e-5)


@given(st.floats(-6, 6, width=32))
def test_with_smoothing_the_best_logits_are_those_of_the_labels(value: float) -> None:
    best = math.log(9)  # the share 0.9
    least = bce_discriminator(torch.tensor([best]), torch.tensor([-best]), 0.9)
    assert least <= bce_discriminator(torch.tensor([value]), torch.tensor([-best]), 0.9) + 1e-6
    assert least <= bce_discriminator(torch.tensor([best]), torch.tensor([value]), 0.9) + 1e-6


@given(logits)
def test_bce_generator_by_hand(values: list[float]) -> None:
    expected = sum(math.log1p(math.exp(-value)) for value in values) / len(values)
    assert bce_generator(torch.tensor(values)).item() == pytest.approx(expected, rel=1e-5, abs=1e-8)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8))
def test_the_bce_generator_learns_most_from_the_pictures_that_fail(values: list[float]) -> None:
    expected = torch.sigmoid(-torch.tensor(values)) / len(values)
    assert torch.allclose(slope(values, "bce"), -expected, rtol=1e-4, atol=1e-7)


# Wasserstein


def test_wasserstein_discriminator_by_hand() -> None:
    # fake -1.25, real 0.5
    assert wasserstein_discriminator(REAL, FAKE, 0.9).item() == pytest.approx(-1.75)


@given(logits, logits, st.floats(-5, 5, width=32))
def test_wasserstein_sees_differences_alone(real: list[float], fake: list[float], shift: float) -> None:
    loss = wasserstein_discriminator(torch.tensor(real), torch.tensor(fake), 0.9)
    shifted = wasserstein_discriminator(torch.tensor(real) + shift, torch.tensor(fake) + shift, 0.6)
    assert shifted.item() == pytest.approx(loss.item(), abs=1e-4)
    swapped = wasserstein_discriminator(torch.tensor(fake), torch.tensor(real), 0.9)
    assert swapped.item() == pytest.approx(-loss.item(), abs=1e-5)


# hinge


def test_hinge_discriminator_by_hand() -> None:
    # real: 0, 2 and 0.5 below the margin; fake: 0 and 1.5 above it
    assert hinge_discriminator(REAL, FAKE, 0.9).item() == pytest.approx(2.5 / 3 + 1.5 / 2)


def test_hinge_leaves_alone_what_is_beyond_the_margin() -> None:
    real, fake = slopes(torch.tensor([1.5, 0.9, -4.0]), torch.tensor([-1.5, -0.9, 4.0, -7.0]), "hinge")
    assert real.tolist() == pytest.approx([0, -1 / 3, -1 / 3])
    assert fake.tolist() == pytest.approx([0, 1 / 4, 1 / 4, 0])


@given(logits)
def test_score_generator_is_minus_the_mean(values: list[float]) -> None:
    assert score_generator(torch.tensor(values)).item() == pytest.approx(-sum(values) / len(values), abs=1e-5)
    assert slope(values, "hinge").tolist() == pytest.approx([-1 / len(values)] * len(values))


# reconstruction, accuracy


def test_reconstruction_loss_is_the_mean_absolute_difference() -> None:
    truth = torch.tensor([[0.0, 0.5], [1.0, 0.25]])
    assert reconstruction_loss(torch.tensor([[0.1, 0.5], [0.4, 0.45]]), truth).item() == pytest.approx(0.225)
    assert reconstruction_loss(truth, truth).item() == 0


def test_weights_of_reconstruction_loss_multiply_the_differences() -> None:
    truth = torch.tensor([[0.0, 0.5], [1.0, 0.25]])
    found = reconstruction_loss(truth + torch.tensor([[0.2, -0.1], [-0.4, 0.2]]), truth, torch.tensor([[2.0], [1.0]]))
    assert found.item() == pytest.approx((2 * 0.2 + 2 * 0.1 + 0.4 + 0.2) / 4)


def test_colourful_pixels_weigh_more_by_the_range_of_their_channels() -> None:
    pixels = torch.tensor([[90, 90, 90], [255, 0, 80], [10, 112, 61]], dtype=torch.uint8).T[None, :, :, None]
    assert color_weights(pixels, 3.0).flatten().tolist() == pytest.approx([1, 4, 1 + 3 * 102 / 255])
    assert color_weights(pixels, 3.0).shape == (1, 1, 3, 1)


def test_weights_draw_the_best_constant_towards_colour() -> None:
    """The minimiser of L1 is a median: gray where six of ten pixels are gray, unless the others weigh more."""
    pixels = torch.full((1, 3, 10, 1), 100, dtype=torch.uint8)
    pixels[:, 0, 6:] = 220
    truth = pixels[:, :1].float() / 255
    guesses = torch.linspace(0.3, 0.95, 66)

    def best(weights: Tensor | None) -> float:
        losses = [reconstruction_loss(guess.expand_as(truth), truth, weights).item() for guess in guesses]
        return guesses[losses.index(min(losses))].item()

    assert best(None) == pytest.approx(100 / 255, abs=0.01)
    assert best(color_weights(pixels, 3.0)) == pytest.approx(220 / 255, abs=0.01)


def test_accuracy_counts_the_right_side_of_zero() -> None:
    real, fake = torch.tensor([1.0, 2.0, -1.0, 0.0]), torch.tensor([[-1.0, 3.0]])
    assert discriminator_accuracy(real, fake).item() == (0.5 + 0.5) / 2
    assert discriminator_accuracy(torch.ones(3), -torch.ones(3)).item() == 1
    assert discriminator_accuracy(-torch.ones(3), torch.ones(3)).item() == 0
    assert discriminator_accuracy(torch.zeros(3), torch.zeros(3)).item() == 0.5  # no opinion is not a right one


@given(st.lists(logit, min_size=1), st.lists(logit, min_size=1))
def test_accuracy_is_a_share(real: list[float], fake: list[float]) -> None:
    assert 0 <= discriminator_accuracy(torch.tensor(real), torch.tensor(fake)).item() <= 1


def test_the_perceptual_loss_is_relative_at_each_scale() -> None:
    wanted = [torch.tensor([[1.0, -3.0]]), torch.full((2, 2), 10.0)]
    assert perceptual_loss(wanted, wanted) == 0
    assert perceptual_loss([torch.zeros_like(one) for one in wanted], wanted) == 1
    found = [torch.tensor([[2.0, -3.0]]), torch.full((2, 2), 5.0)]
    assert perceptual_loss(found, wanted).item() == pytest.approx((1 / 4 + 1 / 2) / 2)
