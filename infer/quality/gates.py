"""Gates: limits on the differences between candidate and reference, with the measurements behind the defaults."""

import math
from dataclasses import asdict, dataclass

from cgan.errors import UserError
from cgan.text import told_apart
from infer.quality.differences import PSNR_CEILING


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Limits on the differences between a candidate and the reference; None stands for the default of the precision.

    Raises:
        UserError: a limit is negative, not finite, or a PSNR above that of equal pictures.
    """

    max_fid_delta: float | None = None
    """Largest |FID(candidate, photos) - FID(reference, photos)|, at the far end of its interval. With another
    feature network than Inception with its published weights, it limits the Fréchet distance of that network."""
    min_psnr: float | None = None
    """Least PSNR in dB over all values of all photos."""
    max_delta_e: float | None = None
    """Largest 99th percentile of CIEDE2000 over all pixels."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UserError(f"--{name.replace('_', '-')}: found {value}, expected a number from 0 on")
        if self.min_psnr is not None and self.min_psnr > PSNR_CEILING:
            raise UserError(
                f"--min-psnr: found {self.min_psnr}, expected a number from 0 to {PSNR_CEILING:g}, which equal "
                "pictures reach"
            )

    def or_default(self, precision: str) -> "Gates":
        """Return these gates, with the defaults of `precision` in place of None."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return Gates(**{**asdict(DEFAULT_GATES[precision]), **own})


# Measured on models of width 16 in RGB and YCbCr with 100 to 160 photos (PSNR; 99th percentile of CIEDE2000): fp32
# above 100 dB, 0.01; fp16 70 to 85 dB, 0.05 to 0.2; honest int8 51 to 55 dB, 1.2 to 1.7. Wrong ones: gamma 1.02
# 45 dB, 0.7; int8 calibrated on noise 36 to 44 dB, 2.8 to 14; the epoch before 36 to 43 dB, 4.3 to 10; 20 more steps
# of training with nothing averaged 28 dB, 20; red and blue swapped 15 dB, 46 to 50.
_FLOATING = Gates(max_fid_delta=1.0, min_psnr=60.0, max_delta_e=0.5)
DEFAULT_GATES = {
    # A root mean square error of a quarter of an 8-bit level, which TF32 (91 dB) meets and bfloat16 (51 to 53 dB)
    # does not; and in 99% of the pixels half of the just noticeable difference.
    "fp32": _FLOATING,
    "fp16": _FLOATING,
    # A root mean square error of one level; in 99% of the pixels a difference that is visible only side by side.
    "int8": Gates(max_fid_delta=1.0, min_psnr=48.0, max_delta_e=2.0),
}
"""Gates by the candidate's precision. An FID difference of 1 is a fortieth of 39.5, the FID of the final model of
the original report. It is meant for Inception with its published weights, and was not measured with them."""


WORST_PHOTO_MARGIN = 15.0
"""Distance in dB below --min-psnr at which the PSNR of the worst photo fails. The PSNR over all photos hardly shows a
single wrong photo among many good ones. In correct int8 exports, the worst photo is 7 to 12 dB below the rest."""


@dataclass(frozen=True)
class Verdict:
    """One gate, the value that was found, and its limit."""

    gate: str
    found: float | str
    limit: float | str
    passed: bool

    @property
    def texts(self) -> tuple[str, str]:
        """The value and its limit as texts that differ where the values do."""
        return told_apart(self.found, self.limit)

    def __str__(self) -> str:
        found, limit = self.texts
        return f"{self.gate}: found {found}, {'expected' if isinstance(self.limit, str) else 'limit'} {limit}"
