"""How an answer leaves through twisted.web: straight to our own channel, or through any IRequest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.http_headers import Headers as WebHeaders
from twisted.web.server import Request
from zope.interface import implementer

from ..errors import ProxyError, answer_for
from ..exchange import Exchange
from ..http1 import chunk, interim_bytes, last_chunk, response_bytes
from ..messages import NO_BODY, Answer, Headers, ResponseHead, own_answer, refusal, shown, shown_url
from ..tunnel import Tunnel

if TYPE_CHECKING:
    from .request import ProxyRequest


def report_refusal(log: Logger, method: bytes, target: bytes, error: ProxyError) -> tuple[int, str]:
    """Say in the log what is refused, and why; returns the status and the message of the answer."""
    status, message = answer_for(error)
    log.info(
        "refused {method} {target} with {status}: {reason}",
        method=shown(method),
        target=shown_url(target),
        status=status,
        reason=str(error),
    )
    return status, message


class RequestDownstream:
    """What both ways of answering share: refusing with JSON."""

    exchange: Exchange | None = None
    _request: Any

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """See `interfaces.Downstream`."""
        raise NotImplementedError

    def end(self, trailers: Headers) -> None:
        """See `interfaces.Downstream`."""
        raise NotImplementedError

    def refuse(self, status: int, message: str) -> None:
        """See `interfaces.Downstream`."""
        self._send(*refusal(status, message, self._request.method))

    def answer(self, answer: Answer) -> None:
        """Answer in the place of an upstream."""
        self._send(*own_answer(answer, self._request.method))

    def _send(self, head: ResponseHead, body: bytes) -> None:
        self.respond(head)
        if body:
            self.write(body)
        self.end([])

    def switch(self, head: ResponseHead, tunnel: Tunnel) -> None:
        """See `interfaces.Downstream`; twisted.web knows no tunnel, and no request asks for one here."""
        raise NotImplementedError

    def half_close(self) -> None:
        """See `interfaces.Downstream`; as `switch`."""
        raise NotImplementedError


class ChannelDownstream(RequestDownstream):
    """Writes bytes straight to our own HTTP/1.1 channel: the way that costs least.

    What one read from the upstream brings leaves in one write, at `flush`. The channel tells the exchange
    itself when the client does not keep up.
    """

    _request: ProxyRequest
    _chunked = False

    def __init__(self, request: ProxyRequest) -> None:
        self._request = request
        self._out: list[bytes] = []

    def inform(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`; HTTP/1.0 has no 1xx (RFC 9110, 15.2)."""
        if self._request.clientproto == b"HTTP/1.1":
            self._request.channel.write(interim_bytes(head))

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        request = self._request
        channel = request.channel
        http10 = request.clientproto != b"HTTP/1.1"
        if http10 or not request.complete or channel.site.closing:
            # The rest of a body that nobody reads any more cannot be told from a next request.
            channel.persistent = False
        more = b"" if head.dated else channel.site.date_line()
        data, self._chunked = response_bytes(head, http10, not channel.persistent, more)
        request.code = head.status
        request.startedWriting = 1
        self._out.append(data)
        if channel.full and self.exchange is not None:
            # Full already, with the answer before this one.
            self.exchange.client_full()

    def write(self, data: bytes) -> None:
        """See `interfaces.Downstream`."""
        self._request.sentLength += len(data)
        self._out.append(chunk(data) if self._chunked else data)

    def flush(self) -> None:
        """See `interfaces.Downstream`."""
        out = self._out
        if out:
            self._out = []
            self._request.channel.write(b"".join(out) if len(out) > 1 else out[0])

    def end(self, trailers: Headers) -> None:
        """See `interfaces.Downstream`."""
        request = self._request
        if self._chunked:
            self._out.append(last_chunk(trailers))
        self.flush()
        if not request.complete:
            request.channel.drop_rest()
        request.finish()

    def abort(self) -> None:
        """See `interfaces.Downstream`; what came before the break is the client's all the same."""
        self.flush()
        self._request.channel.transport.abortConnection()

    def pause_request(self) -> None:
        """See `interfaces.Downstream`."""
        self._request.channel.hold_request()

    def resume_request(self) -> None:
        """See `interfaces.Downstream`."""
        self._request.channel.let_request()


