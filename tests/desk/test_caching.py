"""What the edge cache answers from memory, and what it asks the service (RFC 9111, 5861, 9110, 9211)."""

from __future__ import annotations

from onebackend_proxy.desk.storage import ASK_AGAIN
from onebackend_proxy.headers import prepare_response

from ..downstream.test_edge import slow, stock
from .caching import ETAG, HOUR, CacheTests, cc, status_of


class TestHits(CacheTests):
    """What is answered from memory."""

    def test_a_miss_and_a_hit(self) -> None:
        answer = self.fill(HOUR, (b"X-Theirs", b"1"))
        assert (answer.status, answer.body) == (200, b"hello")
        assert status_of(answer) == b"fwd=uri-miss; stored"
        assert answer.field(b"Age") == []
        self.advance(10)
        again = self.hit()
        assert (again.status, again.body, again.field(b"X-Theirs")) == (200, b"hello", [b"1"])
        assert (status_of(again), again.field(b"Age")) == (b"hit; ttl=3590", [b"10"])
        assert again.field(b"Date") == answer.field(b"Date")
        assert again.field(b"Content-Length") == [b"5"]
        assert (self.stats.hits, self.stats.misses, self.stats.stored, self.stats.entries) == (1, 1, 1, 1)

    def test_until_it_is_stale(self) -> None:
        self.fill(HOUR)
        self.advance(3599)
        self.hit()
        self.advance(1)
        client, service = self.missed()
        service.answer(b"new", 200, HOUR, self.date())
        assert status_of(client.answer()) == b"fwd=stale; stored"
        assert self.hit().body == b"new"

    def test_an_answer_in_chunks(self) -> None:
        client, service = self.missed()
        service.respond(200, HOUR, self.date(), (b"Transfer-Encoding", b"chunked"))
        for piece in (b"he", b"llo"):
            service.send_body(piece)
        service.finish((b"X-Trailer", b"1"))
        assert client.answer().body == b"hello"
        again = self.hit()
        assert (again.body, again.field(b"Content-Length")) == (b"hello", [b"5"])

    def test_an_answer_without_a_date_gets_one_that_stays(self) -> None:
        client, service = self.missed()
        service.answer(b"hello", 200, HOUR)
        assert client.answer().complete
        self.advance(60)
        assert self.hit().field(b"Date") == [self.date(60)[1]]

    def test_head_is_answered_from_get(self) -> None:
        self.fill(HOUR)
        answer = self.hit(line=b"HEAD /a HTTP/1.1")
        assert (answer.status, answer.body, answer.field(b"Content-Length")) == (200, b"", [b"5"])

    def test_head_fills_nothing(self) -> None:
        client, service = self.missed(line=b"HEAD /a HTTP/1.1")
        service.respond(200, HOUR, (b"Content-Length", b"5"))
        service.finish()
        assert status_of(client.answer()) == b"fwd=uri-miss"
        assert self.stats.entries == 0

    def test_its_own_cache_status_comes_after_the_services(self) -> None:
        answer = self.fill(HOUR, (b"Cache-Status", b"origin; hit"))
        assert answer.field(b"Cache-Status") == [b"origin; hit", b"onebackend-proxy; fwd=uri-miss; stored"]
        assert self.hit().field(b"Cache-Status") == [b"origin; hit", b"onebackend-proxy; hit; ttl=3600"]

    def test_a_head_that_comes_again(self) -> None:
        """As from a connection that carries the same answer twice; what is said of it may differ."""
        fields = [HOUR, self.date(), (b"Vary", b"X-A"), (b"Content-Length", b"0")]
        for control, first, second in (
            (HOUR, b"fwd=uri-miss; stored", b"fwd=vary-miss; stored"),
            (cc(b"no-store"), b"fwd=uri-miss", b"fwd=uri-miss"),
        ):
            head = prepare_response(b"GET", True, 200, b"OK", [control, *fields[1:]])
            for value, said in ((b"1", first), (b"2", second)):
                client, service = self.missed(b"X-A: " + value)
                service.exchange.head_received(head)
                service.finish()
                assert status_of(client.answer()) == said
            self.storage.purge()

    def test_a_large_one_goes_as_fast_as_the_client_takes_it(self) -> None:
        body = bytes(99_000)
        self.fill(HOUR, body=body)
        client = self.plane.connect()
        client.wire.fill()
        client.send(b"GET /a HTTP/1.1\r\nHost: x.com\r\n\r\n")
        client.wire.drain()
        assert client.answer().body == body

    def test_an_empty_answer(self) -> None:
        assert self.is_kept(HOUR, body=b"")
        client, service = self.missed(line=b"GET /b HTTP/1.1")
        service.respond(204, HOUR, self.date())
        service.finish()
        assert client.answer().status == 204
        answer = self.hit(line=b"GET /b HTTP/1.1")
        assert (answer.status, answer.field(b"Content-Length")) == (204, [])


