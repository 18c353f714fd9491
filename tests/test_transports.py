"""Transports that cost little: sent at once what the socket takes, read in one go, and TLS left alone."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import attrs
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Client, Server
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from onebackend_proxy.transports import (
    MAX_ACCEPTED,
    MAX_AT_ONCE,
    NOT_SENT,
    accept_waiting,
    make_immediate,
    prepare_port,
)

from .wire import Producer


class Reactor:
    """As much of a reactor as a connected socket needs."""

    def __init__(self) -> None:
        self.writers: set[Any] = set()
        self.later: list[Any] = []

    def addReader(self, reader: Any) -> None:
        """Nothing is read here."""

    removeReader = addReader

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def callLater(self, seconds: float, call: Any, *arguments: Any) -> None:
        self.later.append(call)


class TestSendAtOnce(SynchronousTestCase):
    """One end is the transport, the other a plain socket."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        ours, self.peer = socket.socketpair()
        for end in (ours, self.peer):
            end.setblocking(False)
            self.addCleanup(end.close)
        self.transport: Any = Server(ours, Protocol(), ("", 0), cast(Any, None), 0, cast(Any, self.reactor))
        self.socket = ours
        make_immediate(self.transport)

    def received(self) -> bytes:
        """What has left so far."""
        data = b""
        while True:
            try:
                data += self.peer.recv(1 << 20)
            except BlockingIOError:
                return data

    def test_it_leaves_without_a_turn_of_the_reactor(self) -> None:
        self.transport.write(b"hello")
        assert self.received() == b"hello"
        assert self.reactor.writers == set()

    def test_what_does_not_fit_waits_in_order_with_back_pressure(self) -> None:
        producer = Producer()
        self.transport.registerProducer(producer, True)
        big = bytes(range(256)) * 16384
        self.transport.write(big)
        assert producer.paused
        assert self.reactor.writers == {self.transport}
        self.transport.write(b"the end")
        data = b""
        while self.reactor.writers:
            data += self.received()
            self.transport.doWrite()
        assert data + self.received() == big + b"the end"
        assert not producer.paused

    def test_a_full_socket(self) -> None:
        while True:
            try:
                self.socket.send(b"x" * 65536)
            except BlockingIOError:
                break
        self.transport.write(b"hello")
        assert self.reactor.writers == {self.transport}
        self.received()
        self.transport.doWrite()
        assert self.received() == b"hello"

    def test_a_broken_socket_is_for_the_reactor_to_find(self) -> None:
        self.peer.close()
        self.transport.write(b"one")
        self.transport.write(b"two")
        assert self.reactor.writers == {self.transport}
        assert self.transport.doWrite() is not None

    def test_nothing_leaves_after_the_end(self) -> None:
        self.transport.loseConnection()
        self.transport.write(b"late")
        assert self.received() == b""

    def test_a_pull_producer_is_asked_by_the_reactor(self) -> None:
        producer = Producer()
        self.transport.registerProducer(producer, False)
        self.transport.write(b"hello")
        assert self.received() == b""
        assert self.reactor.writers == {self.transport}

    def test_tls_is_never_gone_around(self) -> None:
        self.transport.TLS = True
        wrapped = StringTransport()
        self.transport.protocol = wrapped
        try:
            self.transport.write(b"secret")
        except AttributeError:
            # Twisted hands it to the TLS layer, which this transport has not got.
            pass
        assert self.received() == b""

    def test_other_transports_are_left_alone(self) -> None:
        other = StringTransport()
        assert not make_immediate(other)
        assert type(other) is StringTransport
        kind = type(self.transport)
        make_immediate(self.transport)
        assert type(self.transport) is kind

    def test_clients_as_well(self) -> None:
        client: Any = Client.__new__(Client)
        client.reactor = self.reactor
        client.socket = self.socket
        make_immediate(client)
        assert type(client).write is type(self.transport).write


