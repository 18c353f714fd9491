"""Handshakes that wait while a certificate is ordered: who waits, how long, and what comes of it."""

from __future__ import annotations

import datetime
import socket
import ssl
import struct
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.records import Certificate
from onebackend_proxy.tls import on_demand, transport
from onebackend_proxy.tls.client_hello import UNRECOGNIZED_NAME, BadHello, ClientHello
from onebackend_proxy.tls.endpoint import TlsEndpoint
from onebackend_proxy.tls.on_demand import MAX_WAITING, OnDemand
from onebackend_proxy.tls.transport import LOOK_FOR_LEAVERS, ORDER_PATIENCE, Chosen, Ordered, SecuredServer

from ..properties import PROPERTY
from .loopback import Certificates, Client, LoopbackTests, ServedFactory, client_context, versions
from .making import DAY, now, record

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Orders:
    """Orders that a test ends; `asked` are the names, in turn."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.under_way: list[Deferred[None]] = []
        self.known = ["y.com", "z.com", "x.com"]

    def __call__(self, name: str) -> Deferred[None] | None:
        self.asked.append(name)
        if name not in self.known:
            return None
        self.under_way.append(Deferred())
        return self.under_way[-1]


class TestOnDemand(SynchronousTestCase):
    """The list of who waits by itself."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.orders = Orders()
        self.list = OnDemand(self.clock.seconds)

    def wait(self, name: str = "y.com") -> Deferred[None]:
        waiter = self.list.wait(name, self.orders)
        assert waiter is not None
        return waiter

    def leave(self, waiter: Deferred[None]) -> None:
        waiter.addErrback(lambda _: None)
        waiter.cancel()

    def test_one_order_for_each_name(self) -> None:
        waiters = [self.wait(name) for name in ("y.com", "z.com") * 10]
        assert self.orders.asked == ["y.com", "z.com"]
        assert repr(self.list) == "<OnDemand: 20 wait for 2 orders>"
        self.orders.under_way[0].callback(None)
        assert [waiter.called for waiter in waiters] == [True, False] * 10
        assert repr(self.list) == "<OnDemand: 10 wait for 1 orders>"
        # However it ends: why it failed is told by whoever ordered.
        self.orders.under_way[1].errback(ZeroDivisionError())
        assert {self.successResultOf(waiter) for waiter in waiters} == {None}
        assert repr(self.list) == "<OnDemand: 0 wait for 0 orders>"
        # And the next one is another order.
        self.wait()
        assert self.orders.asked == ["y.com", "z.com", "y.com"]

    def test_nothing_is_ordered(self) -> None:
        assert self.list.wait("evil.com", self.orders) is None
        assert repr(self.list) == "<OnDemand: 0 wait for 0 orders>"

    def test_an_order_that_has_ended_already(self) -> None:
        for ended in (succeed(None), fail(ZeroDivisionError())):
            waiter = self.list.wait("y.com", lambda name, ended=ended: ended)  # type: ignore[misc]
            assert waiter is not None and self.successResultOf(waiter) is None
            assert repr(self.list) == "<OnDemand: 0 wait for 0 orders>"

    def test_who_leaves_is_forgotten_and_the_order_goes_on(self) -> None:
        first, second = self.wait(), self.wait()
        self.leave(first)
        assert repr(self.list) == "<OnDemand: 1 wait for 1 orders>"
        self.leave(second)
        assert not self.orders.under_way[0].called
        for _ in range(100):
            self.leave(self.wait())
        assert self.orders.asked == ["y.com"]
        assert repr(self.list) == "<OnDemand: 0 wait for 1 orders>"
        assert self.list._orders["y.com"].waiting == {}
        last = self.wait()
        self.orders.under_way[0].callback(None)
        self.successResultOf(last)
        assert repr(self.list) == "<OnDemand: 0 wait for 0 orders>"

    def test_one_that_leaves_while_the_others_are_told(self) -> None:
        first, second, third = (self.wait() for _ in range(3))
        first.addCallback(lambda _: self.leave(second))
        self.orders.under_way[0].callback(None)
        assert first.called and second.called and self.successResultOf(third) is None
        assert repr(self.list) == "<OnDemand: 0 wait for 0 orders>"

    def test_one_that_comes_while_the_others_are_told(self) -> None:
        again: list[Deferred[None]] = []
        self.wait().addCallback(lambda _: again.append(self.wait()))
        self.wait()
        self.orders.under_way[0].callback(None)
        self.assertNoResult(again[0])
        assert self.orders.asked == ["y.com"] * 2
        assert repr(self.list) == "<OnDemand: 1 wait for 1 orders>"

    def test_an_order_that_never_ends(self) -> None:
        old = self.wait()
        self.clock.advance(ORDER_PATIENCE - 1)
        self.wait()
        assert self.orders.asked == ["y.com"]
        self.clock.advance(1)
        new = self.wait()
        assert self.orders.asked == ["y.com"] * 2
        # The old one ends after all: those of the new one wait for theirs.
        self.orders.under_way[0].callback(None)
        assert old.called and not new.called
        self.wait()
        assert self.orders.asked == ["y.com"] * 2
        self.orders.under_way[1].callback(None)
        assert new.called and repr(self.list) == "<OnDemand: 0 wait for 0 orders>"

    def test_those_who_wait_for_one_leave_room_for_others(self) -> None:
        self.patch(on_demand, "MAX_FOR_ONE", 2)
        waiters = [self.wait(), self.wait()]
        assert self.list.wait("y.com", self.orders) is None
        waiters.append(self.wait("z.com"))
        waiters[0].addErrback(lambda _: None).cancel()
        waiters.append(self.wait())
        assert self.orders.asked == ["y.com", "z.com"]

    def test_so_many_and_no_more(self) -> None:
        self.patch(on_demand, "MAX_WAITING", 3)
        waiters = [self.wait(name) for name in ("y.com", "z.com", "y.com")]
        assert self.list.wait("y.com", self.orders) is None
        assert self.list.wait("x.com", self.orders) is None
        assert self.orders.asked == ["y.com", "z.com"]
        self.leave(waiters[0])
        self.wait("x.com")
        assert self.list.wait("y.com", self.orders) is None
        assert MAX_WAITING == 1000


