"""The upstream client: connecting, and what it says when that fails; rounds of the pool; closing."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import fail
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeoutError

from onebackend_proxy.addresses import Address
from onebackend_proxy.balancing import EndpointState, Health, Upstream
from onebackend_proxy.exchange import State
from onebackend_proxy.limits import DEFAULTS
from onebackend_proxy.upstream import Http1Client

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
        self.begin().request.method = None  # type: ignore[assignment]
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
