"""Evaluation after an epoch, compared with values by hand; batch norm's statistics in closed form."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from cgan.color import COLOR_TARGETS, luma_uint8
from cgan.config import TrainConfig
from cgan.data.prepared import Photos
from cgan.data.split import epoch_batches
from cgan.errors import GateError
from cgan.metrics.distances import FeatureDistances, kid
from cgan.metrics.features import FeatureNetwork
from cgan.metrics.pictures import colorfulness, psnr
from cgan.spec import COLOR_SPACES, ColorSpaceName
from cgan.training import evaluation
from cgan.training import loop as training
from cgan.training.checkpoint import load_generator, weights_digest
from cgan.training.distributed import World
from cgan.training.evaluation import calibrate_batch_norm, evaluate
from cgan.training.loop import fit, setup, train_epoch
from cgan.training.run_state import Run
from cgan.training.stopwatch import Stopwatch

BASE = TrainConfig(width=2, size=32, epochs=1, batch_size=4, test_fraction=0.25, fid=False, best_by="psnr", lr=0.01)
CONFIG = replace(BASE, device="cpu", precision="fp32")

Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path, photos: Photos) -> Start:
    """`start(name, **options)`: a new run in tmp_path / name."""

    def new(name: str = "run", **options: Any) -> Run:
        return setup(tmp_path / name, replace(CONFIG, **options), photos)

    return new


@pytest.fixture
def trained(start: Start) -> Start:
    """`trained(name, **options)`: a run after an epoch of training, before its evaluation."""

    def new(*name: str, **options: Any) -> Run:
        run = start(*name, **options)
        train_epoch(run, 1, Stopwatch(run.device))
        return run

    return new


def states(run: Run) -> dict[str, str]:
    return {name: weights_digest(network.state_dict()) for name, network in run.networks.items()}


def held_out(run: Run) -> Tensor:
    """Held-out photos, N x 3 x size x size uint8."""
    return run.photos(torch.tensor(run.split.test))


def judge(run: Run) -> nn.Module:
    assert run.discriminator is not None
    return run.discriminator


# batch norm


def first_layer(network: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """The first convolution and its batch norm."""
    convolution, norm = network.get_submodule("0"), network.get_submodule("1")
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    return convolution, norm


def check_statistics(network: nn.Module, batches: list[Tensor]) -> None:
    """Check that the first batch norm holds the mean of the statistics of these batches of its input."""
    convolution, norm = first_layer(network)
    with torch.no_grad():
        outputs = [convolution(batch) for batch in batches]
    means = torch.stack([output.mean(dim=(0, 2, 3)) for output in outputs])
    variances = torch.stack([output.var(dim=(0, 2, 3)) for output in outputs])
    assert norm.running_mean is not None and norm.running_var is not None
    assert torch.allclose(norm.running_mean, means.mean(dim=0), atol=1e-5)
    assert torch.allclose(norm.running_var, variances.mean(dim=0), rtol=1e-4, atol=1e-7)
    assert norm.num_batches_tracked == len(batches)


@pytest.mark.parametrize("ema", [0.0, 0.5])
@pytest.mark.slow
def test_calibration_takes_the_generator_s_statistics_from_the_training_photos(trained: Start, ema: float) -> None:
    run = trained(batch_size=3, ema=ema)
    assert (run.result is run.generator) == (ema == 0)
    before, untouched = copy.deepcopy(run), None if ema == 0 else weights_digest(run.generator.state_dict())
    calibrate_batch_norm(run, 1)
    batches = [run.photos(indices) for indices in epoch_batches(run.split.train, 3, 0, 1)]
    check_statistics(run.result.body.stem, [run.gray_and_truth(pixels)[0] for pixels in batches])
    for name, network in run.networks.items():
        assert all(layer.momentum == 0.1 for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
        pairs = zip(network.parameters(), before.networks[name].parameters(), strict=True)
        assert all(torch.equal(found, expected) for found, expected in pairs)
    if untouched:
        assert weights_digest(run.generator.state_dict()) == untouched


@pytest.mark.parametrize("options", [{}, {"color_space": "ycbcr", "loss_space": "rgb"}, {"color_space": "hsv"}])
@pytest.mark.slow
def test_calibration_takes_the_discriminator_s_statistics_from_photos_and_pictures(
    trained: Start, options: dict[str, Any]
) -> None:
    run = trained(batch_size=3, ema=0.5, **options)
    calibrate_batch_norm(run, 1)
    batches = []
    for indices in epoch_batches(run.split.train, 3, 0, 1):
        gray, truth = run.gray_and_truth(run.photos(indices))
        with torch.no_grad():
            colors = run.in_loss_space(gray, run.result.eval()(gray))  # by the calibrated average
        batches += [torch.cat([gray, truth], 1), torch.cat([gray, colors], 1)]
    check_statistics(judge(run).get_submodule("stem"), batches)


def test_calibration_is_a_function_of_weights_and_photos(trained: Start) -> None:
    run = trained()
    calibrate_batch_norm(run, 1)
    before = states(run)
    calibrate_batch_norm(run, 1)
    assert states(run) == before


def test_every_process_has_photos_to_calibrate_with(start: Start) -> None:
    run = start(batch_size=7)
    run.world = World(rank=2, size=3)
    calibrate_batch_norm(run, 1)
    (indices,) = run.epoch_batches(1)  # seven photos and two would leave none for the third process
    check_statistics(run.generator.body.stem, [run.gray_and_truth(run.photos(indices[2::3]))[0]])


def test_calibration_stops_at_its_number_of_photos(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(batch_size=3)
    monkeypatch.setattr(evaluation, "CALIBRATION_PHOTOS", 4)
    calibrate_batch_norm(run, 1)
    assert first_layer(run.generator.body.stem)[1].num_batches_tracked == 2
    assert first_layer(judge(run).get_submodule("stem"))[1].num_batches_tracked == 4


@pytest.mark.slow
def test_training_never_reads_the_calibration(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated, plain = start("a", epochs=2), start("b", epochs=2)
    fit(calibrated)
    monkeypatch.setattr(training, "calibrate_batch_norm", lambda *_: None)
    fit(plain)
    for a, b in zip(calibrated.generator.parameters(), plain.generator.parameters(), strict=True):
        assert torch.equal(a, b)
    assert states(calibrated)["generator"] != states(plain)["generator"]


# metrics


@pytest.mark.parametrize("gan_loss", ["bce", "wasserstein", "hinge"])
@pytest.mark.slow
def test_evaluation_by_hand(trained: Start, gan_loss: str) -> None:
    run = trained(gan_loss=gan_loss)
    before = states(run)
    metrics = evaluate(run, None)
    assert states(run) == before
    gray, color = run.gray_and_truth(held_out(run))
    with torch.no_grad():
        picture = run.generator(gray)
        real, fake = (judge(run)(torch.cat([gray, colors], 1)) for colors in (color, picture))
    assert metrics["test_photos"] == 3
    assert metrics["test_near_gray_photos"] == 0
    assert metrics["test_l1"] == pytest.approx((picture - color).abs().mean().item(), rel=1e-5)
    assert metrics["test_psnr"] == pytest.approx(psnr(picture, color).mean().item(), rel=1e-5)
    assert metrics["test_gray_psnr"] == pytest.approx(psnr(gray.expand_as(color), color).mean().item(), rel=1e-5)
    assert metrics["test_colorfulness"] == pytest.approx(colorfulness(picture).mean().item(), rel=1e-5)
    assert metrics["test_real_colorfulness"] == pytest.approx(colorfulness(color).mean().item(), rel=1e-5)
    expected = {
        "bce": -(0.9 * F.logsigmoid(real) + 0.1 * F.logsigmoid(-real)).mean() / 2
        - (0.1 * F.logsigmoid(fake) + 0.9 * F.logsigmoid(-fake)).mean() / 2,
        "wasserstein": fake.mean() - real.mean(),
        "hinge": (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(),
    }
    assert metrics["test_discriminator_loss"] == pytest.approx(expected[gan_loss].item(), rel=1e-4, abs=1e-6)
    share = ((real > 0).float().mean() + (fake <= 0).float().mean()) / 2
    assert metrics["test_discriminator_accuracy"] == pytest.approx(share.item(), abs=1e-3)


def test_without_a_discriminator_nothing_is_said_of_one(trained: Start) -> None:
    metrics = evaluate(trained(discriminator="none"), None)
    assert "test_l1" in metrics
    assert not [name for name in metrics if "discriminator" in name]


@pytest.mark.parametrize("loss_space", ["native", "rgb"])
@pytest.mark.parametrize("space", ["hsv", "ycbcr"])
@pytest.mark.slow
def test_psnr_and_colourfulness_are_of_rgb_and_l1_of_the_loss_s_space(
    trained: Start, space: ColorSpaceName, loss_space: str
) -> None:
    run = trained(color_space=space, loss_space=loss_space)
    metrics = evaluate(run, None)
    pixels, target = held_out(run), COLOR_TARGETS[space]
    gray, truth = target.split(pixels)
    with torch.no_grad():
        prediction = run.generator(gray)
    picture, photo = target.to_rgb(gray, prediction).clamp(0, 1), pixels / 255
    luma = (luma_uint8(pixels) / 255).expand_as(photo)  # with hsv too, whose gray is not luma
    assert metrics["test_psnr"] == pytest.approx(psnr(picture, photo).mean().item(), rel=1e-5)
    assert metrics["test_gray_psnr"] == pytest.approx(psnr(luma, photo).mean().item(), rel=1e-5)
    assert metrics["test_colorfulness"] == pytest.approx(colorfulness(picture).mean().item(), rel=1e-5)
    assert metrics["test_real_colorfulness"] == pytest.approx(colorfulness(photo).mean().item(), rel=1e-5)
    native = (prediction - truth).abs().mean().item()
    in_rgb = (target.to_rgb(gray, prediction) - photo).abs().mean().item()
    assert native != pytest.approx(in_rgb, rel=1e-2)
    assert metrics["test_l1"] == pytest.approx(native if loss_space == "native" else in_rgb, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"discriminator": "dense", "gan_loss": "hinge", "color_space": "ycbcr"}])
def test_evaluation_does_not_depend_on_the_batch_size(start: Start, options: dict[str, Any]) -> None:
    run = start(test_fraction=0.6, **options)
    metrics = evaluate(run, colors())
    run.config = replace(run.config, batch_size=2)
    assert len(run.split.test) == 7
    again = evaluate(run, colors())
    for name in ("test_fid", "test_kid"):
        assert again.pop(name)["value"] == pytest.approx(metrics.pop(name)["value"], rel=1e-4, abs=1e-6)
    assert again == pytest.approx(metrics, rel=1e-5)


def test_near_gray_photos_are_counted_and_left_out_of_colour_metrics(trained: Start) -> None:
    run = trained()
    grayed = run.split.test[0]
    run.pixels = run.pixels.clone()
    run.pixels[grayed] = luma_uint8(run.pixels[grayed]).expand(3, -1, -1)
    metrics = evaluate(run, None)
    assert (metrics["test_photos"], metrics["test_near_gray_photos"]) == (3, 1)
    gray, color = run.gray_and_truth(held_out(run))
    picture = run.picture(gray)
    assert metrics["test_psnr"] == pytest.approx(psnr(picture, color)[1:].mean().item(), rel=1e-5)
    assert metrics["test_real_colorfulness"] == pytest.approx(colorfulness(color)[1:].mean().item(), rel=1e-5)
    assert metrics["test_l1"] == pytest.approx((picture - color).abs().mean().item(), rel=1e-5)  # of all photos


def test_gray_photos_alone_have_metrics_too(start: Start) -> None:
    run = start()
    run.pixels = luma_uint8(run.pixels).expand(-1, 3, -1, -1).clone()
    metrics = evaluate(run, None)
    assert metrics["test_near_gray_photos"] == 3
    assert metrics["test_gray_psnr"] == float("inf")
    assert metrics["test_real_colorfulness"] == pytest.approx(0, abs=1e-6)


# the average


def test_the_average_is_evaluated_and_exported(trained: Start) -> None:
    run = trained("trained", ema=0.9)
    assert run.average is not None
    with torch.no_grad():
        picture = run.average.eval()(run.gray_and_truth(held_out(run))[0])
        other = run.generator.eval()(run.gray_and_truth(held_out(run))[0])
    truth = held_out(run) / 255
    expected, plain = ((colors - truth).abs().mean().item() for colors in (picture, other))
    assert plain != pytest.approx(expected, rel=1e-3)
    assert evaluate(run, None)["test_l1"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"color_space": "hsv", "ema": 0.9}, {"color_space": "ycbcr"}])
@pytest.mark.slow
def test_what_is_exported_is_what_was_measured_and_shown(start: Start, options: dict[str, Any]) -> None:
    run = start(save_every=1, **options)
    fit(run)
    generator, _ = load_generator(run.folder.path)
    target, pixels = COLOR_TARGETS[run.config.color_space], held_out(run)
    gray, truth = target.split(pixels)
    with torch.no_grad():
        prediction = generator(gray)
    assert run.history[0]["test_l1"] == pytest.approx((prediction - truth).abs().mean().item(), rel=1e-4)
    for name in ("best", "epoch-0001"):
        found = load_generator(run.folder.checkpoints / f"{name}.safetensors")[0]
        assert weights_digest(found.state_dict()) == weights_digest(generator.state_dict())
    rows = [gray.expand(-1, 3, -1, -1), target.to_rgb(gray, prediction).clamp(0, 1), pixels / 255]
    with Image.open(run.folder.path / "samples" / "epoch-0001.png") as image:
        assert image.size == (3 * 34, 3 * 34)  # three held-out photos of 32 + 2 pixels; gray, picture, photo
        for row, expected in enumerate(rows):
            cell = image.crop((34, 34 * row, 66, 34 * row + 32))
            shown = torch.tensor(list(cell.tobytes())).view(32, 32, 3).permute(2, 0, 1)
            assert (shown - (expected[1] * 255).round()).abs().max() <= 1


# FID and KID


class Colors(nn.Module):
    """Six features drawn once: means of random mixes of the channels over the halves of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(3))

    def forward(self, x: Tensor) -> Tensor:
        halves = F.adaptive_avg_pool2d(x, (2, 1)).flatten(2)
        return torch.einsum("nch,cd->ndh", halves, self.mix).flatten(1)


