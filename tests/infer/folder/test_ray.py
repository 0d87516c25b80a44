"""Folder runs in the processes of a cluster, with a stand-in for Ray; test_ray_cluster.py has Ray itself."""

import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgan.errors import UserError
from infer.folder import ray_fleet, ray_pipeline, ray_services, ray_worker
from tests.infer.folder.fake_ray import FakeRay, Handle, install
from tests.infer.folder.settled import rows_of

Color = Callable[..., Any]
RAY = ("--engine", "ray", "--model", "/", "--actors", 2, "--cpus-per-actor", 1)
"""Options for two processes. A folder stands for the model, because the driver compares the digest of a file."""


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return install(monkeypatch, [{"CPU": 2.0}, {"CPU": 4.0}])


@pytest.fixture
def photos(tmp_path: Path, gray_photos: Callable[..., Path]) -> Path:
    return gray_photos(tmp_path / "in", 12)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def is_of(name: str, arguments: tuple[Any, ...]) -> bool:
    """Return True if a photo is among the arguments of a call."""
    return any(item.job.name == name for items in arguments if isinstance(items, list) for item in items)


def left_over(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.name.endswith(".tmp") or path.name == "work"]


def test_processes_make_what_one_run_makes(
    ray: FakeRay, photos: Path, out: Path, color: Color, tmp_path: Path, files_in: Callable[[Path], dict[str, bytes]]
) -> None:
    (photos / "bad.png").write_bytes(b"x")
    assert color(photos, tmp_path / "whole", "--model", "/").code == 1
    found = color(photos, out, *RAY)
    whole = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert (found.code, found.counts) == (1, (12, 0, 1))
    assert {key: found.report[key] for key in ("failures", "notes", "run_notes")} == {
        key: whole[key] for key in ("failures", "notes", "run_notes")
    }
    reports = {"report.json"}
    made, expected = files_in(out), files_in(tmp_path / "whole")
    assert {name: made[name] for name in made.keys() - reports} == {
        name: expected[name] for name in expected.keys() - reports
    }
    assert found.report["stages"].keys() == whole["stages"].keys()
    assert left_over(out) == []
    assert "2 workers in each of 2 actors" in found.err
    assert color(photos, out).counts == (0, 12, 1)
    assert color(photos, out, *RAY).counts == (0, 12, 1)


@pytest.mark.parametrize("handling", ["skip", "copy"])
def test_processes_handle_shards_and_colour_photos_as_one_run_does(
    handling: str,
    ray: FakeRay,
    photos: Path,
    out: Path,
    color: Color,
    tmp_path: Path,
    files_in: Callable[[Path], dict[str, bytes]],
) -> None:
    ramp = Image.linear_gradient("L")
    for name in ("colour.png", "colour.gif"):
        Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).save(photos / name)
    made = []
    for folder, options in ((tmp_path / "whole", ("--model", "/")), (out, RAY)):
        for shard in ("1/2", "2/2"):
            found = color(photos, folder, *options, "--shard", shard, "--color-photos", handling)
            assert found.code == 0
        made.append({name: content for name, content in files_in(folder).items() if "report" not in name})
    assert made[0] == made[1]
    assert any(name.startswith("colour") for name in made[0]) == (handling == "copy")


def test_size_and_number_of_processes_follow_the_machines(ray: FakeRay, photos: Path, out: Path, color: Color) -> None:
    color(photos, out, "--engine", "ray", "--model", "/")
    assert [size["num_cpus"] for size in ray.sizes] == [2.0] * 3
    assert ray.asked["address"] == "local"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_gpu_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, photos: Path, out: Path, color: Color) -> None:
    ray = install(monkeypatch, [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}])
    monkeypatch.setattr(ray_fleet, "check_address", lambda address: None)
    color(photos, out, "--engine", "ray", "--model", "/", "--ray-address", "head:6379")
    assert [(size["num_cpus"], size["num_gpus"]) for size in ray.sizes] == [(4.0, 1.0)] * 4
    assert ray.asked["address"] == "head:6379"


@pytest.mark.parametrize("when", ["before", "after"])
def test_photos_of_a_process_that_ends_are_coloured_by_another(
    when: str, ray: FakeRay, photos: Path, out: Path, color: Color
) -> None:
    first = itertools.count()
    ray.dies = lambda handle, name, arguments: when if name == "exchange" and next(first) == 0 else ""
    found = color(photos, out, *RAY)
    assert (found.code, found.counts) == (0, (12, 0, 0))
    (note,) = found.report["run_notes"]
    assert "ended (The actor died: it was killed); 3 photos handed out again" in note
    assert rows_of(out) == [f"{i:03d}.png done" for i in range(12)]
    assert left_over(out) == []


