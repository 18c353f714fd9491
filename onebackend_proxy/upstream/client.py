"""The upstream client: keeps connections in the pool, opens new ones, and says why it could not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectingCancelledError, DNSLookupError, TimeoutError, UserError
from twisted.internet.interfaces import IDelayedCall, IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from ..addresses import Address
from ..balancing import EndpointState
from ..errors import ProxyError, Unavailable, UpstreamFailed, UpstreamTimeout
from ..exchange import Exchange
from ..limits import DEFAULTS, Limits
from .connecting import endpoint_for, unwrap
from .connection import UpstreamConnection
from .names import LookupGivenUp
from .pool import Pool


class _Connections(Factory):
    """Makes each connection with what it has to report to."""

    noisy = False

    def __init__(self, build: Callable[[], UpstreamConnection]) -> None:
        self._build = build

    def buildProtocol(self, addr: object) -> UpstreamConnection:
        return self._build()


class Http1Client:
    """An `interfaces.UpstreamClient` over HTTP/1.1.

    `endpoint_for(reactor, address, timeout)` is an argument so that tests connect to what they like. There
    are at most `limits.upstream_connections` to one endpoint; requests beyond wait, in order.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint_for: Callable[[Any, Address, float], IStreamClientEndpoint] = endpoint_for,
        limits: Limits = DEFAULTS,
    ) -> None:
        self.reactor = reactor
        self.limits = limits
        self.pool: Pool[UpstreamConnection, _Opening] = Pool(limits)
        self._endpoint_for = endpoint_for
        self._round: IDelayedCall | None = None
        self._closed = False

    def checkout(self, endpoint: EndpointState) -> UpstreamConnection | None:
        """See `interfaces.UpstreamClient`."""
        return self.pool.take(endpoint)

    def open(self, endpoint: EndpointState, timeout: float, exchange: Exchange) -> Callable[[], None]:
        """See `interfaces.UpstreamClient`; where there is no place, it waits for one."""
        opening = _Opening(self, endpoint, timeout, exchange)
        if self.pool.reserve(endpoint):
            opening.connect()
        elif self.pool.wait(endpoint, opening):
            opening.wait(self.limits.upstream_wait, "no connection became free")
        else:
            opening.refuse_soon("too many requests wait for a connection")
        return opening.cancel

    def connect(self, address: Address, timeout: float, factory: Factory) -> Deferred[IProtocol]:
        """A connection to this address; its failure never comes before this has returned."""
        try:
            connecting = self._endpoint_for(self.reactor, address, timeout).connect(factory)
        except Exception:
            connecting = fail()
        if isinstance(getattr(connecting, "result", None), Failure):
            # Told in a later turn, as other failures are: the caller has no way to cancel yet.
            later: Deferred[IProtocol] = Deferred()
            self.reactor.callLater(0, connecting.chainDeferred, later)
            return later
        return connecting

    def released(self, connection: UpstreamConnection) -> None:
        """A connection is free for another request: of who waits, or whoever comes."""
        endpoint = connection.endpoint
        if self.pool.waiting:
            opening = self.pool.next_waiting(endpoint)
            if opening is not None:
                opening.take_over(connection)
                return
        if self._closed or not self.pool.give(endpoint, connection):
            connection.close()
        elif self._round is None:
            self._start_round()

    def freed(self, endpoint: EndpointState) -> None:
        """A place is free: who waited for it may connect."""
        opening = self.pool.free(endpoint)
        if opening is not None:
            opening.connect()

    def _start_round(self) -> None:
        self._round = self.reactor.callLater(self.limits.upstream_keepalive_timeout, self._next_round)

    def _next_round(self) -> None:
        self._round = None
        for connection in self.pool.expire():
            connection.close()
        if len(self.pool):
            self._start_round()

    def close(self) -> None:
        """Close what is idle, and keep nothing from here on."""
        self._closed = True
        if self._round is not None:
            self._round.cancel()
            self._round = None
        for connection in self.pool.clear():
            connection.close()


