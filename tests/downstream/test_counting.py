"""What is counted of a request, and where no access log is told of it: in another program's Site, say."""

from __future__ import annotations

import types
from functools import partial
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from onebackend_proxy import ProxySite
from onebackend_proxy.balancing import Upstream
from onebackend_proxy.downstream.counting import count
from onebackend_proxy.metrics import RequestCounts

from ..conformance import ONE, UPGRADE, Plane, new_plane
from .test_site import Echo


def exchange(**more: Any) -> Any:
    """What is looked at of an exchange."""
    usual = {"upstream": Upstream("a.com", ()), "started": 10.0, "bytes_in": 3, "bytes_out": 0, "denied": ""}
    return types.SimpleNamespace(**{**usual, **more})


def outcomes(counts: RequestCounts) -> dict[tuple[str, int], int]:
    return {
        (route, digit): sum(outcomes.buckets)
        for route, each in counts.all()
        for digit, outcomes in each.outcomes.items()
    }


def test_an_exchange():
    counts = RequestCounts()
    count(counts, exchange(bytes_out=5), 204, 12.0, 12.0, sent=7)
    count(counts, exchange(), 0, 11.0, 11.0)
    of_route = counts.of("a.com")
    assert (of_route.bytes_in, of_route.bytes_out, of_route.denied) == (6, 5, {})
    assert {digit: each.seconds for digit, each in of_route.outcomes.items()} == {2: 2.0, 4: 1.0}


def test_what_we_answered_for_an_exchange():
    counts = RequestCounts()
    count(counts, exchange(), 502, 12.0, 12.0, sent=7)
    assert counts.of("a.com").bytes_out == 7


def test_what_was_not_let_in():
    counts = RequestCounts()
    count(counts, exchange(denied="basicAuth"), 401, 12.0, 12.0)
    assert counts.of("a.com").denied == {"basicAuth": 1}


def test_what_belongs_to_no_route():
    counts = RequestCounts()
    count(counts, None, 404, 12.0, 11.5, 20, 4)
    count(counts, None, 0, 12.0, 12.0)
    assert outcomes(counts) == {("", 4): 1, ("", 0): 1}
    assert (counts.of("").bytes_in, counts.of("").bytes_out, counts.of("").outcomes[4].seconds) == (
        4,
        20,
        0.5,
    )


class TestTunnels(SynchronousTestCase):
    def test_one_is_one_request_when_it_ends(self) -> None:
        plane = new_plane(partial(own_site, True), ONE)
        client = plane.connect().ask(b"GET /svc/x HTTP/1.1", *UPGRADE)
        service = plane.upstream.accept()
        service.switch_protocols()
        client.send(b"hello")
        service.send_body(b"hello you")
        counts: RequestCounts = plane.factory.counts
        assert outcomes(counts) == {}
        client.leaves()
        assert outcomes(counts) == {("/svc", 1): 1}
        assert (counts.of("/svc").bytes_in, counts.of("/svc").bytes_out) == (5, 9)


class TestAnotherSite(SynchronousTestCase):
    """What is served through a Site that is not ours is counted by the desk."""

    def setUp(self) -> None:
        def site(resource: Any, clock: Clock) -> Site:
            return Site(resource, reactor=clock)

        self.plane: Plane = new_plane(site, ONE)
        self.counts: RequestCounts = self.plane.resource.desk.counts

    def test_an_answer(self) -> None:
        client = self.plane.connect().ask(b"POST /svc/x HTTP/1.1", b"Content-Length: 3", body=b"abc")
        service = self.plane.upstream.accept()
        self.plane.clock.advance(0.3)
        service.answer(b"hello")
        assert client.answer().body == b"hello"
        assert outcomes(self.counts) == {("/svc", 2): 1}
        of_route = self.counts.of("/svc")
        assert (of_route.bytes_in, of_route.bytes_out, of_route.outcomes[2].seconds) == (3, 5, 0.3)

    def test_a_refusal(self) -> None:
        for line in b"GET /nobody-svc/x HTTP/1.1", b"BREW /svc/x HTTP/1.1":
            self.plane.connect().ask(line).answer()
        assert outcomes(self.counts) == {("", 4): 1, ("", 5): 1}

    def test_an_upstream_that_cannot_be_reached(self) -> None:
        client = self.plane.connect().ask(b"GET /svc/x HTTP/1.1")
        self.plane.upstream.refuse()
        assert client.answer().status == 502
        assert outcomes(self.counts) == {("/svc", 5): 1}

    def test_a_client_that_went(self) -> None:
        client = self.plane.connect().ask(b"GET /svc/x HTTP/1.1")
        self.plane.upstream.accept()
        client.leaves()
        assert outcomes(self.counts) == {("/svc", 4): 1}

    def test_our_own_site_counts_for_itself(self) -> None:
        for fast in (False, True):
            plane = new_plane(partial(own_site, fast), ONE)
            plane.resource.serve({b"echo": Echo()})
            client = plane.connect().ask(b"GET /svc/x HTTP/1.1")
            plane.upstream.accept().answer(b"hello")
            client.ask(b"GET /echo/x HTTP/1.1")
            assert len(client.answers()) == 2
            assert outcomes(plane.resource.desk.counts) == {}
            assert outcomes(plane.factory.counts) == {("/svc", 2): 1, ("", 2): 1}


def own_site(fast: bool, resource: Any, clock: Clock) -> ProxySite:
    return ProxySite(resource, clock, fast=resource if fast else None)
