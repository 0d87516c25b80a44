"""Build records: how an ONNX file or an engine was made and what it needs, as its sidecar stores it.

Each record has `to_json`, which gives the JSON values of the sidecar in their order there.
"""

from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from cgan.checkpoint_record import CheckpointRecord
from export.choices import EngineFormat, Int8Target


class TensorFacts(TypedDict):
    """Name, data type and shape of an input or output; symbolic dimensions are given by name."""

    name: str
    dtype: str
    shape: list[int | str]


class OnnxFacts(TypedDict):
    """Facts about an ONNX file; see `export.onnx_model.inspect_onnx`."""

    file_bytes: int
    producer: str
    ir_version: int
    opset: int | None
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    dynamic_batch: bool
    dynamic_size: bool
    nodes: dict[str, int]
    precision: dict[str, dict[str, int]]
    initializer_bytes: dict[str, int]
    weight_share: dict[str, float]
    quantize_nodes: int
    dequantize_nodes: int


@dataclass(frozen=True)
class Quantisation:
    """Quantisation of an int8 file."""

    int8_target: Int8Target
    calibration_photos: int
    """Photos that set the ranges, without their sharpened copies."""


@dataclass(frozen=True, kw_only=True)
class OnnxRecord:
    """Build record of an ONNX file."""

    checkpoint: CheckpointRecord
    quantisation: Quantisation | None
    """None for fp32 and fp16."""
    onnx: OnnxFacts

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        quantisation = asdict(self.quantisation) if self.quantisation else {}
        return {"checkpoint": self.checkpoint.to_json(), **quantisation, "onnx": self.onnx}


@dataclass(frozen=True)
class NetworkPrecision:
    """Shares of the layers of a parsed network by data type."""

    fp16_share: float
    """Share of the layers with weights that compute in FP16."""
    int8_share: float
    """Share of the layers with weights whose input is quantised."""
    layers: dict[str, int]
    """Number of layers by the data type of their output, without constants."""


@dataclass(frozen=True)
class InspectedPrecision:
    """Shares of the layers of an engine by data type, from its inspector."""

    fp16_share: float
    """Share of the layers that read or write floating point which read or write FP16."""
    layers: dict[str, int]
    """Number of layers by the data types that they read and write."""


@dataclass(frozen=True)
class EnginePrecision:
    """Precision in which an engine computes."""

    fp16_share: float
    found_by: str
    """Source of `fp16_share`: `export.engine_precision.FROM_NETWORK` or `FROM_ENGINE`."""
    network: NetworkPrecision
    engine: InspectedPrecision | None
    """None where the engine cannot be loaded or does not tell its types."""


@dataclass(frozen=True)
class Profile:
    """Optimization profile of an engine: minimum, optimum and maximum input shape, each N x 1 x H x W."""

    min: list[int]
    opt: list[int]
    max: list[int]


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    """Builder settings of an engine; see `export.engine.EngineOptions`."""

    strongly_typed: bool = True
    version_compatible: bool
    hardware_compatible: bool
    strip_weights: bool
    detailed_profiling: bool
    optimization_level: int | None
    workspace_mib: int | None
    timing_cache: bool


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """Build record of an engine. `infer.backends.trt` compares it with the machine before it loads the engine."""

    flavour: EngineFormat
    tensorrt_version: str
    compute_capabilities: list[str]
    """Compute capabilities of the GPUs that it runs on; "8.0+" stands for any from 8.0 on."""
    gpu: str | None
    """GPU on which it was built; None where the build needed none."""
    platform: str
    """Such as "linux-x86_64"."""
    onnx_sha256: str
    """Digest of the ONNX file that it was built from."""
    profiles: list[Profile]
    flags: EngineFlags
    plan_bytes: int
    bytes_per_parameter: float
    precision: EnginePrecision
    warnings: list[str]
    """Warnings of the builder, sorted."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return asdict(self)
