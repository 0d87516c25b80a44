"""Run: resolution of auto, initial networks, batches."""

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cgan
from cgan.color import COLOR_TARGETS, luma_uint8
from cgan.config import BestBy, Device, TrainConfig, TrainPrecision
from cgan.data.prepared import Photos
from cgan.data.split import split
from cgan.errors import UserError
from cgan.spec import COLOR_SPACES, ColorSpaceName
from cgan.training.checkpoint import weights_digest
from cgan.training.distributed import World
from cgan.training.run_folder import RunFolder
from cgan.training.run_state import Run, build, environment, resolve

CONFIG = TrainConfig(width=2, size=32, batch_size=4, test_fraction=0.25, device="cpu", precision="fp32", fid=False)


@pytest.fixture
def begin(photos: Photos) -> Callable[..., Run]:
    """`begin(**options)`: a new run, without files."""

    def new(**options: Any) -> Run:
        config = replace(CONFIG, **options)
        parts = split(photos.sha256, config.test_fraction, config.seed)
        return build(RunFolder(Path("nowhere")), config, photos, parts, World())

    return new


def digests(run: Run) -> dict[str, str]:
    return {name: weights_digest(network.state_dict()) for name, network in run.networks.items()}


# resolve


@pytest.mark.parametrize(
    ("cuda", "bf16", "device", "precision", "expected"),
    [
        (True, False, "auto", "auto", ("cuda", "fp16")),
        (True, True, "cpu", "auto", ("cpu", "bf16")),
        (False, True, "auto", "auto", ("cpu", "bf16")),
        (False, False, "auto", "auto", ("cpu", "fp32")),
        (False, True, "auto", "fp32", ("cpu", "fp32")),
        (True, False, "cuda", "bf16", ("cuda", "bf16")),
    ],
)
def test_auto_becomes_what_this_machine_has(
    monkeypatch: pytest.MonkeyPatch,
    cuda: bool,
    bf16: bool,
    device: Device,
    precision: TrainPrecision,
    expected: tuple[str, str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16})
    resolved = resolve(replace(CONFIG, device=device, precision=precision))
    assert (resolved.device, resolved.precision) == expected
    assert resolve(resolved) == resolved
    assert replace(resolved, device="cpu", precision="fp32") == replace(CONFIG, best_by="psnr")


@pytest.mark.parametrize(
    ("fid", "best_by", "expected"),
    [(True, "auto", "fid"), (False, "auto", "psnr"), (True, "kid", "kid"), (False, "l1", "l1"), (True, "psnr", "psnr")],
)
def test_the_metric_of_the_best_checkpoint(fid: bool, best_by: BestBy, expected: str) -> None:
    assert resolve(replace(CONFIG, fid=fid, best_by=best_by)).best_by == expected


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda"):
        resolve(replace(CONFIG, device="cuda"))
    with pytest.raises(UserError, match="--precision fp16"):
        resolve(replace(CONFIG, precision="fp16"))


# how networks begin


def test_initial_weights_follow_the_seed_alone(begin: Callable[..., Run]) -> None:
    torch.manual_seed(99)
    first = digests(begin(spectral_norm=True))
    torch.manual_seed(5)
    assert digests(begin(spectral_norm=True)) == first
    assert not set(digests(begin(spectral_norm=True, seed=1)).values()) & set(first.values())


def test_weights_are_channels_last(begin: Callable[..., Run]) -> None:
    for network in begin().networks.values():
        for parameter in network.parameters():
            assert parameter.dim() != 4 or parameter.is_contiguous(memory_format=torch.channels_last)


def test_without_a_discriminator_there_is_none(begin: Callable[..., Run]) -> None:
    run = begin(discriminator="none")
    assert run.discriminator is None
    assert run.networks.keys() == run.stepped.keys() == {"generator"}
    assert run.optimizers.keys() == {"generator_adam"}


