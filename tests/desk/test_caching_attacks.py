"""What strangers try on a cache: to get others' answers, to leave others wrong ones, to fill the memory."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from onebackend_proxy.desk.storage import MAX_PASSING, MAX_VARIANTS
from onebackend_proxy.records import Access, BasicUser, FieldEdits, HeaderEdits, Policy, Route

from .caching import ETAG, HOUR, CacheTests, cc, status_of
from .support import guarded_plane

GET_B = b"GET /b HTTP/1.1"


class TestPersonalAnswers(CacheTests):
    """Whatever one client may see alone stays with it."""

    def test_not_for_who_shows_whose_it_is(self) -> None:
        for field in (
            b"Cookie: a=b",
            b"cookie: a=b",
            b"Authorization: Basic eDp5",
            b"AUTHORIZATION: Bearer x",
        ):
            assert not self.is_kept(HOUR, ask=(field,))
        assert self.stats.entries == 0

    def test_not_what_sets_a_cookie(self) -> None:
        assert not self.is_kept(HOUR, (b"Set-Cookie", b"session=1"))
        assert not self.is_kept(HOUR, (b"set-cookie", b"session=1"))

    def test_unless_the_service_says_that_it_is_for_all(self) -> None:
        for said in (b"public, max-age=60", b"s-maxage=60"):
            for field in (b"Cookie: a=b", b"Authorization: Basic eDp5"):
                line = b"GET /%d HTTP/1.1" % self.stats.stored
                self.fill(cc(said), (b"Set-Cookie", b"session=1"), ask=(field,), line=line)
                # To others without what was for one alone.
                assert self.hit(line=line).field(b"Set-Cookie") == []

    def test_must_revalidate_does_not_say_that_it_is_for_all(self) -> None:
        said = cc(b"max-age=60, must-revalidate")
        assert not self.is_kept(said, ask=(b"Authorization: Bearer a",))
        self.fill(said, line=GET_B)
        self.missed(b"Authorization: Bearer a", line=GET_B)

    def test_who_shows_whose_it_is_gets_its_own(self) -> None:
        self.fill(HOUR, body=b"for anybody")
        client, service = self.missed(b"Cookie: a=b")
        service.answer(b"for one", 200, HOUR, self.date())
        answer = client.answer()
        assert (answer.body, status_of(answer)) == (b"for one", b"fwd=request")
        assert self.hit().body == b"for anybody"

    def test_behind_a_password_of_ours(self) -> None:
        """The service sees no Authorization, and the answer is for those alone who have one all the same."""
        from onebackend_proxy.passwords import hash_password

        policy = Policy(cache=True, access=Access(basic_auth=(BasicUser("ada", hash_password("secret")),)))
        routes = [Route("x.com", "http://10.0.0.1", policy=policy)]

        def at_once(work: Any, *arguments: Any) -> Any:
            from twisted.internet.defer import execute

            return execute(work, *arguments)

        self.plane = guarded_plane(self.factory, routes, storage=self.storage, in_thread=at_once)
        ada = (b"Authorization: Basic YWRhOnNlY3JldA==",)
        assert not self.is_kept(HOUR, ask=ada)
        assert not self.is_kept(cc(b"max-age=60, must-revalidate"), ask=ada)
        assert self.is_kept(cc(b"public, max-age=60"), ask=ada)
        assert self.send().answer().status == 401

    def test_no_store(self) -> None:
        for said in (
            b"no-store",
            b"private",
            b"no-store, max-age=60",
            b'max-age=60, private, x="',
            b"max-age=60; public",
        ):
            assert not self.is_kept(cc(said))
        assert not self.is_kept(HOUR, ask=(b"Cache-Control: no-store",))


class TestKeys(CacheTests):
    """Nothing that a service can see, and clients can choose, is left out of the key, or of Vary."""

    def other(self, *fields: bytes, **more: Any) -> None:
        """Such a request is not answered with what is kept for others, nor are others with what it brings."""
        client, service = self.missed(*fields, **more)
        service.answer(b"evil", 200, HOUR, self.date())
        assert client.answer().body == b"evil"
        assert self.hit().body == b"good"

    def setUp(self) -> None:
        super().setUp()
        self.fill(HOUR, body=b"good")

    def test_targets_are_compared_byte_for_byte(self) -> None:
        for target in (b"/A", b"/a/", b"/a?", b"/a?x", b"/%61", b"/a;x", b"//a", b"/a%2f"):
            client = self.send(line=b"GET " + target + b" HTTP/1.1")
            if self.plane.upstream.connecting:
                self.plane.upstream.accept().answer(b"other", 200, HOUR, self.date())
            assert client.answer().body != b"good"
        assert self.hit().body == b"good"

    def test_the_port_in_host_is_part_of_it(self) -> None:
        self.other(host=b"x.com:1234")
        # Of its case nothing depends.
        assert self.hit(host=b"X.com").body == b"good"

    def test_an_absolute_target_is_its_host(self) -> None:
        answer = self.hit(line=b"GET http://x.com/a HTTP/1.1", host=b"evil.example")
        assert answer.body == b"good"
        self.other(line=b"GET http://x.com:99/a HTTP/1.1")

    def test_what_strangers_say_of_the_way(self) -> None:
        """The service does not get to see it."""
        for field in (
            b"X-Forwarded-Host: evil.example",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Port: 1",
            b"X_Forwarded_Host: evil.example",
            b"Forwarded: host=evil.example",
        ):
            assert self.hit(field).body == b"good"

    def test_what_some_services_obey(self) -> None:
        for field in (
            b"X-HTTP-Method-Override: POST",
            b"x-http-method: DELETE",
            b"X-Method-Override: PUT",
            b"X-Original-URL: /admin",
            b"X-Rewrite-URL: /admin",
            b"X-Host: evil.example",
            b"front-end-https: on",
            b"If-Match: *",
        ):
            self.other(field)

    def test_two_fields_in_one(self) -> None:
        self.fill(HOUR, body=b"evil", ask=(b"X-Host: a, x-original-url:/b",))
        self.missed(b"X-Host: a", b"X-Original-URL: /b")

    def test_another_method_in_disguise_always_arrives(self) -> None:
        for field in (b"X-HTTP-Method-Override: DELETE", b"X-Method-Override: PUT", b"X-HTTP-METHOD: PATCH"):
            for _ in range(2):
                self.other(field)

    def test_a_get_with_a_body(self) -> None:
        self.other(b"Content-Length: 4", body=b"evil")

    def test_an_upgrade(self) -> None:
        self.other(b"Connection: Upgrade", b"Upgrade: websocket")

    def test_an_answer_for_another_method(self) -> None:
        client, service = self.missed(line=b"OPTIONS /a HTTP/1.1")
        service.answer(b"evil", 200, HOUR, self.date())
        assert status_of(client.answer()) == b"fwd=method"
        assert self.hit().body == b"good"

    def test_encodings_that_a_service_forgets_to_vary_by(self) -> None:
        gzip = (b"Content-Encoding", b"gzip")
        self.fill(HOUR, gzip, body=b"zip", line=GET_B, ask=(b"Accept-Encoding: gzip",))
        self.missed(line=GET_B)
        assert self.hit(b"Accept-Encoding: GZIP", line=GET_B).body == b"zip"

    def test_origins_that_a_service_forgets_to_vary_by(self) -> None:
        allowed = (b"Access-Control-Allow-Origin", b"https://evil.example")
        self.fill(HOUR, allowed, line=GET_B, ask=(b"Origin: https://evil.example",))
        self.missed(b"Origin: https://good.example", line=GET_B)

    def test_errors_about_one_clients_request(self) -> None:
        for status in (400, 401, 408, 413, 416, 417, 421, 429, 431, 501):
            assert not self.is_kept(HOUR, status=status, line=b"GET /%d HTTP/1.1" % status)

    def test_a_broken_off_answer(self) -> None:
        for framing in ((b"Content-Length", b"10"), (b"Transfer-Encoding", b"chunked")):
            _client, service = self.missed(line=GET_B)
            service.respond(200, HOUR, self.date(), framing)
            service.send_body(b"hello")
            service.lose()
        # One that is shorter than it says, whoever lets it pass.
        _client, service = self.missed(line=GET_B)
        service.respond(200, HOUR, self.date(), (b"Content-Length", b"10"))
        service.send_body(b"hello")
        service.finish()
        # One that ends with its connection may have been broken off, too.
        _client, service = self.missed(line=GET_B)
        service.respond(200, HOUR, self.date())
        service.send_body(b"hello")
        service.finish()
        assert self.stats.entries == 1


class TestTrustedProxies(CacheTests):
    """What a trusted proxy passes on from its clients is part of the key, since the service sees it."""

    def make_plane(self, **more: Any) -> Any:
        return super().make_plane(trusted=[ipaddress.ip_network("192.0.2.0/24")])

    def test_each_word_of_it(self) -> None:
        self.fill(HOUR, body=b"good")
        for field in (
            b"X-Forwarded-Host: evil.example",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Port: 1",
            b"X-Forwarded-Prefix: /x",
            b"X-Forwarded-Server: evil.example",
            b"Forwarded: host=evil.example",
        ):
            client, service = self.missed(field)
            service.answer(b"evil", 200, HOUR, self.date())
            client.answer()
            assert self.hit(field).body == b"evil"
            assert self.hit().body == b"good"
        # But not who the client is.
        assert self.hit(b"X-Forwarded-For: 6.6.6.6").body == b"good"

    def test_a_proto_that_pretends_to_be_two_fields(self) -> None:
        self.fill(HOUR, body=b"evil", ask=(b"X-A: X-Forwarded-Proto: https",))
        self.missed(b"X-Forwarded-Proto: https")


class TestEdits(CacheTests):
    """The key is what the service sees, with the operator's own fields."""

    policy = Policy(cache=True, headers=HeaderEdits(request=FieldEdits(remove=("X-Forwarded-Proto",))))

    def test_a_scheme_that_the_service_does_not_see(self) -> None:
        self.fill(HOUR, ETAG)
        assert self.hit().body == b"hello"


