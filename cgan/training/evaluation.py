"""Evaluation of an epoch: losses and metrics on the held-out photos."""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cgan.color import luma_uint8
from cgan.losses import discriminator_accuracy, discriminator_loss
from cgan.metrics.distances import FeatureDistances
from cgan.metrics.features import FeatureNetwork
from cgan.metrics.pictures import means, scores
from cgan.training.run_state import Metrics, Run

QUANTIZATION = "pictures truncated to 8 bits"
"""Entry of --fid-quantize in the fingerprint of distances."""

CALIBRATION_PHOTOS = 512
"""Training photos in the batch norm statistics after an epoch."""


@torch.no_grad()
def calibrate_batch_norm(run: Run, epoch: int) -> None:
    """Compute the batch norm statistics of result generator and discriminator anew, with their current weights.

    Evaluation and export use them; training never reads them. The running averages of training lag behind the weights,
    and after few steps still contain their initial values. (Precise batch norm: Wu and Johnson 2021, "Rethinking
    'Batch' in BatchNorm", section 3.) All processes take part.
    """
    batches = []
    done = 0
    for indices in run.epoch_batches(epoch):
        batches.append(run.world.share(indices))
        done += len(indices)
        if done >= CALIBRATION_PHOTOS:
            break
    _calibrate(run, run.result, ([run.gray_and_truth(pixels)[0]] for pixels in _pixels(run, batches)))
    if run.discriminator is not None:
        run.result.eval()
        _calibrate(run, run.discriminator, (_real_and_fake(run, pixels) for pixels in _pixels(run, batches)))


@torch.no_grad()
def evaluate(run: Run, features: FeatureNetwork | None) -> Metrics:
    """Return losses, PSNR and colourfulness on the held-out photos, in fp32; with a feature network also FID and KID.

    L1 is in the colour space of the loss; PSNR and colourfulness are in RGB. The PSNR of the gray photo is the baseline
    of a model.
    """
    for network in run.networks.values():
        network.eval()
    columns: dict[str, list[Tensor]] = {}
    if features and run.config.fid_quantize:
        features = replace(features, fingerprint={**features.fingerprint, "quantization": QUANTIZATION})
    distances = FeatureDistances(features, run.device) if features else None
    for indices in torch.split(torch.tensor(run.split.test), run.config.batch_size):
        pixels = run.photos(indices).to(run.device)
        gray, truth = run.gray_and_truth(pixels)
        prediction = run.result(gray)
        colors = run.in_loss_space(gray, prediction)
        picture = run.target.to_rgb(gray, prediction).clamp(0, 1)
        photo, luma = pixels.float() / 255, luma_uint8(pixels).float() / 255
        values = {
            "l1": (colors - truth).abs().mean(dim=(1, 2, 3)),
            **scores(picture, photo, luma),
            **_discriminator_metrics(run, gray, truth, colors),
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value.double().cpu())
        if distances:
            distances.update((picture * 255).floor() / 255 if run.config.fid_quantize else picture, photo)
    found = means({name: torch.cat(parts) for name, parts in columns.items()})
    metrics: Metrics = {f"test_{name}": value for name, value in found.items()}
    if distances and math.isfinite(metrics["test_l1"]):  # otherwise the pictures are not finite, and the caller raises
        metrics |= {f"test_{name}": value.to_json() for name, value in distances.compute().items()}
    return metrics


def _discriminator_metrics(run: Run, gray: Tensor, truth: Tensor, colors: Tensor) -> dict[str, Tensor]:
    """Return the discriminator's loss and accuracy for each photo, N values each."""
    if run.discriminator is None:
        return {}
    real = run.discriminator(torch.cat([gray, truth], 1))
    fake = run.discriminator(torch.cat([gray, colors], 1))
    pairs = list(zip(real, fake, strict=True))
    return {
        "discriminator_loss": torch.stack([discriminator_loss(run.config, r, f) for r, f in pairs]),
        "discriminator_accuracy": torch.stack([discriminator_accuracy(r, f) for r, f in pairs]),
    }


def _pixels(run: Run, batches: list[Tensor]) -> Iterable[Tensor]:
    return (run.photos(indices).to(run.device) for indices in batches)


def _real_and_fake(run: Run, pixels: Tensor) -> list[Tensor]:
    """Return the discriminator's inputs for photos and for generated pictures."""
    gray, truth = run.gray_and_truth(pixels)
    with run.autocast():
        colors = run.in_loss_space(gray, run.result(gray))
    return [torch.cat([gray, truth], 1), torch.cat([gray, colors], 1)]


def _calibrate(run: Run, network: nn.Module, inputs: Iterable[list[Tensor]]) -> None:
    """Set batch norm's statistics to the mean over forward passes in training mode."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    network.train()
    for group in inputs:
        for x in group:
            with run.autocast():
                network(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
