"""What a look at an endpoint finds, how often it looks, and at how many at once."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.addresses import Address, parse_instance_url, parse_target
from onebackend_proxy.balancing import Ejection, EndpointState, Health
from onebackend_proxy.upstream import HealthChecks
from onebackend_proxy.upstream.health import INTERVAL, MAX_AT_ONCE, SLOW, TIMEOUT

from .support import Network


class TestHealthChecks(SynchronousTestCase):
    """Over a network in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.endpoint = EndpointState(parse_instance_url("https://a.example/path"))
        self.endpoints = [self.endpoint]
        self.checks = HealthChecks(self.clock, lambda: self.endpoints, self.network.endpoint_for)

    def test_it_connects_in_clear_and_hangs_up(self) -> None:
        self.checks.look(self.endpoint)
        [attempt] = self.network.attempts
        assert attempt.address == Address("http", "a.example", 443)
        assert attempt.timeout == TIMEOUT
        wire = self.network.accept()
        assert wire.disconnecting
        assert wire.take() == b""
        self.clock.advance(0)
        assert self.clock.getDelayedCalls() == []

    def test_reached(self) -> None:
        self.clock.advance(1000)
        self.checks.look(self.endpoint)
        self.clock.advance(SLOW)
        self.network.accept()
        assert self.endpoint.health is Health.HEALTHY
        assert self.endpoint.last_heartbeat == 1000 + SLOW

    def test_reached_late(self) -> None:
        self.checks.look(self.endpoint)
        self.clock.advance(SLOW + 0.1)
        self.network.accept()
        assert self.endpoint.health is Health.DEGRADED
        assert self.endpoint.last_heartbeat is not None

    def test_refused(self) -> None:
        self.checks.look(self.endpoint)
        self.network.fail()
        assert self.endpoint.health is Health.UNREACHABLE
        assert self.endpoint.failures == 0
        assert self.endpoint.last_heartbeat is None

    def test_a_name_without_an_address(self) -> None:
        self.checks.look(self.endpoint)
        self.network.fail(DNSLookupError())
        assert self.endpoint.health is Health.ERROR

    def test_silent(self) -> None:
        self.checks.look(self.endpoint)
        [attempt] = self.network.attempts
        self.clock.advance(TIMEOUT)
        assert attempt.cancelled
        assert self.endpoint.health is Health.UNREACHABLE
        assert self.clock.getDelayedCalls() == []

    def test_those_at_one_host_and_port_are_looked_at_once(self) -> None:
        # Else one service with a thousand paths at one port would hold up the looks at all others.
        beside = EndpointState(parse_instance_url("http://a.example:443/other"))
        self.checks.look(self.endpoint)
        self.checks.look(beside)
        assert len(self.network.attempts) == 1
        self.network.fail()
        assert self.endpoint.health is beside.health is Health.UNREACHABLE
        self.checks.look(beside)
        self.network.accept()
        assert [self.endpoint.health.value, beside.health.value] == ["Unreachable", "Healthy"]

    def test_it_recovers(self) -> None:
        self.checks.look(self.endpoint)
        self.network.fail()
        self.checks.look(self.endpoint)
        self.network.accept()
        assert self.endpoint.health is Health.HEALTHY

    def test_one_that_refused_requests_is_in_use_again_once_it_listens(self) -> None:
        endpoint = EndpointState(parse_instance_url("http://a.example"))
        endpoint.refused(0.0, Ejection())
        self.checks.look(endpoint)
        self.network.fail()
        assert endpoint.ejected_until == 1.0
        self.checks.look(endpoint)
        with capturedLogs() as logs:
            self.network.accept()
        assert (endpoint.health, endpoint.ejected_until, endpoint.failures) == (
            Health.HEALTHY,
            0.0,
            0,
        )
        assert "is Healthy, was Unreachable" in str(formatEvent(logs[0]))

    def test_with_https_only_a_request_can_tell(self) -> None:
        # It accepts connections all the time, and its certificate is not right.
        for failures, seconds in (1, 1.0), (2, 2.0), (3, 4.0):
            self.endpoint.refused(self.clock.seconds(), Ejection())
            out = self.endpoint.ejected_until
            with capturedLogs() as logs:
                self.checks.look(self.endpoint)
                self.network.accept()
            assert self.endpoint.health is Health.UNREACHABLE
            assert (self.endpoint.failures, self.endpoint.ejected_until) == (failures, out)
            assert self.endpoint.last_heartbeat == self.clock.seconds()
            assert logs == []
            # What happened is not forgotten: each time it is out for longer.
            assert out == self.clock.seconds() + seconds
            self.clock.advance(seconds)
        self.endpoint.worked()
        assert (self.endpoint.health.value, self.endpoint.ejected_until) == ("Healthy", 0.0)

    def test_with_https_too_what_only_a_check_found_a_check_finds_mended(self) -> None:
        self.checks.look(self.endpoint)
        self.network.fail()
        assert self.endpoint.health.value == "Unreachable"
        self.checks.look(self.endpoint)
        self.network.accept()
        assert self.endpoint.health.value == "Healthy"

    def test_where_none_is_taken_out_of_use_a_check_is_the_way_back_for_https_too(self) -> None:
        self.endpoint.refused(0.0, Ejection(after=0))
        self.checks.look(self.endpoint)
        self.network.accept()
        assert (self.endpoint.health, self.endpoint.failures) == (Health.HEALTHY, 1)

    def test_one_that_failed_otherwise_is_not(self) -> None:
        self.endpoint.health = Health.HEALTHY
        for _ in range(3):
            self.endpoint.failed(0.0, Ejection())
        self.checks.look(self.endpoint)
        self.network.accept()
        assert (self.endpoint.ejected_until, self.endpoint.failures) == (1.0, 3)

    def test_sockets_are_looked_at_each(self) -> None:
        sockets = [EndpointState(parse_target(f"unix:/run/{name}.sock")) for name in "ab"]
        for endpoint in sockets:
            self.checks.look(endpoint)
        assert [attempt.address.socket for attempt in self.network.attempts] == ["/run/a.sock", "/run/b.sock"]
        self.network.accept()
        assert [endpoint.health.value for endpoint in sockets] == ["Healthy", "Unknown"]

    def test_all_are_looked_at_now_and_every_15_seconds(self) -> None:
        self.checks.start()
        self.network.accept()
        self.clock.advance(INTERVAL - 0.1)
        assert self.network.attempts == []
        other = EndpointState(parse_instance_url("http://b"))
        self.endpoints.append(other)
        self.clock.advance(0.1)
        assert [attempt.address.host for attempt in self.network.attempts] == ["a.example", "b"]
        self.network.accept()
        self.network.accept()
        assert other.health is Health.HEALTHY

    def test_one_look_at_a_time(self) -> None:
        self.checks.look(self.endpoint)
        self.checks.look(self.endpoint)
        assert len(self.network.attempts) == 1
        self.network.accept()
        self.checks.look(self.endpoint)
        assert len(self.network.attempts) == 1

    def test_only_so_many_at_once(self) -> None:
        self.endpoints = [
            EndpointState(parse_instance_url(f"http://a{number}")) for number in range(MAX_AT_ONCE + 2)
        ]
        self.checks.start()
        assert len(self.network.attempts) == MAX_AT_ONCE
        self.network.accept()
        assert len(self.network.attempts) == MAX_AT_ONCE
        for _ in range(MAX_AT_ONCE + 1):
            self.network.accept()
        assert {endpoint.health for endpoint in self.endpoints} == {Health.HEALTHY}

    def test_waiting_for_its_turn_is_no_slowness(self) -> None:
        self.endpoints = [
            EndpointState(parse_instance_url(f"http://a{number}")) for number in range(MAX_AT_ONCE + 1)
        ]
        self.checks.start()
        self.clock.advance(TIMEOUT)
        assert self.endpoints[0].health is Health.UNREACHABLE
        self.network.accept()
        assert self.endpoints[-1].health is Health.HEALTHY

    def test_stop(self) -> None:
        self.endpoints = [
            EndpointState(parse_instance_url(f"http://a{number}")) for number in range(MAX_AT_ONCE + 1)
        ]
        self.checks.start()
        self.checks.stop()
        self.clock.advance(0)
        assert self.network.attempts == []
        assert self.clock.getDelayedCalls() == []
        assert {endpoint.health for endpoint in self.endpoints} == {Health.UNKNOWN}
        self.checks.stop()

    def test_a_bug_in_one_look_ends_no_other(self) -> None:
        def endpoint_for(reactor: Any, address: Address, timeout: float) -> Any:
            if address.host == "a.example":
                raise ValueError("a bug")
            return self.network.endpoint_for(reactor, address, timeout)

        other = EndpointState(parse_instance_url("http://b"))
        checks = HealthChecks(self.clock, lambda: [self.endpoint, other], endpoint_for)
        checks.start()
        self.network.accept()
        assert other.health is Health.HEALTHY
        assert len(self.flushLoggedErrors(ValueError)) == 1
        checks.stop()
