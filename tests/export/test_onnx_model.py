"""The ONNX file: its contract, its contents, and what it computes."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto

from cgan import __version__
from cgan.checkpoint import load_generator
from cgan.spec import METADATA_KEY, ModelSpec
from export.onnx_model import OPSET, export_onnx

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
    content = exported_onnx.read_bytes()
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
