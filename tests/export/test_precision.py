"""int8 files: what is quantised and how, and what the result computes."""

import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from cgan.networks import Generator, count_parameters
from cgan.spec import METADATA_KEY, ModelSpec
from cgan.training.checkpoint import load_generator
from export.calibration import calibration_batches
from export.onnx_model import export_onnx, inspect_onnx
from export.quantize import TARGETS, quantize_int8

ROOT = Path(__file__).parent.parent.parent
Floats = NDArray[np.float32]
Files = dict[str, Path]

CPUINFO = Path("/proc/cpuinfo")
HAS_VNNI = "vnni" in CPUINFO.read_text() if CPUINFO.exists() else True


def run(model: ModelProto | Path, gray: Floats) -> Floats:
    """Output of ONNX Runtime for a model with one input and one output."""
    content = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    answer: Floats = session.run(None, {session.get_inputs()[0].name: gray})[0]
    return answer


def psnr(found: Floats, expected: Floats) -> float:
    return float(-10 * np.log10(np.square(found.astype(np.float64) - expected).mean()))


def constants(model: ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def node_types(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.fixture(scope="module")
def spec(trained_run: Path) -> ModelSpec:
    return load_generator(trained_run)[1]


@pytest.fixture(scope="module")
def gray(photo_folder: Path) -> Floats:
    return calibration_batches(photo_folder, 32).gray


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, exported_onnx: Path, spec: ModelSpec, gray: Floats) -> Files:
    """`trained_run` in int8, by target."""
    folder = tmp_path_factory.mktemp("int8")
    files: dict[str, Path] = {target: folder / f"{target}.onnx" for target in TARGETS}
    for target in TARGETS:
        quantize_int8(exported_onnx, spec, gray[:8], target, files[target])
    return files


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory, spec: ModelSpec, gray: Floats) -> Files:
    """Files of an untrained generator of two blocks and a blur: "fp32" and those of both targets, of dynamic size."""
    torch.manual_seed(1)
    generator = Generator(2, 4, blocks=2, input_blur=1.0)
    with torch.no_grad():
        generator(torch.from_numpy(gray))  # so that batch norm knows the range of activations
    folder = tmp_path_factory.mktemp("dynamic")
    files = {name: folder / f"{name}.onnx" for name in ("fp32", *TARGETS)}
    count = count_parameters(generator)
    spec = replace(spec, color_space="hsv", parameters=count, blocks=2, input_blur=1.0, dynamic_size=True)
    export_onnx(generator.eval(), spec, files["fp32"])
    for target in TARGETS:
        quantize_int8(files["fp32"], spec, gray, target, files[target])
    return files


