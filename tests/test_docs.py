"""The commands of README and of the site's pages run, and what they refer to exists.

One rule for all pages: blocks of language `sh` are run, in order, in one folder for each page; those whose title begins
with "Not run by the tests" are not, and the page shows the title.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import cgan.cli
import export.cli
import infer.cli
from cgan.formats import PHOTO_FORMATS
from docs.held_out import PHOTOGRAPHERS
from docs.terminal import readable

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "cgan-train": cgan.cli.main,
    "cgan-export": export.cli.main,
    "cgan-infer": infer.cli.main,
}
SMALL = ["--size", "32", "--epochs", "1", "--decay-epochs", "0", "--test-fraction", "0.2", "--device", "cpu"]
"""Added to trainings, so that they take seconds; a later option replaces an earlier one."""
SHELL = re.compile(r" [|<>] ")
"""Pipes and redirections, which only a shell runs."""
NOT_RUN = tuple(f'{language} title="Not run by the tests: ' for language in ("sh", "python"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


class Block(NamedTuple):
    """A fenced block: its language and attributes, and its text."""

    info: str
    text: str

    def commands(self) -> Iterator[list[str]]:
        """Its lines as a shell would split them."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if parts := shlex.split(line, comments=True):
                yield parts


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(info, body) for _, info, body in re.findall(r"^( *)```(.+)\n((?:.*\n)*?)\1```$", text, re.MULTILINE)]


