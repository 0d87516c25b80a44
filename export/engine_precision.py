"""Precision of an engine, read from the parsed network and, where it can be loaded, from the engine itself.

A builder that is asked for FP16 and given an FP32 network makes an FP32 engine and reports nothing (TensorRT 11 has no
other precision than that of the network), so the precision is checked before the engine gets its name.
"""

import json
from collections import Counter
from types import ModuleType
from typing import Any

from cgan.errors import GateError
from cgan.spec import ModelSpec
from cgan.text import told_apart
from export.build_record import EngineRecord, InspectedPrecision, NetworkPrecision
from infer.backends.flavours import messages

FROM_NETWORK = "tensor types of the strongly typed network, and the plan's size"
FROM_ENGINE = "engine inspector"

WEIGHTED = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"}
"""Types of network layers with weights: nearly all the arithmetic and all the parameters of the generator."""

LEAST_SHARE = {FROM_NETWORK: 0.9, FROM_ENGINE: 0.5}
"""Least share of FP16 layers in an FP16 engine. Of the network's layers only those with weights count, so that casts
at both ends and the conversion from HSV or YCbCr to RGB may stay FP32; a tenth is left for one layer at either end.
An engine's layers are fused and include that conversion; one that is FP32 has no FP16 layer at all."""

FLOAT_BYTES = 3.0
"""A plan of more bytes a parameter holds FP32 weights: 4 against 2, and kernels. Measured with TensorRT for RTX 1.7 on
the U-Net of 14.6 million parameters: 4.08 and 2.08."""

KERNEL_BYTES = 8 * 2**20
"""Bytes of a plan that are not weights: kernels and the graph. TensorRT for RTX 1.7 takes 1.2 to 2 MiB. Only of a
model with more than 8 million parameters can the plan's size therefore tell FP32 from FP16."""


def network_precision(network: Any) -> NetworkPrecision:
    """Return the shares of layers by data type in a parsed network."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    outputs = [(layer, layer.get_output(0)) for layer in layers if layer.num_outputs]
    quantized = {tensor.name for layer, tensor in outputs if layer.type.name == "DEQUANTIZE"}
    weighted = [(layer, tensor) for layer, tensor in outputs if layer.type.name in WEIGHTED]
    half = sum(tensor.dtype.name == "HALF" for _, tensor in weighted)
    int8 = sum(layer.get_input(0).name in quantized for layer, _ in weighted)
    types = Counter(tensor.dtype.name for layer, tensor in outputs if layer.type.name != "CONSTANT")
    return NetworkPrecision(
        fp16_share=_share(half, len(weighted)),
        int8_share=_share(int8, len(weighted)),
        layers=dict(sorted(types.items())),
    )


def engine_precision(trt: ModuleType, plan: Any) -> InspectedPrecision | None:
    """Return the shares of layers by data type in an engine.

    Args:
        trt: the module of the flavour.
        plan: the serialised engine, built on this machine.

    Returns:
        None where the engine cannot be loaded here, or does not tell its types: only detailed profiling does.
    """
    engine = trt.Runtime(messages(trt)).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return inspected_precision(text)


def inspected_precision(text: str) -> InspectedPrecision | None:
    """Return the shares of layers by data type from the inspector's JSON, None where it does not tell types."""
    layers = [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]
    # A ForeignNode is a whole subgraph whose types inside are not told.
    told = [_types(layer) for layer in layers if "ForeignNode" not in str(layer.get("Name"))]
    floating = [types for types in told if types & {"FP16", "FP32"}]
    if not floating:
        return None
    return InspectedPrecision(
        fp16_share=_share(sum("FP16" in types for types in floating), len(floating)),
        layers=dict(sorted(Counter("+".join(sorted(types)) for types in told if types).items())),
    )


def _types(layer: dict[str, Any]) -> set[str]:
    """Types that a layer of the inspector reads and writes; its words are such as "Half" or "Row major linear FP16"."""
    words = {"FP16": ("fp16", "half"), "FP32": ("fp32", "float"), "INT8": ("int8",)}
    formats = [
        str(tensor.get("Format/Datatype", "")) for side in ("Inputs", "Outputs") for tensor in layer.get(side, [])
    ]
    found = " ".join(formats).lower().replace("bfloat16", "bf16")
    return {name for name, forms in words.items() if any(form in found for form in forms)}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def require_precision(record: EngineRecord, spec: ModelSpec) -> None:
    """Refuse an engine that does not compute in the precision of its contract.

    Args:
        record: the build record of the engine.
        spec: the contract that the engine will carry.

    Raises:
        GateError: FP16 was requested and most layers or the weights are FP32; INT8 and no layer is quantised; FP32
            and some layers are FP16.
    """
    advice = f"export the {spec.precision} ONNX file again and build from that"
    network, engine = record.precision.network, record.precision.engine
    if spec.precision == "fp16":
        for found_by, of in ((FROM_NETWORK, network), (FROM_ENGINE, engine)):
            if of and of.fp16_share < LEAST_SHARE[found_by]:
                found, least = told_apart(100 * of.fp16_share, 100 * LEAST_SHARE[found_by])
                raise GateError(
                    f"the engine is not fp16: found {found}% of its layers in FP16 ({found_by}), "
                    f"expected at least {least}%; {advice}"
                )
        limit = int(FLOAT_BYTES * spec.parameters + KERNEL_BYTES)
        if not engine and not record.flags.strip_weights and record.plan_bytes > limit:
            raise GateError(
                f"the engine is not fp16: found a plan of {record.plan_bytes:,} bytes, "
                f"{record.bytes_per_parameter:g} a parameter, expected at most {limit:,}; {advice}"
            )
    if spec.precision == "int8" and not network.int8_share:
        raise GateError(f"the engine is not int8: found no layer with quantised input, expected some; {advice}")
    if spec.precision == "fp32" and network.fp16_share:
        share = network.fp16_share
        raise GateError(
            f"the engine is not fp32: found {100 * share:.4g}% of its layers in FP16, expected none; {advice}"
        )