class OnDemandMachine(RuleBasedStateMachine):
    """Whoever comes and leaves, and however orders end: the count is right, and all are told once."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.list = OnDemand(self.clock.seconds)
        self.orders = Orders()
        self.told: list[int] = []
        self.waiting: dict[int, Deferred[None]] = {}
        self.came = 0

    @rule(name=st.sampled_from(["y.com", "z.com", "evil.com"]))
    def come(self, name: str) -> None:
        with patch.object(on_demand, "MAX_WAITING", 4):
            waiter = self.list.wait(name, self.orders)
        assert (waiter is None) == (name == "evil.com" or len(self.waiting) >= 4)
        if waiter is not None:
            self.came += 1
            self.waiting[self.came] = waiter
            waiter.addBoth(self.ended, self.came)

    def ended(self, result: object, number: int) -> None:
        del self.waiting[number]
        self.told.append(number)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        self.waiting[data.draw(st.sampled_from(sorted(self.waiting)))].cancel()

    @precondition(lambda self: self.orders.under_way)
    @rule(data=st.data(), fails=st.booleans())
    def end(self, data: Any, fails: bool) -> None:
        order = self.orders.under_way.pop(data.draw(st.integers(0, len(self.orders.under_way) - 1)))
        order.errback(ZeroDivisionError()) if fails else order.callback(None)

    @rule(seconds=st.sampled_from([1, 60, 120]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def counted(self) -> None:
        assert self.list._waiting == len(self.waiting)
        assert len(set(self.told)) == len(self.told)
        if not self.orders.under_way:
            assert not self.waiting and not self.list._orders


OnDemandMachine.TestCase.settings = PROPERTY
TestOnDemandMachine = OnDemandMachine.TestCase


class TestChoosing(SynchronousTestCase):
    """When `Contexts` has something ordered."""

    def setUp(self) -> None:
        self.orders = Orders()

    def certificates(self, *records: Certificate) -> Certificates:
        certificates = Certificates(*records)
        certificates.contexts.on_demand = self.orders
        return certificates

    def choose(self, certificates: Certificates, name: str, address: str = "", may_order: bool = True) -> Any:
        chosen = certificates.contexts.choose(ClientHello(name, ()), address, may_order)
        return self.successResultOf(chosen) if isinstance(chosen, Deferred) else chosen

    def test_not_where_there_is_a_valid_one(self) -> None:
        certificates = self.certificates(record("x.com", "*.x.com"))
        for name in ("x.com", "a.x.com"):
            assert isinstance(self.choose(certificates, name), Chosen)
        assert self.orders.asked == []

    def test_where_there_is_none_or_it_is_not_valid(self) -> None:
        certificates = self.certificates(record("x.com"))
        assert isinstance(self.choose(certificates, "y.com"), Ordered)
        certificates.clock.advance((100 * DAY).total_seconds())
        assert isinstance(self.choose(certificates, "x.com"), Ordered)
        begins = now() + datetime.timedelta(hours=12)
        later = self.certificates(record("x.com", begins=begins))
        assert isinstance(self.choose(later, "x.com"), Ordered)
        assert self.orders.asked == ["y.com", "x.com", "x.com"]

    def test_names_for_which_nothing_is_ordered(self) -> None:
        certificates = self.certificates()
        self.orders.known.clear()
        with self.assertRaises(BadHello) as caught:
            self.choose(certificates, "y.com")
        assert caught.exception.alert == UNRECOGNIZED_NAME
        assert repr(certificates.contexts._waiting) == "<OnDemand: 0 wait for 0 orders>"

    def test_local_names_and_none_are_no_reason_to_ask(self) -> None:
        certificates = self.certificates()
        assert isinstance(self.choose(certificates, "localhost"), Chosen)
        assert isinstance(self.choose(certificates, "", "192.0.2.1"), Chosen)
        certificates.contexts._owned = lambda host: False
        for name, address in (("localhost", ""), ("a.localhost", ""), ("", "192.0.2.1"), ("", "")):
            with self.assertRaises(BadHello):
                self.choose(certificates, name, address)
        assert self.orders.asked == []

    def test_the_second_time_nothing_is_ordered(self) -> None:
        certificates = self.certificates(record("x.com"))
        certificates.clock.advance((100 * DAY).total_seconds())
        with self.assertRaises(BadHello):
            self.choose(certificates, "y.com", may_order=False)
        # Its date tells a visitor more than a broken handshake.
        assert isinstance(self.choose(certificates, "x.com", may_order=False), Chosen)
        assert self.orders.asked == []

    def test_when_too_many_wait_it_is_as_if_nothing_were_ordered(self) -> None:
        self.patch(on_demand, "MAX_WAITING", 1)
        certificates = self.certificates(record("x.com"))
        certificates.clock.advance((100 * DAY).total_seconds())
        assert isinstance(self.choose(certificates, "y.com"), Ordered)
        with self.assertRaises(BadHello):
            self.choose(certificates, "z.com")
        assert isinstance(self.choose(certificates, "x.com"), Chosen)


class WaitingTests(LoopbackTests):
    """An endpoint with a certificate for ``x.com``, one ordered for ``y.com``, and clients that wait."""

    def setUp(self) -> None:
        super().setUp()
        self.use(record("x.com"))

    def use(self, *records: Certificate) -> None:
        self.certificates = Certificates(*records)
        self.orders = Orders()
        self.certificates.contexts.on_demand = self.orders
        self.endpoint: Any = None

    def listen(self, *protocols: bytes, timeout: float = 10.0) -> None:
        """As ever, and keep the endpoint."""
        inner = serverFromString(self.reactor, "tcp:0:interface=127.0.0.1")
        self.endpoint = TlsEndpoint(self.clock, inner, self.certificates.contexts, timeout)
        self.port = self.successResultOf(self.endpoint.listen(self.factory))

    def come(
        self, count: int = 1, name: str = "y.com", context: ssl.SSLContext | None = None
    ) -> list[Client]:
        """Clients that have said what they want, and wait."""
        before = self.waiting
        clients = [self.client(name, context) for _ in range(count)]
        for client in clients:
            client.sock.send(client.begin())
        self.until(lambda: self.waiting == before + count)
        self.settle(*clients)
        assert [client.wire for client in clients] == [b""] * count
        return clients

    @property
    def waiting(self) -> int:
        """How many wait, by the list itself."""
        return self.certificates.contexts._waiting._waiting

    def end(self, *records: Certificate, number: int = -1) -> None:
        """The order ends, with these certificates or a failure."""
        if records:
            self.certificates.publish(*records)
            self.orders.under_way[number].callback(None)
        else:
            self.orders.under_way[number].errback(ZeroDivisionError())

    def refused(self, client: Client) -> list[bytes]:
        """The alerts of one that is refused."""
        with self.assertRaises(ssl.SSLError):
            client.handshake()
        self.settle(client)
        assert client.eof and not client.reset
        return client.alerts

    def assert_nothing_is_left(self) -> None:
        """Of those who have waited."""
        self.settle()
        assert (self.waiting, self.clock.getDelayedCalls()) == (0, [])
        assert self.endpoint._under_way._for_orders == self.endpoint._under_way._all == {}


class TestWaiting(WaitingTests):
    """What comes of it."""

    def test_twenty_at_once_are_one_order_and_get_its_certificate(self) -> None:
        for version in VERSIONS:
            self.use()
            self.stop_listening()
            self.factory.built.clear()
            clients = self.come(20, context=versions(version))
            assert self.orders.asked == ["y.com"] and self.factory.built == []
            self.end(record("y.com"))
            for client in clients:
                client.handshake().send(b"hi")
            self.until(lambda: [served.data for served in self.factory.built] == [b"hi"] * 20, *clients)
            assert {served.transport.certificate.id for served in self.factory.built} == {"y.com"}
            assert {client.tls.version() for client in clients} == {version.name.replace("v1_", "v1.")}
            assert self.orders.asked == self.certificates.loads == ["y.com"]
            self.assert_nothing_is_left()

    def test_the_order_fails(self) -> None:
        for version in VERSIONS:
            clients = self.come(3, context=versions(version))
            self.end()
            for client in clients:
                assert self.refused(client) == [b"\x02\x70"]
            self.assert_nothing_is_left()
        # Each time it was asked for once, and not again by those who were refused.
        assert self.orders.asked == ["y.com"] * 2
        assert self.factory.built == []

    def test_an_order_that_brings_nothing(self) -> None:
        [client] = self.come()
        self.end(record("z.com"))
        assert self.refused(client) == [b"\x02\x70"] and self.orders.asked == ["y.com"]

    def test_the_expired_one_is_shown_when_it_fails(self) -> None:
        for version in VERSIONS:
            self.use(record("y.com"))
            self.stop_listening()
            self.certificates.clock.advance((100 * DAY).total_seconds())
            clients = self.come(2, context=versions(version))
            assert self.certificates.loads == []
            self.end()
            for client in clients:
                client.handshake()
            self.until(lambda: len(self.factory.built) == 2, *clients)
            assert self.certificates.loads == self.orders.asked == ["y.com"]
            self.factory.built.clear()

    def test_the_new_one_is_shown_in_the_place_of_the_expired_one(self) -> None:
        old, new = record("y.com", ends=now() + DAY), record("y.com")
        self.use(old)
        self.certificates.clock.advance((2 * DAY).total_seconds())
        [client] = self.come()
        self.end(new)
        client.handshake()
        self.until(lambda: self.factory.built, client)
        assert self.factory.built[0].transport.certificate.serial == new.serial

    def test_it_is_there_at_once(self) -> None:
        def at_once(name: str) -> Deferred[None]:
            self.certificates.publish(record(name))
            return succeed(None)

        self.certificates.contexts.on_demand = at_once
        _client, served = self.open("y.com")
        assert served.transport.certificate.id == "y.com"
        self.assert_nothing_is_left()

    def test_the_others_are_served_meanwhile(self) -> None:
        waiting = self.come(5)
        client, served = self.open("x.com")
        client.send(b"hello")
        self.until(lambda: served.data == b"hello", client)
        assert self.refused(self.client("evil.com")) == [b"\x02\x70"]
        self.end(record("y.com"), number=0)
        for each in waiting:
            each.handshake()

    def test_application_protocols_are_chosen_as_ever(self) -> None:
        self.factory = ServedFactory([b"h2", b"http/1.1"])
        context = client_context()
        context.set_alpn_protocols(["http/1.1", "h2"])
        [client] = self.come(context=context)
        self.end(record("y.com"))
        client.handshake()
        assert client.tls.selected_alpn_protocol() == "h2"
        # Who has none in common is not waited with.
        context.set_alpn_protocols(["spdy/3"])
        self.certificates.publish()
        assert self.refused(self.client("y.com", context)) == [b"\x02\x78"]
        assert self.orders.asked == ["y.com"]

    def test_the_certificate_is_loaded_while_they_wait_on(self) -> None:
        held = self.certificates.held = []
        [client] = self.come()
        self.end(record("y.com"))
        self.settle(client)
        assert len(held) == 1 and client.wire == b""
        held[0].callback(self.certificates.with_keys["y.com"])
        client.handshake()

    def test_nothing_is_looked_at_meanwhile(self) -> None:
        [client] = self.come()
        client.sock.send(b"more")
        looks: list[int] = []
        with patch.object(SecuredServer, "doRead", lambda transport: looks.append(1)):
            self.settle(turns=50)
        assert looks == []


class TestTime(WaitingTests):
    """They have their own, and the handshake has its own anew."""

    def test_they_are_not_cut_by_the_handshakes_time(self) -> None:
        [client] = self.come()
        self.clock.advance(ORDER_PATIENCE - 1)
        self.settle(client)
        assert not client.eof
        self.end(record("y.com"))
        # Anew: there are ten seconds.
        self.clock.advance(9)
        client.handshake()
        self.until(lambda: self.factory.built, client)
        self.assert_nothing_is_left()

    def test_the_handshakes_time_ends_it_then(self) -> None:
        held = self.certificates.held = []
        [client] = self.come()
        self.clock.advance(60)
        self.end(record("y.com"))
        self.settle(client)
        assert len(held) == 1
        self.clock.advance(9)
        self.settle(client)
        assert not client.eof
        self.clock.advance(2)
        self.until(lambda: client.eof, client)
        assert any("it took too long" in line for line in self.logged)

    def test_their_time_is_up(self) -> None:
        clients = self.come(2)
        self.clock.advance(ORDER_PATIENCE + 0.1)
        for client in clients:
            assert self.refused(client) == [b"\x02\x70"]
        self.assert_nothing_is_left()
        # The order goes on, and comes to nobody.
        self.end(record("y.com"))
        assert self.orders.asked == ["y.com"]
        self.open("y.com")

    def test_their_time_is_up_with_an_expired_one(self) -> None:
        self.use(record("y.com"))
        self.certificates.clock.advance((100 * DAY).total_seconds())
        [client] = self.come()
        self.clock.advance(ORDER_PATIENCE + 0.1)
        client.handshake()
        assert self.orders.asked == ["y.com"]


class TestLeaving(WaitingTests):
    """A client that has gone is let go of, whatever becomes of the order."""

    def test_in_order_by_half_and_by_a_reset(self) -> None:
        for how in ("close", "half", "reset"):
            stays, leaves = self.come(2)
            if how == "reset":
                leaves.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            leaves.sock.shutdown(socket.SHUT_WR) if how == "half" else leaves.sock.close()
            self.settle()
            self.clock.advance(LOOK_FOR_LEAVERS)
            self.settle()
            assert self.waiting == 1
            self.clock.advance(LOOK_FOR_LEAVERS)
            self.settle()
            assert self.waiting == 1
            self.end()
            assert self.refused(stays) == [b"\x02\x70"]
            self.assert_nothing_is_left()

    def test_one_that_left_a_moment_before_the_order_ended(self) -> None:
        for ends in ((), (record("y.com"),)):
            [client] = self.come()
            client.sock.close()
            self.end(*ends)
            self.settle()
            self.assert_nothing_is_left()
            self.certificates.publish()
        assert self.factory.built == []

    def test_one_look_for_all_and_none_when_nobody_waits(self) -> None:
        self.come(10)
        # Ten that have their own time, and one look.
        assert len(self.clock.getDelayedCalls()) == 11
        for _ in range(3):
            self.clock.advance(LOOK_FOR_LEAVERS)
            assert len(self.clock.getDelayedCalls()) == 11
        assert self.waiting == 10
        self.end()
        self.settle()
        self.assert_nothing_is_left()

    def test_all_leave(self) -> None:
        clients = self.come(10)
        for client in clients:
            client.sock.close()
        self.settle()
        self.clock.advance(LOOK_FOR_LEAVERS)
        self.settle()
        self.assert_nothing_is_left()
        assert any("left while its certificate was ordered" in line for line in self.logged)
        # One more that comes now waits for the same order.
        [client] = self.come()
        assert self.orders.asked == ["y.com"]
        self.end(record("y.com"))
        client.handshake()


class TestManyAndStops(WaitingTests):
    """They are bounded, and keep nobody."""

    def test_more_than_may_wait_are_refused(self) -> None:
        self.patch(on_demand, "MAX_WAITING", 3)
        clients = self.come(3)
        assert self.refused(self.client("y.com")) == [b"\x02\x70"]
        self.end(record("y.com"))
        for client in clients:
            client.handshake()

    def test_they_are_no_handshakes_under_way(self) -> None:
        self.patch(transport, "MAX_UNDER_WAY", 2)
        waiting = [client for _ in range(5) for client in self.come()]
        # Others come and go, and push none of them out.
        for _ in range(3):
            self.open("x.com")
        self.settle(*waiting)
        assert self.waiting == 5 and not any(client.eof for client in waiting)

    def test_a_stop_does_not_wait_for_them(self) -> None:
        clients = self.come(3)
        done = self.endpoint.handshakes_done(1)
        self.clock.advance(0)
        self.successResultOf(done)
        for client in clients:
            assert self.refused(client) == [b"\x02\x70"]
        self.assert_nothing_is_left()
        self.end()

    def test_a_stop_shows_the_expired_one_and_waits_for_that(self) -> None:
        self.use(record("y.com"))
        self.certificates.clock.advance((100 * DAY).total_seconds())
        [client] = self.come()
        done = self.endpoint.handshakes_done(1)
        self.clock.advance(0)
        self.assertNoResult(done)
        client.handshake()
        self.until(lambda: self.factory.built, client)
        self.clock.advance(0)
        self.successResultOf(done)

    def test_one_that_begins_to_wait_during_a_stop_is_not_waited_for(self) -> None:
        client = self.client("y.com")
        self.settle()
        done = self.endpoint.handshakes_done(1)
        self.assertNoResult(done)
        client.sock.send(client.begin())
        self.until(lambda: self.waiting == 1)
        self.clock.advance(0)
        self.successResultOf(done)
        self.end()
        assert self.refused(client) == [b"\x02\x70"]
