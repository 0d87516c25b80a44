"""Folder runs from and to fsspec URLs."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from infer.folder.remote import RemoteFolder

ROOT = Path(__file__).parents[3]
Color = Callable[..., Any]
OUT = "memory://out"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where journals of remote OUTPUTs go."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield tmp_path / "state" / "cgan"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def photos(tmp_path: Path, gray_photos: Callable[..., Path]) -> Path:
    """Photos in a folder of this machine, and the same in memory://in."""
    folder = gray_photos(tmp_path / "in")
    for path in folder.iterdir():
        MemoryFileSystem().pipe_file(f"/in/sub/{path.name}", path.read_bytes())
    return folder


def report() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(MemoryFileSystem().cat_file("/out/report.json"))
    return values


def pictures() -> set[str]:
    """Paths of all files in OUTPUT but the journal's."""
    return {path for path in MemoryFileSystem().find("/out") if "/.cgan/" not in path}


def counts() -> tuple[int, ...]:
    return tuple(report()[name] for name in ("done", "skipped", "failed"))


@pytest.mark.usefixtures("photos")
def test_from_a_store_to_a_store(state: Path, color: Color) -> None:
    assert color("memory://in", OUT).code == 0
    assert counts() == (3, 0, 0)
    names = {f"/out/sub/00{i}.png" for i in range(3)}
    assert pictures() == {*names, "/out/report.json"}
    for name in names:
        with MemoryFileSystem().open(name) as file, Image.open(file) as image:
            assert (image.mode, image.size) == ("RGB", (40, 30))
    assert (report()["input"], report()["output"]) == ("memory://in", OUT)
    assert report()["journal"] == "memory://out/.cgan/journal"
    assert not state.exists()


@pytest.mark.usefixtures("photos")
def test_the_same_command_again_does_only_what_is_missing(state: Path, color: Color) -> None:
    color("memory://in", OUT)
    files = MemoryFileSystem()
    color("memory://in", OUT)
    assert counts() == (0, 3, 0)
    files.rm_file("/out/sub/000.png")
    files.pipe_file("/in/sub/001.png", files.cat_file("/in/sub/002.png"))
    files.pipe_file("/out/sub/002.png", b"mine")
    assert color("memory://in", OUT).code == 1
    assert counts() == (2, 0, 1)
    assert files.cat_file("/out/sub/002.png") == b"mine"
    assert color("memory://in", OUT, "--dry-run").code == 1


def test_one_side_can_be_on_this_machine(state: Path, photos: Path, tmp_path: Path, color: Color) -> None:
    assert color(photos, OUT).code == 0
    assert counts() == (3, 0, 0)
    ran = color("memory://in", tmp_path / "out")
    assert ran.counts == (3, 0, 0)
    assert (tmp_path / "out" / "sub" / "000.png").is_file()
    assert (tmp_path / "out" / ".cgan" / "journal.sqlite").is_file()
    assert not state.exists()


def test_an_output_equal_to_input_or_around_it_is_refused(state: Path, photos: Path, color: Color) -> None:
    for target in ("memory://in", "memory://in/", "memory://"):
        error = color("memory://in", target).result.error(2)
        assert "could overwrite the inputs" in error
    assert color("memory://in", "memory://in/out").code == 0
    assert color("memory://in", "memory://in/out", "--dry-run", "--log-json").events[0]["verdict"] == "skip"
    assert not state.exists()


def test_a_report_can_stay_on_this_machine(state: Path, photos: Path, tmp_path: Path, color: Color) -> None:
    color(photos, OUT, "--report", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["done"] == 3
    assert not MemoryFileSystem().exists("/out/report.json")


@pytest.mark.usefixtures("photos", "state")
def test_an_error_of_the_store_fails_its_file(color: Color, monkeypatch: pytest.MonkeyPatch) -> None:
    class ThrottledError(Exception):
        pass

    publish, fetch = MemoryFileSystem.pipe_file, MemoryFileSystem.cat_file

    def refuse_write(self: Any, path: str, *arguments: Any, **options: Any) -> None:
        if path.endswith("out/sub/000.png"):
            raise ThrottledError("slow down")
        publish(self, path, *arguments, **options)

    def refuse_read(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("in/sub/001.png"):
            raise TimeoutError("no answer")
        return fetch(self, path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", refuse_write)
        patch.setattr(MemoryFileSystem, "cat_file", refuse_read)
        assert color("memory://in", OUT).code == 1
    failures = report()["failures"]
    assert counts() == (1, 0, 2)
    assert "ThrottledError: slow down" in failures["sub/000.png"]
    assert failures["sub/001.png"] == "TimeoutError: no answer"
    assert color("memory://in", OUT).code == 0
    assert counts() == (2, 1, 0)


@pytest.mark.parametrize("method", ["find", "makedirs"])
def test_a_store_that_refuses_all_is_one_line(
    state: Path, photos: Path, color: Color, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, method, refuse)
    place = "memory://in" if method == "find" else OUT
    error = color("memory://in" if method == "find" else photos, OUT).result.error(2)
    assert error.startswith(f"error: {place}: cannot be {'searched' if method == 'find' else 'written'}")
    assert "Access Denied" in error


def test_an_input_that_is_not_there_is_one_line(state: Path, color: Color) -> None:
    assert "found no photos" in color("memory://none", OUT).result.error(2)
    assert not state.exists()


@pytest.mark.usefixtures("photos", "state")
def test_names_that_two_files_could_share_fail_and_the_others_are_done(color: Color) -> None:
    files = MemoryFileSystem()
    names = ["sub//000.png", "../up.png", "/abs.png", "sub/../x.png"]
    for name in names:
        files.store[f"/in/{name}"] = files.store["/in/sub/000.png"]
    assert color("memory://in", OUT).code == 1
    assert counts() == (3, 0, 4)
    assert report()["failures"].keys() == set(names)
    assert len(pictures()) == 4


@pytest.mark.usefixtures("photos", "state")
def test_an_object_that_appears_during_a_run_stays(color: Color, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = MemoryFileSystem.cat_file

    def disturb(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        content = fetch(self, path, *arguments, **options)
        if path.startswith("/in"):
            MemoryFileSystem().pipe_file("/out/sub/001.png", b"mine")
        return content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", disturb)
    assert color("memory://in", OUT).code == 1
    assert counts() == (2, 0, 1)
    assert "another file" in report()["failures"]["sub/001.png"]
    assert MemoryFileSystem().cat_file("/out/sub/001.png") == b"mine"


def test_a_missing_fsspec_is_one_line(tmp_path: Path) -> None:
    program = "import sys; sys.modules['fsspec'] = None\nfrom infer.cli import main; main()"
    arguments = ["folder", "s3://bucket/photos", str(tmp_path / "out")]
    result = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "pip install 'cgan[remote]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_urls_keep_their_name_in_what_people_read() -> None:
    assert str(RemoteFolder("memory://in/x")) == "memory://in/x"
