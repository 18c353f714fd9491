"""What goes out on the fast plane: the answers on one client connection, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..exchange import Exchange
from ..headers import OutgoingRequest, Peer
from ..http1 import MAX_REMEMBERED, chunk, interim_bytes, last_chunk, response_bytes
from ..messages import NO_BODY, Answer, Headers, RequestHead, ResponseHead, own_answer, refusal
from ..tunnel import Tunnel
from .counting import count
from .entries import NO_ANSWER, Caller, Tell, caller_of, tell_exchange
from .lingering import Lingering

if TYPE_CHECKING:
    from .resources import Proxied

# What comes next from the client: a head, a body with a length or in chunks, nothing that is its turn before
# the request is answered, bytes of a tunnel, something that is no request, or what is dropped.
HEAD, LENGTH, CHUNKS, NOTHING, BYTES, UNKNOWN, DROPPED = range(7)

_SLASH = ord("/")


class FastAnswers(Lingering):
    """An `interfaces.Downstream` for the exchange under way, which is one at most."""

    transport: Any
    full = False
    """Whether the client takes no more for now."""
    _peer: Peer
    _proxied: Proxied
    _exchange: Exchange | Tunnel | None = None
    _next = HEAD
    # What came behind the request under way, or a head that has begun.
    _held = b""
    _request_held = False
    _stopped = False
    # Of the request under way: its head, its version, whether the connection outlives it, and its answer.
    _head: RequestHead | None = None
    _http10 = False
    _persistent = True
    _chunked = False
    _status = 0
    _sent = 0
    # For the log. Of one that was answered without an exchange: when it began, if that is not when it was
    # answered, what was made of it, and how much of its body was taken.
    _caller: Caller | None = None
    _reason = ""
    _began = 0.0
    _outgoing: OutgoingRequest | None = None
    _taken = 0

    def __init__(self) -> None:
        self._out: list[bytes] = []

    def _steer(self) -> None:
        """Read from the client unless there is a reason not to."""
        raise NotImplementedError

    def _next_request(self) -> None:
        """The connection goes on: look at what came behind the request that was answered."""
        raise NotImplementedError

    def inform(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`; HTTP/1.0 has no 1xx (RFC 9110, 15.2)."""
        if not self._http10:
            self.transport.write(interim_bytes(head))

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        site = self.site
        if self._next != NOTHING or site.closing or (self._http10 and head.body < NO_BODY):
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
        self._ended(exchange)
        if self._next == NOTHING and self._persistent and not self.site.closing:
            self._next = HEAD
            if self._head is not None and len(self._head.block) > MAX_REMEMBERED:
                self._head = self._caller = None
            self._next_request()
        else:
            more = self._next in (LENGTH, CHUNKS, UNKNOWN) or self._held or self._stopped
            tunnel = self._next == BYTES
            self._next = DROPPED
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
        self._next = DROPPED
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
        self._next = BYTES
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

    def refuse(self, status: int, message: str) -> None:
        """See `interfaces.Downstream`."""
        method = self._head.method if self._head is not None else b"GET"
        if self._exchange is None:
            # An exchange knows that itself.
            self._reason = message
        self._send(*refusal(status, message, method))

    def answer(self, answer: Answer) -> None:
        """Answer in the place of an upstream."""
        assert self._head is not None
        self._send(*own_answer(answer, self._head.method))

    def _send(self, head: ResponseHead, body: bytes) -> None:
        self.respond(head)
        if body:
            self._out.append(body)
        self._sent = len(body)
        self.end([])

    def _exchange_over(self) -> None:
        """There is nobody any more to answer."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.client_gone()
        self._ended(exchange)

    def _ended(self, exchange: Exchange | Tunnel | None) -> None:
        """A request was answered, or given up: count it, and tell the log."""
        site = self.site
        if isinstance(exchange, Tunnel):
            exchange = exchange.exchange
        now = site.reactor.seconds()
        status, sent = self._status, self._sent
        if exchange is None:
            count(site.counts, None, status, now, self._began or now, sent, self._taken)
        else:
            count(site.counts, exchange, status, now, now, sent)
        tell = site.on_request_end
        head = self._head
        if tell is not None and head is not None:
            caller = self._caller
            if caller is None or caller.headers is not head.headers or head.target[0] != _SLASH:
                caller = self._caller = self._new_caller(head, exchange)
            if exchange is None:
                self._tell_answered(tell, caller, head, now)
            else:
                sent = exchange.bytes_out or sent
                tell_exchange(tell, caller, now, head.target, status or NO_ANSWER, sent, exchange)
        self._status = self._sent = 0
        if exchange is None:
            self._outgoing = None
            self._began = self._taken = 0
            self._reason = ""

    def _tell_answered(self, tell: Tell, caller: Caller, head: RequestHead, now: float) -> None:
        """Tell the log of what was answered without an exchange."""
        id = self._outgoing.request_id if self._outgoing is not None else b""
        began = self._began or now
        tell(caller, now, began, id, head.target, self._status, self._taken, self._sent, self._reason)

    def _new_caller(self, head: RequestHead, exchange: Exchange | None) -> Caller:
        request = self._outgoing if exchange is None else exchange.request
        client = b"" if request is None else request.client_ip
        return caller_of(head, self._peer, self.transport, self._proxied.desk.trusted, client)
