"""The endpoint that makes TLS of another one."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, cast

from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from onebackend_proxy.tls import transport
from onebackend_proxy.tls.endpoint import TlsEndpoint
from onebackend_proxy.tls.transport import Handshaking, UnderWay
from onebackend_proxy.transports import prepare_port

from .loopback import LoopbackTests, ServedFactory, client_context
from .making import made, record, root


class TestTlsEndpoint(LoopbackTests):
    """What it listens on, and what it does for the factory."""

    def endpoint(self, inner: Any) -> TlsEndpoint:
        return TlsEndpoint(self.clock, inner, self.certificates.contexts)

    def test_it_is_an_endpoint(self) -> None:
        endpoint = self.endpoint(serverFromString(self.reactor, "tcp:0:interface=127.0.0.1"))
        verifyObject(IStreamServerEndpoint, endpoint)
        self.port = self.successResultOf(endpoint.listen(Factory.forProtocol(Protocol)))
        assert IListeningPort.providedBy(self.port)

    def test_the_factory_is_started_and_stopped(self) -> None:
        self.listen()
        assert self.factory.numPorts == 1
        self.stop_listening()
        assert self.factory.numPorts == 0

    def test_a_prepared_port_stays_one_of_tls(self) -> None:
        """As the proxy's own service does with every port that it opens."""
        self.listen()
        prepare_port(self.port)
        client, served = self.open()
        client.send(b"hello")
        self.until(lambda: served.data == b"hello", client)

    def test_a_socket_that_was_made_elsewhere(self) -> None:
        """As systemd passes them."""
        for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0))):
            self.factory = ServedFactory()
            with socket.create_server(address, family=family) as listening:
                # It closes the number that it is given.
                inner = AdoptedStreamServerEndpoint(self.reactor, os.dup(listening.fileno()), family)
                self.port = self.successResultOf(self.endpoint(inner).listen(self.factory))
                sock = socket.create_connection(listening.getsockname()[:2])
                self.sockets.append(sock)
                client = self.client_over(sock).handshake()
                self.until(lambda: self.factory.built, client)
                self.stop_listening()

    def test_what_is_no_plain_socket_is_refused(self) -> None:
        folder = self.mktemp()
        os.mkdir(folder)
        bundle = made("x.com")
        for name, text in (("key.pem", bundle.key_pem), ("cert.pem", bundle.chain)):
            with open(os.path.join(folder, name), "w", encoding="ascii") as file:
                file.write(text)
        paths = f"privateKey={folder}/key.pem:certKey={folder}/cert.pem"
        for text in (
            f"ssl:0:interface=127.0.0.1:{paths}",
            "haproxy:tcp:0:interface=127.0.0.1",
        ):
            endpoint = self.endpoint(serverFromString(self.reactor, text))
            failure = self.failureResultOf(endpoint.listen(ServedFactory()), ValueError)
            assert "plain TCP or Unix sockets" in str(failure.value)
            self.settle()
            assert self.reactor.getReaders() == [] or all(
                reader in self.reactor._internalReaders for reader in self.reactor.getReaders()
            )

    def test_a_port_in_use(self) -> None:
        self.listen()
        text = f"tcp:{self.port.getHost().port}:interface=127.0.0.1"
        self.failureResultOf(self.endpoint(serverFromString(self.reactor, text)).listen(ServedFactory()))

    def test_two_ports_share_the_certificates_and_have_their_own_protocols(self) -> None:
        self.listen(b"h2")
        first, factory = self.port, self.factory
        self.port = None
        self.listen(b"http/1.1")
        context = client_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        _client, served = self.open(context=context)
        assert served.transport.negotiatedProtocol == b"http/1.1"
        self.stop_listening()
        self.port, self.factory = first, factory
        _client, served = self.open(context=context)
        assert served.transport.negotiatedProtocol == b"h2"
        assert self.certificates.loads == ["x.com"]

    def test_an_expired_certificate_is_shown_and_its_client_complains(self) -> None:
        """Its date tells a visitor more than a broken handshake."""
        self.certificates.clock.advance(365 * 24 * 3600)
        client, _served = self.open()
        assert client.tls.getpeercert(True)

    def test_local_names(self) -> None:
        self.listen()
        context = ssl.create_default_context(cadata=root().pem)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.open("localhost", context)
        trusting = client_context(self.certificates.local_root)
        for name in ("localhost", "a.localhost", "127.0.0.1"):
            _client, served = self.open(name, trusting)
            assert served.transport.certificate.names == (name,)

    def test_certificates_that_are_new_are_served(self) -> None:
        self.open()
        self.certificates.publish(record("y.com"))
        _client, served = self.open("y.com")
        assert served.transport.certificate.id == "y.com"


