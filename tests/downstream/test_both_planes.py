"""What holds on both planes of our own site: each row of HTTP1.md, pipelining, limits, the access log.

Each class has one below it that does the same over the fast plane.
"""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SkipTest

from onebackend_proxy import ProxySite
from onebackend_proxy.limits import DEFAULTS, Limits

from ..conformance import ONE, UPGRADE, Client, new_plane
from ..logged import Entries
from .test_site import Echo, SiteTests

HEAD = b"GET /svc/x HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /svc/x HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"

# What a client may send, and the status that answers it, on the fast plane and on twisted.web's, whose parser
# has fewer words; 0 where that one waits for more.
ROWS: tuple[tuple[bytes, int, int], ...] = (
    (HEAD + b"\r\n".join((*UPGRADE, b"Content-Length: 2", b"", b"hi")), 400, 400),
    (HEAD + b"\r\n".join((*UPGRADE, b"Transfer-Encoding: chunked", b"", b"0\r\n\r\n")), 400, 400),
    (b"GET /svc/x\r\nHost: x\r\n\r\n", 400, 400),
    (b"GET /svc/x RTSP/1.1\r\nHost: x\r\n\r\n", 400, 400),
    (b"SOURCE /svc/x ICE/1.0\r\nHost: x\r\n\r\n", 400, 400),
    (b"GET /svc/x HTTP/2.0\r\nHost: x\r\n\r\n", 505, 400),
    (b"GET /svc/x HTTP/1.2\r\nHost: x\r\n\r\n", 505, 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, 0),
    (POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 400, 400),
    (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 400),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, 400),
    (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501, 400),
    (b"POST /svc/x HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 400),
    (CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400, 400),
    (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 400),
    (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400, 400),
    (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400, 400),
    (POST + b"Content-Length: +5\r\n\r\nhello", 400, 400),
    (POST + b"Content-Length: 18446744073709551615\r\n\r\n", 413, 400),
    (CHUNKED + b"\r\nx\r\n", 400, 400),
    (CHUNKED + b"\r\n8000000000000000\r\n", 400, 0),
    (CHUNKED + b"\r\n1;" + b"x" * (1 << 16) + b"\r\na\r\n0\r\n\r\n", 400, 400),
    (CHUNKED + b"\r\n0\r\n" + b"A: b\r\n" * 100_000 + b"\r\n", 400, 400),
    *(
        (b"GET /svc/x HTTP/1.1\r\n" + fields + b"\r\n", 400, 400)
        for fields in (
            b"",
            b"Host:\r\n",
            b"Host: x\r\nHost: x\r\n",
            b"Host: u@x\r\n",
            b"Host: a b\r\n",
            b"Host: a,b\r\n",
            b"Host: a/b\r\n",
            b"Host: a:b\r\n",
            b"Host: a:65536\r\n",
            b"Host: \xc3\xa9\r\n",
        )
    ),
    (b"GET ftp://x/svc/x HTTP/1.1\r\nHost: x\r\n\r\n", 400, 400),
    (b"GET http://u@x/svc/x HTTP/1.1\r\nHost: x\r\n\r\n", 400, 400),
    (b"GET /svc/../other/x HTTP/1.1\r\nHost: x\r\n\r\n", 400, 400),
    (b"POST /svc/%2e%2e/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", 400, 400),
    (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 405, 400),
    (b"TRACE /svc/x HTTP/1.1\r\nHost: x\r\n\r\n", 405, 405),
    (HEAD + b"X: " + b"y" * (1 << 20) + b"\r\n\r\n", 431, 431),
    (HEAD + b"X: y\r\n" * 1000 + b"\r\n", 431, 431),
    (b"GET /svc/" + b"y" * (1 << 20), 414, 414),
    (b"GET /svc/" + b"y" * DEFAULTS.target_size + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, 414),
    (b"\r\n" * (1 << 16) + HEAD + b"\r\n", 400, 0),
    (POST + b"Expect: tea\r\nContent-Length: 2\r\n\r\nhi", 417, 417),
    (b"BREW /svc/x HTTP/1.1\r\nHost: x\r\n\r\n", 501, 501),
    (b"get /svc/x HTTP/1.1\r\nHost: x\r\n\r\n", 501, 501),
    (HEAD + b"A : b\r\n\r\n", 400, 400),
    (HEAD + b"A: b\r\n c\r\n\r\n", 400, 400),
    (HEAD + b"A: b\0\r\n\r\n", 400, 400),
    (HEAD + b"A: b\nC: d\r\n\r\n", 400, 400),
    (b"GET /svc/x HTTP/1.1\nHost: x\n\n", 400, 0),
)