def colors() -> FeatureNetwork:
    return FeatureNetwork(Colors(), 6, {"network": "random colours", "weights_sha256": "0" * 64})


def test_pictures_that_are_no_numbers_are_not_blamed_on_the_feature_network(start: Start) -> None:
    run = start(lr=1e30, batch_size=16, discriminator="none", fid=True, best_by="fid")
    with pytest.raises(GateError, match=r"^test_l1 not finite on the held-out photos after epoch 1; .* --lr"):
        fit(run, colors())


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_fid_and_kid_are_between_pictures_and_held_out_photos(trained: Start, space: ColorSpaceName) -> None:
    run = trained(test_fraction=0.6, color_space=space)
    found = evaluate(run, colors())
    assert (found["test_fid"]["photos"], found["test_fid"]["network"]) == (7, "random colours")
    pixels = held_out(run)
    photo_features = Colors()(pixels / 255).double()
    features = Colors()(run.picture(COLOR_TARGETS[space].split(pixels)[0]).detach()).double()
    product = torch.linalg.eigvals(torch.cov(features.T) @ torch.cov(photo_features.T)).sqrt().real.sum()
    distance = (features.mean(0) - photo_features.mean(0)).square().sum()
    expected = distance + torch.cov(features.T).trace() + torch.cov(photo_features.T).trace() - 2 * product
    assert found["test_fid"]["value"] == pytest.approx(expected.item(), abs=1e-3)
    assert found["test_kid"]["value"] == pytest.approx(kid(photo_features, features), rel=1e-3, abs=1e-6)
    assert not {"test_fid", "test_kid"} & evaluate(run, None).keys()


