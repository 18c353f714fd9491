"""The fast plane: the contract of every plane, what every site of ours promises, and what only it does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from zope.interface import directlyProvides

from onebackend_proxy import ProxySite
from onebackend_proxy.downstream.channel import ProxyChannel
from onebackend_proxy.downstream.fast import FastChannel
from onebackend_proxy.downstream.site import LAST_REQUEST
from onebackend_proxy.messages import ResponseHead

from .. import conformance
from ..conformance import ONE, UPGRADE, Client, Plane, new_plane
from ..properties import OFTEN, pieces
from ..wire import Producer
from . import test_site


def fast_site(resource: Any, clock: Clock) -> ProxySite:
    """A site whose connections begin on the fast plane."""
    return ProxySite(resource, clock, fast=resource)


class TestFastPlane(conformance.PlaneBehaviour):
    """Our own protocol."""

    upgrades = True

    def make_plane(self, urls: Sequence[str] = ONE) -> Plane:
        return new_plane(fast_site, urls)


class TestBadHeads(test_site.TestBadHeads):
    """As on the resource plane."""

    fast = True


class TestConnections(test_site.TestConnections):
    """As on the resource plane."""

    fast = True


class TestDraining(test_site.TestDraining):
    """As on the resource plane."""

    fast = True


class TestBufferedResources(test_site.TestBufferedResources):
    """As on the resource plane, which serves them."""

    fast = True


class TestAccessHook(test_site.TestAccessHook):
    """As on the resource plane."""

    fast = True


class TestClientsThatDoNotRead(test_site.TestClientsThatDoNotRead):
    """As on the resource plane."""

    fast = True


class TestLingering(test_site.TestLingering):
    """As on the resource plane."""

    fast = True


class TestOtherTrees(test_site.TestOtherTrees):
    """As on the resource plane, which serves them."""

    fast = True


class TestSlowRequests(test_site.TestSlowRequests):
    """As on the resource plane."""

    fast = True


class FastTests(test_site.SiteTests):
    """The fast plane alone."""

    fast = True

    def channel(self, client: Client) -> Any:
        """What the site knows of the client's connection."""
        [channel] = self.site.channels
        return channel


