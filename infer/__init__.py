"""Colouring of grayscale photos with an exported model; only `infer.quality` and the torch backend need torch.

Public, for Python programs: `Colorizer` and its result `Colored`; `prepare`, for a model that runs on a server.
`photo` reads and writes one photo, `folder` runs over whole folders, `backends` are the engines that run a model,
`quality` measures and compares models.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import cgan.spec  # noqa: F401  (before anything imports ONNX Runtime)

if TYPE_CHECKING:
    from infer.colorizer import Colorizer
    from infer.photo.mark import Mark
    from infer.photo.prepared_photo import Colored, PreparedPhoto, prepare

__all__ = ["Colored", "Colorizer", "Mark", "PreparedPhoto", "prepare"]

_MODULES = {
    "Colored": "infer.photo.prepared_photo",
    "Colorizer": "infer.colorizer",
    "Mark": "infer.photo.mark",
    "PreparedPhoto": "infer.photo.prepared_photo",
    "prepare": "infer.photo.prepared_photo",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first access, so that commands start without numpy and Pillow."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
