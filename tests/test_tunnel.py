"""Bytes both ways between two sides that a test plays: each may stop, end its half, or break."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.balancing import Timeouts
from onebackend_proxy.exchange import Exchange
from onebackend_proxy.testing import RecordingDownstream, ScriptedConnection
from onebackend_proxy.tunnel import Tunnel

from . import test_exchange
from .properties import PROPERTY

UPGRADE = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))


class TunnelTests(test_exchange.ExchangeTests):
    """An exchange whose service has switched protocols."""

    def setUp(self) -> None:
        super().setUp()
        self.upstream = attrs.evolve(self.upstream, timeouts=Timeouts(5, 10, 20, 100))

    def switched(self) -> tuple[Exchange, ScriptedConnection, Tunnel]:
        """An exchange that is a tunnel now."""
        self.downstream = RecordingDownstream()
        exchange, service = self.waiting(b"GET", *UPGRADE)
        service.switch_protocols()
        assert self.downstream.tunnel is not None
        return exchange, service, self.downstream.tunnel


class TestTunnel(TunnelTests):
    """What each side may do."""

    def test_the_switch_is_told_to_both_sides(self) -> None:
        exchange, service, tunnel = self.switched()
        assert service.field(b"Upgrade") == [b"websocket"]
        assert service.field(b"Connection") == [b"Upgrade"]
        assert self.downstream.head is not None
        assert (self.downstream.head.status, self.downstream.head.upgrade) == (101, b"websocket")
        assert service.exchange is tunnel and tunnel.exchange is exchange
        assert repr(tunnel).startswith("<Tunnel of <Exchange GET")
        assert (self.first.in_flight, len(self.exchanges)) == (1, 1)
        assert self.exchanges.over == []

    def test_bytes_go_both_ways(self) -> None:
        exchange, service, tunnel = self.switched()
        tunnel.request_body_received(b"ping")
        service.send_body(b"pong")
        tunnel.request_body_received(b"!")
        assert (service.body, self.downstream.body) == (b"ping!", b"pong")
        assert (exchange.bytes_in, exchange.bytes_out) == (5, 4)

    def test_the_client_ends_its_half_and_the_service_then_its_own(self) -> None:
        exchange, service, tunnel = self.switched()
        tunnel.request_ended([])
        assert service.trailers == []
        assert self.exchanges.over == []
        service.send_body(b"last words")
        service.finish()
        assert self.downstream.body == b"last words"
        assert self.downstream.trailers == []
        assert service.closed and not service.aborted
        self.assert_over(exchange)

    def test_the_service_ends_its_half_and_the_client_then_its_own(self) -> None:
        exchange, service, tunnel = self.switched()
        service.finish()
        assert self.downstream.half_closed and self.downstream.trailers is None
        assert not service.closed
        tunnel.request_body_received(b"last words")
        assert service.body == b"last words"
        tunnel.request_ended([])
        assert self.downstream.trailers == []
        assert service.closed and not service.aborted
        self.assert_over(exchange)

    def test_an_end_is_told_once(self) -> None:
        _exchange, service, tunnel = self.switched()
        tunnel.request_ended([])
        # A second one would raise in the connection.
        tunnel.request_ended([])
        service.finish()
        tunnel.request_ended([])
        assert self.downstream.trailers == []

    def test_a_service_that_takes_nothing_is_not_waited_for_at_the_end(self) -> None:
        exchange, service, tunnel = self.switched()
        service.fill()
        service.finish()
        tunnel.request_ended([])
        assert service.aborted and not service.closed
        self.assert_over(exchange)

    def test_the_client_goes(self) -> None:
        exchange, service, tunnel = self.switched()
        tunnel.client_gone()
        assert service.closed and not service.aborted
        assert not self.downstream.over, "there is nobody to tell"
        tunnel.client_gone()
        tunnel.request_body_received(b"late")
        tunnel.request_ended([])
        assert service.body == b""
        self.assert_over(exchange)

    def test_the_client_goes_while_the_service_takes_nothing(self) -> None:
        exchange, service, tunnel = self.switched()
        service.fill()
        tunnel.client_gone()
        assert service.aborted
        self.assert_over(exchange)

    def test_the_service_breaks(self) -> None:
        exchange, service, _tunnel = self.switched()
        service.lose(detail="reset")
        assert self.downstream.aborted
        assert service.aborted
        assert "reset" in exchange.reason
        assert self.first.failures == 0, "it answered"
        self.assert_over(exchange)

    def test_a_service_that_does_not_keep_up_holds_the_client(self) -> None:
        _exchange, service, tunnel = self.switched()
        tunnel.request_body_received(b"x")
        service.fill()
        assert self.downstream.request_paused
        service.drain()
        assert not self.downstream.request_paused

    def test_a_client_that_does_not_keep_up_holds_the_service(self) -> None:
        _exchange, service, tunnel = self.switched()
        tunnel.client_full()
        assert service.paused
        tunnel.client_drained()
        assert not service.paused

    def test_it_ends_when_nothing_moves(self) -> None:
        exchange, service, tunnel = self.switched()
        self.seconds(100)
        assert not self.downstream.over
        self.seconds(2)
        assert self.downstream.aborted and service.aborted
        assert "too long" in exchange.reason
        tunnel.request_body_received(b"late")
        self.assert_over(exchange)

    def test_bytes_either_way_are_a_sign_of_life_and_so_is_room_for_them(self) -> None:
        for sign in ("body_received", "request_body_received", "client_drained", "upstream_drained"):
            with self.subTest(sign):
                _exchange, service, tunnel = self.switched()
                for _ in range(4):
                    self.seconds(90)
                    getattr(tunnel, sign)(*((b"x",) if "body" in sign else ()))
                assert not self.downstream.over
                self.seconds(102)
                assert self.downstream.aborted and service.aborted

    def test_the_times_of_an_answer_do_not_count(self) -> None:
        _exchange, service, _tunnel = self.switched()
        self.seconds(50)
        assert not self.downstream.over and not service.aborted

    def test_a_cut(self) -> None:
        exchange, service, _tunnel = self.switched()
        assert self.exchanges.cut() == 1
        assert self.downstream.aborted and service.aborted
        self.assert_over(exchange)
        assert exchange.reason == "the proxy is stopping"

    def test_one_that_begins_while_the_proxy_stops_ends_at_once(self) -> None:
        self.exchanges.drain(20)
        exchange, service, _tunnel = self.switched()
        assert self.downstream.trailers == []
        assert service.closed
        self.assert_over(exchange)

    def test_a_drain_does_not_wait_for_it(self) -> None:
        exchange, service, _tunnel = self.switched()
        drained = self.exchanges.drain(20)
        assert self.successResultOf(drained) == 0
        # In order: what was sent before still arrives.
        assert service.closed and not service.aborted
        assert self.downstream.trailers == [] and not self.downstream.aborted
        assert exchange.reason == "the proxy is stopping"
        self.assert_over(exchange)

    def test_a_switch_declined_is_an_answer_as_any(self) -> None:
        exchange, service = self.waiting(b"GET", *UPGRADE)
        service.answer(b"no", 400)
        assert self.downstream.tunnel is None
        assert (exchange.status, self.downstream.body) == (400, b"no")
        self.assert_over(exchange)


STEPS = st.lists(
    st.sampled_from(
        (
            "client-bytes",
            "client-end",
            "client-full",
            "client-drained",
            "client-gone",
            "bytes",
            "end",
            "lose",
            "fill",
            "drain",
            "wait",
            "cut",
        )
    ),
    max_size=20,
)


class _Script(TunnelTests):
    """Plays steps as a socket would tell them: nothing after an end, or after the last word."""

    __test__ = False

    def runTest(self) -> None:
        """Not a test of its own."""

    def begin_tunnel(self) -> None:
        self.setUp()
        self.one, self.service, self.tunnel = self.switched()
        self.client_done = self.service_done = self.gone = False

    def play(self, step: str) -> None:
        service = self.service
        if step == "wait":
            self.seconds(60)
        elif step == "cut":
            self.exchanges.cut()
        elif step.startswith("client-"):
            if not self.gone and not self.downstream.over:
                self.play_client(step)
        elif not (service.closed or service.aborted):
            if step in ("fill", "drain"):
                getattr(service, step)()
            elif step == "lose":
                service.lose()
            elif not self.service_done:
                self.service_done = step == "end"
                service.finish() if self.service_done else service.send_body(b"y")

    def play_client(self, step: str) -> None:
        tunnel = self.tunnel
        if step in ("client-bytes", "client-end"):
            if not self.client_done:
                self.client_done = step == "client-end"
                tunnel.request_ended([]) if self.client_done else tunnel.request_body_received(b"x")
        elif step == "client-gone":
            self.gone = True
            tunnel.client_gone()
        else:
            tunnel.client_full() if step == "client-full" else tunnel.client_drained()


@PROPERTY
@given(STEPS)
def test_every_tunnel_ends_once_and_leaves_nothing_behind(steps: list[str]) -> None:
    script = _Script()
    script.begin_tunnel()
    for step in steps:
        script.play(step)
    script.play("client-gone")
    assert script.exchanges.over == [script.one]
    assert script.service.closed is not script.service.aborted
    assert script.first.in_flight == 0
    assert len(script.exchanges) == 0
    script.clock.advance(1.0)
    assert script.clock.getDelayedCalls() == []
