"""TrainConfig: every hyper-parameter of a training run, with its description, default and bounds.

The options of cgan-train and their help are generated from it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from cgan.errors import UserError
from cgan.files import json_sha256
from cgan.spec import (
    LEAST_BLUR,
    MOST_BATCH,
    MOST_BLOCKS,
    MOST_BLUR,
    MOST_SIZE,
    MOST_WIDTH,
    SIZE_MULTIPLE,
    ColorSpaceName,
)

DiscriminatorName = Literal["unet", "patch", "dense", "projected", "none"]
"""The keys of `cgan.networks.DISCRIMINATORS`, and none: repeated here so that --help imports no torch (a test compares
them)."""

GanLossName = Literal["bce", "wasserstein", "hinge"]
"""The keys of `cgan.losses.GAN_LOSSES`."""

DiscriminatorNorm = Literal["batch", "none"]
LossSpace = Literal["native", "rgb"]
BestBy = Literal["auto", "fid", "kid", "psnr", "l1"]
TrainPrecision = Literal["auto", "fp32", "fp16", "bf16"]
Device = Literal["auto", "cpu", "cuda"]

DISCRIMINATOR_CHOICES: tuple[str, ...] = get_args(DiscriminatorName)
GAN_LOSS_CHOICES: tuple[str, ...] = get_args(GanLossName)
LOSS_SPACE_CHOICES: tuple[str, ...] = get_args(LossSpace)
BEST_BY_CHOICES: tuple[str, ...] = get_args(BestBy)
PRECISION_CHOICES: tuple[str, ...] = get_args(TrainPrecision)
DEVICE_CHOICES: tuple[str, ...] = get_args(Device)

RECIPES: dict[str, dict[str, Any]] = {
    "projected": {
        "gan_loss": "hinge",
        "l1_weight": 8.0,
        "adversarial_weight": 0.05,
        "lr": 4e-4,
        "beta1": 0.0,
        "beta2": 0.99,
    }
}
"""Values by discriminator that cgan-train takes for the options that are not given."""

INCEPTION = "inception"
"""Name of the feature network that alone gives FID and KID."""

T = TypeVar("T")


@dataclass(frozen=True)
class Bounds:
    """The values that a field accepts."""

    accept: Callable[[Any], bool]
    """Returns True for a valid value."""
    expected: str
    """The valid values in words, for help and messages: "at least 1"."""


def _from_to(least: float, most: float) -> Bounds:
    return Bounds(lambda value: least <= value <= most, f"{least:,} to {most:,}")


MOST_WEIGHT = 1e9
"""Largest weight of a loss: beside it fp32 resolves no other loss above 60."""

MOST_EPOCHS = 10**6
"""Most epochs: each writes its metrics and its curves anew."""

_LABEL = (lambda value: 0.5 < value <= 1, "a number in (0.5, 1]")
_DECAY = (lambda value: 0 <= value < 1, "a decay in [0, 1)")
_WEIGHT = Bounds(lambda value: 0 <= value <= MOST_WEIGHT, f"a number from 0 to {MOST_WEIGHT:g}")


def _option(
    default: T, description: str, accept: Bounds | Callable[[Any], bool] | None = None, expected: str = ""
) -> T:
    """Return a field with its default, its description and its bounds.

    Args:
        default: of the field, and of the option of the same name.
        description: what the field is, without its bounds; the option's help.
        accept: returns True for a valid value, or the bounds themselves; None where the type says all.
        expected: the valid values in words.
    """
    bounds = Bounds(accept, expected) if callable(accept) else accept
    return field(default=default, metadata={"description": description, "bounds": bounds})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Hyper-parameters of one run. Defaults are the original report's final configuration.

    Raises:
        UserError: a value is out of range; the message names its flag.
    """

    color_space: ColorSpaceName = _option("rgb", "Colour space that the generator predicts.")
    discriminator: DiscriminatorName = _option(
        "unet",
        "Discriminator network; with none, L1 alone trains the generator. projected judges by the frozen features of "
        "an ImageNet network (Sauer et al. 2021), and has defaults of its own for other options.",
    )
    gan_loss: GanLossName = _option("bce", "Adversarial loss.")
    loss_space: LossSpace = _option(
        "native",
        "Colours that L1 and the discriminator see with hsv and ycbcr: the colour space itself, or RGB converted from "
        "it (Ballester et al. 2022).",
    )
    l1_weight: float = _option(512.0, "Weight of the L1 term beside the adversarial term.", _WEIGHT)
    adversarial_weight: float = _option(1.0, "Weight of the adversarial term.", _WEIGHT)
    perceptual_weight: float = _option(
        0.0, "Weight of the loss between features of --discriminator projected (Johnson et al. 2016), 0 off.", _WEIGHT
    )
    color_weight: float = _option(0.0, "L1 weighs colourful pixels up to 1 plus this, often 3; 0 is off.", _WEIGHT)
    label_smoothing: float = _option(
        0.9,
        "Target of real photos in the discriminator's bce loss; generated ones get 1 minus it.",
        *_LABEL,
    )
    generator_label: float = _option(
        1.0,
        "Target of generated pictures in the generator's bce loss; the original report's code has 0.9.",
        *_LABEL,
    )
    discriminator_sum: bool = _option(
        False,
        "Sum the discriminator's bce losses of real and generated photos, as the original report's code does, instead "
        "of their mean.",
    )
    gradient_penalty: float = _option(
        0.0, "Weight of the Wasserstein gradient penalty (Gulrajani et al. 2017 use 10); 0 is off.", _WEIGHT
    )
    weight_clip: float = _option(
        0.0,
        "Bound of the Wasserstein discriminator's weights (Arjovsky et al. 2017 use 0.01); 0 is off.",
        _WEIGHT,
    )
    r1: float = _option(
        0.0, "Gamma of the R1 penalty on real photos (Mescheder et al. 2018 use 10); 0 is off.", _WEIGHT
    )
    spectral_norm: bool = _option(
        False, "Divide the discriminator's weights by their spectral norm (Miyato et al. 2018)."
    )
    # With batch norm a discriminator can tell photos from generated colours by the statistics of a batch, from which
    # the generator learns little. Without batch norm it judges each picture, and colours err less.
    discriminator_norm: DiscriminatorNorm = _option(
        "batch", "Normalisation in the discriminator; none gives smaller colour errors."
    )
    width: int = _option(32, "Channels of the generator's first convolution block.", _from_to(1, MOST_WIDTH))
    blocks: int = _option(1, "Convolution blocks at each scale of the generator.", _from_to(1, MOST_BLOCKS))
    input_blur: float = _option(
        0.0,
        "Standard deviation in pixels of a Gaussian blur in front of the generator, often 2 at size 128; colours then "
        "depend less on sharpness. 0 is off.",
        lambda value: value == 0 or LEAST_BLUR <= value <= MOST_BLUR,
        f"0, or a standard deviation from {LEAST_BLUR:g} to {MOST_BLUR:g} pixels",
    )
    discriminator_width: int = _option(
        0, "Channels of the discriminator's first convolution block; 0 is --width.", _from_to(0, MOST_WIDTH)
    )
    discriminator_blocks: int = _option(
        1, "Convolution blocks at each scale of the discriminator.", _from_to(1, MOST_BLOCKS)
    )
    discriminator_scales: int = _option(
        5, "Scales of the U-Net discriminator; fewer than 5 truncate it.", lambda value: 2 <= value <= 5, "2 to 5"
    )
    size: int = _option(
        128,
        "Photos are resized to this height and width in pixels, without keeping their aspect ratio.",
        lambda value: 2 * SIZE_MULTIPLE <= value <= MOST_SIZE and value % SIZE_MULTIPLE == 0,
        f"a multiple of {SIZE_MULTIPLE}, from {2 * SIZE_MULTIPLE} to {MOST_SIZE}",
    )
    epochs: int = _option(100, "Passes over the training photos.", _from_to(1, MOST_EPOCHS))
    warmup_epochs: int = _option(
        0,
        "First epochs with L1 alone, without the discriminator, at a third of the cost of a GAN epoch; 0 to --epochs.",
    )
    decay_epochs: int = _option(0, "Last epochs over which the learning rate falls linearly towards 0; 0 to --epochs.")
    batch_size: int = _option(64, "Photos per step, summed over all processes.", _from_to(1, MOST_BATCH))
    lr: float = _option(
        5e-4,
        "Adam's learning rate of both networks.",
        lambda value: 0 < value < float("inf"),
        "a finite number above 0",
    )
    beta1: float = _option(0.5, "Adam's decay of the mean gradient, for both networks.", *_DECAY)
    beta2: float = _option(0.999, "Adam's decay of the mean squared gradient, for both networks.", *_DECAY)
    ema: float = _option(
        0.0,
        "Decay of the moving average of the generator's weights, often 0.999; the average is evaluated and exported. "
        "0 is off.",
        *_DECAY,
    )
    seed: int = _option(
        0,
        "Seed of the split, the initial weights and the order of the photos.",
        lambda value: 0 <= value < 2**63,
        "a whole number in [0, 2^63)",
    )
    test_fraction: float = _option(
        0.02, "Share of the photos held out from training.", lambda value: 0 < value < 1, "a share between 0 and 1"
    )
    flip: bool = _option(False, "Mirror training photos at random.")
    crop: float = _option(
        1.0,
        "Smallest share of height and width that a random crop keeps of a training photo, often 0.6; 1 is off.",
        _from_to(0.1, 1),
    )
    sharpness: float = _option(
        0.0,
        "Largest amount by which the generator's training input is sharpened, often 3; the amount of each photo is "
        "random, from -1 (blurred) up. 0 is off.",
        _from_to(0, 10),
    )
    exposure: float = _option(
        1.0,
        "Raise the values of each training photo to a random power between 1 / this and this, often 1.5; 1 is off.",
        _from_to(1, 4),
    )
    precision: TrainPrecision = _option(
        "auto", "Arithmetic of training; auto: fp16 on CUDA, bf16 on CPUs that support it, else fp32."
    )
    device: Device = _option("auto", "Where to compute; auto: cuda where torch finds a CUDA device, else cpu.")
    compile: bool = _option(False, "Compile the networks with torch.compile before training.")
    fid: bool = _option(True, "Measure FID and KID on the held-out photos after each epoch.")
    features: str = _option(
        INCEPTION,
        "Feature network of the distances; an ONNX file maps float32 N x 3 x H x W in [0, 1] to N features. Distances "
        "are named after it, and fid and kid of --best-by are then its own.",
        lambda value: value != "",
        "inception, efficientnet-lite2 or the path of an ONNX file",
    )
    fid_quantize: bool = _option(
        False, "Truncate pictures to 8 bits before FID and KID, as the original report's code does."
    )
    best_by: BestBy = _option(
        "auto", "Held-out metric that chooses the best checkpoint; auto: fid, with --no-fid psnr."
    )
    save_every: int = _option(
        0, "Number of epochs after which another checkpoint is kept; 0 keeps none.", _from_to(0, MOST_EPOCHS)
    )
    init_sha256: str = ""
    """Digest of the generator weights that the run begins with (--init); empty for random weights. Not an option."""
    projected_sha256: str = ""
    """Digest of the frozen weights of --discriminator projected; empty without it. Not an option."""

    def __post_init__(self) -> None:
        for option in options():
            value = getattr(self, option.name)
            if option.choices:
                _check(value in option.choices, option.flag, value, ", ".join(option.choices))
            if option.bounds:
                _check(option.bounds.accept(value), option.flag, value, option.bounds.expected)
        for name in ("warmup_epochs", "decay_epochs"):
            _check(0 <= getattr(self, name) <= self.epochs, flag(name), getattr(self, name), "0 to --epochs")
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Raise UserError for options that have no effect with the others."""
        if self.color_space == "rgb":
            self._needs_default("loss_space", "--color-space hsv or ycbcr")
        if self.discriminator == "none":
            for name in (*_DISCRIMINATOR_OPTIONS, "gan_loss", "warmup_epochs"):
                self._needs_default(name, "a discriminator")
        if self.discriminator == "none" or self.warmup_epochs:
            _check(
                self.l1_weight > 0,
                "--l1-weight",
                self.l1_weight,
                "more than 0 where the generator learns from L1 alone",
            )
        if not self.l1_weight:
            self._needs_default("color_weight", "--l1-weight")
        if self.discriminator != "unet":
            self._needs_default("discriminator_scales", "--discriminator unet")
        if self.discriminator == "projected":
            for name in ("spectral_norm", "discriminator_norm", "weight_clip", "discriminator_blocks"):
                self._needs_default(name, "another discriminator, because that one always has spectral norm")
        else:
            self._needs_default("perceptual_weight", "--discriminator projected")
        if self.gan_loss != "bce":
            for name in ("label_smoothing", "generator_label", "discriminator_sum"):
                self._needs_default(name, "--gan-loss bce")
        if self.gan_loss != "wasserstein":
            self._needs_default("gradient_penalty", "--gan-loss wasserstein")
            self._needs_default("weight_clip", "--gan-loss wasserstein")
        if self.spectral_norm:
            _check(not self.weight_clip, "--weight-clip", self.weight_clip, "0 with --spectral-norm, which undoes it")
        if self.compile:
            for name in ("gradient_penalty", "r1"):
                value = getattr(self, name)
                _check(
                    not value, flag(name), value, "0 with --compile, because torch.compile cannot differentiate twice"
                )
        if not self.fid:
            _check(self.best_by not in ("fid", "kid"), "--best-by", self.best_by, "psnr or l1 with --no-fid")
            for name in ("features", "fid_quantize"):
                self._needs_default(name, "--fid")

    def _needs_default(self, name: str, needed: str) -> None:
        value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
        if value != default:
            raise UserError(f"{flag(name)} {value}: it has no effect without {needed}; leave it out")

    @property
    def loss_channels(self) -> int:
        """Colour channels in the discriminator's input, beside the gray one."""
        return 3 if self.color_space == "rgb" or self.loss_space == "rgb" else 2

    def lr_scale(self, epoch: int) -> float:
        """Return the factor of the learning rate in an epoch (from 1): 1, falling linearly in the last decay_epochs."""
        return min(1.0, (self.epochs - epoch + 1) / (self.decay_epochs + 1))

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return asdict(self)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON: equal for equal hyper-parameters."""
        return json_sha256(self.to_json())


_DISCRIMINATOR_OPTIONS = (
    "adversarial_weight",
    "label_smoothing",
    "generator_label",
    "discriminator_sum",
    "gradient_penalty",
    "weight_clip",
    "r1",
    "spectral_norm",
    "discriminator_norm",
    "discriminator_width",
    "discriminator_blocks",
    "discriminator_scales",
)


@dataclass(frozen=True)
class Option:
    """The option of cgan-train that sets one field of a TrainConfig."""

    name: str
    """Name of the field."""
    default: Any
    description: str
    choices: tuple[str, ...]
    """The words that it accepts; empty where it takes a number or is a switch."""
    bounds: Bounds | None

    @property
    def flag(self) -> str:
        """The option on the command line, "--l1-weight"."""
        return flag(self.name)

    @property
    def help(self) -> str:
        """Description and bounds."""
        return self.description + (f" Must be {self.bounds.expected}." if self.bounds else "")


@cache
def options() -> tuple[Option, ...]:
    """Return the options of cgan-train that TrainConfig describes, in the order of its fields."""
    types = get_type_hints(TrainConfig)
    return tuple(
        Option(
            name=f.name,
            default=f.default,
            description=f.metadata["description"],
            choices=get_args(types[f.name]),
            bounds=f.metadata["bounds"],
        )
        for f in fields(TrainConfig)
        if "description" in f.metadata
    )


def flag(name: str) -> str:
    """Return the flag of a field: "--l1-weight" for "l1_weight"."""
    return f"--{name.replace('_', '-')}"


def _check(valid: bool, flag: str, found: object, expected: str) -> None:
    if not valid:
        raise UserError(f"{flag}: found {found}, expected {expected}")
