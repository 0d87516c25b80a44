"""How good a colouring is: PSNR, colourfulness, FID and KID."""

import math
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
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

KID_ESTIMATOR = "unbiased MMD^2 of all photos, no subsets"
KID_KERNEL = "(x.y/d + 1)^3"
KID_BLOCK = 1024
"""Rows and columns of the kernel matrix that are in memory at a time."""


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
    """A network whose features FID and KID compare, with the fingerprint that its figures carry."""

    module: nn.Module
    """N x 3 x H x W in [0, 1] -> N x dimensions."""
    dimensions: int
    fingerprint: dict[str, Any]


def inception_path(weights: Path | None) -> Path:
    """Where the weights of Inception v3 lie; cheap enough to ask before anything slow begins.

    Args:
        weights: a state dict file, or None for the copy in torch's hub cache (nothing is downloaded).

    Raises:
        UserError: there is no such file.
    """
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_CACHE_NAME
    if not path.is_file():
        raise UserError(
            f"FID and KID need Inception v3 weights, found no file {path}; give --inception-weights FILE, "
            'or download them once with python -c "from torchvision.models import inception_v3; '
            "inception_v3(weights='DEFAULT')\", or leave FID and KID out with --no-fid"
        )
    return path


def load_inception(weights: Path | None) -> FeatureNetwork:
    """torchvision's Inception v3 up to its 2,048 pooled features.

    Args:
        weights: as for `inception_path`.

    Raises:
        UserError: the weights are not there or not those of Inception v3.
    """
    path = inception_path(weights)
    # torcheval's own wrapper, so that figures compare with those of other users of torcheval: photos in
    # [0, 1], resized bilinearly. It sets transform_input only together with a download.
    wrapper = _torcheval().FIDInceptionV3
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The default weight initialization of inception_v3", FutureWarning)
        network = wrapper(weights=None)
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


@cache
def _torcheval() -> Any:
    """torcheval's module of FID, imported without the warnings about its own code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        from torcheval.metrics.image import fid
    return fid


def kid(real_features: Tensor, fake_features: Tensor, block: int = KID_BLOCK) -> float:
    """Kernel inception distance: the unbiased estimate of MMD^2 with the kernel (x.y/d + 1)^3, in float64.

    The kernel is that of Binkowski et al. 2018, "Demystifying MMD GANs"; the estimate is Gretton et al. 2012, "A Kernel
    Two-Sample Test", Lemma 6: the mean of k(x, x') over pairs of different x, plus that of k(y, y'), minus twice the
    mean of k(x, y). It takes all features at once, so nothing is random: it equals torch-fidelity's KID with one subset
    of all photos (kid_subsets=1, kid_subset_size=N). Samples of one distribution give 0 on average, so a value may be
    negative.

    Args:
        real_features: N x d, N at least 2, of any floating type.
        fake_features: M x d, M at least 2.
        block: rows and columns of the kernel matrix to compute at a time; the result does not depend on it.

    Raises:
        ValueError: fewer than 2 features.
    """
    real_count, fake_count = len(real_features), len(fake_features)
    if min(real_count, fake_count) < 2:
        raise ValueError(f"found {real_count} real and {fake_count} fake features, expected at least 2 each")
    within = sum(
        (_kernel_sum(x, x, block) - _kernel_diagonal(x).sum()) / (len(x) * (len(x) - 1))
        for x in (real_features, fake_features)
    )
    across = _kernel_sum(real_features, fake_features, block) / (real_count * fake_count)
    return float(within - 2 * across)


def _kernel_sum(x: Tensor, y: Tensor, block: int) -> Tensor:
    """Sum of the kernel over all pairs of a row of x and a row of y."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows in torch.split(x, block):
        for columns in torch.split(y, block):
            total += (rows.double() @ columns.double().T / x.shape[1] + 1).pow(3).sum()
    return total


def _kernel_diagonal(x: Tensor) -> Tensor:
    """The kernel of each row of x with itself."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    return (norms.square() / x.shape[1] + 1).pow(3)


class _RecordedFeatures(nn.Module):
    """Hands the network's features to torcheval in float64 and remembers the last batch as the network gave it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.features = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.network(x)
        return self.features.double()


