"""Records of benchmarks replace nothing but earlier records."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.records import json_option, write_record

pytestmark = pytest.mark.benchmarks


@click.command()
@json_option
def measure(json_file: Path) -> None:
    print("measuring")
    write_record(json_file, {"arguments": [], "value": 1})


def test_a_record_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for _ in range(2):
        assert CliRunner().invoke(measure, ["--json", str(path)]).exit_code == 0
    path.write_text('{"mine": 1}')
    done = CliRunner().invoke(measure, ["--json", str(path)])
    assert done.exit_code == 2
    assert "measuring" not in done.output
    with pytest.raises(click.ClickException, match=r"found another file there|no earlier document"):
        write_record(path, {"arguments": []})
    assert path.read_text() == '{"mine": 1}'
