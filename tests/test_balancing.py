from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.addresses import Address
from onebackend_proxy.balancing import EndpointState, Health, Upstream, pick

from .properties import PROPERTY

RANKS = [[Health.HEALTHY], [Health.DEGRADED, Health.UNKNOWN], [Health.UNREACHABLE, Health.ERROR]]


def upstream(*healths):
    return Upstream(
        "a-svc",
        tuple(EndpointState(Address("http", "h", 80 + i), health=health) for i, health in enumerate(healths)),
    )


def zero():
    return 0.0


def test_none_where_there_is_none():
    assert pick(upstream(), (), zero) is None


def test_a_single_endpoint_is_taken_whatever_its_health_but_once():
    for health in Health:
        only = upstream(health)
        assert pick(only, (), zero) is only.endpoints[0]
        assert pick(only, only.endpoints, zero) is None


def test_every_one_of_the_fit_has_its_share():
    three = upstream(Health.HEALTHY, Health.HEALTHY, Health.HEALTHY)
    numbers = iter([i / 300 for i in range(300)])
    counts = Counter(pick(three, (), numbers.__next__) for _ in range(300))
    assert counts == dict.fromkeys(three.endpoints, 100)


@PROPERTY
@given(
    st.lists(st.sampled_from(Health), max_size=6),
    st.sets(st.integers(0, 5)),
    st.floats(0, 1, exclude_max=True),
)
def test_one_of_the_healthiest_left_or_none(healths, tried, number):
    to = upstream(*healths)
    gone = {endpoint for i, endpoint in enumerate(to.endpoints) if i in tried}
    left = [endpoint for endpoint in to.endpoints if endpoint not in gone]
    chosen = pick(to, gone, lambda: number)
    fit = next((fit for rank in RANKS if (fit := [e for e in left if e.health in rank])), [])
    if fit:
        assert chosen in fit
    else:
        assert chosen is None


def test_what_is_known_of_an_endpoint_shows():
    state = EndpointState(Address("http", "::1", 81), in_flight=2, failures=1, health=Health.DEGRADED)
    assert repr(state) == "<[::1]:81 Degraded, 2 in flight, 1 failures>"


def test_two_states_of_one_address_are_two():
    address = Address("http", "h", 80)
    assert EndpointState(address) != EndpointState(address)
    assert len({EndpointState(address), EndpointState(address)}) == 2


def test_the_limits_of_an_upstream():
    to = upstream(Health.HEALTHY)
    assert (to.timeouts.connect, to.timeouts.first_byte, to.timeouts.idle, to.retries) == (5.0, 60.0, 60.0, 1)
