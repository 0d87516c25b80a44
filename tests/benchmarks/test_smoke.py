"""Each benchmark once on something tiny, up to its record; the other tests here run with `make benchmarks-test`."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import cgan.cli
from benchmarks.__main__ import COMMANDS, group
from benchmarks.matrix import MATRIX_SIDE

ROOT = Path(__file__).parent.parent.parent


def run(record: Path, name: str, *options: object) -> dict[str, Any]:
    """Run a benchmark in this process and return its record."""
    arguments = [str(option) for option in options]
    result = CliRunner().invoke(group, [name, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(record.read_text())
    assert values["arguments"] == [Path(part).name if "/" in part else part for part in arguments]
    assert values["machine"]["cores"] >= 1
    return values


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


def test_ablation(
    photo_folder: Path,
    tmp_path: Path,
    tiny_options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    no_curves: None,
) -> None:
    def train_here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as end:
            cgan.cli.main(command[3:])  # after python -m cgan
        code = end.value.code or 0
        assert isinstance(code, int)
        return subprocess.CompletedProcess(command, code, "", "")

    monkeypatch.setattr("benchmarks.ablation.subprocess", SimpleNamespace(run=train_here, PIPE=subprocess.PIPE))
    options = [option for option in tiny_options if option not in ("--quiet", "--no-fid")]
    arguments = [photo_folder, "--out", tmp_path / "out", "--rows", "no-gan", "--quick", "--no-fid", "--", *options]
    values = run(tmp_path / "out" / "ablation.json", "ablation", *arguments)
    assert [row["metrics"]["epoch"] for row in values["rows"]] == [3]


def test_codec(exported_onnx: Path, photo_folder: Path, record: Path) -> None:
    photo = next(photo_folder.rglob("*.png"))
    options = [photo, "--model", exported_onnx, "--size", "40x30", "--rounds", 1, "--json", record]
    (row,) = run(record, "codec", *options)["rows"]
    assert row["size"] == [40, 30]
    assert row["ratio"] == row["seconds"]["colorizer"] / row["seconds"]["codec"] > 1


def test_color_photos(photo_folder: Path, record: Path) -> None:
    values = run(record, "color-photos", photo_folder, "--photos", 2, "--json", record)
    errors = {row["kind"]: row["errors_percent"][f"{values['threshold']:g}"] for row in values["rows"]}
    assert (errors["sepia"], errors["yellowed paper"], errors["colour"]) == (0, 0, 0)
    assert {row["is_color"] for row in values["rows"]} == {False, True}


def test_folder(exported_onnx: Path, record: Path) -> None:
    options = ["--model", exported_onnx, "--files", 2, "--rounds", 1, "--minutes", 0, "--side", 32, "--no-peers"]
    values = run(record, "folder", *options, "--json", record)
    assert values["figures"].keys() == {"bare ONNX Runtime, no files", "cgan-infer folder"}
    assert all(turn["images_per_second"] > 0 for turns in values["figures"].values() for turn in turns)


def test_gates(
    exported_onnx: Path, trained_run: Path, photo_folder: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All exports are the one that is there already: six more take half a minute.
    monkeypatch.setattr("benchmarks.gates.make_onnx", lambda *_: SimpleNamespace(path=exported_onnx))
    options = ["--reference", trained_run, "--calibration", photo_folder, "--photos", 2, "--json", record]
    verdicts = {row["candidate"]: row["passed"] for row in run(record, "gates", photo_folder, *options)["rows"]}
    assert (verdicts["fp32"], verdicts["red and blue swapped"]) == (True, False)


def test_int8(exported_onnx: Path, photo_folder: Path, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.int8.ENDS", ((1, 1),))
    options = ["--calibration", photo_folder, "--model", exported_onnx, "--photos", 2, "--rounds", 1]
    values = run(record, "int8", photo_folder, *options, "--json", record)
    assert [row["float"] for row in values["rows"]][-1] == "(1, 1)"
    assert all(row["speed"] > 0 for row in values["rows"])


def test_latency(exported_onnx: Path, tmp_path: Path) -> None:
    options = [exported_onnx, "--batch", 1, "--kind", "files", "--seconds", 0.01, "--out", tmp_path]
    (row,) = run(tmp_path / "latency.json", "latency", *options)["rows"]
    assert 0 < row["p50"] <= row["p99"]


def test_parity(exported_onnx: Path, trained_run: Path, photo_folder: Path, record: Path) -> None:
    options = ["--reference", trained_run, "--candidate", exported_onnx, "--photos", 2, "--rounds", 1]
    values = run(record, "parity", photo_folder, *options, "--json", record)
    assert (values["photos"], values["passed"]) == (2, True)
    assert values["ratio"] > 0


def test_quality(exported_onnx: Path, photo_folder: Path, record: Path) -> None:
    values = run(record, "quality", photo_folder / "a", "--model", exported_onnx, "--json", record)
    assert values["models"][0]["colorfulness"] > 0


def test_scale(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.scale._apart", lambda step, trial: (step(trial), 1.0, 2.0))
    rows = run(record, "scale", "--names", 30, "--shards", 2, "--json", record)["rows"]
    assert [(row["step"], row["names"]) for row in rows] == [("plan", 30), ("rerun", 30), ("merge", 30)]


def test_sharing(photo_folder: Path, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Command:
        def __init__(self, command: list[str], **_: object) -> None:
            out = Path(command[command.index("--quiet") - 1])
            out.mkdir(exist_ok=True)
            report = {"done": 6 if "--shard" not in command else 3, "seconds": 2.0}
            (out / f"report-{len(list(out.iterdir()))}.json").write_text(json.dumps(report))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("benchmarks.sharing.subprocess", SimpleNamespace(Popen=Command))
    values = run(record, "sharing", photo_folder, "--rounds", 1, "--json", record)["images_per_second"]
    assert {name: turns[0]["alone"] for name, turns in values.items()} == {
        "one run": 3.0,
        "2 shards at once": 3.0,
        "Ray, 2 actors": 3.0,
    }


def test_stress(exported_onnx: Path, photo_folder: Path, record: Path) -> None:
    options = ["--photos", photo_folder, "--model", exported_onnx, "--check", "mixed", "--files", 10]
    values = run(record, "stress", *options, "--json", record)
    assert values["checks"]["mixed"].items() >= {"passed": True, "colored": 9, "named": 1}.items()


def test_training(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MATRIX_SIDE, "cpu", 64)
    options = ["--width", 4, "--size", 32, "--batch-size", 2, "--device", "cpu", "--steps", 1, "--rounds", 1]
    values = run(record, "training", *options, "--json", record)
    assert values["ratio"] == values["rounds"][0]["step"] / values["rounds"][0]["plain"]


def test_help_lists_every_command_without_numpy() -> None:
    code = (
        "import sys; sys.modules['numpy'] = sys.modules['torch'] = None; from benchmarks.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_has_the_first_line_of_each_module(name: str) -> None:
    module = (ROOT / "benchmarks" / f"{name.replace('-', '_')}.py").read_text()
    assert module.splitlines()[0] == f'"""{COMMANDS[name]}'


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        (["training", "--width", "100000"], "1<=x<=512"),
        (["training", "--batch-size", str(2**63)], "2<=x<=65536"),
        (["training", "--steps", str(10**18)], "1<=x<=1000000"),
        (["folder", "--workers", "1000000"], "1<=x<=1024"),
        (["folder", "--minutes", "inf"], "0<=x<=10000"),
        (["latency", "--seconds", "nan"], "0<=x<=10000"),
        (["stress", "--files", str(10**18)], "10<=x<=1000000"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_limit(arguments: list[str], limit: str) -> None:
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 2
    assert limit in result.output


def test_a_configuration_out_of_range_is_refused_by_its_flag() -> None:
    result = CliRunner().invoke(group, ["training", "--size", "1600000"])
    assert result.exit_code == 2
    assert "--size: found 1600000, expected a multiple of 16, from 32 to 4096" in result.output
