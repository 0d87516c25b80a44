"""Colouring of grayscale photos with an exported model; only `infer.quality` and the torch backend need torch.

Public: `Colorizer`, for Python programs. `photo` reads and writes one photo, `folder` runs over whole folders,
`backends` are the engines that run a model, `quality` measures and compares models.
"""

from typing import TYPE_CHECKING, Any

import cgan.spec  # noqa: F401  (before anything imports ONNX Runtime)

if TYPE_CHECKING:
    from infer.colorizer import Colorizer

__all__ = ["Colorizer"]


def __getattr__(name: str) -> Any:
    """Import `Colorizer` on first access, so that commands start without numpy and Pillow."""
    if name != "Colorizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from infer.colorizer import Colorizer

    return Colorizer
