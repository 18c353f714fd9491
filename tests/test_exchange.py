"""One request between two sides that a test plays: where it goes, how often, and how it ends."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.addresses import parse_instance_url
from onebackend_proxy.balancing import Balance, EndpointState, Health, Timeouts, Upstream
from onebackend_proxy.errors import Unavailable, UpstreamFailed, UpstreamTimeout
from onebackend_proxy.exchange import (
    CONTINUE_AFTER,
    MAX_CONNECTING,
    MAX_HELD,
    TRANSITIONS,
    Exchange,
    Exchanges,
    State,
)
from onebackend_proxy.headers import OutgoingRequest, Peer, prepare_request
from onebackend_proxy.limits import Limits
from onebackend_proxy.messages import Headers, RequestHead, ResponseHead
from onebackend_proxy.testing import RecordingDownstream, ScriptedConnection, ScriptedUpstream

OK = ResponseHead(200, b"OK", [(b"Content-Length", b"5")], 5)


def outgoing(
    method: bytes = b"GET", *fields: tuple[bytes, bytes], target: bytes = b"/svc/x"
) -> OutgoingRequest:
    """A request made ready, from 192.0.2.7."""
    head = RequestHead(method, target, [(b"Host", b"front.example"), *fields])
    return prepare_request(head, Peer(b"192.0.2.7"), b"id-1")


def length(size: int) -> tuple[bytes, bytes]:
    """The field that says how long a body is."""
    return b"Content-Length", b"%d" % size


CHUNKED = (b"Transfer-Encoding", b"chunked")
EXPECT = (b"Expect", b"100-continue")


class Noting(Exchanges):
    """Notes which are over."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.over: list[Exchange] = []

    def ended(self, exchange: Exchange) -> None:
        self.over.append(exchange)
        super().ended(exchange)