@pytest.mark.parametrize("target", TARGETS)
def test_int8_looks_like_fp32_on_other_photos(quantized: Files, exported_onnx: Path, gray: Floats, target: str) -> None:
    others = gray[8:]
    expected, found = run(exported_onnx, others), run(quantized[target], others)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    # Without VNNI sums of two products saturate in 16 bits. Above 80 dB it would be float.
    least = 35 if HAS_VNNI else 30
    assert least < psnr(found, expected) < 80


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 1, 64, 32), (2, 1, 48, 80)])
@pytest.mark.slow
def test_int8_takes_any_batch_and_size(dynamic: Files, target: str, shape: tuple[int, ...]) -> None:
    smooth = np.random.default_rng(3).random((shape[0], 1, 4, 4), np.float32)
    x = torch.nn.functional.interpolate(torch.from_numpy(smooth), shape[2:], mode="bicubic").clamp(0, 1).numpy()
    expected, found = run(dynamic["fp32"], x), run(dynamic[target], x)
    assert found.shape == (shape[0], 3, *shape[2:])
    assert psnr(found, expected) > 30
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_is_ours_and_self_contained(quantized: Files, spec: ModelSpec, target: str) -> None:
    model = onnx.load(quantized[target], load_external_data=False)
    onnx.checker.check_model(quantized[target], full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata.keys() == {METADATA_KEY}
    assert ModelSpec.from_metadata(metadata, "file") == replace(spec, precision="int8")
    assert model.producer_name == "cgan-export"
    assert {node.domain for node in model.graph.node} == {""}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # weights, whose bytes can look like anything
    content = model.SerializeToString()
    for trace in (str(ROOT), tempfile.gettempdir(), ".py", "onnx.quant"):
        assert trace.encode() not in content, trace


def test_activations_are_as_each_target_wants_them(quantized: Files) -> None:
    for target, dtype in (("cpu", np.uint8), ("tensorrt", np.int8)):
        model = onnx.load(quantized[target])
        values = constants(model)
        zeros = [values[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
        assert zeros
        assert {zero.dtype for zero in zeros} == {np.dtype(dtype)}
        assert {zero.shape for zero in zeros} == {()}
        padded = [node.input[0] for node in model.graph.node if node.op_type == "Pad"]
        # The CPU's pads take integers, but for that of the last convolution, which is float.
        assert sum("Dequant" in name for name in padded) == (0 if target == "cpu" else len(padded) - 3)
        # Around zero for TensorRT; of the CPU's those with negative values lie elsewhere, which uses the range better.
        assert any(zero for zero in zeros) == (target == "cpu")


@pytest.mark.parametrize(("target", "largest"), [("cpu", 64), ("tensorrt", 127)])
def test_weights_are_symmetric_per_output_channel(quantized: Files, target: str, largest: int) -> None:
    model = onnx.load(quantized[target])
    values = constants(model)
    weights = [
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in values and values[node.input[0]].ndim == 4
    ]
    assert len(weights) == 14  # 10 convolutions and 4 transposed ones
    for node in weights:
        kernel, scale, zero = (values[name] for name in node.input)
        assert kernel.dtype == zero.dtype == np.int8
        assert scale.shape == zero.shape == (len(kernel),)
        assert not zero.any()
        # Every channel uses the whole range, unless its bias asked for a coarser scale.
        assert np.median(np.abs(kernel.astype(int)).max(axis=(1, 2, 3))) == np.abs(kernel.astype(int)).max() == largest


def float_convolutions(model: ModelProto) -> list[tuple[int, ...]]:
    values = constants(model)
    return [values[n.input[1]].shape for n in model.graph.node if n.op_type == "Conv" and n.input[1] in values]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.slow
def test_the_first_convolutions_and_the_head_stay_float(quantized: Files, dynamic: Files, target: str) -> None:
    model = onnx.load(quantized[target])
    stem, block = (4, 1, 3, 3), (4, 4, 3, 3)
    # The CPU's head is the sum of two, one for each half of what it reads.
    heads = {"cpu": [4, 4], "tensorrt": [8]}[target]
    assert float_convolutions(model) == [
        stem,
        (8, 4, 4, 4),
        (8, 8, 3, 3),
        (16, 8, 4, 4),
        *((3, n, 1, 1) for n in heads),
    ]
    blur = [(1, 1, 1, 7), (1, 1, 7, 1)]
    of_two_blocks = [*blur, stem, block, (8, 4, 4, 4), (8, 8, 3, 3), *((2, n, 1, 1) for n in heads)]
    assert float_convolutions(onnx.load(dynamic[target])) == of_two_blocks
    assert "ConvTranspose" not in node_types(model)
    head = next(node for node in model.graph.node if node.op_type == "Sigmoid").input[0]
    logits = next(node for node in model.graph.node if node.output[0] == head)
    assert logits.op_type == {"cpu": "Add", "tensorrt": "Conv"}[target]


@pytest.mark.slow
def test_the_conversion_to_rgb_stays_float(dynamic: Files) -> None:
    for target in TARGETS:
        nodes = list(onnx.load(dynamic[target]).graph.node)
        sigmoid = next(index for index, node in enumerate(nodes) if node.op_type == "Sigmoid")
        assert len(nodes) - sigmoid > 20  # that is the conversion
        assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in nodes[sigmoid:]}


def test_onnxruntime_runs_the_body_on_integers(quantized: Files, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns that such a file is for this machine alone
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(quantized["cpu"], options, providers=["CPUExecutionProvider"])
    found = node_types(onnx.load(tmp_path / "optimized.onnx"))
    assert found.count("QLinearConv") == 14
    assert found.count("Conv") == 6
    assert "DepthToSpace" not in found


def test_tensorrt_takes_the_file_for_tensorrt(quantized: Files) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(quantized["tensorrt"].read_bytes()), parser.get_error(0)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    integers = [layer for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    fed = {layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE}
    assert sum(layer.get_input(0).name in fed for layer in integers) == 14
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("gray", (1, 1, 32, 32), (2, 1, 32, 32), (4, 1, 32, 32))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


@pytest.mark.slow
def test_about_one_byte_a_parameter(tmp_path: Path, spec: ModelSpec, gray: Floats) -> None:
    torch.manual_seed(0)
    generator = Generator(3, 16).eval()
    spec = replace(spec, base_width=16, parameters=count_parameters(generator))
    export_onnx(generator, spec, tmp_path / "fp32.onnx")
    for target in TARGETS:
        quantize_int8(tmp_path / "fp32.onnx", spec, gray, target, tmp_path / "int8.onnx")
        assert 1 < (tmp_path / "int8.onnx").stat().st_size / spec.parameters < 1.07


def test_ranges_hold_what_every_calibration_photo_needs(
    tmp_path: Path, exported_onnx: Path, spec: ModelSpec, gray: Floats
) -> None:
    def scales(calibration: Floats) -> NDArray[np.float32]:
        path = tmp_path / "int8.onnx"
        quantize_int8(exported_onnx, spec, calibration, "tensorrt", path)
        model = onnx.load(path)
        values = constants(model)
        return np.array([values[n.input[1]] for n in model.graph.node if n.op_type == "QuantizeLinear"])

    flat = np.full((12, 1, 32, 32), 0.5, np.float32)
    odd_one = gray[:1]
    of_flat, of_odd = scales(flat), scales(odd_one)
    assert np.mean(of_flat < 0.9 * of_odd) > 0.5
    np.testing.assert_allclose(
        scales(np.concatenate([flat, odd_one, flat])), np.maximum(of_flat, of_odd), rtol=1e-4, atol=0
    )


def test_nothing_is_left_behind_and_nothing_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    exported_onnx: Path,
    spec: ModelSpec,
    gray: Floats,
) -> None:
    folders = {name: tmp_path / name for name in ("source", "temporary", "here", "out")}
    for folder in folders.values():
        folder.mkdir()
    (folders["source"] / "fp32.onnx").write_bytes(exported_onnx.read_bytes())
    monkeypatch.setattr(tempfile, "tempdir", str(folders["temporary"]))
    monkeypatch.chdir(folders["here"])
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # as in a command; pytest adds its own
    capfd.readouterr()
    quantize_int8(folders["source"] / "fp32.onnx", spec, gray, "cpu", folders["out"] / "int8.onnx")
    assert capfd.readouterr() == ("", "")
    assert root.handlers == []
    assert root.manager.disable == logging.NOTSET
    left = [path.name for folder in folders.values() for path in folder.iterdir()]
    assert sorted(left) == ["fp32.onnx", "int8.onnx"]
    assert (folders["source"] / "fp32.onnx").read_bytes() == exported_onnx.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "gpu"}, "'gpu', expected one of cpu, tensorrt"),
        (
            {"calibration": np.zeros((8, 1, 48, 32), np.float32)},
            r"\(8, 1, 48, 32\), the model takes \['N', 1, 32, 32\]",
        ),
        ({"calibration": np.zeros((8, 32, 32), np.float32)}, r"\(8, 32, 32\)"),
        ({"calibration": np.zeros((0, 1, 32, 32), np.float32)}, r"\(0, 1, 32, 32\)"),
    ],
)
def test_wrong_requests_are_refused(
    tmp_path: Path, exported_onnx: Path, spec: ModelSpec, gray: Floats, change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"calibration": gray, "target": "cpu"} | change
    with pytest.raises(ValueError, match=message):
        quantize_int8(exported_onnx, spec, **arguments, path=tmp_path / "int8.onnx")
    assert not list(tmp_path.iterdir())


