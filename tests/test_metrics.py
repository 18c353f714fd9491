from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.metrics import BUCKETS, RequestCounts

from .properties import PROPERTY

_REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["", "a.com", "/svc"]),
        st.integers(0, 999),
        st.floats(0, 20) | st.sampled_from(BUCKETS),
        st.integers(0, 10**12),
        st.integers(0, 10**12),
    )
)


@PROPERTY
@given(_REQUESTS)
def test_each_request_counts_once(requests):
    counts = RequestCounts()
    for request in requests:
        counts.add(*request)
    assert {name for name, _ in counts.all()} == {request[0] for request in requests}
    for name, route in counts.all():
        own = [request for request in requests if request[0] == name]
        assert route.bytes_in == sum(request[3] for request in own)
        assert route.bytes_out == sum(request[4] for request in own)
        assert set(route.outcomes) == {request[1] // 100 for request in own}
        for digit, outcomes in route.outcomes.items():
            times = [request[2] for request in own if request[1] // 100 == digit]
            assert abs(outcomes.seconds - sum(times)) < 1e-6
            # As Prometheus reads it: so many took at most so long.
            for number, bound in enumerate(BUCKETS):
                assert sum(outcomes.buckets[: number + 1]) == sum(time <= bound for time in times)
            assert sum(outcomes.buckets) == len(times)


def test_the_rules_that_stopped_requests():
    counts = RequestCounts()
    for rule in ("addresses", "rateLimit", "addresses"):
        counts.denied("a.com", rule)
    assert counts.of("a.com").denied == {"addresses": 2, "rateLimit": 1}


def test_what_is_not_there_any_more_is_forgotten():
    counts = RequestCounts()
    for route in ("", "a.com", "b.com"):
        counts.add(route, 200, 0.1)
    counts.keep(lambda name: name == "b.com")
    assert [name for name, _ in counts.all()] == ["", "b.com"] and len(counts) == 2
    assert repr(counts) == "<RequestCounts of 2 routes>"


def test_a_count_that_is_made_is_the_one_that_is_counted_in():
    counts = RequestCounts()
    counts.add("a.com", 200, 0.1)
    assert counts.of("a.com").outcomes[2].buckets[BUCKETS.index(0.1)] == 1
