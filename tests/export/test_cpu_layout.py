"""The arrangement of int8 graphs for processors: the same values; no DepthToSpace, floats or joins left in between."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.cpu_layout import MOVES, arrange_for_cpu

Floats = NDArray[np.float32]
Tensors = dict[str, NDArray[Any] | np.generic]
SCALES: Tensors = {
    "scale": np.float32(0.02),
    "zero": np.uint8(50),
    "same_scale": np.float32(0.02),
    "same_zero": np.uint8(50),
}


def model_of(nodes: list[onnx.NodeProto], channels: int, tensors: Tensors) -> ModelProto:
    """x, N x channels x h x w, to y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None, None, None])
    constants = [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()]
    graph = helper.make_graph(nodes, "graph", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def between(moves: list[onnx.NodeProto], scale: str, zero: str) -> list[onnx.NodeProto]:
    """x in integers; each move, from a to b, between DQ and Q of its own; y."""
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q0"])]
    for number, move in enumerate(moves):
        move.input[0], move.output[0] = f"a{number}", f"b{number}"
        nodes += [
            helper.make_node("DequantizeLinear", [f"q{number}", "scale", "zero"], [f"a{number}"]),
            move,
            helper.make_node("QuantizeLinear", [f"b{number}", scale, zero], [f"q{number + 1}"]),
        ]
    return [*nodes, helper.make_node("DequantizeLinear", [f"q{len(moves)}", scale, zero], ["y"])]


def moving_model(scale: str = "same_scale", zero: str = "same_zero", other: float = 0.02) -> ModelProto:
    """The doubling's moves of integers, from 12 channels to 3."""
    moves = [
        helper.make_node("DepthToSpace", ["a"], ["b"], "up", blocksize=2, mode="DCR"),
        helper.make_node("Slice", ["a", "starts", "ends", "axes"], ["b"], "crop"),
        helper.make_node("Pad", ["a", "pads"], ["b"], "pad", mode="reflect"),
    ]
    borders = {"starts": [1, 1], "ends": [-1, -1], "axes": [2, 3], "pads": [0, 0, 1, 1, 0, 0, 1, 1]}
    tensors = SCALES | {name: np.array(values) for name, values in borders.items()}
    return model_of(between(moves, scale, zero), 12, tensors | {"same_scale": np.float32(other)})


def run(model: ModelProto, x: Floats) -> Floats:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: Floats = session.run(None, {"x": x})[0]
    return answer


def arranged(model: ModelProto) -> ModelProto:
    model = copy.deepcopy(model)
    arrange_for_cpu(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def types(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
def test_moved_integers_are_the_same_at_any_size(batch: int, height: int, width: int, seed: int) -> None:
    model = moving_model()
    x = np.random.default_rng(seed).standard_normal((batch, 12, height, width)).astype(np.float32)
    np.testing.assert_array_equal(run(arranged(model), x), run(model, x))


def test_nothing_between_takes_floats() -> None:
    found = types(arranged(moving_model()))
    assert found.count("QuantizeLinear") == found.count("DequantizeLinear") == 1
    assert "DepthToSpace" not in found
    assert {"Slice", "Pad"} <= set(found)


def test_a_change_of_scale_is_kept() -> None:
    model = moving_model(other=0.05)
    found = arranged(model)
    assert types(found) == types(model)
    x = np.random.default_rng(0).standard_normal((1, 12, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(found, x), run(model, x))


def test_float_moves_stay() -> None:
    nodes = [helper.make_node("DepthToSpace", ["x"], ["y"], "up", blocksize=2, mode="DCR")]
    assert types(arranged(model_of(nodes, 4, {}))) == ["DepthToSpace"]


def joining_model(readers: int = 1, bias: bool = True) -> ModelProto:
    """x and what 1x1 makes of it, joined, through convolutions of which y is the first or their sum."""
    random = np.random.default_rng(0)
    tensors = {"inner": random.standard_normal((2, 3, 1, 1)), "w": random.standard_normal((4, 5, 3, 3))}
    tensors |= {"b": random.standard_normal(4)} if bias else {}
    inputs = ["joined", "w", *(["b"] if bias else [])]
    nodes = [
        helper.make_node("Conv", ["x", "inner"], ["made"], "make"),
        helper.make_node("Concat", ["made", "x"], ["joined"], "join", axis=1),
        *(
            helper.make_node("Conv", inputs, [f"c{i}" if readers > 1 else "y"], f"conv{i}", pads=[1, 1, 1, 1])
            for i in range(readers)
        ),
    ]
    if readers > 1:
        nodes.append(helper.make_node("Sum", [f"c{i}" for i in range(readers)], ["y"]))
    return model_of(nodes, 3, {name: values.astype(np.float32) for name, values in tensors.items()})


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_a_join_is_a_sum_of_two(bias: bool) -> None:
    model = joining_model(bias=bias)
    found = arranged(model)
    assert types(found) == ["Conv", "Conv", "Conv", "Add"]
    assert "w" not in {tensor.name for tensor in found.graph.initializer}
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(run(found, x), run(model, x), rtol=0, atol=1e-5)


def test_a_join_that_others_read_stays() -> None:
    assert types(arranged(joining_model(readers=2))) == types(joining_model(readers=2))


def test_every_move_is_of_a_kind_that_integers_can_do(exported_onnx: Path) -> None:
    assert set(MOVES) == {"DepthToSpace", "Pad", "Slice"}
    model = onnx.load(exported_onnx)
    before = types(model)
    arrange_for_cpu(model)
    assert types(model).count("Conv") == before.count("Conv") + 1  # of floats there is the head alone
