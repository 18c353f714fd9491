"""Closing a client connection so that the last answer on it arrives, on both planes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import ISSLTransport, ITCPTransport

from ..exchange import Exchange
from ..tunnel import Tunnel

if TYPE_CHECKING:
    from .site import ProxySite

LINGER = 2
"""Seconds we go on reading once an answer is out that came before the end of its request."""
LINGER_AT_MOST = 60
"""Seconds in which a client takes nothing of such an answer, and is given up."""


class Lingering:
    """What both channels share of closing; a channel calls `tick_lingering` once a second from then on.

    Closing with unread bytes would reset the connection, and the client might never see the answer
    (RFC 9112, 9.6). So they are read, and dropped, until the answer is out and a little longer.
    """

    site: ProxySite
    transport: Any
    _quiet_since = 0
    _left = 0

    @property
    def can_half_close(self) -> bool:
        """Whether our half can be closed alone, and be understood so: plain TCP.

        A client that speaks TLS takes that for the end of all (RFC 8446, 6.1, has it otherwise).
        """
        transport = self.transport
        return ITCPTransport.providedBy(transport) and not ISSLTransport.providedBy(transport)

    def linger(self) -> None:
        """Close our half when all is sent, and wait for the client to close its own."""
        if not self.can_half_close and not getattr(self.transport, "lingers", False):
            self.close()
            return
        self._quiet_since = self.site.ticks
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()
        self.transport.resumeProducing()

    def took_some(self) -> bool:
        """Whether the client has taken anything of what was sent since this was last asked."""
        before = self._left
        self._left = left = getattr(self.transport, "outstanding", 0)
        return left < before

    def tick_full(self, now: int, exchange: Exchange | Tunnel | None) -> None:
        """A second has passed in which the client did not keep up.

        A slow reader has all the time it needs; one that has stopped has not. While there is an `exchange`,
        that looks at the clock itself.
        """
        if self.took_some():
            self._quiet_since = now
            if exchange is not None:
                exchange.client_progressed()
        elif exchange is None and now - self._quiet_since >= self.site.limits.idle_timeout:
            # Closing in order would wait for it.
            self.transport.abortConnection()

    def tick_lingering(self, now: int) -> None:
        """A second has passed since it was to close: do so when the client has had its time."""
        if self.took_some():
            self._quiet_since = now
        quiet = now - self._quiet_since
        if quiet >= (LINGER_AT_MOST if self._left else 2 * LINGER):
            # It takes nothing, or does not close its own half; under TLS that would be waited for.
            self.transport.abortConnection()
        elif quiet >= LINGER and not self._left:
            self.transport.loseConnection()

    def close(self) -> None:
        """Close when all is sent. A producer that stays registered would keep the transport from it."""
        self._quiet_since = self.site.ticks
        self.transport.unregisterProducer()
        self.transport.loseConnection()
