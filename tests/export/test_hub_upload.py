"""cgan-export --push, against a stand-in of the Hub."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgan.errors import GateError
from cgan.hub import download, origin
from cgan.spec import read_sidecar, sidecar_path
from export import artefact as pipeline
from export.artefact import Artefact
from export.cli import main
from export.hub_upload import find_destination, push
from tests import hub_server
from tests.hub_server import Hub

NAME = "hf://someone/flowers"
TOKEN = "hf_secret"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server.serving() as serving:
        hub_server.use(serving.url, tmp_path / "cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield serving


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch, exported_onnx: Path) -> None:
    """An export that copies `exported_onnx` with its sidecar."""

    def make(source: Path, out: Path, options: Any) -> Artefact:
        out.mkdir(parents=True)
        for path in (exported_onnx, sidecar_path(exported_onnx)):
            shutil.copy(path, out)
        return Artefact(out / exported_onnx.name, read_sidecar(exported_onnx))  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "make_onnx", make)


@pytest.mark.usefixtures("quick_export")
def test_a_verified_export_is_uploaded_in_one_commit_with_a_card(
    hub: Hub, invoke: Callable[..., Any], trained_run: Path, exported_onnx: Path, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    result = invoke(main, trained_run, "--out", tmp_path / "out", "--push", NAME)
    assert result.code == 0, result.err
    address = f"{NAME}@{hub.commit('someone/flowers', 'main')}/{exported_onnx.name}"
    assert f"uploaded as {address}" in result.err
    assert TOKEN not in result.out + result.err
    first, uploaded = hub.of("someone/flowers")
    assert hub.private == {"someone/flowers"}
    assert uploaded.keys() - first.keys() == {exported_onnx.name, f"{exported_onnx.name}.json", "README.md"}
    card = ModelCard(uploaded["README.md"].decode())
    assert card.data.to_dict() == {
        "library_name": "cgan",
        "pipeline_tag": "image-to-image",
        "tags": ["image-colorization", "gan", "onnx"],
    }
    assert f"--model {NAME}" in card.text
    path = download(NAME)
    assert (path.read_bytes(), origin(path)) == (exported_onnx.read_bytes(), address)


@pytest.mark.usefixtures("quick_export")
def test_the_card_and_the_models_that_are_there_stay(
    hub: Hub, invoke: Callable[..., Any], trained_run: Path, tmp_path: Path
) -> None:
    before = {"README.md": b"my own", "other.onnx": b"another"}
    hub.add("someone/flowers", before)
    assert invoke(main, trained_run, "--out", tmp_path / "out", "--push", NAME, "--quiet").err == ""
    files = hub.of("someone/flowers")[-1]
    assert (len(files), before.items() <= files.items(), hub.private) == (4, True, set())


@pytest.mark.parametrize(
    ("options", "token", "message"),
    [
        (["--push", NAME], "", f"--push {NAME}: found no token of the Hub; log in with hf auth login, or set HF_TOKEN"),
        (["--push", f"{NAME}@v1"], TOKEN, f"--push {NAME}@v1: found a revision or a file, expected {NAME}"),
        (["--push", f"{NAME}/a.onnx"], TOKEN, "found a revision or a file"),
        (["--push", "someone/flowers"], TOKEN, "found no address of a model, expected hf://owner/name"),
        (["--push", NAME, "--no-verify"], TOKEN, "--no-verify: no effect beside --push"),
    ],
)
def test_what_cannot_be_uploaded_is_said_before_the_export(
    hub: Hub,
    invoke: Callable[..., Any],
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    token: str,
    message: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert message in invoke(main, trained_run, "--out", tmp_path / "out", *options).error(2)
    assert not (tmp_path / "out").exists()
    assert hub.requests == []


@pytest.mark.parametrize(
    ("failing", "message", "code"),
    [((401, ""), "the Hub refuses this token (401)", 2), ((500, ""), "the Hub answers 500", 1)],
)
def test_errors_of_the_hub_are_one_line(
    hub: Hub,
    invoke: Callable[..., Any],
    trained_run: Path,
    tmp_path: Path,
    failing: tuple[int, str],
    message: str,
    code: int,
) -> None:
    hub.failing = failing
    error = invoke(main, trained_run, "--out", tmp_path / "out", "--push", NAME).error(code)
    assert message in error
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_its_gate_is_not_uploaded(
    hub: Hub, invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, stub_export: Callable[[float], None]
) -> None:
    stub_export(0.05)
    assert "is not the trained model" in invoke(main, trained_run, "--out", tmp_path / "out", "--push", NAME).error(1)
    assert hub.of("someone/flowers") == []


def test_an_engine_that_was_not_compared_is_not_uploaded(hub: Hub, exported_onnx: Path) -> None:
    sidecar = read_sidecar(exported_onnx)
    assert sidecar is not None
    unknown = replace(sidecar, verification={"verified": False, "reason": "no GPU here"})
    with pytest.raises(GateError, match=r"not uploaded, because it was not compared with its model \(no GPU here\)"):
        push(Artefact(exported_onnx, unknown), find_destination(NAME))
    assert hub.of("someone/flowers") == []
