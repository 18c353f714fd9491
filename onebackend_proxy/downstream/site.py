"""Our own Site for twisted.web: request bodies stream, and answers leave with the least work.

twisted.web reads a whole request body before it renders. Here a resource that has `streams = True` is
rendered when the head is complete, and gets the body as it comes. Everything else works as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes as unquote

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.http import Request as PlainRequest
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from ..errors import (
    BadRequest,
    ContentTooLarge,
    HeadTooLarge,
    ProxyError,
    RequestTimeout,
    TargetTooLong,
    answer_for,
    error_body,
)
from ..exchange import Exchange
from ..headers import MAX_FIELDS, Network, Peer, origin_form, the_host
from ..http1 import response_bytes
from ..messages import Headers
from ..transports import send_at_once
from .answers import error_head
from .peers import peer_of

MAX_HEAD = 32 * 1024
"""Bytes of a request's head."""
MAX_BUFFERED = 1024 * 1024
"""Bytes of a request body that a resource which does not stream may get (the API's limit)."""
IDLE = 75.0
"""Seconds a client connection may be idle."""
HEAD_SECONDS = 30
"""Seconds that a request's head may take."""
LINGER = 2.0
"""Seconds we go on reading after an answer that came before the end of its request."""
_TRAILER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")


class ProxyRequest(Request):
    """A request whose body may stream; `complete` says that all of it has come."""

    site: ProxySite
    channel: ProxyChannel
    exchange: Exchange | None = None
    complete = False
    _resource: Any = None
    buffered = 0
    _refusal: ProxyError | None = None
    began = 0.0

    def head_came(self, method: bytes, target: bytes, version: bytes, has_body: bool) -> None:
        """The head is complete: find the resource, and whether it streams the body that follows."""
        self.method, self.uri, self.clientproto = method, target, version
        self.site = self.channel.site
        if self.site.on_request_end is not None:
            self.began = self.site.reactor.seconds()
        try:
            self.uri, authority = origin_form(method, target)
            the_host(self.requestHeaders.getRawHeaders(b"Host", []))
        except ProxyError as error:
            self._refusal = error
            return
        if authority:
            self.requestHeaders.setRawHeaders(b"Host", [authority])
        self.path = self.uri.partition(b"?")[0]
        if self.path != b"*":
            self.prepath: list[bytes] = []
            self.postpath = list(map(unquote, self.path[1:].split(b"/")))
            resource = self.site.getResourceFor(self)
            if getattr(resource, "streams", False):
                self._resource = resource
                return
        if has_body and (self.channel.length or 0) > MAX_BUFFERED:
            self._refusal = ContentTooLarge(f"the body is over {MAX_BUFFERED} bytes")

    @property
    def streams(self) -> bool:
        """Whether the body goes to the resource as it comes."""
        return self._resource is not None or self._refusal is not None

    def start(self) -> None:
        """Render the streaming resource, or refuse."""
        if self._refusal is not None:
            self.refuse(self._refusal)
            return
        try:
            self._resource.render(self)
        except Exception:
            self.processingFailed(Failure())

    def gotLength(self, length: int | None) -> None:
        """twisted.web's hook: a streamed body needs no file to wait in."""
        if not self.streams:
            super().gotLength(length)

    def handleContentChunk(self, data: bytes) -> None:
        """twisted.web's hook: a piece of the body."""
        if self.exchange is not None:
            self.exchange.request_body_received(data)
        elif not self.streams:
            self.buffered += len(data)
            if self.buffered > MAX_BUFFERED:
                self._refusal = ContentTooLarge(f"the body is over {MAX_BUFFERED} bytes")
                self.refuse(self._refusal)
            else:
                super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """twisted.web's hook: the body is complete (or there is none)."""
        self.complete = True
        if self.exchange is not None:
            self.exchange.request_ended(self.channel.take_trailers())
        elif not self.finished and self.streams:
            self.start()
        elif not self.finished:
            super().requestReceived(command, self.uri, version)

    def refuse(self, error: ProxyError) -> None:
        """Answer with an error ourselves, outside of any resource, and close."""
        self.code = self.channel.write_refusal(error, self.method, self.uri)
        self.startedWriting = 1
        if not self.complete:
            self.channel.linger()
        self.finish()

    def refused(self, status: int, method: bytes, target: bytes) -> None:
        """The channel has answered, before the head was complete: what the access log is to say."""
        self.method, self.uri, self.clientproto = method, target, b"-"
        self.code, self.startedWriting = status, 1
        self.began = self.began or self.channel.site.reactor.seconds()

    def processingFailed(self, reason: Failure) -> Failure:
        """A resource raised: log it, and answer as an API does; never a traceback."""
        self._log.failure("a request failed", failure=reason)
        if self.startedWriting:
            self.channel.transport.abortConnection()
        else:
            self.refuse(ProxyError("internal error"))
        return reason

    def connectionLost(self, reason: Failure) -> None:
        """twisted.web's hook: the client is gone."""
        if self.exchange is not None:
            self.exchange.client_gone()
        self.site = self.channel.site
        if self.site.on_request_end is not None and not self.finished:
            self.site.on_request_end(self)
        super().connectionLost(reason)