class ExchangeTests(SynchronousTestCase):
    """Two instances, nothing kept, nothing under way."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.client = ScriptedUpstream()
        self.exchanges = Noting(self.clock, self.client, random=lambda: 0.0)
        self.endpoints = tuple(
            EndpointState(parse_instance_url(f"http://10.0.0.{number}:8000")) for number in (1, 2)
        )
        self.first, self.second = self.endpoints
        self.upstream = Upstream("svc", self.endpoints, Timeouts(5, 10, 20))
        self.downstream = RecordingDownstream()

    def begin(self, method: bytes = b"GET", *fields: tuple[bytes, bytes]) -> Exchange:
        """An exchange that has just begun to connect."""
        exchange = self.exchanges.begin(self.downstream, outgoing(method, *fields), self.upstream)
        exchange.start()
        return exchange

    def waiting(
        self, method: bytes = b"GET", *fields: tuple[bytes, bytes]
    ) -> tuple[Exchange, ScriptedConnection]:
        """An exchange that has sent its request."""
        exchange = self.begin(method, *fields)
        return exchange, self.client.accept()

    def seconds(self, seconds: int) -> None:
        """Let time go by as a reactor does."""
        self.clock.pump([1.0] * seconds)

    def assert_over(self, exchange: Exchange) -> None:
        """It has ended, once, and holds on to nothing."""
        assert exchange.state is State.DONE
        assert self.exchanges.over.count(exchange) == 1
        assert [endpoint.in_flight for endpoint in self.endpoints] == [0, 0]
        assert len(self.exchanges) == 0
        assert self.client.connecting == []
        self.clock.advance(1.0)
        assert self.clock.getDelayedCalls() == []


class TestEndpoints(ExchangeTests):
    """Which endpoint gets the request, and how often it is tried."""

    def test_the_request_goes_out_in_one_piece(self) -> None:
        exchange, connection = self.waiting()
        assert connection.request_line == b"GET /svc/x HTTP/1.1"
        assert connection.head.endswith(b"\r\n\r\n")
        assert connection.trailers == []
        assert self.first.in_flight == 1
        connection.answer(b"hello")
        assert self.downstream.body == b"hello"
        assert (exchange.status, exchange.bytes_out) == (200, 5)
        self.assert_over(exchange)

    def test_the_path_of_the_address_goes_before_the_target(self) -> None:
        self.upstream = Upstream("svc", (EndpointState(parse_instance_url("http://a/base/")),))
        _exchange, connection = self.waiting()
        assert connection.request_line == b"GET /base/svc/x HTTP/1.1"

    def test_a_kept_connection_is_used(self) -> None:
        kept = self.client.keep(self.first)
        self.begin()
        assert self.client.connecting == []
        kept.answer(b"hello")
        assert self.downstream.trailers == []

    def test_no_endpoint_at_all_is_502(self) -> None:
        self.upstream = Upstream("svc", ())
        exchange = self.begin()
        assert self.downstream.refused == (502, "no instance of the service could be reached")
        self.assert_over(exchange)

    def test_a_failed_connect_counts_at_once_and_goes_on_to_another(self) -> None:
        self.first.health = Health.HEALTHY
        exchange = self.begin(b"POST", length(5))
        exchange.request_body_received(b"hello")
        exchange.request_ended([])
        assert self.client.refuse() is self.first
        assert (self.first.health, self.first.failures) == (Health.UNREACHABLE, 1)
        connection = self.client.accept()
        assert connection.endpoint is self.second
        assert (connection.body, connection.trailers) == (b"hello", [])
        connection.answer(b"ok")
        self.assert_over(exchange)

    def test_where_none_connects_the_last_failure_is_the_answer(self) -> None:
        exchange = self.begin()
        self.client.refuse(UpstreamFailed("no instance of the service could be reached"))
        self.client.refuse(UpstreamTimeout("connecting to the service took too long", detail="over 5 s"))
        assert self.downstream.refused == (504, "connecting to the service took too long")
        assert exchange.status == 504
        self.assert_over(exchange)

    def test_connecting_ends_some_time(self) -> None:
        exchange = self.begin()
        self.clock.advance(MAX_CONNECTING + 1)
        self.client.refuse()
        assert self.downstream.refused is not None
        self.assert_over(exchange)

    def test_the_connect_timeout_of_the_upstream_is_passed_on(self) -> None:
        self.begin()
        assert self.client.connecting[0].timeout == 5

    def test_an_answer_forgives_the_failures(self) -> None:
        self.first.failures = 3
        _exchange, connection = self.waiting()
        connection.answer()
        assert self.first.failures == 0


class TestRepeats(ExchangeTests):
    """When a request is sent again, and when never."""

    def test_a_stale_connection_is_replaced_at_the_same_endpoint(self) -> None:
        kept = self.client.keep(self.first)
        exchange = self.begin()
        kept.lose(retriable=True)
        connection = self.client.accept()
        assert connection.endpoint is self.first
        assert self.first.failures == 0
        connection.answer(b"hello")
        assert self.downstream.body == b"hello"
        self.assert_over(exchange)

    def test_only_once(self) -> None:
        kept = self.client.keep(self.first)
        self.upstream = attrs.evolve(self.upstream, retries=0)
        exchange = self.begin()
        kept.lose(retriable=True)
        self.client.accept().lose(retriable=True)
        assert self.downstream.refused is not None and self.downstream.refused[0] == 502
        assert self.first.failures == 1
        self.assert_over(exchange)

    def test_a_stale_connection_repeats_a_body_that_was_there_whole(self) -> None:
        kept = self.client.keep(self.first)
        kept_too = self.client.keep(self.first)
        # Both are idle; the one the first exchange takes is lost.
        self.upstream = attrs.evolve(self.upstream, retries=0)
        exchange = self.exchanges.begin(self.downstream, outgoing(b"PUT", length(5)), self.upstream)
        exchange.request_body_received(b"hello")
        exchange.request_ended([])
        exchange.start()
        assert (kept.body, kept.trailers) == (b"hello", [])
        kept.lose(retriable=True)
        connection = self.client.accept()
        assert (connection.body, connection.trailers) == (b"hello", [])
        assert kept_too.head == b""
        connection.answer()
        self.assert_over(exchange)

    def test_a_small_body_is_repeated_also_while_it_is_coming(self) -> None:
        kept = self.client.keep(self.first)
        exchange = self.begin(b"PUT", length(5))
        exchange.request_body_received(b"he")
        kept.lose(retriable=True)
        exchange.request_body_received(b"ll")
        connection = self.client.accept()
        exchange.request_body_received(b"o")
        exchange.request_ended([])
        assert (connection.body, connection.trailers) == (b"hello", [])
        connection.answer()
        self.assert_over(exchange)

    def test_a_large_body_is_not_repeated(self) -> None:
        kept = self.client.keep(self.first)
        exchange = self.begin(b"PUT", length(MAX_HELD + 1))
        for _ in range(MAX_HELD + 1):
            exchange.request_body_received(b"x")
        exchange.request_ended([])
        kept.lose(retriable=True)
        assert self.downstream.refused is not None
        assert self.client.connecting == []
        self.assert_over(exchange)

    def test_what_may_have_been_done_is_never_done_twice(self) -> None:
        for method in (b"POST", b"PATCH", b"MKCOL"):
            self.downstream = RecordingDownstream()
            kept = self.client.keep(self.first)
            exchange = self.begin(method)
            kept.lose(retriable=True)
            assert self.downstream.refused == (502, "the service closed the connection")
            self.assert_over(exchange)

    def test_an_answer_that_has_begun_is_never_repeated(self) -> None:
        exchange, connection = self.waiting()
        connection.inform(103)
        connection.lose(retriable=False)
        assert self.downstream.refused is not None
        self.assert_over(exchange)

    def test_a_fresh_connection_that_is_lost_goes_to_another_endpoint(self) -> None:
        exchange, connection = self.waiting()
        connection.lose(retriable=True)
        assert self.first.failures == 1
        other = self.client.accept()
        assert other.endpoint is self.second
        other.answer(b"hello")
        assert self.downstream.body == b"hello"
        self.assert_over(exchange)

    def test_also_to_one_with_a_kept_connection(self) -> None:
        exchange, connection = self.waiting()
        kept = self.client.keep(self.second)
        connection.lose(retriable=True)
        kept.answer(b"hello")
        assert self.downstream.body == b"hello"
        self.assert_over(exchange)

    def test_the_repeats_are_counted(self) -> None:
        self.endpoints = tuple(
            EndpointState(parse_instance_url(f"http://10.0.0.{number}:8000")) for number in (1, 2, 3)
        )
        self.upstream = Upstream("svc", self.endpoints, retries=1)
        self.begin()
        self.client.accept().lose(retriable=True)
        self.client.accept().lose(retriable=True)
        assert self.client.connecting == []
        assert self.downstream.refused is not None

    def test_a_last_endpoint_that_cannot_be_connected_to_is_the_answer(self) -> None:
        exchange, connection = self.waiting()
        connection.lose(retriable=True, detail="reset")
        self.client.refuse(UpstreamTimeout("connecting to the service took too long"))
        assert self.downstream.refused == (504, "connecting to the service took too long")
        self.assert_over(exchange)


class TestBodies(ExchangeTests):
    """The request's body before, while and after there is a connection."""

    def test_what_is_held_is_bounded(self) -> None:
        exchange = self.begin(b"POST", CHUNKED)
        exchange.request_body_received(b"x" * MAX_HELD)
        assert not self.downstream.request_paused
        exchange.request_body_received(b"x")
        assert self.downstream.request_paused
        connection = self.client.accept()
        assert not self.downstream.request_paused
        assert len(connection.body) == MAX_HELD + 1
        assert exchange.bytes_in == MAX_HELD + 1

    def test_it_is_held_on_while_the_next_endpoint_is_tried(self) -> None:
        exchange = self.begin(b"POST", CHUNKED)
        exchange.request_body_received(b"hello ")
        self.client.refuse()
        exchange.request_body_received(b"world")
        connection = self.client.accept()
        assert connection.body == b"hello world"
        exchange.request_ended([(b"X-Sum", b"1"), (b"Host", b"evil")])
        assert connection.trailers == [(b"X-Sum", b"1")]

    def test_trailers_that_came_before_the_connection(self) -> None:
        exchange = self.begin(b"POST", CHUNKED)
        exchange.request_body_received(b"hi")
        exchange.request_ended([(b"X-Sum", b"1"), (b"Host", b"evil")])
        connection = self.client.accept()
        assert connection.chunked
        assert (connection.body, connection.trailers) == (b"hi", [(b"X-Sum", b"1")])

    def test_the_end_is_told_once(self) -> None:
        # A second end would raise in the connection.
        exchange, connection = self.waiting()
        assert connection.trailers == []
        exchange.request_ended([])
        assert connection.trailers == []

    def test_a_full_upstream_pauses_the_client_until_it_drains(self) -> None:
        exchange, connection = self.waiting(b"POST", length(10))
        exchange.request_body_received(b"hello")
        connection.fill()
        assert self.downstream.request_paused
        connection.drain()
        assert not self.downstream.request_paused
        exchange.request_body_received(b"world")
        exchange.request_ended([])
        connection.fill()
        assert not self.downstream.request_paused

    def test_nothing_is_sent_on_after_the_end(self) -> None:
        exchange, connection = self.waiting(b"POST", length(10))
        connection.answer(b"enough", 413)
        exchange.request_body_received(b"hello")
        exchange.request_ended([])
        assert connection.body == b""
        assert exchange.bytes_in == 0
        self.assert_over(exchange)

    def test_expect_is_asked_for_after_a_second(self) -> None:
        exchange, connection = self.waiting(b"POST", length(5), EXPECT)
        assert connection.field(b"Expect") == [b"100-continue"]
        self.clock.advance(CONTINUE_AFTER)
        assert [head.status for head in self.downstream.interims] == [100]
        exchange.request_body_received(b"hello")
        exchange.request_ended([])
        connection.answer()
        self.assert_over(exchange)

    def test_nothing_is_asked_for_once_the_answer_has_begun(self) -> None:
        _exchange, connection = self.waiting(b"POST", length(5), EXPECT)
        connection.respond(413, length(5))
        self.clock.advance(CONTINUE_AFTER)
        assert self.downstream.interims == []

    def test_expect_is_asked_for_once(self) -> None:
        exchange, connection = self.waiting(b"POST", length(5), EXPECT)
        connection.inform(103)
        connection.inform(100, reason=b"Continue")
        self.clock.advance(CONTINUE_AFTER)
        assert [head.status for head in self.downstream.interims] == [103, 100]
        connection.answer(b"", 417)
        self.assert_over(exchange)


