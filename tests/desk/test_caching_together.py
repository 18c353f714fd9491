"""Many who ask for the same at once: one goes to the service, and nobody suffers from that."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost

from onebackend_proxy.desk.flights import ANOTHER, PASSING, PATIENCE
from onebackend_proxy.testing import ScriptedConnection

from ..conformance import Client
from .caching import ETAG, HOUR, CacheTests, cc, status_of


class TestTogether(CacheTests):
    """Single flight."""

    def begin(self, count: int = 3, *fields: bytes) -> tuple[Client, ScriptedConnection, list[Client]]:
        """One that went, and others that wait."""
        leader, service = self.missed(*fields)
        return leader, service, [self.follow(*fields) for _ in range(count)]

    def follow(self, *fields: bytes) -> Client:
        """One that waits."""
        client = self.send(*fields)
        assert self.plane.upstream.connecting == []
        assert client.answers() == []
        return client

    def left(self) -> int:
        """How many went to the service since."""
        return len(self.plane.upstream.connecting)

    def assert_quiet(self) -> None:
        """Nothing is left over."""
        self.plane.clock.pump([1.0] * 8)
        assert len(self.plane.exchanges) == 0
        calls = [str(call) for call in self.plane.clock.getDelayedCalls()]
        assert [call for call in calls if "ProxySite._tick" not in call] == []
        for guard in self.plane.guards._made.values():
            assert not guard.cache.flights
            assert not guard.cache._fetches
        assert self.storage.on_the_way == 0

    def test_one_goes_for_all(self) -> None:
        leader, service, others = self.begin()
        service.answer(b"hello", 200, HOUR, self.date())
        assert [call for call in self.plane.clock.getDelayedCalls() if "Flights" in str(call)] == []
        assert status_of(leader.answer()) == b"fwd=uri-miss; stored"
        for other in others:
            answer = other.answer()
            assert (answer.status, answer.body) == (200, b"hello")
            assert status_of(answer) == b"fwd=uri-miss; collapsed"
        assert (self.left(), self.stats.misses, self.stats.hits) == (0, 1, 3)
        self.assert_quiet()

    def test_each_gets_what_it_asked_for(self) -> None:
        _leader, service = self.missed()
        piece, known = self.follow(b"Range: bytes=0-1"), self.follow(b'If-None-Match: "one"')
        service.answer(b"hello", 200, HOUR, ETAG, self.date())
        assert (piece.answer().body, known.answer().status) == (b"he", 304)

    def test_one_asks_about_a_stale_answer_for_all(self) -> None:
        self.fill(cc(b"no-cache"), ETAG)
        leader, service, others = self.begin()
        service.respond(304, self.date())
        service.finish()
        assert [each.answer().body for each in (leader, *others)] == [b"hello"] * 4
        assert self.left() == 0
        self.assert_quiet()

    def test_a_304_after_which_it_is_for_nobody_else(self) -> None:
        self.fill(cc(b"no-cache"), ETAG)
        leader, service, _others = self.begin(2)
        service.respond(304, cc(b"private"), self.date())
        service.finish()
        assert leader.answer().body == b"hello"
        assert self.left() == 2

    def test_stale_if_error_is_for_all(self) -> None:
        self.fill(cc(b"max-age=1, stale-if-error=60"))
        self.advance(5)
        leader = self.send()
        others = [self.send(), self.send()]
        assert self.left() == 1
        self.plane.upstream.refuse()
        assert [each.answer().body for each in (leader, *others)] == [b"hello"] * 3
        self.assert_quiet()

    def test_what_nobody_may_keep_is_not_waited_for(self) -> None:
        _leader, service, others = self.begin()
        service.respond(200, cc(b"private"), (b"Content-Length", b"5"))
        # At the head, and not at the end.
        assert self.left() == 3
        services = [self.plane.upstream.accept() for _ in others]
        for number, each in enumerate(services):
            each.answer(b"%d" % number, 200, cc(b"private"))
        assert [each.answer().body for each in others] == [b"0", b"1", b"2"]
        # And for a moment nobody waits at all.
        _one, _ = self.missed()
        _two, _ = self.missed()
        self.advance(PASSING)
        self.missed()
        self.follow()

    def test_for_others_it_may_be_worth_it(self) -> None:
        """Somebody's own page says nothing about the one for everybody, and is not waited for with it."""
        _leader, service = self.missed(b"Cookie: mine")
        anonymous, other = self.missed()
        service.answer(b"mine", 200, cc(b"max-age=60"))
        follower = self.follow()
        other.answer(b"all", 200, HOUR, self.date())
        assert (anonymous.answer().body, follower.answer().body) == (b"all", b"all")

    def test_a_leader_that_leaves(self) -> None:
        leader, service, others = self.begin()
        leader.leaves()
        assert service.aborted
        # One goes in its place, and the others wait for that one.
        assert self.left() == 1
        self.plane.upstream.accept().answer(b"new", 200, HOUR, self.date())
        assert [each.answer().body for each in others] == [b"new"] * 3
        self.assert_quiet()

    def test_a_leader_whose_answer_breaks_off(self) -> None:
        leader, service, others = self.begin()
        service.respond(200, HOUR, (b"Content-Length", b"10"))
        service.send_body(b"hello")
        service.lose()
        assert leader.wire.closed
        assert self.left() == 1
        self.plane.upstream.accept().answer(b"new", 200, HOUR, self.date())
        assert [each.answer().body for each in others] == [b"new"] * 3
        self.assert_quiet()

    def test_a_service_that_cannot_be_reached(self) -> None:
        """All try at once: in turns, the last would wait for the time-outs of all others."""
        leader = self.send()
        others = [self.send(), self.send()]
        self.plane.upstream.refuse()
        assert leader.answer().status == 502
        for _ in others:
            if self.plane.upstream.connecting:
                self.plane.upstream.refuse()
        assert [each.answer().status for each in others] == [502, 502]
        self.assert_quiet()

    def test_a_client_that_reads_slowly_keeps_nobody_waiting(self) -> None:
        leader, service, others = self.begin()
        leader.wire.fill()
        service.respond(200, HOUR, self.date(), (b"Content-Length", b"90000"))
        service.send_body(bytes(40_000))
        assert self.left() == 1
        self.plane.upstream.accept().answer(b"new", 200, HOUR, self.date())
        assert [each.answer().body for each in others] == [b"new"] * 3

    def test_one_more_goes_where_it_takes_long(self) -> None:
        _leader, service, others = self.begin(3)
        self.advance(ANOTHER - 0.5)
        assert self.left() == 0
        self.advance(0.5)
        assert self.left() == 1
        second = self.plane.upstream.accept()
        late = self.follow()
        # And another one, and so on: not all at once.
        self.advance(ANOTHER)
        assert self.left() == 1
        third = self.plane.upstream.accept()
        # One of them breaks off, and the others are still worth waiting for.
        second.lose()
        assert others[0].answer().status == 502
        assert self.left() == 0
        third.answer(b"first", 200, HOUR, self.date())
        assert [each.answer().body for each in (others[1], others[2], late)] == [b"first"] * 3
        service.answer(b"last", 200, HOUR, self.date())
        assert self.hit().body == b"last"
        self.assert_quiet()

    def test_who_wants_a_piece_is_not_waited_for(self) -> None:
        self.missed(b"Range: bytes=0-1")
        self.missed()
        self.follow()

    def test_who_wants_a_piece_does_not_go_for_others(self) -> None:
        _leader, service, _ = self.begin(0)
        piece, whole = self.follow(b"Range: bytes=0-1"), self.follow()
        self.advance(ANOTHER)
        second = self.plane.upstream.accept()
        assert second.field(b"Range") == []
        second.answer(b"hello", 200, HOUR, self.date())
        assert (piece.answer().body, whole.answer().body) == (b"he", b"hello")
        service.lose()

    def test_all_break_off_one_after_the_other(self) -> None:
        leader, service, others = self.begin(2)
        self.advance(ANOTHER)
        second = self.plane.upstream.accept()
        leader.leaves()
        assert self.left() == 0
        others[0].leaves()
        assert second.aborted and service.aborted
        assert self.left() == 1
        self.plane.upstream.accept().answer(b"new", 200, HOUR, self.date())
        assert others[1].answer().body == b"new"
        self.assert_quiet()

    def test_patience_ends(self) -> None:
        """Where so many hang that the turn of one has not come."""
        _leader, service, _others = self.begin(10)
        self.plane.clock.pump([1.0] * int(PATIENCE - 1))
        gone = self.left()
        assert gone == (PATIENCE - 1) // ANOTHER
        self.advance(1)
        assert self.left() == 10
        service.answer(b"slow", 200, HOUR, self.date())
        assert self.send().answer().body == b"slow"

    def test_one_that_waits_leaves(self) -> None:
        leader, service, others = self.begin(2)
        others[0].wire.peer_closes(ConnectionLost())
        self.plane.clock.advance(0)
        service.answer(b"hello", 200, HOUR, self.date())
        assert leader.answer().body == others[1].answer().body == b"hello"
        self.assert_quiet()

    def test_one_that_waits_leaves_when_another_is_answered(self) -> None:
        _leader, service, others = self.begin(2)
        write = others[0].wire.write

        def write_and_close(data: bytes) -> None:
            write(data)
            others[1].wire.peer_closes()

        others[0].wire.write = write_and_close  # type: ignore[method-assign]
        service.answer(b"hello", 200, HOUR, self.date())
        assert others[0].answer().body == b"hello"
        self.assert_quiet()
        assert self.flushLoggedErrors() == []

    def test_another_variant_goes_itself(self) -> None:
        _leader, service = self.missed(b"Accept-Language: en")
        follower = self.follow(b"Accept-Language: de")
        service.answer(b"hello", 200, HOUR, self.date(), (b"Vary", b"Accept-Language"))
        assert self.left() == 1
        other = self.plane.upstream.accept()
        assert other.field(b"Accept-Language") == [b"de"]
        other.answer(b"hallo", 200, HOUR, self.date(), (b"Vary", b"Accept-Language"))
        assert follower.answer().body == b"hallo"

    def test_too_large_to_keep_is_not_waited_for(self) -> None:
        _leader, service, others = self.begin(1)
        service.respond(200, HOUR, self.date(), (b"Transfer-Encoding", b"chunked"))
        service.send_body(bytes(60_000))
        assert self.left() == 0
        service.send_body(bytes(60_000))
        assert self.left() == 1
        self.plane.upstream.accept().answer(b"small", 200, HOUR, self.date())
        assert others[0].answer().body == b"small"

    def test_a_stopping_proxy_cuts_all(self) -> None:
        leader, _service, others = self.begin()
        assert self.plane.exchanges.cut() == 4
        for each in (leader, *others):
            assert each.answer().status == 503
        self.assert_quiet()

    def test_what_is_purged_is_not_given_to_those_who_wait(self) -> None:
        _leader, service, others = self.begin(1)
        self.storage.purge("x.com")
        service.answer(b"old", 200, HOUR, self.date())
        assert self.stats.entries == 0
        self.plane.upstream.accept().answer(b"new", 200, HOUR, self.date())
        assert others[0].answer().body == b"new"


class TestSlowReaders(CacheTests):
    """Who reads slowly keeps no place that others need."""

    max_size = 200_000
    item_max_size = 30_000

    def test_the_longest_under_way_is_given_up(self) -> None:
        slow = []
        for number in range(5):
            client, service = self.missed(line=b"GET /slow%d HTTP/1.1" % number)
            service.respond(200, HOUR, self.date(), (b"Content-Length", b"25000"))
            service.send_body(bytes(15_000))
            slow.append((client, service))
            assert self.storage.on_the_way <= self.max_size // 4
        self.fill(HOUR, body=bytes(29_000))
        assert len(self.hit().body) == 29_000
        for client, service in slow:
            service.send_body(bytes(10_000))
            service.finish()
            assert len(client.answer().body) == 25_000
        assert self.storage.on_the_way == 0
        assert self.stats.entries == 2
