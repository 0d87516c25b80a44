"""The processes of Ray itself that a folder run on a cluster needs: whether they answer."""

import socket
import time
from typing import Any

from cgan.errors import GateError, UserError

CONNECT_SECONDS = 10.0
"""Time to reach a cluster; Ray itself would try for minutes."""

LOOK_SECONDS = 2.0
"""Time between two looks at the processes."""

RAYLET_SECONDS, HEAD_SECONDS = 3.0, 30.0
"""Time without an answer after which they count as lost. Ray would end this process without a report: after 14 s if it
misses an object in the raylet, 60 s after the loss of the head."""


class RayLostError(GateError):
    """Ray itself was lost on this machine, or the head of the cluster."""


class Services:
    """The raylet of this machine, and the head of the cluster.

    Args:
        ray: the package, connected to the cluster.
    """

    def __init__(self, ray: Any) -> None:
        context = ray.get_runtime_context()
        own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        raylet = f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"
        self._services = {
            "Ray on this machine": (raylet, RAYLET_SECONDS),
            "the head of the Ray cluster": (context.gcs_address, HEAD_SECONDS),
        }
        self._looked = time.monotonic()
        self._answered = dict.fromkeys(self._services, self._looked)

    def look(self) -> None:
        """Look at the processes, if it is time.

        Raises:
            RayLostError: one has given no answer for too long.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        for name, (address, patience) in self._services.items():
            problem = refusal(address, LOOK_SECONDS)
            self._looked = time.monotonic()
            if not problem:
                self._answered[name] = self._looked
            elif self._looked - self._answered[name] > patience:
                raise RayLostError(f"{name} was lost (nothing answers at {address}); start it again with ray start")


def check_address(address: str) -> None:
    """Check that something listens at HOST:PORT.

    Raises:
        UserError: the address is no such pair, or nothing answers.
    """
    host, _, port = address.rpartition(":")
    if address == "auto" or address == "local":
        return
    if not (host and port.isdecimal()):
        raise UserError(f"--ray-address: found {address!r}, expected HOST:PORT, such as head:6379")
    if problem := refusal(address, CONNECT_SECONDS):
        raise UserError(
            f"--ray-address {address}: nothing answers there ({problem}); start a cluster with ray start --head"
        )


def refusal(address: str, seconds: float) -> str:
    """Return why nothing answers at HOST:PORT within a time; empty if something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return str(error)
    return ""
