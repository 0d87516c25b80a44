"""Setup, an epoch, a whole run: order of training, files on disk, errors that stop it."""

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cgan import files
from cgan.config import DISCRIMINATOR_CHOICES
from cgan.data.prepared import Photos
from cgan.errors import GateError, UserError
from cgan.training import loop as training
from cgan.training import stopwatch
from cgan.training.checkpoint import load_generator, weights_digest
from cgan.training.distributed import World
from cgan.training.evaluation import evaluate
from cgan.training.ledger import LEDGER_FILE
from cgan.training.loop import PHASES, fit, setup, train_epoch
from cgan.training.run_state import Run
from cgan.training.steps import Batch
from cgan.training.stopwatch import Stopwatch

Start = Callable[..., Run]


def epoch_of(run: Run, epoch: int = 1, **more: Any) -> dict[str, Any]:
    return train_epoch(run, epoch, Stopwatch(run.device), **more)


def states(run: Run) -> dict[str, str]:
    return {name: weights_digest(network.state_dict()) for name, network in run.networks.items()}


def steps_of(monkeypatch: pytest.MonkeyPatch, step: Callable[..., Any]) -> None:
    """Put `step(run, batch, warmup)` in the place of train_step."""
    monkeypatch.setattr(training, "train_step", lambda run, batch, watch, warmup: step(run, batch, warmup))


# setup


def test_a_run_begins_with_its_records(start: Start, tmp_path: Path, photos: Photos) -> None:
    run = start()
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == run.config.to_json()
    parts = json.loads((tmp_path / "run" / "split.json").read_text())
    assert parts.keys() == {"train", "test", "photos_sha256"}
    for side in ("train", "test"):
        assert parts[side] == [photos.names[i] for i in getattr(run.split, side)]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["torch"] == torch.__version__


def test_a_start_killed_between_its_records_can_be_started_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(path: Path, target: Path, *arguments: Any) -> None:
        if target.name == "config.json":
            raise KeyboardInterrupt
        place(path, target, *arguments)

    place = files.place
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "place", dies)
        start()
    assert (tmp_path / "run" / "split.json").exists()
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(UserError, match="start without --resume"):
        start(resume=True)
    fit(start())
    assert load_generator(tmp_path / "run")


