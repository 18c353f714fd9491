"""Who the client is by the word of a trusted proxy, which stands before the handshake: over real sockets."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from typing import Any

import pytest

from onebackend_proxy.proxy_protocol import MAX_HEADER

from ..test_proxy_protocol import EXTRAS, LOCAL, block, checked, line, named, value
from .loopback import Client, LoopbackTests, versions

CLIENT = ("203.0.113.7", 51000)
HEADERS = {
    "version 1": line(*CLIENT),
    "version 2": named(*CLIENT),
    "version 2 with more": checked(named(*CLIENT, *EXTRAS)),
    "version 2 as long as it may be": named(*CLIENT, value(4, bytes(MAX_HEADER - 28 - 3))),
}


class NamedTests(LoopbackTests):
    """The loopback interface is a trusted proxy."""

    trusted = (ipaddress.ip_network("127.0.0.0/8"),)

    def after(self, header: bytes, **options: Any) -> Client:
        """A client whose connection began with this header."""
        sock = self.connect()
        sock.send(header)
        self.settle()
        return self.client_over(sock, **options)

    def served(self, client: Client) -> tuple[str, int]:
        """Whom our side takes the client for, once it has shaken hands and been heard."""
        self.factory.built.clear()
        client.handshake().send(b"hello")
        self.until(lambda: self.factory.built and self.factory.built[0].data == b"hello", client)
        peer = self.factory.built[0].transport.getPeer()
        return peer.host, peer.port

    def ended(self, sock: socket.socket) -> bytes:
        """What is said until our side closes; what it has not read makes that a reset."""
        with contextlib.suppress(ConnectionResetError):
            return self.everything(sock)
        return b""


class TestNamed(NamedTests):
    def test_each_kind_of_header(self) -> None:
        for name, header in HEADERS.items():
            with self.subTest(name):
                assert self.served(self.after(header)) == CLIENT

    def test_ipv6(self) -> None:
        for header in (line("2001:db8::1", 1), named("2001:db8::1", 1)):
            assert self.served(self.after(header)) == ("2001:db8::1", 1)

    def test_both_versions_of_tls(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert self.served(self.after(HEADERS["version 2"], context=versions(version))) == CLIENT

    def test_a_header_and_the_handshake_in_one_piece(self) -> None:
        for header in HEADERS.values():
            sock = self.connect()
            client = self.client_over(sock)
            hello = client.begin()
            sock.send(header + hello)
            assert self.served(client) == CLIENT

    def test_byte_by_byte(self) -> None:
        for name in ("version 1", "version 2"):
            sock = self.connect()
            client = self.client_over(sock)
            for byte in HEADERS[name] + client.begin():
                sock.send(bytes((byte,)))
                self.turn()
            assert self.served(client) == CLIENT

    def test_the_kernel_tells_of_more_behind_a_header_in_pieces(self) -> None:
        """Nobody looks again and again whether the ClientHello is whole."""
        sock = self.connect()
        client = self.client_over(sock)
        hello = client.begin()
        for piece in (HEADERS["version 2"][:20], HEADERS["version 2"][20:], hello[:10]):
            sock.send(piece)
            self.settle()
        assert self.reactor.getDelayedCalls() == []
        sock.send(hello[10:])
        assert self.served(client) == CLIENT

    def test_a_trusted_proxy_need_not_say_anything(self) -> None:
        client = self.client()
        assert self.served(client) == client.sock.getsockname()

    def test_who_names_nobody_is_who_connected(self) -> None:
        for header in (b"PROXY UNKNOWN\r\n", block(LOCAL, 0, b"health check")):
            client = self.after(header)
            assert self.served(client) == client.sock.getsockname()

    def test_what_is_none_is_closed_without_a_word(self) -> None:
        for header in (b"PROXY TCP4 x y 1 2\r\n", b"PROXY " + b"x" * 200, block(0x11, 0x11, bytes(12))):
            with self.subTest(header):
                self.logged.clear()
                # Its line is told now and then only.
                self.certificates.clock.advance(3600)
                sock = self.connect()
                sock.send(header)
                assert self.ended(sock) == b""
                assert [
                    each for each in self.logged if "the PROXY header of 127.0.0.1 cannot be read" in each
                ]
                assert self.factory.built == []

    def test_a_header_is_believed_once(self) -> None:
        client = self.after(HEADERS["version 1"] + HEADERS["version 1"])
        with pytest.raises((ssl.SSLError, ConnectionError)):
            client.handshake()
        assert self.factory.built == []

    def test_a_header_within_tls_is_data(self) -> None:
        client, served = self.open()
        client.send(HEADERS["version 1"])
        self.until(lambda: served.data == HEADERS["version 1"], client)
        assert served.transport.getPeer().host == "127.0.0.1"

    def test_half_a_header_has_the_time_of_a_handshake(self) -> None:
        self.listen(timeout=10)
        for half in (b"PROXY TCP4 203", named(*CLIENT)[:20], b""):
            sock = self.connect()
            sock.send(half)
            self.settle()
            self.clock.advance(10.1)
            assert self.ended(sock) == b""

    def test_who_leaves_within_a_header_is_forgotten(self) -> None:
        self.listen()
        sock = self.connect()
        sock.send(b"PROXY TCP4 203")
        self.settle()
        assert self.clock.getDelayedCalls() != []
        sock.shutdown(socket.SHUT_WR)
        self.until(lambda: self.clock.getDelayedCalls() == [])


class TestNotTrusted(LoopbackTests):
    def test_a_header_is_no_tls(self) -> None:
        for header in HEADERS.values():
            sock = self.connect()
            sock.send(header)
            assert self.everything(sock)[:1] == b"\x15"
            assert self.factory.built == []


class TestOtherTrusted(TestNotTrusted):
    trusted = (ipaddress.ip_network("10.0.0.0/8"),)


class TestUnix(TestNotTrusted):
    """Who comes over a Unix socket has no address that could be trusted."""

    unix = True
    trusted = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