def test_an_int8_file_is_not_quantised_again(tmp_path: Path, quantized: Files, spec: ModelSpec, gray: Floats) -> None:
    with pytest.raises(ValueError, match="expected an fp32 file"):
        quantize_int8(quantized["cpu"], spec, gray, "cpu", tmp_path / "again.onnx")


WRITE = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from cgan.training.checkpoint import load_generator
from export.onnx_model import export_onnx
from export.quantize import quantize_int8

run, fp32, gray, out = map(Path, sys.argv[1:])
out.mkdir()
generator, spec = load_generator(run)
export_onnx(generator, replace(spec, precision="fp16"), out / "fp16.onnx")
for target in ("cpu", "tensorrt"):
    quantize_int8(fp32, spec, np.load(gray), target, out / f"{target}.onnx")
"""


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(
    tmp_path: Path, quantized: Files, exported_onnx: Path, trained_run: Path, gray: Floats
) -> None:
    np.save(tmp_path / "gray.npy", gray[:8])
    generator, spec = load_generator(trained_run)
    export_onnx(generator, replace(spec, precision="fp16"), tmp_path / "fp16.onnx")
    ended = subprocess.run(
        [sys.executable, "-c", WRITE, trained_run, exported_onnx, tmp_path / "gray.npy", tmp_path / "out"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    expected = {path.name: path.read_bytes() for path in (*quantized.values(), tmp_path / "fp16.onnx")}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected


@pytest.mark.parametrize("target", TARGETS)
def test_facts_about_an_int8_file(quantized: Files, target: str) -> None:
    facts = inspect_onnx(quantized[target])
    nodes = node_types(onnx.load(quantized[target]))
    assert facts["quantize_nodes"] == nodes.count("QuantizeLinear") > 20
    assert facts["dequantize_nodes"] == nodes.count("DequantizeLinear") > facts["quantize_nodes"]
    # The CPU's head is two, and its interleaving is made of other nodes.
    assert facts["precision"]["Conv"] == {"float32": 6 if target == "cpu" else 5, "int8": 14}
    assert facts["precision"].get("DepthToSpace") == {"cpu": None, "tensorrt": {"int8": 4}}[target]
    assert facts["precision"]["Pad"] == {"float32": 3, "int8": 7}
    assert facts["precision"]["Sigmoid"] == {"float32": 1}
    others = {"cpu": {"int8": 4}, "tensorrt": {"float32": 5}}
    assert facts["precision"]["Concat"] == others[target]
    assert 0.98 < facts["weight_share"]["int8"] < 1
    assert sum(facts["weight_share"].values()) == pytest.approx(1)
