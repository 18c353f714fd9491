"""The fast plane: an HTTP/1.1 server channel for requests that are proxied, and for nothing else.

It reads a head, asks the same rules and the same registry as the resource plane, and runs the same
`Exchange`, whose downstream it is itself. A connection that asks for what is not proxied goes to twisted.web,
bytes and all, for the rest of its life.
"""

from __future__ import annotations

from random import getrandbits
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..chunked import ChunkedBody
from ..errors import ProxyError, RequestTimeout, answer_for
from ..exchange import Exchange, State
from ..http1 import check_begun, request_head
from ..messages import CHUNKED, NO_BODY, Answer, RequestHead
from ..proxy_protocol import BrokenHeader, read_header
from ..transports import make_immediate
from .answers import report_refusal
from .channel import MAX_WAITING, ProxyChannel
from .entries import guessed
from .fast_answers import BYTES, CHUNKS, DROPPED, HEAD, LENGTH, NOTHING, UNKNOWN, FastAnswers
from .peers import peer_of
from .resources import Proxied

if TYPE_CHECKING:
    from .site import ProxySite


MAX_EMPTY_LINES = 4
"""Empty lines before a request: some old clients send one behind a body (RFC 9112, 2.2)."""


def _guessed_head(data: bytes) -> RequestHead:
    """What a head that is none may have meant, for the logs."""
    words = data.partition(b"\r\n")[0].split()
    method, target = guessed(words[0] if words else b"", words[1] if len(words) > 1 else b"")
    return RequestHead(method, target, [], b"-")