class TestTimeouts(ExchangeTests):
    """Nothing may take for ever, and nobody is blamed for somebody else."""

    def test_connecting_is_not_ours_to_time(self) -> None:
        exchange = self.begin()
        self.seconds(100)
        assert exchange.state is State.CONNECTING

    def test_no_answer(self) -> None:
        exchange, connection = self.waiting()
        self.seconds(10)
        assert self.downstream.refused is None
        self.seconds(1)
        assert self.downstream.refused == (504, "the service took too long to answer")
        assert connection.aborted
        self.assert_over(exchange)

    def test_an_interim_answer_is_progress(self) -> None:
        _exchange, connection = self.waiting()
        self.seconds(9)
        connection.inform(102)
        self.seconds(10)
        assert self.downstream.refused is None
        self.seconds(2)
        assert self.downstream.refused is not None

    def test_no_body(self) -> None:
        exchange, connection = self.waiting()
        connection.respond(200, length(5))
        self.seconds(20)
        assert not self.downstream.aborted
        self.seconds(1)
        assert self.downstream.aborted and connection.aborted
        assert "the service stopped sending" in exchange.reason
        self.assert_over(exchange)

    def test_a_client_that_does_not_read(self) -> None:
        exchange, connection = self.waiting()
        connection.respond(200, length(5))
        exchange.client_full()
        assert connection.paused
        self.seconds(21)
        assert self.downstream.aborted
        assert "the client stopped reading" in exchange.reason
        self.assert_over(exchange)

    def test_a_client_that_reads_slowly_is_no_failure(self) -> None:
        exchange, connection = self.waiting()
        connection.respond(200, length(5))
        for _ in range(5):
            exchange.client_full()
            self.seconds(15)
            exchange.client_drained()
            assert not connection.paused
        connection.send_body(b"hello")
        connection.finish()
        self.assert_over(exchange)

    def test_a_client_that_stops_sending(self) -> None:
        exchange, connection = self.waiting(b"POST", length(10))
        exchange.request_body_received(b"hello")
        self.seconds(21)
        assert self.downstream.refused == (408, "the request's body took too long to arrive")
        assert connection.aborted
        self.assert_over(exchange)

    def test_a_service_that_stops_taking_the_body(self) -> None:
        exchange, connection = self.waiting(b"POST", length(10))
        exchange.request_body_received(b"hello")
        connection.fill()
        self.seconds(21)
        assert self.downstream.refused is not None
        assert self.downstream.refused[0] == 504

    def test_a_service_that_takes_the_body_slowly_is_no_failure(self) -> None:
        exchange, connection = self.waiting(b"POST", length(5))
        for byte in b"hello":
            exchange.request_body_received(bytes((byte,)))
            connection.fill()
            self.seconds(15)
            connection.drain()
        exchange.request_ended([])
        connection.answer()
        self.assert_over(exchange)

    def test_one_look_a_second_for_all_of_them(self) -> None:
        for _ in range(3):
            self.downstream = RecordingDownstream()
            self.begin()
        assert len(self.clock.getDelayedCalls()) == 1


