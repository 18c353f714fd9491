"""The upstream client: keeps connections in the pool, opens new ones, and says why it could not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import _WrappingProtocol
from twisted.internet.error import ConnectingCancelledError, DNSLookupError, TimeoutError, UserError
from twisted.internet.interfaces import IDelayedCall, IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Client
from twisted.python.failure import Failure

from ..addresses import Address
from ..balancing import EndpointState
from ..errors import ProxyError, UpstreamFailed, UpstreamTimeout
from ..exchange import Exchange
from .connecting import endpoint_for
from .connection import UpstreamConnection
from .pool import Pool

IDLE_ROUND = 30.0
"""Seconds of a pool round: an idle connection is closed after one to two of them."""


class _Connections(Factory):
    """Makes each connection with what it has to report to."""

    noisy = False

    def __init__(self, build: Callable[[], UpstreamConnection]) -> None:
        self._build = build

    def buildProtocol(self, addr: object) -> UpstreamConnection:
        return self._build()


class Http1Client:
    """An `interfaces.UpstreamClient` over HTTP/1.1.

    `endpoint_for(reactor, address, timeout)` is an argument so that tests connect to what they like.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint_for: Callable[[Any, Address, float], IStreamClientEndpoint] = endpoint_for,
    ) -> None:
        self._reactor = reactor
        self._endpoint_for = endpoint_for
        self.pool: Pool[UpstreamConnection] = Pool()
        self._round: IDelayedCall | None = None
        self._closed = False

    def checkout(self, endpoint: EndpointState) -> UpstreamConnection | None:
        """See `interfaces.UpstreamClient`."""
        return self.pool.take(endpoint)

    def open(self, endpoint: EndpointState, timeout: float, exchange: Exchange) -> Callable[[], None]:
        """See `interfaces.UpstreamClient`."""
        factory = _Connections(lambda: UpstreamConnection(endpoint, self._keep, self._forget))
        connecting = self._connect(endpoint.address, timeout, factory)
        # A name with many addresses, or a TLS handshake, may take many time-outs: this one counts.
        late = self._reactor.callLater(timeout, connecting.cancel)
        wanted = True

        def opened(connection: IProtocol) -> None:
            assert isinstance(connection, UpstreamConnection)
            _unwrap(connection)
            if wanted:
                exchange.connected(connection)
            else:
                connection.abort()

        def failed(failure: Failure) -> None:
            if wanted:
                exchange.connect_failed(_connect_error(failure, timeout))

        def cancel() -> None:
            nonlocal wanted
            wanted = False
            connecting.cancel()

        def settled(result: IProtocol | Failure) -> IProtocol | Failure:
            if late.active():
                late.cancel()
            return result

        connecting.addBoth(settled)
        connecting.addCallbacks(opened, failed)
        connecting.addErrback(lambda failure: exchange.broke(failure))
        return cancel

    def _connect(self, address: Address, timeout: float, factory: Factory) -> Deferred[IProtocol]:
        try:
            connecting = self._endpoint_for(self._reactor, address, timeout).connect(factory)
        except Exception:
            connecting = fail()
        if isinstance(getattr(connecting, "result", None), Failure):
            # Told in a later turn, as other failures are: the caller has no way to cancel yet.
            later: Deferred[IProtocol] = Deferred()
            self._reactor.callLater(0, connecting.chainDeferred, later)
            return later
        return connecting

    def _keep(self, connection: UpstreamConnection) -> None:
        if self._closed or not self.pool.give(connection.endpoint, connection):
            connection.close()
        elif self._round is None:
            self._round = self._reactor.callLater(IDLE_ROUND, self._next_round)

    def _forget(self, connection: UpstreamConnection) -> None:
        self.pool.forget(connection.endpoint, connection)

    def _next_round(self) -> None:
        self._round = None
        for connection in self.pool.expire():
            connection.close()
        if len(self.pool):
            self._round = self._reactor.callLater(IDLE_ROUND, self._next_round)

    def close(self) -> None:
        """Close what is idle, and keep nothing from here on."""
        self._closed = True
        if self._round is not None:
            self._round.cancel()
            self._round = None
        for connection in self.pool.clear():
            connection.close()


def _unwrap(connection: UpstreamConnection) -> None:
    """Take the endpoint's wrapper, which has done its work, off the way of every read."""
    transport: Any = connection.transport
    if isinstance(transport, Client) and isinstance(transport.protocol, _WrappingProtocol):
        transport.protocol = connection


def _connect_error(failure: Failure, timeout: float) -> ProxyError:
    if failure.check(TimeoutError, UserError, CancelledError, ConnectingCancelledError):
        return UpstreamTimeout("connecting to the service took too long", detail=f"over {timeout:g} s")
    if failure.check(DNSLookupError):
        return UpstreamFailed("no instance of the service could be reached", detail="its name is not known")
    return UpstreamFailed("no instance of the service could be reached", detail=failure.getErrorMessage())
