"""A connection in memory: a transport that behaves as TCP does, and reading the answers it carried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from onebackend_proxy.messages import Headers


@implementer(ITCPTransport)
class Wire(StringTransport):
    """A transport that closes in a later turn of the reactor and delivers nothing while it is paused.

    `fill` and `drain` are what a slow peer does; `disconnecting` means closed in order, `aborted` reset.
    """

    def __init__(self, clock: Clock, peer: str | IAddress = "192.0.2.7") -> None:
        address = IPv4Address("TCP", peer, 54321) if isinstance(peer, str) else peer
        super().__init__(peerAddress=address, lenient=True)
        self.clock = clock
        self.protocol: Any = None
        self.aborted = False
        self.write_closed = False
        self.no_delay = False
        self.full = False
        self._undelivered: list[bytes] = []

    def attach(self, protocol: Any) -> None:
        """Connect the protocol."""
        self.protocol = protocol
        protocol.makeConnection(self)

    # What the protocol does.

    def write(self, data: bytes) -> None:
        if self.connected and not self.aborted:
            assert not self.write_closed, f"{data!r} written after the end"
            super().write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self.clock.callLater(0, self._lost, ConnectionDone())

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.clock.callLater(0, self._lost, ConnectionAborted())

    def loseWriteConnection(self) -> None:
        self.write_closed = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing to keep alive."""

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def getTcpKeepAlive(self) -> bool:
        return False

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._undelivered:
            self.clock.callLater(0, self._deliver)

    def _deliver(self) -> None:
        waiting, self._undelivered = self._undelivered, []
        for data in waiting:
            self.receive(data)

    def _lost(self, error: Exception) -> None:
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(error))

    # What the peer does.

    @property
    def paused(self) -> bool:
        """Whether the protocol asked to read no more."""
        return bool(self.producerState == "paused")

    @property
    def closed(self) -> bool:
        """Whether the protocol has ended the connection, in order or not."""
        return self.disconnecting or self.aborted or self.write_closed

    def receive(self, data: bytes) -> None:
        """Bytes came from the peer; they wait while the protocol reads nothing."""
        if self.paused:
            self._undelivered.append(data)
        elif self.connected and not self.disconnecting and not self.aborted:
            self.protocol.dataReceived(data)

    def peer_closes(self, error: Exception | None = None) -> None:
        """The peer closes, in order unless there is an error."""
        self._lost(error or ConnectionDone())

    def peer_ends(self) -> None:
        """The peer sends nothing more, and reads on: who knows no half of a connection closes it."""
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
        else:
            self.peer_closes()

    def fill(self) -> None:
        """What was written is more than the peer takes."""
        self.full = True
        assert self.producer is not None
        self.producer.pauseProducing()

    def drain(self) -> None:
        """The peer has taken what was written."""
        self.full = False
        if self.producer is not None:
            self.producer.resumeProducing()

    def take(self) -> bytes:
        """What was written since the last call."""
        data = self.value()
        self.clear()
        assert isinstance(data, bytes)
        return data


class Producer:
    """Says whether it is to wait."""

    paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        """Nothing to stop."""


@attrs.define
class Answer:
    """One answer as it stands on the wire; `complete` is false where its framing says that more follows."""

    status: int
    reason: bytes
    headers: Headers
    body: bytes = b""
    trailers: Headers = attrs.field(factory=list)
    complete: bool = False

    def field(self, name: bytes) -> list[bytes]:
        """The values of a field; names in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


def _lines(data: bytes) -> tuple[list[bytes], bytes] | None:
    head, end, rest = data.partition(b"\r\n\r\n")
    return (head.split(b"\r\n"), rest) if end else None


def _fields(lines: Sequence[bytes]) -> Headers:
    fields = [line.partition(b": ") for line in lines]
    assert all(separator for _name, separator, _value in fields), lines
    return [(name, value) for name, _separator, value in fields]


def _read_chunks(answer: Answer, data: bytes) -> bytes:
    while True:
        size, end, rest = data.partition(b"\r\n")
        if not end:
            assert not size or int(size, 16), "the last chunk came in pieces"
            return b""
        length = int(size, 16)
        if length == 0:
            section, end, rest = (
                rest.partition(b"\r\n") if rest[:2] == b"\r\n" else rest.partition(b"\r\n\r\n")
            )
            assert end, "the trailer section is not complete"
            answer.trailers = _fields(section.split(b"\r\n")) if section else []
            answer.complete = True
            return rest
        answer.body += rest[:length]
        if len(rest) < length + 2:
            return b""
        assert rest[length : length + 2] == b"\r\n"
        data = rest[length + 2 :]


def answers_in(data: bytes, methods: Sequence[bytes] = (), closed: bool = False) -> list[Answer]:
    """The answers to requests with these methods (GET where none is given), 1xx ones included."""
    answers: list[Answer] = []
    waiting = list(methods)
    while data:
        parts = _lines(data)
        assert parts is not None, f"half a head: {data!r}"
        lines, data = parts
        version, status, reason = lines[0].split(b" ", 2)
        assert version in (b"HTTP/1.1", b"HTTP/1.0"), lines[0]
        answer = Answer(int(status), reason, _fields(lines[1:]))
        answers.append(answer)
        if answer.status < 200:
            answer.complete = True
            continue
        method = waiting.pop(0) if waiting else b"GET"
        length = answer.field(b"Content-Length")
        coding = answer.field(b"Transfer-Encoding")
        assert not (length and coding) and len(length) < 2 and coding in ([], [b"chunked"])
        if method == b"HEAD" or answer.status in (204, 304):
            answer.complete = True
        elif coding:
            data = _read_chunks(answer, data)
        elif length:
            answer.body, data = data[: int(length[0])], data[int(length[0]) :]
            answer.complete = len(answer.body) == int(length[0])
        else:
            answer.body, data = data, b""
            answer.complete = closed
    return answers
