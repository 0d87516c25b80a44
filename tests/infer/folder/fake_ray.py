"""A stand-in for Ray: each process is an object here, and each call a thread."""

import itertools
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import ModuleType, SimpleNamespace
from typing import Any

from infer.folder import ray_services


class RayError(Exception):
    """As `ray.exceptions.RayError`."""


class RayTaskError(RayError):
    """As `ray.exceptions.RayTaskError`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class ActorDiedError(RayError):
    """As `ray.exceptions.ActorDiedError`."""


class Handle:
    """Handle of one process."""

    def __init__(self, ray: "FakeRay", number: int, worker: Any) -> None:
        self.ray, self.number, self.worker, self.is_dead = ray, number, worker, False

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self.ray.call(self, name, arguments))


class FakeRay(ModuleType):
    """The functions of Ray that a fleet calls."""

    def __init__(self, machines: list[dict[str, float]]) -> None:
        super().__init__("ray")
        self.machines = machines
        self._private = SimpleNamespace(worker=SimpleNamespace())
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.handles: list[Handle] = []
        self.asked: dict[str, Any] = {}
        """Arguments of `init`."""
        self.sizes: list[dict[str, Any]] = []
        """Options of the processes."""
        self.dies: Callable[[Handle, str, tuple[Any, ...]], str] = lambda handle, name, arguments: ""
        """Returns "before" or "after" if the process dies before or after a call; empty if it lives."""
        self.services = ("host:0", "head:6379")
        """Addresses of the raylet of this machine, and of the head of the cluster."""
        self.lost: Callable[[str], str] = lambda address: ""
        """Returns why nothing answers there; empty if something does."""
        self._numbers = itertools.count(1)

    def init(self, **asked: Any) -> None:
        self.asked, self._threads = asked, ThreadPoolExecutor(8)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": machine, "NodeID": f"{i}", "NodeManagerAddress": "host", "NodeManagerPort": i}
            for i, machine in enumerate(self.machines)
        ]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "0", gcs_address="head:6379")

    def remote(self, kind: type) -> Any:
        def options(**size: Any) -> Any:
            self.sizes.append(size)

            def made(*arguments: Any) -> Handle:
                copies = pickle.loads(pickle.dumps(arguments))
                self.handles.append(Handle(self, next(self._numbers), kind(*copies)))
                return self.handles[-1]

            return SimpleNamespace(remote=made)

        return SimpleNamespace(options=options)

    def call(self, handle: Handle, name: str, arguments: tuple[Any, ...]) -> "Future[Any]":
        """Begin a call; what passes between the processes is pickled."""

        def run() -> Any:
            when = self.dies(handle, name, arguments)
            result = None
            if when != "before" and not handle.is_dead:
                try:
                    result = getattr(handle.worker, name)(*pickle.loads(pickle.dumps(arguments)))
                except Exception as error:
                    raise RayTaskError(error) from error
            if when or handle.is_dead:
                handle.is_dead = True
                raise ActorDiedError("The actor died: it was killed\nmore about it")
            return pickle.loads(pickle.dumps(result))

        return self._threads.submit(run)

    def wait(self, calls: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        done, rest = wait(calls, timeout, FIRST_COMPLETED)
        return list(done), list(rest)

    def get(self, call: "Future[Any]") -> Any:
        return call.result()

    def kill(self, handle: Handle) -> None:
        handle.is_dead = True

    def shutdown(self) -> None:
        self._threads.shutdown(wait=False)


def install(patch: Any, machines: list[dict[str, float]]) -> FakeRay:
    """Make the stand-in the package `ray`."""
    ray = FakeRay(machines)
    patch.setitem(sys.modules, "ray", ray)
    refusal = ray_services.refusal
    patch.setattr(
        ray_services, "refusal", lambda at, seconds: ray.lost(at) if at in ray.services else refusal(at, seconds)
    )
    return ray
