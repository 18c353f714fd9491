"""The fast plane: an HTTP/1.1 server channel for requests that are proxied, and for nothing else.

It reads a head, asks the same rules and the same registry as the resource plane, and runs the same
`Exchange`, whose downstream it is itself. A connection that asks for what is not proxied goes to twisted.web,
bytes and all, for the rest of its life.
"""

from __future__ import annotations

from random import getrandbits
from typing import TYPE_CHECKING, Any
from typing import Protocol as Shape

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..balancing import Upstream
from ..chunked import ChunkedBody
from ..errors import ProxyError, RequestTimeout
from ..exchange import Exchange, State
from ..headers import OutgoingRequest, Peer, prepare_request
from ..http1 import (
    MAX_REMEMBERED,
    check_begun,
    chunk,
    interim_bytes,
    last_chunk,
    request_head,
    response_bytes,
)
from ..messages import CHUNKED, NO_BODY, Headers, RequestHead, ResponseHead
from ..transports import make_immediate
from ..tunnel import Tunnel
from .accesslog import Entry, exchange_entry
from .answers import refusal, report_refusal
from .channel import MAX_WAITING
from .lingering import Lingering
from .peers import peer_of
from .resources import Desk

if TYPE_CHECKING:
    from .site import ProxySite


def _guessed_head(data: bytes) -> RequestHead:
    """What a head that is none may have meant, for the logs."""
    words = data.partition(b"\r\n")[0].split()
    return RequestHead(words[0] if words else b"", words[1] if len(words) > 1 else b"", [], b"-")


# What comes next from the client.
_HEAD, _LENGTH, _CHUNKS, _NOTHING, _BYTES, _UNKNOWN, _DROPPED = range(7)

MAX_EMPTY_LINES = 4
"""Empty lines before a request: some old clients send one behind a body (RFC 9112, 2.2)."""


class Proxied(Shape):
    """What tells the fast plane where a request goes."""

    @property
    def desk(self) -> Desk:
        """What every proxied request passes."""

    def choose(self, request: OutgoingRequest) -> Upstream | None:
        """The upstream for a request; None if it is not proxied.

        Raises the `errors.ProxyError` that answers it.
        """