class TestConditions(CacheTests):
    """Conditional requests, and pieces."""

    def test_304_by_etag(self) -> None:
        self.fill(HOUR, ETAG, (b"Content-Type", b"text/plain"))
        for said in (b'"one"', b'W/"one"', b'"two", "one"', b"*"):
            answer = self.hit(b"If-None-Match: " + said)
            assert (answer.status, answer.body, answer.field(b"ETag")) == (304, b"", [b'"one"'])
            assert answer.field(b"Content-Type") == answer.field(b"Content-Length") == []
            assert status_of(answer) == b"hit; ttl=3600"
        assert self.hit(b'If-None-Match: "two"').status == 200

    def test_304_by_date(self) -> None:
        self.fill(HOUR, (b"Last-Modified", self.date(1000)[1]))
        assert self.hit(b"If-Modified-Since: " + self.date(1000)[1]).status == 304
        assert self.hit(b"If-Modified-Since: " + self.date(1001)[1]).status == 200
        assert self.hit(b"If-Modified-Since: yesterday").status == 200
        # If-None-Match decides alone.
        assert self.hit(b'If-None-Match: "x"', b"If-Modified-Since: " + self.date()[1]).status == 200

    def test_a_piece(self) -> None:
        self.fill(HOUR, ETAG, body=b"0123456789")
        for said, body, where in (
            (b"0-1", b"01", b"0-1"),
            (b"8-", b"89", b"8-9"),
            (b"-3", b"789", b"7-9"),
            (b"5-500", b"56789", b"5-9"),
        ):
            answer = self.hit(b"Range: bytes=" + said)
            assert (answer.status, answer.body) == (206, body)
            assert answer.field(b"Content-Range") == [b"bytes " + where + b"/10"]
            assert answer.field(b"Content-Length") == [b"%d" % len(body)]

    def test_a_piece_that_is_not_there(self) -> None:
        self.fill(HOUR, body=b"0123456789")
        answer = self.hit(b"Range: bytes=10-")
        assert (answer.status, answer.body, answer.field(b"Content-Range")) == (416, b"", [b"bytes */10"])

    def test_the_whole_where_a_piece_cannot_be(self) -> None:
        self.fill(HOUR, ETAG, body=b"0123456789")
        for fields in (
            (b"Range: bytes=0-1,3-4",),
            (b"Range: lines=0-1",),
            (b"Range: bytes=0-1", b'If-Range: "two"'),
            (b"Range: bytes=0-1", b'If-Range: W/"one"'),
        ):
            assert self.hit(*fields).status == 200
        assert self.hit(b"Range: bytes=0-1", b'If-Range: "one"').status == 206
        assert self.hit(b"Range: bytes=0-1", line=b"HEAD /a HTTP/1.1").status == 200

    def test_a_miss_goes_as_it_is_and_a_piece_is_not_kept(self) -> None:
        client, service = self.missed(b"Range: bytes=0-1", b'If-None-Match: "x"')
        assert service.field(b"Range") == [b"bytes=0-1"]
        assert service.field(b"If-None-Match") == [b'"x"']
        service.answer(b"01", 206, HOUR, (b"Content-Range", b"bytes 0-1/10"))
        assert status_of(client.answer()) == b"fwd=uri-miss"
        for status in (304, 404, 416):
            client, service = self.missed(b"Range: bytes=0-1", b'If-None-Match: "x"')
            service.respond(status, HOUR, *([] if status == 304 else [(b"Content-Length", b"0")]))
            service.finish()
        assert self.stats.entries == 0
        # Nobody waits for what may be a piece.
        self.fill(HOUR)


