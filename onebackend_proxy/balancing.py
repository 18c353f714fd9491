"""Upstreams, what we count about their addresses, and picking one of many.

An `Upstream` is an immutable description. An `EndpointState` lives as long as its address is in use by
any Upstream, so that what was learned about it survives a change of the description.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Container

import attrs

from .addresses import Address


class Health(str, enum.Enum):  # noqa: UP042 (hashed for each request: a str's hash is not a Python function)
    """What the last look at an address found; the values are 1Backend's instance statuses."""

    UNKNOWN = "Unknown"
    HEALTHY = "Healthy"
    DEGRADED = "Degraded"
    UNREACHABLE = "Unreachable"
    ERROR = "Error"


# Where no Healthy one is left, one that may work goes before one that was seen not to.
_RANK = {Health.HEALTHY: 0, Health.DEGRADED: 1, Health.UNKNOWN: 1, Health.UNREACHABLE: 2, Health.ERROR: 2}


@attrs.define(eq=False)
class EndpointState:
    """What we count about one address: requests in flight, failures since it last worked, health.

    `last_heartbeat` is when it was last seen to accept a connection, in seconds since the epoch.
    """

    address: Address
    in_flight: int = 0
    failures: int = 0
    health: Health = Health.UNKNOWN
    last_heartbeat: float | None = None

    def __repr__(self) -> str:
        return (
            f"<{self.address.authority} {self.health.value}, {self.in_flight} in flight,"
            f" {self.failures} failures>"
        )


@attrs.frozen
class Timeouts:
    """Seconds: to connect, from the request sent to the answer's head, without any progress of a body, and
    without a byte through a tunnel (WebSocket)."""

    connect: float = 5.0
    first_byte: float = 60.0
    idle: float = 60.0
    tunnel: float = 3600.0


@attrs.frozen(eq=False)
class Upstream:
    """The addresses that one exchange may go to, with its limits."""

    name: str
    endpoints: tuple[EndpointState, ...]
    timeouts: Timeouts = Timeouts()
    retries: int = 1


def pick(
    upstream: Upstream, tried: Container[EndpointState], random: Callable[[], float]
) -> EndpointState | None:
    """One endpoint not tried yet, at random among the healthiest; None when all were tried.

    `random` gives floats in [0, 1).
    """
    endpoints = upstream.endpoints
    if len(endpoints) == 1:
        return None if endpoints[0] in tried else endpoints[0]
    left = [endpoint for endpoint in endpoints if endpoint not in tried]
    if not left:
        return None
    best = min(_RANK[endpoint.health] for endpoint in left)
    fit = [endpoint for endpoint in left if _RANK[endpoint.health] == best]
    return fit[int(random() * len(fit))]
