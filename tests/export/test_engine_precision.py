"""Shares of FP16 layers, and what is refused because of them."""

import json
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from cgan.errors import GateError
from cgan.spec import ModelSpec, Precision, generator_parameters
from export.build_record import InspectedPrecision, NetworkPrecision
from export.engine_precision import inspected_precision, network_precision, require_precision


def spec(precision: Precision = "fp16", base_width: int = 32) -> ModelSpec:
    return ModelSpec(
        model="unet",
        color_space="rgb",
        render_size=128,
        base_width=base_width,
        parameters=generator_parameters("rgb", base_width, 1),
        precision=precision,
        config_sha256="",
        weights_sha256="",
    )


def record(network: float = 1.0, engine: float | None = None, int8: float = 0.0, **changes: Any) -> Any:
    size = changes.get("size", 30_522_612)
    return SimpleNamespace(
        flags=SimpleNamespace(strip_weights=changes.get("strip", False)),
        plan_bytes=size,
        bytes_per_parameter=round(size / 14_639_267, 3),
        precision=SimpleNamespace(
            network=NetworkPrecision(network, int8, {}),
            engine=None if engine is None else InspectedPrecision(engine, {}),
        ),
    )


class Kind(Enum):
    CONVOLUTION = 0
    DECONVOLUTION = 1
    MATRIX_MULTIPLY = 2
    ACTIVATION = 3
    CAST = 4
    CONSTANT = 5
    DEQUANTIZE = 6
    QUANTIZE = 7
    ASSERTION = 8


class Type(Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2


def network(*layers: tuple[Kind, str, str | None, Type]) -> SimpleNamespace:
    """A network of layers: kind, name of the input, name of the output, type of the output."""

    def layer(kind: Kind, source: str, target: str | None, dtype: Type) -> SimpleNamespace:
        return SimpleNamespace(
            type=kind,
            num_outputs=int(target is not None),
            get_input=[SimpleNamespace(name=source)].__getitem__,
            get_output=[SimpleNamespace(name=target, dtype=dtype)].__getitem__,
        )

    made = [layer(*values) for values in layers]
    return SimpleNamespace(num_layers=len(made), get_layer=lambda i: made[i])


def test_only_layers_with_weights_decide_the_share() -> None:
    found = network_precision(
        network(
            (Kind.CAST, "gray", "a", Type.HALF),
            (Kind.CONSTANT, "", "w", Type.FLOAT),
            (Kind.CONVOLUTION, "a", "b", Type.HALF),
            (Kind.DECONVOLUTION, "b", "c", Type.HALF),
            (Kind.MATRIX_MULTIPLY, "c", "d", Type.HALF),
            (Kind.CONVOLUTION, "d", "e", Type.FLOAT),
            (Kind.ASSERTION, "e", None, Type.FLOAT),
            (Kind.ACTIVATION, "e", "f", Type.FLOAT),
        )
    )
    assert found == NetworkPrecision(0.75, 0.0, {"FLOAT": 2, "HALF": 4})


def test_a_layer_is_int8_where_its_input_was_quantised() -> None:
    found = network_precision(
        network(
            (Kind.QUANTIZE, "gray", "q", Type.INT8),
            (Kind.DEQUANTIZE, "q", "a", Type.FLOAT),
            (Kind.CONVOLUTION, "a", "b", Type.FLOAT),
            (Kind.CONVOLUTION, "b", "c", Type.FLOAT),
        )
    )
    assert found.int8_share == 0.5
    assert network_precision(network()) == NetworkPrecision(0.0, 0.0, {})


def inspected(*layers: tuple[str, str, str]) -> str:
    return json.dumps(
        {
            "Layers": [
                {"Name": name, "Inputs": [{"Format/Datatype": first}], "Outputs": [{"Format/Datatype": last}]}
                for name, first, last in layers
            ]
        }
    )


def test_the_inspector_tells_types_of_fused_layers() -> None:
    text = inspected(
        ("cast", "Row major linear FP32", "Channel major FP16 format where channel % 8 == 0"),
        ("conv", "Half", "Half"),
        ("q", "Half", "Int8"),
        ("color", "Float", "Float"),
        ("shape", "Int64", "Int64"),
        ("{ForeignNode[a...z]}", "Float", "Float"),
    )
    layers = {"FP16": 1, "FP16+FP32": 1, "FP16+INT8": 1, "FP32": 1}
    assert inspected_precision(text) == InspectedPrecision(0.75, layers)


@pytest.mark.parametrize(
    "text",
    ["{}", '{"Layers": ["conv", "cast"]}', inspected(("{ForeignNode[a]}", "Float", "Float")), inspected(("x", "", ""))],
    ids=["nothing", "names", "opaque", "untold"],
)
def test_an_inspector_that_tells_no_types_does_not_decide(text: str) -> None:
    assert inspected_precision(text) is None


@pytest.mark.parametrize(
    ("changes", "worse"),
    [
        ({}, {"network": 0.0}),
        ({"network": 0.9}, {"network": 0.8999}),
        ({"engine": 0.5}, {"engine": 0.4999}),
        ({"size": 59_770_100, "strip": True}, {"strip": False}),
        ({"size": 59_770_100, "engine": 1.0}, {"engine": None}),
    ],
    ids=["all", "most", "fused", "stripped", "inspected"],
)
def test_an_fp16_engine_passes_and_one_a_little_worse_does_not(changes: dict[str, Any], worse: dict[str, Any]) -> None:
    require_precision(record(**changes), spec())
    with pytest.raises(GateError, match="the engine is not fp16"):
        require_precision(record(**(changes | worse)), spec())


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"network": 0.89}, r"found 89% of its layers in FP16 \(tensor types.*at least 90%"),
        ({"engine": 0.49}, r"found 49% of its layers in FP16 \(engine inspector\), expected at least 50%"),
        ({"network": 0.0, "engine": 1.0}, r"found 0% of its layers in FP16 \(tensor types.*at least 90%"),
        ({"size": 59_770_100}, r"found a plan of 59,770,100 bytes, 4\.083 a parameter, expected at most 52,306,409"),
    ],
    ids=["network", "engine", "network although engine", "plan size"],
)
def test_an_engine_that_is_not_fp16_is_refused(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(GateError, match=f"the engine is not fp16: {found}.*export the fp16 ONNX file again") as refused:
        require_precision(record(**changes), spec())
    assert refused.value.exit_code == 1
    assert "\n" not in str(refused.value)


def test_kernels_do_not_make_the_plan_of_a_small_model_fp32() -> None:
    small = spec(base_width=4)
    require_precision(record(size=1_946_404), small)
    require_precision(record(size=9_077_237), small)  # three bytes a parameter and 8 MiB
    with pytest.raises(GateError, match=r"found a plan of 9,077,238 bytes, .*expected at most 9,077,237"):
        require_precision(record(size=9_077_238), small)


def test_other_precisions_are_held_to_their_word() -> None:
    require_precision(record(network=0.0, int8=0.1), spec("int8"))
    require_precision(record(network=0.0), spec("fp32"))
    with pytest.raises(GateError, match="not int8"):
        require_precision(record(int8=0.0), spec("int8"))
    with pytest.raises(GateError, match="not fp32: found 5% of its layers in FP16, expected none"):
        require_precision(record(network=0.05), spec("fp32"))
