"""Models by name."""

from pathlib import Path

import pytest

from cgan.errors import UserError
from infer.backends import open_model
from infer.cli import main
from infer.packaged import PACKAGED_MODELS, model_path


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PACKAGED_MODELS)
def test_a_name_is_a_file_in_the_package(name: str) -> None:
    assert model_path(name) == PACKAGED_MODELS[name]
    assert model_path(name).is_file()


def test_everything_else_is_a_path() -> None:
    assert model_path("flowers.onnx") == Path("flowers.onnx")
    assert model_path("./flowers") == Path("flowers")


def test_a_name_that_is_a_path_too_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("flowers").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["info", "flowers"])
    assert "flowers: found a path and a packaged model of this name" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["info"])  # nobody named it
    assert str(PACKAGED_MODELS["flowers"]) in capsys.readouterr().out


def test_the_names_are_said_where_nothing_is_found() -> None:
    with pytest.raises(UserError, match="the name of a packaged model: flowers, flowers-int8"):
        open_model(model_path("roses"))


def test_the_name_chooses_the_model_of_a_folder_run(capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Path("photos").mkdir()
    Image.linear_gradient("L").save("photos/a.png")
    outputs = []
    for name in PACKAGED_MODELS:
        with pytest.raises(SystemExit, match="0"):
            main(["folder", "photos", name + "-out", "--model", name, "--device", "cpu", "--quiet"])
        outputs.append(Path(name + "-out/a.png").read_bytes())
    assert len(set(outputs)) == len(PACKAGED_MODELS)