class TestRows(SiteTests):
    """Each refusal is one short answer as JSON and a closed connection, and leaves nothing behind."""

    def assert_refused(self, client: Client, status: int) -> None:
        [answer] = client.answers()
        assert (answer.status, answer.complete) == (status, True)
        assert answer.field(b"Content-Type") == [b"application/json"]
        assert json.loads(answer.body).keys() == {"error"}
        assert len(answer.body) < 200
        assert len(answer.field(b"Date")) == 1 or not self.fast
        if self.fast:
            assert answer.field(b"Connection") == [b"close"]
            assert client.wire.closed and not client.wire.aborted
            client.send(HEAD + b"\r\n")

    def assert_nothing_left(self, client: Client) -> None:
        assert client.answers() == []
        assert self.plane.upstream.connecting == []
        if not self.fast:
            client.leaves()
        self.plane.clock.pump([1.0] * 3)
        assert not client.wire.connected
        assert not self.site.channels
        assert len(self.plane.exchanges) == 0
        assert [call for call in self.plane.clock.getDelayedCalls() if call.active()] == []

    def test_each_row(self) -> None:
        for data, fast, web in ROWS:
            if not (fast if self.fast else web):
                continue
            for split in (False, True):
                with self.subTest((data[:80], split)):
                    self.ended.clear()
                    said: list[Any] = []
                    observer = cast(ILogObserver, said.append)
                    globalLogPublisher.addObserver(observer)
                    client = self.plane.connect()
                    # The head alone, and what follows.
                    head, end, body = data.partition(b"\r\n\r\n")
                    client.send(head + end + (b"" if split else body))
                    if split and body:
                        client.send(body)
                    globalLogPublisher.removeObserver(observer)
                    self.assert_refused(client, fast if self.fast else web)
                    self.assert_nothing_left(client)
                    # twisted.web makes no request of a line that never ends.
                    assert self.statuses() == [fast] if self.fast else self.statuses() in ([], [web])
                    refusals = [event for event in said if "refused {method}" in event["log_format"]]
                    assert len(refusals) == 1 and refusals[0]["reason"]

    def test_the_next_client_and_one_beside_it_are_served(self) -> None:
        beside = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        for data, _fast, web in ROWS:
            if self.fast or web:
                self.plane.connect().send(data)
        # Requests whose body only was wrong have begun to connect, and given that up.
        assert [attempt for attempt in self.plane.upstream.connecting if not attempt.cancelled] == []
        service.answer(b"beside")
        assert beside.answer().body == b"beside"
        client = self.plane.connect().ask()
        self.plane.upstream.accept().answer(b"next")
        assert client.answer().body == b"next"


class TestRowsFast(TestRows):
    """Over the fast plane."""

    fast = True


