"""Self-contained ONNX files, gray in and RGB out: export of a generator, and facts about a file."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cgan import __version__
from cgan.errors import UserError
from cgan.networks import Generator, GrayToRGB
from cgan.onnx_file import read_onnx
from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, ModelSpec
from export.build_record import OnnxFacts, TensorFacts
from infer.backends.base import LEAST_MULTIPLES

OPSET = 20
PRODUCER = "cgan-export"

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class HalfGenerator(nn.Module):
    """A generator that computes in half precision between a float32 input and a float32 output.

    The conversion to RGB after it stays in float32, where hue and the clamp lose no accuracy.

    Args:
        generator: of `simplified`, since in half precision a running variance above 65504 is infinite and its channel
            dead; is converted in place.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator.half()

    def forward(self, gray: Tensor) -> Tensor:
        """Colours in [0, 1], N x channels x H x W float32, for luma in [0, 1], N x 1 x H x W float32."""
        colors: Tensor = self.generator(gray.half())
        return colors.float()


def export_onnx(
    generator: Generator, spec: ModelSpec, path: Path, on_step: Callable[[str, str], None] = lambda step, of: None
) -> None:
    """Write the generator as an fp32 or fp16 ONNX file with a dynamic batch and the contract in its metadata.

    Input and output are float32 in either precision. With `spec.dynamic_size`, height and width are symbolic: any
    multiples of `spec.size_multiple`, from `LEAST_MULTIPLES` of them on. The file is self-contained and holds no local
    paths; onnx.checker has accepted it.

    Args:
        generator: in evaluation mode, float32; is not changed.
        spec: its contract, with the precision and the sizes of the file.
        path: the file to write.
        on_step: called with the name of a step that begins, and its object.

    Raises:
        UserError: the render size is below the least dynamic size.
        ValueError: the generator is in training mode, or int8 was asked for, which `quantize_int8` makes.
    """
    if generator.training:
        raise ValueError("the generator is in training mode; batch norm would depend on the batch")
    if spec.precision not in ("fp32", "fp16"):
        raise ValueError(f"export_onnx writes fp32 and fp16, not {spec.precision}")
    on_step("optimise", "batch norm into the convolutions")
    network = simplified(generator)
    size = "any size" if spec.dynamic_size else f"{spec.render_size} x {spec.render_size}"
    on_step("trace", f"{spec.model} of width {spec.base_width}, {spec.color_space}, {spec.precision}, {size}")
    example, dynamic_shape = _example(spec)
    gray, rgb = str(INPUT_CONTRACT["name"]), str(OUTPUT_CONTRACT["name"])
    program = torch.onnx.export(
        GrayToRGB(HalfGenerator(network) if spec.precision == "fp16" else network, spec.color_space).eval(),
        kwargs={gray: example},
        dynamo=True,
        opset_version=OPSET,
        input_names=[gray],
        output_names=[rgb],
        dynamic_shapes={gray: dynamic_shape},
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    write_model(program.model_proto, spec, path)


def write_model(model: ModelProto, spec: ModelSpec, path: Path) -> None:
    """Write a model with its contract as its only metadata, without local paths, once onnx.checker has accepted it."""
    _strip(model)
    model.producer_name, model.producer_version = PRODUCER, __version__
    onnx.helper.set_model_props(model, spec.to_metadata())
    opset = _opset(model) or 0
    if opset < OPSET:
        raise RuntimeError(f"the exporter wrote opset {opset}, expected at least {OPSET}")
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def inspect_onnx(path: Path) -> OnnxFacts:
    """Facts about any ONNX file, as JSON values; nothing of it is run.

    Returns:
        file_bytes, producer, ir_version, opset (of the default domain, None without one);
        inputs, outputs: name, dtype and shape of each, symbolic dimensions by their name;
        dynamic_batch, dynamic_size: whether the first input's dimension 0, and both of 2 and 3, are symbolic;
        nodes: how many of each type;
        precision: for each type that computes, how many nodes of each data type; int8 are those between
        DequantizeLinear (or other int8) and QuantizeLinear nodes, which an engine runs on integers;
        initializer_bytes: bytes of the constants by data type;
        weight_share: share of the values in constants of two or more dimensions by data type, of a sum of 1;
        quantize_nodes, dequantize_nodes: counts.

    Raises:
        UserError: there is no such file, it is not an ONNX model, or a part of the model lies in another file.
    """
    try:
        content = read_onnx(path)
        model = onnx.load_model_from_string(content)
        types = _tensor_types(model)
    except UserError:
        raise
    except Exception as error:  # protobuf, the file system and shape inference raise types of their own
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: not an ONNX file, or a damaged one ({reason}); give a model that cgan-export wrote"
        ) from error
    if not model.graph.node:
        raise UserError(f"{path}: an ONNX file without any node; give a model that cgan-export wrote")
    sizes, weights = Counter[str](), Counter[str]()
    for tensor in model.graph.initializer:
        count = math.prod(tensor.dims)
        sizes[_dtype(tensor.data_type)] += count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        weights[_dtype(tensor.data_type)] += count if len(tensor.dims) > 1 else 0
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [_describe(value) for value in model.graph.input if value.name not in constants]
    shape: list[int | str] = inputs[0]["shape"] if inputs else []
    nodes = Counter(node.op_type for node in model.graph.node)
    return {
        "file_bytes": len(content),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opset": _opset(model),
        "inputs": inputs,
        "outputs": [_describe(value) for value in model.graph.output],
        "dynamic_batch": bool(shape) and not isinstance(shape[0], int),
        "dynamic_size": len(shape) == 4 and not any(isinstance(side, int) for side in shape[2:]),
        "nodes": dict(sorted(nodes.items())),
        "precision": _precision_by_type(model, types),
        "initializer_bytes": dict(sorted(sizes.items())),
        "weight_share": {k: n / weights.total() for k, n in sorted(weights.items()) if n},
        "quantize_nodes": nodes[QUANTIZE],
        "dequantize_nodes": nodes[DEQUANTIZE],
    }


