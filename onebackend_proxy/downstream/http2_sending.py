"""What goes out on an HTTP/2 connection: its streams take turns, as far as there is room for it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame

from ..exchange import Exchange
from ..headers import Peer
from .counting import count
from .entries import NO_ANSWER, RESET, caller_of, tell_exchange
from .http2_frames import ANSWER_EARNS, Patience
from .http2_stream import Http2Stream
from .lingering import Lingering

if TYPE_CHECKING:
    from .resources import Proxied

MAX_UNSENT = 4096
"""Bytes of what is not an answer that wait for the transport, before no more is read."""
MAX_STREAM = 2**31 - 1
WRITE_AT_ONCE = 65536
"""Bytes of answers after which they are written, whatever else is at hand."""


class Http2Sending(Lingering):
    """The half of a channel that answers: what `h2` makes is written when all that is at hand is made."""

    transport: Any
    full = False
    """Whether the transport takes no more for now."""
    connection: H2Connection
    _patience: Patience
    _peer: Peer
    _proxied: Proxied
    _reading = False
    _pumping = False
    # Nothing more goes out, or comes in; or no more requests do, behind the one that was the last. Before
    # that the client was told so at some tick.
    _dropped = False
    _leaving = False
    _warned = -1
    _last = 0
    _made = 0
    _unsent = b""

    def __init__(self) -> None:
        self.streams: dict[int, Http2Stream] = {}
        # Those whose answer is out, and whose request has no end; since when.
        self._unended: dict[int, int] = {}
        # Those with something that may go out.
        self._ring: deque[Http2Stream] = deque()

    def _steer(self) -> None:
        """Read from the client unless there is a reason not to."""
        raise NotImplementedError

    # For the streams.

    def date(self) -> bytes:
        """The value of the Date field of an answer made now."""
        return self.site.date_line()[len(b"Date: ") : -len(b"\r\n")]

    def acknowledge(self, number: int, size: int) -> None:
        """So much of a stream's body was taken: as much may follow."""
        if not self._dropped:
            self.connection.acknowledge_received_data(size, number)
            self._write()

    def send(self, stream: Http2Stream) -> None:
        """Something of this stream's answer may go out, in its turn."""
        if stream.waiting and not stream.blocked:
            self._queue(stream)
            self._pump()
            self._write()

    def reset(self, stream: Http2Stream, code: ErrorCodes) -> None:
        """Break this stream off; the others go on."""
        self.connection.reset_stream(stream.number, code)
        stream.give_up()
        self._forget(stream)
        self._write()

    def log_end(self, stream: Http2Stream, exchange: Exchange | None, sent: int) -> None:
        """Count a request that was answered, or given up, and tell the access log of it."""
        now = self.site.reactor.seconds()
        count(self.site.counts, exchange, stream.status, now, now, sent)
        if self.site.on_request_end is not None:
            head = stream.head
            trusted = self._proxied.desk.trusted
            caller = caller_of(head, self._peer, self.transport, trusted, stream.client)
            status = stream.status or (RESET if exchange is None else NO_ANSWER)
            tell = self.site.on_request_end
            if exchange is None:
                tell(caller, now, now, stream.id, head.target, status, 0, sent, stream.reason)
            else:
                tell_exchange(tell, caller, now, head.target, status, sent, exchange)

    # Turns.

    def _queue(self, stream: Http2Stream) -> None:
        stream.blocked = False
        if not stream.queued:
            stream.queued = True
            self._ring.append(stream)

    def _pump(self) -> None:
        """Let streams send, a frame each in turns, as far as the windows and the transport go."""
        if self._pumping or self._dropped:
            return
        self._pumping = True
        ring = self._ring
        starved = 0
        while ring and not self.full and starved < len(ring):
            stream = ring.popleft()
            stream.queued = False
            stream.send_heads()
            if not stream.over and stream.wants_window and self.connection.outbound_flow_control_window <= 0:
                # All wait for the same; only heads do not.
                self._queue(stream)
                starved += 1
            else:
                self._send_piece(stream)
        self._pumping = False

    def _send_piece(self, stream: Http2Stream) -> None:
        wanted = stream.wants_window
        sent = 0 if stream.over else stream.send_piece()
        if sent:
            self._made += sent
            self._patience.earn(sent / 1024)
        if stream.over:
            self._sent_whole(stream)
        elif stream.waiting:
            stream.blocked = wanted and not sent
            if not stream.blocked:
                self._queue(stream)
        elif sent:
            # All that there was. Who opens windows by a byte gets here only at the end.
            self._patience.earn(1)
        if sent:
            stream.went_out(self.site.ticks)
            if self._made > WRITE_AT_ONCE:
                self._write_made()

    def _sent_whole(self, stream: Http2Stream) -> None:
        """All of an answer is out."""
        if stream.broken:
            self.connection.reset_stream(stream.number, ErrorCodes.PROTOCOL_ERROR)
        else:
            self._patience.earn(ANSWER_EARNS)
            if not stream.request_over:
                self._drop_rest(stream)
        stream.give_up()
        self._forget(stream)

    def _drop_rest(self, stream: Http2Stream) -> None:
        """The rest of the request is not wanted (RFC 9113, 8.1)."""
        if stream.status >= 400:
            # Told so at once, curl 7 does not look at the answer any more.
            self._unended[stream.number] = self.site.ticks
        else:
            # Not told so, it waits for ever.
            self.connection.reset_stream(stream.number, ErrorCodes.NO_ERROR)

    def _forget(self, stream: Http2Stream) -> None:
        """The stream is closed."""
        self.streams.pop(stream.number, None)
        if stream.queued:
            stream.queued = False
            self._ring.remove(stream)
        self._quiet_since = self.site.ticks

    # The transport.

    def _write(self) -> None:
        """Write what was made, unless more is about to be; and close behind the last of it."""
        if self._reading or self._dropped:
            return
        self._write_made()
        if self._leaving and not self.streams and not self._unended:
            self._drop()

    def _write_made(self, more: bytes = b"") -> None:
        self._made = 0
        data = self.connection.data_to_send() + more
        if not self.full:
            if data:
                self.transport.write(data)
        elif data:
            self._unsent += data
            self._steer()

    def _drop(self) -> None:
        """Send nothing more, and close when all is sent."""
        self._dropped = True
        data = self._unsent + self.connection.data_to_send()
        self._unsent = b""
        if data:
            self.transport.write(data)
        self.linger()

    def _warn(self) -> None:
        """Ask for no more requests; those on their way are answered (RFC 9113, 6.8)."""
        if self._warned < 0 and not self._leaving:
            self._warned = self.site.ticks
            self._say_go_away(MAX_STREAM)

    def _go_away(self) -> None:
        """Take no more requests."""
        if not self._leaving:
            self._leaving = True
            self._last = self.connection.highest_inbound_stream_id
            self._say_go_away(self._last)

    def _say_go_away(self, last: int) -> None:
        # h2 can say it too, but nothing more after it.
        self._write_made(GoAwayFrame(0, last_stream_id=last).serialize())

    def close(self) -> None:
        """Take no more requests, and close when those under way are answered."""
        if self._dropped:
            super().close()
        else:
            self._go_away()
            self._write()