class TestVary(CacheTests):
    """Answers that differ by request fields."""

    def test_by_their_values(self) -> None:
        vary = (b"Vary", b"Accept-Language, X-A")
        self.fill(HOUR, vary, body=b"1", ask=(b"Accept-Language: en, de", b"X-A: 1"))
        self.fill(HOUR, vary, body=b"2", ask=(b"Accept-Language: en, de", b"X-A: 2"))
        self.fill(HOUR, vary, body=b"3")
        assert self.hit(b"x-a: 1", b"accept-language: EN,de").body == b"1"
        assert self.hit(b"Accept-Language: en, de", b"X-A: 2").body == b"2"
        assert self.hit().body == b"3"
        client, _service = self.missed(b"X-A: 1")
        assert client.answers() == []

    def test_lines_are_one_list(self) -> None:
        self.fill(HOUR, (b"Vary", b"X-A"), ask=(b"X-A: 1, 2",))
        self.hit(b"X-A: 1", b"X-A: 2")

    def test_a_star_and_what_differs_for_each_client(self) -> None:
        for value in (
            b"*",
            b"a, *",
            b"X-Forwarded-For",
            b"x-real-ip",
            b"X-Request-Id",
            b",".join(b"a%d" % n for n in range(17)),
        ):
            assert not self.is_kept(HOUR, (b"Vary", value))

    def test_what_is_in_the_key_is_no_difference(self) -> None:
        assert self.is_kept(HOUR, (b"Vary", b"Host, X-Forwarded-Proto"))

    def test_a_service_that_changes_its_mind(self) -> None:
        self.fill(HOUR, (b"Vary", b"X-A"), body=b"1", ask=(b"X-A: 1",))
        self.fill(HOUR, (b"Vary", b"X-B"), body=b"2")
        assert self.stats.entries == 1
        assert self.hit(b"X-A: 1").body == b"2"

    def test_a_flood_of_variants(self) -> None:
        for number in range(5 * MAX_VARIANTS):
            self.fill(HOUR, (b"Vary", b"X-A"), ask=(b"X-A: %d" % number,))
        assert self.stats.entries == MAX_VARIANTS