class TestEnds(ExchangeTests):
    """Every way an exchange ends, and that it ends once."""

    def test_trailers_of_the_answer(self) -> None:
        exchange, connection = self.waiting()
        connection.respond(200, CHUNKED)
        connection.send_body(b"hi")
        connection.finish((b"X-Sum", b"1"), (b"Transfer-Encoding", b"chunked"))
        assert self.downstream.trailers == [(b"X-Sum", b"1")]
        self.assert_over(exchange)

    def test_an_answer_cut_short_is_not_ended(self) -> None:
        exchange, connection = self.waiting()
        connection.respond(200, length(5))
        connection.send_body(b"he")
        connection.lose(detail="reset")
        assert self.downstream.aborted
        assert "reset" in exchange.reason
        self.assert_over(exchange)

    def test_a_client_that_goes_away(self) -> None:
        exchange = self.begin()
        attempt = self.client.connecting[0]
        exchange.client_gone()
        assert attempt.cancelled
        assert exchange.status == 499
        self.assert_over(exchange)
        exchange.client_gone()
        assert len(self.exchanges.over) == 1

    def test_a_client_that_goes_away_while_an_expected_body_is_awaited(self) -> None:
        exchange, connection = self.waiting(b"POST", length(5), EXPECT)
        exchange.client_gone()
        assert connection.aborted
        self.clock.advance(CONTINUE_AFTER)
        assert self.downstream.interims == []
        self.assert_over(exchange)

    def test_a_client_that_goes_away_within_the_answer_keeps_its_status(self) -> None:
        exchange, connection = self.waiting()
        connection.respond(206, length(5))
        exchange.client_gone()
        assert exchange.status == 206
        assert not self.downstream.over
        self.assert_over(exchange)

    def test_a_client_full_before_there_is_a_connection(self) -> None:
        exchange = self.begin()
        exchange.client_full()
        exchange.client_drained()
        self.client.accept().answer(b"x")
        self.assert_over(exchange)

    def test_a_bug_costs_this_exchange_only(self) -> None:
        exchange, connection = self.waiting()
        exchange.broke(Failure(ValueError("a bug")))
        assert self.downstream.refused == (500, "internal error")
        assert connection.aborted
        exchange.broke(Failure(ValueError("a bug")))
        self.assert_over(exchange)
        assert len(self.flushLoggedErrors(ValueError)) == 2

    def test_a_bug_within_the_answer(self) -> None:
        exchange, connection = self.waiting()
        connection.respond(200, length(5))
        exchange.broke(Failure(ValueError("a bug")))
        assert self.downstream.aborted
        self.assert_over(exchange)
        self.flushLoggedErrors(ValueError)

    def test_the_steps_that_there_are(self) -> None:
        for before, after in itertools.product(State, State):
            exchange = Exchange(self.exchanges, self.downstream, outgoing(), self.upstream)
            exchange.state = before
            if after in TRANSITIONS[before]:
                exchange._go(after)
                assert exchange.state is after
            else:
                with pytest.raises(RuntimeError, match=f"cannot become {after.value}"):
                    exchange._go(after)
                assert exchange.state is before

    def test_a_second_head_is_out_of_order(self) -> None:
        exchange, connection = self.waiting()
        connection.respond(200, length(5))
        with pytest.raises(RuntimeError, match="cannot become relaying"):
            exchange.head_received(OK)

    def test_its_repr_tells(self) -> None:
        exchange = self.begin()
        assert repr(exchange) == "<Exchange GET b'/svc/x' to svc connecting>"


