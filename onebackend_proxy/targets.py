"""From the targets of a Route to the upstream that serves it now.

A target is an address, or a service whose instances come and go.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

import attrs

from .addresses import Address, parse_target, service_of
from .balancing import Balance, Ejection, EndpointState, Timeouts, Upstream, check_weights
from .errors import Unavailable, UpstreamFailed
from .limits import DEFAULTS, Limits
from .records import BUILT_IN_SLUGS, Route, WeightedTarget
from .routing import RouteTable


class Targets:
    """All targets in use. What was learned of an address is kept as long as any upstream has it.

    `lookup` is the registry's: the upstream of a service, or None. `watch` is called with each address that
    is new here, so that its health is looked at right away.
    """

    def __init__(self, lookup: Callable[[str], Upstream | None]) -> None:
        self._lookup = lookup
        self.watch: Callable[[EndpointState], None] = lambda endpoint: None
        self._endpoints: WeakValueDictionary[Address, EndpointState] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Targets: {len(self._endpoints)} addresses>"

    def endpoints(self) -> tuple[EndpointState, ...]:
        """Every address that some upstream has; the instances of services are the registry's."""
        return tuple(self._endpoints.values())

    def upstream_of(
        self,
        name: str,
        targets: Sequence[str],
        weights: Sequence[int] = (),
        *,
        balance: Balance = Balance.RANDOM,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (immutable, as the next)
        retries: int = 1,
        ejection: Ejection = Ejection(),  # noqa: B008
        verify: bool = True,
    ) -> Callable[[], Upstream]:
        """What gives the upstream called `name` for these targets, each time that it is asked.

        `weights` are the shares of the targets (the same for each if empty): the instances of a service share
        one. Raises `ValueError` for targets and weights that there are not; what is returned raises
        `errors.Unavailable` when there is no address at all. `verify` is about https, as in `Address`.
        """
        if not targets:
            raise ValueError("needs a target")
        check_weights(weights, len(targets))
        make = functools.partial(
            Upstream, name, timeouts=timeouts, retries=retries, balance=balance, ejection=ejection
        )
        found = [service_of(target) or self._endpoint(parse_target(target, verify)) for target in targets]
        return _Mixture(found, tuple(weights) or (1,) * len(targets), make, self._lookup).upstream

    def _endpoint(self, address: Address) -> EndpointState:
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            self._endpoints[address] = endpoint = EndpointState(address)
            self.watch(endpoint)
        return endpoint


def _target(route: Route) -> str:
    # An entry for a service has no target: it is about that service.
    return f"service:{route.id[1:]}" if route.id.startswith("/") else route.target


def is_built_in(route: Route) -> bool:
    """Whether its target is one of the services that the proxy itself is."""
    return service_of(_target(route)) in BUILT_IN_SLUGS


