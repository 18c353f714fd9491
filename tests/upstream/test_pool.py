"""Which connections are kept, how many there may be, and who waits: rounds instead of clocks."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from onebackend_proxy.addresses import parse_instance_url
from onebackend_proxy.balancing import EndpointState
from onebackend_proxy.limits import Limits
from onebackend_proxy.upstream.pool import Pool

from ..properties import PROPERTY

A = EndpointState(parse_instance_url("http://a:8000"))
B = EndpointState(parse_instance_url("http://b:8000"))
SMALL = Limits(upstream_keepalive=2, upstream_connections=3, upstream_queue=2)


def test_an_empty_pool_has_nothing() -> None:
    pool: Pool[str, str] = Pool()
    assert pool.take(A) is pool.next_waiting(A) is None
    assert pool.expire() == pool.clear() == []
    assert len(pool) == 0


def test_the_one_used_last_comes_first() -> None:
    pool: Pool[str, str] = Pool()
    assert pool.give(A, "one") and pool.give(A, "two") and pool.give(B, "three")
    assert repr(pool) == "<Pool round 0: idle {'a:8000': 2, 'b:8000': 1}, places {}, waiting {}>"
    assert (pool.take(A), pool.take(A), pool.take(A)) == ("two", "one", None)
    assert pool.take(B) == "three"


def test_only_so_many_are_kept_for_one_endpoint() -> None:
    pool: Pool[int, str] = Pool(SMALL)
    assert [pool.give(A, number) for number in range(3)] == [True, True, False]
    assert pool.give(B, 3)
    assert len(pool) == 3
    assert not Pool[int, str](Limits(upstream_keepalive=0)).give(A, 1)


def test_what_was_not_used_for_a_whole_round_expires() -> None:
    pool: Pool[str, str] = Pool()
    pool.give(A, "old")
    assert pool.expire() == []
    pool.give(A, "new")
    assert pool.expire() == ["old"]
    assert pool.take(A) == "new"
    pool.give(A, "new")
    assert pool.expire() == []
    assert pool.expire() == ["new"]
    assert repr(pool) == "<Pool round 4: idle {}, places {}, waiting {}>"


def test_one_that_closed_itself_is_forgotten() -> None:
    pool: Pool[str, str] = Pool()
    pool.give(A, "one")
    pool.give(A, "two")
    pool.forget(A, "two")
    pool.forget(A, "never here")
    pool.forget(B, "never here")
    assert (pool.take(A), pool.take(A)) == ("one", None)


def test_clear_gives_up_all() -> None:
    pool: Pool[str, str] = Pool()
    pool.give(A, "one")
    pool.give(B, "two")
    assert sorted(pool.clear()) == ["one", "two"]
    assert pool.take(A) is pool.take(B) is None


def test_so_many_places_and_a_queue_in_order() -> None:
    pool: Pool[str, str] = Pool(SMALL)
    assert [pool.reserve(A) for _ in range(4)] == [True, True, True, False]
    assert pool.reserve(B)
    assert [pool.wait(A, name) for name in ("first", "second", "third")] == [True, True, False]
    assert repr(pool) == "<Pool round 0: idle {}, places {'a:8000': 3, 'b:8000': 1}, waiting {'a:8000': 2}>"
    assert pool.free(A) == "first"
    assert not pool.reserve(A)
    assert pool.wait(A, "third")
    pool.leave(A, "second")
    assert pool.next_waiting(A) == "third"
    assert pool.next_waiting(A) is None
    assert pool.free(A) is None
    assert pool.reserve(A)
    for endpoint in (A, A, A, B):
        assert pool.free(endpoint) is None
    assert repr(pool) == "<Pool round 0: idle {}, places {}, waiting {}>"


def test_no_queue_at_all() -> None:
    pool: Pool[str, str] = Pool(Limits(upstream_queue=0, upstream_connections=1))
    assert pool.reserve(A) and not pool.reserve(A)
    assert not pool.wait(A, "first")
    assert pool.waiting == {}


ENDPOINTS = st.sampled_from((A, B))


class Pooling(RuleBasedStateMachine):
    """A pool beside a model that counts by heart: connections in use, idle ones, and the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[int, int] = Pool(SMALL)
        self.used: dict[EndpointState, list[int]] = {A: [], B: []}
        self.idle: dict[EndpointState, list[int]] = {A: [], B: []}
        self.queue: dict[EndpointState, list[int]] = {A: [], B: []}
        self.number = 0

    def new(self) -> int:
        self.number += 1
        return self.number

    @rule(endpoint=ENDPOINTS)
    def ask(self, endpoint: EndpointState) -> None:
        taken = self.pool.take(endpoint)
        assert taken == (self.idle[endpoint].pop() if self.idle[endpoint] else None)
        open_now = len(self.used[endpoint]) + len(self.idle[endpoint])
        if taken is not None:
            self.used[endpoint].append(taken)
        elif self.pool.reserve(endpoint):
            assert open_now < SMALL.upstream_connections
            self.used[endpoint].append(self.new())
        else:
            assert open_now == SMALL.upstream_connections
            waiter = self.new()
            fits = self.pool.wait(endpoint, waiter)
            assert fits is (len(self.queue[endpoint]) < SMALL.upstream_queue)
            if fits:
                self.queue[endpoint].append(waiter)

    @rule(endpoint=ENDPOINTS, which=st.integers(0, 9))
    def release(self, endpoint: EndpointState, which: int) -> None:
        if not self.used[endpoint]:
            return
        connection = self.used[endpoint].pop(which % len(self.used[endpoint]))
        waiter = self.pool.next_waiting(endpoint)
        assert waiter == (self.queue[endpoint].pop(0) if self.queue[endpoint] else None)
        if waiter is not None:
            self.used[endpoint].append(connection)
        elif self.pool.give(endpoint, connection):
            self.idle[endpoint].append(connection)
        else:
            assert len(self.idle[endpoint]) == SMALL.upstream_keepalive
            self.gone(endpoint)

    def gone(self, endpoint: EndpointState) -> None:
        waiter = self.pool.free(endpoint)
        assert waiter == (self.queue[endpoint].pop(0) if self.queue[endpoint] else None)
        if waiter is not None:
            self.used[endpoint].append(self.new())

    @rule(endpoint=ENDPOINTS, which=st.integers(0, 9))
    def lose(self, endpoint: EndpointState, which: int) -> None:
        both = self.used[endpoint] + self.idle[endpoint]
        if not both:
            return
        connection = both[which % len(both)]
        self.pool.forget(endpoint, connection)
        (self.used if connection in self.used[endpoint] else self.idle)[endpoint].remove(connection)
        self.gone(endpoint)

    @rule(endpoint=ENDPOINTS, which=st.integers(0, 9))
    def give_up(self, endpoint: EndpointState, which: int) -> None:
        if self.queue[endpoint]:
            self.pool.leave(endpoint, self.queue[endpoint].pop(which % len(self.queue[endpoint])))

    @rule()
    def expire(self) -> None:
        for connection in self.pool.expire():
            endpoint = A if connection in self.idle[A] else B
            self.idle[endpoint].remove(connection)
            self.gone(endpoint)

    @invariant()
    def all_is_counted(self) -> None:
        assert len(self.pool) == len(self.idle[A]) + len(self.idle[B])
        assert {e: list(q) for e, q in self.pool.waiting.items()} == {
            e: q for e, q in self.queue.items() if q
        }
        for endpoint in (A, B):
            count = self.pool._places.get(endpoint, 0)
            assert count == len(self.used[endpoint]) + len(self.idle[endpoint]) <= SMALL.upstream_connections


TestPooling = Pooling.TestCase
TestPooling.settings = PROPERTY
