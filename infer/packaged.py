"""The models that ship inside the package; models/MODEL_CARD.md says how they were made."""

from pathlib import Path

from cgan.errors import UserError

MODELS = Path(__file__).parent / "models"

PACKAGED_MODELS = {name: MODELS / f"{name}.onnx" for name in ("flowers", "flowers-int8")}
"""Files by the name that --model takes."""

DEFAULT_MODEL = PACKAGED_MODELS["flowers"]


def model_path(given: str) -> Path:
    """What --model stands for: a path, which need not exist, or the name of a model in the package.

    Raises:
        UserError: it could be either, or it looks like a name and is neither.
    """
    if not given:
        raise UserError("found an empty name of a model, expected a file, a run or a model in the package")
    path = Path(given)
    if given not in PACKAGED_MODELS and path.name == given and not path.suffix and not path.exists():
        raise UserError(
            f"{given}: found no such file, expected a model that cgan-export wrote, a run of cgan-train, or the name "
            f"of one in the package: {', '.join(PACKAGED_MODELS)}"
        )
    if given in PACKAGED_MODELS and path.exists():
        raise UserError(
            f"{given}: found a path of this name, and a model in the package has it too; write ./{given} for the path, "
            f"or {PACKAGED_MODELS[given]}"
        )
    return PACKAGED_MODELS.get(given, path)
