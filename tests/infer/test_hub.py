"""Models of the Hub by name: download, cache and what is refused, against a stand-in of the Hub."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cgan.errors import ChangedFileError, GateError, UserError
from cgan.hub import HubAddress, download, origin
from infer import Colorizer
from infer.cli import main
from infer.commands.coloring_options import MODEL
from tests import hub_server
from tests.hub_server import Hub

NAME = "hf://someone/flowers"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server.serving() as serving:
        hub_server.use(serving.url, tmp_path / "cache", monkeypatch)
        yield serving


@pytest.fixture
def off(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`off(why)`: no answers from now on."""

    def stop(why: str) -> None:
        from huggingface_hub import constants

        if why == "HF_HUB_OFFLINE is set":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        elif why == "the Hub answers 503":
            hub.failing = 503, ""
        else:
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")

    return stop


@pytest.mark.parametrize(
    ("given", "revision", "file"),
    [
        (NAME, None, ""),
        (f"{NAME}@v1", "v1", ""),
        (f"{NAME}/a.onnx", None, "a.onnx"),
        (f"{NAME}@refs/pr/1/fp16/a.onnx", "refs/pr/1", "fp16/a.onnx"),
    ],
)
def test_addresses(given: str, revision: str | None, file: str) -> None:
    assert HubAddress.parse(given) == HubAddress(given, "someone/flowers", revision, file)


@pytest.mark.parametrize(
    "given", ["hf://", "hf://flowers", "hf://datasets/a/b", "hf://a/b@", "hf://a/b//c", "hf://a/b c"]
)
def test_other_addresses_are_refused(given: str) -> None:
    with pytest.raises(UserError, match="found no address of a model, expected hf://owner/name"):
        HubAddress.parse(given)


def test_a_model_is_downloaded_once_and_named_with_its_commit(hub: Hub, exported_onnx: Path) -> None:
    commit = hub.add_model("someone/flowers", exported_onnx)
    notes: list[str] = []
    path = download(NAME, notes.append)
    assert path.read_bytes() == exported_onnx.read_bytes()
    assert origin(path) == f"{NAME}@{commit}/model.onnx"
    assert notes == []
    hub.requests.clear()
    assert download(NAME, notes.append) == path
    assert "GET" not in {method for method, asked, _ in hub.requests if "/resolve/" in asked}
    assert origin(exported_onnx) is None


def test_a_newer_revision_is_found_and_an_older_one_can_be_named(hub: Hub, exported_onnx: Path) -> None:
    old = hub.add_model("someone/flowers", exported_onnx)
    first = download(NAME)
    new = hub.add_model("someone/flowers", exported_onnx)
    assert origin(download(NAME)) == f"{NAME}@{new}/model.onnx"
    assert download(f"{NAME}@{old}") == first


@pytest.mark.parametrize("why", ["HF_HUB_OFFLINE is set", "the Hub answers 503", "the Hub cannot be reached"])
def test_without_the_hub_the_cached_revision_is_used_and_said(
    hub: Hub, off: Callable[[str], None], exported_onnx: Path, why: str
) -> None:
    commit = hub.add_model("someone/flowers", exported_onnx)
    path = download(NAME)
    off(why)
    notes: list[str] = []
    assert download(NAME, notes.append) == path
    assert download(f"{NAME}/model.onnx", notes.append) == path
    assert notes[0] == f"{NAME}: {why}; revision {commit[:12]} of the cache is used, unchecked"
    with pytest.raises(GateError, match=f"^hf://someone/other: {why}, and the cache does not have it"):
        download("hf://someone/other")


def test_of_several_models_one_has_to_be_named(hub: Hub, exported_onnx: Path) -> None:
    hub.add_model("someone/flowers", exported_onnx)
    both = {
        f"{name}{end}": content
        for name in ("a.onnx", "b.onnx")
        for end, content in zip(("", ".json"), hub.of("someone/flowers")[0].values(), strict=True)
    }
    hub.add("someone/flowers", {**both, "c.onnx": b"without a sidecar", "README.md": b""})
    with pytest.raises(
        UserError, match=r"found 2 ONNX files .* name the model, hf://someone/flowers/FILE: \['a.onnx', 'b.onnx'\]"
    ):
        download(NAME)
    assert download(f"{NAME}/b.onnx").name == "b.onnx"
    with pytest.raises(UserError, match=r"found no such model with a sidecar, expected one of \['a.onnx', 'b.onnx'\]"):
        download(f"{NAME}/c.onnx")
    hub.add("someone/flowers", {"README.md": b""})
    with pytest.raises(UserError, match="found no model with a sidecar"):
        download(NAME)


