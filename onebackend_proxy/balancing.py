"""Upstreams, what we count about their addresses, and picking one of many.

An `Upstream` is an immutable description. An `EndpointState` lives as long as its address is in use by
any Upstream, so that what was learned about it survives a change of the description.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import log
from typing import TYPE_CHECKING

import attrs

from .addresses import Address

if TYPE_CHECKING:
    from .headers import OutgoingRequest

COOKIE = b"ob_upstream"
"""The cookie that keeps a client at one endpoint, where balance is cookie."""
_MAX_DOUBLINGS = 32


class Health(str, enum.Enum):  # noqa: UP042 (hashed for each request: a str's hash is not a Python function)
    """What the last look at an address found; the values are 1Backend's instance statuses."""

    UNKNOWN = "Unknown"
    HEALTHY = "Healthy"
    DEGRADED = "Degraded"
    UNREACHABLE = "Unreachable"
    ERROR = "Error"


# Where no Healthy one is left, one that may work goes before one that was seen not to.
_RANK = {Health.HEALTHY: 0, Health.DEGRADED: 1, Health.UNKNOWN: 1, Health.UNREACHABLE: 2, Health.ERROR: 2}
_WORST = 2
_HEALTHY = Health.HEALTHY


class Balance(str, enum.Enum):  # noqa: UP042 (as above)
    """How one of several fit endpoints is picked; the values are those of a Route's `balance`."""

    RANDOM = "random"
    ROUND_ROBIN = "round_robin"
    LEAST_CONN = "least_conn"
    IP_HASH = "ip_hash"
    COOKIE = "cookie"


@attrs.frozen
class Ejection:
    """When an endpoint is taken out of use: `after` so many failures in a row (0 is never), for `seconds`,
    twice as long each further time without a success between, up to `at_most`."""

    after: int = 3
    seconds: float = 1.0
    at_most: float = 60.0


@attrs.define(eq=False)
class EndpointState:
    """What we count about one address: requests in flight, failures since it last worked and ever, health.

    `last_heartbeat` is when it was last seen to accept a connection, in seconds since the epoch;
    `ejected_until` is when one request may try it again, by the clock of `failed`, or 0.0.
    """

    address: Address
    in_flight: int = 0
    failures: int = 0
    failures_ever: int = 0
    health: Health = Health.UNKNOWN
    last_heartbeat: float | None = None
    ejected_until: float = 0.0
    _ejections: int = attrs.field(default=0, init=False)
    trial: object | None = attrs.field(default=None, init=False, repr=False)
    """The request that was let through to try it while ejected; whoever sends it clears this at its end."""

    def __repr__(self) -> str:
        out = f", out until {self.ejected_until:g}" if self.ejected_until else ""
        return (
            f"<{self.address.authority} {self.health.value}, {self.in_flight} in flight,"
            f" {self.failures} failures{out}>"
        )

    def refused(self, now: float, ejection: Ejection) -> None:
        """It could not be connected to: out of use at once, since the next request would fare no better."""
        self.health = Health.UNREACHABLE
        self.failed(now, ejection)

    def failed(self, now: float, ejection: Ejection) -> None:
        """Count a failure in a row, and eject it when there were enough, or when it is Unreachable."""
        self.failures += 1
        self.failures_ever += 1
        if not ejection.after:
            return
        if self.ejected_until:
            if self.trial is None and now < self.ejected_until:
                # Sent before it was ejected: a hundred requests that fail together are one ejection.
                return
        elif self.failures < ejection.after and self.health is not Health.UNREACHABLE:
            return
        seconds = ejection.seconds * 2 ** min(self._ejections, _MAX_DOUBLINGS)
        self.ejected_until = now + min(seconds, ejection.at_most)
        self._ejections += 1
        self.trial = None

    def worked(self) -> None:
        """It answered: no failures in a row, in use again, and healthy if it was not known to be."""
        if self.failures:
            self.failures = self._ejections = 0
            self.ejected_until = 0.0
            self.trial = None
        health = self.health
        if health is not _HEALTHY and (health is Health.UNREACHABLE or health is Health.UNKNOWN):
            self.health = _HEALTHY

    def due(self, now: float) -> bool:
        """Whether, ejected, it may be tried by one request: not while another one is trying."""
        return now >= self.ejected_until and self.trial is None


@attrs.frozen
class Timeouts:
    """Seconds: to connect, from the request sent to the answer's head, without any progress of a body, and
    without a byte through a tunnel (WebSocket)."""

    connect: float = 5.0
    first_byte: float = 60.0
    idle: float = 60.0
    tunnel: float = 3600.0


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"\0".join(parts)).digest()


