"""Adversarial, reconstruction and penalty losses, apart from the loop that uses them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class GanLoss:
    """An adversarial game: what the discriminator and what the generator minimise, scalar float32 each."""

    discriminator: Callable[[Tensor, Tensor, float], Tensor]
    """(logits of photos, logits of the generator's pictures, target of photos for bce) -> loss."""
    generator: Callable[[Tensor], Tensor]
    """Logits of the generator's pictures -> loss."""


def bce_discriminator(real_logits: Tensor, fake_logits: Tensor, real_label: float) -> Tensor:
    """Binary cross entropy of the discriminator with label smoothing (Salimans et al. 2016, section 3.4).

    Args:
        real_logits: logits for photos, any shape.
        fake_logits: logits for the generator's pictures, any shape.
        real_label: target of photos in (0.5, 1]; pictures get 1 - real_label.

    Returns:
        Scalar float32, the mean of the two sides.
    """
    return (_bce(real_logits, real_label) + _bce(fake_logits, 1 - real_label)) / 2


def bce_generator(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator (Goodfellow et al. 2014): its pictures should pass as photos.

    Targets are 1, without smoothing.
    """
    return _bce(fake_logits, 1.0)


def wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor, real_label: float) -> Tensor:
    """Minus the estimated Wasserstein distance (Arjovsky et al. 2017); unbounded without a Lipschitz control."""
    return fake_logits.float().mean() - real_logits.float().mean()


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor, real_label: float) -> Tensor:
    """Hinge loss (Lim and Ye 2017, Miyato et al. 2018): logits beyond 1 on the right side cost nothing."""
    return F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()


def score_generator(fake_logits: Tensor) -> Tensor:
    """Minus the mean logit: the generator's side of the Wasserstein and the hinge loss."""
    return -fake_logits.float().mean()


GAN_LOSSES = {
    "bce": GanLoss(bce_discriminator, bce_generator),
    "wasserstein": GanLoss(wasserstein_discriminator, score_generator),
    "hinge": GanLoss(hinge_discriminator, score_generator),
}
"""Adversarial losses by name."""


def reconstruction_loss(prediction: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute difference of two tensors of one shape, each multiplied by its weight; scalar float32."""
    if weights is None:
        return F.l1_loss(prediction.float(), truth.float())
    return ((prediction.float() - truth.float()).abs() * weights).mean()


def color_weights(pixels: Tensor, strength: float) -> Tensor:
    """Weights by which colourful pixels count for more: 1 + strength x (max - min of R, G, B).

    Most pixels of photos are nearly gray, and L1 settles on the median: without weights on something pale wherever
    several colours are likely. (After the class rebalancing of Zhang et al. 2016, section 2.2, in its simplest form.)

    Args:
        pixels: photos, N x 3 x H x W uint8 RGB.
        strength: at least 0.

    Returns:
        N x 1 x H x W float32, at least 1.
    """
    chroma = (pixels.amax(dim=1, keepdim=True) - pixels.amin(dim=1, keepdim=True)).float() / 255
    return 1 + strength * chroma


def discriminator_accuracy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Share of logits on the right side of 0, over photos and pictures alike, in [0, 1]; scalar float32."""
    return ((real_logits > 0).float().mean() + (fake_logits <= 0).float().mean()) / 2


def r1_penalty(discriminator: Callable[[Tensor], Tensor], gray: Tensor, real: Tensor) -> Tensor:
    """Half the mean squared gradient norm on photos (Mescheder et al. 2018, equation 9), to be weighted by gamma.

    A photo's score is the mean of its logits, as in the losses, so that the penalty does not grow with their number.

    Args:
        discriminator: takes gray and colour stacked.
        gray: N x 1 x H x W, the condition, along which no gradient is taken.
        real: N x C x H x W, colours of photos.

    Returns:
        Scalar float32, differentiable with respect to the discriminator's weights.
    """
    return _gradient(discriminator, gray, real).square().sum(dim=(1, 2, 3)).mean() / 2


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], gray: Tensor, real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """How far the gradient norm between photos and pictures is from 1 (Gulrajani et al. 2017, equation 3).

    Args:
        discriminator: takes gray and colour stacked.
        gray: N x 1 x H x W, the condition, which photo and picture share.
        real: N x C x H x W, colours of photos.
        fake: N x C x H x W, the generator's pictures.
        mix: N values in [0, 1], the share of the photo at which the gradient is taken.

    Returns:
        Scalar float32, differentiable with respect to the discriminator's weights.
    """
    between = torch.lerp(fake.float(), real.float(), mix[:, None, None, None])
    norms = torch.linalg.vector_norm(_gradient(discriminator, gray, between), dim=(1, 2, 3))
    penalty: Tensor = (norms - 1).square().mean()
    return penalty


def _gradient(discriminator: Callable[[Tensor], Tensor], gray: Tensor, color: Tensor) -> Tensor:
    color = color.detach().float().requires_grad_()
    logits = discriminator(torch.cat([gray.float(), color], 1))
    scores = logits.flatten(1).mean(dim=1)
    (gradient,) = torch.autograd.grad(scores.sum(), color, create_graph=True)
    return gradient


def _bce(logits: Tensor, target: float) -> Tensor:
    # float32: the logarithms lose too much in half precision
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
