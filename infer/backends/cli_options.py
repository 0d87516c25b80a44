"""Options that several commands of cgan-infer share."""

import math
from typing import Any

import click

from cgan.spec import MOST_BATCH
from infer.backends.names import AUTO, BackendName, Device, Provider

# Plain strings, because click takes the choices of an enumeration by the names of its members.
BACKEND_CHOICES = (AUTO, *(name.value for name in BackendName))
PROVIDER_CHOICES = tuple(provider.value for provider in Provider)


class NumberRange(click.FloatRange):
    """Type of options that are a number within limits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fail for nan, which no range excludes."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self.min}<=x<={self.max}.", param, ctx)
        return number


MOST_WORKERS = 1024
"""Most threads: more than the cores of any machine; each decodes, colours and encodes a photo of its own."""

BATCH_SIZES = click.IntRange(1, MOST_BATCH)
WORKERS = click.IntRange(1, MOST_WORKERS)
"""Types of --batch-size and --workers."""

device_option = click.option(
    "--device",
    type=click.Choice([device.value for device in Device]),
    default=AUTO,
    show_default=True,
    help="Where the model runs; auto is cuda where a GPU is present. A missing device is an error.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(BACKEND_CHOICES),
    default=AUTO,
    show_default=True,
    help="Engine that runs the model; auto chooses by the kind of file.",
)
provider_option = click.option(
    "--provider",
    type=click.Choice(PROVIDER_CHOICES),
    help="Execution provider of ONNX Runtime.  [default: by --device]",
)