class ProxyChannel(HTTPChannel):
    """An HTTP/1.1 server channel that hands out requests at their head."""

    maxHeaders = MAX_FIELDS
    totalHeadersSize = MAX_HEAD
    MAX_LENGTH = MAX_HEAD
    site: ProxySite
    transport: Any
    timeOut: Any
    _networkProducer: Any
    requests: list[ProxyRequest]
    full = False
    _peer: Peer | None = None
    _host: IAddress | None = None
    _other: IAddress | None = None
    _lingering = False
    _request_held = False
    _savedTimeOut: Any
    _quiet_since = 0
    _heads = 0
    _head_watched = (-1, 0)
    _trailers: Headers

    def connectionMade(self) -> None:
        """Be known to the site while the connection lasts."""
        self.site.channel_opened(self)
        send_at_once(self.transport)
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
        """Whether no request is under way."""
        return not self.requests

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
        if self.timeOut is not None and now - self._quiet_since >= self.timeOut:
            self.timeoutConnection()
        elif self.line_mode and (self._buffer or self.requests) and not self._lingering:
            if self._head_watched[0] != self._heads:
                self._head_watched = (self._heads, now)
            elif now - self._head_watched[1] >= HEAD_SECONDS:
                self._refuse_head(RequestTimeout(f"the head took over {HEAD_SECONDS} s to arrive"))

    # Back-pressure, straight to the exchange: nothing to register and unregister for each request.

    def pauseProducing(self) -> None:
        """The transport's hook: the client does not keep up."""
        self.full = True
        super().pauseProducing()
        if self.requests and self.requests[0].exchange is not None:
            self.requests[0].exchange.client_full()

    def resumeProducing(self) -> None:
        """The transport's hook: the client takes more."""
        self.full = False
        super().resumeProducing()
        if self._request_held:
            self.transport.pauseProducing()
        if self.requests and self.requests[0].exchange is not None:
            self.requests[0].exchange.client_drained()

    def hold_request(self) -> None:
        """Read no more of the request's body: the upstream does not keep up."""
        self._request_held = True
        self.transport.pauseProducing()

    def let_request(self) -> None:
        """Read on, unless the client takes nothing of the answer either."""
        self._request_held = False
        if not self.full:
            self.transport.resumeProducing()

    def checkPersistence(self, request: PlainRequest, version: bytes) -> bool:
        """twisted.web's hook: whether the connection may go on; a token list has commas (RFC 9110, 7.6.1)."""
        if version != b"HTTP/1.1":
            return False
        for value in request.requestHeaders.getRawHeaders(b"Connection", ()):
            if any(token.strip().lower() == b"close" for token in value.split(b",")):
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

    def requestDone(self, request: PlainRequest) -> None:
        """twisted.web's hook: a request was answered."""
        if self.site.closing:
            self.persistent = False
        super().requestDone(request)

    def allContentReceived(self) -> None:
        """twisted.web's hook: a request's body is complete."""
        if self.requests:
            self._trailers = _parse_trailers(getattr(self._transferDecoder, "_trailerHeaders", ()))
            super().allContentReceived()

    def write_refusal(self, error: ProxyError, method: bytes, target: bytes) -> int:
        """Send an error as the last answer on this connection, and log why; returns its status."""
        status, message = answer_for(error)
        self._log.info(
            "refused {method} {target} with {status}: {reason}",
            method=ascii(method)[2:-1],
            target=ascii(target)[2:-1],
            status=status,
            reason=str(error),
        )
        self.persistent = False
        body = error_body(message)
        head, _chunked = response_bytes(error_head(status, body), False, True)
        self.write(head if method == b"HEAD" else head + body)
        return status

    def lineReceived(self, line: bytes) -> None:
        """twisted.web's hook: a line of a head; a folded one is refused (RFC 9112, 5.2)."""
        if line[:1] in (b" ", b"\t") and self.requests:
            self._respondToBadRequestAndDisconnect()
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """twisted.web's hook: a line over the limit, which is also that of the whole head."""
        if self.requests:
            self._refuse_head(HeadTooLarge(f"the head is over {MAX_HEAD} bytes"))
        else:
            self._refuse_head(TargetTooLong(f"the request line is over {MAX_HEAD} bytes"))

    def _respondToBadRequestAndDisconnect(self) -> None:
        # twisted.web tells no reasons; the two that have a status of their own can be seen from here.
        if self._receivedHeaderSize > self.totalHeadersSize:
            self._refuse_head(HeadTooLarge(f"the head is over {MAX_HEAD} bytes"))
        elif self._receivedHeaderCount > self.maxHeaders:
            self._refuse_head(HeadTooLarge(f"more than {MAX_FIELDS} header fields"))
        else:
            self._refuse_head(BadRequest("the request is not valid HTTP/1.1"))

    def _refuse_head(self, error: ProxyError) -> None:
        """Refuse what is no request; one under way (a broken chunk in its body) is given up with it."""
        self.linger()
        request = self.requests[0] if self.requests else None
        if request is not None and request.exchange is not None:
            request.exchange.client_gone()
        if request is not None and request.startedWriting:
            self.transport.abortConnection()
            return
        method, target = getattr(self, "_command", b"-"), getattr(self, "_path", b"-")
        status = self.write_refusal(error, method, target)
        if request is not None:
            request.refused(status, method, target)
        self.loseConnection()

    def take_trailers(self) -> Headers:
        """The trailer fields of the request that just became complete."""
        trailers, self._trailers = self._trailers, []
        return trailers

    def linger(self) -> None:
        """The answer comes before the end of its request: when it is sent, close without losing it.

        Closing with unread bytes would reset the connection, and the client might never see the answer
        (RFC 9112, 9.6).
        """
        self.persistent = False
        self._lingering = True
        # On the instance, so that a line costs nothing extra where nobody lingers.
        self.lineReceived = lambda line: None  # type: ignore[method-assign]
        self.rawDataReceived = lambda data: None  # type: ignore[method-assign]

    def loseConnection(self) -> None:
        """twisted.web's hook: close when all is sent."""
        transport: Any = self.transport
        # Half a close is for TCP alone: under TLS it would look like a truncation.
        if self._lingering and ITCPTransport.providedBy(transport) and not self.isSecure():
            self._networkProducer.unregisterProducer()
            self.setTimeout(None)
            transport.loseWriteConnection()
            self._networkProducer.resumeProducing()
            if self._abortingCall is None:
                self._abortingCall = self.callLater(LINGER, self._stop_lingering)
        else:
            super().loseConnection()

    def _stop_lingering(self) -> None:
        self._abortingCall = None
        self.transport.abortConnection()

    def timeoutConnection(self) -> None:
        """An idle connection is closed without a word in the log."""
        if self.idle:
            self.transport.loseConnection()
        else:
            super().timeoutConnection()