class TestRevalidation(CacheTests):
    """What is stale, and its service is asked."""

    def setUp(self) -> None:
        super().setUp()
        self.fill(
            cc(b"max-age=10"), ETAG, (b"Last-Modified", self.date(1000)[1]), (b"X-A", b"1"), (b"X-B", b"1")
        )
        self.advance(20)

    def test_304(self) -> None:
        client, service = self.missed(b"X-Mine: 1")
        assert service.field(b"If-None-Match") == [b'"one"']
        assert service.field(b"If-Modified-Since") == [self.date(1020)[1]]
        assert service.field(b"X-Mine") == [b"1"]
        service.respond(304, cc(b"max-age=100"), self.date(), (b"X-A", b"2"), (b"ETag", b'"one"'))
        service.finish()
        for answer in (client.answer(), self.hit()):
            assert (answer.status, answer.body) == (200, b"hello")
            assert (answer.field(b"X-A"), answer.field(b"X-B")) == ([b"2"], [b"1"])
            assert answer.field(b"Age") == [b"0"]
        assert self.stats.revalidated == 1

    def test_a_304_without_a_date_is_from_now(self) -> None:
        _client, service = self.missed()
        service.respond(304, cc(b"max-age=5"))
        service.finish()
        self.advance(4)
        assert self.hit().field(b"Age") == [b"4"]

    def test_the_client_gets_what_it_asked_for(self) -> None:
        for field, status in (
            (b'If-None-Match: "one"', 304),
            (b'If-None-Match: "two"', 200),
            (b"Range: bytes=0-1", 206),
        ):
            client, service = self.missed(field)
            assert service.field(b"If-None-Match") == [b'"one"']
            assert service.field(b"Range") == []
            service.respond(304)
            service.finish()
            answer = client.answer()
            assert (answer.status, status_of(answer)) == (status, b"fwd=stale; fwd-status=304")
            self.advance(20)

    def test_something_new(self) -> None:
        client, service = self.missed(b'If-None-Match: "one"')
        service.answer(b"new", 200, HOUR, self.date())
        assert client.answer().body == self.hit().body == b"new"

    def test_something_new_that_nobody_may_keep(self) -> None:
        client, service = self.missed()
        service.answer(b"mine", 200, cc(b"private"))
        assert client.answer().body == b"mine"
        assert self.stats.entries == 0

    def test_a_304_that_says_that_nobody_may_keep_it(self) -> None:
        client, service = self.missed()
        service.respond(304, cc(b"no-store"))
        service.finish()
        assert client.answer().body == b"hello"
        assert self.stats.entries == 0

    def test_a_cookie_in_a_304_is_for_one_client(self) -> None:
        client, service = self.missed()
        service.respond(304, cc(b"public, max-age=100"), self.date(), (b"Set-Cookie", b"a=b"))
        service.finish()
        assert client.answer().field(b"Set-Cookie") == [b"a=b"]
        assert self.hit().field(b"Set-Cookie") == []

    def test_an_error(self) -> None:
        client, service = self.missed()
        service.answer(b"oh", 503)
        assert client.answer().status == 503
        assert self.stats.entries == 1

    def test_no_cache(self) -> None:
        self.fill(cc(b"no-cache"), ETAG, line=b"GET /b HTTP/1.1")
        for _ in range(2):
            client, service = self.missed(line=b"GET /b HTTP/1.1")
            service.respond(304, self.date())
            service.finish()
            assert client.answer().body == b"hello"

    def test_head_asks_as_it_is(self) -> None:
        _client, service = self.missed(line=b"HEAD /a HTTP/1.1")
        assert service.field(b"If-None-Match") == []


