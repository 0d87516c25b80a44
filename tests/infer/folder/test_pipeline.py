"""The pipeline on a model whose colours are known: order, bounds and batches."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infer.folder import photo_stages, pipeline
from infer.folder import thread_pools as dispatch
from infer.photo.decode import decode, header_of
from infer.photo.formats import ProfileUse
from tests.infer.photo.icc_profiles import ADOBE

Photos = Callable[..., Path]


def test_every_photo_comes_out_red_with_its_own_luma(run: Any, gray_photos: Photos, files_in: Any) -> None:
    before = files_in(gray_photos(run.source.path, 10))
    outcome = run()
    assert (outcome.done, outcome.skipped, outcome.failed, outcome.stopped) == (10, 0, {}, None)
    assert run.batch_sizes == [4, 4, 2]
    for name in before:
        with Image.open(run.source.path / name) as gray, Image.open(run.target.path / name) as color:
            assert color.mode == "RGB"
            assert color.size == gray.size
            pixels = np.asarray(color).astype(int)
            assert (pixels[..., 0] > pixels[..., 2]).mean() > 0.99
            assert np.abs(np.asarray(color.convert("L")).astype(int) - np.asarray(gray)).max() <= 1
    assert files_in(run.source.path) == before
    assert [path.name for path in run.target.path.glob(".cgan/*")] == []


def test_each_file_has_one_event_and_each_stage_counts_each_photo(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 7)
    (run.source.path / "003.png").write_bytes(b"")
    settled: list[int] = []
    run.on_event = lambda event, outcome: settled.append(outcome.settled)
    outcome = run()
    assert sorted(event.job.name for event in run.events) == [f"00{i}.png" for i in range(7)]
    assert sorted(event.state for event in run.events) == ["done"] * 6 + ["failed"]
    assert settled == list(range(1, 8))
    files = {name: stage.files for name, stage in outcome.stages.items()}
    assert files == {"fetch": 7, "decode": 6, "run": 6, "encode": 6, "publish": 6}
    assert all(stage.seconds > 0 for stage in outcome.stages.values())


@pytest.mark.parametrize(("batch_size", "expected"), [(1, [1] * 6), (4, [4, 2]), (16, [6])])
def test_batch_size(run: Any, gray_photos: Photos, batch_size: int, expected: list[int]) -> None:
    gray_photos(run.source.path, 6)
    run(batch_size=batch_size)
    assert run.batch_sizes == expected


def test_result_does_not_depend_on_workers_batch_or_streams(run: Any, gray_photos: Photos, files_in: Any) -> None:
    gray_photos(run.source.path, 9)
    found = []
    for workers, batch_size, streams in [(1, 1, 1), (4, 3, 4), (2, 16, 1), (3, 1, 2)]:
        assert run(workers=workers, batch_size=batch_size, streams=streams, overwrite=True).done == 9
        found.append(files_in(run.target.path))
    assert all(files == found[0] for files in found)


def test_streams_run_at_the_same_time_and_no_more_of_them(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 12)
    meeting = threading.Barrier(2, timeout=20)
    running: list[int] = []

    def before(gray: np.ndarray) -> None:
        running.append(1)
        assert len(running) <= 2
        meeting.wait()
        running.pop()

    run.backend.before = before
    assert run(batch_size=2, streams=2, workers=4).done == 12


def test_photos_of_one_render_size_share_a_batch(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path / "wide", 5, (64, 32))
    gray_photos(run.source.path / "tall", 5, (30, 90))
    gray_photos(run.source.path / "square", 2, (8, 8))
    run.backend.fixed_size = None
    outcome = run(render_longest=64, batch_size=4)
    assert outcome.done == 12
    sizes: dict[tuple[int, int], int] = {}
    for count, _, height, width in run.backend.batches:
        sizes[height, width] = sizes.get((height, width), 0) + count
        assert count <= 4
    assert sizes == {(32, 64): 5, (64, 32): 5, (64, 64): 2}  # 16 is too small for the network
    assert len(run.batch_sizes) <= 7  # which photos were decoded first differs


def test_many_sizes_with_a_photo_each_do_not_block_the_run(run: Any, gray_photos: Photos) -> None:
    for number in range(1, 25):
        gray_photos(run.source.path / str(number), 1, (16 * number, 16))
    run.backend.fixed_size = None
    assert run(render_longest=384, batch_size=8, workers=2).done == 24


def test_sizes_with_too_few_photos_do_not_wait_for_the_last(
    run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 9):
        gray_photos(run.source.path / str(number), 1, (128, 16 * number))
    run.backend.fixed_size = None
    ran = threading.Event()

    def decoding(source: Path, name: str, max_pixels: int, profile: ProfileUse) -> Any:
        assert not name.startswith("5") or ran.wait(20), "no batch before this photo is decoded"
        return decode(source, name, max_pixels)

    monkeypatch.setattr(photo_stages, "decode", decoding)
    run.backend.before = lambda gray: ran.set()
    assert run(render_longest=128, batch_size=2, workers=3).done == 8


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Photos of each task of a run, by stage."""
    found: dict[str, list[int]] = {}
    submit = dispatch.Dispatcher.submit

    def counted(self: Any, pool: Any, stage: str, work: Any, items: list[Any], then: Any, *halted: bool) -> None:
        found.setdefault(stage, []).append(len(items))
        submit(self, pool, stage, work, items, then, *halted)

    monkeypatch.setattr(dispatch.Dispatcher, "submit", counted)
    return found


