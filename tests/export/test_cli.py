"""cgan-export from the outside: every option, the gate's exit codes, and what is left on disk."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cgan
import export
from cgan.spec import ModelSpec, read_sidecar, sidecar_path
from cgan.training.checkpoint import load_checkpoint, load_generator
from export import artefact as pipeline
from export.cli import command, main

Change = Callable[[ModelProto], None]

NAME = "unet-w4-rgb-32-fp32.onnx"


def add_to_bias(model: ModelProto) -> None:
    """The last layer's bias + 0.05: seen in every pixel."""
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("head.bias")]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.05), bias.name))


def swap_channels(model: ModelProto) -> None:
    """Red and blue trade places at the output."""
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("head.weight", "head.bias")):
            values = np.ascontiguousarray(numpy_helper.to_array(tensor)[[2, 1, 0]])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.fixture
def fast_export(monkeypatch: pytest.MonkeyPatch, exported_onnx: Path) -> Callable[[Change | None], None]:
    """Let cgan-export write `exported_onnx`, changed or not, instead of tracing the generator again."""

    def use(change: Change | None = None) -> None:
        def write(generator: Any, spec: ModelSpec, path: Path, *_: object) -> None:
            model = onnx.load(exported_onnx)
            if change:
                change(model)
            onnx.save(model, path)

        monkeypatch.setattr(pipeline, "export_onnx", write)

    return use


@pytest.fixture
def copied(exported_onnx: Path, tmp_path: Path) -> Path:
    """A copy of the exported file with its sidecar."""
    folder = tmp_path / "copied"
    folder.mkdir()
    shutil.copy(sidecar_path(exported_onnx), folder)
    return Path(shutil.copy(exported_onnx, folder))


def alter(artefact: Path, change: Change) -> None:
    model = onnx.load(artefact)
    change(model)
    onnx.save(model, artefact)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# export


def test_an_export_is_a_verified_file_with_its_sidecar(exported_onnx: Path, trained_run: Path) -> None:
    assert exported_onnx.name == NAME
    assert files(exported_onnx.parent) == [NAME, f"{NAME}.json"]
    sidecar = json.loads(sidecar_path(exported_onnx).read_text())
    assert sidecar.keys() == {"spec", "file_sha256", "verification", "build"}
    assert sidecar["file_sha256"] == hashlib.sha256(exported_onnx.read_bytes()).hexdigest()
    assert sidecar["spec"]["weights_sha256"] == load_generator(trained_run)[1].weights_sha256
    assert sidecar["verification"]["verified"] is True
    assert sidecar["verification"]["max_difference"] < 1e-5
    assert len(sidecar["verification"]["comparisons"]) == 6
    assert read_sidecar(exported_onnx) is not None


