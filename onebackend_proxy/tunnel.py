"""What an exchange becomes when the service switches protocols: bytes both ways (RFC 9110, 7.8).

A `Tunnel` takes the exchange's place between the same two ends. Each may close its own direction and go on
reading; the tunnel is over when both have, when one breaks, or when nothing moves for too long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ProxyError
from .interfaces import Connection, Downstream
from .messages import Headers

if TYPE_CHECKING:
    from .exchange import Exchange


class Tunnel:
    """Relays between a client and an upstream connection, each held up when the other does not keep up."""

    def __init__(self, exchange: Exchange, connection: Connection, downstream: Downstream) -> None:
        self._exchange = exchange
        self._connection = connection
        self._downstream = downstream
        self._client_ended = False
        self._service_ended = False
        self._over = False
        self._progress = True
        self._deadline = 0.0

    def __repr__(self) -> str:
        return f"<Tunnel of {self._exchange!r}>"

    @property
    def exchange(self) -> Exchange:
        """The exchange that this was."""
        return self._exchange

    # What the upstream connection tells.

    def body_received(self, data: bytes) -> None:
        """Bytes came from the service."""
        self._progress = True
        self._exchange.bytes_out += len(data)
        self._downstream.write(data)

    def read_ended(self) -> None:
        """They may go out."""
        if not self._over:
            self._downstream.flush()

    def answer_ended(self, trailers: Headers) -> None:
        """The service sends nothing more."""
        self._service_ended = self._progress = True
        if self._client_ended:
            self.end("")
        else:
            self._downstream.half_close()

    def upstream_lost(self, error: ProxyError, retriable: bool) -> None:
        """The service's connection broke."""
        self.end(str(error), broken=True)

    def upstream_full(self) -> None:
        """The service does not keep up."""
        self._downstream.pause_request()

    def upstream_drained(self) -> None:
        """The service takes more."""
        self._progress = True
        self._downstream.resume_request()

    # What the downstream tells.

    def request_body_received(self, data: bytes) -> None:
        """Bytes came from the client."""
        if self._over:
            return
        self._progress = True
        self._exchange.bytes_in += len(data)
        self._connection.write(data)

    def request_ended(self, trailers: Headers) -> None:
        """The client sends nothing more."""
        if self._over or self._client_ended:
            return
        self._client_ended = self._progress = True
        if self._service_ended:
            self.end("")
        else:
            self._connection.end_request([])

    def client_full(self) -> None:
        """The client does not keep up."""
        self._connection.pause()

    def client_drained(self) -> None:
        """The client takes more."""
        self._progress = True
        self._connection.resume()

    def client_progressed(self) -> None:
        """The client, which does not keep up, has taken something."""
        self._progress = True

    def client_gone(self) -> None:
        """The client's connection is gone."""
        if self._over:
            return
        self._over = True
        self._exchange.tunnel_ended(self, "")
        if self._connection.full:
            # Closing in order would wait for a service that takes nothing.
            self._connection.abort()
        else:
            self._connection.close()

    # Ends.

    def end(self, reason: str, broken: bool = False) -> None:
        """End it now: in order, so that what either end has not taken yet still goes out, or `broken` off."""
        self._over = True
        self._exchange.tunnel_ended(self, reason)
        if broken or self._connection.full:
            self._connection.abort()
        else:
            self._connection.close()
        if broken:
            self._downstream.abort()
        else:
            self._downstream.end([])

    def cut(self) -> None:
        """The proxy stops."""
        if not self._over:
            self.end("the proxy is stopping", broken=True)

    def check(self, now: float) -> None:
        """Called about once a second: end the tunnel if nothing has moved for too long."""
        if self._progress:
            self._progress = False
            timeouts = self._exchange.upstream.timeouts
            # Who has ended its own half is soon done, or does not know how to end.
            half = self._client_ended or self._service_ended
            self._deadline = now + (min(timeouts.idle, timeouts.tunnel) if half else timeouts.tunnel)
        elif now >= self._deadline:
            self.end("nothing came through the tunnel for too long", broken=True)
