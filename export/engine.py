"""Engines of TensorRT and TensorRT for RTX, built from an ONNX file by the same code.

The network is strongly typed, so the engine computes in the data types of the ONNX file: an FP16 engine comes from an
FP16 file, an INT8 engine from a file with Q/DQ layers.
"""

import hashlib
import signal
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from cgan.errors import GateError, UserError, cannot_write
from cgan.files import OccupiedError, atomic_path, read_regular
from cgan.onnx_file import read_onnx
from cgan.readers import LARGE_BYTES
from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, ModelSpec
from export.build_record import EngineFlags, EnginePrecision, EngineRecord, Profile
from export.choices import EngineFormat
from export.engine_options import EngineOptions, flag
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
"""`on_progress(phase, done, steps)`: TensorRT finished `done` of `steps` steps of a phase. Phases nest; any thread may
call."""

AMPERE_PLUS = "8.0+"
"""In a build record: any GPU from this compute capability on. It is the target of hardware compatible engines, and of
engines of TensorRT for RTX without a named target (which GPUs that flavour supports: `infer.backends.flavours`)."""


def build_engine(
    onnx_file: Path, spec: ModelSpec, options: EngineOptions, target: Path, on_progress: Progress | None = None
) -> EngineRecord:
    """Build an engine and check that it computes in the precision of its contract.

    Args:
        onnx_file: an ONNX file of `export.onnx_model` or `export.quantize`, in the precision of the contract.
        spec: the contract of the engine.
        options: settings of the builder.
        target: file to write; the caller gives it its final name.
        on_progress: called while the builder works. An exception that it raises, also Ctrl-C, ends the build and is
            raised here.

    Returns:
        The build record of the sidecar. Seal the sidecar with `infer.backends.trt.sealed`: an engine with an unsealed
        sidecar is refused.

    Raises:
        UserError: the flavour or a GPU is missing, the options do not fit the model, or the file is not the model.
        GateError: the build failed, or the engine does not have the precision of the contract.
        OSError: `target` cannot be written.
    """
    trt, gpu = find_builder(options)
    log = messages(trt)
    log.clear()
    builder = trt.Builder(log)
    content = read_onnx(onnx_file)
    network = _network(trt, builder, content, onnx_file, spec)
    profile = _profile(spec, options)
    plan = _plan(trt, builder, network, profile, options, on_progress)
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
        flags=flags_of(options),
        plan_bytes=target.stat().st_size,
        bytes_per_parameter=round(target.stat().st_size / spec.parameters, 3),
        precision=_precision(trt, network, plan, options.flavour, _targets(options, gpu)),
        warnings=sorted(set(log.warnings)),
    )
    require_precision(record, spec)
    return record


def find_builder(options: EngineOptions) -> tuple[ModuleType, Gpu | None]:
    """Return the module that builds, and the GPU that it builds on, None where it needs none.

    Raises:
        UserError: one of them is missing or too old for the options.
    """
    trt = load_flavour(options.flavour)
    gpu, none = find_gpu(), "found no NVIDIA GPU or no driver for it here"
    if options.flavour == "tensorrt-rtx":
        if options.strip_weights and gpu is None:
            # Measured with 1.7.1: every network with refittable weights, even a single constant, needs CUDA.
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
    """Parse the content of an ONNX file into a strongly typed network; raise UserError unless it fits the contract."""
    # In TensorRT 11 all networks are strongly typed, and the flag may be missing.
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
        raise UserError(
            f"{size_flag}: found none for a model of dynamic size, expected minimum, optimum and maximum; give them"
        )
    if not spec.dynamic_size and sizes is not None:
        raise UserError(f"{size_flag}: found {sizes} for a model of fixed size {spec.render_size}; leave it out")
    sizes = sizes or (spec.render_size,) * 3
    if any(size % spec.size_multiple for size in sizes):
        raise UserError(f"{size_flag}: found {sizes}, expected multiples of {spec.size_multiple}")
    return Profile(*([count, 1, size, size] for count, size in zip(options.batch, sizes, strict=True)))


def _plan(
    trt: ModuleType,
    builder: Any,
    network: Any,
    profile: Profile,
    options: EngineOptions,
    on_progress: Progress | None,
) -> Any:
    """Run the builder and return the serialised engine."""
    log = messages(trt)
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
    return plan


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
    """Compute capabilities that TensorRT for RTX builds for, by name: "8.6" for its SM86."""
    members = trt.ComputeCapability.__members__.items()
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in members if name.startswith("SM")}


def _progress_monitor(trt: ModuleType, on_progress: Progress | None) -> Any:
    """Return a progress monitor that calls `on_progress`, keeps an exception from it and then ends the build."""

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
    """Let Ctrl-C end the build through the monitor: TensorRT would print an exception raised in it and may go on."""

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
    """Give the builder the timing cache of a file, or an empty one; return the digests of what may be replaced."""
    try:
        found = read_regular(path, LARGE_BYTES)
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


def flags_of(options: EngineOptions) -> EngineFlags:
    """Return the options of the builder that a build record keeps."""
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
