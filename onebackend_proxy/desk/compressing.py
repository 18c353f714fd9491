"""An answer on its way to the client, encoded as that accepts."""

from __future__ import annotations

from ..headers import OutgoingRequest
from ..interfaces import Downstream
from ..messages import CHUNKED, NO_BODY, Headers, ResponseHead
from ..policies.compression import (
    MIN_SIZE,
    asked_coding,
    compressible,
    encoded_head,
    true_trailers,
    unmodified_head,
    varied_head,
)
from ..policies.encoders import Encoder, encoded, encoder
from .filters import Filter

MAX_WHOLE = 64 * 1024
"""Bytes of a body that is held to be encoded as a whole, with its length told. What comes slowly is not held:
what is there when the service pauses goes on, and the rest as a stream."""


class Compressing(Filter):
    """Encodes what is worth it, in the coding that `request` asks for.

    A stream is flushed where the service pauses, so that each event arrives at once; then its head says
    neither a length nor a strong entity tag (`policies.compression`).
    """

    # What is held, as long as it is not known how it goes out: the head, and what is there of the body.
    _head: ResponseHead | None = None
    _coding = ""
    _held: list[bytes]
    _size = 0
    # From then on, where it goes out as a stream.
    _encoder: Encoder | None = None
    _unflushed = False

    def __init__(self, to: Downstream, request: OutgoingRequest) -> None:
        super().__init__(to)
        self._method = request.method
        # Those of the client: what the service gets may be others by the time of its answer.
        self._asked = request.headers

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        if head.status == 304:
            head = unmodified_head(head, self._asked)
        elif compressible(head, self._method):
            coding = asked_coding(self._asked)
            if not coding:
                head = varied_head(head)
            elif head.body == NO_BODY:
                # To a HEAD: what a GET would get.
                head = encoded_head(head, coding)
            else:
                self._hold(head, coding)
                return
        self.to.respond(head)

    def _hold(self, head: ResponseHead, coding: str) -> None:
        self._head = head
        self._coding = coding
        self._held = []
        if head.body > MAX_WHOLE:
            self._begin()

    def write(self, data: bytes) -> None:
        """See `interfaces.Downstream`."""
        if self._encoder is not None:
            self._pass(self._encoder.write(data))
            self._unflushed = True
        elif self._head is not None:
            self._held.append(data)
            self._size += len(data)
            if self._size > MAX_WHOLE:
                self._begin()
        else:
            self.to.write(data)

    def _pass(self, data: bytes) -> None:
        if data:
            self.to.write(data)

    def _begin(self) -> None:
        """It goes out as a stream, beginning with what is held."""
        head, self._head = self._head, None
        assert head is not None
        self.to.respond(encoded_head(head, self._coding))
        self._encoder = encoder(self._coding)
        for data in self._held:
            self.write(data)
        self._held.clear()

    def flush(self) -> None:
        """See `interfaces.Downstream`."""
        head = self._head
        if head is not None:
            if head.body >= 0 and not self._held:
                # The head came by itself, as some services send it: its body is on the way.
                return
            self._begin()
        self._flush_encoder()
        self.to.flush()

    def _flush_encoder(self) -> None:
        # What was flushed already would only make it longer.
        if self._unflushed and self._encoder is not None:
            self._unflushed = False
            self._pass(self._encoder.flush())

    def end(self, trailers: Headers) -> None:
        """See `interfaces.Downstream`."""
        if self._head is not None:
            self._end_whole(self._head, trailers)
        elif self._encoder is not None:
            self._pass(self._encoder.finish())
            self.to.end(true_trailers(trailers))
        else:
            self.to.end(trailers)

    def _end_whole(self, head: ResponseHead, trailers: Headers) -> None:
        """All of the body is here, and nothing of the answer has gone out."""
        self._head = None
        body = b"".join(self._held)
        if len(body) < MIN_SIZE:
            head = varied_head(head)
        else:
            body = encoded(self._coding, body)
            trailers = true_trailers(trailers)
            # Only chunks can have trailers behind them.
            head = encoded_head(head, self._coding, CHUNKED if trailers else len(body))
        self.to.respond(head)
        self._pass(body)
        self.to.end(trailers)

    def abort(self) -> None:
        """See `interfaces.Downstream`; what came before the break is the client's all the same."""
        if self._head is not None:
            self._begin()
        self._flush_encoder()
        self.to.abort()
