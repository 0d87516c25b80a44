"""Static quantisation of an fp32 ONNX file to int8, with Q/DQ nodes for weights and activations.

The head, whose output is the picture, and the first four convolutions, which read it, stay in float. Measured by
`python -m benchmarks int8` (model in the package, 200 photos like those that calibrated it and 60 sharper ones, PSNR
against fp32, speed in one thread of an Intel Xeon): 51.7 and 51.4 dB at 2.1 x the speed of fp32. With three 50.7 and
51.1 dB at 2.3 x; but of another model, stage 10-gan of the model card, the worst of 150 photos then had 33.5 dB, where
`cgan-infer parity` asks for 33, in place of 40.1. With the head and one convolution 46.5 and 47.5 dB at 2.6 x. The last
concatenation, where both ends meet and would share a scale, stays in float without cost.

Ranges are the least and largest values of all calibration photos. Means over batches, or percentiles, gain 1 to 4 dB on
most photos and lose those that stand out, down to 15 dB, because their values are clipped.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cgan.spec import INPUT_CONTRACT, ModelSpec
from export.choices import Int8Target
from export.cpu_layout import arrange_for_cpu
from export.onnx_model import QUANTIZE, write_model

Floats = NDArray[np.float32]

CALIBRATION_BATCH = 8
"""Photos in a batch while ranges are measured; bounds memory."""

FLOAT_CONVOLUTIONS = 4, 1
"""Number of convolutions that stay in float at the input and at the output; the head is the last of them."""

TAPS = ((2, 0), (3, 1))
"""Of a 4x4 kernel of stride 2 and padding 1, what an odd and an even output pixel take from two inputs side by side."""


@dataclass(frozen=True)
class Target:
    """Form of quantisation that an engine runs fast."""

    node_types: tuple[str, ...]
    """Types of nodes that are quantised besides convolutions."""
    symmetric: bool
    """int8 activations around zero point 0, else uint8 ones between their least and largest value."""
    reduce_range: bool
    """Weights of 7 bits."""
    float_outputs: bool
    """Convolutions have integer inputs alone; their bias and output stay float."""
    for_cpu: bool
    """The result is arranged by `export.cpu_layout`."""


TARGETS: dict[Int8Target, Target] = {
    # ONNX Runtime runs a node on integers where DQ nodes come before it and Q nodes after it, so all of the network's
    # nodes have them. CPUs without VNNI add pairs of uint8 x int8 products in 16 bits,
    # saturating; 7-bit weights cannot reach that (2 * 255 * 64 < 2**15), so every CPU computes what was verified on
    # one. That costs 0.3 dB and no time.
    "cpu": Target(
        node_types=("Concat", "DepthToSpace", "LeakyRelu", "Pad", "Relu", "Slice"),
        symmetric=False,
        reduce_range=True,
        float_outputs=False,
        for_cpu=True,
    ),
    # TensorRT fuses a convolution with what follows it up to the next Q node, and refuses int32 biases.
    "tensorrt": Target(
        node_types=("DepthToSpace", "Pad", "Slice"),
        symmetric=True,
        reduce_range=False,
        float_outputs=True,
        for_cpu=False,
    ),
}
"""Form of quantisation for each engine."""


def quantize_int8(
    fp32_onnx: Path,
    spec: ModelSpec,
    calibration: Floats,
    target: Int8Target,
    path: Path,
    float_convolutions: tuple[int, int] = FLOAT_CONVOLUTIONS,
) -> None:
    """Write an int8 version of an fp32 ONNX file: static Q/DQ, weights per output channel, activations per tensor.

    Transposed convolutions become ordinary ones first: ONNX Runtime has no integer kernel for them, and TensorRT has
    mistaken the axis of their scales (NVIDIA/TensorRT#1694), failed to fuse the Q node after them (#2597) and run them
    slower than in fp16 (#1699). The same input and versions give the same bytes.

    Args:
        fp32_onnx: what `export_onnx` wrote.
        spec: its contract; the file that is written carries it with precision int8.
        calibration: photos that set the ranges of activations, N x 1 x H x W in [0, 1]; some dozens are enough. H and
            W as in the file, or any of its sizes where they are dynamic.
        target: one of TARGETS.
        path: the file to write.
        float_convolutions: convolutions that stay in float at the input and at the output, at least 1 each.

    Raises:
        ValueError: an unknown target, no photos or of another shape than the file's input, or not a network of ours.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}, expected one of {', '.join(TARGETS)}")
    source = onnx.load_model(fp32_onnx)
    _check_calibration(calibration, source)
    model = rewrite_transposed_convolutions(source)
    recipe = TARGETS[target]
    quantized = _quantize(model, _quantized_nodes(model, recipe, float_convolutions), calibration, recipe)
    # What the quantiser inferred no longer fits, and every reader infers it anew.
    quantized.graph.ClearField("value_info")
    if recipe.for_cpu:
        arrange_for_cpu(quantized)
    write_model(quantized, replace(spec, precision="int8"), path)


def rewrite_transposed_convolutions(model: ModelProto) -> ModelProto:
    """Replace each 4x4 transposed convolution of stride 2 and padding 1 by an ordinary convolution.

    Each output pixel depends on 2x2 inputs. The inputs and their weights are one of four cases: odd or even row, odd
    or even column. A 2x2 convolution with padding 1 computes the four cases as four times the channels, DepthToSpace
    interleaves them, and a border of one pixel is cut off. A following activation moves before the interleaving,
    where it can be fused with the convolution. Results differ only by rounding.

    Args:
        model: is not changed. Transposed convolutions of other kinds are kept.
    """
    rewritten = ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    activations = {node.input[0]: node for node in graph.node if node.op_type in ("Relu", "LeakyRelu")}
    nodes: list[NodeProto] = []
    moved: set[str] = set()
    for node in graph.node:
        if _doubles_the_size(node, constants):
            activation = activations.get(node.output[0]) if uses[node.output[0]] == 1 else None
            moved.update(activation.output if activation else ())
            nodes += _as_ordinary_convolution(node, activation, constants)
        elif not moved.intersection(node.output):
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.ClearField("initializer")
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in read)
    return onnx.shape_inference.infer_shapes(rewritten, check_type=True, strict_mode=True)


def _doubles_the_size(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Return True if a node is a 4x4 transposed convolution of stride 2 and padding 1, the kind in the U-Net."""
    if node.op_type != "ConvTranspose" or any(name not in constants for name in node.input[1:]):
        return False
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    kernel = list(constants[node.input[1]].dims[2:])
    expected = {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 1, "dilations": [1, 1], "output_padding": [0, 0]}
    usual = {"auto_pad": b"NOTSET", "kernel_shape": kernel, "group": 1, "dilations": [1, 1], "output_padding": [0, 0]}
    return kernel == [4, 4] and usual | found == {"auto_pad": b"NOTSET", "kernel_shape": kernel} | expected


def _as_ordinary_convolution(
    node: NodeProto, activation: NodeProto | None, constants: dict[str, TensorProto]
) -> list[NodeProto]:
    """Return the nodes that replace a transposed convolution, and add their constants to `constants`."""
    kernel = numpy_helper.to_array(constants[node.input[1]])  # channels_in x channels_out x 4 x 4
    cases = [kernel[:, :, rows][:, :, :, columns].swapaxes(0, 1) for rows in TAPS for columns in TAPS]
    name = node.output[0]
    new = {"weight": np.concatenate(cases)}
    if len(node.input) > 2:
        new["bias"] = np.tile(numpy_helper.to_array(constants[node.input[2]]), len(cases))
    new |= {"starts": np.array([1, 1]), "ends": np.array([-1, -1]), "axes": np.array([2, 3])}
    constants |= {f"{name}_{part}": numpy_helper.from_array(values, f"{name}_{part}") for part, values in new.items()}

    weights = [f"{name}_{part}" for part in ("weight", "bias") if part in new]
    nodes = [
        helper.make_node(
            "Conv", [node.input[0], *weights], [f"{name}_cases"], node.name, kernel_shape=[2, 2], pads=[1, 1, 1, 1]
        )
    ]
    output = name
    if activation is not None:
        nodes.append(NodeProto())
        nodes[-1].CopyFrom(activation)
        nodes[-1].input[0], nodes[-1].output[0] = f"{name}_cases", f"{name}_activation"
        output = activation.output[0]
    interleaved, border = f"{name}_interleaved", [f"{name}_{part}" for part in ("starts", "ends", "axes")]
    return [
        *nodes,
        helper.make_node(
            "DepthToSpace", [nodes[-1].output[0]], [interleaved], f"{node.name}_interleave", blocksize=2, mode="DCR"
        ),
        helper.make_node("Slice", [interleaved, *border], [output], f"{node.name}_crop"),
    ]


def _check_calibration(calibration: Floats, model: ModelProto) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    expected = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]
    fits = calibration.ndim == len(expected) and all(
        size == wanted for size, wanted in zip(calibration.shape, expected, strict=True) if isinstance(wanted, int)
    )
    if not fits or not len(calibration):
        raise ValueError(f"calibration has shape {calibration.shape}, the model takes {expected}")


def _quantized_nodes(model: ModelProto, target: Target, float_convolutions: tuple[int, int]) -> list[str]:
    """Names of the nodes to quantise: those between the convolutions at either end that stay in float."""
    nodes = list(model.graph.node)
    # The blur before the network, whose kernels are a row and a column, stays in float and does not count.
    blurs = {kernel.name for kernel in model.graph.initializer if len(set(kernel.dims[2:])) == 2}
    convolutions = [i for i, node in enumerate(nodes) if node.op_type == "Conv" and node.input[1] not in blurs]
    first, last = float_convolutions
    if len(convolutions) <= first + last or any(node.op_type in (QUANTIZE, "Cast") for node in nodes):
        raise ValueError("expected an fp32 file of export_onnx")
    after = nodes[convolutions[-last]]
    # What pads for it, or joins with the first one's output what would share a scale with that, stays in float too.
    end = next(index for index, node in enumerate(nodes) if node.output[0] == after.input[0])
    quantized = nodes[convolutions[first] : end]
    return [node.name for node in quantized if node.op_type in ("Conv", *target.node_types)]


class _Reader:
    """Hands calibration photos to the quantiser, batch by batch; its CalibrationDataReader."""

    def __init__(self, calibration: Floats) -> None:
        starts = range(0, len(calibration), CALIBRATION_BATCH)
        self._batches = iter([calibration[start : start + CALIBRATION_BATCH] for start in starts])

    def get_next(self) -> dict[str, Floats] | None:
        """The next batch as the model's inputs, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {str(INPUT_CONTRACT["name"]): batch}


def _quantize(model: ModelProto, nodes: list[str], calibration: Floats, target: Target) -> ModelProto:
    """Have ONNX Runtime place Q/DQ nodes around `nodes` and quantise their weights."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    options: dict[str, Any] = {
        "ActivationSymmetric": target.symmetric,
        "WeightSymmetric": True,
        "OpTypesToExcludeOutputQuantization": ["Conv"] if target.float_outputs else [],
        "QuantizeBias": not target.float_outputs,
    }
    # It writes beside its input, and leaves a model that it was handed in memory without weights.
    with tempfile.TemporaryDirectory(prefix="cgan-int8-") as folder, _quiet_root_logger():
        source, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save_model(model, source)
        quantize_static(
            source,
            result,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", *target.node_types],
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=target.reduce_range,
            activation_type=QuantType.QInt8 if target.symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=options,
        )
        return onnx.load_model(result)


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Suppress the log of the quantiser, which logs to the root logger and adds a handler to it."""
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
