"""One HTTP/1.1 connection to an upstream, lent to one exchange at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..balancing import EndpointState
from ..errors import ProxyError, UpstreamFailed
from ..exchange import Exchange
from ..headers import OutgoingRequest
from ..http1 import ResponseReader, chunk, last_chunk
from ..limits import DEFAULTS, Limits
from ..messages import CHUNKED, Headers, ResponseHead
from ..transports import make_immediate
from ..tunnel import Tunnel

CLOSED = "the service closed the connection before its answer was complete"
CLOSE_AT_MOST = 10.0
"""Seconds that a service has to take what was sent to it, once its connection is closed."""


@implementer(IPushProducer, IHalfCloseableProtocol)
class UpstreamConnection(ResponseReader, Protocol):
    """Sends one request at a time and relays the events of its answer.

    `released` is called with the connection when it is whole and free for another request, `closed` once when
    it is gone or given up.
    """

    # TCP, or TLS over it; twisted's types know neither's part in back-pressure.
    transport: Any
    reused = False
    full = False
    _exchange: Exchange | Tunnel | None = None
    _chunked = False
    _request_sent = False
    _keep_alive = False
    _answered = False
    _silent = True
    _unwanted = False
    _paused = False
    _gone = False
    _late: IDelayedCall | None = None

    def __init__(
        self,
        endpoint: EndpointState,
        released: Callable[[UpstreamConnection], None],
        closed: Callable[[UpstreamConnection], None],
        limits: Limits = DEFAULTS,
    ) -> None:
        self.endpoint = endpoint
        self.limits = limits
        self._released = released
        self._closed = closed

    def __repr__(self) -> str:
        use = repr(self._exchange) if self._exchange else "idle"
        return f"<UpstreamConnection {self.endpoint.address.authority}: {use}>"

    def connectionMade(self) -> None:
        """Take part in the transport's back-pressure."""
        make_immediate(self.transport)
        self.transport.registerProducer(self, True)

    # What the exchange says.

    def send(
        self, exchange: Exchange, request: OutgoingRequest, head: bytes, body: bytes, trailers: Headers | None
    ) -> None:
        """See `interfaces.Connection`."""
        self._exchange = exchange
        self._answered = self._unwanted = False
        self._silent = True
        self._chunked = chunked = request.body == CHUNKED
        self._request_sent = trailers is not None
        if body:
            head += chunk(body) if chunked else body
        if chunked and trailers is not None:
            head += last_chunk(trailers)
        self.expect_answer(request.method, request.upgrade)
        self.transport.write(head)
        if self.full:
            exchange.upstream_full()

    def write(self, data: bytes) -> None:
        """See `interfaces.Connection`."""
        self.transport.write(chunk(data) if self._chunked else data)

    def end_request(self, trailers: Headers) -> None:
        """See `interfaces.Connection`."""
        if self._chunked:
            self.transport.write(last_chunk(trailers))
        self._request_sent = True
        if isinstance(self._exchange, Tunnel):
            self._half_close()

    def _half_close(self) -> None:
        if ITCPTransport.providedBy(self.transport) and not ISSLTransport.providedBy(self.transport):
            self.transport.loseWriteConnection()

    def switch(self, tunnel: Tunnel) -> None:
        """See `interfaces.Connection`."""
        self._exchange = tunnel

    def pause(self) -> None:
        """See `interfaces.Connection`."""
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def resume(self) -> None:
        """See `interfaces.Connection`."""
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()

    def let_end(self) -> None:
        """See `interfaces.Connection`."""
        self._exchange = None
        self._unwanted = True

    def abort(self) -> None:
        """See `interfaces.Connection`."""
        self._give_up()
        self.transport.abortConnection()

    def close(self) -> None:
        """See `interfaces.Connection`."""
        self._give_up()
        # A producer that stays registered would keep the transport from closing; a TLS peer that sends no
        # close_notify would too.
        self.transport.unregisterProducer()
        if ISSLTransport.providedBy(self.transport):
            self.transport.abortConnection()
            return
        self.transport.loseConnection()
        if getattr(self.transport, "waiting", 0):
            # A service that takes nothing is not waited for.
            self._late = self.transport.reactor.callLater(CLOSE_AT_MOST, self.transport.abortConnection)

    def _give_up(self) -> None:
        self._exchange = None
        if not self._gone:
            self._gone = True
            self._closed(self)

    # What the transport says.

    def dataReceived(self, data: bytes) -> None:
        """Bytes of an answer, or of something nobody asked for."""
        self._silent = False
        if self._exchange is None:
            self.abort()
            return
        try:
            self.read(data)
        except ProxyError as error:
            self._broke(error)
            return
        if self._answered:
            self._release()
        elif self._exchange is not None:
            self._exchange.read_ended()
        elif self._unwanted:
            self.abort()

    def _broke(self, error: ProxyError) -> None:
        exchange = self._exchange
        self.abort()
        # None if the answer was complete and only what followed was wrong: the client has what it needs.
        if exchange is not None:
            exchange.upstream_lost(error, False)

    def _release(self) -> None:
        self._answered = False
        if self._paused:
            self.resume()
        if self._gone:
            return
        if self._keep_alive and self._request_sent and not self.full:
            self.reused = True
            self._released(self)
        elif self._request_sent and not self.full:
            self.close()
        else:
            self.abort()

    def readConnectionLost(self) -> None:
        """The service sends nothing more: in a tunnel what the client sends goes on, else that is the end."""
        if isinstance(self._exchange, Tunnel):
            self.read_eof()
        else:
            self._ended(True, "")
            self.close()

    def writeConnectionLost(self) -> None:
        """Our own half of a tunnel is closed."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: that ends a body without length, and breaks off any other answer."""
        if self._late is not None and self._late.active():
            self._late.cancel()
        clean = reason.check(ConnectionDone) is not None
        self._ended(clean, "" if clean else reason.getErrorMessage())

    def _ended(self, clean: bool, detail: str) -> None:
        exchange = self._exchange
        if exchange is not None and not (clean and self.read_eof()):
            self._give_up()
            exchange.upstream_lost(UpstreamFailed(CLOSED, detail=detail), self._silent)
        elif not self._gone:
            self._give_up()

    def pauseProducing(self) -> None:
        """The transport's write buffer is full."""
        self.full = True
        if self._exchange is not None:
            self._exchange.upstream_full()

    def resumeProducing(self) -> None:
        """The transport's write buffer is empty again."""
        self.full = False
        if self._exchange is not None:
            self._exchange.upstream_drained()

    def stopProducing(self) -> None:
        """The transport will send nothing more: `connectionLost` follows."""

    # What the reader says.

    def interim_received(self, head: ResponseHead) -> None:
        """See `http1.ResponseReader`."""
        if self._exchange is not None:
            self._exchange.interim_received(head)  # type: ignore[union-attr]

    def head_received(self, head: ResponseHead) -> None:
        """See `http1.ResponseReader`."""
        self._keep_alive = head.keep_alive
        exchange = self._exchange
        if exchange is not None:
            exchange.head_received(head)  # type: ignore[union-attr]  # a tunnel has no heads

    def body_received(self, data: bytes) -> None:
        """See `http1.ResponseReader`."""
        if self._exchange is not None:
            self._exchange.body_received(data)

    def answer_ended(self, trailers: Headers) -> None:
        """See `http1.ResponseReader`; released after the read, since the parser is still at work."""
        exchange = self._exchange
        if isinstance(exchange, Tunnel):
            exchange.answer_ended(trailers)
        elif exchange is not None:
            self._exchange = None
            self._answered = True
            exchange.answer_ended(trailers)
        else:
            self._answered = self._unwanted
