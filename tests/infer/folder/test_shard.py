"""Shards of a folder run: who colours which photo, what lies side by side in OUTPUT, and the merged report."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cgan.errors import UserError
from infer.cli import main
from infer.folder.journal import Journal
from infer.folder.merged_report import MERGED_NAME
from infer.folder.open_storage import open_storage
from infer.folder.shard import Shard

Color = Callable[..., Any]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def photos(tmp_path: Path, gray_photos: Callable[..., Path]) -> Path:
    return gray_photos(tmp_path / "in", 9)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def shard_of(name: str, count: int) -> int:
    (number,) = (number for number in range(1, count + 1) if Shard(number, count).holds(name))
    return number


@given(st.text(), st.integers(1, 20))
def test_every_name_is_in_one_shard_with_those_of_the_same_stem(name: str, count: int) -> None:
    assert shard_of(f"{name}a.jpg", count) == shard_of(f"{name}a.TIFF", count)


def test_shares_are_about_equal() -> None:
    held = [sum(Shard(number, 4).holds(f"a/{i}.png") for i in range(4000)) for number in range(1, 5)]
    assert sum(held) == 4000
    assert all(850 < share < 1150 for share in held)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "a/b", "1/1000000", " 1/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--shard: found .*, expected K/N"):
        Shard.parse(text)


def test_shards_together_make_what_one_run_makes(
    photos: Path, out: Path, color: Color, invoke: Any, tmp_path: Path
) -> None:
    (photos / "bad.png").write_bytes(b"x")
    Image.open(photos / "000.png").save(photos / "000.gif")
    assert color(photos, tmp_path / "whole").code == 1
    numbers = range(1, 4)
    for number in numbers:
        color(photos, out, "--shard", f"{number}/3", "--manifest")
    names = {path.name for path in (tmp_path / "whole").iterdir() if path.is_file()} - {"report.json"}
    own = {
        f"{name}-{i}-of-3.{end}"
        for i in numbers
        for name, end in (("report", "json"), ("report", "csv"), ("manifest-sha256", "txt"))
    }
    assert {path.name for path in out.iterdir() if path.is_file()} == names | own
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
    result = invoke(main, "merge-reports", out)
    assert result.code == 1
    merged = json.loads((out / MERGED_NAME).read_text())
    whole = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert {name: merged[name] for name in ("photos", "failed", "failures")} == {
        name: whole[name] for name in ("photos", "failed", "failures")
    }
    assert (merged["missing"], merged["without_report"], merged["last_runs"]["done"]) == ([], [], whole["done"])
    summary = "3 shards: 10 of 11 photos settled, failed 1, gone 0, missing 0"
    assert summary in result.err
    assert "differ" not in result.err
    for number in numbers:
        color(photos, out, "--shard", f"{number}/3")
    result = invoke(main, "merge-reports", out)  # it replaces its own report
    assert summary in result.err
    assert json.loads((out / MERGED_NAME).read_text())["last_runs"]["done"] == 0


def test_a_shard_again_does_nothing(photos: Path, out: Path, color: Color) -> None:
    color(photos, out, "--shard", "1/2")
    first = json.loads((out / "report-1-of-2.json").read_text())
    color(photos, out, "--shard", "1/2")
    again = json.loads((out / "report-1-of-2.json").read_text())
    assert (again["done"], again["skipped"], again["failed"]) == (0, first["done"], 0)
    assert first["done"]


def test_what_no_shard_has_settled_is_missing(photos: Path, out: Path, color: Color, invoke: Any) -> None:
    color(photos, out, "--shard", "1/2")
    held = [path.name for path in sorted(photos.iterdir()) if Shard(2, 2).holds(path.name)]
    result = invoke(main, "merge-reports", out)
    assert result.code == 1
    assert json.loads((out / MERGED_NAME).read_text())["missing"] == held
    assert "shard 2/2: has not begun\nrun next: --shard 2/2\nmissing: " in result.err
    color(photos, out, "--shard", "2/2")
    assert invoke(main, "merge-reports", out).code == 0
    Image.new("L", (9, 9)).save(photos / held[0])
    assert invoke(main, "merge-reports", out).code == 1
    assert json.loads((out / MERGED_NAME).read_text())["missing"] == held[:1]


def test_a_killed_shard_misses_what_its_journal_has_not_settled(
    photos: Path, out: Path, color: Color, invoke: Any
) -> None:
    for number in (1, 2):
        color(photos, out, "--shard", f"{number}/2")
    (out / "report-2-of-2.json").unlink()
    held = [path.name for path in sorted(photos.iterdir()) if Shard(2, 2).holds(path.name)]
    with Journal(out / ".cgan" / "journal-2-of-2.sqlite")._database as database:
        database.execute("UPDATE files SET state = 'begun' WHERE name = ?", (held[0].encode(),))
        database.execute("UPDATE files SET state = 'begun', publishing = digest WHERE name = ?", (held[1].encode(),))
    result = invoke(main, "merge-reports", out)
    assert result.code == 1
    merged = json.loads((out / MERGED_NAME).read_text())
    assert (merged["missing"], merged["without_report"], merged["run_next"]) == (held[:1], [2], [2])
    assert "shard 2/2: ended without a report\nrun next: --shard 2/2\n" in result.err
    assert "8 of 9 photos settled, failed 0, gone 0, missing 1" in result.err


def test_outputs_that_are_gone_are_named(photos: Path, out: Path, color: Color, invoke: Any) -> None:
    (photos / "box").mkdir()
    (photos / "000.png").rename(photos / "box" / "000.png")
    ramp = Image.linear_gradient("L")
    Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).save(photos / "colour.png")
    (photos / "bad.png").write_bytes(b"x")
    shards = [("--shard", f"{number}/2", "--color-photos", "skip") for number in (1, 2)]
    for shard in shards:
        color(photos, out, *shard)
    assert not (out / "colour.png").exists()
    (photos / "bad.png").unlink()  # neither a failed photo nor one that was skipped has an output
    (out / "box" / "000.png").unlink()
    (out / "001.png").unlink()
    (photos / "001.png").unlink()  # it could not be made again
    result = invoke(main, "merge-reports", out)
    merged = json.loads((out / MERGED_NAME).read_text())
    assert (result.code, merged["gone"], merged["missing"]) == (1, {"box/000.png": "box/000.png"}, [])
    number = 1 if Shard(1, 2).holds("box/000.png") else 2
    assert f"gone: box/000.png, recorded as done but no longer in {out}" in result.err
    assert f"run next: --shard {number}/2\n" in result.err
    assert "note: 1 photo that was coloured is not in INPUT: 001.png" in result.err
    for shard in shards:
        color(photos, out, *shard)
    assert invoke(main, "merge-reports", out).code == 0


@pytest.mark.parametrize(("first", "second"), [("1/2", "1/3"), ("1/2", None), (None, "1/2")])
def test_another_number_of_shards_is_refused(
    photos: Path, out: Path, color: Color, first: str | None, second: str | None
) -> None:
    color(photos, out, *(("--shard", first) if first else ()))
    before = sorted(out.rglob("*"))
    for options in ((), ("--dry-run",)):
        error = color(photos, out, *(("--shard", second) if second else ()), *options).result.error(2)
        assert "found the journal of a run " + ("with --shard K/2" if first else "without --shard") in error
    assert sorted(out.rglob("*")) == before


def test_the_output_of_shards_below_input_is_passed_over(photos: Path, out: Path, color: Color, tmp_path: Path) -> None:
    color(photos, out, "--shard", "1/1")
    shutil.copytree(out, photos / "earlier")
    ran = color(photos, tmp_path / "other")
    assert ran.counts == (9, 0, 0)
    assert "passed over: earlier: another OUTPUT" in ran.err


def test_without_shards_there_is_nothing_to_merge(photos: Path, out: Path, color: Color, invoke: Any) -> None:
    color(photos, out)
    assert "found none, expected those of one number" in invoke(main, "merge-reports", out).error(2)
    color(photos, out.with_name("parted"), "--shard", "1/2")
    report = out.with_name("parted") / "report-1-of-2.json"
    report.write_text(report.read_text().replace('"done": ', '"done": 1'))
    assert "found no report as a run wrote it; run shard 1/2 again" in invoke(
        main, "merge-reports", report.parent
    ).error(2)


def test_several_inputs_and_models_of_shards(
    photos: Path, out: Path, color: Color, invoke: Any, tmp_path: Path, tinted: Any, gray_photos: Callable[..., Path]
) -> None:
    other = gray_photos(tmp_path / "other", 2)
    for number in (1, 2):
        tinted.weights = f"{number}" * 64
        color(photos, other, out, "--shard", f"{number}/2")
    result = invoke(main, "merge-reports", out, "--input", photos, "--input", other)
    assert result.code == 0
    assert "11 of 11 photos settled, failed 0, gone 0, missing 0" in result.err
    one, two = (f"tinted.onnx {f'{number}' * 16} in shard {number}/2" for number in (1, 2))
    assert f"note: the shards differ in model: {one}; {two}" in result.err
    assert "expected the INPUT that the reports name; give it with --input" in invoke(main, "merge-reports", out).error(
        2
    )


def set_input(report: Path, place: str) -> None:
    """Change INPUT in a report, which becomes one of an earlier version, without a digest."""
    values = json.loads(report.read_text()) | {"input": place}
    del values["report_sha256"]
    report.write_text(json.dumps(values))


def test_an_input_that_reports_do_not_tell_is_asked_for(photos: Path, out: Path, color: Color, invoke: Any) -> None:
    for number in (1, 2):
        color(photos, out, "--shard", f"{number}/2")
    hidden = "ftp://me:***@host/in"
    set_input(out / "report-1-of-2.json", hidden)
    several = f"found several INPUT in the reports, such as {photos} and {hidden}, expected one; give it with --input"
    assert invoke(main, "merge-reports", out).error(2) == f"error: {several}"
    set_input(out / "report-2-of-2.json", hidden)
    assert f"{hidden}: found no password of INPUT in the reports" in invoke(main, "merge-reports", out).error(2)
    assert "9 of 9 photos settled" in invoke(main, "merge-reports", out, "--input", photos).err


def test_the_input_of_reports_is_the_same_in_any_folder(
    photos: Path, out: Path, color: Color, invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "in").mkdir(parents=True)
    for name in ("000.png", "001.png"):
        shutil.copy2(photos / name, elsewhere / "in")
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        color("in", out, "--shard", f"{number}/2")
    monkeypatch.chdir(elsewhere)
    result = invoke(main, "merge-reports", out)
    assert "9 of 9 photos settled" in result.err
    assert json.loads((out / MERGED_NAME).read_text())["input"] == str(photos)
    for number in (1, 2):
        set_input(out / f"report-{number}-of-2.json", "in")
    error = invoke(main, "merge-reports", out).error(2)
    assert error.endswith(
        "in: found a relative path of INPUT in the reports, expected an absolute one; give it with --input"
    )
    result = invoke(main, "merge-reports", out, "--input", "in")
    assert result.code == 0
    assert f"2 of 2 photos settled, failed 0, gone 0, missing 0\ninput     {elsewhere / 'in'}\n" in result.err
    assert (
        "note: 7 photos that were coloured are not in INPUT: 002.png, 003.png, 004.png, 005.png, 006.png and 2 more "
        "(all are in report-merged.json)" in result.err
    )
    assert json.loads((out / MERGED_NAME).read_text())["not_in_input"] == [f"{i:03d}.png" for i in range(2, 9)]


def test_a_folder_that_only_the_merge_cannot_search_fails(
    photos: Path, out: Path, color: Color, invoke: Any, unsearchable: Callable[[Path], None]
) -> None:
    color(photos, out, "--shard", "1/1")
    assert invoke(main, "merge-reports", out).code == 0
    unsearchable(photos / "closed")
    result = invoke(main, "merge-reports", out)
    assert result.code == 1
    assert "failed: closed: folder cannot be read" in result.err


def test_an_archive_on_this_machine_has_an_absolute_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = f"tar://sub::file://{tmp_path}/photos.tar"
    assert open_storage("tar://sub::file://photos.tar").place == open_storage(place).place == place
    assert open_storage("tar://::memory://photos.tar").place == "tar://::memory://photos.tar"


def test_options_in_which_shards_differ_are_named(photos: Path, out: Path, color: Color, invoke: Any) -> None:
    for number in (1, 2, 3):
        color(photos, out, "--shard", f"{number}/3", *(("--strength", "0.3", "--no-mark") if number == 2 else ()))
    result = invoke(main, "merge-reports", out)
    assert result.code == 0
    assert [line for line in result.err.splitlines() if line.startswith("note:")] == [
        "note: the shards differ in strength: 1.0 in shards 1/3, 3/3; 0.3 in shard 2/3",
        "note: the shards differ in mark: true in shards 1/3, 3/3; false in shard 2/3",
    ]
    assert json.loads((out / MERGED_NAME).read_text())["different"]["strength"] == {"1.0": [1, 3], "0.3": [2]}


def test_states_of_shards_before_any_has_ended(photos: Path, out: Path, color: Color, invoke: Any) -> None:
    for number in (1, 2):
        color(photos, out, "--shard", f"{number}/3")
        (out / f"report-{number}-of-3.json").unlink()
    hold = (
        "import sys, time; from pathlib import Path; from infer.folder.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", hold, str(out / ".cgan" / "journal-1-of-3.sqlite")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as at_work:
        assert at_work.stdout
        at_work.stdout.readline()
        first = invoke(main, "merge-reports", out)
        second = invoke(main, "merge-reports", out, "--input", photos)
        at_work.kill()
    assert first.error(2).endswith("found no report of a shard, so INPUT is unknown; give it with --input")
    states = (
        "shard 1/3: at work\nshard 2/3: ended without a report\nshard 3/3: has not begun\n"
        "run next: --shard 2/3, --shard 3/3\n"
    )
    assert first.err.startswith(states)
    assert second.err.startswith(states)
    assert second.code == 1
    assert "shard 1/3: ended without a report" in invoke(main, "merge-reports", out).err
