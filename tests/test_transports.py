"""Sending at once: what the socket takes leaves now, the rest waits as ever, and TLS is left alone."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Client, Server
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.transports import send_at_once

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
        send_at_once(self.transport)

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
        send_at_once(other)
        assert type(other) is StringTransport
        kind = type(self.transport)
        send_at_once(self.transport)
        assert type(self.transport) is kind

    def test_clients_as_well(self) -> None:
        client = Client.__new__(Client)
        send_at_once(client)
        assert type(client).write is type(self.transport).write
