"""The edge: which Redirect or Route a request's host and path belong to, for every plane and protocol."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ..balancing import Upstream
from ..errors import BadRequest, Misdirected, NotFound
from ..headers import OutgoingRequest
from ..interfaces import Published
from ..messages import Answer
from ..records import Redirect, Route
from ..routing import RouteTable, edge_path, redirect_location, request_host
from .resources import Desk, Proxied, relay

ACME_PREFIX = b"/.well-known/acme-challenge/"
"""Where an authority fetches what proves that a name is ours (RFC 8555, 8.3)."""

Challenges = Callable[[str, bytes], bytes | None]
"""The key authorization for a host and a token, if one is being asked for."""
UpstreamOf = Callable[[Route], Upstream]


def moved(status: int, location: bytes) -> Answer:
    """A redirection."""
    phrase = HTTPStatus(status).phrase.encode("ascii")
    body = b"%d %b\n" % (status, phrase)
    return Answer(status, [(b"Location", location), (b"Content-Type", b"text/plain")], body)


class EdgeResource(Proxied, Resource):
    """Everything by host and path: Redirects first, then Routes, else 404.

    It works at the root of a `ProxySite`, on the fast plane too, and of any other `twisted.web` Site.
    `upstream_of` makes the upstream of a Route, and raises the `errors.ProxyError` where it has none.
    """

    isLeaf = True
    streams = True

    def __init__(self, desk: Desk, upstream_of: UpstreamOf) -> None:
        Resource.__init__(self)
        self.desk = desk
        self._upstream_of = upstream_of
        self._routes: RouteTable[Route] = RouteTable()
        self._redirects: RouteTable[Redirect] = RouteTable()

    def publish(self, published: Published) -> None:
        """From now on these are the Routes and Redirects."""
        self._routes = published.routes
        self._redirects = published.redirects

    def routes_to(self, host: str) -> bool:
        """Whether any Route is for this canonical host."""
        return self._routes.has_host(host)

    def owns(self, host: str) -> bool:
        """Whether any Route or Redirect is."""
        return self.routes_to(host) or self._redirects.has_host(host)

    def over(self, covers: Callable[[str], bool]) -> CoveredEdge:
        """See `Proxied`: for a connection whose certificate is for some hosts only."""
        return CoveredEdge(self, covers)

    def choose(self, request: OutgoingRequest) -> Upstream | Answer:
        """See `Proxied`."""
        host = request_host(request.host)
        path = edge_path(request.target)
        redirected = self.redirect(host, path, request.target)
        if redirected is not None:
            return redirected
        route = self._routes.match(host, path)
        if route is None:
            raise NotFound("no route for this host and path")
        return self._upstream_of(route)

    def redirect(self, host: str, path: str, target: bytes) -> Answer | None:
        """The answer of the Redirect for this host and path, if there is one."""
        if not len(self._redirects):
            return None
        found = self._redirects.match(host, path)
        if found is None:
            return None
        _host, slash, prefix = found.id.partition("/")
        return moved(found.status_code, redirect_location(slash + prefix, found.target, path, target))

    def render(self, request: Any) -> int:
        """Answer later, with whatever the upstream answers."""
        relay(request, request.uri, self.choose, self.desk)
        return NOT_DONE_YET


class CoveredEdge(Proxied):
    """The edge for one connection: hosts that its certificate is not for are none of its business.

    A browser takes a connection for other hosts too where the certificate covers them (RFC 9113, 9.1.1).
    """

    def __init__(self, edge: EdgeResource, covers: Callable[[str], bool]) -> None:
        self.desk = edge.desk
        self._edge = edge
        self._covers = covers
        self._host = b""

    def choose(self, request: OutgoingRequest) -> Upstream | Answer:
        """See `Proxied`."""
        if request.host != self._host:
            if not self._covers(request_host(request.host)):
                raise Misdirected("the certificate of this connection is not for this host")
            self._host = request.host
        return self._edge.choose(request)


class PlainEdge(Proxied):
    """Port 80: answers ACME challenges and Redirects, sends the hosts of Routes to https, relays nothing."""

    def __init__(self, edge: EdgeResource, challenges: Challenges = lambda host, token: None) -> None:
        self._edge = edge
        self.challenges = challenges
        self.desk = edge.desk

    def choose(self, request: OutgoingRequest) -> Answer:
        """See `Proxied`."""
        host = request_host(request.host)
        target = request.target
        if target.startswith(ACME_PREFIX):
            proof = self.challenges(host, target.removeprefix(ACME_PREFIX))
            if proof is not None:
                return Answer(200, [(b"Content-Type", b"application/octet-stream")], proof)
        redirected = self._edge.redirect(host, edge_path(target), target)
        if redirected is not None:
            return redirected
        if not self._edge.routes_to(host):
            raise NotFound("no route for this host")
        if not target.startswith(b"/"):
            raise BadRequest("only a path can be sent to https")
        # Without a port: what the world calls 443 may be any other to us.
        return moved(308, b"https://" + host.encode("ascii") + target)
