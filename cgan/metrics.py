"""How good a colouring is: PSNR, colourfulness and FID."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgan.spec import UserError, file_sha256

NEAR_GRAY = 5.0
"""Photos of less colourfulness count as gray."""

INCEPTION_FEATURES = 2048
INCEPTION_CACHE_NAME = "inception_v3_google-0cc3c7bd.pth"
"""File name of torchvision's Inception v3 weights in torch's hub cache."""


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB: -10 log10(mean squared error), peak 1.

    Args:
        prediction: N x C x H x W in [0, 1].
        truth: the same shape and range.

    Returns:
        N values; infinite where the two are equal.
    """
    error = (prediction.double() - truth.double()).square().mean(dim=(1, 2, 3))
    return -10 * error.log10()


def colorfulness(rgb: Tensor) -> Tensor:
    """Colourfulness of each picture (Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images", M3).

    Args:
        rgb: N x 3 x H x W in [0, 1], sRGB.

    Returns:
        N values on the paper's scale for 0 to 255: 0 is gray, about 33 moderate, above 100 extreme.
    """
    red, green, blue = (255 * rgb.double()).unbind(dim=1)
    red_green = (red - green).flatten(1)
    yellow_blue = ((red + green) / 2 - blue).flatten(1)
    spread = (red_green.var(dim=1, correction=0) + yellow_blue.var(dim=1, correction=0)).sqrt()
    offset = (red_green.mean(dim=1).square() + yellow_blue.mean(dim=1).square()).sqrt()
    return spread + 0.3 * offset


@dataclass(frozen=True)
class FeatureNetwork:
    """A network whose features FID compares, with the fingerprint that its figures carry."""

    module: nn.Module
    """N x 3 x H x W in [0, 1] -> N x dimensions."""
    dimensions: int
    fingerprint: dict[str, Any]


def load_inception(weights: Path | None) -> FeatureNetwork:
    """torchvision's Inception v3 up to its 2,048 pooled features.

    Args:
        weights: a state dict file, or None for the copy in torch's hub cache (nothing is downloaded).

    Raises:
        UserError: the weights are not there or not those of Inception v3.
    """
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_CACHE_NAME
    if not path.is_file():
        raise UserError(
            f"FID needs Inception v3 weights, found no file {path}; give --inception-weights FILE, "
            'or download them once with python -c "from torchvision.models import inception_v3; '
            "inception_v3(weights='DEFAULT')\", or leave FID out with --no-fid"
        )
    # torcheval's own wrapper, so that figures compare with those of other users of torcheval: photos in
    # [0, 1], resized bilinearly. It sets transform_input only together with a download.
    from torcheval.metrics.image.fid import FIDInceptionV3

    network = FIDInceptionV3(weights=None)
    network.model.transform_input = True
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.model.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    except Exception as error:  # torch raises many types for a file that is no state dict of this network
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not the weights of torchvision's Inception v3 ({reason}); give another file"
        ) from error
    fingerprint = {
        "network": "torchvision inception_v3, 2048 pooled features, through torcheval",
        "weights_sha256": file_sha256(path),
        "resize": "bilinear to 299 x 299",
    }
    return FeatureNetwork(network.eval(), INCEPTION_FEATURES, fingerprint)


class FID:
    """Frechet Inception distance between photos and pictures, added batch by batch (Heusel et al. 2017).

    Args:
        network: the feature network.
        device: where it runs.
    """

    def __init__(self, network: FeatureNetwork, device: torch.device) -> None:
        from torcheval.metrics import FrechetInceptionDistance

        self.network = network
        self.device = device
        self.metric = FrechetInceptionDistance(
            model=network.module.to(device), feature_dim=network.dimensions, device=device
        )
        self.count = 0

    def update(self, pictures: Tensor, photos: Tensor) -> None:
        """Add pictures and photos, each N x 3 x H x W float32 in [0, 1]."""
        self.metric.update(pictures.to(self.device), is_real=False)
        self.metric.update(photos.to(self.device), is_real=True)
        self.count += len(photos)

    def compute(self) -> dict[str, Any]:
        """The distance with the fingerprint without which it means nothing."""
        # One photo has no covariance, and torcheval hands it to LAPACK, which crashes on what is no number.
        sums = (self.metric.real_cov_sum, self.metric.fake_cov_sum)
        usable = self.count > 1 and all(bool(total.isfinite().all()) for total in sums)
        value = float(self.metric.compute()) if usable else math.nan
        if not math.isfinite(value):
            raise UserError(f"FID of {self.count} photos is {value}; hold out more photos or pass --no-fid")
        return {"value": value, "photos": self.count, **self.network.fingerprint}
