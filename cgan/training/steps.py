"""One training step: the discriminator's step with its penalties, and the generator's step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cgan.data.augment import cropped, exposed, sharpened
from cgan.losses import (
    GAN_LOSSES,
    color_weights,
    discriminator_accuracy,
    discriminator_loss,
    gradient_penalty,
    perceptual_loss,
    r1_penalty,
    reconstruction_loss,
)
from cgan.projected import ProjectedDiscriminator
from cgan.training.run_state import Run
from cgan.training.stopwatch import Stopwatch

Losses = dict[str, Tensor]
"""Scalars of one step by name, means over this process's photos."""


@dataclass(frozen=True)
class Batch:
    """This process's shard of one step's photos, and their random choices."""

    pixels: Tensor
    """N x 3 x size x size uint8, on the device."""
    mix: Tensor
    """N values in [0, 1] for the gradient penalty."""
    weight: float
    """N relative to its mean over the processes. It corrects the average of their gradients, which is unweighted."""
    crop: Tensor | None = None
    """N x 3 boxes for `cgan.data.augment.cropped`; None for whole photos."""
    sharpen: Tensor | None = None
    """N amounts for `cgan.data.augment.sharpened`; None for no change."""
    expose: Tensor | None = None
    """N powers for `cgan.data.augment.exposed`; None for no change."""


def train_step(run: Run, batch: Batch, watch: Stopwatch, warmup: bool) -> Losses:
    """Step each network once, the generator after the discriminator.

    In the warm-up, and without a discriminator, the generator learns from L1 alone.

    Args:
        run: the run, whose networks and optimisers are updated.
        batch: photos of this process.
        watch: measures the phases.
        warmup: True in warm-up epochs.
    """
    with watch.phase("data"):
        pixels = batch.pixels if batch.crop is None else cropped(batch.pixels, batch.crop)
        if batch.expose is not None:
            pixels = exposed(pixels, batch.expose)
        gray, truth = run.gray_and_truth(pixels)
        # The losses and the discriminator see the photo's original luma.
        seen = gray if batch.sharpen is None else sharpened(gray, batch.sharpen)
    with watch.phase("forward"), run.autocast():
        colors = run.in_loss_space(gray, run.stepped["generator"](seen))
    losses: Losses = {}
    loss: Tensor | float = 0.0
    if run.discriminator is not None and not warmup:
        losses |= _discriminator_step(run, run.discriminator, batch, gray, truth, colors.detach(), watch)
        run.discriminator.requires_grad_(False)  # the generator's step needs no gradients of its weights
        with watch.phase("forward"):
            loss = _judged(run, run.discriminator, gray, truth, colors, losses)
    l1 = reconstruction_loss(colors, truth)
    strength = run.config.color_weight
    weighted = reconstruction_loss(colors, truth, color_weights(pixels, strength)) if strength else l1
    loss = run.config.l1_weight * weighted + loss
    losses["l1"] = l1.detach()
    losses["generator_gradient_norm"] = _step(run, "generator", loss * batch.weight, watch)
    if run.discriminator is not None:
        run.discriminator.requires_grad_(True)
    with watch.phase("step"):
        run.scaler.update()
        run.steps += 1
        _update_average(run)
    return losses


def _judged(run: Run, judge: nn.Module, gray: Tensor, truth: Tensor, colors: Tensor, losses: Losses) -> Tensor:
    """Return the adversarial and the perceptual loss of the generator, weighted, and note both."""
    config, pictures, perceptual = run.config, torch.cat([gray, colors], 1), None
    with run.autocast():
        if isinstance(judge, ProjectedDiscriminator) and config.perceptual_weight:
            logits, scales = judge.logits_and_scales(pictures)
            with torch.no_grad():
                wanted = judge.scales(torch.cat([gray, truth], 1))
            perceptual = perceptual_loss(scales, wanted)
        else:
            # Not run.stepped: DistributedDataParallel needs weights with gradients.
            logits = run.compiled["discriminator"](pictures)
        adversarial = GAN_LOSSES[config.gan_loss].generator(logits, config.generator_label)
    losses["adversarial"] = adversarial.detach()
    loss = config.adversarial_weight * adversarial
    if perceptual is not None:
        losses["perceptual"] = perceptual.detach()
        loss = loss + config.perceptual_weight * perceptual
    return loss


def _discriminator_step(
    run: Run, discriminator: nn.Module, batch: Batch, gray: Tensor, truth: Tensor, colors: Tensor, watch: Stopwatch
) -> Losses:
    config, network = run.config, run.stepped["discriminator"]
    with watch.phase("forward"):
        with run.autocast():
            real_logits, fake_logits = network(torch.cat([gray, truth], 1)), network(torch.cat([gray, colors], 1))
        loss = discriminator_loss(config, real_logits, fake_logits)
        losses = {
            "discriminator_loss": loss.detach(),
            "discriminator_accuracy": discriminator_accuracy(real_logits.detach(), fake_logits.detach()),
        }
        # The penalties are in fp32: their second derivatives are too inexact in half precision.
        if config.r1:
            losses["r1"] = penalty = r1_penalty(network, gray, truth)
            loss = loss + config.r1 * penalty
        if config.gradient_penalty:
            losses["gradient_penalty"] = penalty = gradient_penalty(network, gray, truth, colors, batch.mix)
            loss = loss + config.gradient_penalty * penalty
    losses["discriminator_gradient_norm"] = _step(run, "discriminator", loss * batch.weight, watch)
    if config.weight_clip:
        with torch.no_grad(), watch.phase("step"):
            for weights in discriminator.parameters():
                weights.clamp_(-config.weight_clip, config.weight_clip)
    return {name: value.detach() for name, value in losses.items()}


def _step(run: Run, name: str, loss: Tensor, watch: Stopwatch) -> Tensor:
    """Step one network along the negative gradient of a loss; return the norm of the gradient."""
    optimizer = run.optimizers[f"{name}_adam"]
    with watch.phase("backward"):
        optimizer.zero_grad(set_to_none=True)
        run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    with watch.phase("step"):
        run.scaler.unscale_(optimizer)
        gradients = [weights.grad for weights in run.networks[name].parameters() if weights.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        run.scaler.step(optimizer)
    return norm


@torch.no_grad()
def _update_average(run: Run) -> None:
    if run.average is None:
        return
    # The first steps have a smaller decay; otherwise the initial weights would remain for 1 / (1 - decay) steps.
    decay = min(run.config.ema, (1 + run.steps) / (10 + run.steps))
    torch._foreach_lerp_(list(run.average.parameters()), list(run.generator.parameters()), 1 - decay)
