"""Names of devices, backends and providers, as options and Python programs give them; imports no engine."""

from enum import StrEnum


class Device(StrEnum):
    """Device that a model runs on."""

    AUTO = "auto"
    """CUDA where a usable GPU is present, otherwise the CPU."""
    CPU = "cpu"
    CUDA = "cuda"


class BackendName(StrEnum):
    """Engine that runs a model."""

    ORT = "ort"
    TENSORRT = "tensorrt"
    TORCH = "torch"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"


class Provider(StrEnum):
    """Execution provider of ONNX Runtime."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    NV_TENSORRT_RTX = "nv-tensorrt-rtx"


AUTO = "auto"
"""Value of --backend that chooses the backend by the kind of file."""
