"""Crafted and damaged models: every command that opens one refuses it in one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cgan.cli import main as train
from cgan.spec import METADATA_KEY, generator_parameters
from cgan.training.checkpoint import weights_digest
from export.cli import main as export
from infer.cli import main as infer

Change = Callable[[ModelProto], object]


def claiming(**claims: Any) -> Change:
    """Change the contract of a model."""

    def change(model: ModelProto) -> None:
        (entry,) = model.metadata_props
        entry.value = json.dumps({**json.loads(entry.value), **claims})

    return change


def sides(model: ModelProto) -> Any:
    return model.graph.input[0].type.tensor_type.shape.dim


def kernel(model: ModelProto) -> Any:
    return next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)


def spoil(model: ModelProto) -> None:
    tensor = kernel(model)
    values = np.full_like(numpy_helper.to_array(tensor), np.nan)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def rename(model: ModelProto) -> None:
    model.graph.input[0].name = "x"
    for node in model.graph.node:
        node.input[:] = ["x" if name == "gray" else name for name in node.input]


def lengthen(model: ModelProto) -> None:
    kernel(model).dims[0] = 2**62


def empty(model: ModelProto) -> None:
    model.graph.ClearField("node")
    model.graph.ClearField("initializer")


def wide(width: int, blocks: int = 1) -> Change:
    return claiming(base_width=width, blocks=blocks, parameters=generator_parameters("rgb", width, blocks))


ONNX_FILES: dict[str, tuple[Change, str]] = {
    "rank 2": (lambda model: sides(model).__delitem__(slice(2, 4)), "expected by its contract gray, float32 N x 1 x"),
    "rank 5": (lambda model: sides(model).add(), "expected by its contract gray"),
    "no shape": (lambda model: model.graph.input[0].ClearField("type"), "unknown shape"),
    "fixed batch": (lambda model: setattr(sides(model)[0], "dim_value", 7), "(7, 1, 32, 32)"),
    "other size": (lambda model: setattr(sides(model)[3], "dim_value", 64), "('N', 1, 32, 64)"),
    "other name": (rename, "'x', type 1"),
    "no weights": (empty, "found convolutions of 0 weights"),
    "2^62 weights": (lengthen, "weights, expected about the 229543 of its contract"),
    "width 10^6": (claiming(base_width=10**6), "base_width 1000000, expected 1 to 512"),
    "blocks 10^5": (claiming(blocks=10**5), "blocks 100000, expected 1 to 64"),
    "width 512": (wide(512), "expected about the "),
    "blocks 64": (wide(4, 64), "expected about the "),
    "size 1.6 x 10^9": (claiming(render_size=16 * 10**8), "render_size 1600000000"),
    "other render size": (claiming(render_size=64), "N x 1 x 64 x 64"),
    "dynamic": (claiming(dynamic_size=True), "N x 1 x H x W"),
    "blur 10^9": (claiming(input_blur=1e9), "input_blur 1000000000.0"),
    "unknown space": (claiming(color_space="\x1b[31m"), r"color_space '\x1b[31m'"),
    "unknown digits": (claiming(weights_sha256="\x1b[31m"), r"weights_sha256 '\x1b[31m'"),
}
"""Changes of an exported model, and a part of the line that refuses it."""


def commands(path: Path, photos: Path, folder: Path) -> list[tuple[Any, list[Any]]]:
    """The commands that open a model."""
    measured = ["--no-fid", "--quiet"]
    shape = ["--width", 4, "--size", 32, "--batch-size", 4, "--device", "cpu", "--no-fid", "--quiet"]
    return [
        (infer, ["info", path]),
        (infer, ["folder", photos, folder / "colored", "--model", path, "--device", "cpu", "--quiet"]),
        (infer, ["parity", path, "--reference", folder / "run", "--data", photos, *measured]),
        (infer, ["evaluate", path, photos, *measured]),
        (train, [photos, "--out", folder / "next", "--init", path, *shape]),
    ]


@pytest.mark.parametrize("name", ONNX_FILES)
@pytest.mark.slow
def test_an_onnx_file_that_belies_its_contract_is_refused_by_every_command(
    name: str, exported_onnx: Path, trained_run: Path, photo_folder: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    change, reason = ONNX_FILES[name]
    model = onnx.load(exported_onnx)
    change(model)
    path = tmp_path / "crafted.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "run").symlink_to(trained_run)
    for main, arguments in [*commands(path, photo_folder, tmp_path), (export, ["--inspect", path])]:
        result = invoke(main, *arguments)
        line = result.error(2)
        assert line.startswith(f"error: {path}: ") and reason in line, line
        assert result.err.count("\n") == 1
        assert "\x1b" not in line


@pytest.mark.parametrize("content", [b"", b"no model " * 99, b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_damaged_onnx_file_is_called_one(
    content: bytes, trained_run: Path, photo_folder: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    (tmp_path / "run").symlink_to(trained_run)
    for main, arguments in [*commands(path, photo_folder, tmp_path), (export, ["--inspect", path])]:
        assert "not an ONNX file, or a damaged one (" in invoke(main, *arguments).error(2)


def change_node(model: ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


@pytest.mark.parametrize(
    "change",
    [
        change_node,
        lambda model: model.graph.initializer.__delitem__(3),
        lambda model: setattr(model.opset_import[0], "version", 9999),
        lambda model: model.graph.node[0].input.__setitem__(0, model.graph.node[3].output[0]),
    ],
)
def test_a_graph_that_no_engine_loads_is_refused_without_the_words_of_the_engine(
    change: Change, exported_onnx: Path, photo_folder: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    model = onnx.load(exported_onnx)
    change(model)
    path = tmp_path / "crafted.onnx"
    path.write_bytes(model.SerializeToString())
    for arguments in (["info", path], ["evaluate", path, photo_folder, "--no-fid", "--quiet"]):
        result = invoke(infer, *arguments)
        assert "or a damaged one (" in result.error(2)
        assert result.err.count("\n") == 1
        assert "ONNXRuntimeError" not in result.err


def test_weights_that_are_no_numbers_fail_a_comparison_and_are_no_beginning(
    exported_onnx: Path, trained_run: Path, photo_folder: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    model = onnx.load(exported_onnx)
    spoil(model)
    path = tmp_path / "crafted.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "run").symlink_to(trained_run)
    _, _, parity, evaluate, init = commands(path, photo_folder, tmp_path)
    assert "cannot be run like the trained model" in invoke(parity[0], *parity[1]).error(1)
    assert "values not finite" in invoke(evaluate[0], *evaluate[1]).error(1)
    assert "weights in body.stem.0.weight that are not finite numbers" in invoke(init[0], *init[1]).error(2)


def crafted_run(source: Path, target: Path, claims: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """Copy a run, with other claims and tensors in its best checkpoint; its digest is true."""
    shutil.copytree(source, target)
    path = target / "checkpoints" / "best.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = {**load_file(path), **tensors}
    spec = {**json.loads(metadata[METADATA_KEY]), "weights_sha256": weights_digest(state), **claims}
    save_file(state, path, {**metadata, METADATA_KEY: json.dumps(spec)})
    return target


HEAD = "body.head.bias"


@pytest.mark.parametrize(
    ("claims", "tensors", "reason"),
    [
        ({"base_width": 10**6}, {}, "base_width 1000000, expected 1 to 512"),
        ({"base_width": 512, "parameters": generator_parameters("rgb", 512, 1)}, {}, "of a unet of width 512"),
        pytest.param(
            {"blocks": 64, "parameters": generator_parameters("rgb", 4, 64)},
            {},
            "with 64 blocks",
            marks=pytest.mark.slow,
        ),
        ({"render_size": 16 * 10**8}, {}, "render_size 1600000000"),
        ({"input_blur": 1e300}, {}, "input_blur 1e+300"),
        ({}, {HEAD: torch.zeros(4)}, "'body.head.bias' is ((4,), 'F32'), expected ((3,), 'F32')"),
        ({}, {HEAD: torch.zeros(3, dtype=torch.complex64)}, "'body.head.bias' is ((3,), 'C64')"),
        ({}, {"other": torch.zeros(1)}, "'other' is ((1,), 'F32'), expected none"),
    ],
)
@pytest.mark.slow
def test_a_run_that_belies_its_contract_is_refused_by_every_command(
    claims: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    reason: str,
    exported_onnx: Path,
    trained_run: Path,
    photo_folder: Path,
    tmp_path: Path,
    invoke: Callable[..., Any],
) -> None:
    path = crafted_run(trained_run, tmp_path / "crafted", claims, tensors)
    (tmp_path / "run").symlink_to(trained_run)
    checkpoint = path / "checkpoints" / "best.safetensors"  # of a run parity takes the one of the model's weights
    reference = ["parity", exported_onnx, "--reference", checkpoint, "--data", photo_folder, "--no-fid", "--quiet"]
    others = [(infer, reference), (export, [path, "--out", tmp_path / "models"])]
    for main, arguments in [*commands(path, photo_folder, tmp_path), *others]:
        assert reason in invoke(main, *arguments).error(2)


def test_a_record_of_no_numbers_is_refused(trained_run: Path, tmp_path: Path, invoke: Callable[..., Any]) -> None:
    path = shutil.copytree(trained_run, tmp_path / "crafted") / "checkpoints" / "best.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    record = json.dumps({"epoch": 1, "metrics": {"test_psnr": {"value": {}}}})
    save_file(load_file(path), path, {**metadata, "cgan.training.checkpoint": record})
    assert "its record of epoch and metrics is damaged" in invoke(infer, "info", tmp_path / "crafted").error(2)


@pytest.mark.parametrize(("name", "limit"), [("m.onnx", 2**31 - 1), ("m.safetensors", 2**34), ("m.plan", 2**34)])
def test_a_file_beyond_the_limit_is_not_read(
    name: str, limit: int, tmp_path: Path, trained_run: Path, photo_folder: Path, invoke: Callable[..., Any]
) -> None:
    path = tmp_path / name
    path.touch()
    os.truncate(path, limit + 1)  # without blocks
    (tmp_path / "run").symlink_to(trained_run)
    *opening, init = commands(path, photo_folder, tmp_path)
    for main, arguments in [*opening, init] if name == "m.onnx" else opening:
        line = invoke(main, *arguments).error(2).replace(",", "")
        assert str(limit + 1) in line and str(limit) in line