@implementer(IPushProducer, IHalfCloseableProtocol)
class FastChannel(Lingering, Protocol):
    """One client connection; an `interfaces.Downstream` for the exchange under way, which is one at most."""

    transport: Any
    full = False
    """Whether the client takes no more for now."""
    _exchange: Exchange | Tunnel | None = None
    _next = _HEAD
    _left = 0
    _chunks: ChunkedBody
    # A head that has begun, or what came behind the request under way.
    _held = b""
    _reading = False
    _request_held = False
    _stopped = False
    _served = 0
    _persistent = True
    _chunked = False
    _http10 = False
    _status = 0
    _sent = 0
    _reason = ""
    _head: RequestHead | None = None
    _empty_lines = 0
    _head_began = -1
    _taking_turns = False
    _handed_over: Any = None

    def __init__(self, site: ProxySite, proxied: Proxied) -> None:
        self.site = site
        self._proxied = proxied
        self._out: list[bytes] = []

    def __repr__(self) -> str:
        return f"<FastChannel of {self._peer.ip.decode()}: {self._exchange!r}>"

    def connectionMade(self) -> None:
        """Be known to the site while the connection lasts."""
        transport = self.transport
        secure = not make_immediate(transport) and ISSLTransport.providedBy(transport)
        self._peer: Peer = peer_of(transport.getPeer(), secure, self._proxied.desk.trusted)
        transport.registerProducer(self, True)
        self._quiet_since = self.site.ticks
        self.site.channel_opened(self)

    # What the client sends.

    def dataReceived(self, data: bytes) -> None:
        """Bytes of a head, a body, a tunnel, or of what is not its turn yet."""
        what = self._next
        if what == _DROPPED:
            # And nothing is waited for longer because of it.
            return
        self._quiet_since = self.site.ticks
        if what == _HEAD:
            held = self._held
            self._read_heads(held + data if held else data, len(held))
        elif what == _NOTHING:
            self._held += data
            if not self._stopped and self._held_enough():
                self._steer()
        elif what == _BYTES:
            assert self._exchange is not None
            self._exchange.request_body_received(data)
        elif what in (_LENGTH, _CHUNKS):
            self._read_body(data)

    def _held_enough(self) -> bool:
        """Whether no more is to be read before the request under way is answered."""
        held = self._held
        return self._taking_turns or (
            self._next == _NOTHING
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
            if not data or self._next != _HEAD or self.full:
                break
            turns -= 1
            if turns <= 0:
                # Answered at once, all of them: now it is the others' turn.
                self._taking_turns = True
                self._steer()
                self.site.reactor.callLater(0, self._go_on)
                break
        self._reading = False

    def _go_on(self) -> None:
        self._taking_turns = False
        if self._next == _HEAD:
            self._steer()
            if self._held and not self.full:
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
            request = prepare_request(
                head, self._peer, b"%032x" % getrandbits(128), desk.trusted, site.limits
            )
        except ProxyError as error:
            self._refuse_head(error, head)
            return
        self._served += 1
        self._http10 = head.version != b"HTTP/1.1"
        self._persistent = request.keep_alive and self._served < site.limits.keepalive_requests
        body = request.body
        if body == NO_BODY or body == 0:
            self._next = _NOTHING
        elif body == CHUNKED:
            self._next = _CHUNKS
            self._chunks = ChunkedBody(site.limits)
        else:
            self._next = _LENGTH
            self._left = body
        try:
            upstream = proxied.choose(request)
        except ProxyError as error:
            if error.closes:
                self._persistent = False
            self.refuse(*report_refusal(desk.log, request.method, request.target, error))
            return
        if upstream is None:
            self._hand_over(data)
            return
        exchange = self._exchange = desk.exchanges.begin(self, request, upstream)
        if self._next != _NOTHING:
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
        if self._next == _LENGTH:
            left = self._left - len(data)
            if left > 0:
                self._left = left
                exchange.request_body_received(data)
                return
            self._next = _NOTHING
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
        if rest is not None and self._next == _CHUNKS:
            self._next = _NOTHING
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
            self._next = _DROPPED
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
        self._next = _UNKNOWN
        self.refuse(status, message)

    def refuse(self, status: int, message: str) -> None:
        """See `interfaces.Downstream`."""
        method = self._head.method if self._head is not None else b"GET"
        head, body = refusal(status, message, method)
        self.respond(head)
        if body:
            self._out.append(body)
        self._sent = len(body)
        self._reason = message
        self.end([])

    # What the exchange says.

    def inform(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`; HTTP/1.0 has no 1xx (RFC 9110, 15.2)."""
        if not self._http10:
            self.transport.write(interim_bytes(head))

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        site = self.site
        if self._next != _NOTHING or site.closing or (self._http10 and head.body < NO_BODY):
            # The rest of a body that nobody reads any more cannot be told from a next request.
            self._persistent = False
        self._status = head.status
        more = b"" if head.dated else site.date_line()
        data, self._chunked = response_bytes(head, self._http10, not self._persistent, more)
        self._out.append(data)
        if self.full and self._exchange is not None:
            # Full already, with the answer before this one.
            self._exchange.client_full()

    def write(self, data: bytes) -> None:
        """See `interfaces.Downstream`."""
        self._out.append(chunk(data) if self._chunked else data)

    def flush(self) -> None:
        """See `interfaces.Downstream`."""
        out = self._out
        if out:
            self.transport.write(b"".join(out) if len(out) > 1 else out[0])
            out.clear()

    def end(self, trailers: Headers) -> None:
        """See `interfaces.Downstream`."""
        self._quiet_since = self.site.ticks
        out = self._out
        if self._chunked:
            out.append(last_chunk(trailers))
            self._chunked = False
        if out:
            self.transport.write(b"".join(out))
            out.clear()
        exchange = self._exchange
        self._exchange = None
        if self.site.on_request_end is not None:
            self._log_end(exchange, self._reason)
            self._reason = ""
        self._status = 0
        if self._next == _NOTHING and self._persistent and not self.site.closing:
            self._next = _HEAD
            if self._head is not None and len(self._head.block) > MAX_REMEMBERED:
                self._head = None
            if self._stopped or self._request_held:
                self._request_held = False
                self._steer()
            if self._held and not self._reading and not self.full:
                self._read_heads(self._held)
        else:
            more = self._next in (_LENGTH, _CHUNKS, _UNKNOWN) or self._held or self._stopped
            tunnel = self._next == _BYTES
            self._next = _DROPPED
            self._request_held = False
            self._held = b""
            if not tunnel and (more or getattr(self.transport, "unread", False)):
                self.linger()
            else:
                self.close()

    def abort(self) -> None:
        """See `interfaces.Downstream`; what came before the break is the client's all the same."""
        self.flush()
        self._exchange_over()
        self._next = _DROPPED
        self.transport.abortConnection()

    def pause_request(self) -> None:
        """See `interfaces.Downstream`."""
        self._request_held = True
        self._steer()

    def resume_request(self) -> None:
        """See `interfaces.Downstream`."""
        self._request_held = False
        self._steer()

    def switch(self, head: ResponseHead, tunnel: Tunnel) -> None:
        """See `interfaces.Downstream`."""
        self._exchange = tunnel
        self._next = _BYTES
        self._status = 101
        self._persistent = False
        self.transport.write(interim_bytes(head))
        if self.full:
            tunnel.client_full()
        self._steer()
        held, self._held = self._held, b""
        if held:
            tunnel.request_body_received(held)

    def half_close(self) -> None:
        """See `interfaces.Downstream`; TLS knows no half of a connection."""
        self.flush()
        if self.can_half_close:
            self.transport.loseWriteConnection()
        else:
            assert isinstance(self._exchange, Tunnel)
            self._exchange.request_ended([])

    # What the transport says.

    def _steer(self) -> None:
        """Read from the client unless there is a reason not to: the one place that decides it."""
        if self._next == _BYTES:
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
        elif self._held and self._next == _HEAD and not self._reading:
            self._read_heads(self._held)

    def stopProducing(self) -> None:
        """The transport will send nothing more: `connectionLost` follows."""

    def readConnectionLost(self) -> None:
        """The client sends nothing more: in a tunnel the service's half goes on, else it counts as gone."""
        if self._handed_over is not None:
            self._handed_over.close()
        elif self._next == _BYTES and self._exchange is not None:
            self._exchange.request_ended([])
        else:
            begun = self._status
            self._exchange_over()
            self._next = _DROPPED
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
        self._next = _DROPPED
        self.site.channel_closed(self)

    def _exchange_over(self) -> None:
        """There is nobody any more to answer."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.client_gone()
        if self.site.on_request_end is not None:
            self._log_end(exchange, "")

    # Time.

    @property
    def idle(self) -> bool:
        """Whether no request is under way; one whose head is not complete yet is none."""
        return self._exchange is None and self._next == _HEAD

    def tick(self, now: int) -> None:
        """A second has passed: close what is quiet for too long, refuse a head that takes too long."""
        limits = self.site.limits
        if self._next == _DROPPED:
            self.tick_lingering(now)
        elif self.full:
            self.tick_full(now, self._exchange)
        elif self._head_began >= 0:
            if now - self._head_began > limits.head_timeout:
                self._refuse_head(
                    RequestTimeout(f"the head took over {limits.head_timeout:g} s to arrive"),
                    _guessed_head(self._held),
                )
        elif self._exchange is None and now - self._quiet_since > limits.keepalive_timeout:
            self._next = _DROPPED
            self.close()

    # The other plane, and the access log.

    def _hand_over(self, data: bytes) -> None:
        """Let twisted.web's channel have the connection, this request first."""
        transport = self.transport
        transport.unregisterProducer()
        self._next = _DROPPED
        held, self._held = self._held, b""
        channel = self._handed_over = self.site.web_channel(transport.getPeer())
        self.site.channels.discard(self)
        self.dataReceived = channel.dataReceived  # type: ignore[method-assign]
        channel.makeConnection(transport)
        channel.dataReceived(data + held)

    def _log_end(self, exchange: Exchange | Tunnel | None, reason: str) -> None:
        """Tell the access log of a request that was answered, or given up."""
        head = self._head
        if self.site.on_request_end is None or head is None:
            return
        agent = referer = host = b""
        for name, value in head.headers:
            # By length first: most fields are neither.
            if len(name) == 10 and name.lower() == b"user-agent":
                agent = value
            elif len(name) == 7 and name.lower() == b"referer":
                referer = value
            elif exchange is None and name.lower() == b"host":
                host = value
        # 499, as nginx has it: the client left before there was an answer.
        line = (head.method, head.target, head.version, self._status or 499)
        now = self.site.reactor.seconds()
        if isinstance(exchange, Tunnel):
            exchange = exchange.exchange
        if exchange is None:
            # Refused as soon as it was read.
            entry = Entry(
                now, 0.0, b"", self._peer.ip, host, *line, 0, self._sent, agent, referer, reason=reason
            )
        else:
            sent = exchange.bytes_out or self._sent
            entry = exchange_entry(exchange, now, exchange.started, line, sent, agent, referer)
        self._sent = 0
        self.site.on_request_end(entry)