def _cookie_values(upstream: Upstream) -> dict[bytes, EndpointState]:
    # 24 bits: of the 2^40 addresses and ports of 10.0.0.0/8, 2^16 have the same value.
    if upstream.balance is not Balance.COOKIE:
        return {}
    name = upstream.name.encode()
    return {
        _digest(name, each.address.url.encode()).hex()[:6].encode("ascii"): each
        for each in reversed(upstream.endpoints)
    }


def check_weights(weights: Sequence[float], count: int) -> None:
    """Raises `ValueError` unless there is a whole number above 0 for each of `count`, or none at all."""
    if weights and len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count}")
    if not all(isinstance(weight, int) and weight > 0 for weight in weights):
        raise ValueError("a weight must be a whole number above 0")


@attrs.frozen(eq=False)
class Upstream:
    """The addresses that one exchange may go to, with its limits, and how one of them is picked.

    `weights` says how much of the traffic each endpoint is to have, beside the others: whole numbers above 0;
    empty means the same for each (see `check_weights`).
    """

    name: str
    endpoints: tuple[EndpointState, ...]
    timeouts: Timeouts = Timeouts()
    retries: int = 1
    balance: Balance = Balance.RANDOM
    weights: tuple[int, ...] = attrs.field(
        default=(), validator=lambda self, _field, weights: check_weights(weights, len(self.endpoints))
    )
    ejection: Ejection = Ejection()
    _sums: tuple[int, ...] = attrs.field(
        init=False,
        repr=False,
        default=attrs.Factory(lambda self: tuple(itertools.accumulate(self.weights)), takes_self=True),
    )
    # The cells of round robin: an endpoint may be in many Upstreams, and has its turns in each.
    _turns: list[int] = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: [0] * len(self.endpoints), takes_self=True)
    )
    _cookies: dict[bytes, EndpointState] = attrs.field(
        init=False, repr=False, default=attrs.Factory(_cookie_values, takes_self=True)
    )


def pick(
    upstream: Upstream,
    request: OutgoingRequest | None,
    tried: Sequence[EndpointState],
    random: Callable[[], float],
    now: float,
) -> EndpointState | None:
    """The endpoint for one attempt of a request, none of those `tried`; None when all were tried.

    The healthiest go first, and ejected ones last. `random` gives floats in [0, 1), `now` is the clock of
    `EndpointState.failed`. Each call is one choice: turns are taken, an ejected one is given its trial.
    """
    endpoints = upstream.endpoints
    if len(endpoints) == 1:
        return None if endpoints[0] in tried else endpoints[0]
    balance = upstream.balance
    if balance is Balance.RANDOM and not tried and endpoints:
        one, two = _two_of_all(upstream, random)
        if one.health is two.health is _HEALTHY and not one.ejected_until and not two.ejected_until:
            return one
    elif balance is Balance.COOKIE and request is not None:
        named = upstream._cookies.get(_cookie(request))
        if named is not None and named not in tried and _usable(named, now):
            return _chosen(named, request, now)
    fit = _fit(upstream, tried, now)
    if not fit:
        return None
    index = fit[0] if len(fit) == 1 else _CHOICES[balance](upstream, fit, request, random)
    return _chosen(endpoints[index], request, now)


def _usable(endpoint: EndpointState, now: float) -> bool:
    return _RANK[endpoint.health] < _WORST and (not endpoint.ejected_until or endpoint.due(now))


def _chosen(endpoint: EndpointState, request: OutgoingRequest | None, now: float) -> EndpointState:
    if endpoint.ejected_until and endpoint.due(now):
        endpoint.trial = request or endpoint
    return endpoint


def _fit(upstream: Upstream, tried: Sequence[EndpointState], now: float) -> list[int]:
    """Places of those to choose from: the healthiest in use, and those due for a trial."""
    best = _WORST
    fit: list[int] = []
    due: list[int] = []
    out: list[tuple[float, int]] = []
    for index, endpoint in enumerate(upstream.endpoints):
        if endpoint in tried:
            continue
        if endpoint.ejected_until:
            if endpoint.due(now):
                due.append(index)
            else:
                out.append((endpoint.ejected_until, index))
            continue
        rank = _RANK[endpoint.health]
        if rank < best:
            best = rank
            fit = [index]
        elif rank == best:
            fit.append(index)
    # To refuse because all are ejected would make an outage of what may be a few bad requests.
    return fit + due or [index for _until, index in sorted(out)[:1]]


