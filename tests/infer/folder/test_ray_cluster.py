"""Folder runs with Ray itself, of which a process is killed."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infer.cli import main
from infer.folder import ray_fleet, ray_pipeline
from tests.infer.folder.settled import rows_of


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two machines with one CPU each, both in this one."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
    made.add_node(num_cpus=1, object_store_memory=80_000_000)
    yield made
    made.shutdown()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run_with_a_loss(
    out: Path, photos: Path, model: Path, invoke: Any, monkeypatch: pytest.MonkeyPatch, *options: object
) -> None:
    """Run with Ray itself, and kill the process that tells the first results."""
    killed = threading.Event()
    settle = ray_pipeline._Dispatch._settle

    def kill_one(self: Any, member: ray_fleet.Member, answer: Any) -> None:
        settle(self, member, answer)
        if not killed.is_set() and answer.done:
            killed.set()
            self.fleet.ray.kill(member.handle)

    monkeypatch.setattr(ray_pipeline._Dispatch, "_settle", kill_one)
    command = ("folder", photos, out, "--model", model, "--quiet", "--engine", "ray", *options)
    assert invoke(main, *command).code == 0
    assert killed.is_set()
    whole = out.with_name("whole")
    assert invoke(main, "folder", photos, whole, "--model", model, "--quiet").code == 0
    for path in photos.iterdir():
        assert (out / path.name).read_bytes() == (whole / path.name).read_bytes()
    assert rows_of(out) == [f"{path.name} done" for path in sorted(photos.iterdir())]


def test_with_ray_itself_a_killed_process_loses_nothing(
    tmp_path: Path,
    out: Path,
    exported_onnx: Path,
    invoke: Any,
    monkeypatch: pytest.MonkeyPatch,
    gray_photos: Callable[..., Path],
) -> None:
    pytest.importorskip("ray")
    photos = gray_photos(tmp_path / "in", 12)
    monkeypatch.setenv("RAY_ADDRESS", "")
    run_with_a_loss(out, photos, exported_onnx, invoke, monkeypatch, "--actors", 2, "--cpus-per-actor", 0.5)


@pytest.mark.slow
def test_with_two_machines_a_killed_process_loses_nothing(
    cluster: Any,
    tmp_path: Path,
    out: Path,
    exported_onnx: Path,
    invoke: Any,
    monkeypatch: pytest.MonkeyPatch,
    gray_photos: Callable[..., Path],
) -> None:
    photos = gray_photos(tmp_path / "many", 60)
    run_with_a_loss(out, photos, exported_onnx, invoke, monkeypatch, "--ray-address", cluster.address)
