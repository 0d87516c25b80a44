"""Settings of the engine builder, with the command's flag for each and the flavours that lack it."""

from dataclasses import dataclass, fields
from pathlib import Path

from cgan.errors import UserError
from export.choices import ENGINE_BATCHES, EngineFormat, Sizes
from infer.backends.flavours import FLAVOURS

MAX_OPTIMIZATION_LEVEL = 5

UNSUPPORTED: dict[EngineFormat, dict[str, str]] = {
    "tensorrt": {
        "compute_capabilities": "builds for the GPU that it runs on; build there, or use --format tensorrt-rtx",
    },
    "tensorrt-rtx": {
        "optimization_level": "builds the same engine at every level, since kernels are made on the GPU that runs it",
        "version_compatible": "makes engines that run only on the release that built them",
        "hardware_compatible": "makes engines for several GPUs anyway; name them with --compute-capability",
        "timing_cache": "times nothing when it builds",
    },
}
"""Options that a flavour ignores, with the reason; checked against TensorRT for RTX 1.7.1 and its documentation."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Settings of the builder. `flag(name)` is the command's flag for a field.

    Raises:
        UserError: a setting is out of its range, or the flavour lacks it.
    """

    flavour: EngineFormat
    """Flavour of TensorRT; --format."""
    batch: Sizes = ENGINE_BATCHES
    """Batch sizes that the engine accepts, and the optimum that it is tuned for."""
    sizes: Sizes | None = None
    """Heights and widths in pixels that it accepts and is tuned for; None for a model of fixed size."""
    workspace_mib: int | None = None
    """Limit on the scratch memory of a layer in MiB; None for all memory of the GPU."""
    optimization_level: int | None = None
    """Effort of the search for faster kernels, 0 to 5; None for TensorRT's default, 3."""
    version_compatible: bool = False
    """Newer releases of the same major version can run the engine, with the lean runtime of the one that built it."""
    hardware_compatible: bool = False
    """Every GPU from Ampere on can run the engine, possibly more slowly."""
    strip_weights: bool = False
    """The plan holds no weights; the loader takes them from the ONNX file, which has to lie beside it."""
    detailed_profiling: bool = False
    """The engine gives names, data types and kernels of its layers to profilers and to the engine inspector."""
    compute_capabilities: tuple[str, ...] = ()
    """GPUs to build for, such as "8.6"; empty for Ampere and newer."""
    timing_cache: Path | None = None
    """File of measured kernel times, read if it exists and updated, so that later builds take less time."""

    def __post_init__(self) -> None:
        if self.flavour not in FLAVOURS:
            raise UserError(f"--format: found {self.flavour}, expected one of {', '.join(FLAVOURS)}")
        for option in fields(self):
            reason = UNSUPPORTED[self.flavour].get(option.name)
            if reason and getattr(self, option.name) != option.default:
                raise UserError(f"{flag(option.name)}: {FLAVOURS[self.flavour].label} {reason}; leave it out")
        for name, values in (("batch", self.batch), ("sizes", self.sizes)):
            if values and not (len(values) == 3 and 1 <= values[0] <= values[1] <= values[2]):
                found = ",".join(map(str, values))
                raise UserError(
                    f"{flag(name)}: found {found}, expected minimum, optimum and maximum, non-decreasing and at least 1"
                )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UserError(f"{flag('workspace_mib')}: found {self.workspace_mib}, expected at least 1 MiB")
        level = self.optimization_level
        if level is not None and not 0 <= level <= MAX_OPTIMIZATION_LEVEL:
            raise UserError(f"{flag('optimization_level')}: found {level}, expected 0 to {MAX_OPTIMIZATION_LEVEL}")
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            found = ", ".join(self.compute_capabilities)
            raise UserError(f"{flag('compute_capabilities')}: found {found}, expected each once")


def flag(option: str) -> str:
    """Return the command's flag for a field of `EngineOptions`."""
    names = {
        "flavour": "format",
        "sizes": "size",
        "workspace_mib": "workspace",
        "compute_capabilities": "compute-capability",
    }
    return "--" + names.get(option, option.replace("_", "-"))
