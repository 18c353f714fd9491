"""The upstream client: connecting, and what it says when that fails; rounds of the pool; closing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import fail
from twisted.internet.error import ConnectionLost, ConnectionRefusedError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeoutError

from onebackend_proxy.addresses import Address, parse_instance_url
from onebackend_proxy.balancing import EndpointState, Health, Upstream
from onebackend_proxy.exchange import Exchange, State
from onebackend_proxy.limits import DEFAULTS, Limits
from onebackend_proxy.testing import RecordingDownstream
from onebackend_proxy.upstream import Http1Client
from onebackend_proxy.upstream.names import LookupFailed, LookupGivenUp

from ..properties import PROPERTY
from ..wire import Wire
from .test_connection import OK, ConnectionTests

IDLE_ROUND = DEFAULTS.upstream_keepalive_timeout
MAX_IDLE = DEFAULTS.upstream_keepalive


class TestConnecting(ConnectionTests):
    """From an endpoint to a connection."""

    def test_a_connection(self) -> None:
        self.begin()
        [attempt] = self.network.attempts
        assert (attempt.address, attempt.timeout) == (self.endpoint.address, 5.0)
        self.network.accept().receive(OK)
        assert self.downstream.body == b"hello"

    def test_why_there_is_none(self) -> None:
        for error, status, message in (
            (ConnectionRefusedError(), 502, "no instance of the service could be reached"),
            (DNSLookupError(), 502, "no instance of the service could be reached"),
            (LookupFailed("later"), 502, "no instance of the service could be reached"),
            (LookupGivenUp(), 504, "connecting to the service took too long"),
            (ConnectTimeoutError(), 504, "connecting to the service took too long"),
        ):
            self.begin()
            self.network.fail(error)
            assert self.downstream.refused == (status, message)
            assert repr(self.client.pool) == "<Pool round 0: idle {}, places {}, waiting {}>"
            assert self.endpoint.health is Health.UNREACHABLE

    def test_it_may_take_so_long(self) -> None:
        self.begin()
        [attempt] = self.network.attempts
        self.clock.pump([1.0] * 4)
        assert not attempt.cancelled
        self.clock.advance(1.0)
        assert attempt.cancelled
        self.assert_refused(504)

    def test_nobody_wants_it_any_more(self) -> None:
        exchange = self.begin()
        [attempt] = self.network.attempts
        exchange.client_gone()
        assert attempt.cancelled
        self.clock.pump([1.0, 1.0])
        assert self.clock.getDelayedCalls() == []

    def test_a_connection_that_comes_although_it_was_cancelled(self) -> None:
        exchange = self.begin()
        [attempt] = self.network.attempts
        wires: list[Wire] = []

        def connects_all_the_same(_: object) -> None:
            self.network.attempts.append(attempt)
            wires.append(self.network.accept())

        attempt.deferred._canceller = connects_all_the_same
        exchange.client_gone()
        assert wires[0].aborted
        self.clock.pump([1.0, 1.0])
        assert self.clock.getDelayedCalls() == []

    def test_a_failure_at_once_leaves_the_next_attempt_to_be_cancelled(self) -> None:
        self.upstream = Upstream("svc", (self.endpoint, EndpointState(self.endpoint.address)))
        tried: list[Address] = []

        def endpoint_for(reactor: Any, address: Address, timeout: float) -> Any:
            tried.append(address)
            return self.network.endpoint_for(reactor, address, timeout) if len(tried) > 1 else FailsAtOnce()

        self.exchanges.client = Http1Client(self.clock, endpoint_for)
        exchange = self.begin()
        assert exchange.state is State.CONNECTING
        self.clock.advance(0)
        [attempt] = self.network.attempts
        exchange.client_gone()
        assert attempt.cancelled

    def test_no_endpoint_for_the_address(self) -> None:
        def endpoint_for(reactor: Any, address: Address, timeout: float) -> Any:
            raise UnicodeError("no certificate can name it")

        self.exchanges.client = Http1Client(self.clock, endpoint_for)
        self.begin()
        self.clock.advance(0)
        self.assert_refused()

    def test_cancelled_before_a_failure_at_once_is_told(self) -> None:
        self.exchanges.client = Http1Client(self.clock, lambda *_: FailsAtOnce())  # type: ignore[arg-type]
        exchange = self.begin()
        exchange.client_gone()
        self.clock.pump([0.0, 1.0])
        assert self.clock.getDelayedCalls() == []
        assert self.downstream.refused is None

    def test_a_bug_while_sending_costs_this_request_only(self) -> None:
        self.begin().request.lines = None  # type: ignore[assignment]
        self.network.accept()
        assert self.downstream.refused == (500, "internal error")
        assert len(self.flushLoggedErrors(TypeError)) == 1
        assert self.endpoint.in_flight == 0


class FailsAtOnce:
    """An endpoint that does not even try."""

    def connect(self, factory: Any) -> Any:
        return fail(ConnectionRefusedError())


class TestRounds(ConnectionTests):
    """Idle connections are closed after one to two rounds."""

    def test_an_idle_connection_is_closed(self) -> None:
        wire = self.sent()
        wire.receive(OK)
        self.clock.advance(IDLE_ROUND)
        assert not wire.closed
        self.clock.advance(IDLE_ROUND)
        assert wire.disconnecting and not wire.aborted
        self.clock.advance(1)
        assert self.kept == 0
        assert self.clock.getDelayedCalls() == []

    def test_one_that_is_used_is_not(self) -> None:
        wire = self.sent()
        wire.receive(OK)
        for _ in range(4):
            self.clock.advance(IDLE_ROUND)
            self.begin()
            wire.receive(OK)
        assert not wire.closed
        assert self.kept == 1

    def test_the_rounds_begin_again(self) -> None:
        for _ in range(2):
            wire = self.sent()
            wire.receive(OK)
            self.clock.pump([IDLE_ROUND, IDLE_ROUND, 1])
            assert wire.disconnecting

    def test_what_does_not_fit_is_closed(self) -> None:
        wires = [self.sent() for _ in range(MAX_IDLE + 1)]
        for wire in wires:
            wire.receive(OK)
        assert [wire.disconnecting for wire in wires] == [False] * MAX_IDLE + [True]

    def test_close(self) -> None:
        idle, busy = self.sent(), self.sent()
        idle.receive(OK)
        self.client.close()
        assert idle.disconnecting and not busy.closed
        busy.receive(OK)
        assert self.downstream.body == b"hello"
        assert busy.disconnecting
        assert self.kept == 0

    def test_close_with_nothing_kept(self) -> None:
        self.client.close()
        assert self.clock.getDelayedCalls() == []


class TestPlaces(ConnectionTests):
    """A limited number of connections to one endpoint, and a queue of those that wait for one."""

    def setUp(self) -> None:
        super().setUp()
        limits = Limits(upstream_connections=2, upstream_queue=2, upstream_wait=5.0)
        self.client = Http1Client(self.clock, self.network.endpoint_for, limits)
        self.exchanges.client = self.client

    @property
    def places(self) -> int:
        return self.client.pool._places.get(self.endpoint, 0)

    def wait_for_room(self) -> list[RecordingDownstream]:
        """Two that wait, behind two that have all there is; what they wait with."""
        waiting = []
        for _ in range(2):
            self.begin()
            waiting.append(self.downstream)
        assert self.network.attempts == []
        return waiting

    def test_what_is_released_goes_to_who_has_waited_longest(self) -> None:
        wires = [self.sent(), self.sent()]
        first, second = self.wait_for_room()
        for wire in wires:
            wire.take()
        wires[1].receive(OK)
        assert wires[1].take().startswith(b"GET ")
        wires[0].receive(OK)
        wires[1].receive(OK)
        assert (first.body, second.body) == (b"hello", b"")
        wires[0].receive(OK)
        assert second.body == b"hello"
        assert (self.kept, self.places, self.client.pool.waiting) == (2, 2, {})
        self.clock.advance(5.0)
        assert first.refused is second.refused is None

    def test_where_one_closes_the_first_that_waits_opens_another(self) -> None:
        wires = [self.sent(), self.sent()]
        first, _second = self.wait_for_room()
        wires[0].receive(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
        self.clock.advance(0)
        assert len(self.network.attempts) == 1
        wire = self.network.accept()
        # It waits for its answer now, no longer for a place.
        self.clock.advance(5.0)
        wire.receive(OK)
        assert first.body == b"hello"

    def test_a_queue_that_is_full(self) -> None:
        for _ in range(2):
            self.sent()
        self.wait_for_room()
        in_use = self.endpoint.in_flight
        self.begin()
        assert self.downstream.refused is None
        self.clock.advance(0)
        assert self.downstream.refused == (503, "the service has too many requests at once")
        assert (self.endpoint.failures, self.endpoint.in_flight) == (0, in_use)

    def test_who_waits_too_long(self) -> None:
        for _ in range(2):
            self.sent()
        first, second = self.wait_for_room()
        self.clock.advance(4.9)
        assert first.refused is None
        self.clock.advance(0.1)
        assert first.refused == second.refused == (503, "the service has too many requests at once")
        assert self.client.pool.waiting == {}
        assert self.endpoint.failures == 0

    def test_another_endpoint_may_have_room(self) -> None:
        for _ in range(2):
            self.sent()
        self.wait_for_room()
        other = EndpointState(parse_instance_url("http://10.0.0.2:8000"))
        self.upstream = Upstream("svc", (self.endpoint, other))
        self.exchanges.random = lambda: 0.0
        other.in_flight = 5
        self.begin()
        self.clock.advance(0)
        [attempt] = self.network.attempts
        assert attempt.address is other.address

    def test_who_waits_may_leave(self) -> None:
        wires = [self.sent(), self.sent()]
        gone, waits = self.begin(), self.begin()
        full = self.begin()
        full.client_gone()
        gone.client_gone()
        wires[0].take()
        wires[0].receive(OK)
        assert wires[0].take().startswith(b"GET ")
        assert waits.state is State.WAITING
        waits.client_gone()
        wires[1].receive(OK)
        self.clock.advance(0)
        assert (self.kept, self.places, self.client.pool.waiting) == (1, 1, {})

    def test_a_failure_to_connect_frees_its_place(self) -> None:
        self.begin()
        self.begin()
        first, second = self.begin(), self.begin()
        assert len(self.network.attempts) == 2
        for _ in range(4):
            self.network.fail()
        assert first.status == second.status == 502
        assert (self.places, self.client.pool.waiting) == (0, {})

    def test_a_cancelled_attempt_frees_its_place(self) -> None:
        attempts = [self.begin(), self.begin()]
        waits = self.begin()
        for exchange in attempts:
            exchange.client_gone()
        self.network.accept().receive(OK)
        assert waits.state is State.DONE and waits.status == 200
        assert self.places == 1

    def test_an_attempt_has_one_place_whatever_it_makes(self) -> None:
        # A name with two addresses may be connected to at both in the same turn.
        self.sent()
        self.begin()
        [attempt] = self.network.attempts
        beside = Wire(self.clock)
        beside.attach(attempt.factory.buildProtocol(beside.getPeer()))
        wire = self.network.accept()
        beside.peer_closes()
        wire.peer_closes()
        assert self.places == 1

    def test_every_end_of_a_connection_frees_its_place(self) -> None:

        def expire(wire: Wire, _exchange: Exchange) -> None:
            wire.receive(OK)
            self.clock.pump([IDLE_ROUND, IDLE_ROUND, 1])

        ends: dict[str, Callable[[Any, Any], object]] = {
            "lost in use": lambda wire, exchange: wire.peer_closes(),
            "reset in use": lambda wire, exchange: wire.peer_closes(ConnectionLost()),
            "broke HTTP": lambda wire, exchange: wire.receive(b"nonsense\r\n\r\n"),
            "aborted": lambda wire, exchange: exchange.client_gone(),
            "cut": lambda wire, exchange: exchange.cut(),
            "lost idle": lambda wire, exchange: (wire.receive(OK), wire.peer_closes()),
            "spoke idle": lambda wire, exchange: (wire.receive(OK), wire.receive(b"x")),
            "expired": expire,
        }
        for name, end in ends.items():
            exchange = self.begin(b"POST")
            wire = self.network.accept()
            assert self.places == 1, name
            end(wire, exchange)
            self.clock.advance(0)
            assert (self.places, self.kept) == (0, 0), name


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "accept", "fail", "answer", "lose", "gone", "wait"]), st.integers(0, 9)
    ),
    max_size=40,
)


@PROPERTY
@given(STEPS)
def test_every_place_is_free_in_the_end(steps: list[tuple[str, int]]) -> None:
    test = TestPlaces("setUp")
    test.setUp()
    exchanges, wires = [], []
    for step, number in steps:
        if step == "begin":
            exchanges.append(test.begin())
        elif step == "accept" and test.network.attempts:
            wires.append(test.network.accept())
        elif step == "fail" and test.network.attempts:
            test.network.fail()
        elif step == "answer" and wires:
            wires[number % len(wires)].receive(OK)
        elif step == "lose" and wires:
            wires.pop(number % len(wires)).peer_closes()
        elif step == "gone" and exchanges:
            exchanges.pop(number % len(exchanges)).client_gone()
        elif step == "wait":
            test.clock.advance(number)
        assert test.places <= 2
        waiting = test.client.pool.waiting.get(test.endpoint, ())
        assert not waiting or test.places == 2
        assert len([exchange for exchange in exchanges if exchange.state is State.WAITING]) <= 2
    for exchange in exchanges:
        exchange.client_gone()
    test.client.close()
    test.clock.pump([0.0, 0.0])
    assert (test.places, test.client.pool.waiting) == (0, {})
    assert [exchange.state for exchange in exchanges] == [State.DONE] * len(exchanges)
    assert test.endpoint.in_flight == 0