@pytest.mark.parametrize(("change", "counts"), [("removed", (11, 0, 1)), ("rewritten", (12, 0, 0))])
def test_a_process_can_be_replaced_after_the_first_photo_has_changed(
    change: str, counts: tuple[int, int, int], ray: FakeRay, photos: Path, out: Path, color: Color
) -> None:
    first = itertools.count()

    def dies(handle: Handle, name: str, arguments: tuple[Any, ...]) -> str:
        if name != "exchange" or next(first):
            return ""
        content = (photos / "000.png").read_bytes()
        (photos / "000.png").unlink()
        if change == "rewritten":
            (photos / "000.png").write_bytes(content)
        return "before"

    ray.dies = dies
    found = color(photos, out, *RAY)
    assert (found.report["stopped"], found.counts) == (None, counts)


def test_a_photo_that_ends_every_process_fails(ray: FakeRay, photos: Path, out: Path, color: Color) -> None:
    def dies(handle: Handle, name: str, arguments: tuple[Any, ...]) -> str:
        return "before" if name == "exchange" and is_of("007.png", arguments) else ""

    ray.dies = dies
    found = color(photos, out, *RAY)
    assert found.counts == (11, 0, 1)
    assert found.report["failures"] == {"007.png": "3 processes ended while they had it"}
    ray.dies = lambda *_: ""
    assert color(photos, out, *RAY).counts == (1, 11, 0)


def test_a_process_that_ends_while_it_loads_is_replaced(ray: FakeRay, photos: Path, out: Path, color: Color) -> None:
    ends = iter(["before"])
    ray.dies = lambda handle, name, arguments: next(ends, "") if name == "load" else ""
    assert color(photos, out, *RAY).counts == (12, 0, 0)


def test_a_process_that_does_not_answer_is_replaced(
    ray: FakeRay, photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_fleet, "SILENT_SECONDS", 0.0)
    noticed = threading.Event()
    exchange, lost = ray_worker.Worker.exchange, ray_pipeline._Dispatch._lost

    def silent(self: Any, *arguments: Any) -> Any:
        noticed.wait(30)
        return exchange(self, *arguments)

    def notice(self: Any, *arguments: Any) -> None:
        monkeypatch.setattr(ray_fleet, "SILENT_SECONDS", 60.0)
        lost(self, *arguments)
        noticed.set()

    monkeypatch.setattr(ray_worker.Worker, "exchange", silent)
    monkeypatch.setattr(ray_pipeline._Dispatch, "_lost", notice)
    found = color(photos, out, *RAY, "--actors", 1)
    assert found.counts == (12, 0, 0)
    assert "ended (no answer for 0 s)" in found.report["run_notes"][0]


def test_a_run_whose_processes_all_end_stops(ray: FakeRay, photos: Path, out: Path, color: Color) -> None:
    ray.dies = lambda handle, name, arguments: "before" if name == "join" else ""
    found = color(photos, out, *RAY)
    assert found.code == 1
    assert "processes ended one after the other; the last one: The actor died" in found.report["stopped"]
    assert found.report["not_begun"] == 12
    ray.dies = lambda *_: ""
    assert color(photos, out, *RAY).counts == (12, 0, 0)


