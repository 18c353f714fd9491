"""One upstream connection: requests as bytes out, answers as bytes in, and what becomes of it after each."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from onebackend_proxy.addresses import parse_instance_url
from onebackend_proxy.balancing import EndpointState, Upstream
from onebackend_proxy.exchange import Exchange, Exchanges
from onebackend_proxy.headers import Peer, prepare_request
from onebackend_proxy.messages import RequestHead, ResponseHead
from onebackend_proxy.testing import RecordingDownstream
from onebackend_proxy.tunnel import Tunnel
from onebackend_proxy.upstream import Http1Client

from ..wire import Wire
from .support import Network

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (b"Transfer-Encoding", b"chunked")


class ConnectionTests(SynchronousTestCase):
    """A client over a network in memory, and one endpoint."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.client = Http1Client(self.clock, self.network.endpoint_for)
        self.exchanges = Exchanges(self.clock, self.client)
        self.endpoint = EndpointState(parse_instance_url("http://10.0.0.1:8000"))
        self.upstream = Upstream("svc", (self.endpoint,))
        self.downstream = RecordingDownstream()

    def begin(self, method: bytes = b"GET", *fields: tuple[bytes, bytes]) -> Exchange:
        """A new exchange, whose answer is the one in `self.downstream`."""
        self.downstream = RecordingDownstream()
        head = RequestHead(method, b"/svc/x", [(b"Host", b"front.example"), *fields])
        request = prepare_request(head, Peer(b"192.0.2.7"), b"id-1")
        exchange = self.exchanges.begin(self.downstream, request, self.upstream)
        exchange.start()
        return exchange

    def sent(self, method: bytes = b"GET", *fields: tuple[bytes, bytes]) -> Wire:
        """The wire that a new exchange has sent its request on."""
        self.begin(method, *fields)
        return self.network.accept()

    @property
    def kept(self) -> int:
        """How many connections are idle."""
        return len(self.client.pool)

    def assert_refused(self, status: int = 502) -> None:
        assert self.downstream.refused is not None
        assert self.downstream.refused[0] == status
        assert self.endpoint.in_flight == 0


class TestRequests(ConnectionTests):
    """What goes out."""

    def test_a_request_without_body(self) -> None:
        wire = self.sent(b"GET", (b"X-Mine", b"yes"))
        head = wire.take()
        assert head.startswith(b"GET /svc/x HTTP/1.1\r\nHost: front.example\r\nX-Mine: yes\r\n")
        assert head.endswith(b"\r\n\r\n")
        assert b"Content-Length" not in head
        assert wire.no_delay

    def test_a_body_with_a_length_goes_as_it_is(self) -> None:
        exchange = self.begin(b"POST", (b"Content-Length", b"10"))
        exchange.request_body_received(b"hello")
        wire = self.network.accept()
        assert wire.take().endswith(b"Content-Length: 10\r\n\r\nhello")
        exchange.request_body_received(b"world")
        exchange.request_ended([])
        assert wire.take() == b"world"

    def test_a_body_without_goes_in_chunks_with_its_trailers(self) -> None:
        exchange = self.begin(b"POST", CHUNKED)
        wire = self.network.accept()
        assert wire.take().endswith(b"Transfer-Encoding: chunked\r\n\r\n")
        exchange.request_body_received(b"hello")
        assert wire.take() == b"5\r\nhello\r\n"
        exchange.request_ended([(b"X-Sum", b"1")])
        assert wire.take() == b"0\r\nX-Sum: 1\r\n\r\n"

    def test_an_unsent_body_pauses_the_client(self) -> None:
        exchange = self.begin(b"POST", CHUNKED)
        wire = self.network.accept()
        wire.fill()
        assert self.downstream.request_paused
        wire.drain()
        assert not self.downstream.request_paused
        exchange.request_ended([])
        wire.receive(OK)
        assert self.downstream.trailers == []

    def test_its_repr_tells_what_it_is_at(self) -> None:
        wire = self.sent()
        assert repr(wire.protocol).startswith("<UpstreamConnection 10.0.0.1:8000: <Exchange GET")
        wire.receive(OK)
        assert repr(wire.protocol) == "<UpstreamConnection 10.0.0.1:8000: idle>"


