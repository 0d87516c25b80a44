"""Adversarial and reconstruction losses, apart from the loop that uses them."""

import torch
from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, real_label: float) -> Tensor:
    """Binary cross entropy of the discriminator with label smoothing (Salimans et al. 2016, section 3.4).

    Args:
        real_logits: logits for photos, any shape.
        fake_logits: logits for the generator's pictures, any shape.
        real_label: target of photos in (0.5, 1]; pictures get 1 - real_label.

    Returns:
        Scalar float32, the mean of the two sides.
    """
    return (_bce(real_logits, real_label) + _bce(fake_logits, 1 - real_label)) / 2


def adversarial_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator (Goodfellow et al. 2014): its pictures should pass as photos.

    Targets are 1, without smoothing; scalar float32.
    """
    return _bce(fake_logits, 1.0)


def reconstruction_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape; scalar float32."""
    return F.l1_loss(prediction.float(), truth.float())


def discriminator_accuracy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Share of logits on the right side of 0, over photos and pictures alike, in [0, 1]; scalar float32."""
    return ((real_logits > 0).float().mean() + (fake_logits <= 0).float().mean()) / 2


def _bce(logits: Tensor, target: float) -> Tensor:
    # float32: the logarithms lose too much in half precision
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