RUN_PAGES = [page for page, text in PAGES.items() if any(block.info == "sh" for block in blocks(text))]
PYTHON_PAGES = [page for page, text in PAGES.items() if any(block.info == "python" for block in blocks(text))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, as in a clone, with PHOTOS and gray.jpg."""
    monkeypatch.chdir(tmp_path)
    for name in ("examples", "infer"):
        Path(name).symlink_to(ROOT / name)
    Path("PHOTOS").mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(f"PHOTOS/{i}.png")
    Image.fromarray(np.arange(50 * 60).reshape(50, 60).astype(np.uint8)).save("gray.jpg")
    Path("scans").mkdir()
    for name in ("photo.jpg", "a.jpg", "scans/b.tif"):
        Image.linear_gradient("L").resize((30, 20)).save(name)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_run_or_marked(page: str) -> None:
    for block in blocks(PAGES[page]):
        assert block.info in ("sh", "python", "text") or block.info.startswith(NOT_RUN), block.info
        if block.info.startswith("sh"):
            assert list(block.commands())


@pytest.mark.parametrize("page", RUN_PAGES)
@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_commands_run(page: str, trained_run: Path, exported_onnx: Path) -> None:
    for block in blocks(PAGES[page]):
        if block.info == "sh" and SHELL.search(block.text):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            subprocess.run(["bash", "-ec", block.text], env={**os.environ, "PATH": path}, check=True)
            continue
        for name, *arguments in block.commands() if block.info == "sh" else ():
            if name == "pip":
                assert arguments[0] == "install"
            elif name == "make":
                assert f"\n{arguments[0]}:" in MAKEFILE
            else:
                _stand_in(arguments, trained_run, exported_onnx)
                _run(name, arguments)


def _stand_in(arguments: list[str], run: Path, model: Path) -> None:
    """Put a tiny run and a tiny model where a command looks for those of an earlier page."""
    read = {
        Path(after).parts[0] for before, after in zip(["", *arguments], arguments, strict=False) if before != "--out"
    }
    if "run" in read and not Path("run").exists():
        shutil.copytree(run, "run")
    if "models" in read and not Path("models").exists():
        shutil.copytree(model.parent, "models")


def _run(name: str, arguments: list[str]) -> None:
    found = [sorted(map(str, Path().glob(part))) if "*" in part else [part] for part in arguments]
    expanded = [part for parts in found for part in parts]
    if name == "cgan-train" and "--resume" not in arguments:
        expanded += SMALL if "--init" in arguments else [*SMALL, "--width", "4"]
    with pytest.raises(SystemExit) as end:
        COMMANDS[name](expanded)
    assert not end.value.code, f"{name} {arguments}"


@pytest.mark.parametrize("page", PYTHON_PAGES)
@pytest.mark.usefixtures("folder")
def test_python_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(PAGES[page]):
        if block.info == "python":
            exec(block.text, {})
    assert capsys.readouterr().out in ("", "() False\n")
    results = list(Path().glob("color.*"))
    assert results
    for path in results:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((60, 50), "RGB")


def test_the_readme_is_one_page_that_opens_with_demo_and_test() -> None:
    assert len(README.split()) <= 900
    first = [command[1] for command in blocks(README)[0].commands()]
    assert first == ["demo", "test", "test-all"]
    assert all(f"\n{target}:" in MAKEFILE for target in first)


@pytest.mark.parametrize("document", [*PAGES, "CONTRIBUTING.md", "SECURITY.md", "infer/models/MODEL_CARD.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    in_site = {"model-card.md", "changelog.md", "contributing.md", "try/index.html"}  # made by docs/other_pages.py
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert "://" in link or link in in_site or (path.parent / link).exists(), link


OTHER_OPTIONS = {
    "--address",
    "--data-binary",
    "--generate",
    "--head",
    "--model-repository",
    "--no-python",
    "--nproc-per-node",
    "--port",
    "--rm",
    "--user",
}
"""Options of curl, torchrun, docker, ray and tritonserver."""


def test_every_option_in_the_documents_exists() -> None:
    known = {
        option
        for command in (cgan.cli.command, export.cli.command, *infer.cli.command.commands.values())
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    benchmarks = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    for page, text in PAGES.items():
        for option in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)) - OTHER_OPTIONS:
            assert option in known or f'"{option}' in benchmarks, f"{page}: {option}"


def test_every_extra_in_the_documents_exists() -> None:
    for page, text in {**PAGES, "Makefile": MAKEFILE}.items():
        for extras in re.findall(r"(?:'\.|cgan|whl)\[([a-z,-]+)\]", text):
            assert set(extras.split(",")) <= EXTRAS.keys(), f"{page}: {extras}"


def _text(node: ast.expr) -> str:
    """A string as a message prints it, with a mark for each value."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) if isinstance(value, ast.Constant) else "…" for value in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ""


def test_messages_of_troubleshooting_exist() -> None:
    messages = {
        _text(node)
        for package in ("cgan", "export", "infer")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    }
    source = "\n".join(messages)
    titles = re.findall(r"^### `(.+)`$", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert len(titles) > 20
    for title in titles:
        for part in filter(None, map(str.strip, re.split("…|; ", title))):
            assert part in source, f"{title}: {part}"


def test_the_gallery_names_the_author_of_each_photo() -> None:
    gallery = PAGES["docs/gallery.md"]
    pictures = re.findall(r"\]\((gallery/.+)\)\n\*(.+)\*", gallery)
    assert len(pictures) == 24
    for number, author in PHOTOGRAPHERS.items():
        assert (f"gallery/{number}.webp", f"{author}, {number}") in [
            (path, text.split(";")[0]) for path, text in pictures
        ]
    assert {f"gallery/{path.name}" for path in (ROOT / "docs" / "gallery").iterdir()} == {path for path, _ in pictures}
    assert sum((ROOT / "docs" / path).stat().st_size for path, _ in pictures) < 1_500_000


def test_every_example_has_its_source_and_licence() -> None:
    table = (ROOT / "examples" / "README.md").read_text()
    photos = [path.name for path in (ROOT / "examples").iterdir() if path.suffix in PHOTO_FORMATS]
    assert photos
    assert all(f"| {name} |" in table for name in photos)


def test_a_recording_keeps_the_last_states_of_a_bar() -> None:
    assert readable("one\r\nbar 0%\r\x1b[Kbar 50%\rbar 100%\r\nlast\r\n") == "one\nbar 50%\nbar 100%\nlast\n"
