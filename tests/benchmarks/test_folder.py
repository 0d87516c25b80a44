"""`python -m benchmarks folder`: a whole run on a few files, the peers among them."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.folder import take_rounds
from benchmarks.folder_contestants import BARE, FOLDER, Contestant, Measured
from benchmarks.machine import has_bf16
from benchmarks.peers import PEERS
from benchmarks.photos import make_photos

pytestmark = pytest.mark.benchmarks

ROOT = Path(__file__).parent.parent.parent


def test_all_take_part_and_the_ratios_come_last(exported_onnx: Path, photo_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "folder", "--photos", photo_folder, "--model", exported_onnx]
    options = ["--files", "10", "--rounds", "2", "--minutes", "0", "--side", "64", "--json", tmp_path / "folder.json"]
    done = subprocess.run([*map(str, command + options)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "folder.json").read_text())
    assert set(record["figures"]) == {
        "bare ONNX Runtime, no files",
        "cgan-infer folder",
        "cgan-infer folder --backend openvino",
        *(["cgan-infer folder --backend openvino-bf16"] if has_bf16() else []),
        *PEERS,
    }
    for turns in record["figures"].values():
        assert len(turns) == 2
        assert all(turn["images_per_second"] > 0 < turn["cpu_use"] for turn in turns)
    last = done.stdout.splitlines()[-len(record["ratios"]) :]
    assert all(line.startswith("cgan-infer folder / ") for line in last)


def test_every_peer_writes_every_photo_at_its_size(exported_onnx: Path, tmp_path: Path) -> None:
    make_photos(None, tmp_path / "in", 3, 48)
    for number, peer in enumerate(PEERS.values()):
        target = tmp_path / str(number)
        target.mkdir()
        peer(exported_onnx, 1)(tmp_path / "in", target)
        found = sorted(target.iterdir())
        assert [path.name for path in found] == [path.name for path in sorted((tmp_path / "in").iterdir())]
        for path in found:
            with Image.open(path) as image:
                assert (image.size, image.mode) == ((48, 48), "RGB")


def test_a_contestant_that_fails_is_named(exported_onnx: Path, tmp_path: Path) -> None:
    make_photos(None, tmp_path / "few", 1, 48)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(SystemExit, match=r"cgan-infer folder failed with exit code 2: while it loaded"):
        Contestant(FOLDER, tmp_path, tmp_path / "nothing.onnx", 4, 1).__enter__()
    with (
        pytest.raises(SystemExit, match=r"cgan-infer folder failed with exit code 1: at work"),
        Contestant(FOLDER, tmp_path, exported_onnx, 4, 1) as contestant,
    ):
        contestant.turn()


def test_a_contestant_that_hangs_is_named(exported_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(None, tmp_path / "few", 1, 48)
    make_photos(None, tmp_path / "in", 1, 48)
    monkeypatch.setattr("benchmarks.folder_contestants.LEAST_PATIENCE", 0.1)
    monkeypatch.setattr("benchmarks.folder_contestants.PATIENCE", 0.1)
    with pytest.raises(SystemExit, match=r"cgan-infer folder did not answer within 0.2 s: while it loaded"):
        Contestant(FOLDER, tmp_path, exported_onnx, 4, 1).__enter__()


class Known:
    """A contestant whose turns are known."""

    def __init__(self, name: str, *speeds: float) -> None:
        self.name, self.speeds = name, itertools.cycle(speeds)

    def turn(self) -> Measured:
        return Measured(next(self.speeds), 1.0, 1.0)


@pytest.mark.parametrize("seconds", [0.0, 3.5])
def test_who_is_not_settled_goes_on_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    clock = itertools.count()  # it is looked at once at the beginning, and before each round beyond the least
    monkeypatch.setattr("benchmarks.folder.time.monotonic", lambda: next(clock))
    contestants = [Known(BARE, 50.0), Known(FOLDER, 100.0), Known("unsteady", 30.0, 60.0)]
    figures: dict[str, list[Measured]] = {contestant.name: [] for contestant in contestants}
    ratios = take_rounds(contestants, figures, 6, seconds)  # type: ignore[arg-type]
    assert ratios[BARE] == [2.0] * 6
    assert len(figures[BARE]) == 6
    assert len(ratios["unsteady"]) == len(figures[FOLDER]) == len(figures["unsteady"])
    assert len(ratios["unsteady"]) - 6 == int(seconds)
    assert set(ratios["unsteady"]) == {100 / 30, 100 / 60}
