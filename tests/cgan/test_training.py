"""The training loop: steps, evaluation, exact resume."""

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
from safetensors.torch import load_file
from torch import Tensor, nn

from cgan import training
from cgan.checkpoint import load_generator, weights_digest
from cgan.color import luma_uint8
from cgan.config import DISCRIMINATOR_CHOICES, TrainConfig
from cgan.dataset import Photos
from cgan.metrics import FeatureNetwork, colorfulness, psnr
from cgan.spec import GateError, UserError
from cgan.training import Run, calibrate_batch_norm, evaluate, fit, resolve, setup, train_epoch

CONFIG = TrainConfig(
    width=2, size=32, epochs=1, batch_size=4, test_fraction=0.25, device="cpu", precision="fp32", fid=False
)


def as_photos(pixels: Tensor) -> Photos:
    count = len(pixels)
    return Photos(pixels, tuple(f"{i}.png" for i in range(count)), tuple(f"{i:064x}" for i in range(count)), {})


def random_photos(count: int = 12, size: int = 32) -> Photos:
    """Smooth random colours."""
    small = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    return as_photos((F.interpolate(small, size=(size, size), mode="bilinear") * 255).to(torch.uint8))


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Run]:
    """`start(name, **options)`: a new run in tmp_path / name."""

    def new(name: str = "run", photos: Photos | None = None, resume: bool = False, **options: Any) -> Run:
        return setup(tmp_path / name, replace(CONFIG, **options), photos or random_photos(), resume)

    return new


def states(run: Run) -> dict[str, str]:
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
    monkeypatch: pytest.MonkeyPatch, cuda: bool, bf16: bool, device: str, precision: str, expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16})
    resolved = resolve(replace(CONFIG, device=device, precision=precision))
    assert (resolved.device, resolved.precision) == expected
    assert resolve(resolved) == resolved
    assert replace(resolved, device=device, precision=precision) == replace(CONFIG, device=device, precision=precision)


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda"):
        resolve(replace(CONFIG, device="cuda"))
    with pytest.raises(UserError, match="--precision fp16"):
        resolve(replace(CONFIG, precision="fp16"))


# setup


