"""The edge: which Redirect or Route a request's host and path belong to, for every plane and protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from ..balancing import Upstream
from ..errors import BadRequest, Misdirected, NotFound, ProxyError, Unavailable
from ..exchange import Destination
from ..headers import OutgoingRequest, origin_form, the_host
from ..interfaces import Published
from ..messages import Answer
from ..records import ALL_WELCOME, NO_POLICY, Redirect, Route
from ..routing import (
    RouteTable,
    edge_paths,
    lenient_paths,
    reads_in_other_ways,
    redirect_location,
    request_host,
    wildcard_over,
)
from .resources import Desk, Proxied, relay

ACME_PREFIX = b"/.well-known/acme-challenge/"
"""Where an authority fetches what proves that a name is ours (RFC 8555, 8.3)."""

Challenges = Callable[[str, str], Deferred[str | None]]
"""Finds the key authorization for a host and a token; None if no such thing is being asked for."""
DestinationOf = Callable[[Route], Upstream | Destination | None]


def moved(status: int, location: bytes) -> Answer:
    """A redirection."""
    phrase = HTTPStatus(status).phrase.encode("ascii")
    body = b"%d %b\n" % (status, phrase)
    return Answer(status, [(b"Location", location), (b"Content-Type", b"text/plain")], body)


class EdgeResource(Proxied, Resource):
    """Everything by host and path: Redirects first, then Routes, else 404.

    It works at the root of a `ProxySite`, on the fast plane too, and of any other `twisted.web` Site.
    `destination_of` says where the requests of a Route go, and raises the `errors.ProxyError` where it has no
    upstream; where it gives None, the request is for `services`.
    """

    def __init__(self, desk: Desk, destination_of: DestinationOf, services: Resource) -> None:
        Resource.__init__(self)
        self.desk = desk
        self._destination_of = destination_of
        self._services = services
        self._leaf = _Relay(self)
        self._routes: RouteTable[Route] = RouteTable()
        self._redirects: RouteTable[Redirect] = RouteTable()
        self._redirecting = False
        # By host, once it was asked for: the guarded Routes below a path, if there are any.
        self._shut: dict[str, ShutPaths | None] = {}

    def publish(self, published: Published) -> None:
        """From now on these are the Routes and Redirects."""
        self._routes = published.routes
        self._redirects = published.redirects
        self._redirecting = len(self._redirects) > 0
        self._shut = {}

    def routes_to(self, host: str) -> bool:
        """Whether any Route is for this canonical host."""
        return self._routes.has_host(host)

    def owns(self, host: str) -> bool:
        """Whether any Route or Redirect is."""
        return self.routes_to(host) or self._redirects.has_host(host)

    def over(self, covers: Callable[[str], bool]) -> CoveredEdge:
        """See `Proxied`: for a connection whose certificate is for some hosts only."""
        return CoveredEdge(self, covers)

    def choose(self, request: OutgoingRequest) -> Upstream | Destination | Answer | None:
        """See `Proxied`."""
        found = self.find(request_host(request.host), request.target)
        if isinstance(found, Answer):
            return found
        if found is None:
            raise NotFound("no route for this host and path")
        return self._destination_of(found)

    def find(self, host: str, target: bytes) -> Route | Answer | None:
        """The Route for this canonical host and target, or the answer of a Redirect.

        Raises `errors.BadRequest` for a path that a backend may see as another Route's.
        """
        paths = edge_paths(target)
        path = paths[0]
        found = self._match(host, path)
        if len(paths) > 1 and any(self._match(host, other) is not found for other in paths):
            raise BadRequest("the path can be read in two ways")
        if found is not None:
            self._keep_shut(host, found, target)
        if isinstance(found, Redirect):
            _host, slash, prefix = found.id.partition("/")
            return moved(found.status_code, redirect_location(slash + prefix, found.target, path, target))
        return found

    def _keep_shut(self, host: str, found: Redirect | Route, target: bytes) -> None:
        """Refuse what is for another place to us than to a backend that reads paths leniently.

        Only where that place is guarded: else it would make no difference who comes in where.
        """
        routes = self._routes
        # Strangers can make up hosts below a wildcard: those are one.
        own = host if routes.prefixes(host) else wildcard_over(host)
        try:
            shut = self._shut[own]
        except KeyError:
            shut = self._shut[own] = shut_paths(routes.prefixes(host), routes.prefixes(wildcard_over(host)))
        if shut is None or not (shut.always or reads_in_other_ways(target)):
            return
        if (target.find(b"?", 0, MAX_READ) < 0 and len(target) > MAX_READ) or not shut.agrees(found, target):
            raise BadRequest("the path can be read in two ways")

    def _match(self, host: str, path: str) -> Redirect | Route | None:
        redirect = self._redirects.match(host, path) if self._redirecting else None
        return self._routes.match(host, path) if redirect is None else redirect

    def getChild(self, path: bytes, request: Any) -> IResource:
        """twisted.web's hook: what is built in is found by its path, all else is relayed."""
        if self._is_built_in(request):
            built_in: IResource = self._services.getChildWithDefault(path, request)
            return built_in
        return self._leaf

    def _is_built_in(self, request: Any) -> bool:
        # What is wrong with the request is told by whoever answers it.
        with contextlib.suppress(ProxyError):
            target, authority = origin_form(request.method, request.uri)
            host = request_host(authority or the_host(request.requestHeaders.getRawHeaders(b"Host", ())))
            found = self.find(host, target)
            return isinstance(found, Route) and self._destination_of(found) is None and covered(request, host)
        return False