class TestStale(CacheTests):
    """stale-while-revalidate and stale-if-error."""

    def test_stale_while_asking(self) -> None:
        self.fill(cc(b"max-age=10, stale-while-revalidate=30"), ETAG)
        self.advance(20)
        client = self.send(b"Range: bytes=0-1", b"Cookie2: x")
        answer = client.answer()
        assert (answer.status, status_of(answer), answer.field(b"Age")) == (206, b"hit; ttl=-10", [b"20"])
        service = self.plane.upstream.accept()
        assert (service.field(b"If-None-Match"), service.field(b"Range")) == ([b'"one"'], [])
        # Once for all.
        assert status_of(self.hit()) == b"hit; ttl=-10"
        service.respond(304, cc(b"max-age=100"), self.date())
        service.finish()
        assert status_of(self.hit()) == b"hit; ttl=100"
        assert (self.stats.stale, self.stats.hits) == (2, 1)

    def test_something_new_is_found_in_the_background(self) -> None:
        self.fill(cc(b"max-age=10, stale-while-revalidate=30"))
        self.advance(20)
        assert self.send(line=b"HEAD /a HTTP/1.1").answer().status == 200
        service = self.plane.upstream.accept()
        assert service.request_line == b"GET /a HTTP/1.1"
        service.answer(b"new", 200, HOUR, self.date())
        assert self.hit().body == b"new"

    def test_it_fails_in_the_background(self) -> None:
        self.fill(cc(b"max-age=10, stale-while-revalidate=30"))
        self.advance(20)
        assert self.send().answer().body == b"hello"
        self.plane.upstream.refuse()
        # Not for each request again.
        assert self.hit().body == b"hello"
        self.advance(6)
        assert self.send().answer().body == b"hello"
        service = self.plane.upstream.accept()
        service.respond(500, (b"Content-Length", b"2"))
        # Nobody wants the rest.
        assert service.aborted
        assert self.hit().body == b"hello"
        self.advance(30)
        self.missed()

    def test_stale_if_error(self) -> None:
        self.fill(cc(b"max-age=10, stale-if-error=100"), ETAG)
        self.advance(20)
        for break_it, said in (
            (lambda: self.plane.upstream.accept().answer(b"oh", 503), b"fwd=stale; fwd-status=503"),
            (lambda: self.plane.upstream.refuse(), b"fwd=stale"),
            (lambda: self.plane.upstream.accept().lose(), b"fwd=stale"),
        ):
            client = self.send()
            break_it()
            answer = client.answer()
            assert (answer.status, answer.body, status_of(answer)) == (200, b"hello", said)
            assert not client.wire.closed
            # For a moment it is not asked again, however many come.
            assert (self.hit().status, self.hit().body) == (200, b"hello")
            self.advance(ASK_AGAIN)
        assert (self.stats.stale, self.stats.hits) == (9, 0)
        self.advance(100)
        client = self.send()
        self.plane.upstream.accept().answer(b"oh", 503)
        assert client.answer().status == 503

    def test_an_error_that_breaks_off_is_covered_too(self) -> None:
        self.fill(cc(b"max-age=10, stale-if-error=100"))
        self.advance(20)
        client, service = self.missed()
        service.respond(500, (b"Content-Length", b"10"))
        service.send_body(b"oh")
        service.lose()
        assert client.answer().body == b"hello"

    def test_never_where_the_service_forbids_it(self) -> None:
        for more in (b", must-revalidate", b", proxy-revalidate", b", no-cache"):
            line = b"GET /" + more[2:] + b" HTTP/1.1"
            said = b"max-age=10, stale-if-error=100, stale-while-revalidate=100"
            self.fill(cc(said + more), ETAG, line=line)
            self.advance(20)
            client, service = self.missed(line=line)
            service.answer(b"oh", 503)
            assert client.answer().status == 503

    def test_another_answer_is_not_covered(self) -> None:
        self.fill(cc(b"max-age=10, stale-if-error=100"))
        self.advance(20)
        client, service = self.missed()
        service.answer(b"no", 404)
        assert client.answer().status == 404


class TestHitsOnOurSite(TestHits):
    """As a resource of a `ProxySite`."""

    factory = staticmethod(slow)


class TestHitsOnAStockSite(TestHits):
    """In another program's Site."""

    factory = staticmethod(stock)


class TestRevalidationOnOurSite(TestRevalidation):
    """As a resource of a `ProxySite`."""

    factory = staticmethod(slow)


class TestConditionsOnAStockSite(TestConditions):
    """In another program's Site."""

    factory = staticmethod(stock)


class TestStaleOnAStockSite(TestStale):
    """In another program's Site."""

    factory = staticmethod(stock)
