"""Reference implementations of the adversarial losses from the papers, for comparison with training steps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgan.config import TrainConfig
from cgan.training.run_state import Run

MIX = torch.tensor([0.0, 0.3, 0.6, 1.0])
"""Share of the photo in the mixture of photo and picture, for the gradient penalty of four photos."""


def game(config: TrainConfig, real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss."""
    if config.gan_loss == "bce":
        bce, label = F.binary_cross_entropy_with_logits, config.label_smoothing
        both = bce(real, torch.full_like(real, label)) + bce(fake, torch.full_like(fake, 1 - label))
        return both if config.discriminator_sum else both / 2
    if config.gan_loss == "wasserstein":
        return fake.mean() - real.mean()
    return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()


def flattery(config: TrainConfig, fake: Tensor) -> Tensor:
    """The generator's adversarial loss."""
    label = config.generator_label
    bce = -(label * F.logsigmoid(fake) + (1 - label) * F.logsigmoid(-fake)).mean()
    return bce if config.gan_loss == "bce" else -fake.mean()


def slope(judge: nn.Module, gray: Tensor, colors: Tensor) -> Tensor:
    """Gradient of each photo's mean logit with respect to its colours."""
    colors = colors.detach().requires_grad_()
    score = judge(torch.cat([gray, colors], 1)).flatten(1).mean(dim=1).sum()
    return torch.autograd.grad(score, colors, create_graph=True)[0].flatten(1)


def judged(run: Run, judge: nn.Module, gray: Tensor, truth: Tensor, colors: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's objective, and the losses that the step should report."""
    config, mix = run.config, MIX[:, None, None, None]
    real, fake = judge(torch.cat([gray, truth], 1)), judge(torch.cat([gray, colors], 1))
    right = ((real > 0).float().mean() + (fake <= 0).float().mean()) / 2
    said = {"discriminator_loss": game(config, real, fake), "discriminator_accuracy": right}
    loss = said["discriminator_loss"]
    if config.r1:
        said["r1"] = slope(judge, gray, truth).square().sum(dim=1).mean() / 2
        loss = loss + config.r1 * said["r1"]
    if config.gradient_penalty:
        norms = slope(judge, gray, mix * truth + (1 - mix) * colors).norm(dim=1)
        said["gradient_penalty"] = (norms - 1).square().mean()
        loss = loss + config.gradient_penalty * said["gradient_penalty"]
    return loss, said
