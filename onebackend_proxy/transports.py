"""TCP transports that send at once while nothing is waiting to be sent.

Twisted's `write` always takes a trip through the reactor: two epoll_ctl and a wake-up for each answer.
This is the one place that does it otherwise; TLS is never bypassed, since only the transport that owns
the socket is touched, below whatever wraps it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Client, Connection, Server


class _SendsAtOnce(Connection):
    """`write` tries the socket first; what it does not take waits, with back-pressure, as ever."""

    @property
    def unsent(self) -> bool:
        """Whether bytes wait here for the kernel to take them."""
        return bool(self.dataBuffer or self._tempDataBuffer)

    def write(self, data: bytes) -> None:
        """See `twisted.internet.interfaces.ITransport`."""
        # A pull producer is asked for more by the reactor's writing only, so it must take part.
        pulled = self.producer is not None and not self.streamingProducer
        if (
            self.dataBuffer
            or self._tempDataBuffer
            or pulled
            or self.disconnecting
            or self.TLS
            or not self.connected
            or self._writeDisconnected
        ):
            super().write(data)
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            # Full, or broken: the reactor's own attempt tells which, and acts on it.
            sent = 0
        if sent < len(data):
            super().write(data[sent:] if sent else data)


class _ImmediateServer(_SendsAtOnce, Server):
    """An accepted connection."""


class _ImmediateClient(_SendsAtOnce, Client):
    """A connection made."""


_IMMEDIATE: dict[type, type] = {Server: _ImmediateServer, Client: _ImmediateClient}


def send_at_once(transport: Any) -> None:
    """Let this transport send at once, if it is plain TCP of the reactor's own; else leave it alone."""
    immediate = _IMMEDIATE.get(type(transport))
    if immediate is not None:
        # Twisted has no hook for what class a connection is of, on whichever endpoint it came.
        transport.__class__ = immediate
