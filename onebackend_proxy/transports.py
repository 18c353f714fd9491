"""Transports that cost little: they send at once, and are read without a trip through the reactor for each.

Twisted's `write` waits for the reactor to say that the socket takes bytes: two epoll_ctl and a wake-up for
each answer. Here the socket is tried first, while nothing is waiting to be sent. And the reactor surrounds
each single read with a logging context; here all that are readable are read in one go.

This is the one place that does it otherwise. TLS is never bypassed: only the transport that owns the socket
is touched, below whatever wraps it.
"""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IReadDescriptor, ITCPTransport
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Client, Connection, Port, Server
from twisted.internet.unix import Client as UnixClient
from twisted.internet.unix import Server as UnixServer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted, if its own limit allows so many."""
NOT_SENT = 256 * 1024
"""Bytes that wait in the kernel to be sent to one client, beyond those under way (tcp(7))."""
MAX_ACCEPTED = 16
"""Connections accepted in one go."""
MAX_AT_ONCE = 64
"""Connections read in one go."""
ROUNDS = 4
"""Times that they are looked at while many are readable, after which the reactor has its turn."""
FEW = 8
"""Readable connections, below which the reactor has its turn at once."""


@implementer(IReadDescriptor)
class _Readers:
    """All connections of one reactor that are read here; to the reactor it is one descriptor.

    An epoll descriptor is itself readable when one of those registered with it is (epoll(7)).
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._poll = select.epoll()
        self._connections: dict[int, Immediate] = {}
        self._paused: set[int] = set()
        self._log = Logger()

    def fileno(self) -> int:
        return self._poll.fileno()

    def logPrefix(self) -> str:
        return "connections"

    def add(self, connection: Immediate) -> None:
        number = connection.fileno()
        if number not in self._connections:
            if not self._connections:
                self._reactor.addReader(self)
            self._connections[number] = connection
            self._poll.register(number, select.EPOLLIN)
        elif number in self._paused:
            self._paused.discard(number)
            self._poll.modify(number, select.EPOLLIN)

    def pause(self, connection: Immediate) -> None:
        # That it breaks is told all the same, and once: who is not read from is not to stay for ever.
        number = connection.fileno()
        if self._connections.get(number) is connection:
            self._poll.modify(number, select.EPOLLET)
            self._paused.add(number)

    def remove(self, connection: Immediate) -> None:
        number = connection.fileno()
        if self._connections.get(number) is connection:
            del self._connections[number]
            self._paused.discard(number)
            self._poll.unregister(number)
            if not self._connections:
                self._reactor.removeReader(self)

    def doRead(self) -> None:
        """The reactor's call: something is readable."""
        connections = self._connections
        paused = self._paused
        for _round in range(ROUNDS):
            events = self._poll.poll(0, MAX_AT_ONCE)
            for number, event in events:
                connection = connections.get(number)
                if connection is None:
                    # Closed by what another one has just read.
                    continue
                why: Any = None
                try:
                    if number not in paused:
                        why = connection.doRead()
                    elif event & select.EPOLLERR:
                        why = CONNECTION_LOST
                except Exception as error:
                    self._log.failure("reading from a connection failed")
                    why = error
                if why is not None:
                    self._disconnect(connection, why)
            if len(events) < FEW:
                # Not busy: what comes meanwhile is the reactor's to wait for.
                break

    def _disconnect(self, connection: Immediate, why: Any) -> None:
        # As the reactor does it for its own: what goes wrong in one must not cost the others.
        try:
            self._reactor._disconnectSelectable(connection, why, True)
        except Exception:
            self._log.failure("closing a connection failed")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends: all of them do."""
        for connection in list(self._connections.values()):
            self.remove(connection)
            connection.connectionLost(reason)


# A program has one reactor, tests a few.
_READERS: dict[Any, _Readers] = {}


def _readers(reactor: Any) -> _Readers:
    readers = _READERS.get(reactor)
    if readers is None:
        readers = _READERS[reactor] = _Readers(reactor)
    return readers


class Immediate(Connection):
    """`write` tries the socket first; what it does not take waits, with back-pressure, as ever."""

    reactor: Any
    lingers = True
    """Whether our half can be closed first, while what still comes is read."""
    named_peer: IAddress | None = None
    """Who the client is, where it is not who connected (see `named`)."""
    _read_ended = False

    def getPeer(self) -> Any:
        """See `twisted.internet.interfaces.ITransport`."""
        return self.named_peer or super().getPeer()

    def named(self, host: str, port: int) -> None:
        """The client is at this address: a trusted proxy has relayed its bytes, and says so."""
        kind = IPv6Address if ":" in host else IPv4Address
        self.named_peer = kind("TCP", host, port)

    @property
    def waiting(self) -> int:
        """Bytes written that wait here for the kernel to take them."""
        return len(self.dataBuffer) - self.offset + sum(map(len, self._tempDataBuffer))

    @property
    def outstanding(self) -> int:
        """Bytes written that the other end has not taken yet: those that wait here, and in the kernel."""
        return self.waiting + self._asked(termios.TIOCOUTQ)

    @property
    def unread(self) -> int:
        """Bytes that have come and were not read: a close would lose what was written, too."""
        return self._asked(termios.FIONREAD)

    def _asked(self, question: int) -> int:
        try:
            answer = fcntl.ioctl(self.socket, question, b"\0\0\0\0")
        except OSError:
            return 0
        return int.from_bytes(answer, sys.byteorder)

    def write(self, data: bytes) -> None:
        """See `twisted.internet.interfaces.ITransport`."""
        # A pull producer is asked for more by the reactor's writing only, so it must take part.
        if (
            self.dataBuffer
            or self._tempDataBuffer
            or (self.producer is not None and not self.streamingProducer)
            or self.disconnecting
            or self.TLS
            or not self.connected
        ):
            super().write(data)
            return
        sent = self._send_now(data)
        if sent < len(data):
            super().write(data[sent:] if sent else data)

    def _send_now(self, data: bytes) -> int:
        """The number of bytes that the kernel took."""
        try:
            return self.socket.send(data)
        except OSError:
            # Full, or broken: the reactor's own attempt tells which, and acts on it.
            return 0

    def doRead(self) -> ConnectionLost | ConnectionDone | None:  # type: ignore[override]
        """See `twisted.internet.interfaces.IReadDescriptor`."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def readConnectionLost(self, reason: Failure) -> None:
        """See `twisted.internet.interfaces.IHalfCloseableDescriptor`: once, however long our half goes on."""
        self.stopReading()
        self._read_ended = True
        super().readConnectionLost(reason)

    def startReading(self) -> None:
        """Be read together with the others, where the reactor is epoll's."""
        if self._read_ended:
            # The end stays readable.
            return
        if isinstance(self.reactor, EPollReactor):
            _readers(self.reactor).add(self)
        else:
            super().startReading()

    def stopReading(self) -> None:
        """Be read no more, for now."""
        if isinstance(self.reactor, EPollReactor):
            _readers(self.reactor).pause(self)
        else:
            super().stopReading()

    def connectionLost(self, reason: Failure) -> None:
        """See `twisted.internet.interfaces.IReadDescriptor`."""
        if isinstance(self.reactor, EPollReactor):
            # Before the number is another one's.
            _readers(self.reactor).remove(self)
        super().connectionLost(reason)