@implementer(IPushProducer)
class ResourceDownstream(RequestDownstream):
    """Answers through any twisted.web request: another program's Site, its encoders, HTTP/2.

    There the request's body was read before we saw the request; it is fed to the exchange from
    `request.content` piece by piece, as fast as the upstream takes it.
    """

    PIECE = 32 * 1024
    _feeding = False
    _paused = False
    _over = False

    def __init__(self, request: Request) -> None:
        self._request: Any = request
        request.notifyFinish().addErrback(self._gone)

    def _gone(self, reason: object) -> None:
        self._over = True
        if self.exchange is not None:
            self.exchange.client_gone()

    def feed(self) -> None:
        """Give the exchange the body, until it says stop."""
        if self._feeding or self.exchange is None:
            return
        self._feeding = True
        while not self._paused and not self._over:
            piece = self._request.content.read(self.PIECE)
            if not piece:
                self.exchange.request_ended([])
                break
            self.exchange.request_body_received(piece)
        self._feeding = False

    def inform(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`; what twisted.web has no words for is left out on HTTP/2."""
        channel = self._request.channel
        inner = getattr(channel, "_channel", channel)
        if isinstance(inner, HTTPChannel) and self._request.clientproto == b"HTTP/1.1":
            channel.write(interim_bytes(head))

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        request = self._request
        request.setResponseCode(head.status, head.reason)
        web_headers = WebHeaders()
        for name, value in head.headers:
            web_headers.addRawHeader(name, value)
        if request._encoder is not None:
            self._encode(head, web_headers)
        if not head.dated:
            web_headers.addRawHeader(b"Date", datetimeToString())
        # twisted.web's own word on whether the connection goes on.
        if request.responseHeaders.hasHeader(b"Connection"):
            web_headers.setRawHeaders(b"Connection", [b"close"])
        request.responseHeaders = web_headers
        # An answer without a type stays without one.
        request.defaultContentType = None
        request.registerProducer(self, True)
        if getattr(request.channel, "_waitingForTransport", False):
            self.pauseProducing()
        request.write(b"")

    def _encode(self, head: ResponseHead, web_headers: WebHeaders) -> None:
        """The other program encodes what it serves: so it does here, unless the service has done it."""
        applied = self._request.responseHeaders.getRawHeaders(b"Content-Encoding")
        if head.body == NO_BODY or web_headers.hasHeader(b"Content-Encoding") or applied is None:
            self._request._encoder = None
        else:
            web_headers.setRawHeaders(b"Content-Encoding", applied)
            web_headers.removeHeader(b"Content-Length")

    def write(self, data: bytes) -> None:
        """See `interfaces.Downstream`."""
        self._request.write(data)

    def flush(self) -> None:
        """See `interfaces.Downstream`: twisted.web holds nothing back."""

    def end(self, trailers: Headers) -> None:
        """See `interfaces.Downstream`; twisted.web cannot send trailers."""
        self._over = True
        self._request.unregisterProducer()
        self._request.finish()

    def abort(self) -> None:
        """See `interfaces.Downstream`."""
        self._over = True
        channel = self._request.channel
        stream_abort = getattr(channel, "abortConnection", None)
        if stream_abort is not None:
            stream_abort()
        else:
            channel.transport.abortConnection()

    def pause_request(self) -> None:
        """See `interfaces.Downstream`."""
        self._paused = True

    def resume_request(self) -> None:
        """See `interfaces.Downstream`."""
        self._paused = False
        self.feed()

    def pauseProducing(self) -> None:
        """The client does not keep up."""
        if self.exchange is not None:
            self.exchange.client_full()

    def resumeProducing(self) -> None:
        """The client takes more."""
        if self.exchange is not None:
            self.exchange.client_drained()

    def stopProducing(self) -> None:
        """The client's transport will send nothing more; that it is gone is told separately."""
