"""From an ONNX file to an engine of TensorRT or of TensorRT for RTX, through one builder.

The network is strongly typed, so the engine computes in the types of the ONNX file: an FP16 engine comes from an FP16
file, an INT8 one from a file with Q/DQ layers. What the two flavours do not share is in `UNSUPPORTED`.
"""

import hashlib
import signal
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from cgan.errors import GateError, UserError, cannot_write
from cgan.files import OccupiedError, atomic_path, read_regular
from cgan.onnx_file import read_onnx
from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, ModelSpec
from export.build_record import EngineFlags, EnginePrecision, EngineRecord, Profile
from export.choices import ENGINE_BATCHES, EngineFormat, Sizes
from export.engine_precision import (
    FROM_ENGINE,
    FROM_NETWORK,
    engine_precision,
    network_precision,
    require_precision,
)
from infer.backends.flavours import FLAVOURS, Gpu, find_gpu, load_flavour, messages, release
from infer.backends.trt import fits

Progress = Callable[[str, int, int], None]
"""`on_progress(phase, done, steps)`: TensorRT finished so many steps of a phase. Phases nest; any thread may call."""

MAX_OPTIMIZATION_LEVEL = 5

AMPERE_PLUS = "8.0+"
"""In a build record: any GPU from this compute capability on. That is what hardware compatible engines run on, and
those of TensorRT for RTX where no target was named, on the GPUs that it runs on at all (`infer.backends.flavours`)."""

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
"""Options that a flavour takes no notice of, and why; checked against TensorRT for RTX 1.7.1 and its documentation."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to build an engine. The flag of the command that sets each field is `flag(name)`."""

    flavour: EngineFormat
    """Flavour of TensorRT; --format."""
    batch: Sizes = ENGINE_BATCHES
    """Batch sizes that the engine takes, and the one that it is tuned for."""
    sizes: Sizes | None = None
    """Heights and widths in pixels that it takes and is tuned for; None for a model of fixed size."""
    workspace_mib: int | None = None
    """Most scratch memory of a layer in MiB; None for all that the GPU has."""
    optimization_level: int | None = None
    """0 to 5, how long the builder looks for faster kernels; None for TensorRT's default, 3."""
    version_compatible: bool = False
    """Newer releases of the same major version can run it, with the lean runtime of the release that built it."""
    hardware_compatible: bool = False
    """Every GPU from Ampere on can run it, which may be slower."""
    strip_weights: bool = False
    """The plan holds no weights; they are taken from the ONNX file, which has to lie beside it, when it is loaded."""
    detailed_profiling: bool = False
    """The engine tells names, types and kernels of its layers to profilers and to the engine inspector."""
    compute_capabilities: tuple[str, ...] = ()
    """GPUs to build for, such as "8.6"; empty for Ampere and newer."""
    timing_cache: Path | None = None
    """File of measured kernel times, read where it exists and written back; a later build then takes less time."""

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
                raise UserError(f"{flag(name)}: found {found}, expected least, optimal and largest value from 1 on")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UserError(f"{flag('workspace_mib')}: found {self.workspace_mib}, expected at least 1 MiB")
        level = self.optimization_level
        if level is not None and not 0 <= level <= MAX_OPTIMIZATION_LEVEL:
            raise UserError(f"{flag('optimization_level')}: found {level}, expected 0 to {MAX_OPTIMIZATION_LEVEL}")
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            found = ", ".join(self.compute_capabilities)
            raise UserError(f"{flag('compute_capabilities')}: found {found}, expected each once")


def flag(option: str) -> str:
    """The flag of the command that sets a field of `EngineOptions`."""
    names = {
        "flavour": "format",
        "sizes": "size",
        "workspace_mib": "workspace",
        "compute_capabilities": "compute-capability",
    }
    return "--" + names.get(option, option.replace("_", "-"))


