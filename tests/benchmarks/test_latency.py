"""`python -m benchmarks latency`: whole runs on a tiny model, and figures of known times."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks import latency, matrix
from benchmarks.latency import Row, figures, main, measure, of_peak
from benchmarks.latency_report import changes, ratios, shares, table
from benchmarks.matrix import operations
from cgan.errors import UserError
from infer.backends import open_model

pytestmark = pytest.mark.benchmarks

FAST = ("--seconds", "0.03")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), *FAST])


def rows(*speeds: tuple[str, int, str, list[float]], first: str = "a") -> list[dict[str, Any]]:
    """Figures of rows in which each run was a round."""
    found = [
        Row(name, "engine", batch, kind, {n: [time] for n, time in enumerate(times)})
        for name, batch, kind, times in speeds
    ]
    return figures(found, first)


def test_every_contestant_batch_and_kind_has_a_row(exported_onnx: Path, photo_folder: Path, tmp_path: Path) -> None:
    other = f"{exported_onnx}@openvino"
    result = run(exported_onnx, other, "--batch", "1,3", "--photos", photo_folder, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "latency.json").read_text())
    found = {(row["contestant"], row["batch"], row["kind"]) for row in record["rows"]}
    assert found == {
        (n, b, k)
        for n in (exported_onnx.name, f"{exported_onnx.name}@openvino")
        for b in (1, 3)
        for k in ("compute", "copies", "files")
    }
    for row in record["rows"]:
        assert 0 < row["p50"] <= row["p90"] <= row["p99"]
        assert row["runs"] >= 10
        assert (row["psnr"] is None) == (row["contestant"] == exported_onnx.name)
        assert row["psnr"] is None or row["psnr"] > 90
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["packages"]["cgan"]
    assert "| batch |" in (tmp_path / "latency.md").read_text()
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    lines = result.output.splitlines()
    assert all(" = " in line for line in lines[-6:])  # the ratios come last


def test_kinds_and_batches_can_be_chosen(exported_onnx: Path) -> None:
    result = run(exported_onnx, "--batch", "2", "--kind", "compute")
    assert result.exit_code == 0, result.output
    assert [line.split(" | ")[1:3] for line in result.output.splitlines()[2:]] == [["2", "compute"]]


def test_files_cost_more_than_the_model_alone(exported_onnx: Path, photo_folder: Path, tmp_path: Path) -> None:
    assert run(exported_onnx, "--batch", "2", "--photos", photo_folder, "--out", tmp_path).exit_code == 0
    p50 = {row["kind"]: row["p50"] for row in json.loads((tmp_path / "latency.json").read_text())["rows"]}
    assert p50["files"] > p50["compute"]


def test_an_earlier_run_is_compared_with(exported_onnx: Path, tmp_path: Path) -> None:
    options = (exported_onnx, "--batch", "1", "--kind", "compute")
    assert run(*options, "--out", tmp_path).exit_code == 0
    result = run(*options, "--compare", tmp_path / "latency.json")
    assert "x the old one's" in result.output.splitlines()[-1]


def test_two_models_of_one_name_are_refused(exported_onnx: Path, tmp_path: Path) -> None:
    copy = shutil.copy(exported_onnx, tmp_path)
    result = run(exported_onnx, copy, "--batch", 1)
    assert result.exit_code == 2
    assert f"found {exported_onnx} and {copy}, which tables cannot tell apart; rename one" in result.output


@pytest.mark.parametrize("model", ["nothing.onnx", "README.md"])
def test_a_model_that_cannot_run_is_refused_in_one_line(model: str) -> None:
    result = run(model)
    assert result.exit_code == 2
    assert result.output.startswith("error: ")


def test_figures_of_known_times() -> None:
    (row,) = rows(("a", 4, "compute", [float(i) for i in range(1, 102)]))
    assert (row["p50"], row["p90"], row["p99"], row["runs"]) == (51.0, 91.0, 100.0, 101)
    assert row["images_per_second"] == pytest.approx(4 * 1000 / 51, rel=1e-4)


def test_only_unsteady_rows_are_marked() -> None:
    text = table(rows(("a", 1, "compute", [10.0] * 10), ("b", 1, "compute", [10.0, 20.0] * 5))).splitlines()
    assert ["unsteady" in line for line in text[2:]] == [False, True]


def test_ratios_are_against_the_first_at_the_same_batch_and_kind() -> None:
    found = ratios(rows(("a", 1, "copies", [10.0]), ("b", 1, "copies", [5.0]), ("b", 2, "copies", [1.0])), "a")
    assert found == ["b / a, batch 1, copies = 2.00 (2.00 to 2.00)"]


def test_ratios_stay_with_the_first_where_it_does_not_take_the_first_batch() -> None:
    found = ratios(rows(("b", 1, "copies", [5.0]), ("a", 2, "copies", [10.0]), ("b", 2, "copies", [5.0])), "a")
    assert found == ["b / a, batch 2, copies = 2.00 (2.00 to 2.00)"]


def test_a_machine_that_slows_down_leaves_ratios_alone() -> None:
    slow = [10.0] * 5 + [30.0] * 5
    (found,) = ratios(rows(("a", 1, "copies", slow), ("b", 1, "copies", [time / 2 for time in slow])), "a")
    assert found == "b / a, batch 1, copies = 2.00 (2.00 to 2.00)"


def test_one_odd_round_moves_no_ratio() -> None:
    found = rows(("a", 1, "copies", [10.0] * 9 + [90.0]), ("b", 1, "copies", [5.0] * 10))[1]["speed"]
    assert found == {"median": 2.0, "low": 2.0, "high": 2.0}


class Shaped:
    """The properties of a backend that `measure` reads before anything runs."""

    def __init__(self, side: int, most: int | None) -> None:
        self.own_size, self.batch_range = (side, side), (1, most)


@pytest.mark.parametrize(
    ("contestants", "message"),
    [
        ({"a": Shaped(32, None), "b": Shaped(64, None)}, r"different render sizes \(a: 32 x 32, b: 64 x 64\)"),
        ({"a": Shaped(32, 1), "b": Shaped(32, 4)}, r"--batch 8: found no model that takes it \(a: 1 to 1, b: 1 to 4\)"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(contestants: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(contestants, [8], ("compute",), [], 1.0)


def test_another_machine_is_said() -> None:
    machine = {"cpu": "x", "cores": 2, "gpu": None}
    old = {"machine": machine, "first": "a", "rows": rows(("a", 1, "copies", [10.0]))}
    new = {**old, "machine": {**machine, "cores": 4}, "rows": rows(("a", 1, "copies", [5.0]))}
    assert changes(old, old) == ["a, batch 1, copies: p50 1.00 x the old one's"]
    first, second = changes(new, old)
    assert "another machine" in first
    assert second == "a, batch 1, copies: p50 0.50 x the old one's"
    assert changes({**new, "rows": []}, {**old, "machine": new["machine"]}) == ["the old figures have no row of these"]


def test_changes_of_ratios_are_told_where_both_are_against_the_same_model() -> None:
    machine = {"cpu": "x", "cores": 2, "gpu": None}
    old = {"machine": machine, "first": "a", "rows": rows(("a", 1, "files", [10.0]), ("b", 1, "files", [10.0]))}
    new = {**old, "rows": rows(("a", 1, "files", [20.0]), ("b", 1, "files", [10.0]))}
    assert changes(new, old) == [
        "a, batch 1, files: p50 2.00 x the old one's",
        "b, batch 1, files: p50 1.00, ratio 2.00 x the old one's",
    ]
    assert changes(new, {**old, "first": "b"})[1] == "b, batch 1, files: p50 1.00 x the old one's"


def test_a_contestant_that_is_settled_takes_no_more_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["first", "settled", "not"]
    rows = {name: Row(name, "engine", 1, "compute") for name in names}
    monkeypatch.setattr("benchmarks.rounds.is_settled", lambda ratios: len(ratios) > 0)
    monkeypatch.setattr(Row, "ratios", lambda self, first: [1.0] * (0 if self.contestant == "not" else 99))
    latency._take_rounds({name: lambda: None for name in names}, rows, "first", 0.0)
    most, least = latency.MOST_ROUNDS, latency.ROUNDS
    assert {name: len(row.rounds) for name, row in rows.items()} == {"first": most, "settled": least, "not": most}


def test_ratios_are_of_the_rounds_that_both_took(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Row("a", "engine", 1, "compute", {0: [10.0], 1: [20.0], 2: [90.0]})
    assert Row("b", "engine", 1, "compute", {0: [5.0], 1: [5.0]}).ratios(first) == [2.0, 4.0]


def test_nobody_is_settled_against_one_who_does_not_take_part() -> None:
    rows = {"b": Row("b", "engine", 1, "compute")}
    latency._take_rounds({"b": lambda: None}, rows, "a", 0.0)
    assert len(rows["b"].rounds) == latency.ROUNDS


def test_a_batch_that_nobody_takes_has_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_takes", lambda backend, size: size == 1)
    monkeypatch.setattr(latency, "_parity", lambda contestants, files: {"a": None})
    monkeypatch.setattr(latency, "_runner", lambda backend, kind, files: lambda: None)
    backend = Shaped(32, 1)
    backend.engine = "engine"  # type: ignore[attr-defined]
    found = measure({"a": backend}, [1, 8], ("compute",), [], 0.0)  # type: ignore[dict-item]
    assert [row.batch for row in found] == [1]


def test_rows_on_a_gpu_are_set_against_its_matrix_rate(
    exported_onnx: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU stands in for the GPU."""
    monkeypatch.setattr(matrix, "matrix_product_rate", lambda device, dtype: 1e12)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    row = Row("a", "engine", 2, "compute", {0: [4.0], 1: [4.0]})
    copies = Row("a", "engine", 2, "copies", {0: [4.0]})
    with open_model(exported_onnx, "cpu") as backend:
        rows = figures([row, copies], "a")
        assert of_peak({"a": backend}, rows) == {}
        monkeypatch.setattr(type(backend), "on_gpu", True)
        found = of_peak({"a": backend}, rows)
        needed = operations(backend.spec, *backend.own_size)
    (share,) = found["of_peak"]
    assert (share["contestant"], share["batch"]) == ("a", 2)
    assert share["share"] == pytest.approx(500 * needed / 1e12, abs=1e-5)
    assert shares(found) == [f"a, batch 2: {share['share']:.1%} of a matrix product's rate (1 TFLOP/s)"]
    assert shares({}) == []