def test_a_run_begins_with_its_records(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start()
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == CONFIG.to_json()
    parts = json.loads((tmp_path / "run" / "split.json").read_text())
    assert parts.keys() == {"train", "test", "photos_sha256"}
    for side in ("train", "test"):
        assert parts[side] == [f"{i}.png" for i in getattr(run.split, side)]
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["device"]


def test_initial_weights_follow_the_seed_alone(start: Callable[..., Run]) -> None:
    torch.manual_seed(99)
    first = states(start("a"))
    torch.manual_seed(5)
    assert states(start("b")) == first
    assert not set(states(start("c", seed=1)).values()) & set(first.values())


def test_weights_are_channels_last(start: Callable[..., Run]) -> None:
    for network in start().networks.values():
        for parameter in network.parameters():
            assert parameter.dim() != 4 or parameter.is_contiguous(memory_format=torch.channels_last)


def test_fid_needs_two_held_out_photos(start: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--test-fraction or --no-fid"):
        start(fid=True, test_fraction=0.01)
    assert not (tmp_path / "run").exists()
    assert len(start(fid=True, test_fraction=0.2).split.test) == 2


# batches


def test_a_batch_is_gray_and_colour_in_0_to_1(start: Callable[..., Run]) -> None:
    run, indices = start(), torch.tensor([5, 0, 7])
    gray, color = run.batch(indices)
    pixels = random_photos().pixels[indices]
    assert torch.equal(color, pixels.float() / 255)
    assert torch.equal(gray, luma_uint8(pixels).float() / 255)
    assert color.is_contiguous(memory_format=torch.channels_last)


def test_only_the_chosen_photos_are_mirrored(start: Callable[..., Run]) -> None:
    run, indices = start(), torch.tensor([1, 2, 3])
    plain = run.batch(indices)
    mirrored = run.batch(indices, torch.tensor([True, False, True]))
    for before, after in zip(plain, mirrored, strict=True):
        assert torch.equal(after[0], before[0].flip(-1))
        assert torch.equal(after[1], before[1])
        assert torch.equal(after[2], before[2].flip(-1))


# one epoch


@pytest.mark.parametrize("discriminator", DISCRIMINATOR_CHOICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_discriminator_trains(start: Callable[..., Run], discriminator: str, precision: str) -> None:
    run = start(discriminator=discriminator, precision=precision)
    before = {name: copy.deepcopy(network) for name, network in run.networks.items()}
    seen: list[tuple[int, int]] = []
    metrics = train_epoch(run, 1, lambda done, total, losses: seen.append((done, total)))
    assert metrics.keys() == {
        *("train_l1", "train_adversarial", "train_discriminator_loss", "train_discriminator_accuracy"),
        "images_per_second",
    }
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    assert 0 <= metrics["train_discriminator_accuracy"] <= 1
    assert seen == [(4, 9), (9, 9)]  # a last batch of one joins the one before
    for name, network in run.networks.items():
        for old, new in zip(before[name].parameters(), network.parameters(), strict=True):
            assert not torch.equal(old, new) or new.dim() == 1  # gradients of a bias may cancel in bf16
            assert new.requires_grad
            assert new.dtype == torch.float32


def test_the_steps_are_those_of_the_textbook(start: Callable[..., Run]) -> None:
    run = start(batch_size=5, l1_weight=3.0, label_smoothing=0.8, lr=1e-3, discriminator="patch")
    generator, discriminator = copy.deepcopy(run.generator).train(), copy.deepcopy(run.discriminator).train()
    adam_g = torch.optim.Adam(generator.parameters(), 1e-3, (0.5, 0.999))
    adam_d = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.5, 0.999))
    metrics = train_epoch(run, 1)  # nine photos: a step of five and one of four

    def judged(gray: Tensor, colors: Tensor, target: float) -> Tensor:
        logits = discriminator(torch.cat([gray, colors], 1))
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    sums = torch.zeros(3)
    for indices in training.epoch_batches(run.split.train, 5, 0, 1):
        gray, color = run.batch(indices)
        picture = generator(gray)
        loss_d = (judged(gray, color, 0.8) + judged(gray, picture.detach(), 0.2)) / 2
        adam_d.zero_grad()
        loss_d.backward()
        adam_d.step()
        adversarial, l1 = judged(gray, picture, 1.0), (picture - color).abs().mean()  # by the updated discriminator
        adam_g.zero_grad()
        (adversarial + 3.0 * l1).backward()
        adam_g.step()
        sums += len(indices) * torch.stack([loss_d, adversarial, l1]).detach()

    for name, expected in zip(("discriminator_loss", "adversarial", "l1"), sums / 9, strict=True):
        assert metrics[f"train_{name}"] == pytest.approx(expected.item(), rel=1e-4)
    for ours, theirs in ((run.generator, generator), (run.discriminator, discriminator)):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        differences = torch.cat([(found - expected).abs().flatten() for found, expected in pairs])
        assert (differences > 2e-5).float().mean() < 0.01  # each step moves a weight by about 1e-3


def test_which_photos_are_mirrored_follows_seed_and_epoch(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def record(run: Run, indices: Tensor, flip: Tensor | None = None) -> Any:
        seen.append(torch.zeros(0) if flip is None else flip)
        return real(run, indices, flip)

    real = Run.batch
    monkeypatch.setattr(Run, "batch", record)
    orders = []
    for name, seed, epoch in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1), ("d", 0, 1)):
        seen.clear()
        train_epoch(start(name, seed=seed, flip=True, photos=random_photos(48)), epoch)
        orders.append(tuple(torch.cat(seen).tolist()))
        assert 0.2 < sum(orders[-1]) / 36 < 0.8
    assert len(set(orders[:3])) == 3
    assert orders[3] == orders[0]
    seen.clear()
    train_epoch(start("e", photos=random_photos(48)), 1)
    assert not any(len(flip) for flip in seen)


