"""Where an answer comes from that no upstream connection of the exchange's own brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..headers import OutgoingRequest
from ..interfaces import Connection
from ..messages import Headers
from ..tunnel import Tunnel

if TYPE_CHECKING:
    from ..exchange import Exchange

PIECE = 64 * 1024
"""Bytes of an answer from memory that are sent at once; a larger one goes as fast as the client takes it."""


class Source(Connection):
    """An `interfaces.Connection` that only answers; others say what pausing and aborting it means.

    What is left of the request's body is not wanted.
    """

    reused = False
    full = False

    def send(
        self, exchange: Exchange, request: OutgoingRequest, head: bytes, body: bytes, trailers: Headers | None
    ) -> None:
        """No request is sent to it."""
        raise NotImplementedError

    def switch(self, tunnel: Tunnel) -> None:
        """It answers no request with a 101."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """See `interfaces.Connection`."""

    def end_request(self, trailers: Headers) -> None:
        """See `interfaces.Connection`."""

    def pause(self) -> None:
        """See `interfaces.Connection`."""

    def resume(self) -> None:
        """See `interfaces.Connection`; also called once when the head has been sent."""

    def let_end(self) -> None:
        """See `interfaces.Connection`."""
        self.abort()

    def abort(self) -> None:
        """See `interfaces.Connection`."""

    def close(self) -> None:
        """See `interfaces.Connection`."""
        self.abort()


class Memory(Source):
    """A large answer that is in memory; `body` may be a view of what others have, too."""

    def __init__(self, exchange: Exchange, body: bytes | memoryview) -> None:
        self._exchange: Exchange | None = exchange
        self._body = body
        self._at = 0
        self._paused = False
        self._sending = False

    def resume(self) -> None:
        """Send on, until the client does not keep up."""
        self._paused = False
        if self._sending:
            return
        self._sending = True
        while self._exchange is not None and not self._paused:
            piece = self._body[self._at : self._at + PIECE]
            if not piece:
                exchange, self._exchange = self._exchange, None
                exchange.answer_ended([])
                break
            self._at += len(piece)
            self._exchange.body_received(bytes(piece))
            if self._exchange is not None:
                self._exchange.read_ended()
        self._sending = False

    def pause(self) -> None:
        """The client does not keep up."""
        self._paused = True

    def abort(self) -> None:
        """Nobody wants the rest."""
        self._exchange = None