def test_the_command_says_what_it_wrote_and_how_close_it_is(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a" / "b"
    result = invoke(main, trained_run, "--out", out, "--format", "onnx", "--precision", "fp32")
    assert result.code == 0
    assert result.out == ""
    assert f"{out / NAME}: agrees with the trained model" in result.err
    assert all(f"photos {size:>8}  " in result.err for size in (1, 3, 8))
    assert files(out) == [NAME, f"{NAME}.json"]


def test_a_checkpoint_file_is_a_source_too(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, fast_export: Callable[..., None]
) -> None:
    fast_export()
    checkpoint = shutil.copy(trained_run / "checkpoints" / "last.safetensors", tmp_path / "mine.safetensors")
    assert invoke(main, checkpoint, "--out", tmp_path / "out").code == 0
    assert files(tmp_path / "out") == [NAME, f"{NAME}.json"]


def test_quiet_says_nothing(
    invoke: Callable[..., Any],
    trained_run: Path,
    tmp_path: Path,
    exported_onnx: Path,
    fast_export: Callable[..., None],
) -> None:
    fast_export()
    assert invoke(main, trained_run, "--out", tmp_path, "--quiet") == (0, "", "")
    assert invoke(main, trained_run, "--verify", exported_onnx, "--quiet") == (0, "", "")


def test_no_verify_writes_a_file_that_says_so(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, fast_export: Callable[..., None]
) -> None:
    fast_export(add_to_bias)
    result = invoke(main, trained_run, "--out", tmp_path, "--no-verify")
    assert result.code == 0
    assert "NOT verified: --no-verify" in result.err
    sidecar = read_sidecar(tmp_path / NAME)
    assert sidecar is not None and not sidecar.verification["verified"]


# the gate


@pytest.mark.parametrize("change", [add_to_bias, swap_channels])
def test_a_file_that_computes_something_else_is_not_left_behind(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, fast_export: Callable[..., None], change: Change
) -> None:
    fast_export(change)
    error = invoke(main, trained_run, "--out", tmp_path).error(1)
    assert f"{NAME} is not the trained model" in error
    assert ".tmp" not in error
    assert files(tmp_path) == []


def test_a_failed_export_keeps_the_good_one_of_before(
    invoke: Callable[..., Any], trained_run: Path, copied: Path, fast_export: Callable[..., None]
) -> None:
    before = {path: path.read_bytes() for path in copied.parent.iterdir()}
    fast_export(add_to_bias)
    invoke(main, trained_run, "--out", copied.parent).error(1)
    assert {path: path.read_bytes() for path in copied.parent.iterdir()} == before


@pytest.mark.slow
def test_the_tolerances_change_the_verdict(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, fast_export: Callable[..., None]
) -> None:
    fast_export(add_to_bias)
    failing = ("--atol", 1e-3), ("--atol", 1e-3, "--rtol", 1e-3), ("--atol", 1, "--min-psnr", 60)
    options: tuple[object, ...]
    # Without a limit on the largest difference the default one of fp32 stands.
    for options in ((), *failing, ("--atol", 1, "--max-off", 0.5), ("--min-psnr", 30), ("--max-off", 1)):
        assert "is not the trained model" in invoke(main, trained_run, "--out", tmp_path, *options).error(1)
    limits: dict[str, Any]
    for limits in ({"atol": 0.1}, {"atol": 1e-9, "rtol": 0.1}, {"atol": 1, "min_psnr": 20}, {"atol": 1, "max_off": 1}):
        options = tuple(text for name, limit in limits.items() for text in (f"--{name.replace('_', '-')}", limit))
        assert invoke(main, trained_run, "--out", tmp_path, *options).code == 0
        sidecar = read_sidecar(tmp_path / NAME)
        assert sidecar is not None
        nothing = {"atol": None, "rtol": 0, "min_psnr": None, "max_off": None}
        assert sidecar.verification["tolerance"] == nothing | limits


def test_an_absolute_tolerance_of_zero_leaves_the_relative_one(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, fast_export: Callable[..., None]
) -> None:
    fast_export(add_to_bias)
    assert invoke(main, trained_run, "--out", tmp_path, "--atol", 0, "--rtol", 0.1).code == 0


def test_the_reference_is_not_the_generator_that_was_exported(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(source: Path) -> Any:
        loaded = load_checkpoint(source)
        bias = loaded.generator.body.head.bias
        assert bias is not None
        bias.data += 0.05
        return loaded

    monkeypatch.setattr(pipeline, "load_checkpoint", load)
    assert "is not the trained model" in invoke(main, trained_run, "--out", tmp_path).error(1)
    assert files(tmp_path) == []


def test_the_reference_is_the_checkpoint_as_it_lies_on_disk(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, exported_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")

    def write_and_alter(generator: Any, spec: ModelSpec, path: Path, *_: object) -> None:
        shutil.copy(exported_onnx, path)
        alter_checkpoint(run)

    monkeypatch.setattr(pipeline, "export_onnx", write_and_alter)
    assert "changed after training" in invoke(main, run, "--out", tmp_path / "out").error(1)
    assert files(tmp_path / "out") == []


def alter_checkpoint(run: Path) -> None:
    """Change a weight and keep the contract."""
    path = run / "checkpoints" / "best.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["body.head.bias"][0] += 1e-3
    save_file(tensors, path, metadata)


def test_an_altered_checkpoint_is_not_exported(invoke: Callable[..., Any], trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    alter_checkpoint(run)
    assert "changed after training" in invoke(main, run, "--out", tmp_path / "out").error(1)
    assert not (tmp_path / "out").exists() or files(tmp_path / "out") == []


# --verify


def test_a_good_artefact_is_confirmed_and_nothing_written(
    invoke: Callable[..., Any], trained_run: Path, copied: Path
) -> None:
    before = {path: path.read_bytes() for path in copied.parent.iterdir()}
    result = invoke(main, trained_run, "--verify", copied)
    assert result.code == 0
    assert f"{copied}: agrees with the trained model" in result.err
    assert {path: path.read_bytes() for path in copied.parent.iterdir()} == before


def test_a_changed_weight_without_a_sidecar_is_found_by_running_it(
    invoke: Callable[..., Any], trained_run: Path, copied: Path
) -> None:
    sidecar_path(copied).unlink()
    assert invoke(main, trained_run, "--verify", copied).code == 0
    alter(copied, add_to_bias)
    assert "is not the trained model" in invoke(main, trained_run, "--verify", copied).error(1)
    assert "is not the trained model" in invoke(main, trained_run, "--verify", copied, "--atol", 1e-3).error(1)
    assert invoke(main, trained_run, "--verify", copied, "--atol", 0.1).code == 0
    assert invoke(main, trained_run, "--verify", copied, "--atol", 1e-9, "--rtol", 0.1).code == 0


def test_one_changed_byte_is_found_by_the_sidecar(invoke: Callable[..., Any], trained_run: Path, copied: Path) -> None:
    content = bytearray(copied.read_bytes())
    content[len(content) // 2] ^= 1
    copied.write_bytes(content)
    assert "changed since its export" in invoke(main, trained_run, "--verify", copied, "--atol", 1).error(1)


def test_weights_that_are_no_numbers_fail_with_one_line(
    invoke: Callable[..., Any], trained_run: Path, copied: Path
) -> None:
    def break_bias(model: ModelProto) -> None:
        (bias,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("head.bias")]
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32("nan"), bias.name))

    sidecar_path(copied).unlink()
    alter(copied, break_bias)
    assert NAME in invoke(main, trained_run, "--verify", copied).error(1)


@pytest.mark.slow
def test_the_run_trained_on_is_another_model(
    invoke: Callable[..., Any],
    trained_run: Path,
    photo_folder: Path,
    copied: Path,
    tmp_path: Path,
    tiny_options: tuple[str, ...],
) -> None:
    from cgan.cli import main as train

    run = shutil.copytree(trained_run, tmp_path / "run")
    options = (*tiny_options, "--lr", 0.005, "--epochs", 3, "--resume")
    assert invoke(train, photo_folder, "--out", run, *options).code == 0
    assert "comes from other weights" in invoke(main, run, "--verify", copied).error(1)


# refusals


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--out", "out", "--format", "pdf"],
        ["run", "--out", "out", "--precision", "fp8"],
        ["run", "--out", "out", "--atol", "little"],
        ["run", "--out", "out", "--rtol", "much"],
        ["run", "--out", "out", "--nonsense"],
        ["run", "--out", __file__],
    ],
)
def test_a_command_line_that_is_none_exits_2(invoke: Callable[..., Any], arguments: list[str]) -> None:
    result = invoke(main, *arguments)
    assert result.code == 2
    assert "Error: " in result.err
    assert "Traceback" not in result.err


def test_sources_that_are_no_checkpoints_are_refused(
    invoke: Callable[..., Any], trained_run: Path, exported_onnx: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "found no such file" in invoke(main, tmp_path / "nowhere", "--out", out).error(2)
    assert "found no such file" in invoke(main, tmp_path, "--out", out).error(2)
    (tmp_path / "model.pth").write_bytes(b"\x80\x04N.")
    assert "pickled ones are not loaded" in invoke(main, tmp_path / "model.pth", "--out", out).error(2)
    training_state = trained_run / "checkpoints" / "last.training.safetensors"
    assert "expected a checkpoint; give last.safetensors" in invoke(main, training_state, "--out", out).error(2)
    assert not out.exists()
    assert "found no such file" in invoke(main, trained_run, "--verify", tmp_path / "nothing.onnx").error(2)
    assert "found no such file" in invoke(main, tmp_path / "nowhere", "--verify", exported_onnx).error(2)


def test_a_folder_that_cannot_be_written_is_said(invoke: Callable[..., Any], trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in invoke(main, trained_run, "--out", tmp_path / "file" / "out").error(2)


def test_a_full_disk_is_a_failure_not_a_wrong_request(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(generator: Any, spec: ModelSpec, path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "export_onnx", fill)
    assert "No space left" in invoke(main, trained_run, "--out", tmp_path).error(1)
    assert files(tmp_path) == []


def test_missing_packages_are_named_with_the_extra(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(export, "artefact")
    monkeypatch.setitem(sys.modules, "export.artefact", None)
    assert "pip install 'cgan[export]'" in invoke(main, trained_run, "--out", tmp_path).error(2)


def test_help_and_version(invoke: Callable[..., Any]) -> None:
    for option in ("-h", "--help"):
        result = invoke(main, option)
        assert result.code == 0
        for parameter in command.params:
            assert all(name in result.out for name in parameter.opts if name.startswith("-"))
    result = invoke(main, "--version")
    assert (result.code, result.out) == (0, f"cgan-export, version {cgan.__version__}\n")


@pytest.mark.parametrize("option", ["--atol", "--rtol"])
@pytest.mark.parametrize("value", ["inf", "nan", "-1", "2"])
def test_a_tolerance_that_would_pass_everything_is_refused(tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["run", "--out", str(tmp_path / "out"), option, value])
    assert end.value.code == 2
    assert not (tmp_path / "out").exists()
