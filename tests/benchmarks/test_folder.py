"""benchmarks/folder.py: a whole run on a few files, the peers among them."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from benchmarks.folder import make_photos
from benchmarks.peers import PEERS

ROOT = Path(__file__).parent.parent.parent


def test_all_take_part_and_the_ratios_come_last(exported_onnx: Path, photo_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "folder.py", "--photos", photo_folder, "--model", exported_onnx]
    options = ["--files", "10", "--rounds", "1", "--side", "64", "--json", tmp_path / "folder.json"]
    done = subprocess.run([*map(str, command + options)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "folder.json").read_text())
    assert set(record["figures"]) == {
        "bare ONNX Runtime, no files",
        "cgan-infer folder",
        "cgan-infer folder --backend openvino",
        "cgan-infer folder --backend openvino-bf16",
        *PEERS,
    }
    assert all(turns[0]["images_per_second"] > 0 for turns in record["figures"].values())
    last = done.stdout.splitlines()[-len(record["ratios"]) :]
    assert all(line.startswith("cgan-infer folder / ") for line in last)


def test_every_peer_writes_every_photo_at_its_size(exported_onnx: Path, tmp_path: Path) -> None:
    make_photos(None, tmp_path / "in", 3, 48)
    for number, peer in enumerate(PEERS.values()):
        target = tmp_path / str(number)
        target.mkdir()
        peer(tmp_path / "in", target, exported_onnx, 1)
        found = sorted(target.iterdir())
        assert [path.name for path in found] == [path.name for path in sorted((tmp_path / "in").iterdir())]
        for path in found:
            with Image.open(path) as image:
                assert (image.size, image.mode) == ((48, 48), "RGB")