class TestHandshakesUnderWay(LoopbackTests):
    """Who closes a port may wait for those that have come, for a while."""

    def endpoint(self) -> TlsEndpoint:
        inner = serverFromString(self.reactor, "tcp:0:interface=127.0.0.1")
        endpoint = TlsEndpoint(self.clock, inner, self.certificates.contexts)
        self.port = self.successResultOf(endpoint.listen(self.factory))
        return endpoint

    def test_there_are_none(self) -> None:
        endpoint = self.endpoint()
        self.successResultOf(endpoint.handshakes_done(1))
        self.open()
        self.successResultOf(endpoint.handshakes_done(1))

    def test_when_the_last_is_complete_and_its_protocol_is_there(self) -> None:
        endpoint = self.endpoint()
        clients = [self.client() for _ in range(2)]
        for client in clients:
            client.sock.send(client.begin())
        self.until(lambda: all(client.wire for client in clients), *clients)
        done = [endpoint.handshakes_done(1) for _ in range(2)]
        clients[0].handshake()
        self.settle(*clients)
        self.clock.advance(0)
        for each in done:
            self.assertNoResult(each)
        clients[1].break_off()
        self.settle(clients[0])
        self.clock.advance(0)
        assert len(self.factory.built) == 1
        for each in done:
            self.successResultOf(each)

    def test_not_for_ever(self) -> None:
        endpoint = self.endpoint()
        self.connect()
        self.settle()
        done = endpoint.handshakes_done(1)
        self.clock.advance(0.9)
        self.assertNoResult(done)
        self.clock.advance(0.2)
        self.successResultOf(done)
        # The client may go on all the same.
        assert len(self.clock.getDelayedCalls()) == 1

    def test_for_one_more_than_there_may_be_the_oldest_is_given_up(self) -> None:
        self.patch(transport, "MAX_UNDER_WAY", 3)
        self.endpoint()
        clients = []
        for _ in range(4):
            clients.append(self.client())
            clients[-1].sock.send(clients[-1].begin())
            self.until(lambda: clients[-1].wire or clients[-1].eof, clients[-1])
        self.until(lambda: clients[0].eof, *clients)
        assert any(
            line.endswith("because: the handshake was given up: there were too many at once")
            for line in self.logged
        )
        for client in clients[1:]:
            client.handshake()
        self.until(lambda: len(self.factory.built) == 3, *clients)
        assert self.clock.getDelayedCalls() == []

    def test_those_that_are_complete_are_not_counted(self) -> None:
        self.patch(transport, "MAX_UNDER_WAY", 2)
        self.endpoint()
        opened = [self.open() for _ in range(5)]
        for client, served in opened:
            client.send(b"still")
            self.until(lambda served=served: served.data == b"still", client)  # type: ignore[misc]
        assert all(served.lost is None for _, served in opened)

    def test_many_that_wait_for_a_certificate_are_bounded_too(self) -> None:
        self.patch(transport, "MAX_UNDER_WAY", 3)
        held = self.certificates.held = []
        self.endpoint()
        clients = [self.client() for _ in range(6)]
        for client in clients:
            client.sock.send(client.begin())
        self.until(lambda: sum(client.eof for client in clients) == 3, *clients)
        self.settle(*clients)
        held[0].callback(self.certificates.with_keys["x.com"])
        left = [client for client in clients if not client.eof]
        for client in left:
            client.handshake()
        self.until(lambda: len(self.factory.built) == 3, *left)


class _Choice:
    """Keeps why handshakes were given up."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)


class _Transport:
    aborted = 0

    def abortConnection(self) -> None:
        self.aborted += 1


class TestUnderWay(SynchronousTestCase):
    """The list of handshakes by itself, with a clock and no sockets."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.under_way = UnderWay(self.clock)
        self.choice: Any = _Choice()

    def begin(self, timeout: float = 10) -> Handshaking:
        """One that has just been accepted."""
        handshaking = Handshaking(self.choice, lambda address: None, timeout, self.clock, self.under_way)
        handshaking.makeConnection(cast(Any, _Transport()))
        return handshaking

    def lose(self, handshaking: Handshaking) -> None:
        handshaking.connectionLost(Failure(ConnectionDone()))

    def test_none_from_the_beginning(self) -> None:
        self.successResultOf(self.under_way.none(5))
        assert self.clock.getDelayedCalls() == []

    def test_it_fires_after_the_last_one_and_not_in_its_midst(self) -> None:
        one, other = self.begin(), self.begin()
        waiting = [self.under_way.none(5), self.under_way.none(7)]
        one.done()
        self.clock.advance(1)
        self.assertNoResult(waiting[0])
        self.lose(other)
        self.assertNoResult(waiting[0])
        self.clock.advance(0)
        for each in waiting:
            assert self.successResultOf(each) is None
        assert self.clock.getDelayedCalls() == []

    def test_after_some_seconds_it_fires_all_the_same(self) -> None:
        one = self.begin()
        short, long = self.under_way.none(2), self.under_way.none(5)
        self.clock.advance(2)
        assert self.successResultOf(short) is None
        self.assertNoResult(long)
        # Who was told already is not told again.
        one.done()
        self.clock.advance(0)
        assert self.successResultOf(long) is None

    def test_the_end_of_one_that_ended_is_nothing(self) -> None:
        one = self.begin()
        one.done()
        self.lose(one)
        other = self.begin()
        waiting = self.under_way.none(5)
        self.lose(one)
        self.clock.advance(0)
        self.assertNoResult(waiting)
        self.lose(other)
        self.clock.advance(0)
        self.successResultOf(waiting)

    def test_one_that_takes_too_long_has_ended(self) -> None:
        one = self.begin(timeout=3)
        waiting = self.under_way.none(5)
        self.clock.advance(3)
        self.clock.advance(0)
        assert one.transport.aborted == 1
        assert self.choice.reasons == ["the handshake was given up: it took too long"]
        self.successResultOf(waiting)
        self.lose(one)
        assert self.clock.getDelayedCalls() == []

    def test_as_many_as_there_may_be(self) -> None:
        self.patch(transport, "MAX_UNDER_WAY", 3)
        all = [self.begin() for _ in range(3)]
        assert self.choice.reasons == []
        # One in the middle ends: there is room.
        all[1].done()
        all.append(self.begin())
        assert [each.transport.aborted for each in all] == [0] * 4
        # For each one more, the one that began first.
        all += [self.begin(), self.begin()]
        assert [each.transport.aborted for each in all] == [1, 0, 1, 0, 0, 0]
        assert self.choice.reasons == ["the handshake was given up: there were too many at once"] * 2
        # Their time is no more.
        assert len(self.clock.getDelayedCalls()) == 3
        for each in all:
            self.lose(each)
        self.successResultOf(self.under_way.none(1))
