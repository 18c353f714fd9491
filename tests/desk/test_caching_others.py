"""What one client, or one answer, costs others at the cache: no answers, no time, no memory."""

from __future__ import annotations

from typing import Any

from onebackend_proxy.desk.flights import MAX_DOUBTS, PATIENCE
from onebackend_proxy.desk.sources import PIECE
from onebackend_proxy.desk.storage import ASK_AGAIN
from onebackend_proxy.policies.cache_requests import read_request
from onebackend_proxy.policies.caching import MAX_LEFT_OUT
from onebackend_proxy.records import FieldEdits, HeaderEdits, Policy, Route, WeightedTarget

from ..downstream.test_edge import slow
from .caching import ETAG, HOUR, CacheTests, cc, status_of
from .support import guarded_plane

LANGUAGE = (b"Vary", b"Accept-Language")
IF_ERROR = cc(b"max-age=1, stale-if-error=1000")
WHILE_ASKING = cc(b"max-age=1, stale-while-revalidate=1000")
GET_B = b"GET /b HTTP/1.1"


class OthersTests(CacheTests):
    """With what most of these tests begin."""

    item_max_size = 200_000

    def stale(self, *fields: tuple[bytes, bytes], body: bytes = b"hello") -> None:
        """There is a stale answer."""
        self.fill(*(fields or (IF_ERROR, ETAG)), body=body)
        self.advance(5)

    @property
    def asking(self) -> int:
        """How many wait for a connection to the service."""
        return len(self.plane.upstream.connecting)


class TestStaleAnswersStay(OthersTests):
    """Nobody can throw away what others get where the service fails."""

    def still_there(self, *fields: bytes, status: int, answer: tuple[bytes, bytes] = cc(b"private")) -> None:
        _client, service = self.missed(*fields)
        if status == 304:
            service.respond(304, answer, self.date())
            service.finish()
        else:
            service.answer(b"", status, answer, self.date())
        other = self.send()
        self.plane.upstream.refuse()
        assert other.answer().body == b"hello"

    def test_an_error_of_one_clients_own_making(self) -> None:
        self.stale()
        for status in (400, 401, 403, 406, 408, 413, 417, 429, 431):
            self.still_there(b"X-Odd: " + b"x" * 5000, status=status)
            self.advance(ASK_AGAIN)

    def test_what_is_for_one_client_alone(self) -> None:
        self.stale(cc(b"public, max-age=1, stale-if-error=1000"), ETAG)
        for field in (b"Cookie: a=b", b"Authorization: Bearer x"):
            for status in (200, 302, 404, 304):
                self.still_there(field, status=status)
                self.advance(ASK_AGAIN)

    def test_no_store_of_a_client(self) -> None:
        self.stale()
        for status in (200, 304):
            self.still_there(b"Cache-Control: no-store", status=status)
            self.advance(ASK_AGAIN)

    def test_a_piece(self) -> None:
        self.stale(IF_ERROR)
        self.still_there(b"Range: bytes=0-1", status=206)

    def test_what_is_for_all_takes_its_place(self) -> None:
        for status in (200, 301, 404, 410):
            line = b"GET /%d HTTP/1.1" % status
            self.fill(IF_ERROR, ETAG, line=line)
            self.advance(5)
            self.fill(cc(b"no-store"), status=status, line=line)
            client = self.send(line=line)
            self.plane.upstream.refuse()
            assert client.answer().status == 502