class TestRoomAndLimits(ExchangeTests):
    """Endpoints with all the connections they may have, and bodies over the limit."""

    def test_one_without_room_sends_it_on_to_another(self) -> None:
        exchange = self.begin(b"POST", length(2))
        [attempt] = self.client.connecting
        self.client.connecting.clear()
        attempt.exchange.no_room(Unavailable("the service has too many requests at once"))
        connection = self.client.accept()
        assert attempt.endpoint is self.first and connection.endpoint is self.second
        assert self.first.failures == 0, "to be busy is no failure"
        exchange.request_body_received(b"hi")
        exchange.request_ended([])
        connection.answer(b"ok")
        self.assert_over(exchange)

    def test_where_none_has_room_it_is_503(self) -> None:
        exchange = self.begin()
        for _ in self.endpoints:
            self.client.connecting.pop().exchange.no_room(Unavailable("too many at once"))
        assert self.downstream.refused == (503, "too many at once")
        self.assert_over(exchange)

    def test_a_body_over_the_limit_is_413(self) -> None:
        self.exchanges.limits = Limits(body_limit=5)
        exchange, connection = self.waiting(b"POST", CHUNKED)
        exchange.request_body_received(b"hello")
        assert self.downstream.refused is None
        exchange.request_body_received(b"!")
        assert self.downstream.refused == (413, "the body is over 5 bytes")
        assert connection.aborted and connection.body == b"hello"
        exchange.request_body_received(b"!")
        exchange.request_ended([])
        self.assert_over(exchange)

    def test_a_body_over_the_limit_before_there_is_a_connection(self) -> None:
        self.exchanges.limits = Limits(body_limit=5)
        exchange = self.begin(b"POST", CHUNKED)
        [attempt] = self.client.connecting
        exchange.request_body_received(b"hello!")
        assert self.downstream.refused is not None and attempt.cancelled
        self.assert_over(exchange)

    def test_a_body_over_the_limit_breaks_an_answer_off(self) -> None:
        self.exchanges.limits = Limits(body_limit=5)
        exchange, connection = self.waiting(b"POST", CHUNKED)
        connection.respond(200, length(9))
        exchange.request_body_received(b"hello!")
        assert self.downstream.aborted and connection.aborted
        self.assert_over(exchange)

    def test_a_cookie_says_which_instance_it_was(self) -> None:
        self.upstream = attrs.evolve(self.upstream, balance=Balance.COOKIE)
        _exchange, connection = self.waiting()
        connection.answer(b"hello")
        assert self.downstream.head is not None
        [cookie] = [value for name, value in self.downstream.head.headers if name == b"Set-Cookie"]
        again = (b"Cookie", cookie.partition(b";")[0])
        for _ in range(3):
            self.downstream = RecordingDownstream()
            _exchange, other = self.waiting(b"GET", again)
            assert other.endpoint is connection.endpoint
            other.answer(b"hello")
            assert self.downstream.head is not None
            assert [name for name, _ in self.downstream.head.headers] == [b"Content-Length"]

    def test_a_bug_of_ours_costs_one_exchange(self) -> None:
        exchange = self.begin()
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            exchange.broke(Failure())
        assert self.downstream.refused == (500, "internal error")
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        self.assert_over(exchange)