@implementer(IPushProducer, IHalfCloseableProtocol)
class FastChannel(FastAnswers, Protocol):
    """One client connection: what comes in on it, and what becomes of it."""

    _left = 0
    _chunks: ChunkedBody
    _reading = False
    _served = 0
    _empty_lines = 0
    _head_began = -1
    _taking_turns = False
    _handed_over: Any = None

    def __init__(self, site: ProxySite, proxied: Proxied) -> None:
        super().__init__()
        self.site = site
        self._proxied = proxied

    def __repr__(self) -> str:
        return f"<FastChannel of {self._peer.ip.decode()}: {self._exchange!r}>"

    def connectionMade(self) -> None:
        """Be known to the site while the connection lasts."""
        transport = self.transport
        immediate = make_immediate(transport)
        secure = ISSLTransport.providedBy(transport)
        covers = getattr(transport, "covers", None)
        if covers is not None:
            self._proxied = self._proxied.over(covers)
        if secure and transport.negotiatedProtocol == b"h2":
            # What many a program never speaks is loaded when it is first spoken.
            from .http2 import Http2Channel

            self._give_to(Http2Channel(self.site, self._proxied))
            return
        self._peer = peer_of(transport.getPeer(), secure, self._proxied.desk.trusted)
        transport.registerProducer(self, True)
        self._quiet_since = self.site.ticks
        self.site.channel_opened(self)
        if self._peer.trusted and immediate and not secure:
            # With TLS it stands before the handshake (`tls.transport`), and nowhere else.
            self.dataReceived = self._proxy_header_received  # type: ignore[method-assign]

    def _proxy_header_received(self, data: bytes) -> None:
        """The first bytes of a trusted proxy's connection: they may say who the client is."""
        self._quiet_since = self.site.ticks
        data = self._held + data
        try:
            header = read_header(data)
        except BrokenHeader as error:
            self._proxied.desk.log.warn(
                "closed a connection: the PROXY header of {ip} cannot be read: {error}",
                ip=self._peer.ip.decode(),
                error=error,
            )
            self._next = DROPPED
            self._held = b""
            del self.dataReceived
            self.close()
            return
        if header is None:
            self._held = data
            if self._head_began < 0:
                self._head_began = self.site.ticks
            return
        del self.dataReceived
        self._held = b""
        self._head_began = -1
        if header.client is not None:
            self.transport.named(*header.client)
            self._peer = peer_of(self.transport.getPeer(), False, self._proxied.desk.trusted)
        if len(data) > header.size:
            self.dataReceived(data[header.size :])

    # What the client sends.

    def dataReceived(self, data: bytes) -> None:
        """Bytes of a head, a body, a tunnel, or of what is not its turn yet."""
        what = self._next
        if what == DROPPED:
            # And nothing is waited for longer because of it.
            return
        self._quiet_since = self.site.ticks
        if what == HEAD:
            held = self._held
            self._read_heads(held + data if held else data, len(held))
        elif what == NOTHING:
            self._held += data
            if not self._stopped and self._held_enough():
                self._steer()
        elif what == BYTES:
            assert self._exchange is not None
            self._exchange.request_body_received(data)
        elif what in (LENGTH, CHUNKS):
            self._read_body(data)

    def _held_enough(self) -> bool:
        """Whether no more is to be read before the request under way is answered."""
        held = self._held
        return self._taking_turns or (
            self._next == NOTHING
            and (len(held) > MAX_WAITING or held.count(b"\r\n\r\n") >= self.site.limits.pipelined)
        )

    def _read_heads(self, data: bytes, known: int = 0) -> None:
        """Serve the requests in `data`, until one has to wait, or is not complete.

        So many bytes of it are `known` to hold no whole head.
        """
        self._reading = True
        turns = self.site.limits.pipelined
        while True:
            if data[:1] in b"\r\n":
                data = self._without_empty_lines(data)
                known = 0
            end = data.find(b"\r\n\r\n", max(known - 3, 0)) + 4
            if end < 4:
                self._begin_head(data, known)
                break
            known = 0
            if end == len(data):
                self._held = b""
                self._request(data)
            else:
                self._held = data[end:]
                self._request(data[:end])
            data = self._held
            if not data or self._next != HEAD or self.full:
                break
            turns -= 1
            if turns <= 0:
                # Answered at once, all of them: now it is the others' turn.
                self._taking_turns = True
                self._steer()
                self.site.reactor.callLater(0, self._go_on)
                break
        self._reading = False

    def _next_request(self) -> None:
        if self._stopped or self._request_held:
            self._request_held = False
            self._steer()
        self._read_held()

    def _go_on(self) -> None:
        self._taking_turns = False
        if self._next == HEAD:
            self._next_request()

    def _read_held(self) -> None:
        if self._held and self._next == HEAD and not self._reading and not self.full:
            self._read_heads(self._held)

    def _without_empty_lines(self, data: bytes) -> bytes:
        while data.startswith(b"\r\n") and self._empty_lines < MAX_EMPTY_LINES:
            self._empty_lines += 1
            data = data[2:]
        return data

    def _begin_head(self, data: bytes, known: int) -> None:
        """Hold a head that has not come whole, unless it is wrong already."""
        self._held = data
        if data in (b"", b"\r"):
            return
        if self._head_began < 0:
            self._head_began = self.site.ticks
        try:
            check_begun(data, self.site.limits, known)
        except ProxyError as error:
            self._refuse_head(error, _guessed_head(data))

    def _request(self, data: bytes) -> None:
        """A head is complete: begin an exchange, refuse it, or hand the connection over."""
        site = self.site
        self._head_began = -1
        self._empty_lines = 0
        proxied = self._proxied
        desk = proxied.desk
        try:
            head = self._head = request_head(data, site.limits, self._head)
        except ProxyError as error:
            self._refuse_head(error, _guessed_head(data))
            return
        try:
            request = desk.prepare(head, self._peer, b"%032x" % getrandbits(128), desk.trusted, site.limits)
        except ProxyError as error:
            self._refuse_head(error, head)
            return
        self._served += 1
        self._http10 = head.version != b"HTTP/1.1"
        self._persistent = request.keep_alive and self._served < site.limits.keepalive_requests
        body = request.body
        if body == NO_BODY or body == 0:
            self._next = NOTHING
        elif body == CHUNKED:
            self._next = CHUNKS
            self._chunks = ChunkedBody(site.limits)
        else:
            self._next = LENGTH
            self._left = body
        try:
            upstream = proxied.choose(request)
        except ProxyError as error:
            if error.closes:
                self._persistent = False
            self._outgoing = request
            self.refuse(*report_refusal(desk.log, request.method, request.target, error))
            return
        except Exception as error:
            desk.log.failure("choosing where a request goes failed")
            self._outgoing = request
            self.refuse(*answer_for(error))
            return
        if upstream is None:
            self._hand_over(data)
            return
        if isinstance(upstream, Answer):
            if self._next == LENGTH and len(self._held) >= self._left:
                # It is at hand whole: no reason to close.
                self._held = self._held[self._left :]
                self._taken = self._left
                self._next = NOTHING
            self._outgoing = request
            self.answer(upstream)
            return
        exchange = self._exchange = desk.exchanges.begin(self, request, upstream)
        if self._next != NOTHING:
            held, self._held = self._held, b""
            if held:
                # With the head in one piece, if there is a connection.
                self._read_body(held)
                if exchange.state is State.DONE:
                    # Refused for its body.
                    return
        elif self._held and self._held_enough():
            self._steer()
        exchange.start()

    def _read_body(self, data: bytes) -> None:
        """Take the request's body out of its framing."""
        exchange = self._exchange
        assert exchange is not None
        if self._next == LENGTH:
            left = self._left - len(data)
            if left > 0:
                self._left = left
                exchange.request_body_received(data)
                return
            self._next = NOTHING
            if left < 0:
                self._held = data[left:]
                data = data[:left]
            exchange.request_body_received(data)
            exchange.request_ended([])
            return
        try:
            body, rest = self._chunks.read(data)
        except ProxyError as error:
            self._give_up_body(error)
            return
        if body:
            exchange.request_body_received(body)
        if rest is not None and self._next == CHUNKS:
            self._next = NOTHING
            self._held = rest
            exchange.request_ended(self._chunks.trailers)

    def _give_up_body(self, error: ProxyError) -> None:
        """The body breaks its framing: nothing more of it can be understood, or what follows it."""
        exchange = self._exchange
        assert isinstance(exchange, Exchange) and self._head is not None
        exchange.client_gone(error.message)
        if self._status:
            # An answer has begun, and must not end as if it were whole.
            self._exchange_over()
            self._next = DROPPED
            self.transport.abortConnection()
        else:
            self._refuse_head(error, self._head)

    # Refusals and the end.

    def _refuse_head(self, error: ProxyError, head: RequestHead) -> None:
        """Answer what is no valid request, and close: what follows cannot be understood."""
        self._head = head
        status, message = report_refusal(self._proxied.desk.log, head.method, head.target, error)
        self._persistent = False
        # There may be more of it: a reset must not overtake the answer.
        self._next = UNKNOWN
        self.refuse(status, message)

    # What the transport says.

    def _steer(self) -> None:
        """Read from the client unless there is a reason not to: the one place that decides it."""
        if self._next == BYTES:
            self._stopped = self._request_held
        else:
            self._stopped = self.full or self._request_held or self._held_enough()
        if self._stopped:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        """The client does not keep up."""
        self.full = True
        self._steer()
        if self._exchange is not None:
            self._exchange.client_full()

    def resumeProducing(self) -> None:
        """The client takes more."""
        self.full = False
        self._steer()
        if self._exchange is not None:
            self._exchange.client_drained()
        else:
            self._read_held()

    def stopProducing(self) -> None:
        """The transport will send nothing more: `connectionLost` follows."""

    def readConnectionLost(self) -> None:
        """The client sends nothing more: in a tunnel the service's half goes on, else it counts as gone."""
        if self._handed_over is not None:
            # twisted.web's channel does nothing but wait.
            over = self._handed_over
            (over.close if isinstance(over, ProxyChannel) else over.readConnectionLost)()
        elif self._next == BYTES and self._exchange is not None:
            self._exchange.request_ended([])
        else:
            begun = self._status
            self._exchange_over()
            self._next = DROPPED
            if begun:
                # An answer broken off must not look whole to one who still reads.
                self.transport.abortConnection()
            else:
                self.close()

    def writeConnectionLost(self) -> None:
        """Our half is closed: what the client still sends is read."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone."""
        if self._handed_over is not None:
            self._handed_over.connectionLost(reason)
            return
        self._exchange_over()
        self._next = DROPPED
        self.site.channel_closed(self)

    # Time.

    @property
    def idle(self) -> bool:
        """Whether no request is under way; one whose head is not complete yet is none."""
        return self._exchange is None and self._next == HEAD

    def tick(self, now: int) -> None:
        """A second has passed: close what is quiet for too long, refuse a head that takes too long."""
        limits = self.site.limits
        if self._next == DROPPED:
            self.tick_lingering(now)
        elif self.full:
            self.tick_full(now, self._exchange)
        elif self._head_began >= 0:
            if now - self._head_began > limits.head_timeout:
                self._began = self.site.reactor.seconds() - (now - self._head_began)
                self._refuse_head(
                    RequestTimeout(f"the head took over {limits.head_timeout:g} s to arrive"),
                    _guessed_head(self._held),
                )
        elif self._exchange is None and now - self._quiet_since > limits.keepalive_timeout:
            self._next = DROPPED
            self.close()

    # The other plane.

    def _hand_over(self, data: bytes) -> None:
        """Let twisted.web's channel have the connection, this request first."""
        transport = self.transport
        transport.unregisterProducer()
        self._next = DROPPED
        held, self._held = self._held, b""
        self.site.channels.discard(self)
        channel = self.site.web_channel(transport.getPeer())
        self._give_to(channel)
        channel.dataReceived(data + held)

    def _give_to(self, channel: Any) -> None:
        """From now on the connection is this channel's."""
        self._handed_over = channel
        self.dataReceived = channel.dataReceived  # type: ignore[method-assign]
        channel.makeConnection(self.transport)
