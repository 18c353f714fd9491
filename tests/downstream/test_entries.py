"""What the log is told of requests, on both planes, in all the ways in which they end."""

from __future__ import annotations

import ipaddress
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from onebackend_proxy import ProxySite
from onebackend_proxy.downstream.entries import guessed
from onebackend_proxy.downstream.peers import client_address
from onebackend_proxy.headers import Network
from onebackend_proxy.limits import DEFAULTS
from onebackend_proxy.messages import Answer

from ..conformance import ONE, Client, new_plane
from ..logged import Entries, Entry
from .test_site import Echo

BEGAN = 1_700_000_000.0
SOMEBODY = (b"X-Forwarded-For: 6.6.6.6, 203.0.113.9", b"X-Request-Id: from-them")


class Logged:
    """A plane, and what the log is told of it; clients come from a trusted proxy if that is said."""

    def __init__(self, fast: bool) -> None:
        self.ended = Entries()
        self.trusted: tuple[Network, ...] = ()

        def site(resource: Any, clock: Clock) -> ProxySite:
            return ProxySite(
                resource,
                clock,
                self.ended.tell,
                client_of=lambda request: client_address(request, self.trusted),
                fast=resource if fast else None,
            )

        self.plane = new_plane(site, ONE)
        self.plane.resource.serve({b"echo": Echo()})
        self.plane.clock.advance(BEGAN)

    def trust(self) -> None:
        self.trusted = (ipaddress.ip_network("192.0.2.0/24"),)
        resource = self.plane.resource
        resource.desk = attrs.evolve(resource.desk, trusted=self.trusted)

    def ask(self, line: bytes = b"GET /svc/x HTTP/1.1", *fields: bytes, body: bytes = b"") -> Client:
        return self.plane.connect().ask(line, *fields, body=body)

    def passes(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.plane.clock.advance(1)

    @property
    def entry(self) -> Entry:
        [entry] = self.ended
        return entry


@pytest.fixture(params=[True, False], ids=["fast", "web"])
def logged(request):
    return Logged(request.param)


@pytest.fixture
def fast():
    return Logged(True)


def test_times_of_an_exchange_and_of_its_upstream(logged):
    logged.ask()
    logged.plane.clock.advance(0.5)
    service = logged.plane.upstream.accept()
    service.respond(200, (b"Content-Length", b"1"))
    logged.plane.clock.advance(0.25)
    service.send_body(b"x")
    service.finish()
    line = logged.entry.line
    assert (line["milliseconds"], line["upstreamMilliseconds"]) == (750, 500)


def test_the_last_attempt_counts_and_one_without_an_answer_does_not(logged):
    logged.ask()
    logged.plane.clock.advance(0.5)
    logged.plane.upstream.refuse()
    line = logged.entry.line
    assert (line["status"], line["milliseconds"], line["upstreamMilliseconds"]) == (502, 500, None)


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"GET /nobody/x HTTP/1.1", 404), (b"GET /svc/x HTTP/1.1", 200), (b"TRACE /svc/x HTTP/1.1", 405)],
)
def test_the_client_behind_a_trusted_proxy(logged, line, status):
    logged.trust()
    logged.ask(line, *SOMEBODY)
    if status == 200:
        logged.plane.upstream.accept().answer(b"x")
    assert (logged.entry.status, logged.entry.client) == (status, b"203.0.113.9")


def test_anybody_else_is_not_believed(logged):
    logged.ask(b"GET /nobody/x HTTP/1.1", *SOMEBODY)
    assert logged.entry.client == b"192.0.2.7" and logged.entry.id != b"from-them"


def test_the_id_that_a_trusted_proxy_gave_is_told_of_refusals_too(fast):
    fast.trust()
    fast.ask(b"GET /nobody/x HTTP/1.1", *SOMEBODY)
    assert (fast.entry.id, fast.entry.route) == (b"from-them", "")
    assert fast.entry.reason == "no service 'nobody' is registered"


def test_what_is_refused_for_its_head(logged):
    logged.ask(b"GET /svc/x HTTP/1.1", b"Host: twice", b"User-Agent: curl", b"Referer: r")
    entry = logged.entry
    assert (entry.status, entry.reason) == (400, "more than one Host header")
    assert (entry.user_agent, entry.referer, entry.host) == (b"curl", b"r", b"front.example")


def test_a_head_that_takes_too_long_took_as_long(logged):
    logged.plane.connect().send(b"GET /svc/x HTTP/1.1\r\nHo")
    logged.passes(DEFAULTS.head_timeout + 2)
    assert logged.entry.status == 408
    assert DEFAULTS.head_timeout <= logged.entry.now - logged.entry.began <= DEFAULTS.head_timeout + 2


def test_the_body_of_an_answer_without_an_exchange(fast):
    moved = Answer(308, [(b"Location", b"/")], b"moved")
    fast.plane.resource.choose = lambda request: moved
    client = fast.ask(b"POST /x HTTP/1.1", b"Content-Length: 5", body=b"hello")
    assert client.answer().status == 308
    assert (fast.entry.bytes_in, fast.entry.bytes_out) == (5, 5)
    client.ask(b"GET /y HTTP/1.1")
    second = fast.ended[1]
    assert (second.bytes_in, second.bytes_out, len(second.id)) == (0, 5, 32)


def test_one_connection_may_say_other_things_each_time(logged):
    client = logged.plane.connect()
    for number, (line, fields, wanted) in enumerate(
        [
            (b"GET /svc/1 HTTP/1.1", (b"User-Agent: a",), (b"GET", b"front.example", b"a")),
            (b"GET /svc/2 HTTP/1.1", (b"User-Agent: a",), (b"GET", b"front.example", b"a")),
            (b"PUT /svc/3 HTTP/1.1", (b"User-Agent: a",), (b"PUT", b"front.example", b"a")),
            (b"PUT /svc/4 HTTP/1.1", (b"User-Agent: b",), (b"PUT", b"front.example", b"b")),
            (b"PUT http://other/svc/5 HTTP/1.1", (b"User-Agent: b",), (b"PUT", b"other", b"b")),
            (b"PUT /svc/6 HTTP/1.1", (b"User-Agent: b",), (b"PUT", b"front.example", b"b")),
        ]
    ):
        client.ask(line, *fields)
        logged.plane.upstream.accept().answer(b"x")
        entry = logged.ended[number]
        assert (entry.method, entry.host, entry.user_agent) == wanted
        assert entry.target == line.split()[1]
    assert len({entry.id for entry in logged.ended}) == 6


def test_a_reason_is_that_of_one_request(fast):
    client = fast.ask()
    fast.plane.upstream.refuse()
    moved = Answer(308, [(b"Location", b"/")], b"moved")
    fast.plane.resource.choose = lambda request: moved
    client.ask(b"GET /y HTTP/1.1")
    assert [(entry.status, bool(entry.reason)) for entry in fast.ended] == [(502, True), (308, False)]


def test_what_a_field_says_is_not_told_where_a_request_line_should_be(logged):
    logged.plane.connect().send(b"Cookie: session=secret HTTP/1.1\r\n\r\n")
    assert logged.entry.status == 400
    assert "secret" not in str(logged.entry.line)
    assert guessed(b"Cookie:", b"secret") == (b"Cookie:", b"-")
    assert guessed(b"GETT", b"/x") == (b"GETT", b"/x")
