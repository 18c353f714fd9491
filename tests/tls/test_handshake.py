"""From the first byte of a client to the protocol that serves it, over real sockets."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any
from unittest.mock import patch

import pytest
from OpenSSL._util import lib as openssl
from twisted.internet.interfaces import ISSLTransport

from onebackend_proxy.tls.transport import SecuredServer, SecuredUnixServer

from .loopback import Client, LoopbackTests, Served, client_context, versions
from .making import record


class TestHandshake(LoopbackTests):
    """From the first byte to the protocol's connectionMade."""

    def test_each_version(self) -> None:
        for version, shown in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            with self.subTest(shown):
                client, served = self.open(context=versions(version))
                assert client.tls.version() == shown
                transport = served.transport
                assert bool(ISSLTransport.providedBy(transport))
                assert transport.certificate.id == "x.com" and transport.certificate.private_key == ""
                assert transport.covers("x.com") and transport.covers("a.x.com")
                assert not transport.covers("a.b.x.com") and not transport.covers("y.com")
                assert transport.negotiatedProtocol is None
                assert transport.getPeerCertificate() is None
                client.send(b"hello")
                self.until(lambda served=served: served.data == b"hello", client)  # type: ignore[misc]
                transport.write(b"back")
                assert client.read() == b"back"

    def test_the_protocol_is_not_made_before_it_is_complete(self) -> None:
        client = self.client()
        client.sock.send(client.begin())
        self.until(lambda: client.wire, client)
        self.settle()
        assert self.factory.built == []
        client.handshake()
        self.until(lambda: self.factory.built, client)

    def test_what_comes_with_its_last_words_is_read(self) -> None:
        client = self.client()
        client.handshake()
        client.tls.write(b"at once")
        self.until(lambda: self.factory.built and self.factory.built[0].data == b"at once", client)

    def test_application_protocols(self) -> None:
        for ours, theirs, wanted in (
            ((b"h2", b"http/1.1"), ["http/1.1", "h2"], "h2"),
            ((b"h2", b"http/1.1"), ["http/1.1"], "http/1.1"),
            ((b"http/1.1",), ["h2", "http/1.1"], "http/1.1"),
            ((b"h2",), [], None),
            ((), ["h2"], None),
        ):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                with self.subTest((ours, theirs, version)):
                    self.listen(*ours)
                    context = versions(version)
                    if theirs:
                        context.set_alpn_protocols(theirs)
                    client, served = self.open(context=context)
                    assert client.tls.selected_alpn_protocol() == wanted
                    assert served.transport.negotiatedProtocol == (wanted.encode() if wanted else None)

    def test_no_protocol_in_common(self) -> None:
        self.listen(b"h2", b"http/1.1")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = versions(version)
            context.set_alpn_protocols(["spdy/3", "smtp"])
            client = self.client(context=context)
            with self.assertRaises(ssl.SSLError):
                client.handshake()
            assert client.alerts == [b"\x02\x78"]
        assert self.factory.built == []

    def test_an_old_version_is_refused(self) -> None:
        context = versions(ssl.TLSVersion.TLSv1_2)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        client = self.client(context=context)
        with self.assertRaises(ssl.SSLError):
            client.handshake()
        self.settle(client)
        assert client.alerts == [b"\x02\x46"]  # protocol_version
        assert client.eof and self.factory.built == []

    def test_a_weak_cipher_is_refused(self) -> None:
        for ciphers in ("AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"):
            context = versions(ssl.TLSVersion.TLSv1_2)
            context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
            with self.assertRaises(ssl.SSLError):
                self.client(context=context).handshake()

    def test_an_unknown_name_and_none(self) -> None:
        for name in ("y.com", "com", "a.b.x.com", None):
            context = client_context()
            if name is None:
                context.check_hostname = False
            self.certificates.contexts._owned = lambda host: False
            client = self.client(name, context)
            with self.assertRaises(ssl.SSLError):
                client.handshake()
            self.settle(client)
            assert client.wire == bytes.fromhex("15 03 03 00 02 02 70")
            assert client.eof and not client.reset
        assert self.factory.built == []

    def test_a_client_that_does_not_trust_us(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context()
            context.minimum_version = context.maximum_version = version
            client = self.client(context=context)
            with self.assertRaises(ssl.SSLCertVerificationError):
                client.handshake()
            self.until(lambda client=client: client.eof, client)  # type: ignore[misc]
        assert [served for served in self.factory.built if served.lost is None] == []

    def test_a_factory_that_wants_nobody(self) -> None:
        self.listen()
        self.factory.refuses = True
        client = self.client().handshake()
        assert client.read() == b""

    def test_a_protocol_that_fails_to_begin_costs_its_own_connection_only(self) -> None:
        def fails(served: Served) -> None:
            raise ZeroDivisionError

        good, served = self.open()
        self.factory.made = fails
        client = self.client().handshake()
        self.until(lambda: client.eof, client)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        good.send(b"still")
        self.until(lambda: served.data == b"still", good)


class TestAFullSocket(LoopbackTests):
    """OpenSSL has something of its own to say, and the kernel no room for it."""

    unix = True

    def setUp(self) -> None:
        super().setUp()
        self.certificates.publish(record("x.com", *(f"{'n' * 60}{number}.x.com" for number in range(150))))
        self.transports: list[Any] = []
        plain = SecuredUnixServer._begin

        def begin(transport: Any, chosen: Any) -> Any:
            self.transports.append(transport)
            transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            return plain(transport, chosen)

        self.patch(SecuredUnixServer, "_begin", begin)

    def blocked(self, version: ssl.TLSVersion) -> Client:
        """A client that has not read enough of the handshake for the server to go on."""
        client = self.client(context=versions(version))
        client.reading = False
        client.sock.send(client.begin())
        self.until(lambda: self.transports and self.transports[-1] in self.reactor.getWriters())
        return client

    def test_the_handshake_goes_on_when_there_is(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = self.blocked(version)
            if version == ssl.TLSVersion.TLSv1_3:
                # What it may say at any time: the socket is readable, but that is no reason to try again.
                client.sock.send(bytes.fromhex("14 03 03 00 01 01"))
            calls: list[int] = []
            plain = SecuredUnixServer.doRead

            def counted(transport: Any, calls: list[int] = calls, plain: Any = plain) -> Any:
                calls.append(1)
                return plain(transport)

            with patch.object(SecuredUnixServer, "doRead", counted):
                self.settle(turns=50)
            assert calls == []
            client.reading = True
            client.handshake().send(b"hello")
            self.until(lambda: self.factory.built and self.factory.built[-1].data == b"hello", client)
            assert self.transports[-1] not in self.reactor.getWriters()
            self.factory.built.clear()

    def test_who_leaves_meanwhile(self) -> None:
        client = self.blocked(ssl.TLSVersion.TLSv1_3)
        client.break_off()
        self.until(lambda: not self.clock.getDelayedCalls())
        assert self.factory.built == []

    def test_the_time_is_up_meanwhile(self) -> None:
        self.blocked(ssl.TLSVersion.TLSv1_3)
        self.clock.advance(11)
        self.settle()
        assert self.transports[-1].disconnected
        assert self.reactor.getWriters() == []

    def test_who_stopped_reading_meanwhile_is_not_read_to(self) -> None:
        client, served = self.open()
        transport = served.transport
        for resumes in (False, True):
            # As where OpenSSL answers what the client says about the connection itself.
            transport._why(self.wants_write(transport))
            assert transport in self.reactor.getWriters()
            transport.pauseProducing()
            if resumes:
                transport.resumeProducing()
            client.send(b"x")
            self.settle(client)
            assert served.data == (b"xx" if resumes else b"")
            assert transport not in self.reactor.getWriters()

    def test_the_end_is_not_forgotten(self) -> None:
        for half in (False, True):
            client, served = self.open()
            served.transport._why(self.wants_write(served.transport))
            served.transport.loseWriteConnection() if half else served.transport.loseConnection()
            assert client.read_all() == b""

    def test_the_whole_end_after_half_of_it_that_found_no_room(self) -> None:
        client, served = self.open()
        plain, calls = openssl.SSL_shutdown, []

        def shutdown(ssl_object: Any) -> int:
            calls.append(1)
            return self.wants_write(served.transport) if len(calls) == 1 else int(plain(ssl_object))

        self.patch(openssl, "SSL_shutdown", shutdown)
        served.transport.loseWriteConnection()
        self.until(lambda: calls, client)
        served.transport.loseConnection()
        assert client.read_all() == b""
        assert len(calls) == 2

    def wants_write(self, transport: Any) -> int:
        """What OpenSSL returned when the kernel had no room."""
        self.patch(openssl, "SSL_get_error", self.once(openssl.SSL_get_error))
        return -1

    def once(self, plain: Any) -> Any:
        calls: list[int] = []

        def get_error(ssl_object: Any, result: int) -> int:
            calls.append(result)
            if len(calls) == 1:
                return int(openssl.SSL_ERROR_WANT_WRITE)
            return int(plain(ssl_object, result))

        return get_error


class TestTheFirstBytes(LoopbackTests):
    """What is no ClientHello, is slow, or stops."""

    def test_http_in_clear_is_told_so_in_clear(self) -> None:
        for request in (
            b"GET / HTTP/1.1\r\nHost: x.com\r\n\r\n",
            b"POST /x HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0",
        ):
            sock = self.connect()
            sock.send(request)
            answer = self.everything(sock)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"Content-Length: %d" % len(body) in head
            assert b"https" in body
        assert self.factory.built == []

    def test_garbage_gets_an_alert(self) -> None:
        for data, alert in (
            (b"SSH-2.0-OpenSSH_9\r\n", 10),
            (b"\0" * 100, 10),
            (b"\x16\x03\x01\xff\xff", 50),
            (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", 50),
        ):
            sock = self.connect()
            sock.send(data)
            assert self.everything(sock) == b"\x15\x03\x03\x00\x02\x02" + bytes((alert,))

    def test_byte_by_byte_and_no_busy_loop(self) -> None:
        looks: list[int] = []
        plain = SecuredServer.doRead if not self.unix else SecuredUnixServer.doRead

        def counted(transport: Any) -> Any:
            looks.append(1)
            return plain(transport)

        client = self.client()
        kind = SecuredUnixServer if self.unix else SecuredServer
        with patch.object(kind, "doRead", counted):
            hello = client.begin()
            # A byte in a Unix socket's queue takes much more than a byte.
            step = 10 if self.unix else 1
            for number in range(0, len(hello), step):
                client.sock.send(hello[number : number + step])
                for _ in range(4):
                    self.turn()
            assert len(looks) <= (2 * len(hello) if not self.unix else len(hello) + 50)
            before = len(looks)
            self.until(lambda: client.wire, client)
        assert len(looks) - before <= 3
        client.handshake()
        self.until(lambda: self.factory.built, client)
        # And what was set on the socket meanwhile is no more: a single byte is a reason to read.
        served = self.factory.built[0]
        if not self.unix:
            assert served.transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        client.send(b"x")
        self.until(lambda: served.data == b"x", client)

    def test_half_a_hello_costs_nothing_while_it_waits(self) -> None:
        client = self.client()
        hello = client.begin()
        client.sock.send(hello[:100])
        self.settle()
        looks: list[int] = []
        kind = SecuredUnixServer if self.unix else SecuredServer
        plain = kind._look

        def counted(transport: Any) -> Any:
            looks.append(1)
            return plain(transport)

        with patch.object(kind, "_look", counted):
            for _ in range(20):
                self.reactor.iterate(0.01)
        # The kernel tells of more bytes; where it cannot, we look now and then. On a busy machine the first
        # look comes late. Told of what there is, we would look 20 times.
        assert len(looks) <= (10 if self.unix else 1)
        client.sock.send(hello[100:])
        client.handshake()

    def test_one_that_closes_in_the_middle(self) -> None:
        for size in (0, 1, 100):
            for half in (False, True):
                sock = self.connect()
                hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 200
                sock.send(hello[:size])
                self.settle()
                sock.shutdown(socket.SHUT_WR) if half else sock.close()
                if half and not (self.unix and size):
                    assert self.everything(sock) == b""
                self.until(lambda: not self.clock.getDelayedCalls())
        assert self.factory.built == []

    def test_one_that_takes_too_long(self) -> None:
        self.listen(timeout=7)
        client = self.client()
        hello = client.begin()
        for said in (b"", hello[:100], hello):
            with self.subTest(len(said)):
                sock = self.connect()
                sock.send(said)
                self.settle()
                self.clock.advance(6.9)
                self.settle()
                assert [call.getTime() for call in self.clock.getDelayedCalls()] != []
                self.clock.advance(0.2)
                self.until(lambda: not self.clock.getDelayedCalls())
                try:
                    self.everything(sock)
                except ConnectionResetError:
                    pass
        assert self.factory.built == []

    def test_the_time_is_up_with_the_handshake(self) -> None:
        self.listen(timeout=7)
        client, served = self.open()
        self.clock.advance(100)
        self.settle(client)
        assert served.lost is None and self.clock.getDelayedCalls() == []

    def test_a_reset(self) -> None:
        sock = self.connect()
        sock.send(b"\x16\x03\x01\x02\x00\x01")
        self.settle()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        self.until(lambda: not self.clock.getDelayedCalls())


class TestTheFirstBytesOverUnix(TestTheFirstBytes):
    """The kernel has no way there to tell of more bytes only."""

    unix = True


class TestRenewal(LoopbackTests):
    """Certificates come and go while connections are open."""

    def test_open_connections_keep_theirs(self) -> None:
        old, served = self.open()
        before = old.tls.getpeercert(True)
        self.certificates.publish(record("x.com"))
        new, _ = self.open()
        assert new.tls.getpeercert(True) != before
        old.send(b"still")
        self.until(lambda: served.data == b"still", old)
        served.transport.write(b"here")
        assert old.read() == b"here"

    def test_a_handshake_under_way_goes_on(self) -> None:
        client = self.client()
        client.sock.send(client.begin())
        self.until(lambda: client.wire, client)
        self.certificates.publish()
        client.handshake()
        self.until(lambda: self.factory.built, client)

    def test_deleted(self) -> None:
        self.open()
        self.certificates.publish()
        client = self.client()
        with self.assertRaises(ssl.SSLError):
            client.handshake()
        assert client.alerts == [b"\x02\x70"]


class TestWaitingForACertificate(LoopbackTests):
    """The certificate is loaded while clients wait."""

    def setUp(self) -> None:
        super().setUp()
        self.certificates.held = []
        self.held = self.certificates.held

    def waiting(self, count: int = 1) -> list[Client]:
        clients = [self.client() for _ in range(count)]
        for client in clients:
            client.sock.send(client.begin())
        self.until(lambda: len(self.held) == 1)
        self.settle(*clients)
        return clients

    def load(self) -> None:
        self.held.pop().callback(self.certificates.with_keys["x.com"])

    def test_twenty_wait_for_one(self) -> None:
        clients = self.waiting(20)
        assert self.certificates.loads == ["x.com"]
        assert self.factory.built == [] and all(client.wire == b"" for client in clients)
        self.load()
        for client in clients:
            client.handshake().send(b"hi")
        self.until(lambda: [served.data for served in self.factory.built] == [b"hi"] * 20, *clients)
        assert self.certificates.loads == ["x.com"]

    def test_nothing_is_looked_at_meanwhile(self) -> None:
        self.waiting()
        looks: list[int] = []
        with patch.object(SecuredServer, "doRead", lambda transport: looks.append(1)):
            self.settle(turns=50)
        assert looks == []

    def test_a_client_that_does_not_wait(self) -> None:
        for reset in (False, True):
            [client] = self.waiting()
            if reset:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sock.close()
            self.settle()
            self.load()
            self.until(lambda: not self.clock.getDelayedCalls())
            self.certificates.publish(record("x.com"))
        assert self.factory.built == []

    def test_the_time_is_up_first(self) -> None:
        [client] = self.waiting()
        self.clock.advance(11)
        self.settle(client)
        assert client.eof
        self.load()
        self.settle(client)
        assert self.factory.built == []

    def test_the_time_is_up_and_then_it_comes_at_once(self) -> None:
        [client] = self.waiting()
        self.clock.advance(11)
        self.load()
        self.settle(client)
        assert client.eof and self.factory.built == []

    def test_it_cannot_be_had(self) -> None:
        clients = self.waiting(3)
        self.held.pop().errback(OSError("the disk"))
        for client in clients:
            with self.assertRaises(ssl.SSLError):
                client.handshake()
            assert client.alerts == [b"\x02\x50"]
            assert not client.reset
        assert len(self.flushLoggedErrors(OSError)) == 1
        assert not any("the disk" in client.wire.decode("latin-1") for client in clients)


class TestResumption(LoopbackTests):
    """A ticket saves the second handshake."""

    def resumed(self, version: ssl.TLSVersion, first: str, second: str, between: Any = None) -> bool:
        context = versions(version)
        client, served = self.open(first, context)
        served.transport.write(b"x")
        assert client.read() == b"x"
        session = client.tls.session
        assert session is not None and session.has_ticket
        if between is not None:
            between()
        again = self.client(second, context, session).handshake()
        self.until(lambda: len(self.factory.built) == 2, again)
        served = self.factory.built.pop()
        again.send(b"again")
        self.until(lambda: served.data == b"again", again)
        assert served.transport.certificate is not None and served.transport.covers(second)
        self.factory.built.clear()
        return bool(again.tls.session_reused)

    def test_each_version(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert self.resumed(version, "x.com", "x.com")

    def test_after_a_renewal(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            renew = lambda: self.certificates.publish(record("x.com", "*.x.com"))  # noqa: E731
            assert self.resumed(version, "x.com", "x.com", renew)

    def test_another_name_of_the_same_certificate(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert self.resumed(version, "x.com", "a.x.com")

    def test_not_under_another_certificate(self) -> None:
        """RFC 6066, 3: the client is asked for anew, and sees the certificate of the name that it wants."""
        self.certificates.publish(record("x.com", "*.x.com"), record("y.com"))
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for first, second in (("x.com", "y.com"), ("y.com", "a.x.com")):
                assert not self.resumed(version, first, second)

    def test_the_longest_name_is_no_trouble(self) -> None:
        """What OpenSSL tells sessions apart by has 32 bytes at most."""
        name = ".".join(("n" * 60, "m" * 60, "l" * 60, "x.com"))
        self.certificates.publish(record(name))
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert self.resumed(version, name, name)

    def test_a_ticket_of_yesterday(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            later = lambda: self.certificates.clock.advance(25 * 3600)  # noqa: E731
            assert not self.resumed(version, "x.com", "x.com", later)
