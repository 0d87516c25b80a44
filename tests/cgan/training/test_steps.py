"""One training step, compared with the same step written out."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgan.color import COLOR_TARGETS
from cgan.config import TrainConfig
from cgan.data.augment import exposed
from cgan.data.prepared import Photos
from cgan.spec import COLOR_SPACES, ColorSpaceName
from cgan.training.checkpoint import weights_digest
from cgan.training.loop import setup
from cgan.training.run_state import Run
from cgan.training.steps import Batch, Losses, train_step
from cgan.training.stopwatch import Stopwatch
from tests.cgan.textbook import MIX, flattery, judged

BASE = TrainConfig(width=2, size=32, epochs=1, batch_size=4, test_fraction=0.25, fid=False, l1_weight=3.0, lr=1e-2)
CONFIG = replace(BASE, discriminator="patch", device="cpu", precision="fp32")

ALWAYS = {"l1", "generator_gradient_norm"}
WITH_DISCRIMINATOR = {
    *ALWAYS,
    *("adversarial", "discriminator_loss", "discriminator_accuracy", "discriminator_gradient_norm"),
}

WASSERSTEIN = {"gan_loss": "wasserstein"}


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory, photos: Photos) -> Callable[..., Run]:
    """`start(**options)`: a new run in a folder of its own."""

    def new(**options: Any) -> Run:
        return setup(tmp_path_factory.mktemp("steps") / "run", replace(CONFIG, **options), photos)

    return new


def batch(run: Run, first: int = 0, weight: float = 1.0) -> Batch:
    """Four photos of the run."""
    return Batch(run.photos(torch.arange(first, first + 4)), MIX, weight)


def step(run: Run, first: int = 0, weight: float = 1.0, warmup: bool = False) -> Losses:
    return train_step(run, batch(run, first, weight), Stopwatch(run.device), warmup)


def judge_of(run: Run) -> nn.Module:
    assert run.discriminator is not None
    return run.discriminator


def gradients(network: nn.Module) -> list[Tensor]:
    found = [weights.grad for weights in network.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    """Equal up to the rounding of sums of the size of all of them."""
    scale = max(tensor.abs().max().item() for tensor in expected)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale)


def norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors]).norm())


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.7, "generator_label": 0.8, "discriminator_sum": True},
        {"adversarial_weight": 0.25, "discriminator_blocks": 2},
        {"discriminator": "unet"},
        {"discriminator": "dense", "gan_loss": "hinge"},
        {"r1": 10.0, "color_space": "ycbcr"},
        WASSERSTEIN,
        {**WASSERSTEIN, "gradient_penalty": 10.0},
        {**WASSERSTEIN, "gradient_penalty": 3.0, "r1": 2.0, "color_space": "hsv", "loss_space": "rgb"},
        {**WASSERSTEIN, "weight_clip": 0.05},
        {"discriminator": "unet", "discriminator_scales": 2, "blocks": 2, "gan_loss": "hinge", "r1": 1.0},
    ],
)
@pytest.mark.slow
def test_both_networks_descend_their_textbook_objectives(start: Callable[..., Run], options: dict[str, Any]) -> None:
    run = start(**options)
    generator, judge = copy.deepcopy(run.generator), copy.deepcopy(judge_of(run))
    gray, truth = run.gray_and_truth(batch(run).pixels)
    losses = step(run)

    colors = run.in_loss_space(gray, generator(gray))
    objective, said = judged(run, judge, gray, truth, colors.detach())
    expected = list(torch.autograd.grad(objective, list(judge.parameters())))
    assert_close(gradients(judge_of(run)), expected)  # the generator's own step left nothing in them
    assert losses["discriminator_gradient_norm"].item() == pytest.approx(norm(expected), rel=1e-3)

    updated = copy.deepcopy(judge_of(run))
    adversarial = flattery(run.config, updated(torch.cat([gray, colors], 1)))
    l1 = (colors - truth).abs().mean()
    loss = run.config.adversarial_weight * adversarial + 3 * l1
    expected = list(torch.autograd.grad(loss, list(generator.parameters()), retain_graph=True))
    assert_close(gradients(run.generator), expected)
    assert losses["generator_gradient_norm"].item() == pytest.approx(norm(expected), rel=1e-3)
    for name, value in {**said, "adversarial": adversarial, "l1": l1}.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)

    before = flattery(run.config, judge(torch.cat([gray, colors], 1)))  # the test could not tell otherwise
    assert before.item() != pytest.approx(adversarial.item(), rel=1e-3, abs=1e-5)


def test_the_steps_are_adam_s(start: Callable[..., Run]) -> None:
    run = start(lr=3e-3)
    copies = {name: copy.deepcopy(network) for name, network in run.networks.items()}
    adams = {name: torch.optim.Adam(network.parameters(), 3e-3, (0.5, 0.999)) for name, network in copies.items()}
    for first in (0, 4, 2):
        step(run, first)
        for name, network in copies.items():
            for weights, gradient in zip(network.parameters(), gradients(run.networks[name]), strict=True):
                weights.grad = gradient
            adams[name].step()
    for name, network in copies.items():
        assert_close(list(run.networks[name].parameters()), list(network.parameters()), 1e-6)


@pytest.mark.slow
def test_each_side_learns_to_beat_the_other(start: Callable[..., Run]) -> None:
    run = start(l1_weight=0.0)
    run.optimizers["generator_adam"].param_groups[0]["lr"] = 0.0
    losses = [step(run) for _ in range(8)]
    assert losses[-1]["discriminator_loss"] < losses[0]["discriminator_loss"]
    assert losses[-1]["adversarial"] > losses[0]["adversarial"]
    run.optimizers["generator_adam"].param_groups[0]["lr"] = 1e-2
    run.optimizers["discriminator_adam"].param_groups[0]["lr"] = 0.0
    losses = [step(run) for _ in range(8)]
    assert losses[-1]["adversarial"] < losses[0]["adversarial"]


# what a step reports and leaves


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, WITH_DISCRIMINATOR),
        ({"discriminator": "none"}, ALWAYS),
        ({"r1": 1.0}, WITH_DISCRIMINATOR | {"r1"}),
        ({**WASSERSTEIN, "gradient_penalty": 1.0}, WITH_DISCRIMINATOR | {"gradient_penalty"}),
        ({**WASSERSTEIN, "gradient_penalty": 1.0, "r1": 1.0}, WITH_DISCRIMINATOR | {"gradient_penalty", "r1"}),
    ],
)
def test_the_losses_of_a_step(start: Callable[..., Run], options: dict[str, Any], expected: set[str]) -> None:
    run = start(**options)
    watch = Stopwatch(run.device)
    losses = train_step(run, batch(run), watch, warmup=False)
    assert losses.keys() == expected
    for value in losses.values():
        assert value.shape == ()
        assert not value.requires_grad
        assert value.isfinite()
    assert run.steps == 1
    assert watch.seconds().keys() == {"data", "forward", "backward", "step"}


def test_gradients_come_through_the_networks_as_they_are_stepped(start: Callable[..., Run]) -> None:
    # Several processes average them there; what the generator learns from the discriminator has none to average.
    run = start(**WASSERSTEIN, gradient_penalty=1.0, r1=1.0)
    calls: list[str] = []

    def noted(label: str, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            calls.append(label)
            return network(x)

        return call

    for kind in ("stepped", "compiled"):
        for name, network in list(getattr(run, kind).items()):
            getattr(run, kind)[name] = noted(f"{kind} {name}", network)
    step(run)
    assert calls == ["stepped generator", *["stepped discriminator"] * 4, "compiled discriminator"]


@pytest.mark.parametrize("warmup", [False, True])
def test_every_weight_can_be_trained_after_a_step(start: Callable[..., Run], warmup: bool) -> None:
    run = start()
    step(run, warmup=warmup)
    for network in run.networks.values():
        assert all(weights.requires_grad for weights in network.parameters())


def test_the_warm_up_leaves_the_discriminator_alone(start: Callable[..., Run]) -> None:
    run = start(warmup_epochs=1, r1=1.0, ema=0.9)
    before = weights_digest(judge_of(run).state_dict())
    generator = copy.deepcopy(run.generator)
    gray, truth = run.gray_and_truth(batch(run).pixels)
    assert step(run, warmup=True).keys() == ALWAYS
    assert weights_digest(judge_of(run).state_dict()) == before
    assert not run.optimizers["discriminator_adam"].state
    l1 = 3 * (generator(gray) - truth).abs().mean()
    assert_close(gradients(run.generator), list(torch.autograd.grad(l1, list(generator.parameters()))))
    assert run.steps == 1
    assert step(run).keys() == WITH_DISCRIMINATOR | {"r1"}
    assert weights_digest(judge_of(run).state_dict()) != before


def test_without_a_discriminator_the_step_is_that_of_the_warm_up(start: Callable[..., Run]) -> None:
    alone, warming = start(discriminator="none"), start(warmup_epochs=1)
    warming.generator.load_state_dict(alone.generator.state_dict())
    step(alone)
    step(warming, warmup=True)
    assert weights_digest(alone.generator.state_dict()) == weights_digest(warming.generator.state_dict())


@pytest.mark.parametrize("weight", [0.5, 1.75])
def test_the_weight_of_a_batch_scales_the_gradients_and_not_the_losses(
    start: Callable[..., Run], weight: float
) -> None:
    plain, weighted = start(discriminator="none"), start(discriminator="none")
    before, after = step(plain), step(weighted, weight=weight)
    assert_close(gradients(weighted.generator), [weight * gradient for gradient in gradients(plain.generator)])
    assert after["generator_gradient_norm"] / before["generator_gradient_norm"] == pytest.approx(weight, rel=1e-4)
    assert after["l1"] == before["l1"]

    plain, weighted = start(r1=1.0), start(r1=1.0)
    before, after = step(plain), step(weighted, weight=weight)
    expected = [weight * gradient for gradient in gradients(judge_of(plain))]
    assert_close(gradients(judge_of(weighted)), expected)
    assert all(after[name] == before[name] for name in ("discriminator_loss", "r1", "l1"))


# options that keep the discriminator in bounds


@pytest.mark.parametrize(
    "options", [{"r1": 10.0}, {"gradient_penalty": 10.0}, {"weight_clip": 0.02}, {"spectral_norm": True}]
)
@pytest.mark.slow
def test_each_bound_changes_what_the_discriminator_becomes(start: Callable[..., Run], options: dict[str, Any]) -> None:
    found = []
    for chosen in ({}, options):
        run = start(**WASSERSTEIN, **chosen)
        for _ in range(3):
            step(run)
        found.append(torch.cat([weights.detach().flatten() for weights in judge_of(run).parameters()]))
    assert (found[0] - found[1]).abs().mean() > 1e-3


@pytest.mark.parametrize("name", ["r1", "gradient_penalty"])
@pytest.mark.slow
def test_a_penalty_flattens_the_discriminator(start: Callable[..., Run], name: str) -> None:
    found = []
    for weight in (1e-9, 100.0):
        run = start(**WASSERSTEIN, discriminator="dense", **{name: weight})
        found.append([step(run)[name].item() for _ in range(5)][-1])
    assert found[1] < found[0] / 100


def test_weight_clip_bounds_every_weight(start: Callable[..., Run]) -> None:
    run = start(**WASSERSTEIN, weight_clip=0.02)
    assert max(weights.max() for weights in judge_of(run).parameters()) == 1  # of batch norm
    for _ in range(2):
        step(run)
        for weights in judge_of(run).parameters():
            assert 0 < weights.abs().max().item() < 0.02001
    assert max(weights.max() for weights in run.generator.parameters()) > 0.9


def test_penalties_are_computed_in_fp32_beside_mixed_precision(start: Callable[..., Run]) -> None:
    run = start(**WASSERSTEIN, gradient_penalty=1.0, r1=1.0, precision="bf16")
    seen: list[torch.dtype] = []
    judge_of(run).register_forward_hook(lambda _, __, logits: seen.append(logits.dtype))
    losses = step(run)
    assert sorted(map(str, seen)) == ["torch.bfloat16"] * 3 + ["torch.float32"] * 2
    assert all(value.isfinite() for value in losses.values())
    assert all(weights.dtype == torch.float32 for network in run.networks.values() for weights in network.parameters())


# the colours that the losses see


@pytest.mark.parametrize("color_space", COLOR_SPACES)
@pytest.mark.parametrize("loss_space", ["native", "rgb"])
def test_the_discriminator_sees_gray_and_the_colours_of_the_loss(
    start: Callable[..., Run], color_space: ColorSpaceName, loss_space: str
) -> None:
    native = loss_space == "native" or color_space == "rgb"
    run = start(color_space=color_space, loss_space="native" if native else "rgb")
    seen: list[Tensor] = []
    judge_of(run).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    pixels = batch(run).pixels
    target = COLOR_TARGETS[color_space]
    gray, truth = target.split(pixels)
    with torch.no_grad():
        prediction = run.generator(gray)
    losses = step(run)

    real, *fakes = seen
    if native:
        colors = prediction
    else:
        colors, truth = target.to_rgb(gray, prediction), pixels.float() / 255
    assert real.shape[1] == 1 + run.config.loss_channels == (4 if "rgb" in (color_space, loss_space) else 3)
    assert torch.equal(real, torch.cat([gray, truth], 1))
    assert len(fakes) == 2
    for fake in fakes:
        assert torch.allclose(fake, torch.cat([gray, colors], 1), atol=1e-5)
    assert losses["l1"].item() == pytest.approx((colors - truth).abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize("color_space", ["hsv", "ycbcr"])
def test_l1_in_rgb_is_another_loss(start: Callable[..., Run], color_space: str) -> None:
    options = {"color_space": color_space, "discriminator": "none"}
    native, rgb = start(**options), start(**options, loss_space="rgb")
    assert weights_digest(native.generator.state_dict()) == weights_digest(rgb.generator.state_dict())
    assert step(native)["l1"].item() != pytest.approx(step(rgb)["l1"].item(), rel=1e-2)
    assert weights_digest(native.generator.state_dict()) != weights_digest(rgb.generator.state_dict())


# the average


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_of_the_weights_in_closed_form(start: Callable[..., Run], decay: float) -> None:
    run = start(discriminator="none", ema=decay)
    assert run.average is run.result is not run.generator
    seen = [[weights.detach().clone() for weights in run.generator.parameters()]]
    for first in (0, 4, 8, 0, 4):
        step(run, first)
        seen.append([weights.detach().clone() for weights in run.generator.parameters()])
    # step t keeps this share of what was before it, less at first
    kept = [min(decay, (1 + t) / (10 + t)) for t in range(1, 6)]
    shares = [torch.tensor([*([1.0 - kept[t - 1]] if t else [1.0]), *kept[t:]]).prod().item() for t in range(6)]
    assert sum(shares) == pytest.approx(1)
    expected = [
        sum(share * weights for share, weights in zip(shares, all_steps, strict=True))
        for all_steps in zip(*seen, strict=True)
    ]
    assert run.average is not None
    assert_close(list(run.average.parameters()), expected, 1e-5)
    assert not any(weights.requires_grad for weights in run.average.parameters())


def test_the_average_does_not_change_the_training(start: Callable[..., Run]) -> None:
    plain, averaged = start(), start(ema=0.9)
    assert plain.average is None and plain.result is plain.generator
    for first in (0, 4):
        step(plain, first)
        step(averaged, first)
    for name, network in plain.networks.items():
        assert weights_digest(network.state_dict()) == weights_digest(averaged.networks[name].state_dict())
    assert averaged.networks.keys() - plain.networks.keys() == {"average"}


@pytest.mark.parametrize("discriminator", ["patch", "none"])
def test_exposed_photos_are_what_both_networks_and_the_losses_see(
    start: Callable[..., Run], discriminator: str
) -> None:
    """A step with exposure powers equals the step on photos raised to these powers before."""
    powers = torch.tensor([0.5, 1.0, 1.7, 2.0])
    drawn, before = start(discriminator=discriminator), start(discriminator=discriminator)
    plain = batch(drawn)
    found = train_step(drawn, replace(plain, expose=powers), Stopwatch(drawn.device), False)
    raised = replace(plain, pixels=exposed(plain.pixels, powers))
    expected = train_step(before, raised, Stopwatch(before.device), False)
    assert {name: value.item() for name, value in found.items()} == {n: v.item() for n, v in expected.items()}
    for name, network in drawn.networks.items():
        assert weights_digest(network.state_dict()) == weights_digest(before.networks[name].state_dict())
    assert found["l1"] != step(start(discriminator=discriminator))["l1"]