def test_fid_needs_two_held_out_photos(start: Start, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--test-fraction or --no-fid"):
        start(fid=True, best_by="fid", test_fraction=0.01)
    assert not (tmp_path / "run").exists()
    assert len(start(fid=True, best_by="fid", test_fraction=0.2).split.test) == 2


def test_more_processes_than_photos_are_refused(start: Start, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"found 9 photos to train on.*expected at least 10, one photo for each process; start"
    ):
        start(world=World(rank=3, size=10))
    assert not (tmp_path / "run").exists()


def test_a_process_with_other_photos_than_the_first_is_refused(start: Start, tmp_path: Path) -> None:
    class Elsewhere(World):
        def from_main(self, value: Any) -> Any:
            return "digest of other photos"

    with pytest.raises(UserError, match=r"found other photos than process 0; give all machines the same"):
        start(world=Elsewhere())
    assert not (tmp_path / "run").exists()


# one epoch


@pytest.mark.parametrize(
    ("discriminator", "precision"),
    [
        *((name, "fp32") for name in DISCRIMINATOR_CHOICES),
        *((name, "bf16") for name in DISCRIMINATOR_CHOICES if name != "projected"),
        # Its depthwise convolutions take seconds on a CPU without bf16.
        pytest.param("projected", "bf16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_every_discriminator_trains(start: Start, discriminator: str, precision: str) -> None:
    run = start(discriminator=discriminator, precision=precision)
    before = {name: copy.deepcopy(network) for name, network in run.networks.items()}
    metrics = epoch_of(run)
    judged = {"train_adversarial", "train_discriminator_loss", "train_discriminator_accuracy"}
    assert metrics.keys() == {
        *({"discriminator_gradient_norm"} | judged if run.discriminator else set()),
        *("train_l1", "generator_gradient_norm", "lr", "images_per_second"),
    }
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    assert 0 <= metrics.get("train_discriminator_accuracy", 0) <= 1
    for name, network in run.networks.items():
        for old, new in zip(before[name].parameters(), network.parameters(), strict=True):
            assert not torch.equal(old, new) or new.dim() == 1  # gradients of a bias may cancel in bf16
            assert new.requires_grad
            assert new.dtype == torch.float32


def test_metrics_are_means_over_photos_not_over_steps(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([1.0, 4.0])

    def step(run: Run, batch: Batch, warmup: bool) -> dict[str, Tensor]:
        assert batch.weight == 1
        value = torch.tensor(next(values))
        return {"l1": value, "generator_gradient_norm": 10 * value}

    steps_of(monkeypatch, step)
    seen: list[tuple[int, int, int, float]] = []
    found = epoch_of(start(), on_step=lambda *now: seen.append((*now[:3], now[3]["l1"])))
    expected = (4 * 1.0 + 5 * 4.0) / 9  # a last batch of one photo joins the one before
    assert (found["train_l1"], found["generator_gradient_norm"]) == pytest.approx((expected, 10 * expected))
    assert seen == [(1, 4, 9, 1.0), (1, 9, 9, pytest.approx(expected))]


def test_every_training_photo_is_seen_once_in_an_order_of_seed_and_epoch(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    mixes: list[Tensor] = []

    def record(run: Run, choices: list[tuple[Tensor, Tensor | None]]) -> Any:
        for indices, flip in choices:
            seen.append(torch.stack([indices, torch.full_like(indices, 9) if flip is None else flip.long()]))
        return batches(run, choices)

    def step(run: Run, batch: Batch, warmup: bool) -> dict[str, Tensor]:
        mixes.append(batch.mix)
        return {"l1": torch.zeros(())}

    batches = Run.batches
    monkeypatch.setattr(Run, "batches", record)
    steps_of(monkeypatch, step)
    found = []
    runs = [("a", 1, 0, True), ("b", 2, 0, True), ("c", 1, 1, True), ("d", 1, 0, True), ("e", 1, 0, False)]
    for name, epoch, seed, flip in runs:
        run = start(name, seed=seed, flip=flip)
        epoch_of(run, epoch)
        order, flips = torch.cat(seen, 1)
        assert sorted(order.tolist()) == list(run.split.train)
        mix = torch.cat(mixes)
        assert len(mix.unique()) == 9 and mix.min() >= 0 and mix.max() <= 1
        found.append((order.tolist(), flips.tolist(), mix.tolist()))
        seen.clear()
        mixes.clear()
    orders, flips, all_mixes = zip(*found, strict=True)
    for columns in (orders, flips, all_mixes):
        assert columns[3] == columns[0] != columns[1] != columns[2] != columns[0]
    assert (orders[4], set(flips[4]), all_mixes[4]) == (orders[0], {9}, all_mixes[0])
    assert set(flips[0]) == set(flips[1]) == {0, 1}


def test_the_warm_up_is_the_first_epochs(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    warm: list[bool] = []
    run = start(epochs=3, warmup_epochs=2)
    before = states(run)["discriminator"]
    assert "train_adversarial" not in epoch_of(run, 2)
    assert states(run)["discriminator"] == before

    def step(run: Run, batch: Batch, warmup: bool) -> dict[str, Tensor]:
        warm.append(warmup)
        return {"l1": torch.zeros(())}

    steps_of(monkeypatch, step)
    for epoch in (1, 2, 3):
        epoch_of(run, epoch)
    assert warm == [True] * 4 + [False] * 2


def test_the_learning_rate_falls_in_the_last_epochs(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def rates(run: Run, batch: Batch, warmup: bool) -> dict[str, Tensor]:
        return {name: torch.tensor(adam.param_groups[0]["lr"]) for name, adam in run.optimizers.items()}

    steps_of(monkeypatch, rates)
    run = start(epochs=4, decay_epochs=2, lr=0.75)
    found = [epoch_of(run, epoch) for epoch in (1, 2, 3, 4)]
    for name in ("lr", "train_generator_adam", "train_discriminator_adam"):
        assert [metrics[name] for metrics in found] == pytest.approx([0.75, 0.75, 0.5, 0.25])


def test_networks_are_in_training_mode_whatever_was_before(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(run: Run, batch: Batch, warmup: bool) -> dict[str, Tensor]:
        assert run.discriminator is not None
        assert all(network.training for network in (run.generator, run.discriminator))
        return {"l1": torch.zeros(())}

    run = start(ema=0.5)
    evaluate(run, None)
    assert not any(network.training for network in run.networks.values())
    steps_of(monkeypatch, step)
    epoch_of(run)


# what stops a run


def broken_gradient(run: Run, name: str, step: int) -> None:
    """From `step` on, the gradient of one of the network's weights is infinite."""
    calls = itertools.count(1)
    weights = next(run.networks[name].parameters())
    weights.register_hook(lambda gradient: gradient * (torch.inf if next(calls) >= step else 1))


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_gradient_that_is_no_number_stops_the_epoch(start: Start, network: str) -> None:
    run = start(batch_size=3)
    broken_gradient(run, network, 2)
    message = rf"^{network}_gradient_norm.* not finite at step 2 of epoch 1; last good checkpoint: none yet; try .*--lr"
    with pytest.raises(GateError, match=message) as caught:
        fit(run)
    assert caught.value.exit_code == 1
    assert {path.name for path in run.folder.path.iterdir()} == {
        "config.json",
        "split.json",
        "environment.json",
        LEDGER_FILE,
    }


def test_a_loss_that_is_no_number_stops_the_epoch_at_its_step(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(batch_size=3, epochs=2)
    calls = itertools.count(1)

    def breaks(prediction: Tensor, truth: Tensor) -> Tensor:
        return (prediction - truth).abs().mean() / (0 if next(calls) == 3 + 2 else 1)

    last = run.folder.path / "checkpoints" / "last.safetensors"
    message = f"^l1, generator_gradient_norm not finite at step 2 of epoch 2; last good checkpoint: {last}; try a small"
    with monkeypatch.context() as patch, pytest.raises(GateError, match=message):
        patch.setattr("cgan.training.steps.reconstruction_loss", breaks)
        fit(run)
    assert next(calls) == 6  # it stopped there
    assert len((run.folder.path / "metrics.jsonl").read_text().splitlines()) == 1
    resumed = start(batch_size=3, epochs=2, resume=True)
    assert [metrics["epoch"] for metrics in resumed.history] == [1]
    assert load_generator(last)[1].weights_sha256 == states(resumed)["generator"]


def test_a_step_that_breaks_the_weights_is_not_saved(start: Start) -> None:
    # The only step's own losses are finite; the weights that it leaves are not of use.
    run = start(batch_size=16, lr=1e30, discriminator="none")
    with pytest.raises(GateError, match=r"^test_l1 not finite on the held-out photos after epoch 1; .* none yet"):
        fit(run)
    assert not (run.folder.path / "checkpoints").exists()


def test_the_first_broken_step_is_named_however_late_it_is_looked_for(start: Start) -> None:
    run = start(batch_size=3)
    tally = training._Tally(run, 7)  # on a GPU, which looks only now and then
    for l1, norm in ((0.5, 1.0), (0.5, torch.inf), (torch.nan, torch.nan), (0.5, 1.0)):
        tally.add({"l1": torch.tensor(l1), "generator_gradient_norm": torch.tensor(norm)}, training._plan(run, 7)[0])
    with pytest.raises(GateError, match=r"^generator_gradient_norm not finite at step 2 of epoch 7"):
        tally.check()


@pytest.fixture
def scaled(start: Start) -> Callable[..., Run]:
    """`scaled(scale)`: a run with fp16's gradient scaling, in fp32 since there is no GPU; three steps an epoch."""

    def new(scale: float) -> Run:
        run = start(batch_size=3)
        run.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return run

    return new


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.slow
def test_steps_whose_gradients_overflow_in_fp16_are_left_out_and_counted(
    scaled: Callable[..., Run], network: str
) -> None:
    run = scaled(1024.0)
    assert epoch_of(run)["skipped_steps"] == 0
    broken_gradient(run, network, 2)
    metrics = epoch_of(run, 2)
    assert metrics["skipped_steps"] == 2
    assert run.scaler.get_scale() == 256  # halved twice
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    before = copy.deepcopy(run.networks[network])
    assert epoch_of(run, 3)["skipped_steps"] == 3
    pairs = zip(before.parameters(), run.networks[network].parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in pairs)


def test_gradients_that_overflow_at_every_scale_stop_the_run(scaled: Callable[..., Run]) -> None:
    run = scaled(2.0)
    broken_gradient(run, "generator", 1)
    with pytest.raises(GateError, match=r"^fp16 gradients not finite at any scale by step 2 of epoch 1; .*precision"):
        fit(run)
    assert not (run.folder.path / "checkpoints").exists()


def test_losses_that_are_no_numbers_stop_a_run_in_fp16_too(
    scaled: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgan.training.steps.reconstruction_loss", lambda prediction, truth: prediction.mean() / 0)
    with pytest.raises(GateError, match=r"^l1 not finite at step 1 of epoch 1"):
        fit(scaled(1024.0))


# the whole run


def test_a_finished_run_holds_what_it_promises(start: Start) -> None:
    run = start(epochs=2)
    told: list[tuple[int, int]] = []

    def on_epoch(metrics: dict[str, Any]) -> None:
        lines = (run.folder.path / "metrics.jsonl").read_text().splitlines()
        told.append((metrics["epoch"], len(lines)))
        assert metrics == json.loads(lines[-1])

    fit(run, on_epoch=on_epoch)
    assert told == [(1, 1), (2, 2)]  # each epoch is told of when it is on disk
    folder = run.folder.path
    assert load_generator(folder)[1].weights_sha256 == states(run)["generator"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == run.history
    assert [metrics["epoch"] for metrics in lines] == [1, 2]
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["epoch-0001.png", "epoch-0002.png"]
    assert load_generator(folder)[1].config_sha256 == run.config.digest()


def test_equal_runs_give_equal_weights(start: Start) -> None:
    runs = [start(name, flip=True, ema=0.5, spectral_norm=True) for name in "ab"]
    for seed, run in enumerate(runs):
        torch.manual_seed(seed)  # the global generator is no part of it
        fit(run)
    assert states(runs[0]) == states(runs[1])


def test_an_epoch_tells_where_its_time_went(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(epochs=2)
    fit(run)
    for metrics in run.history:
        shares = metrics["time_shares"]
        assert tuple(shares) == PHASES
        assert all(0 < share < 1 for share in shares.values())
        assert sum(shares.values()) <= 1
        assert metrics["images_per_second"] > 0

    # A second passes at each look at the clock: two looks in each phase, beside those between phases.
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    run = start("ticks", batch_size=16, discriminator="none")
    fit(run)
    # made, data twice, forward, backward, step twice, the epoch's end; evaluation, the shares' end: 17 looks
    assert run.history[0]["images_per_second"] == pytest.approx(9 / 13)
    parts = {"data": 2, "forward": 1, "backward": 1, "step": 2, "evaluation": 1}
    assert run.history[0]["time_shares"] == pytest.approx({name: count / 16 for name, count in parts.items()})


@pytest.mark.slow
def test_training_learns_what_is_learnable(tmp_path: Path, start: Start, photos: Photos) -> None:
    # Every photo is orange of some lightness: the colours are a function of luma.
    lightness = photos.pixels[:, :1].float()
    orange = (lightness * torch.tensor([1.0, 0.6, 0.1]).view(1, 3, 1, 1)).to(torch.uint8)
    config = replace(start().config, discriminator="patch", epochs=10, lr=2e-2, batch_size=3)
    run = setup(tmp_path / "orange", config, replace(photos, pixels=orange))
    fit(run)
    first, last = run.history[0], run.history[-1]
    assert last["train_l1"] < 0.4 * first["train_l1"]
    assert last["test_l1"] < 0.06
    assert last["test_psnr"] > last["test_gray_psnr"] + 3
