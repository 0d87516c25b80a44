"""Measured values with a fingerprint; only values with equal fingerprints can be compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from cgan.errors import UserError
from cgan.readers import typed_field
from cgan.text import shown

INCEPTION_SHA256 = "0cc3c7bd"
"""First digits of the SHA-256 of torchvision's published weights of Inception v3; only they give FID and KID."""

DISTANCES = {
    "fid": ("FID", "frechet_distance", "Fréchet distance"),
    "kid": ("KID", "kernel_distance", "kernel distance"),
}
"""Name of each distance, and key and name of the same distance over the features of another network."""


def distance(kind: str, network: str | None) -> tuple[str, str]:
    """Return key and name of a distance between sets of features: ("fid", "FID").

    Args:
        kind: a key of DISTANCES.
        network: name of the feature network; None for Inception with its published weights.
    """
    name, other_key, other_name = DISTANCES[kind]
    return (kind, name) if network is None else (other_key, f"{other_name} ({network})")


@dataclass(frozen=True)
class Measured:
    """A measured value and its fingerprint: the method, the libraries and the photos of the measurement."""

    value: float
    fingerprint: Mapping[str, Any]
    """JSON values: number and size of the photos, feature network and its weights, versions of libraries."""
    note: str | None = None
    """A sentence to show with the value."""

    def minus(self, other: "Measured") -> float:
        """Return the difference of two values.

        Raises:
            UserError: the fingerprints differ, so the difference has no meaning.
        """
        mine, others = _compared(self.fingerprint), _compared(other.fingerprint)
        if differing := sorted(name for name in mine.keys() | others.keys() if mine.get(name) != others.get(name)):
            found = "; ".join(f"{name}: {shown(mine.get(name))} and {shown(others.get(name))}" for name in differing)
            raise UserError(f"values of different fingerprints cannot be compared: found {found}; measure both alike")
        return self.value - other.value

    def to_json(self) -> dict[str, Any]:
        """Return one flat object: value (null if it is infinite, which JSON lacks), fingerprint and note.

        Raises:
            ValueError: the value is NaN or minus infinity.
        """
        if math.isnan(self.value) or self.value == -math.inf:
            raise ValueError(f"found value {self.value}, expected a number or infinity")
        note = {"note": self.note} if self.note else {}
        return {"value": self.value if math.isfinite(self.value) else None, **self.fingerprint, **note}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the measurement that `to_json` wrote.

        Raises:
            FormatError: its value is no number, or its metric or note no text.
        """
        rest = dict(values)
        infinite = "value" in rest and rest["value"] is None
        value = math.inf if infinite else typed_field(rest, "value", float)
        note = typed_field(rest, "note", str, "")
        typed_field(rest, "metric", str, "")
        return cls(value, {name: value for name, value in rest.items() if name not in ("value", "note")}, note or None)


def by_today(figures: Mapping[str, Measured]) -> dict[str, Measured]:
    """Return figures of a file under their current keys: earlier versions had fid and kid for every feature network."""
    renamed = {}
    for key, figure in figures.items():
        digest = str(figure.fingerprint.get("weights_sha256", ""))
        if key in DISTANCES and not digest.startswith(INCEPTION_SHA256):
            _, key, name = DISTANCES[key]
            figure = replace(figure, fingerprint={**figure.fingerprint, "metric": name})
        renamed[key] = figure
    return renamed


def _compared(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fingerprint, flat, without the network's file name; the digest of its weights identifies it."""
    flat: dict[str, Any] = {}
    for name, value in fingerprint.items():
        if isinstance(value, Mapping):
            flat |= {f"{name} {key}": item for key, item in value.items()}
        else:
            flat[name] = value.partition(" (")[0] if name == "metric" else value
    return flat
