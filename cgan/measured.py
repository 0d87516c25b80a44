"""A figure, and what has to be the same before it may be compared with another."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cgan.errors import UserError


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
        mine, others = self.fingerprint, other.fingerprint
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
