"""Any crowd of clients before any service: who gets what, whatever comes when."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from ..properties import PROPERTY
from .caching import CacheTests, cc

CONTROLS = (
    b"no-store",
    b"private, max-age=9",
    b"max-age=9",
    b"public, max-age=9",
    b"s-maxage=9",
    b"no-cache",
    b"max-age=0",
    b"max-age=4, stale-while-revalidate=4",
    b"max-age=4, stale-if-error=9",
    b"max-age=9, must-revalidate",
)
FOR_ALL = (b"public, max-age=9", b"s-maxage=9")
LONGEST = 14
"""Seconds after which nothing of these may be given unasked, or because of an error."""

_ask = st.tuples(
    st.just("ask"),
    st.sampled_from([b"/a", b"/b"]),
    st.sampled_from([b"", b"1", b"2"]),
    st.sampled_from([b"", b"Cookie: ", b"Authorization: "]),
    st.sampled_from([b"GET", b"GET", b"GET", b"HEAD", b"POST"]),
    st.sampled_from([b"", b"Range: bytes=0-3", b'If-None-Match: "x"']),
)
_answer = st.tuples(
    st.just("answer"),
    st.sampled_from(CONTROLS),
    st.sampled_from([200, 200, 200, 304, 404, 431, 500, 503]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
)
_step = st.one_of(
    _ask,
    _ask,
    _answer,
    _answer,
    st.tuples(st.just("fail"), st.integers(0, 5)),
    st.tuples(st.just("lose"), st.integers(0, 5)),
    st.tuples(st.just("leave"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 2, 4, 6])),
    st.tuples(st.just("purge")),
)


@attrs.define
class Made:
    """An answer that the service made, and for which request."""

    target: bytes
    value: bytes
    client: bytes
    control: bytes
    at: float


class Crowd(CacheTests):
    """Clients that ask, and a service whose answers tell which they are."""

    __test__ = False

    def runTest(self) -> None:
        """Not by itself."""

    def begin(self) -> None:
        self.setUp()
        self.made: dict[bytes, Made] = {}
        self.clients: list[tuple[Any, bytes, bytes, bytes, bytes]] = []
        self.services: list[Any] = []
        self.numbers = 0

    def ask(self, target: bytes, value: bytes, who: bytes, method: bytes, more: bytes) -> None:
        self.numbers += 1
        name = b"%d" % self.numbers if who else b""
        fields = [field for field in (value and b"X-A: " + value, who and who + name, more) if field]
        client = self.send(*fields, line=method + b" " + target + b" HTTP/1.1")
        self.clients.append((client, target, value, name, method))

    def connect(self) -> None:
        while self.plane.upstream.connecting:
            self.services.append(self.plane.upstream.accept())
        self.services = [each for each in self.services if each._exchange is not None and not each.aborted]

    def pick(self, number: int) -> Any:
        self.connect()
        return self.services.pop(number % len(self.services)) if self.services else None

    def answer(self, control: bytes, status: int, chunked: bool, cookie: bool, number: int) -> None:
        service = self.pick(number)
        if service is None:
            return
        if status == 304 and not service.field(b"If-None-Match"):
            status = 200
        who = b"".join(service.field(b"Cookie") + service.field(b"Authorization"))
        self.numbers += 1
        etag = (b"ETag", b'"e"')
        fields = [cc(control), self.date(), (b"Vary", b"X-A"), etag]
        if cookie:
            fields.append((b"Set-Cookie", b"for=" + who))
        body = b"<%d>" % self.numbers
        target = service.request_line.split()[1]
        self.made[body] = Made(
            target, b"".join(service.field(b"X-A")), who, control, self.plane.clock.seconds()
        )
        if status == 304:
            service.respond(304, *fields)
            # From now on the old one is as new as this.
            for made in self.made.values():
                if made.target == target:
                    made.at = self.plane.clock.seconds()
            service.finish()
            return
        framed = (b"Transfer-Encoding", b"chunked") if chunked else (b"Content-Length", b"%d" % len(body))
        service.respond(status, *fields, framed)
        # What is asked for in the background, and is of no use, is not read to its end.
        if not service.aborted:
            if service.method != b"HEAD":
                service.send_body(body)
            service.finish()

    def check(self) -> None:
        """What came back since, and whether whoever got it may have it."""
        for entry in [*self.clients]:
            client, target, value, name, method = entry
            for answer in client.answers(method):
                assert answer.complete
                self.clients.remove(entry)
                if answer.status in (200, 404) and method != b"HEAD":
                    self.check_body(answer, target, value, name)
                if method == b"HEAD":
                    assert answer.body == b""

    def check_body(self, answer: Any, target: bytes, value: bytes, name: bytes) -> None:
        made = self.made[answer.body]
        assert (made.target, made.value) == (target, value)
        other = made.client != name
        if other and (made.client or name):
            assert made.control in FOR_ALL, made
        if other:
            assert made.control not in (b"no-store", b"private, max-age=9")
            assert answer.field(b"Set-Cookie") == []
        assert self.plane.clock.seconds() - made.at <= LONGEST

    def quiet(self) -> None:
        """All ends, and nothing is left."""
        for _ in range(40):
            self.connect()
            for service in [*self.services]:
                service.lose()
            self.advance(0.5)
        self.check()
        assert len(self.plane.exchanges) == 0
        for guard in self.plane.guards._made.values():
            assert not guard.cache.flights
            assert not guard.cache._fetches
        assert self.storage.on_the_way == 0
        assert not self.clients
        shown = [kept.size for kept in self.storage._order]
        assert (len(shown), sum(shown)) == (self.stats.entries, self.stats.bytes)


@PROPERTY
@given(st.lists(_step, max_size=25))
def test_whatever_comes_when(steps):
    crowd = Crowd()
    crowd.begin()
    for word, *rest in steps:
        if word == "ask":
            crowd.ask(*rest)
        elif word == "answer":
            crowd.answer(*rest)
        elif word == "wait":
            crowd.advance(rest[0])
        elif word == "purge":
            crowd.storage.purge()
        elif word == "leave" and crowd.clients:
            crowd.clients.pop(rest[0] % len(crowd.clients))[0].leaves()
        elif word == "fail" and crowd.plane.upstream.connecting:
            crowd.plane.upstream.refuse()
        elif word == "lose":
            service = crowd.pick(rest[0])
            if service is not None:
                service.lose()
        crowd.check()
    crowd.quiet()
