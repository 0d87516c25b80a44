"""Transposed convolutions as convolutions and a rearrangement of their channels, as int8 files have them."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from export.quantize import rewrite_transposed_convolutions


def answers(model: ModelProto, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """All outputs of a model whose input is x."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, {"x": x})
    return found


def node_types(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def doubling_model(activation: str | None = None, bias: bool = True) -> ModelProto:
    """x, N x 3 x h x w, through one transposed convolution to 5 channels and an activation."""
    random = np.random.default_rng(0)
    weights = {"kernel": random.standard_normal((3, 5, 4, 4)), "bias": random.standard_normal(5)}
    inputs = ["x", "kernel", *(["bias"] if bias else [])]
    nodes = [helper.make_node("ConvTranspose", inputs, ["y"], "up", strides=[2, 2], pads=[1, 1, 1, 1])]
    if activation:
        alpha: dict[str, Any] = {"alpha": 0.3} if activation == "LeakyRelu" else {}
        nodes.append(helper.make_node(activation, ["y"], ["z"], "act", **alpha))
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, "h", "w"])
    out = helper.make_tensor_value_info("z" if activation else "y", onnx.TensorProto.FLOAT, ["N", 5, None, None])
    tensors = [numpy_helper.from_array(weights[name].astype(np.float32), name) for name in inputs[1:]]
    graph = helper.make_graph(nodes, "doubling", [x], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, "Relu", "LeakyRelu"])
def test_the_rewrite_computes_the_same_at_any_size_and_batch(activation: str | None, bias: bool) -> None:
    model = doubling_model(activation, bias)
    before = model.SerializeToString()
    rewritten = rewrite_transposed_convolutions(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(rewritten, full_check=True)
    assert node_types(rewritten) == ["Conv", *([activation] if activation else []), "DepthToSpace", "Slice"]
    assert {"kernel", "bias"}.isdisjoint(tensor.name for tensor in rewritten.graph.initializer)
    for shape in [(1, 3, 1, 1), (1, 3, 3, 5), (3, 3, 4, 7), (2, 3, 6, 2)]:
        x = np.random.default_rng(1).standard_normal(shape, np.float32)
        (expected,) = answers(model, x)
        assert expected.shape == (shape[0], 5, 2 * shape[2], 2 * shape[3])
        np.testing.assert_allclose(answers(rewritten, x)[0], expected, rtol=0, atol=1e-5)


def test_an_activation_stays_where_others_read_its_input() -> None:
    model = doubling_model("Relu")
    model.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 5, None, None]))
    rewritten = rewrite_transposed_convolutions(model)
    assert node_types(rewritten) == ["Conv", "DepthToSpace", "Slice", "Relu"]
    x = np.random.default_rng(1).standard_normal((1, 3, 2, 3), np.float32)
    for expected, found in zip(answers(model, x), answers(rewritten, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("strides", [1, 1]), ("pads", [0, 0, 0, 0]), ("output_padding", [1, 1]), ("dilations", [2, 2])]
)
def test_other_transposed_convolutions_stay(name: str, value: Any) -> None:
    model = doubling_model()
    (node,) = model.graph.node
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    node.ClearField("attribute")
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    assert node_types(rewrite_transposed_convolutions(model)) == ["ConvTranspose"]
