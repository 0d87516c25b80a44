"""The README's commands run, and what it refers to exists."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cgan.cli
import export.cli
import infer.cli
from cgan.formats import PHOTO_FORMATS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "cgan-train": cgan.cli.main,
    "cgan-export": export.cli.main,
    "cgan-infer": infer.cli.main,
}
SMALL = ["--width", "4", "--size", "32", "--epochs", "1", "--no-fid", "--device", "cpu"]
"""Added to the README's training, so that the test takes seconds; a later option replaces an earlier one."""


def readme_commands(section: str, number: int = 1) -> list[list[str]]:
    """The commands of a shell block after a heading, the first or another."""
    block = README.split(f"## {section}\n", 1)[1].split("```sh\n")[number].split("```", 1)[0]
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line and not line.startswith("#")]


def test_the_readme_opens_with_demo_and_test() -> None:
    block = README.split("```sh\n", 1)[1].split("```", 1)[0]
    assert [line.split("#")[0].strip() for line in block.strip().splitlines()] == [
        "make demo",
        "make test",
        "make test-all",
    ]
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in makefile
    assert "\ntest:" in makefile


@pytest.fixture
def in_folder_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder has PHOTOS in it, as the README calls them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CGAN_CACHE", str(tmp_path / "cache"))
    Path("PHOTOS").mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(f"PHOTOS/{i}.png")


@pytest.mark.usefixtures("in_folder_of_photos")
@pytest.mark.slow
def test_the_chain_of_the_readme_runs() -> None:
    commands = readme_commands("Your own photos")
    assert [command[0] for command in commands] == ["cgan-train", "cgan-export", "cgan-infer"]
    for name, *arguments in commands:
        expanded = [
            part
            for argument in arguments
            for part in (sorted(map(str, Path().glob(argument))) if "*" in argument else [argument])
        ]
        if name == "cgan-train":
            expanded += SMALL
        with pytest.raises(SystemExit) as end:
            COMMANDS[name](expanded)
        assert not end.value.code, name
    assert len(list(Path("colored").glob("*.png"))) == 6


@pytest.mark.usefixtures("in_folder_of_photos")
@pytest.mark.slow
def test_the_readme_trains_the_packaged_model_further() -> None:
    (command,) = readme_commands("Your own photos", 2)
    assert command[0] == "cgan-train"
    arguments = [str(ROOT / part) if part.startswith("infer/") else part for part in command[1:]]
    small = ["--size", "32", "--epochs", "1", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        cgan.cli.main([*arguments, *small])
    assert not end.value.code
    assert (Path("run") / "checkpoints" / "last.safetensors").is_file()


@pytest.mark.slow
def test_single_photos_of_the_readme_are_coloured(tmp_path: Path) -> None:
    block = README.split("### cgan-infer PHOTO...\n", 1)[1].split("```sh\n", 1)[1].split("```", 1)[0]
    (tmp_path / "scans").mkdir()
    for name in ("photo.jpg", "a.jpg", "scans/b.tif", "c.png"):
        Image.linear_gradient("L").save(tmp_path / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", block], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    made = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*color*")}
    assert made == {"photo-color.jpg", "a-color.jpg", "scans/b-color.tif", "c-color.png", "colored.jpg"}
    with Image.open(tmp_path / "out.png") as image:
        assert image.format == "PNG"


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(50 * 60).reshape(50, 60).astype(np.uint8)).save("gray.jpg")
    Path("gray").mkdir()
    shutil.copy("gray.jpg", "gray")
    for block in README.split("```python\n")[1:]:
        exec(block.split("```", 1)[0], {})
    assert capsys.readouterr().out == "() False\n"
    for name in ("color.png", "color.jpg", "gray/gray.color.jpg"):
        with Image.open(name) as image:
            assert (image.size, image.mode) == ((60, 50), "RGB")


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "infer/models/MODEL_CARD.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert "://" in link or (path.parent / link).exists(), link


def test_the_table_of_training_options_is_that_of_the_help() -> None:
    """`python -m docs.training_options` writes it."""
    document = runpy.run_path(str(ROOT / "docs" / "training_options.py"))
    assert document["table"]().count("\n") > 40
    assert document["with_table"](README) == README


OPTIONS_OF_TORCHRUN = {"--nproc-per-node", "--no-python"}


def test_every_option_in_the_readme_exists() -> None:
    known = {
        option
        for command in (cgan.cli.command, export.cli.command, *infer.cli.command.commands.values())
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    benchmarks = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", README)) - OPTIONS_OF_TORCHRUN:
        assert option in known or f'"{option}' in benchmarks, option


def test_every_example_has_its_source_and_licence() -> None:
    table = (ROOT / "examples" / "README.md").read_text()
    photos = [path.name for path in (ROOT / "examples").iterdir() if path.suffix in PHOTO_FORMATS]
    assert photos
    assert all(f"| {name} |" in table for name in photos)


def test_every_option_of_a_folder_run_is_in_the_readme() -> None:
    table = README.split("### cgan-infer folder", 1)[1].split("\nINPUT and OUTPUT", 1)[0]
    for parameter in infer.cli.command.commands["folder"].params:
        for option in parameter.opts:
            assert not option.startswith("--") or option in table, option
