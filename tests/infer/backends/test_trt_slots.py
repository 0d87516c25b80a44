"""Slots: overlapping runs, page-locked memory and CUDA graphs, on the stubs of gpu_stubs.py."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from infer.backends import open_model
from infer.backends.base import Backend
from infer.backends.slots import Slot

Array = Callable[..., np.ndarray]
Write = Callable[..., None]


@pytest.fixture
def plan(stub_plan: Path, write_record: Write) -> Path:
    """A plan of TensorRT, whose engines this project captures itself."""
    write_record(stub_plan, "tensorrt")
    return stub_plan


def check_runs(backend: Backend, stubs: SimpleNamespace, gray: Array, *counts: int) -> None:
    """Batches of these sizes, each of other numbers, give the right ones."""
    for number, count in enumerate(counts):
        image = (gray(count, 1, 32, 32) / (number + 1)).astype(np.float32)
        assert np.array_equal(backend.run(image), stubs.expected(image))


def test_two_threads_run_at_the_same_time(plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    """Each engine run waits for the other, which a single slot could never give it."""
    together = threading.Barrier(2, timeout=20)
    image = gray(2, 1, 32, 32)
    with open_model(plan) as backend, ThreadPoolExecutor(2) as pool:
        stubs.tensorrt.meanwhile = together.wait
        for rgb in pool.map(backend.run, [image, image / 2]):
            assert rgb.shape == (2, 3, 32, 32)
    assert stubs.cuda.left() == {}


def test_no_more_than_two_run_at_the_same_time(plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    under_way = threading.Semaphore(2)

    def compute() -> None:
        assert under_way.acquire(blocking=False)
        threading.Event().wait(0.002)
        under_way.release()

    images = [(gray(1 + i % 4, 1, 32, 32) * i / 24).astype(np.float32) for i in range(24)]
    with open_model(plan) as backend, ThreadPoolExecutor(6) as pool:
        stubs.tensorrt.meanwhile = compute
        answers = list(pool.map(backend.run, images))
        assert len(stubs.cuda.streams) == 2
    assert all(np.array_equal(rgb, stubs.expected(image)) for rgb, image in zip(answers, images, strict=True))
    assert stubs.cuda.left() == {}


def test_without_room_for_a_second_context_runs_take_turns(plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    stubs.tensorrt.refused.add("second context")
    images = [gray(1, 1, 32, 32) / (i + 1) for i in range(8)]
    with open_model(plan) as backend, ThreadPoolExecutor(4) as pool:
        assert backend.note is not None
        assert backend.note.startswith("copies do not overlap: no room for another execution context (")
        answers = list(pool.map(backend.run, images))
        assert len(stubs.cuda.streams) == 1
    assert all(np.array_equal(rgb, stubs.expected(image)) for rgb, image in zip(answers, images, strict=True))


def test_a_slot_is_free_again_after_a_failure(plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    with open_model(plan) as backend:
        stubs.tensorrt.refused.add("execute")
        for _ in range(5):
            with pytest.raises(RuntimeError, match="TensorRT failed on a batch of 1"):
                backend.run(gray(1, 1, 32, 32))
        stubs.tensorrt.refused.clear()
        check_runs(backend, stubs, gray, 1, 1, 1)


def test_an_answer_is_not_overwritten_by_the_next_run(plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    """Its numbers came through memory that the slot keeps."""
    with open_model(plan) as backend:
        first = backend.run(gray(1, 1, 32, 32))
        for _ in range(3):
            backend.run(np.zeros((1, 1, 32, 32), np.float32))
        assert np.array_equal(first, stubs.expected(gray(1, 1, 32, 32)))
    assert np.array_equal(first, stubs.expected(gray(1, 1, 32, 32)))


def test_buffers_grow_with_the_batch_and_are_kept(plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    photo = 4 * 32**2
    with open_model(plan) as backend:
        slots = len(stubs.cuda.streams)
        assert slots == 2
        for count, largest in ((2, 2), (1, 2), (4, 4), (3, 4)):
            for _ in range(slots):  # they take turns
                check_runs(backend, stubs, gray, count)
            for memory in (stubs.cuda.device, stubs.cuda.pinned):
                sizes = sorted(len(buffer) for buffer in memory.values())
                assert sizes == sorted(slots * [largest * photo, 3 * largest * photo])


def test_a_shape_is_captured_after_its_first_run_and_then_replayed(
    plan: Path, stubs: SimpleNamespace, gray: Array
) -> None:
    with open_model(plan) as backend:
        for runs, captures, launches in ((2, 2, 0), (2, 2, 2), (4, 2, 6)):
            check_runs(backend, stubs, gray, *[4] * runs)
            assert stubs.cuda.calls["cudaStreamBeginCapture"] == captures  # one of each slot
            assert stubs.cuda.calls["cudaGraphLaunch"] == launches
        assert len(stubs.cuda.executables) == 2
        assert not stubs.cuda.graphs
        assert backend.note is None
    assert stubs.cuda.left() == {}


def test_a_graph_ends_where_another_shape_begins(plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    """The stub refuses to change a context that a graph was captured from."""
    with open_model(plan) as backend:
        check_runs(backend, stubs, gray, 4, 4, 4, 2, 2, 2, 2, 4, 4, 3, 1)
        assert len(stubs.cuda.executables) == 2
        assert stubs.cuda.calls["cudaGraphInstantiate"] == 8
        assert stubs.cuda.calls["cudaGraphLaunch"] == 3
        assert {tuple(shape) for shape in stubs.tensorrt.shapes} == {(n, 1, 32, 32) for n in (1, 2, 3, 4)}
    assert stubs.cuda.left() == {}


def test_padded_batches_keep_their_graph(plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    with open_model(plan) as backend:
        backend.batch_size = 4
        check_runs(backend, stubs, gray, 4, 4, 4, 3, 1, 2)
        assert stubs.cuda.calls["cudaGraphInstantiate"] == 2
        assert stubs.cuda.calls["cudaGraphLaunch"] == 4


@pytest.mark.parametrize(
    ("failing", "refused", "reason"),
    [
        ("cudaStreamBeginCapture", "", "CUDA failed in cudaStreamBeginCapture: operation not permitted"),
        ("", "capture", "enqueueV3: no"),
        ("cudaStreamEndCapture", "capture", "enqueueV3: no"),
        ("cudaStreamEndCapture", "", "CUDA failed in cudaStreamEndCapture"),
        ("cudaGraphInstantiate", "", "CUDA failed in cudaGraphInstantiate"),
    ],
)
def test_where_graphs_fail_it_goes_on_without_and_says_so_once(
    plan: Path, stubs: SimpleNamespace, gray: Array, failing: str, refused: str, reason: str
) -> None:
    stubs.cuda.failing.add(failing)
    stubs.tensorrt.refused.add(refused)
    with open_model(plan) as backend:
        check_runs(backend, stubs, gray, 2, 2, 2, 2, 4, 4)
        assert backend.note is not None
        assert reason in backend.note
        assert backend.note.count("runs without CUDA graphs") == 1
        assert stubs.cuda.calls["cudaGraphLaunch"] == 0
        assert stubs.cuda.calls["cudaGetLastError"] == 2  # each slot tried once
    stubs.cuda.failing.clear()
    assert stubs.cuda.left() == {}


def test_an_empty_graph_is_not_replayed(plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    """Work of an engine on another stream or device is not in the graph, and CUDA does not complain."""
    with open_model(plan) as backend:
        image = gray(1, 1, 32, 32)
        backend.run(image)
        stubs.tensorrt.refused.add("stream")
        backend.run(image)
        assert backend.note is not None
        assert "the graph is empty" in backend.note
    assert stubs.cuda.left() == {}


def test_tensorrt_for_rtx_makes_its_graphs_itself(stub_plan: Path, stubs: SimpleNamespace, gray: Array) -> None:
    with open_model(stub_plan) as backend:
        check_runs(backend, stubs, gray, 2, 2, 2, 2)
    assert stubs.rtx.strategies == ["WHOLE_GRAPH_CAPTURE", "WHOLE_GRAPH_CAPTURE"]
    assert stubs.cuda.calls["cudaStreamBeginCapture"] == 0
    assert stubs.tensorrt.strategies == []


def test_the_first_failure_is_reported_though_cleaning_up_fails_too(
    plan: Path, stubs: SimpleNamespace, gray: Array
) -> None:
    with open_model(plan) as backend:
        stubs.tensorrt.refused.add("execute")
        stubs.cuda.failing.add("cudaStreamSynchronize")
        with pytest.raises(RuntimeError, match="enqueueV3: no"):
            backend.run(gray(1, 1, 32, 32))
        stubs.cuda.failing.clear()


def test_all_slots_are_closed_though_one_fails(
    plan: Path, stubs: SimpleNamespace, gray: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Slot] = []
    close = Slot.close

    def fail(slot: Slot) -> None:
        close(slot)
        closed.append(slot)
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(Slot, "close", fail)
    with pytest.raises(RuntimeError, match="the device is lost"), open_model(plan) as backend:
        check_runs(backend, stubs, gray, 1, 1)
    assert len(closed) == 2
    assert stubs.cuda.left() == {}
    assert stubs.tensorrt.released[-2:] == ["Engine", "Runtime"]
