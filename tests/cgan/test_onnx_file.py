"""Detection of model parts outside an ONNX file, wherever ONNX allows them, without the package onnx."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cgan.errors import UserError
from cgan.onnx_file import check_self_contained, read_onnx

PATH = Path("model.onnx")


def tensor(name: str = "w") -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0])


def outside(by_location: bool = True) -> TensorProto:
    """A tensor whose data lie in another file."""
    made = tensor()
    made.ClearField("float_data")
    made.external_data.add(key="location", value="weights.bin")
    if by_location:
        made.data_location = TensorProto.EXTERNAL
    return made


def model(nodes: list[onnx.NodeProto] | None = None, constants: list[TensorProto] | None = None) -> onnx.ModelProto:
    made = helper.make_model(helper.make_graph(nodes or [], "g", [], [], constants or []))
    made.metadata_props.add(key="a", value="b")
    return made


def in_initializer(part: TensorProto) -> onnx.ModelProto:
    return model(constants=[tensor(), part])


def in_constant(part: TensorProto) -> onnx.ModelProto:
    return model([helper.make_node("Constant", [], ["c"], value=part)])


def in_list(part: TensorProto) -> onnx.ModelProto:
    return model([helper.make_node("Own", [], ["c"], domain="own", values=[tensor(), part])])


def in_sparse_initializer(part: TensorProto) -> onnx.ModelProto:
    made = model()
    made.graph.sparse_initializer.add().indices.CopyFrom(part)
    return made


def in_sparse_constant(part: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.values.CopyFrom(part)
    return model([node])


def in_branch(part: TensorProto) -> onnx.ModelProto:
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=part)], "then", [], [])
    inner = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=branch)], "outer", [], [])
    return model([helper.make_node("Scan", ["x"], ["y"], bodies=[inner])])


def in_function(part: TensorProto) -> onnx.ModelProto:
    made = model()
    node = helper.make_node("Constant", [], ["c"], value=part)
    made.functions.append(helper.make_function("own", "F", [], ["c"], [node], []))
    return made


def in_default_of_function(part: TensorProto) -> onnx.ModelProto:
    made = model()
    made.functions.add(name="F", domain="own").attribute_proto.append(helper.make_attribute("a", part))
    return made


def in_training(part: TensorProto) -> onnx.ModelProto:
    made = model()
    made.training_info.add().algorithm.initializer.append(part)
    return made


PLACES: list[Callable[[TensorProto], onnx.ModelProto]] = [
    in_initializer,
    in_constant,
    in_list,
    in_sparse_initializer,
    in_sparse_constant,
    in_branch,
    in_function,
    in_default_of_function,
    in_training,
]


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_refused_wherever_it_stands(
    place: Callable[[TensorProto], onnx.ModelProto],
) -> None:
    check_self_contained(place(tensor()).SerializeToString(), PATH)
    for by_location in (True, False):
        with pytest.raises(UserError, match=r"^model\.onnx: found a tensor whose data lie in another file") as refused:
            check_self_contained(place(outside(by_location)).SerializeToString(), PATH)
        assert "\n" not in str(refused.value)


def test_an_engine_in_place_of_a_graph_is_refused() -> None:
    node = helper.make_node("EPContext", [], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="a.engine")
    with pytest.raises(UserError, match="an engine in place of a graph"):
        check_self_contained(model([node]).SerializeToString(), PATH)


@pytest.mark.parametrize(
    "content", [b"", b"no model", b"<?xml version='1.0'?>", b"\x08\x08", b"\x3a\xff\xff\xff\xff\x7f"]
)
def test_other_content_is_no_onnx_file(content: bytes) -> None:
    with pytest.raises(UserError, match="not an ONNX file, or a damaged one"):
        check_self_contained(content, PATH)


@given(st.integers(0, 400))
def test_a_file_that_is_cut_off_is_refused_or_has_lost_whole_fields(length: int) -> None:
    content = in_initializer(outside()).SerializeToString()
    try:
        check_self_contained(content[:length], PATH)
    except UserError:
        return
    onnx.load_model_from_string(content[:length])  # protobuf takes it too


def test_the_content_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(in_initializer(tensor()).SerializeToString())
    assert read_onnx(path) == path.read_bytes()
    with pytest.raises(UserError, match=r"none\.onnx: cannot be read \(No such file"):
        read_onnx(tmp_path / "none.onnx")