class _Opening:
    """One exchange's wish for a connection: it waits for a place, then has it until the connection closes."""

    __slots__ = ("_client", "_connecting", "_endpoint", "_exchange", "_has_place", "_late", "_timeout")

    def __init__(
        self, client: Http1Client, endpoint: EndpointState, timeout: float, exchange: Exchange
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._timeout = timeout
        self._exchange: Exchange | None = exchange
        self._connecting: Deferred[IProtocol] | None = None
        self._late: IDelayedCall | None = None
        self._has_place = False

    # Waiting for a place.

    def wait(self, seconds: float, detail: str) -> None:
        """Wait so long for a place or a connection; then it is refused."""
        self._late = self._client.reactor.callLater(seconds, self._waited, detail)

    def _waited(self, detail: str) -> None:
        self._late = None
        self._client.pool.leave(self._endpoint, self)
        self._refuse(detail)

    def refuse_soon(self, detail: str) -> None:
        """Refuse it in a later turn: the caller has no way to cancel yet."""
        self._late = self._client.reactor.callLater(0, self._refuse, detail)

    def _refuse(self, detail: str) -> None:
        self._late = None
        error = Unavailable("the service has too many requests at once", detail=detail)
        self._tell(lambda exchange: exchange.no_room(error))

    def take_over(self, connection: UpstreamConnection) -> None:
        """A connection that another exchange is done with: no need to open one."""
        self._stop_clock()
        self._tell(lambda exchange: exchange.connected(connection))

    # Connecting.

    def connect(self) -> None:
        """It has a place now: connect."""
        self._has_place = True
        self._stop_clock()
        client = self._client
        factory = _Connections(
            lambda: UpstreamConnection(self._endpoint, client.released, self._closed, client.limits)
        )
        self._connecting = connecting = client.connect(self._endpoint.address, self._timeout, factory)
        # A name with many addresses, or a TLS handshake, may take many time-outs: this one counts.
        self._late = client.reactor.callLater(self._timeout, connecting.cancel)
        connecting.addBoth(self._settled)
        connecting.addCallbacks(self._opened, self._failed)

    def _settled(self, result: IProtocol | Failure) -> IProtocol | Failure:
        self._connecting = None
        self._stop_clock()
        return result

    def _stop_clock(self) -> None:
        late, self._late = self._late, None
        if late is not None and late.active():
            late.cancel()

    def _opened(self, connection: IProtocol) -> None:
        assert isinstance(connection, UpstreamConnection)
        unwrap(connection.transport)
        if self._exchange is None:
            connection.abort()
        else:
            self._tell(lambda exchange: exchange.connected(connection))

    def _failed(self, failure: Failure) -> None:
        self._free()
        error = _connect_error(failure, self._timeout)
        self._tell(lambda exchange: exchange.connect_failed(error))

    def _tell(self, tell: Callable[[Exchange], None]) -> None:
        """What became of it, once; a bug meanwhile costs this exchange only."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        try:
            tell(exchange)
        except Exception:
            exchange.broke(Failure())

    def cancel(self) -> None:
        """The exchange wants no connection any more."""
        self._exchange = None
        if self._connecting is not None:
            self._connecting.cancel()
        elif self._late is not None:
            self._stop_clock()
            if self in self._client.pool.waiting.get(self._endpoint, ()):
                self._client.pool.leave(self._endpoint, self)

    # The place.

    def _closed(self, connection: UpstreamConnection) -> None:
        self._client.pool.forget(self._endpoint, connection)
        self._free()

    def _free(self) -> None:
        if self._has_place:
            self._has_place = False
            self._client.freed(self._endpoint)


def _connect_error(failure: Failure, timeout: float) -> ProxyError:
    if failure.check(LookupGivenUp):
        detail = f"looking up its name took too long, over {timeout:g} s"
        return UpstreamTimeout("connecting to the service took too long", detail=detail)
    if failure.check(TimeoutError, UserError, CancelledError, ConnectingCancelledError):
        return UpstreamTimeout("connecting to the service took too long", detail=f"over {timeout:g} s")
    if failure.check(DNSLookupError):
        return UpstreamFailed("no instance of the service could be reached", detail="its name is not known")
    return UpstreamFailed("no instance of the service could be reached", detail=failure.getErrorMessage())