class TestChanges(CacheTests):
    """Requests that change things (RFC 9111, 4.4)."""

    def change(
        self, *answer: tuple[bytes, bytes], status: int = 200, line: bytes = b"POST /a HTTP/1.1"
    ) -> None:
        client, service = self.missed(b"Content-Length: 1", line=line, body=b"x")
        service.answer(b"", status, *answer)
        assert status_of(client.answer()) == b"fwd=method"

    def test_what_was_kept_of_the_target_goes(self) -> None:
        for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"M-SEARCH"):
            self.fill(HOUR, (b"Vary", b"X-A"))
            self.fill(HOUR, line=GET_B)
            self.change(line=method + b" /a HTTP/1.1")
            assert self.stats.entries == 1
            self.hit(line=GET_B)
            self.storage.purge()

    def test_not_by_what_fails_or_changes_nothing(self) -> None:
        self.fill(HOUR)
        self.change(status=403)
        self.change(status=500)
        self.change(line=b"OPTIONS /a HTTP/1.1")
        self.hit()

    def test_what_the_answer_names_goes_too(self) -> None:
        for field in (
            (b"Location", b"/b"),
            (b"Content-Location", b"http://x.com/b"),
            (b"Location", b"https://X.com/b"),
            (b"Location", b"b"),
        ):
            self.fill(HOUR, line=GET_B)
            self.change(field)
            assert self.stats.entries == 0

    def test_not_on_other_hosts(self) -> None:
        self.fill(HOUR, line=GET_B)
        for value in (b"http://evil.example/b", b"//evil.example/b", b"http://[/b", b"x.com/b", b"\xff"):
            self.change((b"Location", value))
        self.hit(line=GET_B)

    def test_an_answer_from_before_is_not_kept_after(self) -> None:
        client, service = self.missed()
        service.respond(200, HOUR, self.date(), (b"Content-Length", b"3"))
        self.change()
        service.send_body(b"old")
        service.finish()
        assert client.answer().body == b"old"
        assert self.stats.entries == 0


