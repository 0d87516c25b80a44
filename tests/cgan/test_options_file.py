"""--config and --write-config: options in a TOML file, the same for all commands."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cgan.cli
import export.cli
import infer.cli
from cgan.options_file import options_toml

Invoke = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """`config(content)`: write a file for --config."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "options.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def dry(invoke: Invoke, photo_folder: Path, tmp_path: Path) -> Invoke:
    """`dry(*options)`: the configuration of a training that is not begun, or the error."""

    def call(*options: object) -> Any:
        return invoke(cgan.cli.main, photo_folder, "--out", tmp_path / "run", "--no-fid", "--dry-run", *options)

    return call


def test_the_command_line_wins_over_the_file(dry: Invoke, config: Callable[[str], Path]) -> None:
    file = config("width = 8\nlr = 1\nflip = true\ncolor-space = 'hsv'\n")
    found = json.loads(dry("--width", 4, "--config", file).out)
    assert (found["width"], found["lr"], found["flip"], found["color_space"]) == (4, 1.0, True, "hsv")


def test_a_value_of_the_file_counts_as_given(dry: Invoke, config: Callable[[str], Path]) -> None:
    error = dry("--init", "flowers", "--config", config("width = 8\n")).error(2)
    assert "found --width 8, expected --width 16" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("widht = 8", "found the key 'widht', expected width"),
        ("l1_weight = 8", "found the key 'l1_weight'"),
        ("config = 'x'", "found the key 'config'"),
        ("width = '8'", "found width = '8', expected a whole number"),
        ("width = true", "found width = True, expected a whole number"),
        ("width = 8.0", "found width = 8.0, expected a whole number"),
        ("lr = 'fast'", "found lr = 'fast', expected a number"),
        ("flip = 1", "found flip = 1, expected true or false"),
        ("color-space = 'lab'", "color-space: 'lab' is not one of 'rgb', 'hsv', 'ycbcr'"),
        ("track = 'mlflow'", "found track = 'mlflow', expected a list"),
        ("track = ['mlflow', 3]", "found track = item 3, expected a text"),
        ("out = ''", "found out = '', expected a value"),
        ("init = 1979-05-27", "found init = datetime.date(1979, 5, 27), expected a text"),
        ("[train]\nwidth = 8", "found the key 'train'"),
        (f"lr = 1{'0' * 400}", "too large"),
        ("width 8", "not readable as TOML"),
        (b"\xff", "not readable as TOML"),
        ("x = " + "[" * 5000, "not readable as TOML"),
    ],
)
def test_what_is_no_option_is_refused_with_file_and_key(
    dry: Invoke, config: Callable[[str | bytes], Path], content: str | bytes, message: str
) -> None:
    file = config(content)
    error = dry("--config", file).error(2)
    assert f"error: --config {file}: " in error
    assert message in error


def test_a_file_that_is_missing_or_no_file_is_refused(dry: Invoke, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path, Path("/dev/zero")):
        assert f"--config {path}: not readable" in dry("--config", path).error(2)


def test_what_is_written_is_what_is_read(dry: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "written.toml"
    options = ("--init", "flowers", "--loss-space", "rgb", "--width", 16, "--lr", 1e-5, "--flip")
    assert dry(*options, "--write-config", file) == (0, "", f"wrote {file}; to use it: --config {file}\n")
    found = tomllib.loads(file.read_text())
    assert (found["width"], found["lr"], found["color-space"], found["init"]) == (16, 1e-5, "ycbcr", "flowers")
    assert found["out"] == str(tmp_path / "run") and found["track"] == ["tensorboard"]
    assert not {"dry-run", "write-config", "config", "quiet", "resume"} & found.keys()
    assert dry("--config", file).out == dry(*options).out
    assert dry(*options, "--write-config", file).code == 0  # an earlier one is replaced
    (tmp_path / "mine.toml").write_text("mine")
    assert "did not write" in dry("--write-config", tmp_path / "mine.toml").error(2)


def test_texts_and_lists_keep_their_characters() -> None:
    values = {"out": Path('a "b"\n\x7f\\é'), "track": ("mlflow", "wandb"), "init": None}
    found = tomllib.loads(options_toml(cgan.cli.command, values))
    assert found == {"out": 'a "b"\n\x7f\\é', "track": ["mlflow", "wandb"]}


def test_every_option_can_be_in_a_file() -> None:
    keys = {option.opts[0] for option in cgan.cli.command.params if option.opts[0].startswith("--")}
    values = {option.name: 1 for option in cgan.cli.command.params}
    found = tomllib.loads(options_toml(cgan.cli.command, values))
    assert {f"--{key}" for key in found} == keys - {"--config", "--version"}


def test_an_export_takes_its_options_from_a_file(
    invoke: Invoke, exported_onnx: Path, trained_run: Path, config: Callable[[str], Path]
) -> None:
    file = config(f"verify = '{exported_onnx}'\nbatch = '1,2,2'\natol = 1\n")
    result = invoke(export.cli.main, trained_run, "--config", file)
    assert result.code == 0
    assert [line for line in result.err.splitlines() if line.startswith("compare")][2] == "compare   batch 2, photos"
    wrong = config("batch = '3,2,1'\n")
    assert f"--config {wrong}: --batch: found 3,2,1" in invoke(export.cli.main, "--config", wrong).error(2)


def test_a_group_has_a_table_for_each_command(
    invoke: Invoke, gray_photos: Callable[..., Path], tmp_path: Path, config: Callable[[str], Path]
) -> None:
    photos = gray_photos(tmp_path / "in", count=1)
    file = config("[folder]\nformat = 'webp'\nworkers = 1\nquiet = true\n[info]\ndevice = 'cpu'\n")
    assert invoke(infer.cli.main, "--config", file, "folder", photos, tmp_path / "out") == (0, "", "")
    assert [path.name for path in (tmp_path / "out").glob("0*")] == ["000.webp"]
    for content, message in (
        ("format = 'webp'", "found the key 'format', expected commands, as --help lists them"),
        ("[folder]\nworkers = 0", "workers: 0 is not in the range"),
        ("folder = 3", "found folder = 3, expected an object"),
    ):
        assert message in invoke(infer.cli.main, "--config", config(content), "info").error(2)


def test_an_edited_file_is_not_replaced(dry: Any, tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    assert dry("--write-config", file).code == 0
    file.write_text(file.read_text() + "# mine\n")
    assert "did not write" in dry("--write-config", file).error(2)
    assert file.read_text().endswith("# mine\n")