class TestPipelining(SiteTests):
    """Requests behind the one under way: bounded, in order, one at a time."""

    limits = Limits(pipelined=4, keepalive_requests=2000)

    def one(self, number: int, method: bytes = b"GET", slug: bytes = b"svc") -> bytes:
        return b"%b /%b/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (method, slug, number)

    def test_many_are_answered_in_order_and_asked_one_at_a_time(self) -> None:
        client = self.plane.connect().send(b"".join(self.one(number) for number in range(100)))
        for number in range(100):
            assert len(self.plane.upstream.connecting) == 1
            service = self.plane.upstream.accept()
            assert service.request_line == b"GET /svc/%d HTTP/1.1" % number
            service.answer(b"%d" % number)
            client.clock.advance(0)
        assert [answer.body for answer in client.answers()] == [b"%d" % number for number in range(100)]
        assert self.statuses() == [200] * 100

    def test_reading_stops_while_they_pile_up(self) -> None:
        if not self.fast:
            raise SkipTest("twisted.web's channel counts bytes")
        client = self.plane.connect().ask()
        service = self.plane.upstream.accept()
        for number in range(3):
            client.send(self.one(number))
            assert not client.wire.paused
        client.send(self.one(3))
        assert client.wire.paused
        client.send(self.one(4))
        service.answer(b"x")
        for number in range(5):
            service = self.plane.upstream.accept()
            assert service.request_line == b"GET /svc/%d HTTP/1.1" % number
            service.answer(b"%d" % number)
            client.clock.advance(0)
        assert [answer.body for answer in client.answers()] == [b"x", b"0", b"1", b"2", b"3", b"4"]
        assert not client.wire.paused

    def test_reading_stops_where_they_come_in_one_piece(self) -> None:
        if not self.fast:
            raise SkipTest("twisted.web's channel counts bytes")
        client = self.plane.connect().send(self.one(0) * 5)
        assert client.wire.paused
        self.plane.upstream.accept().answer(b"x")
        assert not client.wire.paused

    def test_reading_stops_also_where_no_head_ends(self) -> None:
        client = self.plane.connect().ask()
        self.plane.upstream.accept()
        sent = 0
        while not client.wire.paused:
            client.send(b"x" * 1000)
            sent += 1000
            assert sent < 100_000

    def test_a_thousand_that_are_answered_at_once(self) -> None:
        client = self.plane.connect().send(self.one(1, slug=b"nobody") * 1000)
        assert [answer.status for answer in client.answers()] == [404] * 1000
        assert self.statuses() == [404] * 1000
        assert not client.wire.closed

    def test_a_thousand_behind_one_that_waits(self) -> None:
        client = self.plane.connect().send(self.one(0) + self.one(1, slug=b"nobody") * 1000)
        self.plane.upstream.accept().answer(b"first")
        assert [answer.status for answer in client.answers()] == [200] + [404] * 1000

    def test_a_thousand_that_no_instance_can_be_reached_for(self) -> None:
        client = self.plane.connect().send(self.one(0) * 1000)
        for _ in range(1000):
            self.plane.upstream.refuse()
        assert [answer.status for answer in client.answers()] == [502] * 1000

    def test_bodies_and_heads_in_between(self) -> None:
        client = self.plane.connect().send(
            POST
            + b"Content-Length: 2\r\n\r\nhi"
            + self.one(1, b"HEAD")
            + CHUNKED
            + b"\r\n2\r\nho\r\n0\r\n\r\n"
        )
        bodies = []
        for method in (b"POST", b"HEAD", b"POST"):
            service = self.plane.upstream.accept()
            assert service.request_line.startswith(method)
            bodies.append(service.body)
            service.answer(b"ok")
            client.clock.advance(0)
        assert bodies == [b"hi", b"", b"ho"]
        assert [answer.body for answer in client.answers(b"POST", b"HEAD", b"POST")] == [b"ok", b"", b"ok"]

    def test_what_is_wrong_behind_a_request_is_refused_in_its_turn(self) -> None:
        client = self.plane.connect().send(self.one(0) + b"NONSENSE\r\n\r\n" + self.one(1))
        service = self.plane.upstream.accept()
        assert client.answers() == []
        service.answer(b"first")
        assert [answer.status for answer in client.answers()] == [200, 400]
        assert self.plane.upstream.connecting == []
        assert client.wire.closed and not client.wire.aborted

    def test_nothing_is_served_behind_a_close(self) -> None:
        client = self.plane.connect().send(HEAD + b"Connection: close\r\n\r\n" + self.one(1))
        self.plane.upstream.accept().answer(b"bye")
        assert [answer.body for answer in client.answers()] == [b"bye"]
        assert self.plane.upstream.connecting == []
        # In order, and not before what came behind it is read: else a reset could overtake the answer.
        assert client.wire.write_closed and not client.wire.disconnecting
        self.plane.clock.pump([1.0] * 3)
        assert client.wire.disconnecting and not client.wire.aborted

    def test_an_answer_before_the_end_of_its_request_is_the_last(self) -> None:
        client = self.plane.connect().send(POST + b"Content-Length: 100\r\n\r\n")
        self.plane.upstream.accept().answer(b"no", 413)
        client.send(self.one(1))
        assert [answer.status for answer in client.answers()] == [413]
        assert self.plane.upstream.connecting == []


class TestPipeliningFast(TestPipelining):
    """Over the fast plane."""

    fast = True