class TestAnswers(ConnectionTests):
    """What comes in."""

    def test_an_answer_with_a_length(self) -> None:
        wire = self.sent()
        for byte in OK:
            wire.receive(bytes((byte,)))
        assert (self.downstream.body, self.downstream.trailers) == (b"hello", [])
        assert self.kept == 1

    def test_an_answer_in_chunks_with_trailers(self) -> None:
        wire = self.sent()
        wire.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert self.downstream.body == b"hello"
        wire.receive(b"0\r\nX-Sum: 1\r\n\r\n")
        assert self.downstream.trailers == [(b"X-Sum", b"1")]
        assert self.kept == 1

    def test_an_answer_until_the_connection_ends(self) -> None:
        wire = self.sent()
        wire.receive(b"HTTP/1.1 200 OK\r\n\r\nall ")
        wire.receive(b"there is")
        assert not self.downstream.over
        wire.peer_closes()
        assert (self.downstream.body, self.downstream.trailers) == (b"all there is", [])
        assert self.kept == 0

    def test_an_answer_until_the_connection_breaks(self) -> None:
        wire = self.sent()
        wire.receive(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        wire.peer_closes(ConnectionLost())
        assert self.downstream.aborted

    def test_interim_answers(self) -> None:
        wire = self.sent()
        wire.receive(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + OK)
        assert [head.status for head in self.downstream.interims] == [103]
        assert self.downstream.body == b"hello"

    def test_answers_without_a_body(self) -> None:
        wire = self.sent()
        wire.receive(OK)
        for method, answer in (
            (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
            (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ):
            self.begin(method)
            wire.receive(answer)
            assert (self.downstream.body, self.downstream.trailers) == (b"", [])
            assert self.kept == 1
            assert wire.protocol.reused

    def test_a_head_answer_in_chunks_has_none_either(self) -> None:
        wire = self.sent(b"HEAD")
        wire.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (self.downstream.body, self.downstream.trailers) == (b"", [])
        # Whether such a connection is to be trusted is http1's to say.
        assert wire.disconnecting is (self.kept == 0)

    def test_an_answer_cut_short(self) -> None:
        for begun in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ):
            wire = self.sent()
            wire.receive(begun)
            wire.peer_closes()
            assert self.downstream.aborted
            assert self.kept == 0

    def test_half_a_head(self) -> None:
        wire = self.sent()
        wire.receive(b"HTTP/1.1 200 OK\r\nContent-Le")
        wire.peer_closes()
        self.assert_refused()

    def test_an_answer_that_is_not_http(self) -> None:
        for answer in (
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000,
            b"HTTP/1.1 103 Early\r\n\r\n" * 40,
        ):
            with self.subTest(answer[:80]):
                wire = self.sent()
                wire.receive(answer)
                self.assert_refused()
                assert wire.aborted
                self.clock.advance(0)
                assert self.kept == 0

    def test_a_body_that_breaks_its_framing(self) -> None:
        wire = self.sent()
        wire.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n")
        assert self.downstream.aborted
        assert wire.aborted

    def test_a_body_to_a_head_request(self) -> None:
        wire = self.sent(b"HEAD")
        wire.receive(OK)
        assert self.downstream.trailers == []
        assert wire.aborted or wire.disconnecting
        self.clock.advance(0)
        assert self.kept == 0

    def test_a_slow_client_pauses_the_service(self) -> None:
        self.begin()
        wire = self.network.accept()
        wire.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        exchange = wire.protocol._exchange
        exchange.client_full()
        exchange.client_full()
        assert wire.paused
        wire.receive(b"world")
        assert self.downstream.body == b"hello"
        exchange.client_drained()
        exchange.client_drained()
        self.clock.advance(0)
        assert not wire.paused
        assert self.downstream.body == b"helloworld"
        assert self.kept == 1

    def test_one_that_was_paused_at_its_end_is_read_again(self) -> None:
        wire = self.sent()
        exchange = wire.protocol._exchange
        real = self.downstream.write

        def full(data: bytes) -> None:
            real(data)
            exchange.client_full()

        self.downstream.write = full  # type: ignore[method-assign]
        wire.receive(OK)
        assert self.downstream.trailers == []
        assert not wire.paused
        assert self.kept == 1


class TestReuse(ConnectionTests):
    """Which connections are used again, and what happens to the others."""

    def test_the_next_request_goes_on_it(self) -> None:
        wire = self.sent()
        wire.receive(OK)
        wire.take()
        self.begin()
        assert self.network.attempts == []
        assert wire.take().startswith(b"GET /svc/x HTTP/1.1\r\n")
        wire.receive(OK)
        assert self.downstream.body == b"hello"
        assert self.endpoint.in_flight == 0

    def instead(self, answer: bytes) -> Wire:
        """The wire of an exchange that wants nothing but the head of the answer."""
        exchange = self.begin()
        wire = self.network.accept()

        def leave(head: ResponseHead) -> None:
            connection = exchange._leave()
            assert connection is not None
            connection.let_end()

        self.downstream.respond = leave  # type: ignore[method-assign]
        wire.receive(answer)
        exchange.client_gone()
        assert self.endpoint.in_flight == 0
        return wire

    def test_after_an_answer_of_which_nobody_wants_the_rest(self) -> None:
        for answer in (b"HTTP/1.1 304 Not Modified\r\n\r\n", OK):
            wire = self.instead(answer)
            assert not wire.closed
            assert self.kept == 1
            wire.take()
            self.begin()
            assert wire.take().startswith(b"GET /svc/x HTTP/1.1\r\n")
            wire.receive(OK)
            assert self.downstream.body == b"hello"
            wire.receive(b"unasked")
            assert wire.aborted
            assert self.kept == 0

    def test_not_where_that_is_still_coming(self) -> None:
        for part in (OK[:-1], OK[:-5]):
            assert self.instead(part).aborted
            assert self.kept == 0

    def test_not_where_the_service_closes(self) -> None:
        for answer in (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        ):
            wire = self.sent()
            wire.receive(answer)
            assert self.downstream.trailers == []
            assert wire.disconnecting and not wire.aborted
            assert self.kept == 0

    def test_not_where_the_request_was_still_coming(self) -> None:
        exchange = self.begin(b"POST", (b"Content-Length", b"10"))
        wire = self.network.accept()
        exchange.request_body_received(b"hello")
        wire.receive(OK)
        assert self.downstream.trailers == []
        assert wire.aborted
        self.clock.advance(0)
        assert self.kept == 0

    def test_not_where_the_request_is_still_leaving(self) -> None:
        wire = self.sent()
        wire.fill()
        wire.receive(OK)
        assert self.downstream.trailers == []
        # Closing in order would wait until the service takes what it no longer wants.
        assert wire.aborted
        assert self.kept == 0

    def test_what_was_kept_and_closes_is_forgotten(self) -> None:
        wire = self.sent()
        wire.receive(OK)
        wire.peer_closes()
        assert self.kept == 0
        self.begin()
        assert len(self.network.attempts) == 1

    def test_what_talks_unasked_is_closed(self) -> None:
        wire = self.sent()
        wire.receive(OK)
        wire.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        assert wire.aborted
        assert self.kept == 0
        self.clock.advance(0)

    def test_an_answer_too_many_is_not_kept(self) -> None:
        wire = self.sent()
        wire.receive(OK + OK)
        assert (self.downstream.body, self.downstream.trailers) == (b"hello", [])
        assert wire.aborted
        self.clock.advance(0)
        assert self.kept == 0

    def test_a_stale_one_is_replaced(self) -> None:
        wire = self.sent()
        wire.receive(OK)
        self.begin()
        wire.peer_closes()
        fresh = self.network.accept()
        assert fresh.take().startswith(b"GET /svc/x")
        fresh.receive(OK)
        assert self.downstream.body == b"hello"
        assert self.endpoint.failures == 0

    def test_a_stale_one_is_not_replaced_for_a_post(self) -> None:
        wire = self.sent()
        wire.receive(OK)
        self.begin(b"POST", (b"Content-Length", b"0"))
        wire.peer_closes()
        assert self.network.attempts == []
        self.assert_refused()

    def test_nor_when_an_answer_had_begun(self) -> None:
        wire = self.sent()
        wire.receive(OK)
        self.begin()
        wire.receive(b"HTTP")
        wire.peer_closes()
        assert self.network.attempts == []
        self.assert_refused()

    def test_a_request_that_is_given_up_takes_the_connection_with_it(self) -> None:
        exchange = self.begin()
        wire = self.network.accept()
        exchange.client_gone()
        assert wire.aborted
        self.clock.advance(0)
        assert self.kept == 0

    def test_what_follows_an_end_that_was_given_up_is_dropped(self) -> None:
        exchange = self.begin()
        wire = self.network.accept()
        real = self.downstream.write

        def gone(data: bytes) -> None:
            real(data)
            exchange.client_gone()

        self.downstream.write = gone  # type: ignore[method-assign]
        wire.receive(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n"
        )
        # Neither its end, nor a connection that would be reused.
        assert (self.downstream.body, self.downstream.trailers) == (b"hellohello", None)
        assert wire.aborted
        self.clock.advance(0)
        assert self.kept == 0

    def test_a_connection_still_full_pauses_the_next_body(self) -> None:
        # Only a client of ours that breaks the rules would send on it; the connection tells all the same.
        exchange = self.begin(b"POST", CHUNKED)
        wire = self.network.accept()
        wire.fill()
        exchange.client_gone()
        again = self.begin(b"POST", CHUNKED)
        wire.protocol.send(again, again.request, b"POST /x HTTP/1.1\r\n\r\n", b"", None)
        assert self.downstream.request_paused
        again.client_gone()

    def test_a_transport_that_ends_tells_nobody_twice(self) -> None:
        wire = self.sent()
        wire.protocol.stopProducing()
        wire.peer_closes(ConnectionLost())
        self.assert_refused()
        assert self.endpoint.failures == 1


UPGRADE = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class TestTunnels(ConnectionTests):
    """What a connection is after a 101: bytes both ways, and its own end of each."""

    def tunnel(self, more: bytes = b"") -> tuple[Wire, Tunnel]:
        """A wire whose service has switched protocols, and said more with it."""
        wire = self.sent(b"GET", *UPGRADE)
        assert wire.take().endswith(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        wire.receive(SWITCH + more)
        assert self.downstream.tunnel is not None
        return wire, self.downstream.tunnel

    def test_bytes_go_both_ways(self) -> None:
        wire, tunnel = self.tunnel(b"early")
        assert self.downstream.body == b"early"
        tunnel.request_body_received(b"HTTP/1.1 200 OK\r\n\r\n")
        assert wire.take() == b"HTTP/1.1 200 OK\r\n\r\n"
        wire.receive(b"HTTP/1.1 200 OK\r\n\r\n")
        wire.receive(b"\0")
        assert self.downstream.body == b"earlyHTTP/1.1 200 OK\r\n\r\n\0"

    def test_the_client_ends_its_half(self) -> None:
        wire, tunnel = self.tunnel()
        tunnel.request_ended([])
        assert wire.write_closed and not wire.disconnecting
        wire.protocol.writeConnectionLost()
        wire.receive(b"still")
        wire.peer_ends()
        assert self.downstream.body == b"still"
        assert self.downstream.trailers == []
        assert wire.disconnecting and not wire.aborted
        self.clock.advance(0)
        assert self.kept == 0

    def test_the_service_ends_its_half(self) -> None:
        wire, tunnel = self.tunnel()
        wire.peer_ends()
        assert self.downstream.half_closed and not wire.closed
        tunnel.request_body_received(b"still")
        assert wire.take() == b"still"
        tunnel.request_ended([])
        assert self.downstream.trailers == []
        assert wire.disconnecting and not wire.aborted

    def test_an_end_that_is_told_again_is_no_other(self) -> None:
        wire, _tunnel = self.tunnel()
        wire.peer_ends()
        wire.peer_ends()
        assert self.downstream.half_closed and self.downstream.trailers is None

    def test_tls_has_no_halves(self) -> None:
        wire, tunnel = self.tunnel()
        directlyProvides(wire, ISSLTransport)
        tunnel.request_ended([])
        assert not wire.write_closed
        wire.receive(b"still")
        assert self.downstream.body == b"still"

    def test_the_connection_breaks(self) -> None:
        wire, _tunnel = self.tunnel()
        wire.peer_closes(ConnectionLost())
        assert self.downstream.aborted
        assert self.endpoint.in_flight == 0

    def test_back_pressure_both_ways(self) -> None:
        wire, tunnel = self.tunnel()
        wire.fill()
        assert self.downstream.request_paused
        wire.drain()
        assert not self.downstream.request_paused
        tunnel.client_full()
        assert wire.paused
        tunnel.client_drained()
        assert not wire.paused

    def test_the_client_goes(self) -> None:
        wire, tunnel = self.tunnel()
        tunnel.client_gone()
        assert wire.disconnecting and not wire.aborted
        wire.receive(b"late")
        assert self.downstream.body == b""

    def test_a_switch_that_nobody_asked_for(self) -> None:
        wire = self.sent()
        wire.receive(SWITCH)
        assert wire.aborted
        self.assert_refused()

    def test_a_switch_to_something_else(self) -> None:
        wire = self.sent(b"GET", *UPGRADE)
        wire.receive(SWITCH.replace(b"websocket", b"other"))
        assert wire.aborted
        self.assert_refused()

    def test_a_switch_declined_leaves_a_connection_as_any(self) -> None:
        wire = self.sent(b"GET", *UPGRADE)
        wire.receive(OK)
        assert (self.downstream.body, self.kept) == (b"hello", 1)
        self.begin()
        assert b"Upgrade" not in wire.take().rpartition(b"GET")[2]
        wire.receive(SWITCH)
        self.assert_refused()

    def test_an_end_of_what_is_no_tunnel_is_the_end(self) -> None:
        wire = self.sent()
        wire.receive(b"HTTP/1.1 200 OK\r\n\r\nall")
        wire.peer_ends()
        assert (self.downstream.body, self.downstream.trailers) == (b"all", [])
        assert wire.disconnecting
        wire = self.sent()
        wire.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf")
        wire.peer_ends()
        assert self.downstream.aborted
        self.clock.advance(0)
        assert self.kept == 0
