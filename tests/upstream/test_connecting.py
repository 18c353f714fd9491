"""Which endpoint connects to an address, and whom https talks to."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from twisted.internet import reactor as running
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from onebackend_proxy.addresses import Address, parse_instance_url, parse_target
from onebackend_proxy.balancing import EndpointState, Health, Upstream
from onebackend_proxy.exchange import Exchanges
from onebackend_proxy.headers import Peer, prepare_request
from onebackend_proxy.messages import Headers, RequestHead
from onebackend_proxy.testing import RecordingDownstream
from onebackend_proxy.upstream import HealthChecks, Http1Client, connecting
from onebackend_proxy.upstream.connecting import HandshakeFailed, endpoint_for
from onebackend_proxy.upstream.names import LookupGivenUp

from .support import Authority
from .test_connection import OK
from .test_names import Threads

# Twisted types it as a module.
reactor: Any = running


def connect(url: str) -> Any:
    return endpoint_for(MemoryReactorClock(), parse_instance_url(url), 5)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://10.0.0.1:8000", TCP4ClientEndpoint),
        ("http://[::1]:8000", TCP6ClientEndpoint),
        ("http://service.example", HostnameEndpoint),
        ("http://my_service:8000", HostnameEndpoint),
    ],
)
def test_http_is_plain(url: str, kind: type) -> None:
    assert isinstance(connect(url), kind)


def test_it_goes_where_the_address_says() -> None:
    endpoint = connect("http://10.0.0.1:8000")
    assert (endpoint._host, endpoint._port, endpoint._timeout) == ("10.0.0.1", 8000, 5)


def test_a_socket_is_a_path() -> None:
    endpoint: Any = endpoint_for(MemoryReactorClock(), parse_target("unix:/run/a.sock"), 5)
    assert isinstance(endpoint, UNIXClientEndpoint)
    assert (endpoint._path, endpoint._timeout) == ("/run/a.sock", 5)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://10.0.0.1:8443", TCP4ClientEndpoint),
        ("https://[::1]:8443", TCP6ClientEndpoint),
        ("https://service.example", HostnameEndpoint),
    ],
)
def test_https_goes_the_same_ways(url: str, kind: type) -> None:
    assert isinstance(connect(url).endpoint, kind)


class _Reactor(Threads, MemoryReactorClock):
    """In memory, with threads that wait."""


class TestNames(SynchronousTestCase):
    """Names are looked up by `Names`, not by the reactor."""

    def setUp(self) -> None:
        self.reactor = _Reactor()
        names = self.reactor.names()
        self.patch(connecting, "names_of", {self.reactor: names}.__getitem__)
        self.patch(self.reactor, "nameResolver", None)

    def connect(self, name: str) -> Deferred[Any]:
        address = parse_instance_url(f"http://{name}:8000")
        return endpoint_for(self.reactor, address, 5).connect(Factory.forProtocol(Protocol))

    def test_a_name_with_an_underscore_is_looked_up_as_it_is(self) -> None:
        self.connect("my_service")
        assert self.reactor.asked == ["my_service"]

    def test_what_is_found_is_connected_to_in_its_order(self) -> None:
        self.reactor.said["a.example"] = ("2001:db8::1", "192.0.2.1")
        for _ in range(2):
            attempt = self.connect("a.example")
            if self.reactor.asked:
                assert self.reactor.tcpClients == []
                self.reactor.answer()
            # The next one is tried a moment later (RFC 8305).
            self.reactor.advance(1)
            self.assertNoResult(attempt)
            assert [client[:2] for client in self.reactor.tcpClients] == [
                ("2001:db8::1", 8000),
                ("192.0.2.1", 8000),
            ]
            self.reactor.tcpClients.clear()

    def test_no_address(self) -> None:
        self.reactor.said["a.example"] = ()
        attempt = self.connect("a.example")
        self.reactor.answer()
        self.failureResultOf(attempt, DNSLookupError)

    def test_a_look_up_that_is_given_up(self) -> None:
        attempt = self.connect("a.example")
        attempt.cancel()
        self.failureResultOf(attempt, LookupGivenUp)
        self.reactor.answer()
        assert self.reactor.tcpClients == []

    def test_a_slow_name_is_a_time_out(self) -> None:
        endpoint = EndpointState(parse_instance_url("http://a.example"))
        exchanges = Exchanges(self.reactor, Http1Client(self.reactor))
        downstream = RecordingDownstream()
        request = prepare_request(
            RequestHead(b"GET", b"/svc/x", [(b"Host", b"front.example")]), Peer(b"192.0.2.7"), b"id-1"
        )
        exchange = exchanges.begin(downstream, request, Upstream("svc", (endpoint,)))
        exchange.start()
        self.reactor.advance(5.0)
        assert downstream.refused == (504, "connecting to the service took too long")
        assert "looking up its name took too long, over 5 s" in exchange.reason

    def test_a_slow_name_is_unreachable_and_no_error(self) -> None:
        endpoint = EndpointState(parse_instance_url("http://a.example"))
        checks = HealthChecks(self.reactor, lambda: [endpoint])
        checks.look(endpoint)
        checks.stop()
        assert endpoint.health.value == "Unknown"
        checks.look(endpoint)
        self.reactor.advance(3.0)
        assert endpoint.health.value == "Unreachable"
        # By the next look the answer is there.
        self.reactor.answer()
        checks.look(endpoint)
        assert [client[:2] for client in self.reactor.tcpClients] == [("192.0.2.1", 80)]


class _Server(Protocol):
    """Keeps what a client told it, and answers each request the same."""

    factory: Any

    def connectionMade(self) -> None:
        self.factory.connections.append(self)
        self.received = b""
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        self.received += data
        if self.received.endswith(b"\r\n\r\n"):
            transport.write(OK)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class _Closer(Protocol):
    """Ends each connection at its first byte, with some bytes of its own."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.transport.loseConnection()


