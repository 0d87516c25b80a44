"""config.pbtxt of a model for NVIDIA Triton, in protobuf's text format.

Fields as in model_config.proto of github.com/triton-inference-server/common.
"""

from typing import Any

from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, Sidecar
from export.choices import Sizes

QUEUE_DELAY = 2000
"""Longest wait in microseconds for more photos of a batch: a fraction of the time that a batch takes on a CPU."""

_TYPES = {"float32": "TYPE_FP32"}


def triton_config(name: str, sidecar: Sidecar, batches: Sizes) -> str:
    """Return the text of config.pbtxt.

    Args:
        name: name of the model: letters, digits and hyphens.
        sidecar: of the ONNX file or the TensorRT engine.
        batches: least, preferred and largest batch.
    """
    engine = "flavour" in sidecar.build
    platform, backend = ("tensorrt_plan", "tensorrt") if engine else ("onnxruntime_onnx", "onnxruntime")
    preferred = ", ".join(map(str, sorted(set(batches[1:]))))
    height, width = sidecar.build["profiles"][0]["opt"][2:] if engine else [sidecar.spec.render_size] * 2
    warm_up = f"{INPUT_CONTRACT['shape'][1]}, {height}, {width}"
    return f"""\
name: "{name}"
platform: "{platform}"
backend: "{backend}"
max_batch_size: {batches[2]}
input [ {_tensor(INPUT_CONTRACT, sidecar)} ]
output [ {_tensor(OUTPUT_CONTRACT, sidecar)} ]
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: {QUEUE_DELAY}
}}
instance_group [ {{ count: 1, kind: {_kind(sidecar.build)} }} ]
model_warmup [
  {{
    name: "zeros"
    batch_size: {batches[0]}
    inputs {{
      key: "{INPUT_CONTRACT["name"]}"
      value {{ data_type: {_TYPES[str(INPUT_CONTRACT["dtype"])]}, dims: [ {warm_up} ], zero_data: true }}
    }}
  }}
]
"""


def _tensor(contract: dict[str, Any], sidecar: Sidecar) -> str:
    """Return an input or output without its batch; -1 stands for a height or width of any size."""
    height, width = sidecar.spec.fixed_size or (-1, -1)
    sides = {"H": height, "W": width}
    dims = ", ".join(str(sides.get(side, side)) for side in contract["shape"][1:])
    return f'{{ name: "{contract["name"]}", data_type: {_TYPES[contract["dtype"]]}, dims: [ {dims} ] }}'


def _kind(build: dict[str, Any]) -> str:
    """Return the kind of processor: a GPU for engines, a CPU for int8 for CPUs, else a GPU if there is one."""
    if "flavour" in build:
        return "KIND_GPU"
    return "KIND_CPU" if build.get("int8_target") == "cpu" else "KIND_AUTO"
