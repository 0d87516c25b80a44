"""Training from an exported file: its generator, and the batch norm that the export folded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from cgan.cli import main
from cgan.errors import ChangedFileError, UserError
from cgan.networks import Generator, GrayToRGB
from cgan.training.checkpoint import load_generator
from cgan.training.exported import load_exported, unfold_batch_norm
from infer.packaged import DEFAULT_MODEL

GRAY = torch.rand(8, 1, 48, 48, generator=torch.Generator().manual_seed(0))


def norms(generator: Generator) -> list[torch.nn.BatchNorm2d]:
    return [layer for layer in generator.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


@torch.no_grad()
def test_it_is_the_generator_that_was_exported(exported_onnx: Path, trained_run: Path) -> None:
    generator, spec = load_exported(exported_onnx)
    trained, trained_spec = load_generator(trained_run)
    assert spec.weights_sha256 == trained_spec.weights_sha256
    assert torch.allclose(generator(GRAY), trained(GRAY), atol=1e-5)


@torch.no_grad()
def test_the_packaged_model_can_be_read_back() -> None:
    generator, spec = load_exported(DEFAULT_MODEL)
    gray = torch.rand(2, 1, spec.render_size, spec.render_size, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(DEFAULT_MODEL), providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {"gray": gray.numpy()})[0])
    assert torch.allclose(GrayToRGB(generator, spec.color_space)(gray), expected, atol=1e-5)


@torch.no_grad()
def test_unfolding_changes_nothing_in_evaluation_and_little_in_training(exported_onnx: Path) -> None:
    generator, _ = load_exported(exported_onnx)
    before = generator(GRAY)
    in_training = generator.train()(GRAY)
    generator, _ = load_exported(exported_onnx)
    unfold_batch_norm(generator, GRAY)
    assert torch.allclose(generator(GRAY), before, atol=1e-5)
    # With the photos that the statistics are of, training is evaluation; folded it would have been another network.
    assert torch.allclose(generator.train()(GRAY), before, atol=1e-4)
    assert not torch.allclose(in_training, before, atol=1e-2)


@torch.no_grad()
def test_batch_norm_has_the_statistics_of_the_photos(exported_onnx: Path) -> None:
    generator, _ = load_exported(exported_onnx)
    unfold_batch_norm(generator, GRAY)
    seen: dict[torch.nn.Module, torch.Tensor] = {}
    for norm in norms(generator):
        norm.register_forward_pre_hook(lambda layer, inputs: seen.update({layer: inputs[0]}))
    generator(GRAY)
    assert len(seen) == len(norms(generator)) == 18
    for norm in norms(generator):
        variance, mean = torch.var_mean(seen[norm], dim=(0, 2, 3), correction=0)
        assert norm.running_mean is not None and norm.running_var is not None
        assert torch.allclose(norm.running_mean, mean, atol=1e-5)
        assert torch.allclose(norm.running_var, variance, atol=1e-5, rtol=1e-3)


@pytest.fixture
def train(
    invoke: Callable[..., Any], photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> Callable[..., Any]:
    """`train(name, *options)`: a tiny run into tmp_path / name."""

    def call(name: str, *options: object) -> Any:
        return invoke(main, photo_folder, "--out", tmp_path / name, *tiny_options, *options)

    return call


@pytest.mark.slow
def test_training_goes_on_from_an_exported_file(
    train: Callable[..., Any], tmp_path: Path, exported_onnx: Path, trained_run: Path
) -> None:
    slow = ("--epochs", 1, "--lr", 1e-7)
    assert train("run", *slow, "--init", exported_onnx).code == 0
    begun, trained = load_generator(tmp_path / "run")[0], load_generator(trained_run)[0]
    with torch.no_grad():  # batch norm is calibrated anew after the epoch
        assert (begun(GRAY) - trained(GRAY)).abs().mean() < 0.02
    assert train("random", *slow).code == 0
    with torch.no_grad():
        assert (load_generator(tmp_path / "random")[0](GRAY) - trained(GRAY)).abs().mean() > 0.04
    result = train("other", "--init", exported_onnx, "--width", 2)
    assert result.code == 2
    assert result.err.endswith("expected --width 4, with which that model was made; leave it out\n")


@pytest.mark.slow
def test_a_resumed_run_goes_on_exactly(
    train: Callable[..., Any], tmp_path: Path, exported_onnx: Path, trained_run: Path
) -> None:
    options = ("--ema", 0.9, "--init", exported_onnx)
    assert train("whole", *options, "--epochs", 2).code == 0
    assert train("parts", *options, "--epochs", 1).code == 0
    assert train("parts", *options, "--epochs", 2, "--resume").code == 0
    whole, parts = (load_generator(tmp_path / name)[1] for name in ("whole", "parts"))
    assert whole.weights_sha256 == parts.weights_sha256
    # Its weights are not those of the run: batch norm was folded, so this is another beginning.
    begun_with = json.loads((tmp_path / "whole" / "config.json").read_text())["init_sha256"]
    assert len(begun_with) == 64
    assert begun_with != load_generator(trained_run)[1].weights_sha256


def changed(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


def rename_weights(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        tensor.name = f"x{tensor.name}"


def shorten_a_bias(model: onnx.ModelProto) -> None:
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("head.bias")]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[:1], bias.name))


def forget_the_contract(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rename_weights, "its weights are not those of a generator"),
        (shorten_a_bias, "its weights are not those of a generator"),
        (forget_the_contract, "no model contract"),
    ],
)
def test_what_is_no_export_of_a_generator_is_refused(
    exported_onnx: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    path = changed(exported_onnx, tmp_path / "model.onnx", change)
    with pytest.raises(UserError, match=reason) as caught:
        load_exported(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path, exported_onnx: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_exported(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match="not an ONNX file, or a damaged one"):
        load_exported(tmp_path / "text.onnx")
    with pytest.raises(UserError, match="found unet in int8, expected a unet in fp32"):
        load_exported(DEFAULT_MODEL.with_name("flowers-int8.onnx"))
    changed = bytearray(exported_onnx.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.onnx").write_bytes(changed)
    shutil.copy(exported_onnx.with_name(exported_onnx.name + ".json"), tmp_path / "changed.onnx.json")
    with pytest.raises(ChangedFileError):
        load_exported(tmp_path / "changed.onnx")