def _two_of_all(upstream: Upstream, random: Callable[[], float]) -> tuple[EndpointState, EndpointState]:
    """Two different endpoints, drawn by weight, the less loaded one first."""
    endpoints = upstream.endpoints
    sums = upstream._sums
    if not sums:
        count = len(endpoints)
        first = int(random() * count)
        second = int(random() * (count - 1))
        one, two = endpoints[first], endpoints[second + (second >= first)]
        return (two, one) if two.in_flight < one.in_flight else (one, two)
    first = bisect_right(sums, int(random() * sums[-1]))
    weight = upstream.weights[first]
    drawn = int(random() * (sums[-1] - weight))
    second = bisect_right(sums, drawn if drawn < sums[first] - weight else drawn + weight)
    one, two = endpoints[first], endpoints[second]
    return (two, one) if two.in_flight * weight < one.in_flight * upstream.weights[second] else (one, two)


def _weight(upstream: Upstream, index: int) -> int:
    return upstream.weights[index] if upstream.weights else 1


def _drawn(upstream: Upstream, fit: list[int], random: Callable[[], float]) -> int:
    """One of these, by weight."""
    sums = list(itertools.accumulate(_weight(upstream, index) for index in fit))
    return fit[bisect_right(sums, int(random() * sums[-1]))]


def _two_choices(
    upstream: Upstream, fit: list[int], request: OutgoingRequest | None, random: Callable[[], float]
) -> int:
    first = _drawn(upstream, fit, random)
    second = _drawn(upstream, [index for index in fit if index != first], random)
    return second if _load(upstream, second) < _load(upstream, first) else first


def _load(upstream: Upstream, index: int) -> float:
    return upstream.endpoints[index].in_flight / _weight(upstream, index)


def _least_loaded(
    upstream: Upstream, fit: list[int], request: OutgoingRequest | None, random: Callable[[], float]
) -> int:
    loads = [_load(upstream, index) for index in fit]
    least = min(loads)
    return _drawn(upstream, [i for i, load in zip(fit, loads, strict=True) if load == least], random)


def _next_turn(
    upstream: Upstream, fit: list[int], request: OutgoingRequest | None, random: Callable[[], float]
) -> int:
    """nginx's smooth weighted round robin: in a round of all weights each has its turns, well spread."""
    turns = upstream._turns
    total = 0
    for index in fit:
        weight = _weight(upstream, index)
        turns[index] += weight
        total += weight
    chosen = max(fit, key=turns.__getitem__)
    turns[chosen] -= total
    return chosen


def _by_client(
    upstream: Upstream, fit: list[int], request: OutgoingRequest | None, random: Callable[[], float]
) -> int:
    """Rendezvous hashing: each endpoint draws a number for this client, and the highest wins.

    So an endpoint that goes takes its own clients along only, and one that comes takes its share of all.
    """
    if request is None:
        return _two_choices(upstream, fit, request, random)

    def score(index: int) -> float:
        digest = _digest(request.client_ip, upstream.endpoints[index].address.url.encode())
        # 52 bits and a half, so that it is never 0 or 1; the logarithm makes weights exact.
        drawn = ((int.from_bytes(digest[:8], "big") >> 12) + 0.5) / 2**52
        return log(drawn) / _weight(upstream, index)

    return max(fit, key=score)


_CHOICES: dict[Balance, Callable[[Upstream, list[int], OutgoingRequest | None, Callable[[], float]], int]] = {
    Balance.RANDOM: _two_choices,
    Balance.ROUND_ROBIN: _next_turn,
    Balance.LEAST_CONN: _least_loaded,
    Balance.IP_HASH: _by_client,
    Balance.COOKIE: _two_choices,
}


def _cookie(request: OutgoingRequest) -> bytes:
    """What the request's cookie of ours says, or b""."""
    for name, value in request.headers:
        if name.lower() == b"cookie" and COOKIE in value:
            for pair in value.split(b";"):
                key, _equals, said = pair.strip().partition(b"=")
                if key == COOKIE:
                    return said
    return b""


def affinity_cookie(
    upstream: Upstream, endpoint: EndpointState, request: OutgoingRequest
) -> tuple[bytes, bytes] | None:
    """The Set-Cookie field that keeps this client at `endpoint`; None if it needs none.

    The value is a hash of the upstream's name and the address, cut to 24 bits: it is the same after a restart
    and in two proxies on one store, and too short to be worked back to one address.
    """
    if upstream.balance is not Balance.COOKIE or upstream._cookies.get(_cookie(request)) is endpoint:
        return None
    for value, named in upstream._cookies.items():
        if named is endpoint:
            return b"Set-Cookie", COOKIE + b"=" + value + b"; Path=/; HttpOnly; SameSite=Lax"
    return None
