"""A twisted.web request that is handed out at its head, and whose body may stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from twisted.python.failure import Failure
from twisted.web.server import Request

from ..errors import ContentTooLarge, ProxyError
from ..exchange import Exchange
from ..headers import origin_form, the_host

if TYPE_CHECKING:
    from .channel import ProxyChannel
    from .site import ProxySite

MAX_BUFFERED = 1024 * 1024
"""Bytes of a request body that a resource which does not stream may get (the API's limit).

One whose `body_limit`, called with the request at its head, says so may get more.
"""


def _usual_limit(request: Request) -> int:
    return MAX_BUFFERED


class ProxyRequest(Request):
    """A request whose body may stream; `complete` says that all of it has come."""

    site: ProxySite
    channel: ProxyChannel
    exchange: Exchange | None = None
    complete = False
    head_done = False
    began = 0.0
    target = b""
    """The request target as it came; `uri` has no authority any more."""
    buffered = 0
    request_id = b""
    """The id of a request that was to be proxied."""
    reason = ""
    """Why it was refused, where it was."""
    _told = False
    _body_limit = MAX_BUFFERED
    _resource: Any = None
    _refusal: ProxyError | None = None

    def head_came(self, method: bytes, target: bytes, version: bytes, has_body: bool) -> None:
        """The head is complete: find the resource, and whether it streams the body that follows."""
        self.head_done = True
        self.method, self.uri, self.clientproto = method, target, version
        self.target = target
        self.site = self.channel.site
        self.began = self.site.reactor.seconds()
        try:
            self._find(method, target)
        except ProxyError as error:
            self._refusal = error
            return
        if self._resource is None and has_body and (self.channel.length or 0) > self._body_limit:
            self._refusal = self._too_large()

    def _too_large(self) -> ContentTooLarge:
        return ContentTooLarge(f"the body is over {self._body_limit} bytes")

    def _find(self, method: bytes, target: bytes) -> None:
        """Find the resource, and check what one that streams checks itself, with the rest of its head."""
        hosts = self.requestHeaders.getRawHeaders
        if target[:1] != b"/":
            # The authority in the target is about to replace Host (RFC 9112, 3.2.2), whatever that was.
            the_host(hosts(b"Host", []))
            self.uri, authority = origin_form(method, target)
            if authority:
                self.requestHeaders.setRawHeaders(b"Host", [authority])
        self.path = self.uri.partition(b"?")[0]
        if self.path != b"*":
            self.prepath: list[bytes] = []
            segments = self.path[1:].split(b"/")
            self.postpath = [unquote_to_bytes(s) for s in segments] if b"%" in self.path else segments
            try:
                resource = self.site.getResourceFor(self)
                length = self.channel.length
                if length is None or length > MAX_BUFFERED:
                    self._body_limit = getattr(resource, "body_limit", _usual_limit)(self)
            except Exception:
                # Another program's tree: twisted.web meets the same again, and answers it.
                resource = None
            if getattr(resource, "streams", False):
                self._resource = resource
                return
        origin_form(method, target)
        the_host(hosts(b"Host", []))

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
            if self.buffered > self._body_limit:
                self._refusal = self._too_large()
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
        self.reason = error.message
        self.code = self.channel.write_refusal(error, self.method, self.uri)
        self.startedWriting = 1
        if not self.complete:
            self.channel.drop_rest()
        self.finish()

    def refused(self, status: int, method: bytes, target: bytes, reason: str, seconds: float) -> None:
        """The channel has answered, before the head was complete, which took so long: tell the access log."""
        self.method, self.uri, self.clientproto = method, target, b"-"
        self.target, self.reason = target, reason
        self.code, self.startedWriting = status, 1
        site = self.channel.site
        self.began = self.began or site.reactor.seconds() - seconds
        self._told = True
        site.log(self)

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
        if not self.finished and not self._told:
            self.site.log(self)
        super().connectionLost(reason)