class Listener(Protocol):
    """Keeps what came, and says what becomes of the connection; `on_data` is what a test makes of it."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Failure | None = None
        self.half = False
        self.on_data: Callable[[], None] = lambda: None

    def connectionMade(self) -> None:
        make_immediate(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.on_data()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.lost is None, "told twice"
        self.lost = reason

    def readConnectionLost(self) -> None:
        self.half = True

    def writeConnectionLost(self) -> None:
        """Not looked at here."""


class Listeners(Factory):
    """Keeps what it built."""

    noisy = False

    def __init__(self) -> None:
        self.built: list[Listener] = []

    def buildProtocol(self, addr: IAddress | None) -> Listener:
        self.built.append(Listener())
        return self.built[-1]


@attrs.define
class Pair:
    """A connection of ours, and the plain socket at its other end."""

    peer: socket.socket
    transport: Any
    protocol: Listener


class TestReadInOneGo(SynchronousTestCase):
    """Connections on a reactor of their own, which turns when a test says so."""

    def setUp(self) -> None:
        self.reactor = EPollReactor()
        # As a reactor that runs: what is lost is told.
        self.addCleanup(self.end)
        self.pairs: list[Pair] = []

    def end(self) -> None:
        for pair in self.pairs:
            pair.peer.close()
            if pair.protocol.lost is None:
                pair.transport.connectionLost(Failure(ConnectionDone()))
        self.reactor.removeAll()
        self.reactor._poller.close()

    def connect(self, sockets: tuple[socket.socket, socket.socket] | None = None) -> Pair:
        ours, peer = sockets or socket.socketpair()
        ours.setblocking(False)
        peer.setblocking(False)
        protocol = Listener()
        transport: Any = Server(ours, protocol, ("", 0), cast(Any, None), 0, cast(Any, self.reactor))
        protocol.makeConnection(transport)
        pair = Pair(peer, transport, protocol)
        self.pairs.append(pair)
        return pair

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.reactor.iterate(0)

    def readers(self) -> int:
        """How many descriptors the reactor itself looks at."""
        return sum(reader not in self.reactor._internalReaders for reader in self.reactor.getReaders())

    def test_all_that_are_readable_are_read_in_one_turn(self) -> None:
        pairs = [self.connect() for _ in range(MAX_AT_ONCE)]
        for number, pair in enumerate(pairs):
            pair.peer.send(b"%d" % number)
        self.turn()
        assert [pair.protocol.data for pair in pairs] == [b"%d" % number for number in range(MAX_AT_ONCE)]
        assert self.readers() == 1

    def test_more_than_that_have_their_turn(self) -> None:
        pairs = [self.connect() for _ in range(2 * MAX_AT_ONCE + 1)]
        for pair in pairs:
            pair.peer.send(b"x")
        self.turn(3)
        assert all(pair.protocol.data == b"x" for pair in pairs)

    def test_what_is_stopped_is_not_read(self) -> None:
        stopped, other = self.connect(), self.connect()
        stopped.transport.pauseProducing()
        stopped.transport.pauseProducing()
        for pair in (stopped, other):
            pair.peer.send(b"x")
        self.turn(2)
        assert (stopped.protocol.data, other.protocol.data) == (b"", b"x")
        stopped.transport.resumeProducing()
        stopped.transport.resumeProducing()
        self.turn()
        assert stopped.protocol.data == b"x"

    def test_the_reactor_has_nothing_to_look_at_without_them(self) -> None:
        one, other = self.connect(), self.connect()
        one.transport.pauseProducing()
        assert self.readers() == 1
        for pair in (one, other):
            pair.transport.abortConnection()
        self.turn(2)
        assert self.readers() == 0
        again = self.connect()
        assert self.readers() == 1
        again.peer.send(b"x")
        self.turn()
        assert again.protocol.data == b"x"

    def test_one_that_is_not_read_from_is_seen_to_break(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        lost: list[Listener] = []
        for breaks in (True, False):
            peer = socket.create_connection(listening.getsockname())
            ours, _address = listening.accept()
            pair = self.connect((ours, peer))
            pair.transport.pauseProducing()
            if breaks:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
            lost.append(pair.protocol)
        self.turn(3)
        assert [protocol.lost is not None for protocol in lost] == [True, False]

    def test_one_that_fails_to_close_does_not_cost_the_others(self) -> None:
        pair, other = self.connect(), self.connect()

        def fails(reason: Failure) -> None:
            raise RuntimeError("a bug")

        pair.protocol.connectionLost = fails  # type: ignore[method-assign, assignment]
        pair.peer.close()
        self.turn(3)
        assert len(self.flushLoggedErrors(RuntimeError)) == 1
        other.peer.send(b"x")
        self.turn()
        assert (other.protocol.data, other.protocol.lost) == (b"x", None)

    def test_one_that_another_has_just_stopped_is_not_read(self) -> None:
        pairs = [self.connect() for _ in range(2)]
        for pair, other in (pairs, reversed(pairs)):
            pair.protocol.on_data = other.transport.pauseProducing
            pair.peer.send(b"x")
        self.turn()
        assert sorted(pair.protocol.data for pair in pairs) == [b"", b"x"]

    def test_one_that_another_has_just_aborted_is_not_read(self) -> None:
        pairs = [self.connect() for _ in range(2)]
        for pair, other in (pairs, reversed(pairs)):
            pair.protocol.on_data = other.transport.abortConnection
            pair.peer.send(b"x")
        self.turn(2)
        assert sorted(pair.protocol.data for pair in pairs) == [b"", b"x"]
        assert sorted(pair.protocol.lost is None for pair in pairs) == [False, True]

    def test_the_peer_closes(self) -> None:
        pair = self.connect()
        pair.peer.send(b"last")
        pair.peer.close()
        self.turn(2)
        assert pair.protocol.data == b"last"
        assert pair.protocol.lost is not None and pair.protocol.lost.check(ConnectionDone)
        assert self.readers() == 0

    def test_the_peer_ends_its_half(self) -> None:
        pair = self.connect()
        directlyProvides(pair.protocol, IHalfCloseableProtocol)
        pair.peer.shutdown(socket.SHUT_WR)
        self.turn(3)
        assert pair.protocol.half and pair.protocol.lost is None
        pair.transport.write(b"still")
        assert pair.peer.recv(10) == b"still"

    def test_the_end_of_its_half_is_told_once(self) -> None:
        # It stays readable for as long as our half goes on.
        pair = self.connect()
        told: list[None] = []
        pair.protocol.readConnectionLost = lambda: told.append(None)  # type: ignore[method-assign]
        directlyProvides(pair.protocol, IHalfCloseableProtocol)
        pair.peer.shutdown(socket.SHUT_WR)
        self.turn(5)
        pair.transport.pauseProducing()
        pair.transport.resumeProducing()
        self.turn(5)
        assert told == [None]

    def test_a_reset(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        peer = socket.create_connection(listening.getsockname())
        ours, _address = listening.accept()
        ours.setblocking(False)
        protocol = Listener()
        transport: Any = Server(ours, protocol, ("", 0), cast(Any, None), 0, cast(Any, self.reactor))
        protocol.makeConnection(transport)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.turn(2)
        assert protocol.lost is not None and protocol.lost.check(ConnectionLost)

    def test_a_bug_in_one_costs_that_one_only(self) -> None:
        def broken() -> None:
            raise ZeroDivisionError

        bad, good = self.connect(), self.connect()
        bad.protocol.on_data = broken
        for pair in (bad, good):
            pair.peer.send(b"x")
        self.turn(2)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        assert bad.protocol.lost is not None and bad.protocol.lost.check(ZeroDivisionError)
        assert (good.protocol.data, good.protocol.lost) == (b"x", None)

    def test_a_number_that_comes_again_is_a_new_connection(self) -> None:
        first = self.connect()
        number = first.transport.fileno()
        first.transport.abortConnection()
        self.turn(2)
        first.peer.close()
        while (again := self.connect()).transport.fileno() != number:
            assert len(self.pairs) < 10
        again.peer.send(b"new")
        self.turn()
        assert (first.protocol.data, again.protocol.data) == (b"", b"new")

    def accept(self, prepared: bool) -> Pair:
        """A connection that a port has accepted."""
        factory = Listeners()
        port: Any = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.connectionLost, Failure(ConnectionDone()))
        if prepared:
            prepare_port(port)
        peer = socket.create_connection(port.socket.getsockname())
        for _ in range(100):
            self.turn()
            if factory.built:
                break
        [protocol] = factory.built
        pair = Pair(peer, protocol.transport, protocol)
        self.pairs.append(pair)
        return pair

    def test_what_a_port_accepts_is_so_from_the_start(self) -> None:
        kinds = set()
        for prepared in (False, True):
            pair = self.accept(prepared)
            kinds.add(type(pair.transport))
            assert make_immediate(pair.transport)
            assert pair.transport.getTcpNoDelay()
            pair.peer.send(b"hello")
            self.turn()
            assert pair.protocol.data == b"hello"
            pair.transport.write(b"back")
            assert pair.peer.recv(10) == b"back"
        assert len(kinds) == 1

    def test_other_ports_are_left_alone(self) -> None:
        prepare_port(object())

    def test_the_reactor_ends(self) -> None:
        pair = self.connect()
        for reader in self.reactor.removeAll():
            reader.connectionLost(Failure(ConnectionLost()))
        assert pair.protocol.lost is not None


class TestFairPort(SynchronousTestCase):
    """What a port of ours gives its connections, and how many it takes at a time."""

    def test_a_burst_is_taken_in_parts_and_gets_the_ports_options(self) -> None:
        reactor: Any = EPollReactor()
        factory = Listeners()
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.connectionLost, Failure(ConnectionDone()))
        prepare_port(port)
        clients = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(50)]
        taken = []
        for _ in range(40):
            reactor.iterate(0.01)
            taken.append(len(factory.built))
        assert taken[-1] == 50
        assert max(after - before for before, after in zip([0, *taken], taken, strict=False)) <= MAX_ACCEPTED
        for number in (socket.TCP_NODELAY, socket.TCP_NOTSENT_LOWAT):
            transport: Any = factory.built[0].transport
            assert transport.socket.getsockopt(socket.IPPROTO_TCP, number) in (1, NOT_SENT)
        for client in clients:
            client.close()
        for _ in range(5):
            reactor.iterate(0.01)


class TestAcceptWaiting(SynchronousTestCase):
    """Who has connected when the port is to close is served yet."""

    def setUp(self) -> None:
        self.reactor: Any = EPollReactor()
        self.addCleanup(self.reactor._poller.close)
        self.factory = Listeners()
        self.port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        prepare_port(self.port)
        self.clients: list[socket.socket] = []

    def connect(self, count: int) -> None:
        address = ("127.0.0.1", self.port.getHost().port)
        self.clients += [socket.create_connection(address) for _ in range(count)]

    def end(self) -> None:
        self.port.connectionLost(Failure(ConnectionDone()))
        for client, protocol in zip(self.clients, self.factory.built, strict=False):
            cast(Any, protocol.transport).write(b"hello")
            assert client.recv(10) == b"hello"
        for client in self.clients:
            client.close()
        for _ in range(5):
            self.reactor.iterate(0)

    def test_all_of_them_however_many(self) -> None:
        self.connect(5 * MAX_ACCEPTED + 1)
        assert self.factory.built == []
        accept_waiting(self.port)
        assert len(self.factory.built) == len(self.clients)
        self.end()

    def test_nobody(self) -> None:
        accept_waiting(self.port)
        assert self.factory.built == []
        self.end()

    def test_also_where_the_port_was_paused(self) -> None:
        self.port.stopReading()
        self.connect(3)
        accept_waiting(self.port)
        assert len(self.factory.built) == 3
        self.end()
