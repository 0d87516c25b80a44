"""Several processes compared with one: the same steps, one writer, the same result."""

import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cgan.cli import main
from cgan.errors import GateError, UserError
from cgan.training.checkpoint import load_generator
from cgan.training.distributed import World, joined
from tests import warm

PROCESSES = 2

Told = tuple[dict[str, Any], ...]

WORKER = '''
"""A worker that trains and prints its results: started by torchrun, and imported for the single process."""

import json
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from cgan.training import run_folder

from cgan.training import loop as training
from cgan.training.checkpoint import weights_digest
from cgan.config import TrainConfig
from cgan.data.prepared import prepare
from cgan.training.distributed import World, joined
from cgan.spec import UserError
from cgan.training.stopwatch import Stopwatch

SMALL = TrainConfig(
    width=2, size=32, batch_size=9, test_fraction=0.25, lr=2e-5, discriminator="patch", device="cpu",
    precision="fp32", fid=False, best_by="psnr", flip=True,
)
# Rounding differs between one process and two, and Adam's first steps, which go by the sign of a gradient alone,
# amplify it: a weight whose gradient is all rounding goes up in one and down in the other. So the learning rate is
# small here and the networks wider: at 5e-5 losses differed by up to 3e-4 after ten steps, at 1e-5 by 1e-5.
TEN_STEPS = replace(SMALL, width=8, batch_size=16, lr=1e-5, discriminator="unet")
CASES = {
    "ten steps": TEN_STEPS,
    "uneven": SMALL,
    "penalties": replace(SMALL, gan_loss="wasserstein", gradient_penalty=10.0, r1=1.0),
}


def steps(world, photos, folder, config, name):
    """Each step's losses, over the photos of all processes."""
    chosen = photos["many" if config is TEN_STEPS else "few"]
    run = training.setup(folder / name / str(world.rank), config, chosen, world=world)
    found, step = [], training.train_step

    def record(run, batch, *rest, **more):
        losses = step(run, batch, *rest, **more)
        count = world.sum(torch.tensor(float(len(batch.pixels))))
        mean = {key: world.sum(value.double() * len(batch.pixels)) / count for key, value in losses.items()}
        found.append({key: float(value) for key, value in mean.items()} | {"photos": int(count)})
        return losses

    training.train_step = record
    metrics = training.train_epoch(run, 1, Stopwatch(run.device))
    training.train_step = step
    return {"steps": found, "epoch": {key: metrics[key] for key in metrics if key != "images_per_second"}}


def digests(run):
    return {name: weights_digest(network.state_dict()) for name, network in run.networks.items()}


def whole(world, photos, folder):
    """Two epochs at once, and one epoch followed by a resumed one."""
    config = replace(SMALL, ema=0.5, spectral_norm=True)
    run_folder.save_curves = lambda history, path: path.touch()  # it takes its time
    found = {}
    for name, parts in (("whole", [2]), ("parts", [1, 2])):
        for epochs in parts:
            # Each process has a path of its own, in which only the first may write; a resumed one reads the first's.
            resumed = epochs > parts[0]
            path = folder / name / ("0" if resumed else str(world.rank))
            run = training.setup(path, replace(config, epochs=epochs), photos["few"], resumed, world)
            training.fit(run)
        found[name] = digests(run)
        found[f"{name} written"] = (folder / name / str(world.rank)).exists()
    history = [{key: epoch[key] for key in epoch if key.startswith(("train_", "test_"))} for epoch in run.history]
    return {**found, "history": history}


def world_itself(world, photos, folder):
    """The world's own operations."""
    folder = folder / "first"
    with world.main_of_machine_first():
        found_there = folder.exists()
        folder.mkdir(exist_ok=True)
    return {
        "sum": float(world.sum(torch.tensor(1.0 + world.rank))),
        "from_main": world.from_main({"rank": world.rank}),
        "share": world.share(torch.arange(7)).tolist(),
        "found_there": found_there,
    }


def main(source, folder):
    with joined("cpu") as world:
        torch.set_num_threads(1)
        photos = {name: prepare(source / name, 32, folder / f"cache-{world.rank}") for name in ("few", "many")}
        found = {name: steps(world, photos, folder, config, name) for name, config in CASES.items()}
        found |= {"whole": whole(world, photos, folder), "world": world_itself(world, photos, folder)}
        group = weakref.ref(dist.group.WORLD)
    found["ended"] = group() is None
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
'''


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", PROCESSES, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)


