"""The built-in services as an upstream: where a policy stands before them, it is as before any other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.web.resource import IResource
from twisted.web.server import Request
from zope.interface import implementer

from .addresses import Address
from .balancing import EndpointState, Health, Timeouts, Upstream
from .downstream import ProxySite
from .limits import Limits
from .upstream.connecting import endpoint_for


class _Inside(Address):
    """Where the built-in services are: nowhere that a target can name."""

    @property
    def authority(self) -> str:
        """The form that logs show."""
        return "built-in"

    url = authority


INSIDE = _Inside("http", "built-in", 0)


@implementer(IStreamClientEndpoint)
class InsideEndpoint:
    """Connects to a Site of this very program, by a pair of sockets that nobody else sees."""

    def __init__(self, reactor: Any, site: ProxySite) -> None:
        self._reactor = reactor
        self._site = site

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `twisted.internet.interfaces.IStreamClientEndpoint`."""
        return maybeDeferred(self._connect, protocolFactory)

    def _connect(self, factory: IProtocolFactory) -> IProtocol:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in ours, theirs:
                end.setblocking(False)
            self._reactor.adoptStreamConnection(theirs.fileno(), socket.AF_UNIX, self._site)
            keeping = _Keeping(factory)
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, keeping)
        assert keeping.made is not None
        return keeping.made


class _Keeping:
    """A factory that tells what it made."""

    made: IProtocol | None = None

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory

    def buildProtocol(self, address: Any) -> IProtocol | None:
        self.made = self._factory.buildProtocol(address or UNIXAddress(None))
        return self.made


class BuiltInUpstream:
    """The upstream of Routes that lead to a built-in service and have a policy."""

    def __init__(self, reactor: Any, services: IResource, limits: Limits) -> None:
        # The log is written where the client's own request is known.
        self.site = ProxySite(services, reactor, limits=limits)
        self._endpoint = EndpointState(INSIDE, health=Health.HEALTHY)
        self._timeouts: Timeouts = limits.timeouts
        self._inside = InsideEndpoint(reactor, self.site)

    def upstream(self, name: str) -> Upstream:
        """The upstream, under the name of a Route."""
        return Upstream(name, (self._endpoint,), self._timeouts)

    def endpoint_for(self, reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
        """As `upstream.connecting.endpoint_for`, which knows all other addresses."""
        return self._inside if address is INSIDE else endpoint_for(reactor, address, timeout)

    def client_of(self, request: Request, otherwise: Callable[[Request], str]) -> str:
        """Whose request it is: what comes by the pair of sockets says so itself."""
        if getattr(request, "site", None) is self.site:
            said = request.requestHeaders.getRawHeaders(b"X-Real-IP") or [b""]
            return said[-1].decode("latin-1")
        return otherwise(request)