def test_the_warm_up_steps_the_generator_on_l1_alone(start: Callable[..., Run]) -> None:
    run = start(batch_size=16, l1_weight=3.0, lr=1e-3, epochs=2, warmup_epochs=1)
    generator, discriminator = copy.deepcopy(run.generator).train(), weights_digest(run.discriminator.state_dict())
    adam = torch.optim.Adam(generator.parameters(), 1e-3, (0.5, 0.999))
    metrics = train_epoch(run, 1)  # nine photos: one step
    assert metrics.keys() == {"train_l1", "images_per_second"}
    assert weights_digest(run.discriminator.state_dict()) == discriminator

    gray, color = run.batch(next(training.epoch_batches(run.split.train, 16, 0, 1)))
    (3.0 * (generator(gray) - color).abs().mean()).backward()
    adam.step()
    for found, expected in zip(run.generator.parameters(), generator.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=2e-5)

    assert "train_adversarial" in train_epoch(run, 2)
    assert weights_digest(run.discriminator.state_dict()) != discriminator


def test_losses_that_are_no_numbers_stop_the_epoch(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = start()
    monkeypatch.setattr(training, "adversarial_loss", lambda logits: logits.mean() * torch.nan)
    with pytest.raises(GateError, match=r"adversarial.*not finite by step 2 of epoch 1.*none yet.*--lr") as caught:
        fit(run)
    assert caught.value.exit_code == 1
    assert not (run.folder.path / "checkpoints").exists()
    assert not (run.folder.path / "metrics.jsonl").exists()


def test_a_step_that_breaks_the_weights_is_not_saved(start: Callable[..., Run]) -> None:
    # The only step's own losses are finite; the weights that it leaves are not of use.
    run = start(batch_size=16)
    run.optimizers["generator_adam"].param_groups[0]["lr"] = 1e30
    with pytest.raises(GateError, match="not finite on the held-out photos after epoch 1"):
        fit(run)
    assert not (run.folder.path / "checkpoints").exists()


def test_the_last_good_checkpoint_is_named_and_kept(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(epochs=2)

    def break_losses(_: Any) -> None:
        monkeypatch.setattr(training, "reconstruction_loss", lambda picture, _: picture.mean() / 0)

    with pytest.raises(GateError, match=r"l1, .*not finite by step 2 of epoch 2.*checkpoints/last\.safetensors"):
        fit(run, on_epoch=break_losses)
    assert len((run.folder.path / "metrics.jsonl").read_text().splitlines()) == 1
    assert start(epochs=2, resume=True).history[0]["epoch"] == 1


# batch norm


def test_calibration_takes_the_statistics_of_the_training_photos(start: Callable[..., Run]) -> None:
    run = start(batch_size=3, lr=0.01)
    train_epoch(run, 1)
    parameters = copy.deepcopy(list(run.generator.parameters()))
    discriminator = weights_digest(run.discriminator.state_dict())
    calibrate_batch_norm(run, 1)

    convolution, norm = run.generator.body.stem[0], run.generator.body.stem[1]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        outputs = convolution(run.batch(torch.tensor(run.split.train))[0])
    assert torch.allclose(norm.running_mean, outputs.mean(dim=(0, 2, 3)), atol=1e-5)  # three batches of three
    assert norm.num_batches_tracked == 3
    assert all(layer.momentum == 0.1 for layer in run.generator.modules() if isinstance(layer, nn.BatchNorm2d))
    assert all(torch.equal(a, b) for a, b in zip(parameters, run.generator.parameters(), strict=True))
    assert weights_digest(run.discriminator.state_dict()) == discriminator
    before = states(run)
    calibrate_batch_norm(run, 1)
    assert states(run) == before  # a function of weights and photos alone


def test_calibration_stops_at_its_number_of_photos(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(batch_size=3)
    monkeypatch.setattr(training, "CALIBRATION_PHOTOS", 4)
    calibrate_batch_norm(run, 1)
    assert run.generator.body.stem[1].num_batches_tracked == 2


def test_training_never_reads_the_calibration(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated, plain = start("a", epochs=2), start("b", epochs=2)
    fit(calibrated)
    monkeypatch.setattr(training, "calibrate_batch_norm", lambda *_: None)
    fit(plain)
    for a, b in zip(calibrated.generator.parameters(), plain.generator.parameters(), strict=True):
        assert torch.equal(a, b)
    assert states(calibrated)["generator"] != states(plain)["generator"]


# evaluation


def test_evaluation_by_hand(start: Callable[..., Run]) -> None:
    run = start()
    train_epoch(run, 1)
    before = states(run)
    metrics = evaluate(run)
    assert states(run) == before
    gray, color = run.batch(torch.tensor(run.split.test))
    with torch.no_grad():
        picture = run.generator(gray)
        real, fake = (run.discriminator(torch.cat([gray, colors], 1)) for colors in (color, picture))
    assert metrics["test_photos"] == 3
    assert metrics["test_near_gray_photos"] == 0
    assert metrics["test_l1"] == pytest.approx((picture - color).abs().mean().item(), rel=1e-5)
    assert metrics["test_psnr"] == pytest.approx(psnr(picture, color).mean().item(), rel=1e-5)
    assert metrics["test_gray_psnr"] == pytest.approx(psnr(gray.expand_as(color), color).mean().item(), rel=1e-5)
    assert metrics["test_colorfulness"] == pytest.approx(colorfulness(picture).mean().item(), rel=1e-5)
    assert metrics["test_real_colorfulness"] == pytest.approx(colorfulness(color).mean().item(), rel=1e-5)
    expected = (-0.9 * F.logsigmoid(real) - 0.1 * F.logsigmoid(-real)).mean() / 2
    expected += (-0.1 * F.logsigmoid(fake) - 0.9 * F.logsigmoid(-fake)).mean() / 2
    assert metrics["test_discriminator_loss"] == pytest.approx(expected.item(), rel=1e-4)
    share = ((real > 0).float().mean() + (fake <= 0).float().mean()) / 2
    assert metrics["test_discriminator_accuracy"] == pytest.approx(share.item(), abs=1e-3)


def test_evaluation_does_not_depend_on_the_batch_size(start: Callable[..., Run]) -> None:
    run = start(test_fraction=0.6)
    metrics = evaluate(run)
    run.config = replace(run.config, batch_size=2)
    assert len(run.split.test) == 7
    assert evaluate(run) == pytest.approx(metrics, rel=1e-5)


def test_near_gray_photos_are_counted_and_left_out_of_colour_metrics(start: Callable[..., Run]) -> None:
    photos = random_photos()
    run = start(photos=photos)
    grayed = run.split.test[0]
    run.pixels = run.pixels.clone()
    run.pixels[grayed] = luma_uint8(run.pixels[grayed]).expand(3, -1, -1)
    metrics = evaluate(run)
    assert metrics["test_photos"] == 3
    assert metrics["test_near_gray_photos"] == 1
    gray, color = run.batch(torch.tensor(run.split.test[1:]))
    assert metrics["test_gray_psnr"] == pytest.approx(psnr(gray.expand_as(color), color).mean().item(), rel=1e-5)
    assert metrics["test_real_colorfulness"] == pytest.approx(colorfulness(color).mean().item(), rel=1e-5)
    gray, color = run.batch(torch.tensor(run.split.test))
    with torch.no_grad():  # L1 is of all photos
        assert metrics["test_l1"] == pytest.approx((run.generator(gray) - color).abs().mean().item(), rel=1e-5)


def test_gray_photos_alone_have_metrics_too(start: Callable[..., Run]) -> None:
    run = start()
    run.pixels = luma_uint8(run.pixels).expand(-1, 3, -1, -1).clone()
    metrics = evaluate(run)
    assert metrics["test_near_gray_photos"] == 3
    assert metrics["test_gray_psnr"] == float("inf")
    assert metrics["test_real_colorfulness"] == pytest.approx(0, abs=1e-6)


class MeanColor(nn.Module):
    """The three channel means as features."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def test_fid_is_measured_between_pictures_and_held_out_photos(start: Callable[..., Run]) -> None:
    run = start(test_fraction=0.6)
    network = FeatureNetwork(MeanColor(), 3, {"network": "mean colour"})
    found = evaluate(run, network)["test_fid"]
    assert found["photos"] == 7
    assert found["network"] == "mean colour"
    gray, color = run.batch(torch.tensor(run.split.test))
    with torch.no_grad():
        pictures = run.generator(gray).mean(dim=(2, 3)).double()
    photos = color.mean(dim=(2, 3)).double()
    product = torch.linalg.eigvals(torch.cov(pictures.T) @ torch.cov(photos.T)).sqrt().real.sum()
    distance = (pictures.mean(0) - photos.mean(0)).square().sum()
    expected = distance + torch.cov(pictures.T).trace() + torch.cov(photos.T).trace() - 2 * product
    assert found["value"] == pytest.approx(expected.item(), abs=1e-3)
    assert "test_fid" not in evaluate(run)


def test_pictures_that_are_no_numbers_fail_before_fid(start: Callable[..., Run]) -> None:
    run = start()
    with torch.no_grad():
        run.generator.body.head.bias[0] = torch.nan
    with pytest.raises(GateError, match="l1, discriminator_loss not finite"):
        evaluate(run, FeatureNetwork(MeanColor(), 3, {}))


# the whole run


def test_a_finished_run_holds_what_it_promises(start: Callable[..., Run]) -> None:
    run = start(epochs=2)
    told: list[int] = []
    fit(run, on_epoch=lambda metrics: told.append(metrics["epoch"]))
    folder = run.folder.path
    assert told == [1, 2]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == run.history
    assert [metrics["epoch"] for metrics in lines] == [1, 2]
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["epoch-0001.png", "epoch-0002.png"]
    generator, spec = load_generator(folder)
    assert weights_digest(generator.state_dict()) == states(run)["generator"]
    assert spec.config_sha256 == run.config.digest()
    with Image.open(folder / "samples" / "epoch-0002.png") as image:
        assert image.size == (3 * 34, 3 * 34)  # three held-out photos of 32 + 2 pixels; gray, picture, photo
        gray, _ = run.batch(torch.tensor(run.split.test))
        with torch.no_grad():
            picture = (generator(gray)[1] * 255).round()
        found = torch.tensor(list(image.crop((34, 34, 66, 66)).tobytes())).view(32, 32, 3).permute(2, 0, 1)
        assert (found - picture).abs().max() <= 1


def test_equal_runs_give_equal_weights(start: Callable[..., Run]) -> None:
    runs = [start(name, flip=True) for name in "ab"]
    for run in runs:
        torch.manual_seed(id(run) % 1000)  # the global generator is no part of it
        fit(run)
    assert states(runs[0]) == states(runs[1])


def trained_tensors(run: Run) -> dict[str, Tensor]:
    return load_file(run.folder.training_file)


def assert_same_run(found: Run, expected: Run) -> None:
    """Bit-identical networks and optimisers, in memory and on disk, and equal metrics."""
    assert states(found) == states(expected)
    tensors, expected_tensors = trained_tensors(found), trained_tensors(expected)
    assert tensors.keys() == expected_tensors.keys()
    assert not [name for name in tensors if not torch.equal(tensors[name], expected_tensors[name])]
    assert load_generator(found.folder.path)[1].weights_sha256 == load_generator(expected.folder.path)[1].weights_sha256

    def figures(run: Run) -> list[dict[str, Any]]:
        lines = (run.folder.path / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]

    assert figures(found) == figures(expected)
    samples = [sorted((run.folder.path / "samples").iterdir()) for run in (found, expected)]
    assert [path.name for path in samples[0]] == [path.name for path in samples[1]]
    assert samples[0][-1].read_bytes() == samples[1][-1].read_bytes()


@pytest.mark.parametrize("warmup_epochs", [0, 1])
def test_one_epoch_and_two_more_are_three(start: Callable[..., Run], warmup_epochs: int) -> None:
    options = {"flip": True, "warmup_epochs": warmup_epochs}
    whole = start("whole", epochs=3, **options)
    fit(whole)
    fit(start("parts", epochs=1, **options))
    torch.manual_seed(1234)
    resumed = start("parts", epochs=3, **options, resume=True)
    assert len(resumed.history) == 1
    fit(resumed)
    assert_same_run(resumed, whole)
    assert len(trained_tensors(whole)) > 2 * sum(1 for _ in whole.generator.parameters())


class Killed(BaseException):
    """Stands for kill -9: nothing in the project catches it."""


@pytest.mark.parametrize(
    ("place", "finished"),
    [
        ("cgan.training.train_epoch", 1),
        ("cgan.training.calibrate_batch_norm", 1),
        ("cgan.training.evaluate", 1),
        ("cgan.run_folder.save_training", 1),
        ("cgan.run_folder.save_generator", 2),
        ("cgan.training.sample_grid", 2),
    ],
)
def test_a_run_killed_in_its_second_epoch_goes_on_exactly(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, place: str, finished: int
) -> None:
    whole = start("whole", epochs=3)
    fit(whole)
    killed = start("killed", epochs=3)
    module, name = place.rsplit(".", 1)
    with monkeypatch.context() as patch:
        patch.setattr(place, second_call_dies(getattr(__import__(module, fromlist=[name]), name)))
        with pytest.raises(Killed):
            fit(killed)
    resumed = start("killed", epochs=3, resume=True)
    assert len(resumed.history) == finished
    fit(resumed)
    assert_same_run(resumed, whole)


def second_call_dies(function: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[None] = []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            raise Killed
        return function(*args, **kwargs)

    return wrapper


def test_a_run_killed_before_its_first_checkpoint_begins_again(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start("whole")
    fit(whole)
    start("killed")
    resumed = start("killed", resume=True)
    assert resumed.history == []
    fit(resumed)
    assert_same_run(resumed, whole)


def test_resuming_a_finished_run_changes_nothing(start: Callable[..., Run]) -> None:
    run = start(epochs=2)
    fit(run)
    files = {path: path.read_bytes() for path in run.folder.path.rglob("*.*")}
    again = start(epochs=2, resume=True)
    fit(again)
    assert {path: path.read_bytes() for path in run.folder.path.rglob("*.*")} == files


def test_training_learns_what_is_learnable(start: Callable[..., Run]) -> None:
    # Every photo is orange of some lightness: the colours are a function of luma.
    lightness = random_photos(24).pixels[:, :1].float()
    orange = torch.tensor([1.0, 0.6, 0.1]).view(1, 3, 1, 1)
    run = start(photos=as_photos((lightness * orange).to(torch.uint8)), width=4, epochs=6, lr=2e-2)
    fit(run)
    first, last = run.history[0], run.history[-1]
    assert last["train_l1"] < 0.4 * first["train_l1"]
    assert last["test_l1"] < 0.06
    assert last["test_psnr"] > last["test_gray_psnr"] + 3


def test_full_disk_fails_the_run_and_keeps_the_last_epoch(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(epochs=2)
    first = start("first")
    fit(first)

    def fill(_: Any) -> None:
        def fails(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fails)

    with pytest.raises(GateError, match="No space left"):
        fit(run, on_epoch=fill)
    assert trained_tensors(run).keys() == trained_tensors(first).keys()
    assert load_generator(run.folder.path)[1].weights_sha256 == states(first)["generator"]
    assert not list(run.folder.path.rglob("*.tmp"))