def test_each_network_has_its_adam(begin: Callable[..., Run]) -> None:
    run = begin(lr=0.125, beta1=0.25, beta2=0.75)
    for name, optimizer in run.optimizers.items():
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"]) == (0.125, (0.25, 0.75))
        network = run.networks[name.removesuffix("_adam")]
        assert [id(weights) for weights in group["params"]] == [id(weights) for weights in network.parameters()]


def test_the_average_is_a_copy_that_no_optimiser_knows(begin: Callable[..., Run]) -> None:
    assert begin().average is None
    run = begin(ema=0.9)
    assert run.average is not None
    assert digests(run)["average"] == digests(run)["generator"]
    assert list(run.networks) == ["generator", "discriminator", "average"]
    assert run.optimizers.keys() == {"generator_adam", "discriminator_adam"}
    assert not any(weights.requires_grad for weights in run.average.parameters())
    shared = {weights.data_ptr() for weights in run.generator.parameters()}
    assert not shared & {weights.data_ptr() for weights in run.average.parameters()}


def test_the_result_is_the_average_where_there_is_one(begin: Callable[..., Run]) -> None:
    plain, averaged = begin(), begin(ema=0.9)
    assert plain.result is plain.generator
    assert averaged.result is averaged.average


def test_only_fp16_scales_gradients(begin: Callable[..., Run]) -> None:
    assert [begin(precision=precision).scaler.is_enabled() for precision in ("fp32", "bf16", "fp16")] == [
        *(False, False, True)
    ]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_is_of_the_precision(begin: Callable[..., Run], precision: str, dtype: torch.dtype) -> None:
    run = begin(precision=precision)
    with run.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_compiled_networks_are_what_the_step_calls(begin: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: nn.Sequential(network))
    plain, compiled = begin(), begin(compile=True)
    assert plain.stepped == plain.compiled == plain.networks
    assert compiled.stepped == compiled.compiled
    for name, network in compiled.networks.items():
        assert list(compiled.compiled[name].children()) == [network]
    assert digests(compiled) == digests(plain)  # names of weights too: a run can be read without --compile


# what networks are given


def test_photos_by_index(begin: Callable[..., Run], photos: Photos) -> None:
    indices = torch.tensor([5, 0, 7])
    assert torch.equal(begin().photos(indices), photos.pixels[indices])


def test_only_the_chosen_photos_are_mirrored(begin: Callable[..., Run]) -> None:
    run, indices = begin(), torch.tensor([1, 2, 3])
    plain, mirrored = run.photos(indices), run.photos(indices, torch.tensor([True, False, True]))
    assert torch.equal(mirrored[0], plain[0].flip(-1))
    assert torch.equal(mirrored[1], plain[1])
    assert torch.equal(mirrored[2], plain[2].flip(-1))


def test_batches_are_the_photos_of_each_choice(begin: Callable[..., Run]) -> None:
    run = begin()
    choices = [(torch.tensor([1, 2]), torch.tensor([True, False])), (torch.tensor([4]), None)]
    found = list(run.batches(choices))
    assert all(torch.equal(pixels, run.photos(*choice)) for pixels, choice in zip(found, choices, strict=True))


@pytest.mark.parametrize(
    ("batch_size", "processes", "expected"),
    [(3, 1, [3, 3, 3]), (4, 1, [4, 5]), (7, 1, [7, 2]), (7, 2, [7, 2]), (7, 3, [9]), (6, 3, [6, 3]), (6, 4, [9])],
)
def test_every_process_has_a_photo_of_every_step(
    begin: Callable[..., Run], batch_size: int, processes: int, expected: list[int]
) -> None:
    run = begin(batch_size=batch_size)
    run.world = World(size=processes)
    batches = list(run.epoch_batches(1))
    assert [len(batch) for batch in batches] == expected
    assert sorted(torch.cat(batches).tolist()) == list(run.split.train)


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_gray_and_truth_are_of_the_colour_space(
    begin: Callable[..., Run], photos: Photos, space: ColorSpaceName
) -> None:
    gray, truth = begin(color_space=space).gray_and_truth(photos.pixels)
    expected = COLOR_TARGETS[space].split(photos.pixels)
    assert torch.equal(gray, expected[0])
    assert torch.equal(truth, expected[1])
    assert truth.shape[1] == replace(CONFIG, color_space=space).loss_channels
    for tensor in (gray, truth):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert tensor.min() >= 0 and tensor.max() <= 1