def _example(spec: ModelSpec) -> tuple[Tensor, dict[int, Any]]:
    """Return an example input for the exporter, and its symbolic dimensions."""
    height = width = spec.render_size
    dynamic: dict[int, Any] = {0: torch.export.Dim("N", min=1)}
    if spec.dynamic_size:
        least = LEAST_MULTIPLES * spec.size_multiple
        if height < least:
            raise UserError(
                f"found a model of render size {height}, but a dynamic size starts at {least} pixels; "
                f"leave out --dynamic-size or train with --size {least} or more"
            )
        # Sides of their own, or the exporter would take height and width for one symbol.
        height, width = height + spec.size_multiple, height + 2 * spec.size_multiple
        dynamic |= {
            axis: spec.size_multiple * torch.export.Dim(name, min=LEAST_MULTIPLES)
            for axis, name in ((2, "h"), (3, "w"))
        }
    return torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0)), dynamic


def simplified(generator: Generator) -> Generator:
    """Return a copy that is traced in half the time: batch norm folded into convolutions, no operation in place.

    Args:
        generator: in evaluation mode, float32.
    """
    network = copy.deepcopy(generator)
    for module in network.modules():
        if isinstance(module, nn.LeakyReLU | nn.ReLU):
            module.inplace = False
    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            conv, norm = sequence[index], sequence[index + 1]
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                sequence[index] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
                sequence[index + 1] = nn.Identity()
    return network


def _strip(model: ModelProto) -> None:
    """Remove the exporter's stack traces: they hold local paths, and bytes that differ from run to run."""
    graph = model.graph
    model.ClearField("doc_string")
    graph.ClearField("doc_string")
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _opset(model: ModelProto) -> int | None:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)


def _dtype(element_type: int) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(element_type))


def _describe(value: onnx.ValueInfoProto) -> TensorFacts:
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim]
    return {"name": value.name, "dtype": _dtype(tensor.elem_type), "shape": shape}


def _tensor_types(model: ModelProto) -> dict[str, str]:
    """Data type of each tensor whose type is known, by name."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {tensor.name: _dtype(tensor.data_type) for tensor in graph.initializer} | {
        value.name: _dtype(value.type.tensor_type.elem_type) for value in values if value.type.tensor_type.elem_type
    }


def _precision_by_type(model: ModelProto, types: dict[str, str]) -> dict[str, dict[str, int]]:
    dequantized = {name for node in model.graph.node if node.op_type == DEQUANTIZE for name in node.output}
    kept = {name for node in model.graph.node if node.op_type != QUANTIZE for name in node.input}
    kept |= {value.name for value in model.graph.output}
    counts: dict[str, Counter[str]] = {}
    for node in model.graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            continue
        found = types.get(node.output[0], "unknown")
        weighted = node.op_type in ("Conv", "ConvTranspose")  # they take integers and can still give floats
        between = not kept & set(node.output) and {n for n in node.input if types.get(n) == found} <= dequantized
        if found in ("int8", "uint8") or (set(node.input[:2]) <= dequantized if weighted else between):
            found = "int8"
        counts.setdefault(node.op_type, Counter())[found] += 1
    return {op: dict(sorted(types.items())) for op, types in sorted(counts.items())}
