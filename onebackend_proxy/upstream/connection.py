"""One HTTP/1.1 connection to an upstream, lent to one exchange at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..balancing import EndpointState
from ..errors import ProxyError, UpstreamFailed
from ..exchange import Exchange
from ..http1 import ResponseReader, chunk, last_chunk
from ..messages import Headers, ResponseHead
from ..transports import send_at_once

CLOSED = "the service closed the connection before it had answered"


@implementer(IPushProducer)
class UpstreamConnection(ResponseReader, Protocol):
    """Sends one request at a time and relays the events of its answer.

    `released` is called with the connection when it is whole and free for another request, `lost` when
    it closed while nobody had it.
    """

    # TCP, or TLS over it; twisted's types know neither's part in back-pressure.
    transport: Any

    def __init__(
        self,
        endpoint: EndpointState,
        released: Callable[[UpstreamConnection], None],
        lost: Callable[[UpstreamConnection], None],
    ) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.reused = False
        self._released = released
        self._lost = lost
        self._exchange: Exchange | None = None
        self._chunked = False
        self._request_sent = False
        self._keep_alive = False
        self._answered = False
        self._silent = True
        self._paused = False
        self.full = False

    def __repr__(self) -> str:
        use = repr(self._exchange) if self._exchange else "idle"
        return f"<UpstreamConnection {self.endpoint.address.authority}: {use}>"

    def connectionMade(self) -> None:
        """Take part in the transport's back-pressure."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        send_at_once(self.transport)
        self.transport.registerProducer(self, True)

    # What the exchange says.

    def send(self, exchange: Exchange, method: bytes, head: bytes, chunked: bool) -> None:
        """See `interfaces.Connection`."""
        self._exchange = exchange
        self._chunked = chunked
        self._request_sent = False
        self._answered = False
        self._silent = True
        self.expect_answer(method)
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

    def abort(self) -> None:
        """See `interfaces.Connection`."""
        self._exchange = None
        self.transport.abortConnection()

    def close(self) -> None:
        """Close in order: nobody has it, and nothing is under way."""
        # A producer that stays registered would keep the transport from closing; a TLS peer that sends no
        # close_notify would too.
        self.transport.unregisterProducer()
        if ISSLTransport.providedBy(self.transport):
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    # What the transport says.

    def dataReceived(self, data: bytes) -> None:
        """Bytes of an answer, or of something nobody asked for."""
        self._silent = False
        if self._exchange is None:
            self._lost(self)
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

    def _broke(self, error: ProxyError) -> None:
        exchange = self._exchange
        self.abort()
        # None if the answer was complete and only what followed was wrong: the client has what it needs.
        if exchange is not None:
            exchange.upstream_lost(error, False)

    def _release(self) -> None:
        self._answered = False
        self.resume()
        if self._keep_alive and self._request_sent and not self.full:
            self.reused = True
            self._released(self)
        elif self._request_sent and not self.full:
            self.close()
        else:
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: that ends a body without length, and breaks off any other answer."""
        exchange = self._exchange
        if exchange is None:
            self._lost(self)
            return
        clean = reason.check(ConnectionDone) is not None
        if clean and self.read_eof():
            return
        self._exchange = None
        detail = "" if clean else reason.getErrorMessage()
        exchange.upstream_lost(UpstreamFailed(CLOSED, detail=detail), self._silent)

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
            self._exchange.interim_received(head)

    def head_received(self, head: ResponseHead, keep_alive: bool) -> None:
        """See `http1.ResponseReader`."""
        self._keep_alive = keep_alive
        if self._exchange is not None:
            self._exchange.head_received(head)

    def body_received(self, data: bytes) -> None:
        """See `http1.ResponseReader`."""
        if self._exchange is not None:
            self._exchange.body_received(data)

    def answer_ended(self, trailers: Headers) -> None:
        """See `http1.ResponseReader`; released after the read, since the parser is still at work."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._answered = True
            exchange.answer_ended(trailers)