@pytest.mark.parametrize("space", ["hsv", "ycbcr"])
def test_with_the_loss_in_rgb_both_sides_are_rgb(
    begin: Callable[..., Run], photos: Photos, space: ColorSpaceName
) -> None:
    run = begin(color_space=space, loss_space="rgb")
    gray, truth = run.gray_and_truth(photos.pixels)
    assert torch.equal(gray, COLOR_TARGETS[space].split(photos.pixels)[0])
    assert torch.equal(truth, photos.pixels.float() / 255)
    perfect = COLOR_TARGETS[space].split(photos.pixels)[1].requires_grad_()
    in_rgb = run.in_loss_space(gray, perfect.bfloat16().float())
    assert (in_rgb - truth).abs().mean() < 0.01
    in_rgb.sum().backward()
    assert perfect.grad is not None and perfect.grad.abs().sum() > 0


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_in_the_native_space_the_prediction_stays(begin: Callable[..., Run], space: str) -> None:
    prediction = torch.rand(1, 2, 4, 4)
    assert begin(color_space=space).in_loss_space(torch.rand(1, 1, 4, 4), prediction) is prediction


class Constant(nn.Module):
    """A generator that gives one colour for every input."""

    def __init__(self, *color: float) -> None:
        super().__init__()
        self.color = torch.tensor(color)[None, :, None, None]

    def forward(self, gray: Tensor) -> Tensor:
        return self.color.expand(len(gray), -1, *gray.shape[-2:])


def test_a_picture_is_rgb_in_0_to_1(begin: Callable[..., Run]) -> None:
    run = begin(color_space="ycbcr")
    run.generator = Constant(0.5, 1.0)  # type: ignore[assignment]
    red, green, blue = run.picture(torch.full((1, 1, 2, 2), 0.75)).mean(dim=(2, 3))[0].tolist()
    assert (red, blue) == (1.0, 0.75)  # 0.75 + 0.701 is beyond the range
    assert green == pytest.approx(0.75 - 0.299 / 0.587 * 0.701, abs=1e-6)
    run = begin(color_space="hsv")
    run.generator = Constant(0.0, 1.0)  # type: ignore[assignment]
    assert run.picture(torch.full((1, 1, 2, 2), 0.75)).mean(dim=(2, 3))[0].tolist() == [0.75, 0, 0]


def test_a_picture_is_of_the_average(begin: Callable[..., Run], photos: Photos) -> None:
    run = begin(ema=0.9)
    gray = luma_uint8(photos.pixels).float() / 255
    run.result.eval()
    before = run.picture(gray)
    bias, result_bias = run.generator.body.head.bias, run.result.body.head.bias
    assert bias is not None and result_bias is not None
    bias.data += 1
    assert torch.equal(run.picture(gray), before)
    result_bias.data += 1
    assert (run.picture(gray) > before).all()


# the record


def test_the_environment_is_recorded(begin: Callable[..., Run]) -> None:
    run = begin()
    found = environment(run)
    assert found["cgan"] == cgan.__version__
    assert (found["torch"], found["python"]) == (torch.__version__, platform.python_version())
    assert found["device"]
    assert (found["cuda"], found["photos_on_device"]) == (None, True)
    assert (found["processes"], found["threads"]) == (1, torch.get_num_threads())
    run.world = World(rank=1, size=3)
    assert environment(run)["processes"] == 3