@pytest.mark.parametrize(
    ("address", "name"), [("host:0", "Ray on this machine"), ("head:6379", "the head of the Ray cluster")]
)
def test_a_loss_of_ray_itself_ends_the_run_with_a_report(
    address: str, name: str, ray: FakeRay, photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("LOOK_SECONDS", "RAYLET_SECONDS", "HEAD_SECONDS"):
        monkeypatch.setattr(ray_services, limit, 0.0)
    monkeypatch.setattr(ray_pipeline, "LEAST_STOCK", 1)
    settle = ray_pipeline._Dispatch._settle

    def lose(self: Any, *arguments: Any) -> None:
        settle(self, *arguments)
        if self.books.outcome.done:
            ray.lost = lambda at: "refused" if at == address else ""

    monkeypatch.setattr(ray_pipeline._Dispatch, "_settle", lose)
    found = color(photos, out, *RAY)
    assert found.code == 1
    stopped = f"{name} was lost (nothing answers at {address}); start it again with ray start"
    assert found.report["stopped"] == stopped
    assert f"stopped: {stopped}; run the same command again to go on" in found.err
    done = found.report["done"]
    assert 0 < done < 12
    assert color(photos, out).counts == (12 - done, done, 0)


def test_a_run_that_stops_takes_in_what_is_settled(
    ray: FakeRay, photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6, 12):
        (photos / f"{i:03d}.png").write_bytes(b"x")
    monkeypatch.setattr(ray_pipeline, "LEAST_STOCK", 1)
    found = color(photos, out, *RAY, "--max-failures", 2)
    assert found.code == 1
    assert found.report["stopped"] == "more than 2 files failed"
    assert found.report["not_begun"] + sum(found.counts) == 12
    assert len(rows_of(out)) == sum(found.counts)
    assert color(photos, out, *RAY).code == 1
    assert len(rows_of(out)) == 12


def test_a_signal_stops_the_processes(
    ray: FakeRay, photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pipeline, "LEAST_STOCK", 1)
    settle = ray_pipeline._Dispatch._settle

    def interrupted(self: Any, *arguments: Any) -> None:
        settle(self, *arguments)
        os.kill(os.getpid(), signal.SIGINT)
        self.books.stop.wait(10)

    monkeypatch.setattr(ray_pipeline._Dispatch, "_settle", interrupted)
    monkeypatch.setattr("os._exit", lambda code: None)  # further signals
    found = color(photos, out, *RAY)
    assert (found.code, found.report["stopped"]) == (130, "interrupted")
    monkeypatch.undo()
    assert color(photos, out).report["failed"] == 0


def test_processes_with_another_model_are_refused(
    ray: FakeRay, photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, numbers = ray_worker.Worker.load, itertools.count()

    def other(self: Any) -> Any:
        facts = load(self)
        assert isinstance(facts, ray_worker.Facts)
        return replace(facts, digest=f"{next(numbers)}" * 64)

    monkeypatch.setattr(ray_worker.Worker, "load", other)
    found = color(photos, out, *RAY)
    assert found.code in (1, 2)  # 1 if a process had begun
    assert "differs by its digest" in found.err


@pytest.mark.parametrize("which", ["source", "target"])
def test_a_process_that_sees_other_folders_is_refused(
    which: str, ray: FakeRay, photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    join = ray_worker.Worker.join
    (tmp_path / "other").mkdir()

    def elsewhere(self: Any, *arguments: Any) -> Any:
        getattr(self, which).path = tmp_path / "other"
        return join(self, *arguments)

    monkeypatch.setattr(ray_worker.Worker, "join", elsewhere)
    found = color(photos, out, *RAY)
    assert found.code == 1
    assert "not the folder that the command sees" in found.report["stopped"]
    assert list((tmp_path / "other").iterdir()) == []


def test_a_model_that_a_process_cannot_load_is_refused(
    ray: FakeRay, photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: Any) -> Any:
        raise UserError("found no such file")

    monkeypatch.setattr(ray_worker, "opened_model", missing)
    found = color(photos, out, *RAY)
    assert "found no such file" in found.result.error(2)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--actors", 2), "--actors: it has no effect with --engine local"),
        (("--engine", "ray", "--cpus-per-actor", 5), "found machines of at most 4 CPUs and 0 GPUs"),
        (("--engine", "ray", "--gpus-per-actor", 1), "found machines of at most 4 CPUs and 0 GPUs"),
        (("--engine", "ray", "--ray-address", "ray://head:1"), "found a client's address"),
        (("--engine", "ray", "--ray-address", "head"), "--ray-address: found 'head', expected HOST:PORT"),
        (("--engine", "ray", "--ray-address", "127.0.0.1:9"), "nothing answers there"),
    ],
)
def test_options_without_effect_or_room_are_refused(
    options: tuple[Any, ...], reason: str, ray: FakeRay, photos: Path, out: Path, color: Color
) -> None:
    found = color(photos, out, *options)
    assert reason in found.result.error(2)
    assert not out.exists()


def test_shares_that_are_no_numbers_are_refused(photos: Path, out: Path, color: Color) -> None:
    found = color(photos, out, "--engine", "ray", "--cpus-per-actor", "nan")
    assert (found.code, "nan is not in the range" in found.err) == (2, True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, photos: Path, out: Path, color: Color) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    found = color(photos, out, *RAY)
    assert "--engine ray needs the package ray; install it with pip install 'cgan[ray]'" in found.result.error(2)


def test_parity_is_checked_with_a_process_of_the_cluster(
    ray: FakeRay, photos: Path, out: Path, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Any] = []

    def check_parity(backend: Any, run: Any, sources: Any, device: str) -> Any:
        compared.append(backend.run(np.zeros((1, 1, 32, 32), np.float32)).shape)
        raise UserError("compared")

    monkeypatch.setattr("infer.quality.parity.check_parity", check_parity)
    assert "compared" in color(photos, out, *RAY, "--check-parity", "run").result.error(2)
    assert compared == [(1, 3, 32, 32)]