MAX_READ = 4096
"""Bytes of a path that is read in all ways: to do so takes time."""


class ShutPaths:
    """The Routes of one host, of which some are guarded, by what lenient backends make of paths.

    `routes` are those of the host itself by prefix, `fallback` those of the wildcard over it.
    """

    def __init__(self, routes: Mapping[str, Route], fallback: Mapping[str, Route]) -> None:
        self._levels = [_by_reading(routes), _by_reading(fallback)]
        self._cut = max(len(reading) for level in self._levels for reading in (*level, "")) + 1
        self.always = any(
            is_guarded(route) and lenient_paths(prefix.encode("ascii")) != (prefix,)
            for level in (routes, fallback)
            for prefix, route in level.items()
            if prefix
        )
        """Whether a plain path may be another's reading, since a guarded prefix is none itself."""

    def agrees(self, found: Redirect | Route, target: bytes) -> bool:
        """Whether no guarded one but `found` is what a lenient backend would take the target for."""
        return all(self._agrees(found, path) for path in lenient_paths(target))

    def _agrees(self, found: Redirect | Route, path: str) -> bool:
        if len(path) > self._cut:
            # No prefix is that long; each level of it would be looked up.
            path = path[: self._cut]
            path = path[: path.rfind("/") + 1]
        for level in self._levels:
            routes = _longest(level, path)
            if routes:
                return found in routes or not any(is_guarded(route) for route in routes)
        return True


def _by_reading(routes: Mapping[str, Route]) -> dict[str, list[Route]]:
    found: dict[str, list[Route]] = {}
    for prefix, route in routes.items():
        for reading in lenient_paths(prefix.encode("ascii")) if prefix else ("",):
            found.setdefault(reading.rstrip("/"), []).append(route)
    return found


def _longest(routes: Mapping[str, list[Route]], path: str) -> list[Route]:
    path = path.rstrip("/")
    while path and path not in routes:
        path = path[: path.rfind("/")].rstrip("/")
    return routes.get(path, [])


def shut_paths(routes: Mapping[str, Route], fallback: Mapping[str, Route]) -> ShutPaths | None:
    """The paths to watch of a host with these Routes by prefix; None if there is nothing to walk around."""
    for level in routes, fallback:
        if any(prefix and is_guarded(route) for prefix, route in level.items()):
            return ShutPaths(routes, fallback)
    return None


def is_guarded(route: Route) -> bool:
    """Whether not everybody may come in, with whatever, at any time."""
    policy = route.policy
    return policy is not NO_POLICY and (
        policy.access != ALL_WELCOME
        or policy.rate_limit is not None
        or policy.request_body_limit is not None
        or policy.paused is not None
    )


def covered(request: Any, host: str) -> bool:
    """Whether the connection that a request to twisted.web came on is for this host."""
    covers = getattr(request.channel.transport, "covers", None)
    return covers is None or covers(host)


