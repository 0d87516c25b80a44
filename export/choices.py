"""Closed sets of values that options, contracts and build records use, and the batch sizes of each format.

Imports nothing heavy: the command's --help reads it.
"""

from typing import Literal, get_args

EngineFormat = Literal["tensorrt", "tensorrt-rtx"]
ENGINE_FORMATS: tuple[EngineFormat, ...] = get_args(EngineFormat)
"""The flavours of TensorRT, the keys of `infer.backends.flavours.FLAVOURS`."""

Format = Literal["onnx", EngineFormat]
"""Formats of a file."""

TRITON = "triton"
FORMATS = (*get_args(Format), TRITON)
"""Values of --format: a file, or the folder of an inference server with one in it."""

PrecisionChoice = Literal["fp32", "fp16", "int8", "auto"]
PRECISION_CHOICES: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)
"""Values of --precision; "auto" stands for the one that `export.search` finds."""

Int8Target = Literal["cpu", "tensorrt"]
INT8_TARGETS: tuple[Int8Target, ...] = get_args(Int8Target)
"""Engines whose int8 kernels a quantised file suits."""

Preference = Literal["size", "speed"]
PREFERENCES: tuple[Preference, ...] = get_args(Preference)
"""Goal of --precision auto: the smallest file or the highest speed on the CPU."""

Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)
"""Devices on which artefacts run."""

Images = Literal["photos", "natural", "random"]
"""Images of a comparison: photos, noise with the spectrum of photos, uniform noise."""

ONNX_SUFFIX, PLAN_SUFFIX = ".onnx", ".plan"

Sizes = tuple[int, int, int]
"""Minimum, optimum and maximum of a batch size, or of height and width in pixels."""

ONNX_BATCHES: Sizes = (1, 3, 8)
"""Photos in the batches on which an ONNX file is compared with its model, unless --batch says otherwise."""

ENGINE_BATCHES: Sizes = (1, 16, 64)
"""Batch sizes that an engine accepts and is tuned for, and on which it is compared, unless --batch says otherwise."""

TRITON_BATCHES: Sizes = (1, 4, 16)
"""Least, preferred and largest batch of an ONNX file on an inference server, unless --batch says otherwise."""
