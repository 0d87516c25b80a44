"""MLflow and Weights & Biases: what their libraries are asked, by stand-ins for both, which are not installed here."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cgan.cli import main
from cgan.training.trackers import Mlflow, Tracker, Wandb, tracking

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Recorder:
    """A module or object that records calls of any of its functions, and answers with itself."""

    def __init__(self, **attributes: Any) -> None:
        self.calls: list[Call] = []
        self.fails = ""
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if name == self.fails:
                raise ConnectionError("no server")
            self.calls.append((name, arguments, named))
            return self

        return call


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    library = Recorder()
    monkeypatch.setitem(sys.modules, "mlflow", library)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return library


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    library = Recorder(api=SimpleNamespace(api_key=None), Image=lambda path: ("image", path))
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return library


def test_a_run_in_mlflow(mlflow: Recorder) -> None:
    with tracking({"mlflow": Mlflow()}, "roses", {"width": 4, "init_sha256": ""}) as log:
        log(1, {"l1/test": 0.5}, [Path("a.png")])
    assert mlflow.calls == [
        ("start_run", (), {"run_name": "roses"}),
        ("log_params", ({"width": 4},), {}),
        ("log_metrics", ({"l1/test": 0.5},), {"step": 1}),
        ("log_artifact", ("a.png", "samples"), {}),
        ("end_run", ("FINISHED",), {}),
    ]


def test_a_run_in_wandb_stays_here_unless_the_user_is_logged_in(wandb: Recorder) -> None:
    with tracking({"wandb": Wandb()}, "roses", {"width": 4}) as log:
        log(1, {"l1/test": 0.5}, [Path("a.png")])
    assert wandb.calls == [
        ("init", (), {"project": "cgan", "name": "roses", "config": {"width": 4}, "mode": "offline"}),
        ("log", ({"l1/test": 0.5, "samples": [("image", "a.png")]},), {"step": 1}),
        ("finish", (), {"exit_code": 0}),
    ]


@pytest.mark.parametrize(("key", "environment"), [("key", {}), (None, {"WANDB_MODE": "online"})])
def test_what_the_user_has_chosen_decides_where_wandb_writes(
    wandb: Recorder, monkeypatch: pytest.MonkeyPatch, key: str | None, environment: dict[str, str]
) -> None:
    vars(wandb)["api"].api_key = key
    for name, value in {**environment, "WANDB_PROJECT": "mine"}.items():
        monkeypatch.setenv(name, value)
    with tracking({"wandb": Wandb()}, "roses", {}):
        pass
    assert wandb.calls[0][2] == {"project": "mine", "name": "roses", "config": {}, "mode": None}


def test_a_run_that_fails_is_marked_as_failed(mlflow: Recorder, wandb: Recorder) -> None:
    both: dict[str, Tracker] = {"mlflow": Mlflow(), "wandb": Wandb()}
    with pytest.raises(KeyboardInterrupt), tracking(both, "roses", {}):
        raise KeyboardInterrupt
    assert mlflow.calls[-1] == ("end_run", ("FAILED",), {})
    assert wandb.calls[-1] == ("finish", (), {"exit_code": 1})


@pytest.mark.parametrize(("function", "method"), [("start_run", "begin"), ("log_metrics", "log"), ("end_run", "end")])
def test_a_tracker_that_fails_does_not_end_the_training(
    mlflow: Recorder, wandb: Recorder, capsys: pytest.CaptureFixture[str], function: str, method: str
) -> None:
    mlflow.fails = function
    with tracking({"mlflow": Mlflow(), "wandb": Wandb()}, "roses", {}) as log:
        log(1, {}, [])
        log(2, {}, [])
    assert [name for name, *_ in wandb.calls] == ["init", "log", "log", "finish"]
    assert capsys.readouterr().err == (
        f"warning: --track mlflow: {method} failed (ConnectionError('no server')); training goes on without this "
        "tracker\n"
    )


@pytest.mark.slow
def test_a_training_records_its_epochs_there(
    mlflow: Recorder, invoke: Callable[..., Any], photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> None:
    run, epochs = tmp_path / "roses", ("--epochs", 2)
    assert invoke(main, photo_folder, "--out", run, *tiny_options, *epochs, "--track", "mlflow").code == 0
    calls = {
        name: [(arguments, named) for n, arguments, named in mlflow.calls if n == name] for name, *_ in mlflow.calls
    }
    assert calls["start_run"] == [((), {"run_name": "roses"})]
    assert calls["log_params"][0][0][0]["width"] == 4
    assert [named for _, named in calls["log_metrics"]] == [{"step": 1}, {"step": 2}]
    assert {"l1/train", "l1/test", "psnr/test", "colorfulness/test"} <= calls["log_metrics"][0][0][0].keys()
    assert [Path(path).name for (path, _), _ in calls["log_artifact"]] == ["epoch-0001.png", "epoch-0002.png"]
    assert not (run / "tensorboard").exists()
    mlflow.calls.clear()
    more = ("--resume", "--epochs", 3, "--quiet", "--track", "mlflow", "--track", "tensorboard")
    assert invoke(main, photo_folder, "--out", run, *more).code == 0
    assert [named["step"] for name, _, named in mlflow.calls if name == "log_metrics"] == [1, 2, 3]
    assert (run / "tensorboard" / "samples").is_dir()
