"""`python -m benchmarks stress`: every check passes on a few files, and fails where what it looks for is wrong."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import stress, stress_runs
from benchmarks.dropped import Dropper
from benchmarks.outputs import Outputs, problem_of
from benchmarks.stress_runs import Findings, Setup

pytestmark = pytest.mark.benchmarks

ROOT = Path(__file__).parent.parent.parent
MAIN = "\nfrom infer.cli import main; main()"
pytestmark = pytest.mark.benchmarks

SLOW = """
import time, infer.folder.local_folder as s
publish = s.LocalFolder.publish
s.LocalFolder.publish = lambda *arguments: (time.sleep(0.1), publish(*arguments))
"""
"""Lets kills find some outputs and no others."""
Check = Callable[..., Findings]


@pytest.fixture
def check(exported_onnx: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """`check(name, sabotage="", **setup)`: a check of a command that first runs some code of the test's."""

    def call(name: str, sabotage: str = "", **setup: object) -> Findings:
        monkeypatch.setattr(stress_runs, "PROGRAM", sabotage + MAIN)
        values = {"photos": photo_folder, "model": exported_onnx, "quick": True, **setup}
        return stress.CHECKS[name](Setup(folder=tmp_path, **values))  # type: ignore[arg-type]

    return call


def test_the_command_writes_a_record_and_its_exit_code_tells_of_a_failure(
    exported_onnx: Path, photo_folder: Path, tmp_path: Path
) -> None:
    def run(*options: object) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "benchmarks",
            "stress",
            "--photos",
            photo_folder,
            "--json",
            tmp_path / "r.json",
        ]
        done = [*map(str, [*command, "--model", exported_onnx, *options])]
        return subprocess.run(done, capture_output=True, text=True, cwd=ROOT)

    done = run(
        "--check", "mixed", "--check", "mutated", "--check", "documents", "--check", "large", "--files", 30, "--quick"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.partition(";")[0] for line in done.stdout.splitlines()] == [
        *("mixed: ok", "mutated: ok", "documents: ok", "large: ok")
    ]
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["checks"]["mixed"].items() >= {"passed": True, "good": 27, "colored": 27, "hostile": 3}.items()
    assert record["checks"]["large"]["megapixels"] == 6.25
    assert record["machine"]["cores"] >= 1


def test_the_command_fails_with_a_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = Findings({"files": 3}, "3 files", [f"problem {number}" for number in range(5)])
    monkeypatch.setitem(stress.CHECKS, "mixed", lambda setup: broken)
    with pytest.raises(SystemExit) as end:
        stress.main(["--check", "mixed", "--json", str(tmp_path / "r.json")])
    assert end.value.code == 1
    lines = ["mixed: FAILED; 3 files", "  problem 0", "  problem 1", "  problem 2", "  and 2 more"]
    assert capsys.readouterr().out.splitlines() == lines
    assert json.loads((tmp_path / "r.json").read_text())["checks"]["mixed"]["problems"] == broken.problems


def test_memory_that_stays_passes(check: Check) -> None:
    found = check("memory", files=300)
    assert found.problems == []
    assert found.figures["peak_rss_mib_over_60"] > 40
    assert found.figures["ratio"] <= 1.1


def test_memory_that_grows_with_the_photos_fails(check: Check) -> None:
    leak = "import sys, pathlib; kept = bytearray(2**20 * len(list(pathlib.Path(sys.argv[2]).iterdir())))"
    found = check("memory", leak, files=100)
    assert found.figures["ratio"] > 1.1
    assert any("peak memory grew" in problem for problem in found.problems)


def test_memory_of_runs_that_color_nothing_fails(check: Check) -> None:
    found = check("memory", "raise SystemExit('broken')", files=10)
    assert found.problems[0] == "2 files: exit code 1, None done; broken"