class TestMemory(CacheTests):
    """Within its size, whatever is asked."""

    max_size = 200_000
    item_max_size = 20_000

    def test_a_flood_of_targets(self) -> None:
        for number in range(300):
            self.fill(HOUR, body=bytes(5000), line=b"GET /%d HTTP/1.1" % number)
            assert self.stats.bytes <= self.max_size
        assert self.stats.evicted == 300 - self.stats.entries
        assert self.stats.entries > 20

    def test_the_longest_unused_goes_first(self) -> None:
        self.fill(HOUR, line=GET_B)
        for number in range(60):
            self.fill(HOUR, body=bytes(5000), line=b"GET /%d HTTP/1.1" % number)
            self.hit(line=GET_B)

    def test_long_keys_and_fields_count(self) -> None:
        for number in range(60):
            target = b"/%d" % number + b"x" * 8000
            self.fill(HOUR, (b"X-Long", bytes(b"y" * 4000)), line=b"GET " + target + b" HTTP/1.1")
        assert self.stats.entries < 20

    def test_too_large_is_not_kept(self) -> None:
        assert not self.is_kept(HOUR, body=bytes(20_001))
        assert self.is_kept(HOUR, body=bytes(20_000), line=GET_B)
        client, service = self.missed(line=b"GET /c HTTP/1.1")
        service.respond(200, HOUR, self.date(), (b"Transfer-Encoding", b"chunked"))
        for _ in range(3):
            service.send_body(bytes(10_000))
        service.finish()
        assert len(client.answer().body) == 30_000
        assert self.storage.on_the_way == 0

    def test_what_is_on_its_way_counts(self) -> None:
        """Many that begin at once and never end."""
        for number in range(60):
            self.fill(HOUR, body=bytes(5000), line=b"GET /full%d HTTP/1.1" % number)
        for number in range(30):
            _client, service = self.missed(line=b"GET /%d HTTP/1.1" % number)
            service.respond(200, HOUR, self.date(), (b"Content-Length", b"15000"))
            service.send_body(bytes(14_000))
            assert self.stats.bytes + self.storage.on_the_way <= self.max_size
        assert 0 < self.storage.on_the_way <= self.max_size // 4

    def test_misses_leave_nothing(self) -> None:
        for number in range(3 * MAX_PASSING):
            self.fill(cc(b"no-store"), status=404, line=b"GET /%d HTTP/1.1" % number)
        assert self.stats.entries == self.stats.bytes == 0
        assert len(self.storage._passing) <= MAX_PASSING
        for guard in self.plane.guards._made.values():
            assert not guard.cache._fetches
            assert not guard.cache.flights
            assert not guard.cache.shelf.targets

    def test_only_if_cached(self) -> None:
        answer = self.hit(b"Cache-Control: only-if-cached")
        assert answer.status == 504
        self.fill(HOUR)
        assert self.hit(b"Cache-Control: only-if-cached").status == 200

    def test_clients_cannot_make_the_service_work(self) -> None:
        """What a request says of freshness is for caches of its client's own."""
        self.fill(HOUR)
        for field in (
            b"Cache-Control: no-cache",
            b"Pragma: no-cache",
            b"Cache-Control: max-age=0, min-fresh=9999",
        ):
            assert self.hit(field).status == 200


class TestPurging(CacheTests):
    """Forgetting."""

    def test_one_route_or_all(self) -> None:
        self.fill(HOUR)
        assert self.storage.purge("y.com") == 0
        self.hit()
        assert self.storage.purge("x.com") == 1
        self.fill(HOUR)
        assert self.storage.purge() == 1
        self.missed()

    def test_on_a_change_of_the_route(self) -> None:
        self.fill(HOUR)
        self.plane.publish([Route("x.com", "http://10.0.0.2", policy=self.policy)])
        assert self.stats.entries == 0
        self.fill(HOUR)
        self.hit()
        self.plane.publish([])
        assert self.stats.entries == 0

    def test_what_is_on_its_way_is_not_kept(self) -> None:
        client, service = self.missed()
        self.storage.purge("x.com")
        service.answer(b"old", 200, HOUR, self.date())
        assert client.answer().body == b"old"
        assert self.stats.entries == 0


@pytest.mark.parametrize("sizes", [(0, 1000), (1000, 0)])
def test_sizes_of_nothing(sizes: tuple[int, int]) -> None:
    from onebackend_proxy.desk.storage import Storage

    class Case(CacheTests):
        max_size, item_max_size = sizes

        def runTest(self) -> None:
            assert isinstance(self.storage, Storage)
            assert not self.is_kept(HOUR)

    case = Case()
    result = case.defaultTestResult()
    case.run(result)
    assert result.wasSuccessful(), result