def test_an_engine_has_to_be_named(hub: Hub, exported_onnx: Path) -> None:
    hub.add_model("someone/flowers", exported_onnx, "model.plan")
    with pytest.raises(UserError, match=r"found 0 ONNX files with a sidecar, expected one; name the model"):
        download(NAME)
    assert download(f"{NAME}/model.plan").name == "model.plan"


def test_a_file_that_does_not_match_its_sidecar_is_refused(hub: Hub, exported_onnx: Path) -> None:
    hub.add_model("someone/flowers", exported_onnx)
    files = hub.of("someone/flowers")[0]
    hub.add("someone/flowers", {**files, "model.onnx": files["model.onnx"] + b"0"})
    with pytest.raises(ChangedFileError, match=r"^hf://someone/flowers: found sha256 [0-9a-f]{16,}\.\.\., its sidecar"):
        download(NAME)
    hub.add("someone/flowers", {**files, "model.onnx.json": b"[]"})
    with pytest.raises(UserError, match="its sidecar cannot be read"):
        download(NAME)


@pytest.mark.parametrize(
    ("failing", "given", "message", "code"),
    [
        (None, "hf://someone/none", "found no such repository, or no right to see it", 2),
        (None, f"{NAME}@v9", "found no such revision", 2),
        ((403, "GatedRepo"), NAME, "found terms that its owner asks to accept", 2),
        ((403, ""), NAME, "the Hub refuses this token (403)", 2),
        ((429, ""), NAME, "the Hub answers 429; try again later", 1),
    ],
)
def test_errors_of_the_hub_are_one_line_without_the_token(
    hub: Hub,
    exported_onnx: Path,
    invoke: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    failing: tuple[int, str] | None,
    given: str,
    message: str,
    code: int,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.add_model("someone/flowers", exported_onnx)
    hub.failing = failing
    result = invoke(main, "info", given)
    assert message in result.error(code)
    assert "hf_secret" not in result.out + result.err
    assert hub.requests[0][2]["authorization"] == "Bearer hf_secret"


def test_info_and_report_name_the_commit(
    hub: Hub, exported_onnx: Path, invoke: Callable[..., Any], tmp_path: Path
) -> None:
    address = f"{NAME}@{hub.add_model('someone/flowers', exported_onnx)}/model.onnx"
    assert address in invoke(main, "info", NAME).out
    assert json.loads(invoke(main, "info", NAME, "--json").out)["hub"] == address
    (tmp_path / "in").mkdir()
    Image.new("L", (40, 30), 99).save(tmp_path / "in" / "a.png")
    command = ["folder", tmp_path / "in", tmp_path / "out", "--device", "cpu", "--quiet", "--model"]
    assert invoke(main, *command, NAME).code == 0
    model = json.loads((tmp_path / "out" / "report.json").read_text())["model"]
    assert (model["hub"], Path(model["file"]).name) == (address, "model.onnx")
    assert json.loads(invoke(main, "info", exported_onnx, "--json").out)["hub"] is None


def test_a_colorizer_keeps_the_note(hub: Hub, off: Callable[[str], None], exported_onnx: Path) -> None:
    hub.add_model("someone/flowers", exported_onnx)
    with Colorizer(NAME, device="cpu") as colorizer:
        assert colorizer.backend.note is None
        assert colorizer.color(Image.new("L", (20, 30), 99)).size == (20, 30)
    off("HF_HUB_OFFLINE is set")
    with Colorizer(NAME, device="cpu") as colorizer:
        assert (colorizer.backend.note or "").startswith(f"{NAME}: HF_HUB_OFFLINE is set; revision ")


def test_completion_in_a_shell_downloads_nothing(hub: Hub) -> None:
    from infer.cli import command

    with command.make_context("cgan-infer", ["info", NAME], resilient_parsing=True) as context:
        assert MODEL.convert(NAME, None, context) == Path(NAME)
    assert hub.requests == []


@pytest.mark.slow
def test_the_environment_chooses_hub_and_cache_and_no_telemetry_is_sent(
    hub: Hub, exported_onnx: Path, tmp_path: Path
) -> None:
    hub.add_model("someone/flowers", exported_onnx)
    code = f"from infer.cli import main; main(['info', '--json', {NAME!r}])"
    home = tmp_path / "home"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert Path(json.loads(result.stdout)["file"]).is_relative_to(home / "hub")
    paths = {path for _, path, _ in hub.requests}
    assert paths == {
        "/api/models/someone/flowers",
        *(
            f"/someone/flowers/resolve/{revision}"
            for revision in ("main/model.onnx.json", f"{hub.commit('someone/flowers', 'main')}/model.onnx")
        ),
    }
    assert not any("torch" in headers["user-agent"] for _, _, headers in hub.requests)
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True)
    assert (result.returncode, result.stdout.count("someone/flowers@")) == (0, 1)
    assert result.stderr.startswith(f"note: {NAME}: HF_HUB_OFFLINE is set; revision ")