def build_engine(
    onnx_file: Path, spec: ModelSpec, options: EngineOptions, target: Path, on_progress: Progress | None = None
) -> EngineRecord:
    """Build an engine and check that it computes in the precision of its contract.

    Args:
        onnx_file: gray in, RGB out, of the precision that the contract names.
        spec: the contract of the engine.
        options: checked against the flavour already.
        target: file to write; the caller gives it its final name.
        on_progress: told what the builder does. What it raises, Ctrl-C included, ends the build and comes out of it.

    Returns:
        The build record of the sidecar, JSON values; `infer.backends.trt` compares it with the machine. Seal the
        sidecar with `infer.backends.trt.sealed`, or the engine is refused.

    Raises:
        UserError: the flavour or a GPU is missing, or the options or the file do not fit, or it is not the whole model.
        GateError: the build failed, or the engine is not of the precision that the contract names.
        OSError: `target` cannot be written.
    """
    trt, gpu = find_builder(options)
    log = messages(trt)
    log.clear()
    builder = trt.Builder(log)
    content = read_onnx(onnx_file)
    network = _network(trt, builder, content, onnx_file, spec)
    profile = _profile(spec, options)
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    shapes.set_shape(INPUT_CONTRACT["name"], profile.min, profile.opt, profile.max)
    config.add_optimization_profile(shapes)
    _configure(trt, config, options)
    monitor = _progress_monitor(trt, on_progress)
    config.progress_monitor = monitor
    if options.timing_cache:
        known = _read_timing_cache(config, options.timing_cache, log)
    with _interrupt_kept(monitor):
        plan = builder.build_serialized_network(network, config)
    if monitor.failure:
        raise monitor.failure
    if plan is None:
        raise GateError(f"{FLAVOURS[options.flavour].label} cannot build the engine ({log.reason()})")
    if options.timing_cache:
        _write_timing_cache(config, options.timing_cache, known)
    with target.open("wb") as file:
        file.write(plan)
    record = EngineRecord(
        flavour=options.flavour,
        tensorrt_version=trt.__version__,
        compute_capabilities=_targets(options, gpu),
        gpu=gpu.name if gpu else None,
        platform=sysconfig.get_platform(),
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        profiles=[profile],
        flags=_flags(options),
        plan_bytes=target.stat().st_size,
        bytes_per_parameter=round(target.stat().st_size / spec.parameters, 3),
        precision=_precision(trt, network, plan, options.flavour, _targets(options, gpu)),
        warnings=sorted(set(log.warnings)),
    )
    require_precision(record, spec)
    return record


def find_builder(options: EngineOptions) -> tuple[ModuleType, Gpu | None]:
    """The module that builds, and the GPU that it builds on, None where none is needed.

    Raises:
        UserError: one of them is missing, or is too old for the options.
    """
    trt = load_flavour(options.flavour)
    gpu, none = find_gpu(), "found no NVIDIA GPU or no driver for it here"
    if options.flavour == "tensorrt-rtx":
        if options.strip_weights and gpu is None:
            # Measured with 1.7.1: every network with refittable weights, even a single constant, wants CUDA.
            raise UserError(
                f"{flag('strip_weights')}: {none}, expected one: without it TensorRT for RTX builds only "
                "engines that hold their weights; leave it out"
            )
        return trt, None
    if gpu is None:
        raise UserError(
            f"{flag('flavour')} tensorrt: {none}, expected the one that will run the engine; "
            f"use {flag('flavour')} tensorrt-rtx, which builds without one"
        )
    if options.hardware_compatible and release(gpu.compute_capability) < release(AMPERE_PLUS[:-1]):
        raise UserError(
            f"{flag('hardware_compatible')}: found {gpu.name} of compute capability {gpu.compute_capability}, "
            f"expected {AMPERE_PLUS}; leave it out"
        )
    return trt, gpu


def _network(trt: ModuleType, builder: Any, content: bytes, onnx_file: Path, spec: ModelSpec) -> Any:
    """The strongly typed network in the content of a file, once it is the contract's."""
    # TensorRT 11 knows no other networks and may drop the flag.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, messages(trt))
    if not parser.parse(content):
        error = parser.get_error(0)
        where = f" at {error.node_operator()} {error.node_name()}" if error.node_name() else ""
        reason = " ".join(error.desc().split())[:400]
        raise UserError(f"{onnx_file}: {trt.__name__} cannot read it{where} ({reason}); export it again")
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    names = [t.name for t in tensors], [network.get_output(i).name for i in range(network.num_outputs)]
    if names != ([INPUT_CONTRACT["name"]], [OUTPUT_CONTRACT["name"]]):
        raise UserError(f"{onnx_file}: found inputs and outputs {names}, expected gray and rgb; export it again")
    found = list(tensors[0].shape)
    size = -1 if spec.dynamic_size else spec.render_size
    if found != [-1, 1, size, size]:
        raise UserError(f"{onnx_file}: found an input of {found}, expected {[-1, 1, size, size]}; export it again")
    return network


def _profile(spec: ModelSpec, options: EngineOptions) -> Profile:
    sizes, size_flag = options.sizes, flag("sizes")
    if spec.dynamic_size and sizes is None:
        raise UserError(f"{size_flag}: found none for a model of any size, expected least, optimal and largest one")
    if not spec.dynamic_size and sizes is not None:
        raise UserError(f"{size_flag}: found {sizes} for a model of fixed size {spec.render_size}; leave it out")
    sizes = sizes or (spec.render_size,) * 3
    if any(size % spec.size_multiple for size in sizes):
        raise UserError(f"{size_flag}: found {sizes}, expected multiples of {spec.size_multiple}")
    return Profile(*([count, 1, size, size] for count, size in zip(options.batch, sizes, strict=True)))


