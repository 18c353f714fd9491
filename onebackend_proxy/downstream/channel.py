"""Our HTTP/1.1 server channel for twisted.web: requests at their head, back-pressure, time-outs, refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as PlainRequest

from ..chunked import fields_in
from ..errors import (
    BadRequest,
    HeadTooLarge,
    ProxyError,
    RequestTimeout,
    TargetTooLong,
)
from ..headers import MAX_LENGTH_DIGITS, Network, Peer
from ..http1 import response_bytes
from ..messages import Headers, refusal
from ..transports import make_immediate
from .answers import report_refusal
from .counting import count
from .entries import Caller, guessed
from .lingering import Lingering
from .peers import peer_of, tls_version
from .request import ProxyRequest

if TYPE_CHECKING:
    from .site import ProxySite

MAX_NAME = 256
"""Bytes of a header field's name."""
MAX_WAITING = 16 * 1024
"""Bytes taken from a client behind the request under way: what it pipelines."""


class ProxyChannel(Lingering, HTTPChannel):
    """An HTTP/1.1 server channel that hands out requests at their head."""

    site: ProxySite
    transport: Any
    timeOut: Any
    _networkProducer: Any
    requests: list[ProxyRequest]
    full = False
    """Whether the client takes no more for now."""
    _peer: Peer | None = None
    _host: IAddress | None = None
    _other: IAddress | None = None
    _request_held = False
    _deferred = False
    _stopped = False
    _waiting = 0
    _lingering = False
    _savedTimeOut: Any
    _heads = 0
    _head_watched = (-1, 0)
    _trailers: Headers

    def connectionMade(self) -> None:
        """Be known to the site while the connection lasts."""
        limits = self.site.limits
        self.maxHeaders = limits.head_fields
        self.totalHeadersSize = self.MAX_LENGTH = limits.head_size
        self.site.channel_opened(self)
        make_immediate(self.transport)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone."""
        super().connectionLost(reason)
        self.site.channel_closed(self)

    def peer(self, trusted: Sequence[Network]) -> Peer:
        """Who is at the other end; worked out once."""
        if self._peer is None:
            self._peer = peer_of(self.transport.getPeer(), self.isSecure(), trusted)
        return self._peer

    def getHost(self) -> IAddress:
        """twisted.web's hook, called for each request: our end, asked of the kernel once."""
        if self._host is None:
            self._host = super().getHost()
        return self._host

    def getPeer(self) -> IAddress:
        """twisted.web's hook, called for each request: the other end."""
        if self._other is None:
            self._other = super().getPeer()
        return self._other

    @property
    def idle(self) -> bool:
        """Whether no request is under way; one whose head is not complete yet is none."""
        return not self.requests or not self.requests[-1].head_done

    # Time-outs are looked at once a second by the site; twisted.web's own make and cancel a timer per read.

    def setTimeout(self, period: float | None) -> float | None:
        """twisted.web's hook: be closed after so many seconds without a byte."""
        before: float | None = self.timeOut
        self.timeOut = period
        self._quiet_since = self.site.ticks
        return before

    def resetTimeout(self) -> None:
        """twisted.web's hook: a byte came."""
        self._quiet_since = self.site.ticks

    def tick(self, now: int) -> None:
        """A second has passed: close what is quiet for too long, refuse a head that takes too long."""
        if self._lingering:
            self.tick_lingering(now)
        elif self.full:
            self.tick_full(now, self.requests[0].exchange if self.requests else None)
        elif self.timeOut is not None and now - self._quiet_since > self.timeOut:
            self.timeoutConnection()
        elif self.line_mode and (self._buffer or self.requests):
            if self._head_watched[0] != self._heads:
                self._head_watched = (self._heads, now)
            elif now - self._head_watched[1] > self.site.limits.head_timeout:
                seconds = self.site.limits.head_timeout
                self._refuse_head(
                    RequestTimeout(f"the head took over {seconds:g} s to arrive"), now - self._head_watched[1]
                )

    def timeoutConnection(self) -> None:
        """twisted.web's hook: nothing came for too long."""
        self.setTimeout(None)
        if self.requests and self.requests[0].startedWriting:
            # Closing in order would wait for a client that takes nothing.
            self.transport.abortConnection()
        elif self.requests:
            self._refuse_head(RequestTimeout("the request took too long to arrive"))
        else:
            self.close()

    # Back-pressure, straight to the exchange: nothing to register and unregister for each request.

    def pauseProducing(self) -> None:
        """The transport's hook: the client does not keep up."""
        self.full = True
        super().pauseProducing()
        self._steer()
        if self.requests and self.requests[0].exchange is not None:
            self.requests[0].exchange.client_full()

    def resumeProducing(self) -> None:
        """The transport's hook: the client takes more."""
        self.full = False
        super().resumeProducing()
        self._steer()
        if self.requests and self.requests[0].exchange is not None:
            self.requests[0].exchange.client_drained()
        if self._deferred:
            self._deferred = False
            self._next_request()

    def hold_request(self) -> None:
        """Read no more of the request's body: the upstream does not keep up."""
        self._request_held = True
        self._steer()

    def let_request(self) -> None:
        """Read on, as far as it depends on the upstream."""
        self._request_held = False
        self._steer()

    def _steer(self) -> None:
        """Read from the client unless there is a reason not to: the one place that decides it."""
        self._stopped = self.full or self._request_held or self._waiting > MAX_WAITING
        if self._stopped:
            self._networkProducer.pauseProducing()
        else:
            self._networkProducer.resumeProducing()

    def checkPersistence(self, request: PlainRequest, version: bytes) -> bool:
        """twisted.web's hook: whether the connection may go on; a token list has commas (RFC 9110, 7.6.1)."""
        if version != b"HTTP/1.1":
            return False
        told = b",".join(request.requestHeaders.getRawHeaders(b"Connection", ()))
        close = told and any(token.strip().lower() == b"close" for token in told.split(b","))
        if close or self._heads >= self.site.limits.keepalive_requests:
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            return False
        return True

    def allHeadersReceived(self) -> None:
        """twisted.web's hook: a head is complete."""
        self._heads += 1
        request = self.requests[-1]
        has_body = self.length != 0
        self._trailers = []
        request.head_came(self._command, self._path, self._version, has_body)
        super().allHeadersReceived()
        if has_body and request.streams:
            # From here on it is the exchange that sees whether anything moves.
            self._savedTimeOut = self.setTimeout(None)
            request.start()

    def _send100Continue(self) -> None:
        # Where the body streams, the upstream decides whether it is wanted.
        if not self.requests[-1].streams:
            super()._send100Continue()

    def rawDataReceived(self, data: bytes) -> None:
        """twisted.web's hook: a piece of body, or of what comes behind the request under way."""
        if self._handlingRequest:
            self._dataBuffer.append(data)
            self._waiting += len(data)
            if self._waiting > MAX_WAITING:
                self._steer()
        else:
            super().rawDataReceived(data)

    def requestDone(self, request: PlainRequest) -> None:
        """twisted.web's hook: a request was answered; the next one is looked at when there is room for it."""
        if request is not self.requests[0]:
            raise TypeError("requests are answered in their order")
        del self.requests[0]
        self._request_held = False
        if not self.persistent or self.site.closing:
            self.persistent = False
            if self._waiting or self._stopped or getattr(self.transport, "unread", 0):
                self.drop_rest()
            self.loseConnection()
            return
        if self._savedTimeOut:
            self.setTimeout(self._savedTimeOut)
        if self.full:
            # Else a client that only asks, and reads nothing, would fill our memory with answers.
            self._deferred = True
        else:
            self._next_request()

    def _next_request(self) -> None:
        self._handlingRequest = False
        data = b"".join(self._dataBuffer)
        self._dataBuffer = []
        self._waiting = 0
        if self._stopped:
            self._steer()
        self.setLineMode(data)

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        # twisted.web makes an int of any number of digits, and Python refuses the long ones.
        if header == b"Content-Length" and len(data) > MAX_LENGTH_DIGITS:
            self._respondToBadRequestAndDisconnect()
            return False
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def allContentReceived(self) -> None:
        """twisted.web's hook: a request's body is complete."""
        if self.requests:
            if self._transferDecoder is not None:
                self._trailers = _parse_trailers(getattr(self._transferDecoder, "_trailerHeaders", ()))
            super().allContentReceived()

    def write_refusal(self, error: ProxyError, method: bytes, target: bytes) -> int:
        """Send an error as the last answer on this connection, and log why; returns its status."""
        status, message = report_refusal(self._log, method, target, error)
        self.persistent = False
        answer, body = refusal(status, message, method)
        head, _chunked = response_bytes(answer, False, True)
        self.write(head + body)
        return status

    def lineReceived(self, line: bytes) -> None:
        """twisted.web's hook: a line of a head; refused are folded ones (RFC 9112, 5.2) and endless names."""
        if self.requests:
            if line[:1] in (b" ", b"\t"):
                self._refuse_head(BadRequest("a header field is folded"))
                return
            if len(line) > MAX_NAME and b":" not in line[: MAX_NAME + 1]:
                # twisted.web keeps every name it has ever seen, up to ten thousand of them.
                self._refuse_head(HeadTooLarge(f"the name of a header field is over {MAX_NAME} bytes"))
                return
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """twisted.web's hook: a line over the limit, which is also that of the whole head."""
        if self.requests:
            self._refuse_head(HeadTooLarge(f"the head is over {self.site.limits.head_size} bytes"))
        else:
            self._refuse_head(TargetTooLong(f"the request line is over {self.site.limits.head_size} bytes"))

    def _respondToBadRequestAndDisconnect(self) -> None:
        # twisted.web tells no reasons; the two that have a status of their own can be seen from here.
        if self._receivedHeaderSize > self.totalHeadersSize:
            self._refuse_head(HeadTooLarge(f"the head is over {self.site.limits.head_size} bytes"))
        elif self._receivedHeaderCount > self.maxHeaders:
            self._refuse_head(HeadTooLarge(f"more than {self.site.limits.head_fields} header fields"))
        else:
            self._refuse_head(BadRequest("the request is not valid HTTP/1.1"))

    def _refuse_head(self, error: ProxyError, seconds: float = 0.0) -> None:
        """Refuse what is no request, and took so long to be none.

        One under way (a broken chunk in its body) is given up with it.
        """
        if self._lingering:
            # Refused already.
            return
        self.drop_rest()
        request = self.requests[0] if self.requests else None
        if request is not None and request.exchange is not None:
            request.exchange.client_gone()
        if request is not None and request.startedWriting:
            self.transport.abortConnection()
            return
        method, target = guessed(getattr(self, "_command", b"-"), getattr(self, "_path", b"-"))
        status = self.write_refusal(error, method, target)
        if request is not None:
            request.refused(status, method, target, error.message, seconds)
        else:
            self._refused_nothing(status, error.message)
        self.loseConnection()

    def _refused_nothing(self, status: int, reason: str) -> None:
        """There was not so much as a request line: count it, and tell the log what there is to tell."""
        now = self.site.reactor.seconds()
        count(self.site.counts, None, status, now, now)
        if self.site.on_request_end is not None:
            caller = Caller(self.peer(()).ip, b"", b"-", b"-", tls_version(self.transport), b"", b"")
            self.site.on_request_end(caller, now, now, b"", b"", status, 0, 0, reason)

    def take_trailers(self) -> Headers:
        """The trailer fields of the request that just became complete."""
        trailers, self._trailers = self._trailers, []
        return trailers

    def drop_rest(self) -> None:
        """The answer comes before the end of its request: what still comes of that is read and dropped."""
        self.persistent = False
        self._lingering = True
        # On the instance: where nobody lingers, it costs nothing to ask.
        self.dataReceived = lambda data: None  # type: ignore[method-assign]
        self.lineReceived = lambda line: None  # type: ignore[method-assign]
        self.rawDataReceived = lambda data: None  # type: ignore[method-assign]
        self._buffer = b""

    def loseConnection(self) -> None:
        """twisted.web's hook: close when all is sent."""
        if self._lingering:
            self.setTimeout(None)
            self.linger()
        else:
            self.close()


def _parse_trailers(lines: Sequence[bytes]) -> Headers:
    """The fields of a trailer section; a line that is none is dropped."""
    fields: Headers = []
    for line in lines:
        with contextlib.suppress(BadRequest):
            fields += fields_in(bytes(line) + b"\r\n")
    return fields
