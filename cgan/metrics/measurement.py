"""A figure, and what has to be the same before it may be compared with another."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from cgan.errors import UserError

INCEPTION_SHA256 = "0cc3c7bd"
"""First digits of the sha256 of torchvision's published weights of Inception v3. Only their distances are FID, KID."""

DISTANCES = {
    "fid": ("FID", "frechet_distance", "Fréchet distance"),
    "kid": ("KID", "kernel_distance", "kernel distance"),
}
"""What each is called, and key and name of the same formula over the features of another network."""


def distance(kind: str, network: str | None) -> tuple[str, str]:
    """Key and name of a distance between sets of features: ("fid", "FID").

    Args:
        kind: of DISTANCES.
        network: name of another network than Inception with its published weights; None for that.
    """
    name, other_key, other_name = DISTANCES[kind]
    return (kind, name) if network is None else (other_key, f"{other_name} ({network})")


@dataclass(frozen=True)
class Measured:
    """A value with its fingerprint: how, with what and of how many photos it was measured."""

    value: float
    fingerprint: Mapping[str, Any]
    """JSON values: number and size of the photos, feature network and its weights, versions of libraries."""
    note: str | None = None
    """A sentence that has to be read with the value."""

    def minus(self, other: "Measured") -> float:
        """The difference of two values.

        Raises:
            UserError: the fingerprints differ, so the difference would mean nothing.
        """
        names = self.fingerprint.keys() | other.fingerprint.keys()
        mine, others = _compared(self.fingerprint), _compared(other.fingerprint)
        if differing := sorted(name for name in names if mine.get(name) != others.get(name)):
            found = "; ".join(f"{name}: {mine.get(name)} and {others.get(name)}" for name in differing)
            raise UserError(f"values of different fingerprints cannot be compared: found {found}; measure both alike")
        return self.value - other.value

    def to_json(self) -> dict[str, Any]:
        """One flat object: value (null where it is infinite, which JSON cannot say), fingerprint and note.

        Raises:
            ValueError: no number, or minus infinity, which no figure is.
        """
        if math.isnan(self.value) or self.value == -math.inf:
            raise ValueError(f"found value {self.value}, expected a number or infinity")
        note = {"note": self.note} if self.note else {}
        return {"value": self.value if math.isfinite(self.value) else None, **self.fingerprint, **note}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            ValueError: it has no value that is a number.
        """
        rest = dict(values)
        value = rest.pop("value", "none")
        if not isinstance(value, int | float | None):
            raise ValueError(f"found value {value!r}, expected a number")
        note = rest.pop("note", None)
        return cls(math.inf if value is None else float(value), rest, note)


def by_today(figures: Mapping[str, Measured]) -> dict[str, Measured]:
    """Figures of a file under the names that they have now: earlier ones called those of any network FID and KID."""
    renamed = {}
    for key, figure in figures.items():
        digest = str(figure.fingerprint.get("weights_sha256", ""))
        if key in DISTANCES and not digest.startswith(INCEPTION_SHA256):
            _, key, name = DISTANCES[key]
            figure = replace(figure, fingerprint={**figure.fingerprint, "metric": name})
        renamed[key] = figure
    return renamed


def _compared(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint without the name of a network, which is that of a file: its digest tells networks apart."""
    return {name: value.partition(" (")[0] if name == "metric" else value for name, value in fingerprint.items()}