def _configure(trt: ModuleType, config: Any, options: EngineOptions) -> None:
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * 2**20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        # The lean runtime in a plan is host code, which is never allowed to run.
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if options.detailed_profiling:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.compute_capabilities:
        known = _compute_capabilities(trt)
        unknown = [name for name in options.compute_capabilities if name not in known]
        if unknown:
            raise UserError(
                f"{flag('compute_capabilities')}: found {', '.join(unknown)}, expected some of {', '.join(known)}"
            )
        config.num_compute_capabilities = len(options.compute_capabilities)
        for i, name in enumerate(options.compute_capabilities):
            config.set_compute_capability(known[name], i)


def _compute_capabilities(trt: ModuleType) -> dict[str, Any]:
    """Compute capabilities that TensorRT for RTX builds for: "8.6" for its SM86."""
    members = trt.ComputeCapability.__members__.items()
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in members if name.startswith("SM")}


def _progress_monitor(trt: ModuleType, on_progress: Progress | None) -> Any:
    """A monitor that tells `on_progress`, keeps what that raises and ends the build then."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.failure: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            self._tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(phase, step + 1)
            return self.failure is None

        def phase_finish(self, phase: str) -> None:
            self._tell(phase, self.steps[phase])

        def _tell(self, phase: str, done: int) -> None:
            try:
                if on_progress and not self.failure:
                    on_progress(phase, done, self.steps[phase])
            except BaseException as error:  # TensorRT would print it and go on
                self.failure = error

    return Monitor()


@contextmanager
def _interrupt_kept(monitor: Any) -> Iterator[None]:
    """Ctrl-C ends the build; as an exception inside the monitor TensorRT would print it and may go on."""

    def keep(number: int, frame: object) -> None:
        monitor.failure = KeyboardInterrupt()

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _read_timing_cache(config: Any, path: Path, log: Any) -> frozenset[str]:
    """Give the builder a timing cache, an empty one where there is no file; digests of what may be replaced."""
    try:
        found = read_regular(path)
    except OccupiedError as error:
        raise UserError(
            f"{flag('timing_cache')}: {path} cannot be read ({error.strerror}); name another file"
        ) from error
    except OSError as error:
        raise UserError(f"{flag('timing_cache')}: {path} cannot be read ({error}); name another file") from error
    content = found or b""
    log.errors.clear()
    accepted = config.set_timing_cache(config.create_timing_cache(content), False)
    if content and (log.errors or not accepted):  # TensorRT would go on with an empty one
        raise UserError(
            f"{flag('timing_cache')}: found {path}, expected a timing cache of this TensorRT and GPU "
            f"({log.reason()}); delete it or name another file"
        )
    return frozenset() if found is None else frozenset({hashlib.sha256(found).hexdigest()})


def _write_timing_cache(config: Any, path: Path, known: frozenset[str]) -> None:
    try:
        with atomic_path(path, known) as temporary:
            temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    except OccupiedError as error:
        raise GateError(
            f"{flag('timing_cache')}: {path} appeared or changed while the engine was built, and was left as it is; "
            "give the command again or name another file"
        ) from error
    except OSError as error:
        raise cannot_write(path, error) from error


def _targets(options: EngineOptions, gpu: Gpu | None) -> list[str]:
    """Compute capabilities of the GPUs that the engine runs on."""
    if options.compute_capabilities:
        return list(options.compute_capabilities)
    return [AMPERE_PLUS if gpu is None or options.hardware_compatible else gpu.compute_capability]


def _flags(options: EngineOptions) -> EngineFlags:
    return EngineFlags(
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        strip_weights=options.strip_weights,
        detailed_profiling=options.detailed_profiling,
        optimization_level=options.optimization_level,
        workspace_mib=options.workspace_mib,
        timing_cache=options.timing_cache is not None,
    )


def _precision(trt: ModuleType, network: Any, plan: Any, flavour: EngineFormat, targets: list[str]) -> EnginePrecision:
    """Return the precision of the network and, if the GPU here can run the engine, of the engine itself."""
    of_network = network_precision(network)
    gpu = find_gpu()
    runs_here = gpu and fits({"flavour": flavour, "compute_capabilities": targets}, gpu)
    of_engine = engine_precision(trt, plan) if runs_here else None
    return EnginePrecision(
        fp16_share=(of_engine or of_network).fp16_share,
        found_by=FROM_ENGINE if of_engine else FROM_NETWORK,
        network=of_network,
        engine=of_engine,
    )