class RouteUpstreams:
    """The upstreams of Routes, each made when it is first asked for, by a program's settings.

    `of` is asked for every request.
    """

    def __init__(
        self, targets: Targets, limits: Limits = DEFAULTS, balance: Balance = Balance.RANDOM
    ) -> None:
        self._targets = targets
        self._limits = limits
        self._balance = balance
        self._made: dict[str, tuple[Route, Callable[[], Upstream | None]]] = {}
        self._routes: RouteTable[Route] = RouteTable()
        self._looked_at = self._routes

    def of(self, route: Route) -> Upstream | None:
        """The upstream of this Route now; None if its target is one of the built-in services.

        Raises the `errors.ProxyError` that says why there is none.
        """
        made = self._made.get(route.id)
        if made is not None and made[0] is route:
            return made[1]()
        return self.source_of(route)()

    def source_of(self, route: Route) -> Callable[[], Upstream | None]:
        """What gives the upstream of this Route, for who asks often; raises as `of`."""
        made = self._made.get(route.id)
        if made is None or made[0] is not route:
            # While the one before is held: what was learned of its addresses is kept.
            same = made is not None and made[0] == route
            made = self._made[route.id] = (route, made[1] if same and made else self._make(route))
        return made[1]

    def publish(self, routes: RouteTable[Route]) -> None:
        """From now on these are the Routes; others are forgotten when `endpoints` is asked."""
        self._routes = routes

    def endpoints(self) -> tuple[EndpointState, ...]:
        """Every address in use that is not an instance's."""
        if self._looked_at is not self._routes:
            self._looked_at = routes = self._routes
            for key in [key for key in self._made if routes.get(key) is None]:
                del self._made[key]
        return self._targets.endpoints()

    def asked_by(self, route: Route, target: str) -> Callable[[], Upstream]:
        """What gives the upstream of a target that is asked about the requests of a Route, at its pace.

        Raises `ValueError` for a target that there is not.
        """
        return self._targets.upstream_of(
            f"forwardAuth of {route.id}",
            [target],
            balance=self._balance,
            timeouts=self._timeouts(route),
            ejection=self._limits.ejection,
        )

    def _timeouts(self, route: Route) -> Timeouts:
        own = {name: value for name, value in attrs.asdict(route.timeouts).items() if value is not None}
        return attrs.evolve(self._limits.timeouts, **own)

    def _make(self, route: Route) -> Callable[[], Upstream | None]:
        if is_built_in(route):
            return lambda: None
        weighted = route.targets or (WeightedTarget(_target(route)),)
        try:
            return self._targets.upstream_of(
                route.id,
                [target.url for target in weighted],
                [target.weight for target in weighted],
                balance=Balance(route.balance) if route.balance else self._balance,
                timeouts=self._timeouts(route),
                retries=1 if route.retries is None else route.retries,
                ejection=self._limits.ejection,
                verify=not route.tls_insecure_skip_verify,
            )
        except ValueError as error:
            # It was checked when it was saved, by another version of the program perhaps.
            raise UpstreamFailed("the route's target cannot be used", detail=f"{route.id}: {error}") from None


class _Mixture:
    """Endpoints, and slugs of services that are looked up; a new upstream only when one of these changed."""

    def __init__(
        self,
        targets: Sequence[EndpointState | str],
        weights: tuple[int, ...],
        make: Callable[..., Upstream],
        lookup: Callable[[str], Upstream | None],
    ) -> None:
        self._targets = targets
        self._weights = weights
        self._make = make
        self._lookup = lookup
        self._slugs = [target for target in targets if isinstance(target, str)]
        self._services: list[Upstream | None] = []
        self._upstream = self._mixed({})

    def upstream(self) -> Upstream:
        """The upstream as the registry has its services now."""
        slugs = self._slugs
        if slugs:
            # An Upstream is equal to itself only: the registry makes another one for each change.
            services = [self._lookup(slugs[0])] if len(slugs) == 1 else list(map(self._lookup, slugs))
            if services != self._services:
                self._upstream = self._mixed(dict(zip(self._slugs, services, strict=True)))
                self._services = services
            if not self._upstream.endpoints:
                raise Unavailable("the service has no instance", detail=f"none of {', '.join(self._slugs)}")
        return self._upstream

    def _mixed(self, services: dict[str, Upstream | None]) -> Upstream:
        parts: list[tuple[int, tuple[EndpointState, ...], tuple[int, ...]]] = []
        for target, weight in zip(self._targets, self._weights, strict=True):
            if isinstance(target, EndpointState):
                parts.append((weight, (target,), (1,)))
            elif (part := services.get(target)) is not None and part.endpoints:
                parts.append((weight, part.endpoints, part.weights or (1,) * len(part.endpoints)))
        weights = _shared_out(parts)
        # Where all are the same, picking need not look at them.
        same = len(set(weights.values())) < 2
        return self._make(tuple(weights), weights=() if same else tuple(weights.values()))


def _shared_out(
    parts: Sequence[tuple[int, tuple[EndpointState, ...], tuple[int, ...]]],
) -> dict[EndpointState, int]:
    """The weight of each endpoint, in whole numbers: each part's weight shared out among its own."""
    whole = math.lcm(*(sum(own) for _weight, _endpoints, own in parts))
    weights: dict[EndpointState, int] = {}
    for weight, endpoints, own in parts:
        for endpoint, each in zip(endpoints, own, strict=True):
            weights[endpoint] = weights.get(endpoint, 0) + weight * each * whole // sum(own)
    common = math.gcd(*weights.values())
    return {endpoint: each // common for endpoint, each in weights.items()}
