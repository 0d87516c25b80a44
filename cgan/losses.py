"""Adversarial, reconstruction and penalty losses as functions of tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cgan.config import TrainConfig


@dataclass(frozen=True)
class GanLoss:
    """An adversarial loss: the scalars that discriminator and generator minimise, float32."""

    discriminator: Callable[[Tensor, Tensor, float], Tensor]
    """(logits of photos, logits of generated pictures, target of photos for bce) -> loss."""
    generator: Callable[[Tensor, float], Tensor]
    """(logits of generated pictures, their target for bce) -> loss."""


def bce_discriminator(real_logits: Tensor, fake_logits: Tensor, real_label: float) -> Tensor:
    """Binary cross entropy of the discriminator with label smoothing (Salimans et al. 2016, section 3.4).

    Args:
        real_logits: logits for photos, any shape.
        fake_logits: logits for generated pictures, any shape.
        real_label: target of photos in (0.5, 1]; pictures get 1 - real_label.

    Returns:
        Scalar float32, the mean over photos and pictures.
    """
    return (_bce(real_logits, real_label) + _bce(fake_logits, 1 - real_label)) / 2


def bce_generator(fake_logits: Tensor, label: float = 1.0) -> Tensor:
    """Non-saturating loss of the generator (Goodfellow et al. 2014): cross entropy with the target 1.

    Args:
        fake_logits: logits for generated pictures, any shape.
        label: target in (0.5, 1].
    """
    return _bce(fake_logits, label)


def wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor, real_label: float) -> Tensor:
    """Negative Wasserstein distance (Arjovsky et al. 2017); unbounded without a Lipschitz constraint."""
    return fake_logits.float().mean() - real_logits.float().mean()


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor, real_label: float) -> Tensor:
    """Hinge loss (Lim and Ye 2017, Miyato et al. 2018): zero for logits beyond 1 on the correct side."""
    return F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()


def score_generator(fake_logits: Tensor, label: float = 1.0) -> Tensor:
    """Negative mean logit: the generator's loss in the Wasserstein and the hinge game."""
    return -fake_logits.float().mean()


GAN_LOSSES = {
    "bce": GanLoss(bce_discriminator, bce_generator),
    "wasserstein": GanLoss(wasserstein_discriminator, score_generator),
    "hinge": GanLoss(hinge_discriminator, score_generator),
}
"""Adversarial losses by name."""


def discriminator_loss(config: TrainConfig, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the discriminator's loss in the game of a configuration, without penalties; scalar float32."""
    loss = GAN_LOSSES[config.gan_loss].discriminator(real_logits, fake_logits, config.label_smoothing)
    return 2 * loss if config.discriminator_sum else loss


def reconstruction_loss(prediction: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute difference of two tensors of one shape, weighted element by element; scalar float32."""
    if weights is None:
        return F.l1_loss(prediction.float(), truth.float())
    return ((prediction.float() - truth.float()).abs() * weights).mean()


def perceptual_loss(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean over scales of the difference of features, relative to their size (Johnson et al. 2016, section 3.2).

    Its value is 0 for equal features and 1 for features of nothing but zeros; L1, which is less moved by single large
    features than their squares.

    Args:
        found: features of pictures, scale by scale, of any shapes.
        wanted: features of the photos, of the same shapes.

    Returns:
        Scalar float32.
    """
    parts = [
        F.l1_loss(one.float(), other.float()) / other.float().abs().mean()
        for one, other in zip(found, wanted, strict=True)
    ]
    return torch.stack(parts).mean()


def color_weights(pixels: Tensor, strength: float) -> Tensor:
    """Weights of pixels, higher for colourful ones: 1 + strength x (max - min of R, G, B).

    Most pixels of photos are nearly gray, and L1 is minimised by the median: without weights, pale colours wherever
    several colours are likely. (The simplest form of the class rebalancing of Zhang et al. 2016, section 2.2.)

    Args:
        pixels: photos, N x 3 x H x W uint8 RGB.
        strength: at least 0.

    Returns:
        N x 1 x H x W float32, at least 1.
    """
    chroma = (pixels.amax(dim=1, keepdim=True) - pixels.amin(dim=1, keepdim=True)).float() / 255
    return 1 + strength * chroma


def discriminator_accuracy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Share of logits on the correct side of 0, mean over photos and pictures, in [0, 1]; scalar float32."""
    return ((real_logits > 0).float().mean() + (fake_logits <= 0).float().mean()) / 2


def r1_penalty(discriminator: Callable[[Tensor], Tensor], gray: Tensor, real: Tensor) -> Tensor:
    """Half the mean squared gradient norm on photos (Mescheder et al. 2018, equation 9), without its factor gamma.

    A photo's score is the mean of its logits, as in the losses, so the penalty does not grow with their number.

    Args:
        discriminator: takes gray and colour, stacked along the channels.
        gray: N x 1 x H x W, the condition; its gradient is not part of the penalty.
        real: N x C x H x W, colours of photos.

    Returns:
        Scalar float32, differentiable with respect to the discriminator's weights.
    """
    return _gradient(discriminator, gray, real).square().sum(dim=(1, 2, 3)).mean() / 2


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], gray: Tensor, real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """Mean squared difference of the gradient norm from 1, between photos and pictures (Gulrajani et al. 2017, eq. 3).

    Args:
        discriminator: takes gray and colour, stacked along the channels.
        gray: N x 1 x H x W, the condition of both photo and picture.
        real: N x C x H x W, colours of photos.
        fake: N x C x H x W, generated pictures.
        mix: N values in [0, 1]: the share of the photo in the mixture at which the gradient is taken.

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
    # in float32, because logarithms in half precision are too inexact
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
