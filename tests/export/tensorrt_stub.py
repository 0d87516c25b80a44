"""A stub of a TensorRT module, which records the calls that building an engine makes."""

from collections.abc import Callable
from enum import Enum, IntEnum
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

Kind = Enum("Kind", ["CONVOLUTION"])
Type = Enum("Type", ["HALF"])


def members(*names: str) -> Any:
    return IntEnum("Members", {name: i for i, name in enumerate(names)})


class Logger:
    """Severities; the project derives its own from it."""

    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class Builder:
    def __init__(self, stub: "Stub", log: Any) -> None:
        self.stub = stub
        self.log = log

    def create_network(self, flags: int) -> SimpleNamespace:
        self.stub.calls.append(("create_network", flags))
        self.log.log(Logger.ERROR, "no driver")  # as TensorRT for RTX does where there is none
        tensor = SimpleNamespace(name="gray", shape=(-1, 1, 32, 32))
        half = SimpleNamespace(name="a", dtype=Type.HALF)
        layer = SimpleNamespace(
            type=Kind.CONVOLUTION, num_outputs=1, get_output=lambda i: half, get_input=lambda i: tensor
        )
        return SimpleNamespace(
            num_inputs=1,
            get_input=lambda i: tensor,
            num_outputs=1,
            get_output=lambda i: SimpleNamespace(name="rgb"),
            num_layers=1,
            get_layer=lambda i: layer,
        )

    def create_builder_config(self) -> "Config":
        return Config(self.stub, self.log)

    def create_optimization_profile(self) -> "Profile":
        return Profile(self.stub)

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        self.log.log(Logger.WARNING, "slow\n  tactics")
        self.stub.on_build()
        if self.stub.plan is None:
            self.log.log(Logger.INTERNAL_ERROR, "a thread has no context")
            self.log.log(Logger.ERROR, "IBuilder::build: no tactics")
        config.progress_monitor.phase_start("build", None, 2)
        config.progress_monitor.step_complete("build", 0)
        config.progress_monitor.phase_finish("build")
        return self.stub.plan


class Profile:
    def __init__(self, stub: "Stub") -> None:
        self.stub = stub

    def __repr__(self) -> str:
        return "profile"

    def set_shape(self, *shapes: Any) -> None:
        self.stub.calls.append(("set_shape", *shapes))


class Config:
    def __init__(self, stub: "Stub", log: Any) -> None:
        vars(self).update(stub=stub, log=log)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "progress_monitor":
            self.stub.calls.append((name, value))
        object.__setattr__(self, name, value)

    def add_optimization_profile(self, profile: Profile) -> None:
        self.stub.calls.append(("add_optimization_profile", str(profile)))

    def __getattr__(self, name: str) -> Any:
        return lambda *values: self.stub.calls.append((name, *values))

    def create_timing_cache(self, content: bytes) -> bytes:
        self.stub.calls.append(("create_timing_cache", content))
        if self.stub.cache_error:
            self.log.log(Logger.ERROR, self.stub.cache_error)
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.stub.calls.append(("set_timing_cache", cache, ignore_mismatch))
        return cache != b"of another GPU"

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: b"kernel times")


class Runtime:
    def __init__(self, stub: "Stub", log: Any) -> None:
        self.stub = stub

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        assert plan == self.stub.plan
        return self.stub.engine


class Stub(ModuleType):
    """A module like tensorrt that writes down what it is told."""

    def __init__(self, name: str, version: str = "11.4.0.106", typed: bool = True) -> None:
        super().__init__(name)
        self.calls: list[tuple[Any, ...]] = []
        self.__version__ = version
        self.plan: bytes | None = b"a plan"
        self.on_build: Callable[[], object] = lambda: None
        self.engine: Any = None
        self.cache_error: str | None = None
        self.ILogger, self.Builder, self.Runtime = Logger, partial(Builder, self), partial(Runtime, self)
        self.OnnxParser = lambda network, log: SimpleNamespace(parse=lambda model: True)
        self.IProgressMonitor = type("IProgressMonitor", (), {})
        self.NetworkDefinitionCreationFlag = members("OTHER", "STRONGLY_TYPED") if typed else members("OTHER")
        self.BuilderFlag = members("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "STRIP_PLAN", "REFIT_IDENTICAL")
        self.MemoryPoolType = members("WORKSPACE")
        self.HardwareCompatibilityLevel = members("NONE", "AMPERE_PLUS")
        self.ProfilingVerbosity = members("NONE", "DETAILED")
        self.LayerInformationFormat = members("JSON")
        self.ComputeCapability = members("NONE", "CURRENT", "SM86", "SM120")
