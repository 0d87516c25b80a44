"""TrainConfig: defaults, ranges, digest."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from cgan.config import DISCRIMINATOR_CHOICES, TrainConfig
from cgan.networks import DISCRIMINATORS
from cgan.spec import UserError

OTHER_VALUES = {
    "discriminator": "patch",
    "l1_weight": 100.0,
    "label_smoothing": 0.8,
    "width": 16,
    "size": 64,
    "epochs": 3,
    "warmup_epochs": 2,
    "batch_size": 8,
    "lr": 1e-3,
    "seed": 1,
    "test_fraction": 0.1,
    "flip": True,
    "precision": "bf16",
    "device": "cpu",
    "fid": False,
}
"""A valid value other than the default for each field that has one."""


def test_defaults_are_the_final_configuration_of_the_report() -> None:
    config = TrainConfig()
    assert (config.color_space, config.discriminator, config.l1_weight) == ("rgb", "unet", 512)
    assert (config.width, config.size, config.epochs, config.batch_size) == (32, 128, 100, 64)
    assert (config.lr, config.test_fraction, config.label_smoothing, config.seed) == (5e-4, 0.02, 0.9, 0)


def test_choices_of_the_command_are_the_networks_there_are() -> None:
    assert tuple(DISCRIMINATORS) == DISCRIMINATOR_CHOICES


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("color_space", "lab", "color space"),
        ("discriminator", "vit", "--discriminator"),
        ("l1_weight", -1.0, "--l1-weight"),
        ("l1_weight", float("inf"), "--l1-weight"),
        ("l1_weight", float("nan"), "--l1-weight"),
        ("label_smoothing", 0.5, "--label-smoothing"),
        ("label_smoothing", 1.1, "--label-smoothing"),
        ("label_smoothing", float("nan"), "--label-smoothing"),
        ("width", 0, "--width"),
        ("width", -4, "--width"),
        ("size", 0, "--size"),
        ("size", 16, "--size"),
        ("size", 100, "--size"),
        ("epochs", 0, "--epochs"),
        ("warmup_epochs", -1, "--warmup-epochs"),
        ("warmup_epochs", 101, "--warmup-epochs"),
        ("batch_size", 0, "--batch-size"),
        ("lr", 0.0, "--lr"),
        ("lr", -1e-3, "--lr"),
        ("lr", float("inf"), "--lr"),
        ("lr", float("nan"), "--lr"),
        ("seed", -1, "--seed"),
        ("seed", 2**63, "--seed"),
        ("test_fraction", 0.0, "--test-fraction"),
        ("test_fraction", 1.0, "--test-fraction"),
        ("test_fraction", float("nan"), "--test-fraction"),
        ("precision", "fp8", "--precision"),
        ("device", "tpu", "--device"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_flag(field: str, value: Any, flag: str) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig(**{field: value})
    assert str(caught.value).startswith(f"{flag}: found {value}, expected ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "values",
    [
        {"l1_weight": 0.0},
        {"label_smoothing": 1.0},
        {"width": 1},
        {"size": 32},
        {"epochs": 1},
        {"epochs": 3, "warmup_epochs": 3},
        {"batch_size": 1},
        {"seed": 2**63 - 1},
        {"test_fraction": 0.999},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(values: dict[str, Any]) -> None:
    assert values.items() <= TrainConfig(**values).to_json().items()


def test_each_field_changes_the_digest() -> None:
    assert OTHER_VALUES.keys() == {f.name for f in fields(TrainConfig)} - {"color_space"}
    digests = [TrainConfig().digest(), *(replace(TrainConfig(), **{k: v}).digest() for k, v in OTHER_VALUES.items())]
    assert len(set(digests)) == len(digests)
    assert TrainConfig().digest() == TrainConfig(seed=0).digest()


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainConfig().epochs = 5  # type: ignore[misc]
