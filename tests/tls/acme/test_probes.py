"""Looking at an address as an authority would, whatever answers there: over real sockets."""

from __future__ import annotations

import contextlib
import socket
from typing import Any
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet import reactor as any_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from onebackend_proxy.tls.acme import probes
from onebackend_proxy.tls.acme.probes import MAX_BODY, Probe, fetch, greet
from onebackend_proxy.tls.challenges import challenge_certificate

from ..making import made, now

# Twisted's own, and zope's interfaces hide what it has.
reactor: Any = any_reactor
HERE = "127.0.0.1"
PROOF = "token.thumbprint"
PATH = "/.well-known/acme-challenge/token"


class Speaking(Protocol):
    """Says what a test wants, as soon as something came in; keeps that."""

    transport: Any

    def __init__(self, server: Server) -> None:
        self.server = server

    def connectionMade(self):
        self.server.open += 1
        self.server.transports.append(self.transport)

    def dataReceived(self, data: bytes):
        self.server.received += data
        if self.server.answer is None:
            return
        self.transport.write(self.server.answer)
        if self.server.closes:
            self.transport.loseConnection()
        elif self.server.endless:
            self.transport.registerProducer(Endless(self.transport, self.server.endless), False)
            self.server.endless = b""

    def connectionLost(self, reason: Any = None):
        self.server.open -= 1


class Endless:
    """Always has more."""

    def __init__(self, transport: Any, data: bytes) -> None:
        self.transport, self.data = transport, data

    def resumeProducing(self):
        self.transport.write(self.data)

    def stopProducing(self):
        pass


class Server(Factory):
    """One port of a stranger."""

    noisy = False

    def __init__(self, answer: bytes | None = None, *, closes: bool = True, endless: bytes = b"") -> None:
        self.answer, self.closes, self.endless = answer, closes, endless
        self.received = b""
        self.open = 0
        self.transports: list[Any] = []

    def buildProtocol(self, addr: Any) -> Speaking:
        return Speaking(self)


class Probing(TestCase):
    """What both kinds have in common."""

    def setUp(self):
        patched = mock.patch.object(probes, "PROBE_SECONDS", 0.5)
        patched.start()
        self.addCleanup(patched.stop)

    async def listen(self, factory: Factory) -> int:
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface=HERE).listen(factory)
        self.addCleanup(port.stopListening)
        return port.getHost().port

    async def gone(self, server: Server) -> None:
        """Nothing stays open behind a probe."""
        for _ in range(200):
            if not server.open:
                return
            waited: Deferred[None] = Deferred()
            reactor.callLater(0.01, waited.callback, None)
            await waited
        self.fail("a connection is still open")


