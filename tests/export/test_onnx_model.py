"""The ONNX file: its contract, its contents, and what it computes."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto

from cgan import __version__
from cgan.color import COLOR_TARGETS
from cgan.errors import UserError
from cgan.networks import Generator, GrayToRGB, count_parameters
from cgan.spec import METADATA_KEY, ColorSpaceName, ModelSpec, Precision
from cgan.training.checkpoint import load_generator
from export.onnx_model import OPSET, export_onnx, inspect_onnx

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def model(exported_onnx: Path) -> ModelProto:
    return onnx.load(exported_onnx)


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_one_gray_input_and_one_rgb_output_with_a_dynamic_batch(model: ModelProto) -> None:
    (gray,), (rgb,) = model.graph.input, model.graph.output
    assert (gray.name, rgb.name) == ("gray", "rgb")
    assert dimensions(gray) == ["N", 1, 32, 32]
    assert dimensions(rgb) == ["N", 3, 32, 32]
    assert gray.type.tensor_type.elem_type == rgb.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_the_file_carries_the_contract_of_the_checkpoint(exported_onnx: Path, trained_run: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(exported_onnx).metadata_props}
    assert metadata.keys() == {METADATA_KEY}
    found, trained = ModelSpec.from_metadata(metadata, exported_onnx), load_generator(trained_run)[1]
    assert {k: v for k, v in found.to_json().items() if k != "created_with"} == {
        k: v for k, v in trained.to_json().items() if k != "created_with"
    }
    assert found.created_with.items() >= trained.created_with.items()
    assert {"onnx", "onnxscript"} <= found.created_with.keys()


def test_opset_and_producer(model: ModelProto) -> None:
    (default,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    assert default >= OPSET == 20
    assert {entry.domain for entry in model.opset_import if entry.domain} <= {"ai.onnx", "pkg.onnxscript.torch_lib"}
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert (model.producer_name, model.producer_version) == ("cgan-export", __version__)


def test_the_file_is_self_contained(exported_onnx: Path, model: ModelProto) -> None:
    assert not [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    assert sorted(path.name for path in exported_onnx.parent.iterdir()) == [
        exported_onnx.name,
        f"{exported_onnx.name}.json",
    ]
    onnx.checker.check_model(exported_onnx, full_check=True)


def test_no_local_path_and_no_stack_trace_is_shipped(exported_onnx: Path, model: ModelProto) -> None:
    for part in (model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        assert not part.metadata_props
        assert not part.doc_string
    shipped = onnx.load(exported_onnx)
    for tensor in shipped.graph.initializer:
        tensor.ClearField("raw_data")  # weights, whose bytes can look like anything
    content = shipped.SerializeToString()
    for trace in (str(ROOT), str(Path.home()), sys.prefix, "/root", "/tmp", ".py", "site-packages", "torch.nn"):
        assert len(trace) == 1 or trace.encode() not in content, trace


def test_batch_norm_is_folded_into_the_convolutions(model: ModelProto) -> None:
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnxruntime_computes_what_torch_computes(exported_onnx: Path, trained_run: Path, count: int) -> None:
    gray = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(count))
    session = ort.InferenceSession(exported_onnx, providers=["CPUExecutionProvider"])
    (found,) = session.run(["rgb"], {"gray": gray.numpy()})
    with torch.no_grad():
        expected = load_generator(trained_run)[0](gray).numpy()
    assert found.shape == (count, 3, 32, 32)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5
    assert expected.std() > 0.01  # the comparison is not one of flat gray with flat gray


@pytest.mark.usefixtures("real_exporter")
@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, exported_onnx: Path, trained_run: Path) -> None:
    generator, _ = load_generator(trained_run)
    spec = ModelSpec.from_metadata({e.key: e.value for e in onnx.load(exported_onnx).metadata_props}, "file")
    torch.manual_seed(99)
    export_onnx(generator, spec, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported_onnx.read_bytes()


def test_a_generator_in_training_mode_is_refused(tmp_path: Path, trained_run: Path) -> None:
    generator, spec = load_generator(trained_run)
    with pytest.raises(ValueError, match="training mode"):
        export_onnx(generator.train(), spec, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


# --- half precision, dynamic sizes, the other colour spaces


def overflowing(generator: Generator) -> Generator:
    """The same function in float32, with a running variance that half precision takes for infinite."""
    conv, norm = generator.body.stem[0], generator.body.stem[1]
    assert isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        conv.weight.mul_(2000)
        norm.running_mean *= 2000
        norm.running_var *= 2000**2
        assert norm.running_var.min() > torch.finfo(torch.half).max
    return generator


@pytest.fixture(scope="module")
def networks(trained_run: Path) -> dict[str, tuple[Generator, ModelSpec]]:
    """Generators with the contracts of the files that `files` makes of them."""
    generator, spec = load_generator(trained_run)
    found = {"rgb-fp16": (generator, replace(spec, precision="fp16"))}
    others: tuple[tuple[ColorSpaceName, Precision], ...] = (("rgb", "fp32"), ("ycbcr", "fp16"))
    for color_space, precision in others:
        torch.manual_seed(2)
        generator = Generator(COLOR_TARGETS[color_space].channels, 4)
        with torch.no_grad():
            generator(torch.rand(8, 1, 32, 32))  # so that batch norm knows the range of activations
        count = count_parameters(generator)
        spec = replace(spec, color_space=color_space, precision=precision, parameters=count, dynamic_size=True)
        found[f"{color_space}-{precision}"] = (overflowing(generator.eval()), spec)
    return found


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, networks: dict[str, tuple[Generator, ModelSpec]]
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    before = {name: copy.deepcopy(generator) for name, (generator, _) in networks.items()}
    for name, (generator, spec) in networks.items():
        export_onnx(generator, spec, folder / f"{name}.onnx")
        for kept, now in zip(before[name].state_dict().values(), generator.state_dict().values(), strict=True):
            assert kept.dtype == now.dtype
            assert torch.equal(kept, now)
        assert repr(generator) == repr(before[name])
    return {name: folder / f"{name}.onnx" for name in networks}


def run(path: Path, gray: torch.Tensor) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (rgb,) = session.run(["rgb"], {"gray": gray.numpy()})
    return np.asarray(rgb)


def expected(networks: dict[str, tuple[Generator, ModelSpec]], name: str, gray: torch.Tensor) -> np.ndarray[Any, Any]:
    generator, spec = networks[name]
    with torch.no_grad():
        rgb: np.ndarray[Any, Any] = GrayToRGB(generator, spec.color_space)(gray).numpy()
    return rgb


@pytest.mark.parametrize("name", ["rgb-fp32", "ycbcr-fp16"])
@pytest.mark.slow
def test_a_dynamic_size_is_symbolic_and_a_multiple(files: dict[str, Path], name: str) -> None:
    (gray,), (rgb,) = (getattr(onnx.load(files[name]).graph, side) for side in ("input", "output"))
    assert dimensions(gray) == ["N", 1, "16*h", "16*w"]
    assert dimensions(rgb) == ["N", 3, "16*h", "16*w"]


@pytest.mark.parametrize(("name", "tolerance"), [("rgb-fp32", 1e-5), ("ycbcr-fp16", 0.02)])
@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 1, 32, 80), (2, 1, 96, 48)])
@pytest.mark.slow
def test_any_multiple_of_16_from_32_on_is_computed_as_torch_does(
    files: dict[str, Path],
    networks: dict[str, tuple[Generator, ModelSpec]],
    name: str,
    tolerance: float,
    shape: tuple[int, ...],
) -> None:
    gray = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    found, wanted = run(files[name], gray), expected(networks, name, gray)
    assert found.shape == (shape[0], 3, *shape[2:])
    assert np.abs(found - wanted).max() < tolerance
    assert wanted.std() > 0.01
    assert found.min() >= 0
    assert found.max() <= 1


def test_half_precision_is_close_but_not_equal(
    files: dict[str, Path], networks: dict[str, tuple[Generator, ModelSpec]]
) -> None:
    gray = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    difference = np.abs(run(files["rgb-fp16"], gray) - expected(networks, "rgb-fp16", gray))
    assert 1e-6 < difference.max() < 4e-3
    assert difference.mean() < 5e-4


@pytest.mark.parametrize("name", ["rgb-fp16", "ycbcr-fp16"])
def test_half_precision_is_inside_alone(files: dict[str, Path], name: str) -> None:
    facts = inspect_onnx(files[name])
    assert {value["dtype"] for value in (*facts["inputs"], *facts["outputs"])} == {"float32"}
    assert facts["precision"]["Conv"] == {"float16": 15}
    assert facts["precision"]["ConvTranspose"] == {"float16": 4}
    assert facts["precision"]["Cast"] == {"float16": 1, "float32": 1}
    nodes = list(onnx.load(files[name]).graph.node)
    back = next(index for index, node in enumerate(nodes) if node.op_type == "Cast" and node.attribute[0].i == 1)
    assert {node.op_type for node in nodes[back:]} & {"Conv", "ConvTranspose", "Sigmoid", "Pad"} == set()
    conversion = {node.op_type for node in nodes[back + 1 :]}
    assert bool(conversion) == (name != "rgb-fp16")
    # The conversion takes the luma that came in, not the half one.
    readers = [node.op_type for node in nodes if "gray" in node.input]
    assert len(readers) == (1 if name == "rgb-fp16" else 2)
    assert "BatchNormalization" not in facts["nodes"]


@pytest.mark.slow
def test_four_and_two_bytes_a_parameter(tmp_path: Path, trained_run: Path) -> None:
    generator = Generator(3, 16).eval()
    sizes: dict[Precision, int] = {"fp32": 4, "fp16": 2}
    for precision, size in sizes.items():
        spec = replace(
            load_generator(trained_run)[1], precision=precision, base_width=16, parameters=count_parameters(generator)
        )
        export_onnx(generator, spec, tmp_path / "model.onnx")
        assert (tmp_path / "model.onnx").stat().st_size / spec.parameters == pytest.approx(size, rel=0.01)


def test_the_contract_says_precision_and_sizes(
    files: dict[str, Path], networks: dict[str, tuple[Generator, ModelSpec]]
) -> None:
    for name, path in files.items():
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert ModelSpec.from_metadata(metadata, path) == networks[name][1]


def test_a_render_size_below_the_least_dynamic_one_is_refused(tmp_path: Path, trained_run: Path) -> None:
    generator, spec = load_generator(trained_run)
    with pytest.raises(UserError, match=r"render size 16, .* starts at 32 pixels; leave out --dynamic-size or train"):
        export_onnx(generator, replace(spec, render_size=16, dynamic_size=True), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="fp32 and fp16, not int8"):
        export_onnx(generator, replace(spec, precision="int8"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


# --- facts about a file


def test_facts_about_an_fp32_file(exported_onnx: Path) -> None:
    facts = inspect_onnx(exported_onnx)
    assert facts["inputs"] == [{"name": "gray", "dtype": "float32", "shape": ["N", 1, 32, 32]}]
    assert facts["outputs"] == [{"name": "rgb", "dtype": "float32", "shape": ["N", 3, 32, 32]}]
    assert (facts["dynamic_batch"], facts["dynamic_size"]) == (True, False)
    assert facts["file_bytes"] == exported_onnx.stat().st_size
    assert facts["producer"] == f"cgan-export {__version__}"
    assert facts["opset"] == OPSET
    assert facts["ir_version"] == onnx.load(exported_onnx).ir_version
    assert (facts["nodes"]["Conv"], facts["nodes"]["ConvTranspose"], facts["nodes"]["Concat"]) == (15, 4, 5)
    assert facts["precision"] == {op: {"float32": count} for op, count in facts["nodes"].items()}
    assert facts["weight_share"] == {"float32": 1}
    assert (facts["quantize_nodes"], facts["dequantize_nodes"]) == (0, 0)
    tensors = onnx.load(exported_onnx).graph.initializer
    floats = sum(len(tensor.raw_data) for tensor in tensors if tensor.data_type == onnx.TensorProto.FLOAT)
    assert facts["initializer_bytes"]["float32"] == floats > 0.9 * facts["file_bytes"]


def test_facts_about_a_dynamic_file(files: dict[str, Path]) -> None:
    facts = inspect_onnx(files["rgb-fp32"])
    assert facts["inputs"][0]["shape"] == ["N", 1, "16*h", "16*w"]
    assert (facts["dynamic_batch"], facts["dynamic_size"]) == (True, True)


def test_facts_about_an_fp16_file(files: dict[str, Path]) -> None:
    facts = inspect_onnx(files["rgb-fp16"])
    assert facts["weight_share"] == {"float16": 1}
    assert facts["initializer_bytes"]["float16"] > 0.9 * sum(facts["initializer_bytes"].values())


def test_files_that_are_no_onnx_models(tmp_path: Path) -> None:
    contents = {"missing.onnx": None, "empty.onnx": b"", "text.onnx": b"not a model", "noise.onnx": bytes(range(256))}
    for name, content in contents.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as caught:
            inspect_onnx(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "cgan-export" in str(caught.value)
    with pytest.raises(UserError):
        inspect_onnx(tmp_path)


def test_facts_are_json_values(exported_onnx: Path) -> None:
    facts = inspect_onnx(exported_onnx)
    assert json.loads(json.dumps(facts)) == facts