class ImmediateServer(Immediate, Server):
    """An accepted TCP connection."""


class _ImmediateClient(Immediate, Client):
    """A TCP connection made."""


class ImmediateUnixServer(Immediate, UnixServer):
    """An accepted connection to a Unix socket; file descriptors that come over it are dropped."""


class _ImmediateUnixClient(Immediate, UnixClient):
    """A connection made to a Unix socket; as above."""


class _FairPort(Port):
    """Accepts a few connections at a time: a burst of a thousand is not to stop those that are there."""

    _accepts = 1

    @property
    def numberAccepts(self) -> int:
        """How many Twisted accepts in one go, which grows as long as there are more."""
        return self._accepts

    @numberAccepts.setter
    def numberAccepts(self, number: int) -> None:
        self._accepts = min(number, MAX_ACCEPTED)


_IMMEDIATE: dict[type, type] = {
    Server: ImmediateServer,
    Client: _ImmediateClient,
    UnixServer: ImmediateUnixServer,
    UnixClient: _ImmediateUnixClient,
}


_TCP = (socket.AF_INET, socket.AF_INET6)
_PORTS: dict[Any, Any] = {Server: ImmediateServer, UnixServer: ImmediateUnixServer}


def make_immediate(transport: Any) -> bool:
    """Let this transport cost little, if it is plain TCP or Unix of the reactor's own; else leave it alone.

    Returns whether it is: then there is nothing, such as TLS, between the protocol and the socket.
    """
    if isinstance(transport, Immediate):
        return True
    immediate = _IMMEDIATE.get(type(transport))
    if immediate is None:
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        return False
    # Twisted has no hook for what class a connection is of, on whichever endpoint it came. It is being read.
    transport.stopReading()
    transport.__class__ = immediate
    transport.startReading()
    if transport.socket.family in _TCP:
        transport.setTcpNoDelay(True)
    return True


def prepare_port(port: Any) -> None:
    """Let the connections that this port will accept cost little from the start.

    Linux gives them the port's own options. A queue of 50, Twisted's default, would make the 51st client
    of a burst wait for a second.
    """
    if not isinstance(port, Port):
        return
    port.transport = _PORTS.get(port.transport, port.transport)
    if type(port) is Port:
        port.__class__ = _FairPort
    if port.socket.family in _TCP:
        port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Else a client that reads slowly has megabytes waiting in the kernel, fetched for it in one burst.
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
        if port.backlog == 50:
            port.socket.listen(BACKLOG)


def accept_waiting(port: Any) -> None:
    """Accept those that have connected and wait for it: closing the port would reset them.

    No more than the queue holds: where another process has the socket too, the others are its own.
    """
    poll = select.poll()
    poll.register(port.fileno(), select.POLLIN)
    for _turn in range(BACKLOG // MAX_ACCEPTED):
        if not poll.poll(0):
            break
        port.doRead()