class _Relay(Resource):
    """Relays by host and path what has come to twisted.web."""

    isLeaf = True
    streams = True

    def __init__(self, edge: EdgeResource) -> None:
        super().__init__()
        self._edge = edge

    def render(self, request: Any) -> int:
        """Answer later, with whatever the upstream answers."""

        def choose(outgoing: OutgoingRequest) -> Upstream | Destination | Answer:
            if not covered(request, request_host(outgoing.host)):
                raise not_covered()
            chosen = self._edge.choose(outgoing)
            if chosen is None:
                # It was not, a moment ago.
                raise Unavailable("the route has just changed: try again")
            return chosen

        relay(request, request.uri, choose, self._edge.desk)
        return NOT_DONE_YET


def not_covered() -> Misdirected:
    """Why a request is refused whose host another certificate is for."""
    return Misdirected("the certificate of this connection is not for this host")


class CoveredEdge(Proxied):
    """The edge for one connection: hosts that its certificate is not for are none of its business.

    A browser takes a connection for other hosts too where the certificate covers them (RFC 9113, 9.1.1).
    """

    def __init__(self, edge: EdgeResource, covers: Callable[[str], bool]) -> None:
        self.desk = edge.desk
        self._edge = edge
        self._covers = covers
        self._host = b""

    def choose(self, request: OutgoingRequest) -> Upstream | Destination | Answer | None:
        """See `Proxied`."""
        if request.host != self._host:
            if not self._covers(request_host(request.host)):
                raise not_covered()
            self._host = request.host
        return self._edge.choose(request)


class PlainEdge(Proxied, Resource):
    """Port 80: answers ACME challenges and Redirects, sends the hosts of Routes to https, relays nothing.

    It is the root of a `ProxySite` on the fast plane, too. A challenge may have to be looked up: its request
    goes to twisted.web. Without `challenges` no path is one.
    """

    isLeaf = True
    streams = True

    def __init__(self, edge: EdgeResource, challenges: Challenges | None = None) -> None:
        Resource.__init__(self)
        self._edge = edge
        self.challenges = challenges
        self.desk = edge.desk

    def choose(self, request: OutgoingRequest) -> Answer | None:
        """See `Proxied`."""
        if request.target.startswith(ACME_PREFIX) and self._may_prove(request.method):
            return None
        return self.answer(request)

    def _may_prove(self, method: bytes) -> bool:
        # For any host: another process may have ordered for a Route that is not published here yet.
        return self.challenges is not None and method in (b"GET", b"HEAD")

    def render(self, request: Any) -> int:
        """twisted.web's hook: answer as `choose` does, or as soon as the challenge has been looked up."""
        proof = self._prove(request)
        if proof is None:
            relay(request, request.uri, self.answer, self.desk)
            return NOT_DONE_YET
        request.notifyFinish().addErrback(lambda _: proof.cancel())
        proof.addCallback(self._proved, request).addErrback(_failed, request)
        return NOT_DONE_YET

    def _prove(self, request: Any) -> Deferred[str | None] | None:
        """What is looked up for a request to twisted.web, if anything is."""
        # What is wrong with the request is told by whoever answers it.
        with contextlib.suppress(ProxyError):
            target, authority = origin_form(request.method, request.uri)
            # With a body still to come, twisted.web renders once more behind it.
            if target.startswith(ACME_PREFIX) and getattr(request, "complete", True):
                host = request_host(authority or the_host(request.requestHeaders.getRawHeaders(b"Host", ())))
                if self.challenges is not None and self._may_prove(request.method):
                    return self.challenges(host, target.removeprefix(ACME_PREFIX).decode("latin-1"))
        return None

    def _proved(self, proof: str | None, request: Any) -> None:
        def told(outgoing: OutgoingRequest) -> Answer:
            if proof is None:
                return self.answer(outgoing)
            return Answer(200, [(b"Content-Type", b"application/octet-stream")], proof.encode("ascii"))

        relay(request, request.uri, told, self.desk)

    def answer(self, request: OutgoingRequest) -> Answer:
        """What is answered where no challenge is; raises `errors.NotFound` for hosts without a Route."""
        host = request_host(request.host)
        target = request.target
        found = self._edge.find(host, target)
        if isinstance(found, Answer):
            return found
        if not self._edge.routes_to(host):
            raise NotFound("no route for this host")
        if not target.startswith(b"/"):
            raise BadRequest("only a path can be sent to https")
        # Without a port: what the world calls 443 may be any other to us.
        return moved(308, b"https://" + host.encode("ascii") + target)


def _failed(failure: Failure, request: Any) -> None:
    if not failure.check(CancelledError):
        request.processingFailed(failure)