class _Ended(RecordingDownstream):
    """Tells when the last call has come."""

    def __init__(self) -> None:
        super().__init__()
        self.done: Deferred[None] = Deferred()

    def end(self, trailers: Headers) -> None:
        super().end(trailers)
        self.done.callback(None)

    def refuse(self, status: int, message: str) -> None:
        super().refuse(status, message)
        self.done.callback(None)


class Servers(TestCase):
    """Real sockets; every name is at this machine."""

    def setUp(self) -> None:
        self.patch(
            connecting,
            "_NameEndpoint",
            lambda reactor, host, port, timeout: TCP4ClientEndpoint(reactor, "127.0.0.1", port, timeout),
        )
        self.connections: list[_Server] = []
        self.endpoint_for = functools.partial(endpoint_for, trust=AUTHORITY.roots)

    def factory(self, protocol: type[Protocol] = _Server) -> Any:
        factory: Any = Factory.forProtocol(protocol)
        factory.connections = self.connections
        return factory

    def serve(self, options: Any = None, protocol: type[Protocol] = _Server) -> int:
        """The port of a server with this certificate, or without TLS."""
        factory = self.factory(protocol)
        port: Any
        if options is None:
            port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        else:
            port = reactor.listenSSL(0, factory, options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def ask(self, *endpoints: EndpointState, method: bytes = b"GET") -> _Ended:
        """What becomes of a request to one of these, the first first; all is closed by then."""
        client = Http1Client(reactor, self.endpoint_for)
        exchanges = Exchanges(reactor, client, random=lambda: 0.0)
        downstream = _Ended()
        head = RequestHead(method, b"/svc/x", [(b"Host", b"front.example")])
        request = prepare_request(head, Peer(b"192.0.2.7"), b"id-1")
        exchanges.begin(downstream, request, Upstream("svc", endpoints)).start()
        await downstream.done
        await deferLater(reactor, 0)
        # By whom each connection that is kept is read, and itself.
        self.kept = [
            (getattr(connection.transport, "transport", connection.transport).protocol, connection)
            for queue in client.pool._idle.values()
            for _round, connection in queue
        ]
        client.close()
        await exchanges.drain(0)
        for connection in self.connections:
            await connection.lost
        return downstream


AUTHORITY = Authority()
HOST = "service.example"


class TestTLS(Servers):
    """Whom it talks to, and what it says of those it does not."""

    async def connected(self, port: int, host: str = HOST, verify: bool = True, **trust: Any) -> _Server:
        """The server's side of a connection, after both sides have ended it."""
        endpoint = endpoint_for(
            reactor, Address("https", host, port, verify=verify), 5, **trust or {"trust": AUTHORITY.roots}
        )
        protocol: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        assert protocol.transport.negotiatedProtocol == b"http/1.1"
        connecting.unwrap(protocol.transport)
        protocol.transport.write(b"hello")
        protocol.transport.loseConnection()
        [server] = self.connections
        await server.lost
        assert server.received == b"hello"
        return server

    async def refused(self, port: int, host: str = HOST, **named: Any) -> str:
        """Why there is no connection."""
        with pytest.raises(HandshakeFailed) as caught:
            await self.connected(port, host, **named)
        for server in self.connections:
            await server.lost
            assert server.received == b""
        return str(caught.value)

    async def test_the_right_certificate(self) -> None:
        server = await self.connected(self.serve(AUTHORITY.options("other.example", HOST)))
        assert isinstance(server, _Server)

    async def test_a_wildcard(self) -> None:
        await self.connected(self.serve(AUTHORITY.options("*.tests.example")), "a.tests.example")

    async def test_the_name_is_told_and_an_address_is_not(self) -> None:
        told: list[bytes | None] = []
        for host, verify in ((HOST, True), (HOST, False), ("127.0.0.1", True)):
            options = AUTHORITY.options(HOST, "127.0.0.1")
            options.getContext().set_tlsext_servername_callback(lambda c: told.append(c.get_servername()))
            self.connections.clear()
            await self.connected(self.serve(options), host, verify)
        assert told == [b"service.example", b"service.example", None]

    async def test_an_address_needs_its_own_certificate(self) -> None:
        await self.connected(self.serve(AUTHORITY.options("127.0.0.1")), "127.0.0.1")
        self.connections.clear()
        why = await self.refused(self.serve(AUTHORITY.options(HOST, "127.0.0.2")), "127.0.0.1")
        assert why == "its certificate is not one for 127.0.0.1"

    async def test_what_is_wrong_with_a_certificate(self) -> None:
        for options, why in (
            (AUTHORITY.options("other.example"), "is not one for service.example"),
            (AUTHORITY.options("127.0.0.1"), "is not one for service.example"),
            (AUTHORITY.options("*.example"), "is not one for service.example"),
            (AUTHORITY.options(), "is not one for service.example"),
            (AUTHORITY.options(HOST, starts=-3, ends=-1), "has expired"),
            (AUTHORITY.options(HOST, starts=1, ends=2), "is not valid yet"),
            (AUTHORITY.options(HOST, self_signed=True), "is self-signed"),
            (Authority("other").options(HOST), "is from an authority that is not known"),
            (Authority().options(HOST), "is not signed by whom it says"),
        ):
            self.connections.clear()
            port = self.serve(options)
            assert await self.refused(port) == f"its certificate {why}"
            # And to all of them it connects if it is told to look at nothing.
            self.connections.clear()
            await self.connected(port, verify=False)

    async def test_the_roots_of_the_system_are_the_default(self) -> None:
        why = await self.refused(self.serve(AUTHORITY.options(HOST)), trust=None)
        assert why == "its certificate is from an authority that is not known"

    async def test_a_name_with_an_underscore(self) -> None:
        await self.connected(self.serve(AUTHORITY.options("my_service")), "my_service")

    async def test_no_tls_at_all(self) -> None:
        assert (await self.refused(self.serve(None, _Closer))).startswith("no TLS: ")

    async def test_another_protocol_is_not_ours(self) -> None:
        options = AUTHORITY.options(HOST)
        options.getContext().set_alpn_select_callback(lambda _connection, _offered: b"")
        assert (await self.refused(self.serve(options))).startswith("no TLS: ")

    async def test_a_server_that_says_nothing(self) -> None:
        port = self.serve(None, _Server)
        endpoint = endpoint_for(reactor, Address("https", HOST, port), 5, trust=AUTHORITY.roots)
        attempt = endpoint.connect(Factory.forProtocol(Protocol))
        while not self.connections or not self.connections[0].received:
            await deferLater(reactor, 0.01)
        self.assertNoResult(attempt)
        attempt.cancel()
        with pytest.raises(CancelledError):
            await attempt
        await self.connections[0].lost

    async def test_a_factory_that_wants_no_connection(self) -> None:
        class Refusing(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        port = self.serve(AUTHORITY.options(HOST))
        endpoint = endpoint_for(reactor, Address("https", HOST, port), 5, trust=AUTHORITY.roots)
        with pytest.raises(HandshakeFailed):
            await endpoint.connect(Refusing())
        await self.connections[0].lost

    async def test_another_endpoint_is_tried_and_the_log_says_why(self) -> None:
        wrong = EndpointState(Address("https", HOST, self.serve(AUTHORITY.options("other.example"))))
        right = EndpointState(Address("https", HOST, self.serve(AUTHORITY.options(HOST))))
        right.in_flight = 1
        with capturedLogs() as logs:
            downstream = await self.ask(wrong, right, method=b"POST")
        assert downstream.body == b"hello"
        assert [server.received[:4] for server in self.connections] == [b"", b"POST"]
        assert wrong.health is Health.UNREACHABLE
        said = [formatEvent(event) for event in logs if "detail" in event]
        assert said == [
            f"connecting to {wrong.address.authority} for svc failed:"
            " its certificate is not one for service.example"
        ]

    async def test_the_client_is_told_nothing_of_it(self) -> None:
        port = self.serve(AUTHORITY.options("other.example"))
        downstream = await self.ask(EndpointState(Address("https", HOST, port)))
        assert downstream.refused == (502, "no instance of the service could be reached")

    async def test_nothing_stands_between_a_kept_connection_and_its_transport(self) -> None:
        port = self.serve(AUTHORITY.options(HOST))
        await self.ask(EndpointState(Address("https", HOST, port)))
        [(reader, connection)] = self.kept
        assert reader is connection.transport


class TestUnix(Servers):
    """A real Unix socket."""

    async def test_a_request(self) -> None:
        path = self.mktemp()[-60:].replace("/", "")
        path = f"/tmp/{path}"
        port = reactor.listenUNIX(path, self.factory())
        self.addCleanup(port.stopListening)
        downstream = await self.ask(EndpointState(parse_target(f"unix:{path}")))
        assert downstream.body == b"hello"
        [(reader, connection)] = self.kept
        assert reader is connection
        assert self.connections[0].received.startswith(b"GET /svc/x HTTP/1.1\r\nHost: front.example\r\n")

    async def test_nobody_listens_there(self) -> None:
        downstream = await self.ask(EndpointState(parse_target("unix:/nowhere/a.sock")))
        assert downstream.refused == (502, "no instance of the service could be reached")
