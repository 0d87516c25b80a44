"""Models that ship inside the package; infer/models/MODEL_CARD.md documents their training."""

from pathlib import Path

from cgan.errors import UserError

MODELS = Path(__file__).parent.parent / "infer" / "models"

PACKAGED_MODELS = {name: MODELS / f"{name}.onnx" for name in ("flowers", "flowers-int8")}
"""Files by the names that --model and --init accept."""

DEFAULT_MODEL = PACKAGED_MODELS["flowers"]


def model_path(given: str) -> Path:
    """Return the path for a value of --model or --init: a path, which may not exist, or the name of a packaged model.

    Raises:
        UserError: the value is empty, is both a path and the name of a packaged model, or is an unknown name.
    """
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
