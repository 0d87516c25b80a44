"""From a generator to one self-contained ONNX file: gray in, RGB out."""

from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from cgan import __version__
from cgan.color import COLOR_TARGETS
from cgan.networks import Generator
from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, ModelSpec

OPSET = 20
PRODUCER = "cgan-export"


class GrayToRGB(nn.Module):
    """The generator as the contract wants it: gray in, RGB out, whatever colour space it was trained in.

    Args:
        generator: predicts colours of `color_space`.
        color_space: one of `cgan.spec.COLOR_SPACES`.
    """

    def __init__(self, generator: Generator, color_space: str) -> None:
        super().__init__()
        self.generator = generator
        self.to_rgb = COLOR_TARGETS[color_space].to_rgb
        self.clamp = color_space != "rgb"  # the generator's own RGB ends in a sigmoid

    def forward(self, gray: Tensor) -> Tensor:
        """RGB in [0, 1], N x 3 x H x W, for luma in [0, 1], N x 1 x H x W."""
        rgb = self.to_rgb(gray, self.generator(gray))
        return rgb.clamp(0, 1) if self.clamp else rgb


def export_onnx(generator: Generator, spec: ModelSpec, path: Path) -> None:
    """Write the generator as an fp32 ONNX file with a dynamic batch and the contract in its metadata.

    The file is self-contained and holds no local paths; onnx.checker has accepted it.

    Args:
        generator: in evaluation mode.
        spec: its contract.
        path: the file to write.

    Raises:
        ValueError: the generator is in training mode.
    """
    if generator.training:
        raise ValueError("the generator is in training mode; batch norm would depend on the batch")
    example = torch.rand(2, 1, spec.render_size, spec.render_size, generator=torch.Generator().manual_seed(0))
    gray, rgb = str(INPUT_CONTRACT["name"]), str(OUTPUT_CONTRACT["name"])
    program = torch.onnx.export(
        GrayToRGB(generator, spec.color_space).eval(),
        kwargs={gray: example},
        dynamo=True,
        opset_version=OPSET,
        input_names=[gray],
        output_names=[rgb],
        dynamic_shapes={gray: {0: torch.export.Dim("N", min=1)}},
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    _strip(model)
    model.producer_name, model.producer_version = PRODUCER, __version__
    onnx.helper.set_model_props(model, spec.to_metadata())
    opset = next(o.version for o in model.opset_import if o.domain == "")
    if opset < OPSET:
        raise RuntimeError(f"the exporter wrote opset {opset}, expected at least {OPSET}")
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def _strip(model: ModelProto) -> None:
    """Remove the exporter's stack traces: they hold local paths, and bytes that differ from run to run."""
    graph = model.graph
    model.ClearField("doc_string")
    graph.ClearField("doc_string")
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
