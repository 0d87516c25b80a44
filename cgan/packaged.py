"""Models by name: those that ship inside the package, see infer/models/MODEL_CARD.md, and those of the Hub."""

from pathlib import Path

from cgan.errors import UserError
from cgan.hub import SCHEME, Note, download, say_note

MODELS = Path(__file__).parent.parent / "infer" / "models"

PACKAGED_MODELS = {name: MODELS / f"{name}.onnx" for name in ("flowers", "flowers-int8")}
"""Files by the names that --model and --init accept."""

DEFAULT_MODEL = PACKAGED_MODELS["flowers"]


def model_path(given: str, note: Note = say_note) -> Path:
    """Return the path for a value of --model or --init, which may not exist.

    Args:
        given: a path, the name of a packaged model, or hf://owner/name for a model of the Hub, which is downloaded.
        note: as of `cgan.hub.download`.

    Raises:
        UserError: the value is empty, is both a path and the name of a packaged model, or is an unknown name; or as of
            `cgan.hub.download`.
    """
    if given.startswith(SCHEME):
        return download(given, note)
    if not given:
        raise UserError("found an empty name of a model; give a file, a run or the name of a packaged model")
    path = Path(given)
    if given not in PACKAGED_MODELS and path.name == given and not path.suffix and not path.exists():
        raise UserError(
            f"{given}: found no such file; give a model of cgan-export, a run of cgan-train, or the name of a packaged "
            f"model: {', '.join(PACKAGED_MODELS)}"
        )
    if given in PACKAGED_MODELS and path.exists():
        raise UserError(
            f"{given}: found a path and a packaged model of this name; write ./{given} for the path, or "
            f"{PACKAGED_MODELS[given]} for the packaged model"
        )
    return PACKAGED_MODELS.get(given, path)
