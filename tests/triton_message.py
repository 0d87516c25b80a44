"""config.pbtxt as Triton's own message, which has no field that Triton does not know."""

from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]  # it has no types
from tritonclient.grpc import model_config_pb2

TYPE_FP32: int = model_config_pb2.TYPE_FP32


def parsed(text: str) -> Any:
    """The message; raises ParseError where Triton would refuse the text."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def kind(name: str) -> int:
    """The number of a kind of instance group."""
    number: int = model_config_pb2.ModelInstanceGroup.Kind.Value(name)
    return number