class TestFailures(OthersTests):
    """Where the service fails, nobody waits for longer than needed, and nobody is refused without need."""

    def test_a_failure_is_remembered(self) -> None:
        self.stale()
        client = self.send()
        self.plane.upstream.refuse()
        assert status_of(client.answer()) == b"fwd=stale"
        for _ in range(5):
            assert status_of(self.hit()) == b"hit; ttl=-4"
        self.advance(ASK_AGAIN)
        self.missed()

    def test_an_errors_body_is_not_waited_for(self) -> None:
        self.stale()
        client, service = self.missed()
        follower = self.send()
        service.respond(503, (b"Transfer-Encoding", b"chunked"))
        assert (client.answer().status, follower.answer().status) == (200, 200)
        assert service.unwanted and not client.wire.closed
        assert len(self.plane.exchanges) == 0
        assert self.plane.upstream.connections[0].endpoint.in_flight == 0

    def test_who_has_waited_long_enough_gets_the_stale_answer(self) -> None:
        self.stale()
        _leader, _service = self.missed()
        followers = [self.send() for _ in range(10)]
        self.plane.clock.pump([1.0] * int(PATIENCE))
        got = [answer for each in followers for answer in each.answers()]
        assert len(got) >= 5
        assert {answer.status for answer in got} == {200}
        # And whoever comes now need not wait at all.
        assert self.send().answer().body == b"hello"

    def test_the_words_for_it(self) -> None:
        """Who waited for a stale answer got a stale one, and not a hit."""
        self.stale()
        _leader, service = self.missed()
        self.send()
        exchanges = list(self.plane.exchanges._active)
        service.answer(b"", 503)
        assert [each.cache for each in exchanges] == ["stale", "stale"]
        assert (self.stats.hits, self.stats.stale) == (0, 2)

    def test_the_status_is_what_the_client_got(self) -> None:
        for fields, status in (([b'If-None-Match: "one"'], 304), ([b"Range: bytes=0-1"], 206)):
            self.fill(IF_ERROR, ETAG)
            self.advance(5)
            client, service = self.missed(*fields)
            [exchange] = self.plane.exchanges._active
            service.respond(304, self.date())
            service.finish()
            assert (client.answer().status, exchange.status) == (status, status)
            self.storage.purge()

    def test_a_proxy_that_stops_has_no_time_for_that(self) -> None:
        self.stale(body=bytes(2 * PIECE))
        client, _service = self.missed()
        client.wire.fill()
        self.plane.exchanges.drain(5)
        self.advance(5)
        assert len(self.plane.exchanges) == 0
        client.wire.drain()
        assert client.answer().status == 503

    def test_what_was_purged_meanwhile_is_not_given(self) -> None:
        self.stale()
        client, service = self.missed()
        follower = self.send()
        self.storage.purge("x.com")
        service.answer(b"", 503)
        assert client.answer().status == 503
        self.plane.upstream.refuse()
        assert follower.answer().status == 502

    def test_another_routes_purge_is_no_reason(self) -> None:
        self.stale()
        client, service = self.missed()
        self.storage.purge("y.com")
        service.answer(b"", 503)
        assert client.answer().status == 200


class TestFailuresOnTheWebPlane(TestFailures):
    """The same through twisted.web."""

    factory: Any = staticmethod(slow)


class TestQueues(OthersTests):
    """Nobody waits for an answer that is not for them."""

    def test_other_variants(self) -> None:
        self.fill(HOUR, LANGUAGE, ask=(b"Accept-Language: en",))
        for number in range(10):
            self.send(b"Accept-Language: l%d" % number)
        assert self.asking == 10
        self.send(b"Accept-Language: l3")
        assert self.asking == 10

    def test_private_pages(self) -> None:
        for _ in range(5):
            self.send(b"Cookie: a=b")
            self.send(b"Authorization: Bearer x")
        assert self.asking == 10

    def test_but_for_what_is_for_all_who_show_whose_they_are(self) -> None:
        self.stale(cc(b"public, max-age=1"))
        for _ in range(5):
            self.send(b"Cookie: a=b")
        assert self.asking == 1

    def test_a_leader_whose_client_has_stopped_reading(self) -> None:
        leader, service = self.missed()
        service.respond(200, HOUR, (b"Content-Length", b"50000"), self.date())
        service.send_body(bytes(20_000))
        leader.wire.fill()
        other = self.send()
        assert self.asking == 1
        self.plane.upstream.accept().answer(b"hello", 200, HOUR, self.date())
        assert other.answer().body == b"hello"

    def test_one_clients_error_lets_not_all_go(self) -> None:
        _odd, service = self.missed(b"X-Odd: " + b"x" * 5000)
        followers = [self.send() for _ in range(20)]
        service.answer(b"", 431, self.date())
        assert self.asking == 1
        self.send()
        assert self.asking == 1
        self.plane.upstream.accept().answer(b"hello", 200, HOUR, self.date())
        assert {each.answer().body for each in followers} == {b"hello"}

    def test_an_error_that_all_get_is_soon_known(self) -> None:
        _odd, service = self.missed()
        followers = [self.send() for _ in range(20)]
        service.answer(b"", 400, self.date())
        rounds = []
        while self.asking:
            rounds.append(self.asking)
            for _ in range(rounds[-1]):
                self.plane.upstream.accept().answer(b"", 400, self.date())
        assert rounds == [1, 2, 4, 13] and len(rounds) == MAX_DOUBTS + 1
        assert {each.answer().status for each in followers} == {400}
        # From now on, for a moment, nobody waits.
        for _ in range(3):
            self.send()
        assert len(self.plane.upstream.connecting) == 3
        assert not any(guard.cache.flights for guard in self.plane.guards._made.values())

    def test_who_leaves_before_there_is_an_answer_was_at_the_cache(self) -> None:
        leader, _service = self.missed()
        follower = self.send()
        exchanges = list(self.plane.exchanges._active)
        follower.leaves()
        leader.leaves()
        assert [each.cache for each in exchanges] == ["miss", "miss"]