class FeatureDistances:
    """FID (Heusel et al. 2017) and KID (`kid`) between photos and pictures added batch by batch.

    The network runs once for each photo and each picture. FID is torcheval's, but on float64 statistics: its
    covariances are differences of large sums, and its trace term takes roots of eigenvalues that ought to be 0.
    Measured on synthetic features (2,048, not negative, mean 0.27) against singular values of the centred features:
    float32 is off by 2.5 of 125.6 at 200 photos and by 5e-4 of 18.2 at 5,000, float64 by 2e-4 and 2e-12.

    Features stay on the device in the network's own type: 16 KiB for a photo and its picture with Inception.

    Args:
        network: the feature network.
        device: where it runs.
    """

    def __init__(self, network: FeatureNetwork, device: torch.device) -> None:
        self.network = network
        self.device = device
        self.recorded = _RecordedFeatures(network.module)
        self.metric = _torcheval().FrechetInceptionDistance(self.recorded, network.dimensions, device)
        for state in ("real_sum", "real_cov_sum", "fake_sum", "fake_cov_sum"):
            setattr(self.metric, state, getattr(self.metric, state).double())
        self.real: list[Tensor] = []
        self.fake: list[Tensor] = []
        self.count = 0

    def update(self, pictures: Tensor, photos: Tensor) -> None:
        """Add pictures and the photos they stand for, each N x 3 x H x W float32 in [0, 1].

        Raises:
            ValueError: another type, a value outside [0, 1], or not as many pictures as photos.
        """
        if len(pictures) != len(photos):
            raise ValueError(f"found {len(pictures)} pictures and {len(photos)} photos, expected as many")
        for images, features, is_real in ((pictures, self.fake, False), (photos, self.real, True)):
            # torcheval checks this only for its own network, not for one around it.
            if images.dtype != torch.float32 or bool(((images < 0) | (images > 1)).any()):
                raise ValueError(
                    f"found {images.dtype} in [{images.min()}, {images.max()}], expected float32 in [0, 1]"
                )
            self.metric.update(images.to(self.device), is_real=is_real)
            features.append(self.recorded.features)
        self.count += len(photos)

    def compute(self) -> dict[str, dict[str, Any]]:
        """FID and KID of everything added so far, each with the fingerprint without which it means nothing.

        Returns:
            {"fid": {...}, "kid": {...}}, each with "value", "photos" (their number), the network's fingerprint and
            "versions"; "estimator" and "kernel" with KID; "note", a sentence, with a FID of too few photos.

        Raises:
            UserError: fewer than 2 photos, or a result that is no finite number.
        """
        if self.count < 2:
            raise UserError(
                f"FID and KID need at least 2 photos, found {self.count}; hold out more photos or pass --no-fid"
            )
        # Given no numbers, LAPACK complains on stdout and, from some hundred features on, crashes the process.
        finite = all(bool(total.isfinite().all()) for total in (self.metric.real_cov_sum, self.metric.fake_cov_sum))
        values = {
            "FID": float(self.metric.compute()) if finite else math.nan,
            "KID": kid(torch.cat(self.real), torch.cat(self.fake)),
        }
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name} of {self.count} photos is {value}, because features of theirs or of their pictures are no "
                    "finite numbers; give other --inception-weights or pass --no-fid"
                )
        common = {"photos": self.count, **self.network.fingerprint, "versions": _versions()}
        found: dict[str, dict[str, Any]] = {
            "fid": {"value": values["FID"], **common},
            "kid": {"value": values["KID"], **common, "estimator": KID_ESTIMATOR, "kernel": KID_KERNEL},
        }
        if self.count <= self.network.dimensions:
            found["fid"]["note"] = (
                f"{self.count} photos are too few for {self.network.dimensions} features: the covariances are "
                "rank-deficient and FID is strongly biased, so compare it only with that of as many photos, or use KID."
            )
        return found


def _versions() -> dict[str, str]:
    """Versions of the libraries on which the figures depend."""
    return {"torch": str(torch.__version__), **{name: version(name) for name in ("torchvision", "torcheval")}}
