"""Colouring of grayscale photos with an exported model; only `infer.quality` needs torch and the training code.

Public: `Colorizer`, for Python programs. `photo` is one photo in and out, `folder` a whole folder, `backends` the
engines that run a model, `quality` what compares models.
"""

from typing import TYPE_CHECKING, Any

import cgan.spec  # noqa: F401  (before anything imports ONNX Runtime)

if TYPE_CHECKING:
    from infer.colorizer import Colorizer

__all__ = ["Colorizer"]


def __getattr__(name: str) -> Any:
    """Import `Colorizer` when it is asked for: commands start without numpy and Pillow."""
    if name != "Colorizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from infer.colorizer import Colorizer

    return Colorizer
