"""The projected discriminator: its heads, the pictures that it sees, and runs with it.

Its frozen network has seeded random weights of the pretrained one's architecture (`random_weights`).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from cgan import efficientnet
from cgan.cli import main
from cgan.color import COLOR_TARGETS
from cgan.config import RECIPES, LossSpace, TrainConfig
from cgan.networks import build_discriminator
from cgan.projected import ProjectedDiscriminator, projected_side
from cgan.spec import ColorSpaceName

Train = Callable[..., Any]


def judge(**options: Any) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    network = build_discriminator(TrainConfig(**{"discriminator": "projected", "width": 2, "size": 32, **options}))
    assert isinstance(network, ProjectedDiscriminator)
    return network.eval()


def photos(size: int = 32) -> Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "side"), [(32, 96), (64, 96), (96, 96), (112, 128), (128, 128), (224, 224), (256, 224), (4096, 224)]
)
def test_the_side_that_the_frozen_network_sees(size: int, side: int) -> None:
    assert projected_side(size) == side


@pytest.mark.parametrize(("size", "coarsest"), [(32, 3), (128, 4)])
@pytest.mark.slow
def test_every_scale_has_as_many_logits(size: int, coarsest: int) -> None:
    logits = judge(size=size)(torch.rand(2, 4, size, size))
    assert logits.shape == (2, 5, coarsest, coarsest)


@pytest.mark.slow
def test_only_the_heads_are_trained_and_kept() -> None:
    network = judge()
    heads = {f"heads.{name}" for name, _ in network.heads.named_parameters()}
    assert {name for name, _ in network.named_parameters()} == heads
    assert all(name.startswith("heads.") for name in network.state_dict())
    wide = judge(discriminator_width=4)
    assert [layer.out_channels for layer in wide.heads.modules() if isinstance(layer, nn.Conv2d)][:2] == [16, 16]


def test_each_scale_s_colours_reach_the_logits() -> None:
    x = torch.rand(1, 4, 32, 32).requires_grad_()
    logits = judge()(x)
    for scale in range(5):
        (gradient,) = torch.autograd.grad(logits[0, scale].sum(), x, retain_graph=True)
        assert gradient[:, 1:].any()
        assert not gradient[:, 0].any()  # RGB has the luma in it


@pytest.mark.parametrize("space", ["hsv", "ycbcr"])
@pytest.mark.slow
def test_it_sees_rgb_whatever_the_colour_space(space: ColorSpaceName) -> None:
    seen = []
    spaces: tuple[tuple[ColorSpaceName, LossSpace], ...] = (("rgb", "native"), (space, "native"), (space, "rgb"))
    for name, loss_space in spaces:
        gray, colors = COLOR_TARGETS[name if loss_space == "native" else "rgb"].split(photos())
        seen.append(judge(color_space=name, loss_space=loss_space)(torch.cat([gray, colors], 1)))
    # A conversion is exact to 1e-4, and random layers enlarge differences.
    assert torch.allclose(seen[1], seen[0], atol=1e-2 * float(seen[0].detach().abs().max()))
    assert torch.equal(seen[2], seen[0])


@pytest.mark.slow
def test_heads_have_spectral_norm() -> None:
    network = judge().train()
    with torch.no_grad():
        for _ in range(60):  # a power iteration each
            for head, channels in zip(network.heads, (16, 24, 40, 112, 320), strict=True):
                head(torch.rand(1, channels, 16, 16))
    for layer in network.heads.modules():
        if isinstance(layer, nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.03)


# runs


@pytest.fixture
def train(invoke: Train, photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]) -> Train:
    """`train(*options, out=...)`: a tiny run into tmp_path / "run"."""

    def call(*options: object, out: str = "run") -> Any:
        return invoke(main, photo_folder, "--out", tmp_path / out, *tiny_options, *options)

    return call


PROJECTED = ("--discriminator", "projected")


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_never_stopped(train: Train, tmp_path: Path) -> None:
    options = (*PROJECTED, "--ema", 0.5, "--perceptual-weight", 0.2)
    assert train(*options, "--epochs", 2).code == 0
    assert train(*options, "--epochs", 1, out="again").code == 0
    assert train("--resume", "--epochs", 2, out="again").code == 0
    name = Path("checkpoints") / "last.training.safetensors"
    with safe_open(tmp_path / "run" / name, "pt") as one, safe_open(tmp_path / "again" / name, "pt") as other:
        keys = set(one.keys())
        assert keys == set(other.keys())
        assert all(torch.equal(one.get_tensor(key), other.get_tensor(key)) for key in keys)
    assert {key.split(".")[1] for key in keys if key.startswith("discriminator.")} == {"heads"}


@pytest.mark.slow
def test_the_perceptual_loss_alone_trains_the_generator(train: Train, tmp_path: Path) -> None:
    alone = ("--l1-weight", 0, "--adversarial-weight", 0, "--perceptual-weight", 1)
    assert train(*PROJECTED, *alone, "--lr", 3e-3, "--epochs", 6).code == 0
    losses = [json.loads(line)["train_perceptual"] for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert 0 < losses[-1] < 0.95 * losses[0]


@pytest.mark.slow
def test_a_run_goes_on_only_with_the_frozen_weights_that_it_began_with(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(*PROJECTED, "--epochs", 1).code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(config["projected_sha256"]) == 64
    path = efficientnet._packaged("lite0")
    assert path is not None
    state = torch.load(path, weights_only=True)
    next(iter(state.values()))[0] += 1
    torch.save(state, tmp_path / "other.pth")
    monkeypatch.setattr(efficientnet, "_packaged", lambda variant: tmp_path / "other.pth")
    error = train("--resume", "--epochs", 2).error(2)
    assert f"expected {config['projected_sha256'][:16]}... that the run began with" in error and "other.pth" in error


def test_missing_weights_are_refused_before_anything_is_written(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgan.efficientnet._packaged", lambda variant: tmp_path / "none.pth")
    error = train(*PROJECTED).error(2)
    assert error.startswith("error: --discriminator projected needs the weights of EfficientNet-Lite0, found none in ")
    assert error.endswith("install them with pip install 'cgan[projected]'")
    assert not (tmp_path / "run").exists()


def test_it_has_defaults_of_its_own_unless_options_are_given(train: Train) -> None:
    plan = json.loads(train(*PROJECTED, "--dry-run").out)
    assert RECIPES["projected"].items() <= plan.items()
    plan = json.loads(train(*PROJECTED, "--lr", 0.125, "--gan-loss", "bce", "--dry-run").out)
    assert (plan["lr"], plan["gan_loss"], plan["beta2"]) == (0.125, "bce", 0.99)
    plan = json.loads(train("--dry-run").out)
    assert (plan["lr"], plan["gan_loss"], plan["beta2"]) == (5e-4, "bce", 0.999)
