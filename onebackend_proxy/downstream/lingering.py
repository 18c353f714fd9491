"""Closing a client connection so that the last answer on it arrives, on both planes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import ISSLTransport, ITCPTransport

if TYPE_CHECKING:
    from .site import ProxySite

LINGER = 2
"""Seconds we go on reading once an answer is out that came before the end of its request."""
LINGER_AT_MOST = 60
"""Seconds a client may take to read such an answer."""


class Lingering:
    """What both channels share of closing; a channel calls `tick_lingering` once a second from then on.

    Closing with unread bytes would reset the connection, and the client might never see the answer
    (RFC 9112, 9.6). So they are read, and dropped, until the answer is out and a little longer.
    """

    site: ProxySite
    transport: Any
    _quiet_since = 0
    _linger_began = 0

    @property
    def can_half_close(self) -> bool:
        """Whether our half can be closed alone: plain TCP. Under TLS it would look like a truncation."""
        transport = self.transport
        return ITCPTransport.providedBy(transport) and not ISSLTransport.providedBy(transport)

    def linger(self) -> None:
        """Close our half when all is sent, and wait for the client to close its own."""
        if not self.can_half_close:
            self.close()
            return
        self.transport.unregisterProducer()
        self._linger_began = self.site.ticks
        self.transport.loseWriteConnection()
        self.transport.resumeProducing()

    def tick_lingering(self, now: int) -> None:
        """A second has passed since: close when the client has had its time."""
        if getattr(self.transport, "unsent", False):
            self._quiet_since = now
            if now - self._linger_began >= LINGER_AT_MOST:
                self.transport.abortConnection()
        elif now - self._quiet_since >= LINGER:
            # In order: what the kernel still has to send goes out.
            self.transport.loseConnection()

    def close(self) -> None:
        """Close when all is sent. A producer that stays registered would keep the transport from it."""
        self._linger_began = self.site.ticks
        self.transport.unregisterProducer()
        self.transport.loseConnection()