def test_small_photos_share_tasks(run: Any, gray_photos: Photos, tasks: dict[str, list[int]]) -> None:
    gray_photos(run.source.path, 18)
    assert run(batch_size=18, workers=1).done == 18
    assert tasks["fetch"] == tasks["encode"] == tasks["publish"] == [4, 4, 4, 4, 2]
    assert sum(tasks["decode"]) == 18
    assert max(tasks["decode"]) == 4


def test_large_photos_have_tasks_of_their_own(run: Any, gray_photos: Photos, tasks: dict[str, list[int]]) -> None:
    gray_photos(run.source.path, 9, (400, 400))
    assert run(batch_size=18, workers=1).done == 9
    assert tasks["decode"] == tasks["encode"] == tasks["publish"] == [1] * 9


def test_photos_that_the_network_sees_large_have_tasks_of_their_own(
    run: Any, gray_photos: Photos, tasks: dict[str, list[int]]
) -> None:
    gray_photos(run.source.path, 4, (32, 32))
    run.backend.fixed_size = None
    assert run(render_longest=512, batch_size=4, workers=1).done == 4
    assert tasks["encode"] == [1] * 4


def test_files_of_a_store_are_fetched_and_published_one_by_one(
    run: Any, gray_photos: Photos, tasks: dict[str, list[int]]
) -> None:
    gray_photos(run.source.path, 9)
    run.source.waits = run.target.waits = True
    assert run(batch_size=18, workers=1).done == 9
    assert tasks["fetch"] == tasks["publish"] == [1] * 9
    assert max(tasks["encode"]) == 4


def test_many_workers_share_out_few_photos(run: Any, gray_photos: Photos, tasks: dict[str, list[int]]) -> None:
    gray_photos(run.source.path, 12)
    assert run(batch_size=1, workers=12, streams=13).done == 12
    assert set(tasks["decode"]) == set(tasks["encode"]) == {1}


def test_photos_under_way_are_bounded(run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "GROUP", 1)
    gray_photos(run.source.path, 60)
    fetched: list[str] = []
    under_way: list[int] = []
    blocked, first = threading.Event(), threading.Lock()

    def slow(name: str) -> None:
        if not blocked.is_set():
            blocked.wait(0.5)  # long enough for a run without bounds to fetch all
            with first:
                if not blocked.is_set():
                    under_way.append(len(fetched))
                    blocked.set()

    fetch = run.source.fetch

    def noted(name: str) -> Any:
        fetched.append(name)
        return fetch(name)

    run.source.fetch = noted
    run.target.before = slow
    outcome = run(batch_size=2, workers=2)
    assert (outcome.done, len(fetched)) == (60, 60)
    fetched_only, decoded, encoded = 2 * 8, 2 * 5 + 2, 2 * 8
    assert under_way[0] <= fetched_only + decoded + encoded


def pixels_at_once(run: Any, monkeypatch: pytest.MonkeyPatch, photos: int) -> list[int]:
    """Run with a limit of so many photos like 000.png; the pixels between decoding and the end, over time."""
    limit = photos * header_of(run.source.path / "000.png").memory
    held: dict[str, int] = {}
    seen: list[int] = []

    def decoding(source: Any, name: str, max_pixels: int, profile: ProfileUse) -> Any:
        photo = decode(source, name, max_pixels)
        held[name] = photo.luma.size
        seen.append(sum(held.values()))
        return photo

    run.on_event = lambda event, outcome: held.pop(event.job.name)
    monkeypatch.setattr(photo_stages, "decode", decoding)
    monkeypatch.setattr(pipeline, "MEMORY_UNDER_WAY", limit)
    outcome = run(batch_size=2, workers=4)
    assert outcome.done == outcome.settled
    return seen


def test_pixels_under_way_are_bounded(run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    gray_photos(run.source.path, 20)
    seen = pixels_at_once(run, monkeypatch, 3)
    assert len(seen) == 20
    assert max(seen) <= 3 * 40 * 30


def test_a_photo_above_the_bound_goes_alone(run: Any, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    gray_photos(run.source.path, 6)
    Image.new("L", (200, 100)).save(run.source.path / "003.png")
    seen = pixels_at_once(run, monkeypatch, 2)
    assert max(seen) == 200 * 100
    assert 1 in run.batch_sizes
    assert len(seen) == 6


def test_model_resolution_is_the_networks_own_output(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 1)
    run(resolution="model")
    with Image.open(run.target.path / "000.png") as image:
        assert image.size == (32, 32)


@pytest.mark.parametrize(("use", "profile"), [(ProfileUse.CONVERT, None), (ProfileUse.KEEP, ADOBE)])
def test_a_profile_is_converted_or_kept(run: Any, use: ProfileUse, profile: bytes | None) -> None:
    path = run.source.path / "a.png"
    path.parent.mkdir(exist_ok=True)
    levels = np.arange(24 * 31 * 3, dtype=np.uint8).reshape(24, 31, 3)
    Image.fromarray(levels).save(path, icc_profile=ADOBE)
    outcome = run(profile=use)
    assert any("profile" in note for note in outcome.notes["a.png"]) == (profile is None)
    with Image.open(run.target.path / "a.png") as image:
        assert image.info.get("icc_profile") == profile
        same = np.abs(np.asarray(image.convert("L")).astype(int) - Image.fromarray(levels).convert("L")).max() <= 1
        assert same == (profile is not None)


def test_pixel_limit(run: Any, gray_photos: Photos) -> None:
    gray_photos(run.source.path, 2)
    outcome = run(max_pixels=40 * 30 - 1)
    assert len(outcome.failed) == 2
    assert all("--max-pixels" in reason for reason in outcome.failed.values())
    assert run(max_pixels=40 * 30).done == 2
