"""TrainConfig: every hyper-parameter of a training run, documented and validated."""

from dataclasses import asdict, dataclass
from typing import Any

from cgan.spec import SIZE_MULTIPLE, UserError, json_sha256

DISCRIMINATOR_CHOICES = ("unet", "patch", "dense")
"""The keys of `cgan.networks.DISCRIMINATORS`, repeated so that --help need not import torch (a test compares them)."""

PRECISION_CHOICES = ("auto", "fp32", "fp16", "bf16")
DEVICE_CHOICES = ("auto", "cpu", "cuda")

ADAM_BETAS = (0.5, 0.999)
"""Adam's decay rates for both networks, as in DCGAN (Radford et al. 2016)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Hyper-parameters of one run. Defaults are the report's final configuration.

    Raises:
        UserError: a value is out of range; the message names its flag.
    """

    color_space: str = "rgb"
    """Colour space that the generator predicts."""
    discriminator: str = "unet"
    """One of DISCRIMINATOR_CHOICES."""
    l1_weight: float = 512.0
    """Weight of the L1 term beside the adversarial term in the generator's loss."""
    label_smoothing: float = 0.9
    """Target of real photos in the discriminator's loss; fake ones get 1 minus it."""
    width: int = 32
    """Channels of the first convolution block of both networks."""
    size: int = 128
    """Photos are resized to size x size pixels."""
    epochs: int = 100
    warmup_epochs: int = 0
    """First epochs in which the generator learns from L1 alone, at a third of the cost of a GAN epoch."""
    batch_size: int = 64
    lr: float = 5e-4
    """Adam's learning rate of both networks."""
    seed: int = 0
    """Seed of the split, the initial weights and the order of the photos."""
    test_fraction: float = 0.02
    """Share of the photos that is held out from training."""
    flip: bool = False
    """Whether training photos are mirrored at random."""
    precision: str = "auto"
    """One of PRECISION_CHOICES; auto is fp16 on CUDA, bf16 on CPUs that compute in it, else fp32."""
    device: str = "auto"
    """One of DEVICE_CHOICES; auto is cuda where torch finds one."""
    fid: bool = True
    """Whether FID on the held-out photos is measured after each epoch."""

    def __post_init__(self) -> None:
        _check(self.color_space == "rgb", "color space", self.color_space, "rgb")
        _check(self.discriminator in DISCRIMINATOR_CHOICES, "--discriminator", self.discriminator, "unet, patch, dense")
        _check(0 <= self.l1_weight < float("inf"), "--l1-weight", self.l1_weight, "a finite number of at least 0")
        _check(0.5 < self.label_smoothing <= 1, "--label-smoothing", self.label_smoothing, "a number in (0.5, 1]")
        _check(self.width >= 1, "--width", self.width, "at least 1")
        _check(
            self.size >= 2 * SIZE_MULTIPLE and self.size % SIZE_MULTIPLE == 0,
            "--size",
            self.size,
            f"a multiple of {SIZE_MULTIPLE}, at least {2 * SIZE_MULTIPLE}",
        )
        _check(self.epochs >= 1, "--epochs", self.epochs, "at least 1")
        _check(0 <= self.warmup_epochs <= self.epochs, "--warmup-epochs", self.warmup_epochs, "0 to --epochs")
        _check(self.batch_size >= 1, "--batch-size", self.batch_size, "at least 1")
        _check(0 < self.lr < float("inf"), "--lr", self.lr, "a finite number above 0")
        _check(0 <= self.seed < 2**63, "--seed", self.seed, "a whole number in [0, 2^63)")
        _check(0 < self.test_fraction < 1, "--test-fraction", self.test_fraction, "a share between 0 and 1")
        _check(self.precision in PRECISION_CHOICES, "--precision", self.precision, ", ".join(PRECISION_CHOICES))
        _check(self.device in DEVICE_CHOICES, "--device", self.device, ", ".join(DEVICE_CHOICES))

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return asdict(self)

    def digest(self) -> str:
        """sha256 of the canonical JSON: equal for runs of equal hyper-parameters."""
        return json_sha256(self.to_json())


def _check(valid: bool, flag: str, found: object, expected: str) -> None:
    if not valid:
        raise UserError(f"{flag}: found {found}, expected {expected}")