class TestHandingOver(FastTests):
    """A connection that asks for a built-in service is twisted.web's, bytes and all, from there on."""

    def ask_echo(self, path: bytes = b"x", method: bytes = b"GET") -> bytes:
        return b"%b /echo/%b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, path)

    def test_the_first_request(self) -> None:
        client = self.plane.connect()
        assert isinstance(self.channel(client), FastChannel)
        client.send(self.ask_echo())
        assert client.answer().body == b"GET 0"
        assert isinstance(self.channel(client), ProxyChannel)
        assert not client.wire.closed
        [entry] = self.ended
        assert (entry.status, entry.route, entry.client) == (200, "", b"192.0.2.7")

    def test_a_body_in_any_split(self) -> None:
        head = b"POST /echo/x HTTP/1.1\r\nHost: x\r\n"
        for data in (
            head + b"Content-Length: 5\r\n\r\nhello",
            head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ):
            for cut in range(len(data)):
                client = self.plane.connect()
                for piece in (data[:cut], data[cut:], self.ask_echo()):
                    client.send(piece)
                assert [answer.body for answer in client.answers()] == [b"POST 5", b"GET 0"]
                client.leaves()
        assert not self.site.channels

    def test_an_expected_body_is_asked_for(self) -> None:
        client = self.plane.connect().ask(
            b"POST /echo/x HTTP/1.1", b"Content-Length: 2", b"Expect: 100-continue"
        )
        assert client.answer().status == 100
        client.send(b"hi")
        assert client.answer().body == b"POST 2"

    def test_after_proxied_requests(self) -> None:
        client = self.plane.connect()
        for _ in range(2):
            client.ask()
            self.plane.upstream.accept().answer(b"proxied")
            assert client.answer().body == b"proxied"
        client.send(self.ask_echo())
        assert client.answer().body == b"GET 0"
        # From here on twisted.web has it, also for what is proxied.
        client.ask()
        self.plane.upstream.accept().answer(b"proxied")
        assert client.answer().body == b"proxied"
        assert [entry.route for entry in self.ended] == ["/svc", "/svc", "", "/svc"]

    def test_in_the_middle_of_a_pipeline(self) -> None:
        one = b"GET /svc/%d HTTP/1.1\r\nHost: x\r\n\r\n"
        data = one % 0 + self.ask_echo(method=b"PUT") + one % 1 + self.ask_echo() + one % 2
        for cut in range(0, len(data), 7):
            client = self.plane.connect().send(data[:cut]).send(data[cut:])
            for number in range(3):
                service = self.plane.upstream.accept()
                assert service.request_line == b"GET /svc/%d HTTP/1.1" % number
                service.answer(b"%d" % number)
                client.clock.advance(0)
            bodies = [answer.body for answer in client.answers()]
            assert bodies == [b"0", b"PUT 0", b"1", b"GET 0", b"2"]
            client.leaves()

    def test_while_the_client_does_not_keep_up(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        client.wire.fill()
        client.send(self.ask_echo() * 3)
        service.answer(b"first")
        assert [answer.body for answer in client.answers()] == [b"first"]
        client.wire.drain()
        assert [answer.body for answer in client.answers()] == [b"GET 0"] * 3

    def test_back_pressure_goes_with_it(self) -> None:
        client = self.plane.connect().ask(b"GET /echo/later HTTP/1.1")
        producer = Producer()
        [request] = self.echo.waiting
        request.registerProducer(producer, True)
        client.wire.fill()
        assert producer.paused
        client.wire.drain()
        assert not producer.paused
        request.unregisterProducer()
        request.finish()

    def test_a_client_that_goes(self) -> None:
        client = self.plane.connect().ask(b"GET /echo/later HTTP/1.1")
        client.leaves()
        assert [entry.status for entry in self.ended] == [499]
        assert not self.site.channels
        assert [call for call in self.plane.clock.getDelayedCalls() if call.active()] == []

    def test_a_client_that_ends_its_half(self) -> None:
        client = self.plane.connect().ask(b"GET /echo/x HTTP/1.1")
        client.answers()
        client.wire.peer_ends()
        client.clock.advance(0)
        assert client.wire.disconnecting and not self.site.channels

    def test_its_times_count_there(self) -> None:
        client = self.plane.connect().send(self.ask_echo())
        client.answers()
        self.plane.clock.pump([1.0] * 78)
        assert client.wire.disconnecting
        assert not self.site.channels

    def test_a_drain_waits_for_it(self) -> None:
        client = self.plane.connect().ask(b"GET /echo/later HTTP/1.1")
        idle = self.plane.connect().send(self.ask_echo())
        idle.answers()
        drained = self.site.drain(20)
        self.plane.clock.pump([LAST_REQUEST, 0])
        assert idle.wire.disconnecting and not client.wire.closed
        self.assertNoResult(drained)
        self.echo.waiting[0].finish()
        client.answers()
        assert client.wire.disconnecting
        self.successResultOf(drained)

    def test_bad_bytes_after_it_are_refused_there(self) -> None:
        client = self.plane.connect().send(self.ask_echo() + b"NONSENSE\r\n\r\n")
        assert [answer.status for answer in client.answers()] == [200, 400]
        assert client.wire.closed


class TestChannel(FastTests):
    """What only the fast plane's channel does."""

    def test_its_repr_tells_what_it_is_at(self) -> None:
        client = self.plane.connect()
        assert repr(self.channel(client)) == "<FastChannel of 192.0.2.7: None>"
        client.ask()
        assert repr(self.channel(client)).startswith("<FastChannel of 192.0.2.7: <Exchange GET")

    def test_head_and_body_leave_in_one_write(self) -> None:
        client = self.plane.connect().ask()
        exchange = self.plane.upstream.accept().exchange
        exchange.head_received(ResponseHead(200, b"OK", [(b"Content-Length", b"4")], 4))
        exchange.body_received(b"ab")
        assert client.wire.take() == b""
        exchange.body_received(b"cd")
        exchange.answer_ended([])
        assert client.wire.take().endswith(b"\r\n\r\nabcd")

    def test_a_tunnel_is_one_line_of_the_access_log(self) -> None:
        client = self.plane.connect().ask(b"GET /svc/ws HTTP/1.1", *UPGRADE)
        service = self.plane.upstream.accept()
        service.switch_protocols()
        client.answers()
        client.send(b"ping")
        service.send_body(b"pongs")
        assert self.ended == []
        client.leaves()
        [entry] = self.ended
        assert (entry.status, entry.bytes_in, entry.bytes_out, entry.route) == (101, 4, 5, "/svc")

    def test_a_tunnel_that_breaks_is_one_as_well(self) -> None:
        self.plane.connect().ask(b"GET /svc/ws HTTP/1.1", *UPGRADE)
        service = self.plane.upstream.accept()
        service.switch_protocols()
        service.lose(detail="reset")
        self.plane.clock.advance(0)
        [entry] = self.ended
        assert entry.status == 101 and "reset" in entry.reason

    def test_a_drain_cuts_a_tunnel_after_its_grace(self) -> None:
        client = self.plane.connect().ask(b"GET /svc/ws HTTP/1.1", *UPGRADE)
        service = self.plane.upstream.accept()
        service.switch_protocols()
        client.answers()
        drained = self.site.drain(20)
        self.plane.clock.pump([1.0] * 19)
        assert not client.wire.closed
        self.plane.clock.pump([1.0, 0.0])
        assert client.wire.aborted
        self.successResultOf(drained)

    def test_a_wire_without_halves_is_closed_whole(self) -> None:
        # As under TLS, which knows no half of a connection.
        client = self.plane.connect()
        directlyProvides(client.wire, ISSLTransport)
        client.ask(b"GET /svc/ws HTTP/1.1", *UPGRADE)
        service = self.plane.upstream.accept()
        assert service.field(b"X-Forwarded-Proto") == [b"http"], "it was plain when it was made"
        service.switch_protocols()
        client.answers()
        service.send_body(b"bye")
        service.finish()
        assert client.wire.take() == b"bye"
        assert client.wire.disconnecting and not client.wire.write_closed
        assert service.closed

    def test_a_client_that_ends_its_half_without_a_tunnel_is_gone(self) -> None:
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        client.wire.peer_ends()
        client.clock.advance(0)
        assert service.aborted and client.wire.disconnecting
        assert self.statuses() == [499]
        assert not self.site.channels

    def test_the_fields_of_one_request_are_not_those_of_the_next(self) -> None:
        client = self.plane.connect()
        for value in (b"1", b"1", b"2"):
            client.ask(b"GET /svc/x HTTP/1.1", b"X-Mine: " + value)
            service = self.plane.upstream.accept()
            assert service.field(b"X-Mine") == [value]
            assert len(service.field(b"X-Request-Id")) == 1
            service.answer(b"", 200, (b"X-Theirs", value))
            answer = client.answer()
            assert answer.field(b"X-Theirs") == [value]
            assert len(answer.field(b"Date")) == 1
        ids = {connection.field(b"X-Request-Id")[0] for connection in self.plane.upstream.connections}
        assert len(ids) == 3

    def test_the_transport_may_say_that_it_stops(self) -> None:
        client = self.plane.connect().ask()
        self.channel(client).stopProducing()
        self.plane.upstream.accept().answer(b"x")
        assert client.answer().body == b"x"


SCRIPT = [
    b"GET /svc/x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\r\nGET /svc/x HTTP/1.1\r\nHost: x\r\nX: y\r\n\r\n",
    b"HEAD /nobody HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /svc/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT /svc/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n",
    b"POST /echo/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /svc/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /svc/x HTTP/1.0\r\nHost: x\r\n\r\n",
    b"POST /svc/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
    b"GET /svc/x HTTP/2.0\r\nHost: x\r\n\r\n",
]


def served(several: list[bytes]) -> Any:
    """What a service gets of these bytes, and what the client; a request is answered once it is complete."""
    plane = new_plane(fast_site, ONE)
    plane.resource.serve({b"echo": test_site.Echo()})
    client = plane.connect()
    got: list[Any] = []

    def serve() -> None:
        plane.clock.advance(0)
        while plane.upstream.connecting:
            plane.upstream.accept()
        for service in plane.upstream.connections[len(got) :]:
            if service.trailers is None or service.aborted:
                continue
            got.append((service.request_line, service.body, service.trailers))
            service.answer(b"answer")
            serve()

    for piece in several:
        client.send(piece)
        serve()
    plane.clock.pump([1.0] * 3)
    # twisted.web's Date is that of the wall.
    raw = re.sub(rb"Date: [^\r]*\r\n", b"", client.wire.take())
    return got, raw, client.wire.connected, len(plane.exchanges)


@OFTEN
@given(
    st.lists(st.sampled_from(SCRIPT), min_size=1, max_size=6),
    st.lists(st.integers(0, 2000), max_size=10),
)
def test_any_split_of_a_connection_gives_the_same(requests: list[bytes], cuts: list[int]) -> None:
    data = b"".join(requests)
    assert served(pieces(data, cuts)) == served([data])