class TestLimits(SiteTests):
    """Settings of how much a client may."""

    limits = Limits(body_limit=10, keepalive_requests=3, head_timeout=5.0, keepalive_timeout=8.0)

    def test_a_length_over_the_limit(self) -> None:
        client = self.plane.connect().send(POST + b"Content-Length: 11\r\n\r\nhello")
        assert client.answer().status == 413
        assert client.wire.closed
        assert self.plane.upstream.connecting == []

    def test_a_length_at_the_limit(self) -> None:
        client = self.plane.connect().send(POST + b"Content-Length: 10\r\n\r\nhellohello")
        service = self.plane.upstream.accept()
        assert service.body == b"hellohello"
        service.answer(b"ok")
        assert client.answer().status == 200

    def test_chunks_over_the_limit(self) -> None:
        client = self.plane.connect().send(CHUNKED + b"\r\n5\r\nhello\r\n")
        service = self.plane.upstream.accept()
        client.send(b"5\r\nhello\r\n")
        assert service.body == b"hellohello"
        client.send(b"1\r\nx\r\n")
        assert client.answer().status == 413
        assert service.aborted and client.wire.write_closed
        assert self.statuses() == [413]
        client.leaves()
        assert not self.site.channels

    def test_chunks_over_the_limit_that_come_with_their_head(self) -> None:
        for end in (b"", b"0\r\n\r\n"):
            client = self.plane.connect().send(CHUNKED + b"\r\nb\r\nhello world\r\n" + end)
            assert client.answer().status == 413
            assert self.plane.upstream.connecting == []
            assert len(self.plane.exchanges) == 0
            client.send(HEAD + b"\r\n")
            self.plane.clock.pump([1.0] * 3)
            assert client.wire.disconnecting and client.answers() == []
        assert self.statuses() == [413, 413]

    def test_chunks_over_the_limit_behind_an_answer_that_has_begun(self) -> None:
        client = self.plane.connect().send(CHUNKED + b"\r\n5\r\nhello\r\n")
        service = self.plane.upstream.accept()
        service.respond(200, (b"Content-Length", b"10"))
        client.send(b"6\r\n world\r\n")
        assert client.answer().complete is False
        assert client.wire.aborted and service.aborted

    def test_a_connection_carries_so_many_requests(self) -> None:
        client = self.plane.connect()
        for last in (False, False, True):
            client.ask()
            self.plane.upstream.accept().answer(b"x")
            answer = client.answer()
            assert answer.field(b"Connection") == ([b"close"] if last else [])
        assert client.wire.disconnecting and not client.wire.aborted

    def test_those_that_are_refused_count(self) -> None:
        client = self.plane.connect().send(b"GET /nobody HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
        assert [answer.field(b"Connection") for answer in client.answers()] == [[], [], [b"close"]]
        assert client.wire.closed

    def test_a_head_may_take_so_long(self) -> None:
        client = self.plane.connect()
        self.plane.clock.pump([1.0] * 4)
        # It counts from its first byte.
        client.send(HEAD)
        self.plane.clock.pump([1.0] * 4)
        assert client.answers() == []
        client.send(b"X: y\r\n")
        self.plane.clock.pump([1.0] * 3)
        assert client.answer().status == 408
        assert client.wire.closed
        client.send(b"\r\n")
        assert self.plane.upstream.connecting == []
        client.leaves()
        assert self.statuses() == [408]

    def test_the_next_head_has_its_own_time(self) -> None:
        client = self.plane.connect()
        for _ in range(2):
            client.send(HEAD[:10])
            self.plane.clock.pump([1.0] * 4)
            client.send(HEAD[10:] + b"\r\n")
            service = self.plane.upstream.accept()
            self.plane.clock.pump([1.0] * 4)
            service.answer(b"x")
            assert client.answer().body == b"x"

    def test_one_that_waits_in_a_head_behind_an_answer(self) -> None:
        client = self.plane.connect().send(HEAD + b"\r\n" + HEAD)
        self.plane.upstream.accept().answer(b"x")
        assert client.answer().body == b"x"
        self.plane.clock.pump([1.0] * 7)
        assert client.answer().status == 408

    def test_an_idle_connection_is_kept_so_long(self) -> None:
        client, never = self.plane.connect(), self.plane.connect()
        self.plane.clock.pump([1.0] * 4)
        client.ask()
        self.plane.upstream.accept().answer(b"x")
        client.answers()
        self.plane.clock.pump([1.0] * 5)
        assert never.wire.disconnecting and not client.wire.closed
        self.plane.clock.pump([1.0] * 4)
        assert client.wire.disconnecting and client.answers() == []
        assert not self.site.channels


class TestLimitsFast(TestLimits):
    """Over the fast plane."""

    fast = True


class TestOldClients(SiteTests):
    """HTTP/1.0, and what was sent before it was written down."""

    def test_a_connection_is_kept_where_it_is_asked_for(self) -> None:
        client = self.plane.connect()
        for keep in (True, True, False):
            fields = (b"Connection: Keep-Alive",) if keep else ()
            client.ask(b"GET /svc/x HTTP/1.0", *fields)
            self.plane.upstream.accept().answer(b"x")
            answer = client.answer()
            kept = keep and self.fast
            assert answer.field(b"Connection") == [b"keep-alive" if kept else b"close"]
            assert client.wire.closed is not kept
            if not kept:
                return

    def test_an_answer_without_length_ends_with_the_connection(self) -> None:
        client = self.plane.connect().ask(b"GET /svc/x HTTP/1.0", b"Connection: keep-alive")
        service = self.plane.upstream.accept()
        service.respond(200, (b"Transfer-Encoding", b"chunked"))
        service.send_body(b"all")
        service.finish()
        answer = client.answer()
        assert (answer.body, answer.complete) == (b"all", True)
        assert answer.field(b"Connection") == [b"close"]
        assert client.wire.disconnecting

    def test_an_expectation_is_none(self) -> None:
        self.plane.connect().ask(b"POST /svc/x HTTP/1.0", b"Content-Length: 2", b"Expect: 100-continue")
        assert self.plane.upstream.accept().field(b"Expect") == []

    def test_empty_lines_between_requests(self) -> None:
        client = self.plane.connect()
        # twisted.web's channel knows of one.
        for piece in (b"\r\n", b"\r", b"\n") if self.fast else (b"\r\n",):
            client.send(piece)
        client.send(HEAD + b"\r\n")
        self.plane.upstream.accept().answer(b"one")
        client.send(b"\r\n" + HEAD + b"\r\n")
        self.plane.upstream.accept().answer(b"two")
        assert [answer.body for answer in client.answers()] == [b"one", b"two"]

    def test_an_empty_line_before_every_request(self) -> None:
        client = self.plane.connect()
        for _ in range(10):
            client.send(b"\r\n" + HEAD + b"\r\n")
            self.plane.upstream.accept().answer(b"x")
        assert [answer.body for answer in client.answers()] == [b"x"] * 10


class TestOldClientsFast(TestOldClients):
    """Over the fast plane."""

    fast = True


def told(fast: bool) -> list[dict[str, Any]]:
    """What the access log is told of one and the same traffic, on either plane."""
    ended = Entries()

    def site(resource: Any, clock: Clock) -> ProxySite:
        return ProxySite(resource, clock, ended.tell, fast=resource if fast else None)

    plane = new_plane(site, ONE)
    plane.resource.serve({b"echo": Echo()})
    plane.clock.advance(1_700_000_000.25)

    def begin(line: bytes = b"GET /svc/x?y HTTP/1.1", *fields: bytes, body: bytes = b"") -> Client:
        plane.clock.advance(2.5)
        return plane.connect().ask(line, b"User-Agent: me", b"Referer: http://r/", *fields, body=body)

    begin()
    plane.clock.advance(0.5)
    plane.upstream.accept().answer(b"hello")
    begin(b"HEAD /svc/x HTTP/1.1")
    plane.upstream.accept().answer(b"hello")
    begin(b"POST http://other.example/svc/x HTTP/1.0", b"Content-Length: 5", body=b"hello")
    plane.upstream.accept().answer(b"", 204)
    client = begin(b"POST /svc/x HTTP/1.1", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n")
    service = plane.upstream.accept()
    service.respond(200, (b"Transfer-Encoding", b"chunked"))
    service.send_body(b"echo hello")
    client.leaves()
    begin(b"POST /svc/x HTTP/1.1", b"Content-Length: 10", body=b"hello").leaves()
    begin()
    plane.upstream.refuse()
    begin()
    service = plane.upstream.accept()
    service.respond(200, (b"Content-Length", b"9"))
    service.send_body(b"half")
    service.lose(detail="reset")
    plane.clock.advance(0)
    begin(b"GET /nobody/x HTTP/1.1")
    begin(b"GET /echo/x HTTP/1.1")
    client = begin(b"GET /svc/one HTTP/1.1")
    plane.upstream.accept().answer(b"1")
    client.ask(b"GET /svc/two HTTP/1.1")
    plane.upstream.accept().answer(b"22")
    begin()
    plane.upstream.accept()
    assert plane.exchanges.cut() == 1
    plane.clock.advance(0)
    return [{**entry.line, "id": bool(entry.id)} for entry in ended]


def test_the_access_log_tells_the_same_of_both_planes() -> None:
    web, fast = told(False), told(True)
    assert len(web) == len(fast) == 12
    for one, other in zip(web, fast, strict=True):
        if one["status"] == 404:
            # Here twisted.web makes nothing of it that would have an id.
            one["id"] = True
        assert one == other