class TestDrain(ExchangeTests):
    """The proxy stops."""

    def test_nothing_to_wait_for(self) -> None:
        assert self.successResultOf(self.exchanges.drain(20)) == 0
        assert self.clock.getDelayedCalls() == []

    def test_it_waits_for_what_is_under_way(self) -> None:
        exchange, connection = self.waiting()
        drained = self.exchanges.drain(20)
        self.seconds(5)
        self.assertNoResult(drained)
        connection.answer(b"last")
        assert self.successResultOf(drained) == 0
        assert self.downstream.body == b"last"
        self.assert_over(exchange)

    def test_and_not_for_ever(self) -> None:
        self.upstream = attrs.evolve(self.upstream, timeouts=Timeouts())
        exchange, connection = self.waiting()
        drained = self.exchanges.drain(20)
        self.seconds(20)
        assert self.successResultOf(drained) == 1
        assert self.downstream.refused == (503, "the proxy is stopping")
        assert connection.aborted
        self.assert_over(exchange)

    def test_a_cut_hits_every_state(self) -> None:
        downstreams = [RecordingDownstream() for _ in range(3)]
        self.downstream = downstreams[0]
        self.begin()
        self.downstream = downstreams[1]
        exchange = self.begin()
        self.client.connecting.reverse()
        connection = self.client.accept()
        assert connection.exchange is exchange
        self.downstream = downstreams[2]
        self.begin()
        self.client.connecting.reverse()
        relaying = self.client.accept()
        relaying.respond(200, length(5))
        assert self.exchanges.cut() == 3
        connecting, waiting, answered = downstreams
        assert connecting.refused == waiting.refused == (503, "the proxy is stopping")
        assert answered.aborted and relaying.aborted
        assert len(self.exchanges) == 0
        exchange.cut()
        assert self.clock.getDelayedCalls() == []