def test_peak_memory_is_that_of_the_command_alone() -> None:
    own = np.ones(2**27, np.uint8)
    command = [sys.executable, "-c", stress_runs.LAUNCHER, "60", sys.executable, "-c", "raise SystemExit(3)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, kib = map(int, done.stdout.split())
    assert code == 3
    assert 2**10 < kib < own.nbytes / 2**10 / 2


def test_kills_that_lose_nothing_pass(check: Check) -> None:
    found = check("kills", SLOW, files=60, kills=4)
    assert found.problems == []
    assert found.figures["landed"] >= 3
    assert found.figures["left_for_the_last_run"] < 60
    assert found.figures["made_twice"] == found.figures["missing"] == found.figures["left_over"] == 0


@pytest.mark.parametrize(
    ("sabotage", "problem"),
    [
        ("sys.argv.append('--overwrite')", "was whole and was made again"),
        ("out.mkdir(exist_ok=True); (out / 'half.tmp').touch()", "left over: half.tmp"),
        ("out.mkdir(exist_ok=True); (out / 'half.png').write_bytes(b'PNG')", "half.png: UnidentifiedImageError"),
        ("next(pathlib.Path(sys.argv[2]).iterdir()).open('ab').write(b'0')", "the input folder changed"),
        ("out.name == 'out' and sys.exit(2)", "the run had ended with exit code 2"),
        ("sys.exit(2)", "without a kill: exit code 2"),
    ],
    ids=["made again", "left over", "not whole", "input", "refused", "broken"],
)
def test_a_run_that_breaks_its_word_under_kills_fails(check: Check, sabotage: str, problem: str) -> None:
    code = f"import pathlib, sys; out = pathlib.Path(sys.argv[3])\n{sabotage}"
    found = check("kills", SLOW + code, files=60, kills=4)
    assert any(problem in text for text in found.problems), found.problems


def test_kills_after_the_last_file_say_nothing(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "REACH", 1000.0)
    found = check("kills", files=10, kills=3)
    assert any("kills landed among unfinished files" in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("sabotage", "problem"),
    [
        (
            "import infer.photo.decode as i; i.PhotoError.__str__ = lambda self: 'bad'",
            "bad; expected: the file is empty",
        ),
        ("import sys; sys.argv += ['--max-failures', '0']", "no output"),
        ("import pathlib, sys; (pathlib.Path(sys.argv[2]) / 'new').touch()", "the input folder changed"),
        (
            "import numpy as np, infer.backends.ort as o\nrun = o.OrtBackend._run\n"
            "o.OrtBackend._run = lambda *a: np.full_like(run(*a), 0.5)",
            ": gray",
        ),
        ("raise SystemExit(0)", "exit code 0, expected 1"),
    ],
    ids=["no reason", "stopped", "input", "gray", "nothing done"],
)
def test_a_run_that_breaks_its_word_on_mixed_files_fails(check: Check, sabotage: str, problem: str) -> None:
    found = check("mixed", sabotage, files=80)  # more than are under way at a time, which a stop lets finish
    assert any(problem in text for text in found.problems), found.problems


def test_a_large_photo_beyond_the_limit_fails(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "LARGE_MIB", 1)
    (problem,) = check("large").problems
    assert problem.startswith("peak memory of ")


def test_a_large_photo_that_is_refused_fails(check: Check) -> None:
    found = check("large", "import sys; sys.argv += ['--max-pixels', '1000']")
    assert any("exit code 1; failed: large.jpg: " in problem for problem in found.problems)


def test_an_output_that_has_gone_or_is_another_file_was_made_twice(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    outputs = Outputs(tmp_path)
    outputs.look()
    outputs.look()
    assert (outputs.problems, outputs.made_twice, len(outputs.known)) == ([], 0, 3)
    (tmp_path / "a.png").unlink()
    os.utime(tmp_path / "b.png", ns=(0, 0))
    outputs.look()
    assert outputs.problems == ["a.png was whole and has gone", "b.png was whole and was made again"]
    assert outputs.made_twice == 2


def test_what_is_no_whole_color_photo_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 30), (9, 9, 9)).save(path)
    assert problem_of(path) == ""
    assert problem_of(path, (30, 40)) == "40 x 30 pixels, expected 30 x 40"
    assert problem_of(path, (40, 30), colorful=True) == "gray"
    path.write_bytes(path.read_bytes()[:-30])
    assert "truncated" in problem_of(path)
    Image.new("L", (40, 30)).save(path)
    assert problem_of(path) == "of mode L, not a colour photo"


def test_files_of_the_user_that_stay_pass(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.dropped.PAUSE", (0.001, 0.05))
    found = check("own", SLOW, files=60, kills=3)
    assert found.problems == []
    assert found.figures["dropped"] > 5
    assert found.figures["changed"] == 0


def test_a_file_of_the_user_that_is_replaced_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.dropped.PAUSE", (0.0, 0.001))
    names = [f"{number}.png" for number in range(12)]
    dropper = Dropper(tmp_path / "out", names, tmp_path / "aside", seed=0)
    with dropper:
        while len(dropper.dropped) < len(names):
            time.sleep(0.01)
    assert dropper.problems() == []
    (tmp_path / "new").write_bytes(b"replaced")
    (tmp_path / "new").replace(tmp_path / "out" / "3.png")
    assert dropper.problems() == ["3.png: not the file that was dropped there"]
