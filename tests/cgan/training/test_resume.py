"""A run that was stopped at any point and resumed equals the uninterrupted run."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from cgan import files
from cgan.data.prepared import Photos
from cgan.errors import GateError
from cgan.training import events, run_folder, stopwatch
from cgan.training import loop as training
from cgan.training.checkpoint import load_generator, weights_digest
from cgan.training.ledger import LEDGER_FILE, Ledger
from cgan.training.loop import fit, setup
from cgan.training.run_folder import LOCK_FILE
from cgan.training.run_state import Run
from tests.cgan.resumed import CONFIG, EVERYTHING

Start = Callable[..., Run]


class Killed(BaseException):
    """Simulates kill -9: nothing in the project catches it."""


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs are written while the next one trains, which is the harder way to be killed."""
    monkeypatch.setattr(training, "WRITES_BESIDE", ("cpu",))


@pytest.fixture(scope="module", autouse=True)
def ticking_clocks() -> Iterator[None]:
    """Clocks that advance at each call, so that equal runs write equal bytes, and curves as text.

    The curves have tests of their own and take their time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
        patch.setattr(training, "time", SimpleNamespace(time=lambda: 1e9))
        patch.setattr(run_folder, "save_curves", lambda history, path: path.write_text(json.dumps(history)))
        yield


@pytest.fixture
def start(tmp_path: Path, photos: Photos) -> Start:
    """`start(name, resume=False, **options)`: a run in tmp_path / name."""

    def new(name: str, resume: bool = False, **options: Any) -> Run:
        return setup(tmp_path / name, replace(CONFIG, **options), photos, resume)

    return new


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, photos: Photos) -> Callable[..., Run]:
    """`whole_run(**options)`: the run of three epochs that was never stopped."""

    @cache
    def run(**options: Any) -> Run:
        run = setup(tmp_path_factory.mktemp("whole") / "run", replace(CONFIG, **options), photos)
        fit(run)
        return run

    return run


def contents(run: Run) -> dict[str, bytes]:
    root = run.folder.path
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name not in (LEDGER_FILE, LOCK_FILE)}


def states(run: Run) -> dict[str, str]:
    return {name: weights_digest(network.state_dict()) for name, network in run.networks.items()}


def assert_same_run(found: Run, expected: Run) -> None:
    """Bit-identical networks in memory, and every file byte for byte."""
    assert states(found) == states(expected)
    files, expected_files = contents(found), contents(expected)
    assert sorted(files) == sorted(expected_files)
    assert [name for name in files if files[name] != expected_files[name]] == []


# exactly


@pytest.mark.parametrize("options", [{}, {**EVERYTHING, "decay_epochs": 0}, {"discriminator": "none", "ema": 0.5}])
@pytest.mark.slow
def test_one_epoch_and_two_more_are_three(start: Start, whole_run: Callable[..., Run], options: dict[str, Any]) -> None:
    fit(start("parts", epochs=1, **options))
    torch.manual_seed(1234)
    resumed = start("parts", resume=True, **options)
    assert [metrics["epoch"] for metrics in resumed.history] == [1]
    assert resumed.steps == 2
    fit(resumed)
    assert_same_run(resumed, whole_run(**options))


def test_the_training_state_holds_all_networks_and_optimisers(start: Start) -> None:
    run = start("run", epochs=1, **{**EVERYTHING, "decay_epochs": 0, "warmup_epochs": 0})
    fit(run)
    with safe_open(run.folder.training_file, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, network in run.networks.items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(found.pop(f"{name}.{key}"), tensor)
    for name, optimizer in run.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
            assert all(torch.equal(found.pop(f"{name}.{index}.{key}"), tensor) for key, tensor in state.items())
    assert not found


@pytest.mark.slow
def test_the_scale_of_fp16_goes_on(start: Start) -> None:
    whole = start("whole", precision="fp16")
    fit(whole)
    fit(start("parts", precision="fp16", epochs=1))
    resumed = start("parts", precision="fp16", resume=True)
    assert resumed.scaler.get_scale() < start("fresh", precision="fp16").scaler.get_scale()
    fit(resumed)
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()
    assert resumed.history == whole.history
    assert whole.history[0]["skipped_steps"] > 0


def test_resuming_a_finished_run_changes_nothing(start: Start) -> None:
    run = start("run", epochs=2)
    fit(run)
    files = contents(run)
    again = start("run", epochs=2, resume=True)
    fit(again)
    assert contents(run) == files


# killed in this process


def second_call_dies(function: Callable[..., Any]) -> Callable[..., Any]:
    calls = itertools.count(1)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2:
            raise Killed
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("name", ["train_epoch", "calibrate_batch_norm", "evaluate"])
@pytest.mark.slow
def test_a_run_killed_before_the_state_of_its_second_epoch_is_written(
    start: Start, whole_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, name, second_call_dies(getattr(training, name)))
        fit(start("killed"))
    resumed = start("killed", resume=True)
    assert len(resumed.history) == 1
    fit(resumed)
    assert_same_run(resumed, whole_run())


def dies_before(name: str, patch: pytest.MonkeyPatch) -> None:
    """Die after the content of the file of this name is written and before it is renamed."""

    def place_or_die(path: Path, target: Path, *arguments: Any) -> Any:
        if target.name == name:
            raise Killed
        return place(path, target, *arguments)

    place = files.place
    patch.setattr(files, "place", place_or_die)


FILES = (
    *("last.training.safetensors", "last.safetensors", "best.safetensors", "epoch-0002.safetensors"),
    *("metrics.jsonl", "epoch-0002.png", "curves.png"),
)
"""Files in the order in which they are renamed after the second epoch, here the best one."""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.slow
def test_a_run_killed_between_the_files_of_its_second_epoch(
    start: Start, whole_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    killed = start("killed", ema=0.5)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        fit(killed, on_epoch=lambda _: dies_before(name, patch))
    resumed = start("killed", ema=0.5, resume=True)
    assert len(resumed.history) == (1 if name == FILES[0] else 2)
    fit(resumed)
    assert_same_run(resumed, whole_run(ema=0.5))


@pytest.mark.parametrize("name", ["config.json", "last.safetensors", "epoch-0002.png"])
@pytest.mark.slow
def test_a_run_killed_again_while_it_is_resumed(
    start: Start, whole_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        fit(start("killed"), on_epoch=lambda _: dies_before(FILES[1], patch))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_before(name, patch)
        start("killed", resume=True)
    resumed = start("killed", resume=True)
    assert len(resumed.history) == 2
    fit(resumed)
    assert_same_run(resumed, whole_run())


@pytest.mark.slow
def test_a_run_killed_while_it_appends_to_its_events(
    start: Start, whole_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(folder: Path, history: list[dict[str, Any]], ledger: Ledger) -> None:
        write(folder, history, ledger)
        if len(history) == 2:
            path = folder / events.FILE
            path.write_bytes(path.read_bytes()[:-9])
            raise Killed

    write = events.write_events
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(events, "write_events", dies)
        fit(start("killed"))
    resumed = start("killed", resume=True)
    fit(resumed)
    assert_same_run(resumed, whole_run())


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_again(start: Start, whole_run: Callable[..., Run]) -> None:
    start("killed")
    resumed = start("killed", resume=True)
    assert resumed.history == []
    fit(resumed)
    assert_same_run(resumed, whole_run())


@pytest.mark.slow
def test_a_full_disk_fails_the_run_and_keeps_the_last_epoch(
    start: Start, whole_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start("run")

    def fill(_: Any) -> None:
        def fails(_: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("os.fsync", fails)

    with monkeypatch.context() as patch, pytest.raises(GateError, match="No space left"):
        fit(run, on_epoch=fill)
    assert load_generator(run.folder.path)[1].weights_sha256 != states(run)["generator"]
    assert not list(run.folder.path.rglob("*.tmp"))
    resumed = start("run", resume=True)
    assert len(resumed.history) == 1
    fit(resumed)
    assert_same_run(resumed, whole_run())


@pytest.mark.slow
def test_an_epoch_is_written_as_it_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write each epoch after the next one has changed the weights and the history."""
    one, run = start("one", epochs=1), start("run")
    fit(one)
    save = run.folder.save
    written: list[tuple[int, str]] = []

    def late(tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        epoch = len(written) + 1
        deadline = time.monotonic() + 60
        while len(run.history) < min(epoch + 1, run.config.epochs):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        weights = {key.removeprefix("generator."): t for key, t in tensors.items() if key.startswith("generator.")}
        written.append((len(progress["history"]), weights_digest(weights)))
        save(tensors, progress)

    monkeypatch.setattr(run.folder, "save", late)
    fit(run)
    assert [epochs for epochs, _ in written] == [1, 2, 3]
    assert written[0][1] == states(one)["generator"]
    assert written[2][1] == states(run)["generator"] != written[0][1]
