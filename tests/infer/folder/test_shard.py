"""Shards of a folder run: who colours which photo, what lies side by side in OUTPUT, and the merged report."""

import json
import shutil
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
from infer.folder.shard import Shard

Color = Callable[..., Any]


@pytest.fixture
def photos(tmp_path: Path, gray_photos: Callable[..., Path]) -> Path:
    return gray_photos(tmp_path / "in", 9)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def shard_of(name: str, count: int) -> int:
    (number,) = (number for number in range(1, count + 1) if Shard(number, count).holds(name))
    return number


@given(st.text(min_size=1), st.integers(1, 20))
def test_every_name_is_in_one_shard_with_those_of_the_same_stem(name: str, count: int) -> None:
    assert shard_of(f"{name}.jpg", count) == shard_of(f"{name}.TIFF", count)


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
    assert {name: merged[name] for name in ("photos", "done", "failed", "failures")} == {
        name: whole[name] for name in ("photos", "done", "failed", "failures")
    }
    assert (merged["missing"], merged["without_report"]) == ([], [])
    assert "3 shards: done 10  skipped 0  failed 1  missing 0" in result.err
    assert invoke(main, "merge-reports", out).code == 1  # it replaces its own report


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
    assert "shard 2/2: no report; run it again" in result.err
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
    assert invoke(main, "merge-reports", out).code == 1
    merged = json.loads((out / MERGED_NAME).read_text())
    assert (merged["missing"], merged["without_report"]) == (held[:1], [2])


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
    assert f"gone: box/000.png, recorded as done but no longer in {out}; to make them again, give" in result.err
    assert f"--shard {number}/2 again" in result.err
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
    assert "done 11  skipped 0  failed 0  missing 0" in result.err
    assert "note: 2 models coloured the photos" in result.err
