"""The processes of a Ray cluster for a folder run: start, loss and replacement, and their model as a `Backend`."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cgan
from cgan.errors import GateError, UserError
from cgan.extras import needed
from cgan.spec import ModelSpec
from infer.backends.base import Backend
from infer.folder.console import stop_on_signal
from infer.folder.open_storage import is_url
from infer.folder.options import Stage
from infer.folder.photo_item import Item
from infer.folder.ray_services import RayLostError, Services, check_address
from infer.folder.ray_worker import Facts, Worker
from infer.folder.request import FolderRequest
from infer.folder.thread_pools import TICK

OBJECT_STORE_BYTES = 80_000_000
"""Memory of Ray's object store on this machine alone, near the least that Ray takes: no photo passes through it."""

PATIENCE_SECONDS = 30.0
"""Time without any process at work after which the user is told what the run waits for."""

SILENT_SECONDS = 60.0
"""Time without an answer after which a process counts as lost; it answers within a second."""

MOST_STARTS = 3
"""Processes that may end while they load the first model."""

AS_AGREED = ("digest", "arithmetic", "spec", "version")
"""Facts that must be equal in all processes."""


class Phase(StrEnum):
    """Phase of a process."""

    LOADING = "loading"
    LOADED = "loaded"
    JOINING = "joining"
    READY = "ready"


@dataclass(eq=False)
class Member:
    """A process of the cluster."""

    handle: Any
    """Ray's handle of the `Worker`."""
    call: Any
    """Reference to the result of the call that the process works on, None if there is none."""
    phase: Phase = Phase.LOADING
    node: str = ""
    """Name of the machine, once the model is loaded."""
    mark: str = ""
    """Mark of its temporary files, once it has joined."""
    in_hand: dict[str, Item] = field(default_factory=dict)
    """Photos that were handed out and are not settled, by name."""
    stages: dict[str, Stage] = field(default_factory=dict)
    """Time of its stages as last told."""
    stock: int = 0
    """Number of photos to keep in hand."""
    told: float = 0.0
    """Time at which it was asked last."""
    has_ended: bool = False
    """True once its pipeline has stopped, after which it writes nothing more."""


