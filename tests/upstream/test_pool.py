"""Which connections are kept: rounds instead of clocks."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.addresses import parse_instance_url
from onebackend_proxy.balancing import EndpointState
from onebackend_proxy.upstream.pool import Pool

A = EndpointState(parse_instance_url("http://a:8000"))
B = EndpointState(parse_instance_url("http://b:8000"))


def test_an_empty_pool_has_nothing() -> None:
    pool: Pool[str] = Pool()
    assert pool.take(A) is None
    assert pool.expire() == pool.clear() == []
    assert len(pool) == 0


def test_the_one_used_last_comes_first() -> None:
    pool: Pool[str] = Pool()
    assert pool.give(A, "one") and pool.give(A, "two") and pool.give(B, "three")
    assert repr(pool) == "<Pool round 0: {'a:8000': 2, 'b:8000': 1}>"
    assert (pool.take(A), pool.take(A), pool.take(A)) == ("two", "one", None)
    assert pool.take(B) == "three"


def test_only_so_many_are_kept_for_one_endpoint() -> None:
    pool: Pool[int] = Pool(max_idle=2)
    assert [pool.give(A, number) for number in range(3)] == [True, True, False]
    assert pool.give(B, 3)
    assert len(pool) == 3


def test_what_was_not_used_for_a_whole_round_expires() -> None:
    pool: Pool[str] = Pool()
    pool.give(A, "old")
    assert pool.expire() == []
    pool.give(A, "new")
    assert pool.expire() == ["old"]
    assert pool.take(A) == "new"
    pool.give(A, "new")
    assert pool.expire() == []
    assert pool.expire() == ["new"]
    assert repr(pool) == "<Pool round 4: {}>"


def test_one_that_closed_itself_is_forgotten() -> None:
    pool: Pool[str] = Pool()
    pool.give(A, "one")
    pool.give(A, "two")
    pool.forget(A, "two")
    pool.forget(A, "never here")
    pool.forget(B, "never here")
    assert (pool.take(A), pool.take(A)) == ("one", None)


def test_clear_gives_up_all() -> None:
    pool: Pool[str] = Pool()
    pool.give(A, "one")
    pool.give(B, "two")
    assert sorted(pool.clear()) == ["one", "two"]
    assert pool.take(A) is pool.take(B) is None


@given(st.lists(st.tuples(st.sampled_from(("give", "take", "forget", "expire")), st.sampled_from((A, B)))))
def test_nothing_is_lost_or_handed_out_twice(steps: list[tuple[str, EndpointState]]) -> None:
    pool: Pool[int] = Pool(max_idle=3)
    kept: Counter[int] = Counter()
    for number, (step, endpoint) in enumerate(steps):
        if step == "give":
            kept[number] += pool.give(endpoint, number)
        elif step == "expire":
            kept.subtract(pool.expire())
        else:
            taken = pool.take(endpoint)
            if taken is not None:
                kept[taken] -= 1
                if step == "forget":
                    assert pool.give(endpoint, taken)
                    pool.forget(endpoint, taken)
        assert len(pool) == kept.total()
    assert set((kept - Counter(pool.clear())).elements()) == set()
    assert min(kept.values(), default=0) >= 0