def test_pictures_are_truncated_to_8_bits_where_asked(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    update = FeatureDistances.update

    def record(self: FeatureDistances, pictures: Tensor, photos: Tensor) -> None:
        seen.append(pictures)
        update(self, pictures, photos)

    monkeypatch.setattr(FeatureDistances, "update", record)
    found = [
        evaluate(start(str(quantize), fid=True, best_by="fid", fid_quantize=quantize), colors())["test_fid"]
        for quantize in (False, True)
    ]
    exact, truncated = seen[0] * 255, seen[1] * 255
    assert torch.allclose(truncated, exact.floor(), atol=1e-4) and not torch.allclose(exact, exact.round(), atol=1e-2)
    assert found[0]["value"] != found[1]["value"]
    assert [figure.get("quantization") for figure in found] == [None, "pictures truncated to 8 bits"]


@pytest.mark.slow
def test_fid_and_kid_reach_metrics_curves_events_and_the_best_checkpoint(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[dict[str, Any]]] = []

    def draw(epochs: list[dict[str, Any]], path: Path) -> None:
        drawn.append(epochs)
        path.touch()

    monkeypatch.setattr("cgan.training.run_folder.save_curves", draw)
    run = start(epochs=2, fid=True, best_by="kid")
    fit(run, colors())
    lines = [json.loads(line) for line in (run.folder.path / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(run.folder.path / "tensorboard")).Reload()
    for name in ("fid", "kid"):
        values = [line[f"test_{name}"]["value"] for line in lines]
        assert [event.value for event in events.Scalars(f"{name}/test")] == pytest.approx(values, rel=1e-6)
        assert [epoch[f"test_{name}"]["value"] for epoch in drawn[-1]] == values
        assert lines[0][f"test_{name}"]["weights_sha256"] == "0" * 64
    best = min((1, 2), key=lambda epoch: lines[epoch - 1]["test_kid"]["value"])
    found = [load_generator(run.folder.checkpoints / f"{n}.safetensors")[1].weights_sha256 for n in ("best", "last")]
    assert (found[0] == found[1]) == (best == 2)