class Fleet:
    """The processes; one that ends is replaced.

    Args:
        request: the run.
        note: prints a note for the user.
        stop: the answer to signals.
    """

    def __init__(self, request: FolderRequest, note: Callable[[str], None], stop: stop_on_signal) -> None:
        assert request.ray is not None
        self.options = request.ray
        self.request = _with_absolute_paths(request)
        self.note, self.stop = note, stop
        self.ray: Any = None
        """The package, once it is connected."""
        self.members: list[Member] = []
        self.marks: set[str] = set()
        """Marks of the temporary files of all processes that have joined the run, also of those that ended."""
        self.facts: Facts | None = None
        """Facts on the model, once a process has loaded it."""
        self._ready_since = time.monotonic()
        self._told = False

    def start(self) -> None:
        """Connect to the cluster, or start one on this machine, and start the processes.

        Raises:
            UserError: there is no cluster at the address, or no machine of it has room for a process.
        """
        with needed("--engine ray", "ray"):
            import ray
        address = self.options.address or os.environ.get("RAY_ADDRESS")
        if address and address.startswith("ray://"):
            raise UserError(f"{address}: found a client's address, expected HOST:PORT; run on a machine of the cluster")
        if address:
            check_address(address)
        for place in (*self.request.sources, self.request.target):
            if place.startswith("memory://"):
                raise UserError(f"{place}: found the memory of one process, expected a place that all machines share")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell Ray's authors of the cluster
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        alone: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else alone),
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"the Ray cluster at {address}" if address else "Ray on this machine"
            advice = "check that RAY_AUTH_MODE and the token are those of ray start, and the version of Ray too"
            raise UserError(f"{where} cannot be used ({_line(error)}); {advice}") from error
        self.ray = ray
        ray._private.worker._worker_logs_enabled = False  # Ray's words on lost processes would go to standard output
        self._size()
        self._services = Services(ray)
        for _ in range(self.actors):
            self._add()

    def _size(self) -> None:
        """Choose the number and size of processes by the machines of the cluster.

        Raises:
            UserError: no machine has room for a process.
        """
        options = self.options
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpus = options.gpus
        if gpus is None:
            gpus = 1.0 if self.request.device != "cpu" and any(node.get("GPU") for node in nodes) else 0.0
        suited = [node for node in nodes if node.get("GPU", 0) >= gpus]
        per_node = [node.get("GPU", 0) // gpus if gpus else 1 for node in suited]
        shares = [max(1, node.get("CPU", 0) // count) for node, count in zip(suited, per_node, strict=True)]
        cpus = options.cpus or (min(shares) if shares else 1)
        room = [
            int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else sys.maxsize)) for node in suited
        ]
        if not sum(room):
            most = " and ".join(f"{max((n.get(k, 0) for n in nodes), default=0):g} {k}s" for k in ("CPU", "GPU"))
            raise UserError(
                f"--cpus-per-actor {cpus:g}, --gpus-per-actor {gpus:g}: found machines of at most {most} in the "
                "cluster, expected one with room for a process; ask for less"
            )
        self.cpus, self.gpus, self.actors = cpus, gpus, options.actors or sum(room)
        if self.actors > sum(room):
            self.note(f"note: --actors {self.actors}: the cluster has room for {sum(room)}; the others wait for it")

    @property
    def workers(self) -> int:
        """Threads of a process."""
        return self.request.workers or max(1, int(self.cpus))

    def _add(self) -> None:
        remote = self.ray.remote(Worker).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_restarts=0,
            max_concurrency=4,
            scheduling_strategy="SPREAD",
        )
        handle = remote.remote(self.request, self.workers, max(1, int(self.cpus) // self.workers))
        self.members.append(Member(handle, handle.load.remote()))

    def wait(self) -> Iterator[tuple[Member, Any]]:
        """Wait up to TICK, and yield the processes whose calls have ended, each with the result or an exception.

        Raises:
            RayLostError: there is no Ray any more.
        """
        try:
            self._services.look()
        except RayLostError:
            self.ray.shutdown()
            self.ray = None
            raise
        calls = {member.call: member for member in self.members if member.call is not None}
        for reference, member in list(calls.items()):
            if member.phase is Phase.READY and time.monotonic() - member.told > SILENT_SECONDS:
                del calls[reference]
                member.call = None
                yield member, self.ray.exceptions.RayError(f"no answer for {SILENT_SECONDS:g} s")
        if any(member.phase is Phase.READY for member in self.members):
            self._ready_since = time.monotonic()
        elif time.monotonic() - self._ready_since > PATIENCE_SECONDS and not self._told:
            self._told = True
            self.note(f"waiting for a machine with {self.cpus:g} free CPUs and {self.gpus:g} GPUs in the cluster")
        if not calls:
            time.sleep(TICK)
            return
        ended, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=0)
        if not ended:
            ended, _ = self.ray.wait(list(calls), num_returns=1, timeout=TICK)
        for reference in ended:
            member = calls[reference]
            member.call = None
            try:
                yield member, self.ray.get(reference)
            except self.ray.exceptions.RayTaskError as error:
                yield member, error.cause
            except self.ray.exceptions.RayError as error:
                yield member, error

    def loaded(self, member: Member, facts: object) -> None:
        """Take in the answer of a process that has loaded the model.

        Raises:
            UserError: it could not, or has another model or version than the others.
        """
        if isinstance(facts, str):
            raise UserError(facts)
        if not isinstance(facts, Facts):
            raise UserError(
                f"a process of the cluster could not start ({_line(facts)}); install cgan {cgan.__version__} with the "
                "same Python on all machines"
            )
        self.facts = self.facts or facts
        for name in AS_AGREED:
            found, expected = getattr(facts, name), getattr(self.facts, name)
            if found != expected:
                raise UserError(
                    f"{facts.node}: found a model or a cgan that differs by its {name} from that on {self.facts.node} "
                    f"({found}, {expected}); use the same on all machines"
                )
        member.node, member.phase = facts.node, Phase.LOADED

    def first_facts(self) -> Facts:
        """Wait until a process has loaded the model, and return facts on it.

        Raises:
            UserError: a process could not load it.
            SystemExit: a signal came.
        """
        ends = 0
        while self.facts is None:
            if self.stop.event.is_set():
                raise SystemExit(self.stop.exit_code)
            for member, result in self.wait():
                if isinstance(result, self.ray.exceptions.RayError) and ends < MOST_STARTS:
                    ends += 1
                    self.replace(member)
                else:
                    self.loaded(member, result)
        return self.facts

    def replace(self, member: Member) -> None:
        """Start a process in place of one that ended."""
        self.members.remove(member)
        self.ray.kill(member.handle)
        self._add()

    def close(self) -> None:
        """End the processes, and a cluster that was started here."""
        if self.ray is None:  # `start` has failed, or Ray was lost
            return
        for member in self.members:
            self.ray.kill(member.handle)
        self.members.clear()
        self.ray.shutdown()


class RayBackend(Backend):
    """The model in the processes of a cluster. Batches run there; `fleet` has the processes for the pipeline."""

    loads_content = False

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet.request.model, fleet.request.device)
        self.fleet = fleet

    def _activate(self) -> ModelSpec:
        try:
            self.fleet.start()
        finally:
            self.fleet.stop.arm()  # Ray sets handlers of its own
        self._facts = self.fleet.first_facts()
        if self._sha256 and self._facts.digest != self._sha256:
            raise UserError(f"{self.path}: found another file on {self._facts.node} than here; use the same")
        self.note, self.arithmetic = self._facts.note, self._facts.arithmetic
        return self._facts.spec

    def _deactivate(self) -> None:
        self.fleet.close()

    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        ray = self.fleet.ray
        member = next(member for member in self.fleet.members if member.phase is not Phase.LOADING)
        try:
            rgb: NDArray[np.float32] = ray.get(member.handle.run.remote(gray))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise GateError(f"{member.node}: the process of the model ended ({_line(error)}); run it again") from error
        return rgb

    @property
    def engine(self) -> str:
        """Engine and device in the processes."""
        return self._facts.engine

    @property
    def on_gpu(self) -> bool:
        """True if the processes run the model on GPUs."""
        return self._facts.on_gpu

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width that the model was exported for."""
        return self._facts.fixed_size

    @property
    def size_range(self) -> tuple[int, int] | None:
        """Least and largest side of the engine."""
        return self._facts.size_range

    @property
    def batch_range(self) -> tuple[int, int | None]:
        """Least and largest batch of the engine."""
        return self._facts.batch_range


def _with_absolute_paths(request: FolderRequest) -> FolderRequest:
    """Return a request that means the same in a process with another working directory."""

    def absolute(place: str) -> str:
        return place if is_url(place) else str(Path(place).absolute())

    return replace(
        request,
        model=request.model.absolute(),
        sources=tuple(map(absolute, request.sources)),
        target=absolute(request.target),
    )


def _line(error: object) -> str:
    """Return the last line of an error, which Ray's long messages end with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
