"""A reverse proxy for another Twisted program: to a few addresses, without a store or a registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .addresses import auth_target, parse_target, service_of
from .api.policy import PolicyInput
from .api.validation import structure
from .balancing import Balance, EndpointState, Timeouts, Upstream
from .desk.guard import Guards
from .desk.storage import Storage
from .downstream import ReverseProxyResource
from .downstream.resources import Desk
from .errors import BadRequest
from .exchange import Exchanges
from .headers import Network
from .options import Settings
from .password_work import PasswordWork
from .records import NO_POLICY, Policy, Route
from .targets import RouteUpstreams, Targets
from .upstream import Http1Client


def reverse_proxy(
    *urls: str,
    reactor: Any = None,
    trusted_proxies: Sequence[Network] = (),
    timeouts: Timeouts | None = None,
    balance: str = "random",
    weights: Sequence[int] = (),
    policy: Mapping[str, Any] | None = None,
) -> ReverseProxyResource:
    """A resource that relays everything at and below it to whatever listens at these URLs, healthiest first.

    A URL is ``http://``, ``https://`` or ``unix:/PATH``; of several, `balance` (a Route's word) picks one, by
    `weights` if there are any, one for each URL. For programs that want no registry: it stands where
    `twisted.web.proxy.ReverseProxyResource` would. The path it is mounted at is taken off the target.
    `policy` has the fields of a Route's policy as the API takes them. Raises `ValueError` for what cannot be
    proxied to, a balance, weights or a policy that there are not.
    """
    if reactor is None:
        from twisted.internet import reactor
    upstream = Upstream(
        urls[0] if urls else "nothing",
        tuple(EndpointState(parse_target(url)) for url in urls),
        timeouts or Timeouts(),
        balance=Balance(balance),
        weights=tuple(weights),
    )
    desk = Desk(Exchanges(reactor, Http1Client(reactor)), trusted_proxies)
    # Clients are told its id: it is not to say where the service is.
    route = Route("reverse-proxy", policy=_policy(policy or {}))
    if route.policy is NO_POLICY:
        return ReverseProxyResource(lambda: upstream, desk)
    settings = Settings()
    guard = Guards(
        _OneUpstream(upstream),
        PasswordWork(),
        reactor.seconds,
        Storage(settings.edge_cache_max_size, settings.edge_cache_item_max_size),
    ).of(route)
    assert guard is not None
    return ReverseProxyResource(lambda: guard, desk)


class _OneUpstream(RouteUpstreams):
    """All requests go to the same."""

    def __init__(self, upstream: Upstream) -> None:
        super().__init__(Targets(lambda _slug: None))
        self._upstream = upstream

    def source_of(self, route: Route) -> Callable[[], Upstream]:
        """See `RouteUpstreams`."""
        return lambda: self._upstream


def _policy(fields: Mapping[str, Any]) -> Policy:
    try:
        policy = structure(PolicyInput, dict(fields)).policy()
    except BadRequest as error:
        raise ValueError(error.message) from None
    if policy.strip_prefix:
        raise ValueError("stripPrefix: the path of the mount is taken off anyway")
    forward = policy.access.forward_auth
    if forward is not None and service_of(auth_target(forward.url)[0]) is not None:
        raise ValueError("access.forwardAuth.url: names a service, and there is no registry here")
    return policy