class TestInTheBackground(OthersTests):
    """What nobody waits for is given up when it is of no use."""

    def test_an_answer_that_is_not_kept(self) -> None:
        self.stale(WHILE_ASKING, ETAG)
        for status, field in ((503, ETAG), (200, cc(b"no-store"))):
            self.hit_while_asking()
            service = self.plane.upstream.accept()
            service.respond(status, field, (b"Transfer-Encoding", b"chunked"))
            assert service.aborted
            assert len(self.plane.exchanges) == 0
            self.advance(ASK_AGAIN)

    def hit_while_asking(self) -> None:
        assert self.send().answer().body == b"hello"

    def test_one_that_grows_too_large(self) -> None:
        self.stale(WHILE_ASKING, ETAG)
        self.hit_while_asking()
        service = self.plane.upstream.accept()
        service.respond(200, HOUR, (b"Transfer-Encoding", b"chunked"))
        for _ in range(3):
            service.send_body(bytes(self.item_max_size // 2))
            if service.aborted:
                break
        assert service.aborted
        assert self.storage.on_the_way == 0

    def test_one_at_a_time(self) -> None:
        self.stale(WHILE_ASKING, ETAG)
        for _ in range(int(PATIENCE - 1)):
            self.hit_while_asking()
            self.advance(1)
        assert self.asking == 1
        hanging = self.plane.upstream.accept()
        self.advance(1)
        # It has hung for long enough.
        self.hit_while_asking()
        assert hanging.aborted
        self.plane.upstream.accept().answer(b"new", 200, HOUR, self.date())
        assert self.hit().body == b"new"
        assert len(self.plane.exchanges) == 0

    def test_who_brings_nothing_home_does_not_ask_for_others(self) -> None:
        self.stale(WHILE_ASKING, ETAG)
        assert self.hit(b"Cache-Control: no-store").body == b"hello"
        assert self.send(b"X-Odd: 1").answer().body == b"hello"
        service = self.plane.upstream.accept()
        service.respond(431, (b"Content-Length", b"0"))
        # The next one may do better, at once.
        self.hit_while_asking()
        self.plane.upstream.accept().answer(b"new", 200, HOUR, self.date())
        assert self.hit().body == b"new"


class TestSlowClients(OthersTests):
    """Who reads slowly has nothing of its own in memory."""

    body = bytes(range(256)) * 300

    def begin(self, *fields: bytes) -> Any:
        assert len(self.body) > PIECE
        self.stale(body=self.body)
        client, service = self.missed(*fields)
        client.wire.fill()
        return client, service

    def finishes(self, client: Any, body: bytes) -> None:
        """Nothing but the head is on its way, and the rest comes when there is room."""
        assert len(client.wire.value()) < 2000
        assert len(self.plane.exchanges) == 1
        client.wire.drain()
        assert client.answer().body == body
        assert len(self.plane.exchanges) == 0

    def test_after_a_304(self) -> None:
        self.stale(body=self.body)
        client, service = self.missed()
        follower = self.send()
        client.wire.fill()
        service.respond(304, self.date())
        service.finish()
        # Others do not wait for it.
        assert follower.answer().body == self.body
        self.finishes(client, self.body)
        assert service.endpoint.in_flight == 0

    def test_in_the_place_of_an_error(self) -> None:
        client, service = self.begin()
        service.answer(b"oh", 503)
        self.finishes(client, self.body)
        assert service.endpoint.in_flight == 0

    def test_where_the_service_cannot_be_reached(self) -> None:
        self.stale(body=self.body)
        client = self.send()
        client.wire.fill()
        [connecting] = self.plane.upstream.connecting
        self.plane.upstream.refuse()
        self.finishes(client, self.body)
        assert connecting.endpoint.in_flight == 0

    def test_who_stops_reading_is_given_up(self) -> None:
        client, service = self.begin()
        service.respond(304, self.date())
        self.plane.clock.pump([10.0] * 100)
        assert client.wire.closed
        assert len(self.plane.exchanges) == 0
        assert service.endpoint.in_flight == 0

    def test_a_piece_is_no_copy(self) -> None:
        self.fill(HOUR, body=self.body)
        client = self.send(b"Range: bytes=1-")
        assert client.answer().body == self.body[1:]
        [guard] = self.plane.guards._made.values()
        [kept] = self.storage._order
        _head, piece = guard.cache.as_asked(kept, read_request([(b"Range", b"bytes=1-")]), 0.0)
        assert isinstance(piece, memoryview) and piece.obj is kept.body


class TestSlowClientsOnTheWebPlane(TestSlowClients):
    """The same through twisted.web."""

    factory: Any = staticmethod(slow)


class TestSizes(OthersTests):
    """What is kept takes what it is counted for."""

    def test_fields_that_are_left_out(self) -> None:
        names = b",".join(b"a%d" % number for number in range(MAX_LEFT_OUT))
        assert self.is_kept(cc(b'max-age=60, no-cache="%b"' % names))
        assert not self.is_kept(cc(b'max-age=60, no-cache="%b,b"' % names), line=GET_B)
        self.storage.purge()
        self.fill(cc(b'max-age=60, x="%b"' % names))
        few = self.stats.bytes
        self.storage.purge()
        self.fill(cc(b'max-age=60, no-cache="%b"' % names))
        assert self.stats.bytes > few + 100 * MAX_LEFT_OUT

    def test_a_whole_with_the_field_of_a_piece(self) -> None:
        self.fill(HOUR, (b"content-range", b"bytes 0-1/9"))
        assert self.hit(b"Range: bytes=0-1").field(b"Content-Range") == [b"bytes 0-1/5"]

    def test_what_proves_who_one_client_is(self) -> None:
        self.fill(cc(b"public, max-age=60"), (b"Authentication-Info", b"nextnonce=1"))
        assert self.hit().field(b"Authentication-Info") == []


class TestAffinity(OthersTests):
    """The cookie that keeps a client at one endpoint says nothing of whose an answer is."""

    def make_plane(self, **more: Any) -> Any:
        targets = (WeightedTarget("http://10.0.0.1"), WeightedTarget("http://10.0.0.2"))
        routes = [Route("x.com", targets=targets, balance="cookie", policy=self.policy)]
        return guarded_plane(self.factory, routes, storage=self.storage, **more)

    def cookie(self) -> bytes:
        [field] = self.fill(HOUR).field(b"Set-Cookie")
        assert field.startswith(b"ob_upstream=")
        return b"Cookie: " + field.partition(b";")[0]

    def test_an_answer_with_it_is_kept_without_it(self) -> None:
        self.cookie()
        answer = self.hit()
        assert (answer.body, answer.field(b"Set-Cookie")) == (b"hello", [])

    def test_a_request_with_it_is_as_any_other(self) -> None:
        cookie = self.cookie()
        assert self.hit(cookie).body == b"hello"
        assert self.is_kept(HOUR, ask=(cookie,), line=GET_B)

    def test_a_304_with_it(self) -> None:
        self.fill(cc(b"no-cache"), ETAG)
        client, service = self.missed()
        service.respond(304, self.date())
        service.finish()
        answer = client.answer()
        assert len(answer.field(b"Set-Cookie")) == 1 and answer.status == 200
        assert self.stats.entries == 1
        _client, service = self.missed()
        assert service.field(b"If-None-Match") == [b'"one"']

    def test_cookies_of_the_service_count_as_ever(self) -> None:
        cookie = self.cookie()
        for more in (
            (cookie + b"; a=b",),
            (cookie + b", a=b",),
            (cookie, b"Cookie: a=b"),
            (cookie + b"x",),
            (b"Cookie: a=b; " + cookie[8:],),
        ):
            _client, service = self.missed(*more)
            service.answer(b"mine", 200, HOUR, self.date())
            assert self.hit().body == b"hello"
        self.fill(HOUR, (b"Set-Cookie", b"a=b"), line=GET_B)
        self.missed(line=GET_B)


class TestWhatChangesIsNamed(OthersTests):
    """A service names its targets as itself has them, or as clients do: both are understood."""

    policy = Policy(
        cache=True,
        strip_prefix=True,
        headers=HeaderEdits(request=FieldEdits(set=(("Host", "inner.test"),))),
    )

    def make_plane(self, **more: Any) -> Any:
        routes = [Route("x.com/app", "http://10.0.0.1", policy=self.policy)]
        return guarded_plane(self.factory, routes, storage=self.storage, **more)

    def test_in_whose_words_ever(self) -> None:
        for field in (b"Location", b"Content-Location"):
            for named in (
                b"/app/a",
                b"a",
                b"http://x.com/app/a",
                b"http://X.com/app/a",
                b"/a",
                b"http://inner.test/a",
            ):
                self.fill(HOUR, line=b"GET /app/a HTTP/1.1")
                client = self.send(b"Content-Length: 0", line=b"POST /app/x HTTP/1.1")
                self.plane.upstream.accept().answer(b"", 201, (field, named))
                assert client.answer().status == 201
                assert self.stats.entries == 0, named

    def test_not_what_is_elsewhere(self) -> None:
        self.fill(HOUR, line=b"GET /app/a HTTP/1.1")
        for named in (b"http://y.com/app/a", b"/apple/a", b"/app/b", b"//inner/a"):
            client = self.send(b"Content-Length: 0", line=b"POST /app/x HTTP/1.1")
            self.plane.upstream.accept().answer(b"", 201, (b"Location", named))
            assert client.answer().status == 201
        assert self.stats.entries == 1