# Whatever happens in whatever order, an exchange ends once and leaves nothing behind.
STEPS = st.lists(
    st.sampled_from(
        (
            "accept",
            "refuse",
            "keep",
            "interim",
            "respond",
            "body",
            "finish",
            "lose",
            "lose-silently",
            "fill",
            "drain",
            "client-body",
            "client-end",
            "client-full",
            "client-drained",
            "gone",
            "cut",
            "wait",
        )
    ),
    max_size=25,
)


class _Script:
    """Plays steps that make sense at the moment they come up, and skips the others."""

    def __init__(self, method: bytes, fields: Headers) -> None:
        self.clock = Clock()
        self.client = ScriptedUpstream()
        self.downstream = RecordingDownstream()
        exchanges = Noting(self.clock, self.client, random=lambda: 0.0)
        self.exchanges = exchanges
        self.endpoints = [EndpointState(parse_instance_url(f"http://a{number}")) for number in range(3)]
        upstream = Upstream("svc", tuple(self.endpoints), Timeouts(5, 10, 10))
        # A request without a body is complete with its head.
        self.client_done = not fields
        self.exchange = exchanges.begin(self.downstream, outgoing(method, *fields), upstream)
        self.exchange.start()

    def play(self, step: str) -> None:
        exchange = self.exchange
        if step in ("accept", "refuse"):
            if self.client.connecting:
                getattr(self.client, step)()
        elif step == "keep":
            self.client.keep(self.endpoints[len(self.client.connections) % 3])
        elif step in ("client-body", "client-end"):
            if not self.client_done:
                self.client_done = step == "client-end"
                if self.client_done:
                    exchange.request_ended([])
                else:
                    exchange.request_body_received(b"x" * 40_000)
        elif step == "wait":
            self.clock.pump([1.0] * 6)
        elif step == "gone":
            exchange.client_gone()
        elif step == "cut":
            self.exchanges.cut()
        elif exchange.state is State.RELAYING and step in ("client-full", "client-drained"):
            exchange.client_full() if step == "client-full" else exchange.client_drained()
        elif exchange.state in (State.WAITING, State.RELAYING):
            self._service(step, exchange.state is State.RELAYING)

    def _service(self, step: str, relaying: bool) -> None:
        connection = self.client.connections[-1]
        if step == "interim" and not relaying:
            connection.inform(103)
        elif step == "respond" and not relaying:
            connection.respond(200, CHUNKED)
        elif step == "body" and relaying:
            connection.send_body(b"hello")
        elif step == "finish" and relaying:
            connection.finish()
        elif step == "lose":
            connection.lose()
        elif step == "lose-silently" and not relaying:
            connection.lose(retriable=True)
        elif step in ("fill", "drain"):
            getattr(connection, step)()


@example(b"PUT", (CHUNKED, EXPECT), ["accept", "respond", "wait"])
@example(b"GET", (), ["accept", "keep", "lose-silently", "respond", "finish"])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from((b"GET", b"PUT", b"POST")),
    st.sampled_from(((), (CHUNKED,), (CHUNKED, EXPECT))),
    STEPS,
)
def test_every_exchange_ends_once_and_leaves_nothing_behind(
    method: bytes, fields: tuple[tuple[bytes, bytes], ...], steps: list[str]
) -> None:
    script = _Script(method, [*fields])
    for step in steps:
        script.play(step)
    script.play("gone")
    assert script.exchanges.over == [script.exchange]
    assert script.exchange.state is State.DONE
    assert [endpoint.in_flight for endpoint in script.endpoints] == [0, 0, 0]
    assert script.client.connecting == []
    script.clock.advance(CONTINUE_AFTER)
    assert script.clock.getDelayedCalls() == []
    if method == b"POST":
        assert len(script.client.connections) <= 1
