"""The names of the models in models/; `cgan.packaged` defines them, because cgan-train begins with them too."""

from cgan.packaged import DEFAULT_MODEL, MODELS, PACKAGED_MODELS, model_path

__all__ = ["DEFAULT_MODEL", "MODELS", "PACKAGED_MODELS", "model_path"]
