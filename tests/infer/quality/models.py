"""Descriptions of models that were not measured."""

from infer.quality.measured_model import MeasuredModel


def described(precision: str) -> MeasuredModel:
    """Return the description of a model of this precision."""
    return MeasuredModel(
        hub=None,
        path="",
        engine="",
        note=None,
        precision=precision,
        color_space="rgb",
        weights_sha256="a" * 64,
        checkpoint=None,
    )