def two_processes(folder: Path, code: str, *arguments: object) -> list[tuple[int, str]]:
    """Execute code as torchrun would, in two processes; their exit codes and what they wrote to standard error."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    world = {"WORLD_SIZE": str(PROCESSES), "LOCAL_WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1"}
    world |= {**os.environ, "MASTER_PORT": str(port)}
    started = [
        warm.start(
            code,
            *arguments,
            output=folder / f"printed-{rank}",
            environment={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(PROCESSES)
    ]
    return [(process.exit_code, (folder / f"printed-{i}" / "err").read_text()) for i, process in enumerate(started)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> Told:
    """Output of the worker: of a single process, and of each of two processes."""
    source, folder = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("runs")
    make_photos(source / "few", 12)
    make_photos(source / "many", 214)
    script = folder / "worker.py"
    script.write_text(WORKER)
    for code, printed in two_processes(folder, WORKER, source, folder):
        assert code == 0, printed
    worker = runpy.run_path(str(script))
    photos = {name: worker["prepare"](source / name, 32, folder / "cache-0") for name in ("few", "many")}
    (folder / "alone").mkdir()
    alone = {
        name: worker["steps"](World(), photos, folder / "alone", config, name)
        for name, config in worker["CASES"].items()
    }
    return alone, *(json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(PROCESSES))


def difference(found: dict[str, float], expected: dict[str, float]) -> float:
    """The largest relative difference of these values."""
    assert found.keys() == expected.keys()
    return max(abs(found[name] - expected[name]) / abs(expected[name]) for name in expected)


def losses(step: dict[str, float], *names: str) -> dict[str, float]:
    return {name: step[name] for name in names}


@pytest.mark.slow
def test_ten_steps_of_two_processes_are_those_of_one(told: Told) -> None:
    alone, *both = told
    for one in both:
        assert len(one["ten steps"]["steps"]) == 10
        for found, expected in zip(one["ten steps"]["steps"], alone["ten steps"]["steps"], strict=True):
            assert found["photos"] == expected["photos"] == 16
            names: tuple[str, ...] = ("l1", "adversarial", "discriminator_loss")
            assert difference(losses(found, *names), losses(expected, *names)) < 1e-4
            names = ("generator_gradient_norm", "discriminator_gradient_norm")
            assert difference(losses(found, *names), losses(expected, *names)) < 0.03


@pytest.mark.parametrize("case", ["uneven", "penalties"])
@pytest.mark.slow
def test_a_step_of_five_photos_and_four_is_that_of_nine(told: Told, case: str) -> None:
    alone, *both = told
    (expected,) = alone[case]["steps"]
    assert ("r1" in expected) == ("gradient_penalty" in expected) == (case == "penalties")
    for one in both:
        (found,) = one[case]["steps"]
        assert found["photos"] == 9
        assert difference(found, expected) < 1e-3  # gradient norms too: a mean of means would be far off
        assert difference(one[case]["epoch"], alone[case]["epoch"]) < 1e-3
    assert both[0][case]["epoch"] == both[1][case]["epoch"]


@pytest.mark.slow
def test_all_processes_end_with_the_same_networks_and_metrics(told: Told) -> None:
    _, first, second = told
    assert first["whole"]["whole"].keys() == {"generator", "discriminator", "average"}
    for name in ("whole", "parts", "history"):
        assert first["whole"][name] == second["whole"][name]
    assert len(first["whole"]["history"]) == 2


@pytest.mark.slow
def test_two_processes_go_on_exactly(told: Told) -> None:
    for one in told[1:]:
        assert one["whole"]["parts"] == one["whole"]["whole"]


@pytest.mark.slow
def test_only_the_first_process_writes(told: Told) -> None:
    _, first, second = told
    assert first["whole"]["whole written"] and first["whole"]["parts written"]
    assert not second["whole"]["whole written"] and not second["whole"]["parts written"]


@pytest.mark.slow
def test_what_processes_share(told: Told) -> None:
    _, first, second = told
    assert first["world"] == {"sum": 3, "from_main": {"rank": 0}, "share": [0, 2, 4, 6], "found_there": False}
    assert second["world"] == {"sum": 3, "from_main": {"rank": 0}, "share": [1, 3, 5], "found_there": True}


@pytest.mark.slow
def test_nothing_of_the_group_is_left_to_abort_the_process_as_it_ends(told: Told) -> None:
    assert all(one["ended"] for one in told[1:])


@pytest.mark.slow
def test_the_whole_command_in_two_processes(
    invoke: Callable[..., Any], photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> None:
    options = [option for option in tiny_options if option != "--quiet"] + ["--lr", "0.00001", "--epochs", "2"]
    options += ["--discriminator", "patch", "--batch-size", "9"]
    command = Path(sys.executable).with_name("cgan-train")
    result = torchrun("--no-python", command, photo_folder, "--out", tmp_path / "two", *options)
    assert result.returncode == 0, result.stderr
    assert invoke(main, photo_folder, "--out", tmp_path / "one", *options).code == 0

    lines = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("two", "one")
    ]
    for found, expected in zip(*lines, strict=True):
        assert found.keys() == expected.keys()
        names = ("train_l1", "test_l1", "train_adversarial", "train_discriminator_loss")
        assert difference(losses(found, *names), losses(expected, *names)) < 1e-3
    files = [sorted(path.relative_to(tmp_path / run) for path in (tmp_path / run).rglob("*")) for run in ("two", "one")]
    assert files[0] == files[1]
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == PROCESSES
    assert load_generator(tmp_path / "two")
    said = [line for line in result.stderr.splitlines() if line.startswith(("training on", "epoch", "done"))]
    assert said[0] == "training on 9 photos, 3 held out; cpu, fp32, 2 processes"
    assert [line.split()[0] for line in said[1:]] == ["epoch", "done:"]  # the head of the table and its end


@pytest.mark.slow
def test_what_one_process_refuses_is_a_line_for_the_other(
    photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> None:
    for folder in ("run", "printed"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    command = "from cgan.cli import main; main()"
    printed = two_processes(tmp_path / "printed", command, photo_folder, "--out", tmp_path / "run", *tiny_options)
    assert all(code for code, _ in printed)
    lines = [line for _, text in printed for line in text.splitlines()]
    (refusal,) = (line for line in lines if line.startswith("error: ") and "process 1 lost another" not in line)
    assert refusal.startswith(f"error: {tmp_path / 'run'}: found files in it")
    assert not any("[rank" in line for line in lines)  # as torch begins each line of a traceback


# a world without other processes


def test_one_process_is_a_world_in_which_nothing_happens() -> None:
    world = World()
    network, tensor = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), torch.arange(3.0)
    assert world.main
    assert torch.equal(world.share(tensor), tensor)
    assert world.sum(tensor) is tensor
    assert world.from_main(tensor) is tensor
    assert world.parallel(network) is network
    assert world.synchronize_batch_norm(network) is network
    assert type(network[1]) is nn.BatchNorm2d
    world.wait()
    with world.main_of_machine_first():
        pass


@pytest.mark.parametrize("size", [2, 3, 4])
def test_shares_are_disjoint_and_even(size: int) -> None:
    batch = torch.arange(7)
    shares = [World(rank=rank, size=size).share(batch) for rank in range(size)]
    assert torch.equal(torch.cat(shares).sort().values, batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_first_of_a_machine_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(World, "wait", lambda world: order.append("wait"))
    for local_rank in (0, 1):  # of the second machine
        with World(rank=2 + local_rank, local_rank=local_rank, size=4).main_of_machine_first():
            order.append("block")
    assert order == ["block", "wait", "wait", "block"]


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined("cpu") as world:
        assert world == World()
        assert not torch.distributed.is_initialized()


def test_the_place_of_a_process_is_read_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, timeout: seen.append(backend))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: seen.append("end"))
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    with pytest.raises(KeyError), joined("cpu") as world:
        assert (world.rank, world.local_rank, world.size, world.main) == (5, 1, 8, False)
        raise KeyError  # whatever happens, the group is left
    assert seen == ["gloo", "end"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer"), GateError),
        (torch.distributed.DistBackendError("NCCL error"), GateError),
        (RuntimeError("a bug"), RuntimeError),
    ],
)
def test_a_lost_process_is_told_from_a_bug(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, timeout: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(kind) as caught, joined("cpu"):
        raise error
    assert type(caught.value) is kind
    assert ("lost another process" in str(caught.value)) == (kind is GateError)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, timeout: taken.append(backend))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with joined("cuda"):
        assert taken == [1, "nccl"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 finds only 2 GPU"), joined("cuda"):
        pass
