"""Limits on the difference between an artefact and the trained model, and their defaults for each precision."""

import math
from dataclasses import asdict, dataclass, replace

from cgan.errors import UserError
from cgan.spec import Precision


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits on the difference between an artefact and the trained model; None leaves a limit open.

    Raises:
        UserError: a limit is out of its range.
    """

    atol: float | None = None
    """Largest absolute difference of a value in [0, 1], in addition to rtol x |reference|."""
    rtol: float = 0.0
    """Allowed difference as a share of the reference value."""
    min_psnr: float | None = None
    """Lowest peak signal-to-noise ratio of a batch of photos in dB."""
    max_off: float | None = None
    """Largest share, in [0, 1], of the values of a batch of photos that differ by more than one 8-bit level."""

    def __post_init__(self) -> None:
        for flag, value in (("--atol", self.atol), ("--rtol", self.rtol), ("--max-off", self.max_off)):
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{flag}: found {value}, expected a number from 0 to 1")
        if self.min_psnr is not None and not math.isfinite(self.min_psnr):
            raise UserError(f"--min-psnr: found {self.min_psnr}, expected a finite number")

    def or_else(self, other: "Tolerance") -> "Tolerance":
        """Return these limits, with those of `other` where they are left open."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **own)

    def __str__(self) -> str:
        limits = [
            (self.atol, f"max {self.atol} + {self.rtol:g} x |reference|"),
            (self.min_psnr, f"PSNR at least {self.min_psnr} dB"),
            (self.max_off, f"at most {self.max_off or 0:.1%} more than 1/255 off"),
        ]
        return ", ".join(text for limit, text in limits if limit is not None)


TOLERANCES: dict[Precision, Tolerance] = {
    # A fortieth of an 8-bit level: far above the rounding of fp32 sums (about 1e-6), far below the visible.
    "fp32": Tolerance(atol=1e-4),
    # Half precision keeps 11 bits; trained models reach 68 to 83 dB and no value moves by an 8-bit level.
    "fp16": Tolerance(min_psnr=60.0, max_off=0.001),
    # Activations have 8 bits; models reached 42 to 54 dB (YCbCr least), and 7% to 55% of the values were a level off.
    "int8": Tolerance(min_psnr=40.0, max_off=0.6),
}
"""Default limits of each precision."""
