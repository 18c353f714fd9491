"""The endpoint that makes TLS of another one."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from zope.interface.verify import verifyObject

from onebackend_proxy.tls.endpoint import TlsEndpoint
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
