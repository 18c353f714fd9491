"""Our own Site for twisted.web: request bodies stream, and answers leave with the least work.

twisted.web reads a whole request body before it renders. Here a resource that has `streams = True` is
rendered when the head is complete, and gets the body as it comes. Everything else works as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Protocol as Shape

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.web.http import Request as PlainRequest
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import Request, Site

from ..limits import DEFAULTS, Limits
from ..metrics import RequestCounts
from .channel import ProxyChannel
from .counting import count
from .entries import NO_ANSWER, ClientOf, Tell, peer_host, tell_of
from .fast import FastChannel
from .request import ProxyRequest
from .resources import Proxied

HTTP1 = (b"http/1.1",)
HTTP2 = (b"h2", b"http/1.1")
"""Application protocols, the best first. What comes over HTTP/2 is not for twisted.web: it needs `fast`."""
LAST_REQUEST = 1.0
"""Seconds in which a connection that is idle when the proxy stops may still bring a request."""


class ClientChannel(Shape):
    """A client connection, of whichever plane and protocol."""

    transport: Any

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""

    def tick(self, now: int) -> None:
        """A second has passed."""

    def close(self) -> None:
        """Close, behind what is under way where the protocol has several requests at once."""


class ProxySite(Site):
    """A `twisted.web` Site whose streaming resources get request bodies as they come.

    `on_request_end` is called for every request that was answered or given up, for the access log;
    `client_of` tells whose request it was; `counts` counts them. With `fast`, connections begin on the fast
    plane, and come to twisted.web with their first request that is not proxied.
    """

    requestFactory = ProxyRequest
    protocol = ProxyChannel  # type: ignore[assignment]
    noisy = False

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime | None = None,
        on_request_end: Tell | None = None,
        *,
        client_of: ClientOf = peer_host,
        limits: Limits = DEFAULTS,
        fast: Proxied | None = None,
        protocols: Sequence[bytes] = HTTP1,
        counts: RequestCounts | None = None,
    ) -> None:
        super().__init__(
            resource, timeout=limits.keepalive_timeout, reactor=reactor, parsePOSTFormSubmission=False
        )
        self.on_request_end = on_request_end
        self.counts = RequestCounts() if counts is None else counts
        self.limits = limits
        self._client_of = client_of
        self._fast = fast
        self._protocols = list(protocols)
        self.channels: set[ClientChannel] = set()
        self.ticks = 0
        self._tick_call: IDelayedCall | None = None
        self.closing = False
        self._drained: Deferred[None] | None = None
        self._date = (-1, b"")

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """The channel of a new connection, on the plane that it begins on."""
        return self.web_channel(addr) if self._fast is None else FastChannel(self, self._fast)

    def web_channel(self, addr: IAddress | None) -> Any:
        """A channel of twisted.web's for a connection."""
        return super().buildProtocol(addr)

    def owns(self, request: Request) -> bool:
        """Whether this request came through one of our own channels (and not, say, over HTTP/2)."""
        return isinstance(request.channel, ProxyChannel) and request._encoder is None

    def getResourceFor(self, request: Any) -> IResource:
        """twisted.web's hook, called for each request: as in its own Site, but for a slow copy."""
        request.site = self
        request.sitepath = list(request.prepath)
        found: IResource = getChildForRequest(self.resource, request)
        return found

    def date_line(self) -> bytes:
        """The Date field of an answer made now, as a line."""
        now = int(self.reactor.seconds())
        if self._date[0] != now:
            self._date = (now, b"Date: %b\r\n" % datetimeToString(now))
        return self._date[1]

    def log(self, request: PlainRequest) -> None:
        """twisted.web's hook: a request was answered."""
        assert isinstance(request, ProxyRequest)
        now = self.reactor.seconds()
        status = request.code if request.startedWriting else NO_ANSWER
        count(self.counts, request.exchange, status, now, request.began, request.sentLength, request.buffered)
        if self.on_request_end is not None:
            tell_of(self.on_request_end, request, now, self._client_of)

    def acceptableProtocols(self) -> list[bytes]:
        """What may be spoken here over TLS; by default HTTP/1.1 only, whose channel makes bodies stream."""
        return self._protocols

    def drain(self, seconds: float) -> Deferred[None]:
        """Close each connection after the answer it is at; fires when none is left.

        One that is idle closes in a second: a request may be on its way to it, which is answered yet. After
        `seconds` all do, whatever they are at.
        """
        self.closing = True
        self._drained = Deferred()
        late = [
            self.reactor.callLater(min(LAST_REQUEST, seconds), self._close_idle),
            self.reactor.callLater(seconds, self.cut),
        ]
        if not self.channels:
            self._drained.callback(None)

        def done(_: object) -> None:
            for call in late:
                if call.active():
                    call.cancel()

        return self._drained.addBoth(done)

    def _close_idle(self) -> None:
        for channel in list(self.channels):
            if channel.idle:
                channel.close()

    def cut(self) -> None:
        """Close all connections now."""
        for channel in list(self.channels):
            channel.transport.abortConnection()

    def channel_opened(self, channel: ClientChannel) -> None:
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

    def channel_closed(self, channel: ClientChannel) -> None:
        """A connection ended."""
        self.channels.discard(channel)
        if not self.channels and self._tick_call is not None:
            self._tick_call.cancel()
            self._tick_call = None
        if self._drained is not None and not self.channels and not self._drained.called:
            self._drained.callback(None)
