"""Options that several commands of cgan-infer have."""

import click

BACKEND_CHOICES = ("auto", "ort", "tensorrt", "torch", "openvino", "openvino-bf16")
PROVIDER_CHOICES = ("cpu", "cuda", "tensorrt", "nv-tensorrt-rtx")

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the model runs; auto is cuda where a GPU is present. A device that is not here is an error.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(BACKEND_CHOICES),
    default="auto",
    show_default=True,
    help="What runs the model; auto goes by the kind of file.",
)
provider_option = click.option(
    "--provider",
    type=click.Choice(PROVIDER_CHOICES),
    help="Execution provider of ONNX Runtime.  [default: by --device]",
)