class FetchTests(Probing):
    """By HTTP-01."""

    async def fetched(self, server: Server) -> Probe:
        probe = await fetch(reactor, HERE, await self.listen(server), "x.com", PATH, PROOF)
        await self.gone(server)
        assert probe.said.isprintable() and len(probe.said) < 200
        return probe

    async def test_this_proxy(self):
        server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n%b\n" % PROOF.encode())
        assert await self.fetched(server) == Probe(HERE, True, "reaches this proxy")
        head, *fields = server.received.decode().split("\r\n")
        assert head == f"GET {PATH} HTTP/1.1"
        assert "Host: x.com" in fields

    async def test_chunks_and_a_body_until_the_end(self):
        for answer in (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n%b\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n%b",
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n%b",
        ):
            assert (await self.fetched(Server(answer % PROOF.encode()))).ok

    async def test_another_server(self):
        for answer, said in (
            (
                b"404 Not Found\r\nServer: nginx/1.22",
                "answers 404, but is not this proxy (Server: nginx/1.22)",
            ),
            (b"200 OK", "answers 200, but is not this proxy"),
            (b"200 OK\r\nServer: \x1b[31m\xff", None),
            (b"200 OK\r\nServer: " + b"x" * 5000, None),
            (
                b"301 Moved\r\nLocation: https://x.com/a?secret",
                "answers 301, a redirection to https://x.com/a: it is not this proxy that answers",
            ),
        ):
            head = b"HTTP/1.1 %b\r\nContent-Length: 5\r\n\r\nother" % answer
            if b"\x1b" in head:
                assert await self.fetched(Server(head)) == Probe(HERE, False, "answers, but not in HTTP")
                continue
            probe = await self.fetched(Server(head))
            assert probe.ok is False
            assert said is None or probe.said == said
            assert "other" not in probe.said and "secret" not in probe.said

    async def test_what_only_looks_like_the_proof(self):
        for body in (
            b"",
            b"token.thumbprint2",
            b" " + PROOF.encode(),
            PROOF.encode() + b"\n" * MAX_BODY + b"x",
        ):
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            probe = await self.fetched(Server(head + body))
            assert probe.ok is (body[:17] == PROOF.encode() + b"\n"), body
        probe = await self.fetched(Server(b"HTTP/1.1 404 OK\r\nContent-Length: 16\r\n\r\n" + PROOF.encode()))
        assert probe.ok is False

    async def test_what_is_no_http(self):
        for answer in (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x15\x03\x01\x00\x02\x02\x16",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        ):
            assert await self.fetched(Server(answer)) == Probe(HERE, False, "answers, but not in HTTP"), (
                answer
            )

    async def test_endless_answers(self):
        for answer, more, said in (
            (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n", "answers, but not in HTTP"),
            (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 1000, "answers, but not in HTTP"),
            (b"HTTP/1.1 200 OK\r\n\r\n", b"y" * 1000, "answers 200, but is not this proxy"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n", "answers 200, but"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"y" * 1000, "answers, but not in"),
        ):
            probe = await self.fetched(Server(answer, closes=False, endless=more))
            assert probe.ok is False
            assert probe.said.startswith(said), (answer, probe)

    async def test_slow_and_silent_ones(self):
        for answer in (None, b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\nt"):
            probe = await self.fetched(Server(answer, closes=False))
            assert probe == Probe(HERE, False, "does not answer in 0 s")

    async def test_one_that_hangs_up(self):
        for answer in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\nt"):
            probe = await self.fetched(Server(answer))
            assert probe == Probe(HERE, False, "closes the connection without an answer")

    async def test_nobody_there(self):
        with contextlib.closing(socket.socket()) as unused:
            unused.bind((HERE, 0))
            port = unused.getsockname()[1]
            assert await fetch(reactor, HERE, port, "x.com", PATH, PROOF) == Probe(
                HERE, False, "refuses the connection"
            )
            probe = await greet(reactor, HERE, port, "x.com", PROOF)
            assert probe == Probe(HERE, False, "refuses the connection")

    async def test_addresses_that_lead_nowhere(self):
        """Blackholes and networks that are not there: what that looks like is the machine's own affair."""
        for address in ("192.0.2.1", "2001:db8::1", "255.255.255.255", "::ffff:0:0"):
            for probe in (
                await fetch(reactor, address, 80, "x.com", PATH, PROOF),
                await greet(reactor, address, 443, "x.com", PROOF),
            ):
                assert not probe.ok and probe.said.isprintable(), probe

    async def test_a_timeout_of_a_foreign_address_says_nothing(self):
        server = Server(None, closes=False)
        with mock.patch.object(probes, "is_own", lambda address: False):
            probe = await self.fetched(server)
        assert (probe.ok, probe.hidden) == (None, True)

    def test_own_addresses(self):
        assert probes.is_own(HERE) and not probes.is_own("192.0.2.1") and not probes.is_own("2001:db8::1")


class GreetingTests(Probing):
    """By TLS-ALPN-01."""

    def context(self, leaf: Any, key: Any, alpn: bool = True) -> Any:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(leaf)
        context.use_privatekey(key)
        if alpn:
            context.set_alpn_select_callback(
                lambda _c, offered: (
                    b"acme-tls/1" if offered == [b"acme-tls/1"] else SSL.NO_OVERLAPPING_PROTOCOLS
                )
            )
        return context

    def challenge(self, name: str = "x.com", proof: str = PROOF, **more: Any) -> Any:
        found = challenge_certificate(name, proof, now())
        leaf = x509.load_pem_x509_certificate(found.chain.encode())
        return self.context(leaf, load_pem_private_key(found.private_key.encode(), None), **more)

    async def greeted(self, context: Any, host: str = "x.com") -> Probe:
        @implementer(IOpenSSLContextFactory)
        class ContextFactory:
            def getContext(self):
                return context

        factory = Server(None)
        port = reactor.listenSSL(0, factory, ContextFactory(), interface=HERE)
        self.addCleanup(port.stopListening)
        probe = await greet(reactor, HERE, port.getHost().port, host, PROOF)
        await self.gone(factory)
        return probe

    async def test_this_proxy_by_tls(self):
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            context = self.challenge()
            context.set_min_proto_version(version)
            context.set_max_proto_version(version)
            assert await self.greeted(context) == Probe(HERE, True, "reaches this proxy")

    async def test_another_certificate(self):
        leaf = made("x.com")
        for context in (
            self.context(leaf.certificate, leaf.key),
            self.context(leaf.certificate, leaf.key, alpn=False),
            self.challenge(alpn=False),
            self.challenge("y.com"),
        ):
            probe = await self.greeted(context)
            assert probe.ok is False and "another one ends TLS there" in probe.said

    async def test_the_proof_of_another_order(self):
        probe = await self.greeted(self.challenge(proof="other.thumbprint"))
        assert probe.ok is None and "another order" in probe.said

    async def test_a_refusal(self):
        leaf = made("x.com")
        context = self.context(leaf.certificate, leaf.key, alpn=False)
        context.set_alpn_select_callback(lambda _c, _o: (_ for _ in ()).throw(ValueError("no")))
        probe = await self.greeted(context)
        self.flushLoggedErrors()
        assert probe.ok is False
        assert "refuses the handshake" in probe.said or "without an answer" in probe.said

    async def test_old_tls(self):
        context = self.challenge()
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        probe = await self.greeted(context)
        assert probe.ok is False and "refuses the handshake" in probe.said, probe

    async def test_what_is_no_tls(self):
        for server, said in (
            (Server(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "refuses the handshake (wrong version number)"),
            (Server(b""), "closes the connection without an answer"),
            (Server(b"\x15\x03\x03\x00\x02\x02\x70"), "refuses the handshake (tlsv1 unrecognized name)"),
            (Server(None), "does not answer in 0 s"),
            (Server(b"\x16\x03\x03\x40\x00" + b"x", closes=False), "does not answer in 0 s"),
            (Server(b"\x16\x03\x03\xff\xff", closes=False, endless=b"x" * 1000), "refuses the handshake"),
        ):
            port = await self.listen(server)
            probe = await greet(reactor, HERE, port, "x.com", PROOF)
            await self.gone(server)
            assert probe.ok is False
            assert probe.said.startswith(said), probe