def _parse_trailers(lines: Sequence[bytes]) -> Headers:
    """The fields of a trailer section; a line that is none is dropped."""
    matches = (_TRAILER.fullmatch(bytes(line)) for line in lines)
    return [(match[1], match[2]) for match in matches if match]


class ProxySite(Site):
    """A `twisted.web` Site whose streaming resources get request bodies as they come.

    `on_request_end` is called with every request that was answered or given up (the access log).
    """

    requestFactory = ProxyRequest
    protocol = ProxyChannel  # type: ignore[assignment]
    noisy = False

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime | None = None,
        on_request_end: Callable[[ProxyRequest], None] | None = None,
    ) -> None:
        super().__init__(resource, timeout=IDLE, reactor=reactor, parsePOSTFormSubmission=False)
        self.on_request_end = on_request_end
        self.channels: set[ProxyChannel] = set()
        self.ticks = 0
        self._tick_call: IDelayedCall | None = None
        self.closing = False
        self._drained: Deferred[None] | None = None
        self._date = (0, b"")

    def owns(self, request: Request) -> bool:
        """Whether this request came through one of our own channels (and not, say, over HTTP/2)."""
        return isinstance(request.channel, ProxyChannel) and request._encoder is None

    def date(self) -> bytes:
        """The Date of an answer made now."""
        now = int(self.reactor.seconds())
        if self._date[0] != now:
            self._date = (now, datetimeToString(now))
        return self._date[1]

    def log(self, request: PlainRequest) -> None:
        """twisted.web's hook: a request was answered."""
        if self.on_request_end is not None:
            assert isinstance(request, ProxyRequest)
            self.on_request_end(request)

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 only: our channel is what makes bodies stream."""
        return [b"http/1.1"]

    def drain(self, seconds: float) -> Deferred[None]:
        """Close each connection after the answer it is at; fires when none is left.

        The idle ones close now, and after `seconds` the others do too, whatever they are at.
        """
        self.closing = True
        self._drained = Deferred()
        for channel in list(self.channels):
            if channel.idle:
                channel.transport.loseConnection()
        late = self.reactor.callLater(seconds, self.cut)
        if not self.channels:
            self._drained.callback(None)
        return self._drained.addBoth(lambda result: late.cancel() if late.active() else None)

    def cut(self) -> None:
        """Close all connections now."""
        for channel in list(self.channels):
            channel.transport.abortConnection()

    def channel_opened(self, channel: ProxyChannel) -> None:
        """A connection began."""
        self.channels.add(channel)
        if self._tick_call is None:
            self._tick_call = self.reactor.callLater(1.0, self._tick)

    def _tick(self) -> None:
        self._tick_call = None
        self.ticks += 1
        for channel in list(self.channels):
            channel.tick(self.ticks)
        if self.channels:
            self._tick_call = self.reactor.callLater(1.0, self._tick)

    def channel_closed(self, channel: ProxyChannel) -> None:
        """A connection ended."""
        self.channels.discard(channel)
        if not self.channels and self._tick_call is not None:
            self._tick_call.cancel()
            self._tick_call = None
        if self._drained is not None and not self.channels and not self._drained.called:
            self._drained.callback(None)
