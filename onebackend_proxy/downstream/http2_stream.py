"""One request on an HTTP/2 connection, and its answer: an `interfaces.Downstream` that waits for windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from ..exchange import Exchange
from ..messages import NO_BODY, Headers, RequestHead, ResponseHead
from .answers import RequestDownstream
from .http2_fields import answer_fields, lowered, malformed
from .http2_frames import MAX_FRAME

if TYPE_CHECKING:
    from .http2_sending import Http2Sending


class Http2Stream(RequestDownstream):
    """A stream, from its request's head to the last byte of the answer.

    A request's body is acknowledged, and more of it may come, as the exchange takes it. Of the answer a piece
    is held at most: while it waits for the client, the exchange is told so.
    """

    request_over = False
    """Whether the client has ended its half."""
    over = False
    """Whether nothing goes out any more: all of the answer has, or it was reset."""
    broken = False
    """Whether the request is malformed: behind the answer that says so the stream is reset."""
    blocked = False
    """Whether its answer waits for the stream's own window."""
    queued = False
    """Whether the channel has it among those that may send."""
    status = 0
    reason = ""
    id = client = b""
    """The request's id, and its client's address, once they have been found out."""
    quiet_since = 0
    """The tick at which anything of the answer last went out."""
    _left: int | None = None
    _unacknowledged = 0
    _holding = False
    _told_full = False
    _bodiless = False
    _ended = False
    _trailers: Headers = []  # noqa: RUF012 (never changed in place)
    _sent = 0
    # What goes out now, and how much of it has; what is to follow.
    _piece = b""
    _at = 0

    def __init__(self, channel: Http2Sending, number: int, head: RequestHead) -> None:
        self.channel = channel
        self.number = number
        self.head = self._request = head
        self._heads: list[Headers] = []
        self._body: list[bytes] = []

    def __repr__(self) -> str:
        return f"<Http2Stream {self.number}: {self.exchange!r}>"

    # The request.

    def begin(self, exchange: Exchange, length: int) -> None:
        """The request goes upstream; its body has this length, or none that is known where it is negative."""
        self.exchange = exchange
        self._left = length if length > 0 else None

    def body_received(self, data: bytes, size: int) -> None:
        """A piece of the request's body came, which took so much of the window."""
        self._unacknowledged += size
        exchange = self.exchange
        if exchange is not None and data:
            if self._left is not None:
                self._left -= len(data)
            exchange.request_body_received(data)
        if not self._holding and not self.over:
            self._acknowledge()

    def request_ended(self, trailers: Headers) -> None:
        """The client has ended its half."""
        self.request_over = True
        if self._left:
            # Only behind trailers: else h2 has seen it.
            self.break_off("the body is shorter than its content-length")
        elif self.exchange is not None:
            self.exchange.request_ended(trailers)

    def break_off(self, flaw: str) -> None:
        """What came makes the request malformed after all."""
        self.request_over = True
        exchange = self.exchange
        if exchange is None:
            return
        exchange.client_gone(flaw)
        if self.status:
            # An answer has begun, and must not end as if it were whole.
            self.channel.reset(self, ErrorCodes.PROTOCOL_ERROR)
        else:
            self.broken = True
            self.refuse(400, malformed(flaw))

    def pause_request(self) -> None:
        """See `interfaces.Downstream`: the window is not opened again."""
        self._holding = True

    def resume_request(self) -> None:
        """See `interfaces.Downstream`."""
        self._holding = False
        self._acknowledge()

    def _acknowledge(self) -> None:
        size, self._unacknowledged = self._unacknowledged, 0
        if size:
            self.channel.acknowledge(self.number, size)

    # The answer.

    def inform(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        self._heads.append(answer_fields(head))
        self.channel.send(self)

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        self.status = head.status
        self._bodiless = head.body in (NO_BODY, 0)
        self._heads.append(answer_fields(head, b"" if head.dated else self.channel.date()))

    def write(self, data: bytes) -> None:
        """See `interfaces.Downstream`."""
        self._sent += len(data)
        self._body.append(data)

    def flush(self) -> None:
        """See `interfaces.Downstream`."""
        if self._bodiless:
            # The end is about to come, and can be told with the head.
            return
        self.channel.send(self)
        if self.waiting and self.exchange is not None and not self._told_full:
            self._told_full = True
            self.exchange.client_full()

    def end(self, trailers: Headers) -> None:
        """See `interfaces.Downstream`."""
        self._ended = True
        self._trailers = trailers
        self._finish()
        self.channel.send(self)

    def refuse(self, status: int, message: str) -> None:
        """See `interfaces.Downstream`."""
        self.reason = message
        super().refuse(status, message)

    def abort(self) -> None:
        """See `interfaces.Downstream`; what came before the break is the client's all the same."""
        self.channel.send(self)
        self._finish()
        self.channel.reset(self, ErrorCodes.INTERNAL_ERROR)

    def give_up(self, reason: str = "the client went away") -> None:
        """There is nobody any more to answer: drop what waits, and stop asking for the rest."""
        self.over = True
        self._heads.clear()
        self._body.clear()
        self._piece, self._at = b"", 0
        if self.exchange is not None:
            self.exchange.client_gone(reason)
            self._finish()
        self._acknowledge()

    def _finish(self) -> None:
        """Part from the exchange, and tell the access log."""
        exchange, self.exchange = self.exchange, None
        self.quiet_since = self.channel.site.ticks
        self.channel.log_end(self, exchange, self._sent)

    # What goes out, when the channel says so.

    @property
    def waiting(self) -> bool:
        """Whether there is anything that has not gone out."""
        return not self.over and bool(self._heads or self._body or self._ended or len(self._piece) > self._at)

    @property
    def wants_window(self) -> bool:
        """Whether what is next needs room in the client's windows."""
        return bool(self._body) or len(self._piece) > self._at

    def send_heads(self) -> None:
        """Send what needs no window: heads."""
        heads = self._heads
        if heads:
            self.over = self._ended and not self.wants_window and not self._trailers
            connection = self.channel.connection
            last = heads.pop()
            for fields in heads:
                connection.send_headers(self.number, fields)
            heads.clear()
            connection.send_headers(self.number, last, end_stream=self.over and not self.broken)

    def send_piece(self) -> int:
        """Send one frame of the body at most, and the end behind the last one; returns how many bytes."""
        connection = self.channel.connection
        if self._at == len(self._piece) and self._body:
            self._piece = b"".join(self._body) if len(self._body) > 1 else self._body[0]
            self._at = 0
            self._body.clear()
        at, piece = self._at, self._piece
        size = left = len(piece) - at
        if left:
            size = min(left, connection.local_flow_control_window(self.number), MAX_FRAME)
            if size <= 0:
                return 0
            self._at += size
            last = size == left and not self._body
            self.over = last and self._ended and not self._trailers
            data = piece if size == len(piece) else memoryview(piece)[at : at + size]
            connection.send_data(self.number, data, end_stream=self.over and not self.broken)
            if not last:
                return size
            self._piece, self._at = b"", 0
        if self._ended and not self.over:
            self.over = True
            if self._trailers:
                connection.send_headers(self.number, lowered(self._trailers), end_stream=True)
            elif not self.broken:
                connection.end_stream(self.number)
        return size

    def went_out(self, now: int) -> None:
        """The client has taken something of the answer."""
        self.quiet_since = now
        exchange = self.exchange
        if exchange is None:
            return
        if self._told_full and not self.waiting:
            self._told_full = False
            exchange.client_drained()
        else:
            exchange.client_progressed()
