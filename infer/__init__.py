"""Colouring of grayscale photos with an exported model; only `infer.quality` and the torch backend need torch.

Public: `Colorizer` and its result `Colored`, for Python programs. `photo` reads and writes one photo, `folder` runs
over whole folders, `backends` are the engines that run a model, `quality` measures and compares models.
"""

from typing import TYPE_CHECKING, Any

import cgan.spec  # noqa: F401  (before anything imports ONNX Runtime)

if TYPE_CHECKING:
    from infer.colorizer import Colored, Colorizer

__all__ = ["Colored", "Colorizer"]


def __getattr__(name: str) -> Any:
    """Import the public names on first access, so that commands start without numpy and Pillow."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from infer import colorizer

    return getattr(colorizer, name)
