"""TrainConfig: defaults, choices, ranges, combinations, digest."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from cgan.color import COLOR_TARGETS
from cgan.config import (
    BEST_BY_CHOICES,
    DEVICE_CHOICES,
    DISCRIMINATOR_CHOICES,
    GAN_LOSS_CHOICES,
    LOSS_SPACE_CHOICES,
    PRECISION_CHOICES,
    RECIPES,
    BestBy,
    LossSpace,
    TrainConfig,
    options,
)
from cgan.errors import UserError
from cgan.losses import GAN_LOSSES
from cgan.networks import DISCRIMINATORS
from cgan.spec import COLOR_SPACES, ColorSpaceName

NAN, INFINITY = float("nan"), float("inf")

CHOICES = {
    "color_space": COLOR_SPACES,
    "discriminator": DISCRIMINATOR_CHOICES,
    "gan_loss": GAN_LOSS_CHOICES,
    "loss_space": LOSS_SPACE_CHOICES,
    "precision": PRECISION_CHOICES,
    "device": DEVICE_CHOICES,
    "best_by": BEST_BY_CHOICES,
}
"""Values of each field that has a list of them."""

NEEDS: dict[str, dict[str, Any]] = {
    "loss_space": {"color_space": "hsv"},
    "gradient_penalty": {"gan_loss": "wasserstein"},
    "weight_clip": {"gan_loss": "wasserstein"},
    "perceptual_weight": {"discriminator": "projected"},
}
"""Other fields that a field needs if it is not at its default."""

OTHER_VALUES: dict[str, Any] = {
    "color_space": "ycbcr",
    "discriminator": "patch",
    "gan_loss": "hinge",
    "loss_space": "rgb",
    "l1_weight": 100.0,
    "adversarial_weight": 0.05,
    "generator_label": 0.9,
    "discriminator_sum": True,
    "discriminator_blocks": 2,
    "beta1": 0.0,
    "beta2": 0.99,
    "features": "efficientnet-lite2",
    "fid_quantize": True,
    "color_weight": 3.0,
    "perceptual_weight": 0.2,
    "label_smoothing": 0.8,
    "gradient_penalty": 10.0,
    "weight_clip": 0.01,
    "r1": 10.0,
    "spectral_norm": True,
    "discriminator_norm": "none",
    "width": 16,
    "blocks": 2,
    "discriminator_width": 64,
    "discriminator_scales": 4,
    "size": 64,
    "epochs": 3,
    "warmup_epochs": 2,
    "decay_epochs": 2,
    "batch_size": 8,
    "lr": 1e-3,
    "ema": 0.999,
    "seed": 1,
    "test_fraction": 0.1,
    "flip": True,
    "crop": 0.6,
    "sharpness": 3.0,
    "exposure": 1.5,
    "input_blur": 2.0,
    "precision": "bf16",
    "device": "cpu",
    "compile": True,
    "fid": False,
    "best_by": "l1",
    "save_every": 5,
    "init_sha256": "0" * 64,
    "projected_sha256": "0" * 64,
}
"""A valid value other than the default for each field."""


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def refusal(**values: Any) -> str:
    with pytest.raises(UserError) as caught:
        TrainConfig(**values)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults_are_the_final_configuration_of_the_report() -> None:
    config = TrainConfig()
    assert (config.color_space, config.discriminator, config.l1_weight) == ("rgb", "unet", 512)
    assert (config.width, config.size, config.epochs, config.batch_size) == (32, 128, 100, 64)
    assert (config.lr, config.test_fraction, config.label_smoothing, config.seed) == (5e-4, 0.02, 0.9, 0)
    assert (config.gan_loss, config.loss_space, config.blocks, config.discriminator_scales) == ("bce", "native", 1, 5)
    off = ("gradient_penalty", "weight_clip", "r1", "ema", "warmup_epochs", "decay_epochs", "discriminator_width")
    assert not any(getattr(config, name) for name in off)
    assert not (config.spectral_norm or config.flip or config.compile or config.sharpness or config.init_sha256)
    assert not (config.color_weight or config.perceptual_weight or config.input_blur)
    assert config.crop == config.exposure == config.adversarial_weight == config.generator_label == 1
    assert (config.beta1, config.beta2, config.features, config.discriminator_blocks) == (0.5, 0.999, "inception", 1)
    assert not (config.discriminator_sum or config.fid_quantize or config.projected_sha256)


def test_a_recipe_is_a_configuration() -> None:
    for discriminator, values in RECIPES.items():
        assert TrainConfig(**{**values, "discriminator": discriminator}).to_json().items() >= values.items()


def test_choices_are_the_registries() -> None:
    assert (*DISCRIMINATORS, "none") == DISCRIMINATOR_CHOICES
    assert tuple(GAN_LOSSES) == GAN_LOSS_CHOICES
    assert tuple(COLOR_TARGETS) == COLOR_SPACES


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in CHOICES.items() for value in values])
def test_every_choice_is_taken(field: str, value: str) -> None:
    assert getattr(TrainConfig(**{**NEEDS.get(field, {}), field: value}), field) == value


@pytest.mark.parametrize("field", CHOICES)
@pytest.mark.parametrize("value", ["lab", "", "RGB", "FID"])
def test_another_choice_is_refused_with_the_list(field: str, value: str) -> None:
    assert refusal(**{field: value}) == f"{flag(field)}: found {value}, expected {', '.join(CHOICES[field])}"


WEIGHT = "a number from 0 to 1e+09"
SIZE = "a multiple of 16, from 32 to 4096"

BAD_VALUES: dict[tuple[str, float], str] = {
    **{
        (name, value): WEIGHT
        for name in ("l1_weight", "adversarial_weight", "color_weight", "gradient_penalty", "weight_clip", "r1")
        for value in (-1e-9, -1.0, 1.1e9, INFINITY, NAN)
    },
    **{
        (name, value): f"{least} to {most:,}"
        for name, least, most in (
            *(("width", 1, 512), ("discriminator_width", 0, 512), ("blocks", 1, 64), ("discriminator_blocks", 1, 64)),
            *(("epochs", 1, 10**6), ("save_every", 0, 10**6), ("batch_size", 1, 2**16)),
        )
        for value in (least - 1, -4, most + 1, 2**63, 10**18)
    },
    **{(name, value): "0 to --epochs" for name in ("warmup_epochs", "decay_epochs") for value in (-1, 101)},
    **{
        (name, value): "a number in (0.5, 1]"
        for name in ("label_smoothing", "generator_label")
        for value in (0.0, 0.5, 1.1, NAN)
    },
    **{("discriminator_scales", value): "2 to 5" for value in (-2, 0, 1, 6)},
    **{("size", value): SIZE for value in (0, -32, 16, 33, 100, 4112, 1_600_000)},
    **{("lr", value): "a finite number above 0" for value in (0.0, -1e-3, INFINITY, NAN)},
    **{(name, value): "a decay in [0, 1)" for name in ("ema", "beta1", "beta2") for value in (-0.1, 1.0, NAN)},
    **{("crop", value): "0.1 to 1" for value in (0.0, 0.05, 1.1, NAN)},
    **{("sharpness", value): "0 to 10" for value in (-1.0, 11.0, NAN)},
    **{("exposure", value): "1 to 4" for value in (0.5, 4.1, NAN)},
    **{("input_blur", value): "0, or a standard deviation from 0.1 to 8 pixels" for value in (-1.0, 1e-30, 8.1, NAN)},
    **{("seed", value): "a whole number in [0, 2^63)" for value in (-1, 2**63)},
    **{("test_fraction", value): "a share between 0 and 1" for value in (0.0, 1.0, -0.1, NAN)},
}
"""Expected values in the message for (field, value)."""


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_flag(name: str, value: Any) -> None:
    expected = BAD_VALUES[name, value]
    assert refusal(**NEEDS.get(name, {}), **{name: value}) == f"{flag(name)}: found {value}, expected {expected}"


@pytest.mark.parametrize(
    "values",
    [
        {"l1_weight": 0.0},
        {"gan_loss": "wasserstein", "gradient_penalty": 1e-9},
        {"gan_loss": "wasserstein", "weight_clip": 1e9},
        {"r1": 1e9},
        {"label_smoothing": 1.0},
        {"label_smoothing": 0.500001},
        {"l1_weight": 1e9},
        {"width": 1},
        {"width": 512},
        {"blocks": 1},
        {"blocks": 64},
        {"discriminator_width": 1},
        {"discriminator_width": 512},
        {"discriminator_scales": 2},
        {"discriminator_scales": 5},
        {"size": 32},
        {"size": 48},
        {"size": 4096},
        {"epochs": 1},
        {"epochs": 10**6},
        {"epochs": 3, "warmup_epochs": 3, "decay_epochs": 3},
        {"batch_size": 1},
        {"batch_size": 2**16},
        {"lr": 1e-30},
        {"ema": 0.0},
        {"ema": 0.999999},
        {"crop": 0.1},
        {"sharpness": 10.0},
        {"exposure": 4.0},
        {"input_blur": 0.1},
        {"input_blur": 8.0},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"test_fraction": 0.999},
        {"save_every": 1000},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(values: dict[str, Any]) -> None:
    assert values.items() <= TrainConfig(**values).to_json().items()


# combinations

WITHOUT_EFFECT = [
    ({}, "loss_space", "rgb", "--color-space hsv or ycbcr"),
    *(
        ({"discriminator": "none"}, name, OTHER_VALUES[name], "a discriminator")
        for name in (
            *("label_smoothing", "gradient_penalty", "weight_clip", "r1", "spectral_norm"),
            *("discriminator_norm", "discriminator_width", "discriminator_scales", "gan_loss", "warmup_epochs"),
            *("adversarial_weight", "generator_label", "discriminator_sum", "discriminator_blocks"),
        )
    ),
    ({"l1_weight": 0.0}, "color_weight", 3.0, "--l1-weight"),
    *(({"discriminator": name}, "perceptual_weight", 0.2, "--discriminator projected") for name in ("unet", "none")),
    ({"discriminator": "patch"}, "discriminator_scales", 4, "--discriminator unet"),
    ({"discriminator": "dense"}, "discriminator_scales", 2, "--discriminator unet"),
    *(
        ({"discriminator": "projected", "gan_loss": "wasserstein"}, name, OTHER_VALUES[name], "another discriminator")
        for name in ("spectral_norm", "discriminator_norm", "weight_clip", "discriminator_blocks")
    ),
    *(({"fid": False}, name, OTHER_VALUES[name], "--fid") for name in ("features", "fid_quantize")),
    *(
        ({"gan_loss": "hinge"}, name, OTHER_VALUES[name], "--gan-loss bce")
        for name in ("generator_label", "discriminator_sum")
    ),
    ({"gan_loss": "hinge"}, "label_smoothing", 1.0, "--gan-loss bce"),
    ({"gan_loss": "wasserstein"}, "label_smoothing", 0.8, "--gan-loss bce"),
    *(
        ({"gan_loss": loss}, name, 0.01, "--gan-loss wasserstein")
        for loss in ("bce", "hinge")
        for name in ("gradient_penalty", "weight_clip")
    ),
]
"""(options, field without effect with them, its value, what it needs)."""


@pytest.mark.parametrize(("options", "name", "value", "needed"), WITHOUT_EFFECT)
def test_an_option_without_effect_is_refused(options: dict[str, Any], name: str, value: Any, needed: str) -> None:
    message = refusal(**options, **{name: value})
    assert message.startswith(f"{flag(name)} {value}: ")
    assert needed in message
    assert message.endswith("; leave it out")
    assert TrainConfig(**options).to_json().items() >= options.items()


@pytest.mark.parametrize("metric", ["fid", "kid"])
def test_a_metric_that_is_not_measured_cannot_choose_the_best(metric: BestBy) -> None:
    assert refusal(fid=False, best_by=metric) == f"--best-by: found {metric}, expected psnr or l1 with --no-fid"
    assert TrainConfig(fid=True, best_by=metric).best_by == metric


@pytest.mark.parametrize("metric", ["auto", "psnr", "l1"])
def test_a_metric_of_every_run_may_choose_the_best(metric: BestBy) -> None:
    assert TrainConfig(fid=False, best_by=metric).best_by == metric


@pytest.mark.parametrize(
    "values",
    [
        {"color_space": "hsv", "loss_space": "rgb", "discriminator": "none"},
        {"color_space": "ycbcr", "loss_space": "rgb", "discriminator": "dense", "gan_loss": "hinge", "r1": 1.0},
        {"discriminator": "none", "compile": True, "ema": 0.9, "blocks": 2, "decay_epochs": 9},
        {"discriminator": "patch", "gan_loss": "hinge", "spectral_norm": True, "discriminator_width": 8},
        {"gan_loss": "wasserstein", "gradient_penalty": 10.0, "weight_clip": 0.01, "r1": 1.0},
        {"discriminator_scales": 3, "label_smoothing": 1.0, "warmup_epochs": 5, "compile": True},
        {"gan_loss": "wasserstein", "weight_clip": 0.01, "compile": True},
    ],
)
def test_options_that_work_together_are_taken(values: dict[str, Any]) -> None:
    assert values.items() <= TrainConfig(**values).to_json().items()


# what follows from the options


@pytest.mark.parametrize(
    ("color_space", "loss_space", "channels"),
    [
        ("rgb", "native", 3),
        ("hsv", "native", 2),
        ("hsv", "rgb", 3),
        ("ycbcr", "native", 2),
        ("ycbcr", "rgb", 3),
    ],
)
def test_channels_that_the_losses_see(color_space: ColorSpaceName, loss_space: LossSpace, channels: int) -> None:
    assert TrainConfig(color_space=color_space, loss_space=loss_space).loss_channels == channels


def test_the_learning_rate_falls_on_a_line_over_the_last_epochs() -> None:
    config = TrainConfig(epochs=10, decay_epochs=4)
    scales = [config.lr_scale(epoch) for epoch in range(1, 11)]
    assert scales == pytest.approx([1, 1, 1, 1, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5], abs=1e-12)


@pytest.mark.parametrize("epochs", [1, 7])
def test_the_learning_rate_may_stay_or_fall_from_the_start(epochs: int) -> None:
    steady, falling = TrainConfig(epochs=epochs), TrainConfig(epochs=epochs, decay_epochs=epochs)
    whole = epochs + 1
    for epoch in range(1, epochs + 1):
        assert steady.lr_scale(epoch) == 1
        assert falling.lr_scale(epoch) == pytest.approx((whole - epoch) / whole)  # never 0


def test_each_field_changes_the_digest() -> None:
    assert OTHER_VALUES.keys() == {field.name for field in fields(TrainConfig)}
    digests = {TrainConfig().digest()}
    for name, value in OTHER_VALUES.items():
        without = TrainConfig(**NEEDS.get(name, {}))
        changed = replace(without, **{name: value})
        assert changed.digest() != without.digest()
        digests.add(changed.digest())
    assert len(digests) == len(OTHER_VALUES) + 1
    assert TrainConfig().digest() == TrainConfig(seed=0).digest()


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainConfig().epochs = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "flag", "found", "other"),
    [
        (
            {"compile": True, "gan_loss": "wasserstein", "gradient_penalty": 10.0},
            "--gradient-penalty",
            10.0,
            "--compile",
        ),
        ({"compile": True, "r1": 10.0}, "--r1", 10.0, "--compile"),
        (
            {"gan_loss": "wasserstein", "spectral_norm": True, "weight_clip": 0.1},
            "--weight-clip",
            0.1,
            "--spectral-norm",
        ),
        ({"discriminator": "none", "l1_weight": 0.0}, "--l1-weight", 0.0, "learns from L1 alone"),
        ({"warmup_epochs": 1, "l1_weight": 0.0}, "--l1-weight", 0.0, "learns from L1 alone"),
    ],
)
def test_options_that_cannot_work_together_are_refused(
    options: dict[str, Any], flag: str, found: float, other: str
) -> None:
    with pytest.raises(UserError) as error:
        TrainConfig(**options)
    assert str(error.value).startswith(f"{flag}: found {found}, expected ")
    assert other in str(error.value)


def test_every_field_but_the_digests_is_an_option_with_its_default() -> None:
    described = {option.name: option.default for option in options()}
    defaults = TrainConfig().to_json()
    assert described.keys() == defaults.keys() - {"init_sha256", "projected_sha256"}
    assert all(defaults[name] == default for name, default in described.items())


def test_every_option_says_its_bounds_or_its_choices() -> None:
    within_epochs = {"warmup_epochs", "decay_epochs"}
    for option in options():
        words = option.choices or isinstance(option.default, bool) or option.name in within_epochs
        assert bool(words) != (option.bounds is not None), option.name
        assert option.bounds is None or option.bounds.expected in option.help
