"""TrainConfig: every hyper-parameter of a training run, documented and validated."""

from dataclasses import asdict, dataclass
from typing import Any

from cgan.errors import UserError
from cgan.files import json_sha256
from cgan.spec import COLOR_SPACES, SIZE_MULTIPLE

DISCRIMINATOR_CHOICES = ("unet", "patch", "dense", "none")
"""The keys of `cgan.networks.DISCRIMINATORS` and none, repeated so that --help need not import torch (a test compares
them)."""

DISCRIMINATOR_NORM_CHOICES = ("batch", "none")
GAN_LOSS_CHOICES = ("bce", "wasserstein", "hinge")
"""The keys of `cgan.losses.GAN_LOSSES`."""

LOSS_SPACE_CHOICES = ("native", "rgb")
BEST_BY_CHOICES = ("auto", "fid", "kid", "psnr", "l1")
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
    """Colour space that the generator predicts; one of COLOR_SPACES."""
    discriminator: str = "unet"
    """One of DISCRIMINATOR_CHOICES; with none the generator learns from L1 alone."""
    gan_loss: str = "bce"
    """Adversarial loss; one of GAN_LOSS_CHOICES."""
    loss_space: str = "native"
    """Whether L1 and discriminator see the colour space itself or RGB made of it (Ballester et al. 2022)."""
    l1_weight: float = 512.0
    """Weight of the L1 term beside the adversarial term in the generator's loss."""
    color_weight: float = 0.0
    """How much more colourful pixels weigh in L1, see `cgan.losses.color_weights`; 0 is off."""
    label_smoothing: float = 0.9
    """Target of real photos in the discriminator's bce loss; fake ones get 1 minus it."""
    gradient_penalty: float = 0.0
    """Weight of the Wasserstein gradient penalty (Gulrajani et al. 2017 use 10); 0 is off."""
    weight_clip: float = 0.0
    """Bound of the Wasserstein discriminator's weights (Arjovsky et al. 2017 use 0.01); 0 is off."""
    r1: float = 0.0
    """Gamma of the R1 penalty on real photos (Mescheder et al. 2018 use 10); 0 is off."""
    spectral_norm: bool = False
    """Whether the discriminator's weights are divided by their spectral norm (Miyato et al. 2018)."""
    discriminator_norm: str = "batch"
    """One of DISCRIMINATOR_NORM_CHOICES. With batch norm it can tell photos from colours by the statistics of their
    batches, from which the generator learns little; without it goes by each picture, and colours err less."""
    width: int = 32
    """Channels of the generator's first convolution block."""
    blocks: int = 1
    """Convolution blocks at each scale of the generator."""
    input_blur: float = 0.0
    """Standard deviation, in pixels, of the Gaussian blur through which the generator sees a photo, in training and
    ever after; 0 is off. Colours then depend less on how sharp a photo is."""
    discriminator_width: int = 0
    """Channels of the discriminator's first convolution block; 0 is the generator's."""
    discriminator_scales: int = 5
    """Scales of the U-Net discriminator; fewer than 5 truncate it."""
    size: int = 128
    """Photos are resized to size x size pixels."""
    epochs: int = 100
    warmup_epochs: int = 0
    """First epochs in which the generator learns from L1 alone, at a third of the cost of a GAN epoch."""
    decay_epochs: int = 0
    """Last epochs over which the learning rate falls linearly towards 0."""
    batch_size: int = 64
    """Photos in a step, over all processes."""
    lr: float = 5e-4
    """Adam's learning rate of both networks."""
    ema: float = 0.0
    """Decay of the average of the generator's weights that is evaluated and exported in their place; 0 is off."""
    seed: int = 0
    """Seed of the split, the initial weights and the order of the photos."""
    test_fraction: float = 0.02
    """Share of the photos that is held out from training."""
    flip: bool = False
    """Whether training photos are mirrored at random."""
    crop: float = 1.0
    """Smallest share of a training photo's height and width that is kept of it at random; 1 is off."""
    sharpness: float = 0.0
    """Largest amount by which the generator's training input is sharpened; each photo has its own, from -1 (blurred)
    on; see `cgan.data.augment.sharpened`. 0 is off."""
    exposure: float = 1.0
    """Training photos are raised to a power of their own between 1 / exposure and exposure: darker and lighter prints
    of the same scene; see `cgan.data.augment.exposed`. 1 is off."""
    precision: str = "auto"
    """One of PRECISION_CHOICES; auto is fp16 on CUDA, bf16 on CPUs that compute in it, else fp32."""
    device: str = "auto"
    """One of DEVICE_CHOICES; auto is cuda where torch finds one."""
    compile: bool = False
    """Whether torch.compile translates the networks before training."""
    fid: bool = True
    """Whether FID and KID on the held-out photos are measured after each epoch."""
    best_by: str = "auto"
    """Held-out metric that chooses the best checkpoint; auto is fid where it is measured, else psnr."""
    save_every: int = 0
    """A checkpoint to keep is written every so many epochs; 0 is never."""
    init_sha256: str = ""
    """Digest of the generator weights that the run begins with (--init); empty is random ones."""

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_ranges()
        self._check_combinations()

    def _check_choices(self) -> None:
        _choice("--color-space", self.color_space, COLOR_SPACES)
        _choice("--discriminator", self.discriminator, DISCRIMINATOR_CHOICES)
        _choice("--discriminator-norm", self.discriminator_norm, DISCRIMINATOR_NORM_CHOICES)
        _choice("--gan-loss", self.gan_loss, GAN_LOSS_CHOICES)
        _choice("--loss-space", self.loss_space, LOSS_SPACE_CHOICES)
        _choice("--precision", self.precision, PRECISION_CHOICES)
        _choice("--device", self.device, DEVICE_CHOICES)
        _choice("--best-by", self.best_by, BEST_BY_CHOICES)

    def _check_ranges(self) -> None:
        for name in ("l1_weight", "color_weight", "gradient_penalty", "weight_clip", "r1"):
            value = getattr(self, name)
            _check(0 <= value < float("inf"), _flag(name), value, "a finite number of at least 0")
        for name in ("width", "blocks", "epochs", "batch_size"):
            _check(getattr(self, name) >= 1, _flag(name), getattr(self, name), "at least 1")
        for name in ("discriminator_width", "save_every"):
            _check(getattr(self, name) >= 0, _flag(name), getattr(self, name), "at least 0")
        for name in ("warmup_epochs", "decay_epochs"):
            _check(0 <= getattr(self, name) <= self.epochs, _flag(name), getattr(self, name), "0 to --epochs")
        _check(0.5 < self.label_smoothing <= 1, "--label-smoothing", self.label_smoothing, "a number in (0.5, 1]")
        _check(2 <= self.discriminator_scales <= 5, "--discriminator-scales", self.discriminator_scales, "2 to 5")
        _check(
            self.size >= 2 * SIZE_MULTIPLE and self.size % SIZE_MULTIPLE == 0,
            "--size",
            self.size,
            f"a multiple of {SIZE_MULTIPLE}, at least {2 * SIZE_MULTIPLE}",
        )
        _check(0 < self.lr < float("inf"), "--lr", self.lr, "a finite number above 0")
        _check(0 <= self.ema < 1, "--ema", self.ema, "a decay in [0, 1)")
        _check(0 <= self.seed < 2**63, "--seed", self.seed, "a whole number in [0, 2^63)")
        _check(0.1 <= self.crop <= 1, "--crop", self.crop, "a share from 0.1 to 1")
        _check(0 <= self.sharpness <= 10, "--sharpness", self.sharpness, "an amount from 0 to 10")
        blurs = self.input_blur == 0 or 0.1 <= self.input_blur <= 8
        _check(blurs, "--input-blur", self.input_blur, "0, or a standard deviation from 0.1 to 8 pixels")
        _check(1 <= self.exposure <= 4, "--exposure", self.exposure, "a power from 1 to 4")
        _check(0 < self.test_fraction < 1, "--test-fraction", self.test_fraction, "a share between 0 and 1")

    def _check_combinations(self) -> None:
        """Refuse options that would have no effect beside the others."""
        if self.color_space == "rgb":
            self._needs_default("loss_space", "--color-space hsv or ycbcr")
        if self.discriminator == "none":
            for name in (*_DISCRIMINATOR_OPTIONS, "gan_loss", "warmup_epochs"):
                self._needs_default(name, "a discriminator")
        if self.discriminator == "none" or self.warmup_epochs:
            _check(
                self.l1_weight > 0, "--l1-weight", self.l1_weight, "more than 0 where L1 is all there is to learn from"
            )
        if not self.l1_weight:
            self._needs_default("color_weight", "--l1-weight")
        if self.discriminator != "unet":
            self._needs_default("discriminator_scales", "--discriminator unet")
        if self.gan_loss != "bce":
            self._needs_default("label_smoothing", "--gan-loss bce")
        if self.gan_loss != "wasserstein":
            self._needs_default("gradient_penalty", "--gan-loss wasserstein")
            self._needs_default("weight_clip", "--gan-loss wasserstein")
        if self.spectral_norm:
            _check(not self.weight_clip, "--weight-clip", self.weight_clip, "0 with --spectral-norm, which undoes it")
        if self.compile:
            for name in ("gradient_penalty", "r1"):
                value = getattr(self, name)
                _check(
                    not value, _flag(name), value, "0 with --compile, because torch.compile cannot differentiate twice"
                )
        if not self.fid:
            _check(self.best_by not in ("fid", "kid"), "--best-by", self.best_by, "psnr or l1 with --no-fid")

    def _needs_default(self, name: str, needed: str) -> None:
        value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
        if value != default:
            raise UserError(f"{_flag(name)} {value}: it has no effect without {needed}; leave it out")

    @property
    def loss_channels(self) -> int:
        """Channels that the discriminator sees beside the gray one."""
        return 3 if self.color_space == "rgb" or self.loss_space == "rgb" else 2

    def lr_scale(self, epoch: int) -> float:
        """Factor of the learning rate in an epoch (from 1 on): 1, in the last decay_epochs a line towards 0."""
        return min(1.0, (self.epochs - epoch + 1) / (self.decay_epochs + 1))

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return asdict(self)

    def digest(self) -> str:
        """sha256 of the canonical JSON: equal for runs of equal hyper-parameters."""
        return json_sha256(self.to_json())


_DISCRIMINATOR_OPTIONS = (
    "label_smoothing",
    "gradient_penalty",
    "weight_clip",
    "r1",
    "spectral_norm",
    "discriminator_norm",
    "discriminator_width",
    "discriminator_scales",
)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _choice(flag: str, found: str, choices: tuple[str, ...]) -> None:
    _check(found in choices, flag, found, ", ".join(choices))


def _check(valid: bool, flag: str, found: object, expected: str) -> None:
    if not valid:
        raise UserError(f"{flag}: found {found}, expected {expected}")
