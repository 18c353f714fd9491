from __future__ import annotations

import itertools
import random as randoms
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy import balancing
from onebackend_proxy.addresses import Address
from onebackend_proxy.balancing import Balance, Ejection, EndpointState, Health, Timeouts, Upstream
from onebackend_proxy.headers import OutgoingRequest, Peer, prepare_request
from onebackend_proxy.messages import RequestHead

from .properties import OFTEN, PROPERTY

# A test that takes None for an answer fails by itself.
pick: Any = balancing.pick
affinity_cookie: Any = balancing.affinity_cookie

RANKS = [[Health.HEALTHY], [Health.DEGRADED, Health.UNKNOWN], [Health.UNREACHABLE, Health.ERROR]]
EJECTION = Ejection(after=3, seconds=1.0, at_most=60.0)
BALANCES = st.sampled_from(Balance)
WEIGHTS = st.lists(st.integers(1, 9), min_size=2, max_size=6)


def upstream(*healths, balance=Balance.RANDOM, weights=(), name="a-svc"):
    return Upstream(
        name,
        tuple(EndpointState(Address("http", "h", 80 + i), health=health) for i, health in enumerate(healths)),
        balance=balance,
        weights=tuple(weights),
    )


def healthy(count, balance=Balance.RANDOM, weights=()):
    return upstream(*[Health.HEALTHY] * count, balance=balance, weights=weights)


def request(client_ip=b"192.0.2.7", *headers):
    return SimpleNamespace(client_ip=client_ip, headers=[*headers])


def zero():
    return 0.0


def test_none_where_there_is_none():
    for balance in Balance:
        assert pick(upstream(balance=balance), request(), [], zero, 0.0) is None


def test_a_single_endpoint_is_taken_whatever_its_health_but_once():
    for health in Health:
        only = upstream(health)
        assert pick(only, None, [], zero, 0.0) is only.endpoints[0]
        assert pick(only, None, list(only.endpoints), zero, 0.0) is None


@PROPERTY
@given(
    st.lists(st.sampled_from(Health), max_size=6),
    st.sets(st.integers(0, 5)),
    st.floats(0, 1, exclude_max=True),
    BALANCES,
    st.lists(st.integers(1, 9), min_size=6, max_size=6),
)
def test_one_of_the_healthiest_left_or_none(healths, tried, number, balance, weights):
    to = upstream(*healths, balance=balance, weights=weights[: len(healths)])
    gone = [endpoint for i, endpoint in enumerate(to.endpoints) if i in tried]
    left = [endpoint for endpoint in to.endpoints if endpoint not in gone]
    chosen = pick(to, request(), gone, lambda: number, 0.0)
    fit = next((fit for rank in RANKS if (fit := [e for e in left if e.health in rank])), [])
    if fit:
        assert chosen in fit
    else:
        assert chosen is None


@PROPERTY
@given(WEIGHTS, BALANCES, st.lists(st.booleans(), min_size=6, max_size=6))
def test_without_a_client_or_load_every_weight_is_respected(weights, balance, unfit):
    # Any number of the endpoints may be out, so that the choice is not the quick one among all.
    to = healthy(len(weights), balance, weights)
    for endpoint, out in zip(to.endpoints[1:], unfit, strict=False):
        endpoint.health = Health.ERROR if out else Health.HEALTHY
    fit = [i for i, endpoint in enumerate(to.endpoints) if endpoint.health is Health.HEALTHY]
    draw = randoms.Random(7).random
    picks = 3000
    counts = Counter(pick(to, None, [], draw, 0.0) for _ in range(picks))
    for index in fit:
        share = weights[index] / sum(weights[i] for i in fit)
        assert abs(counts[to.endpoints[index]] / picks - share) < 0.05
    assert counts.total() == picks and len(counts) == len(fit)


@PROPERTY
@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.just(()) | WEIGHTS)
def test_the_less_loaded_of_two_different_ones_wins(first, second, weights):
    to = healthy(len(weights) or 3, weights=weights)
    drawn = []
    for endpoint in to.endpoints:
        # Whoever is drawn first has a load; then the other one wins.
        for each in to.endpoints:
            each.in_flight = 100 if each is endpoint else 0
        numbers = iter([first, second])
        chosen = pick(to, None, [], numbers.__next__, 0.0)
        assert next(numbers, None) is None
        assert chosen is not endpoint
        drawn.append(chosen)
    assert len(set(map(id, drawn))) == 2


@pytest.mark.parametrize("balance", [Balance.RANDOM, Balance.LEAST_CONN])
@pytest.mark.parametrize("extra", [[], [Health.ERROR]])
def test_load_is_relative_to_weight(balance, extra):
    to = upstream(Health.HEALTHY, Health.HEALTHY, *extra, balance=balance, weights=[3, 1, *[1] * len(extra)])
    big, small, *_ = to.endpoints
    draw = randoms.Random(7).random

    def chosen():
        return {pick(to, None, [], draw, 0.0) for _ in range(300)}

    big.in_flight, small.in_flight = 2, 1
    if not extra or balance is Balance.LEAST_CONN:
        assert chosen() == {big}
        big.in_flight = 4
        assert chosen() == {small}
    big.in_flight, small.in_flight = 3, 1
    assert chosen() == {big, small}


def test_least_conn_looks_at_all():
    to = healthy(20, Balance.LEAST_CONN)
    for number, endpoint in enumerate(to.endpoints):
        endpoint.in_flight = abs(number - 13)
    assert pick(to, None, [], zero, 0.0) is to.endpoints[13]


@PROPERTY
@given(WEIGHTS, st.integers(1, 3))
def test_round_robin_is_exact(weights, rounds):
    to = healthy(len(weights), Balance.ROUND_ROBIN, weights)
    for _ in range(rounds):
        counts = Counter(pick(to, None, [], zero, 0.0) for _ in range(sum(weights)))
        assert [counts[endpoint] for endpoint in to.endpoints] == weights


def test_round_robin_spreads_as_nginx_does():
    to = healthy(3, Balance.ROUND_ROBIN, [5, 1, 1])
    order = [to.endpoints.index(pick(to, None, [], zero, 0.0)) for _ in range(7)]
    assert order == [0, 0, 1, 0, 2, 0, 0]


def test_an_endpoint_has_its_turns_in_each_upstream():
    one = healthy(2, Balance.ROUND_ROBIN)
    other = Upstream("b", one.endpoints, balance=Balance.ROUND_ROBIN)
    assert pick(one, None, [], zero, 0.0) is pick(other, None, [], zero, 0.0) is one.endpoints[0]


@PROPERTY
@given(WEIGHTS, st.data())
def test_a_client_stays_when_others_come_and_go(weights, data):
    to = healthy(len(weights), Balance.IP_HASH, weights)
    gone = data.draw(st.integers(0, len(weights) - 1))
    rest = [i for i in range(len(weights)) if i != gone]
    without = Upstream(
        "b",
        tuple(to.endpoints[i] for i in rest),
        balance=Balance.IP_HASH,
        weights=tuple(weights[i] for i in rest),
    )
    for number in range(50):
        client = request(b"10.0.0.%d" % number)
        before = pick(to, client, [], zero, 0.0)
        assert pick(to, client, [], zero, 0.0) is before
        if before is not to.endpoints[gone]:
            assert pick(without, client, [], zero, 0.0) is before
            assert pick(to, client, [to.endpoints[gone]], zero, 0.0) is before


def test_clients_are_spread_by_weight():
    to = healthy(3, Balance.IP_HASH, [1, 2, 5])
    clients = [b"10.0.%d.%d" % pair for pair in itertools.product(range(20), range(100))]
    counts = Counter(pick(to, request(client), [], zero, 0.0) for client in clients)
    for endpoint, weight in zip(to.endpoints, to.weights, strict=True):
        assert abs(counts[endpoint] / len(clients) - weight / 8) < 0.05


def test_where_a_client_goes_is_the_same_in_every_process():
    to = healthy(3, Balance.IP_HASH)
    places = [to.endpoints.index(pick(to, request(b"10.0.0.%d" % n), [], zero, 0.0)) for n in range(12)]
    assert places == [0, 2, 2, 2, 1, 2, 2, 2, 1, 1, 2, 2]


def test_the_cookie_keeps_a_client():
    to = healthy(3, Balance.COOKIE)
    draw = randoms.Random(7).random
    for endpoint in to.endpoints:
        name, value = affinity_cookie(to, endpoint, request())
        assert name == b"Set-Cookie"
        cookie, *attributes = value.split(b"; ")
        assert attributes == [b"Path=/", b"HttpOnly", b"SameSite=Lax"]
        back = request(b"192.0.2.7", (b"Accept", b"*/*"), (b"cookie", b"a=b; " + cookie + b";c=d"))
        assert {pick(to, back, [], draw, 0.0) for _ in range(20)} == {endpoint}
        assert affinity_cookie(to, endpoint, back) is None
        assert affinity_cookie(to, to.endpoints[to.endpoints.index(endpoint) - 1], back) is not None
        assert pick(to, back, [endpoint], draw, 0.0) is not endpoint


def test_the_cookie_and_the_client_of_a_real_request():
    to = healthy(3, Balance.COOKIE)
    cookie = affinity_cookie(to, to.endpoints[2], request())[1].partition(b";")[0]
    head = RequestHead(b"GET", b"/x", [(b"Host", b"a"), (b"Cookie", b"a=b"), (b"Cookie", cookie)])
    real = prepare_request(head, Peer(b"10.0.0.1"), b"id-1")
    assert pick(to, real, [], zero, 0.0) is to.endpoints[2]
    by_client = Upstream("b", to.endpoints, balance=Balance.IP_HASH)
    assert pick(by_client, real, [], zero, 0.0) is pick(by_client, request(b"10.0.0.1"), [], zero, 0.0)


def test_a_cookie_outlives_a_slow_endpoint_but_no_dead_one():
    to = healthy(2, Balance.COOKIE)
    first, second = to.endpoints
    back = request(b"", (b"Cookie", affinity_cookie(to, first, request())[1].partition(b";")[0]))
    first.health = Health.DEGRADED
    assert pick(to, back, [], zero, 0.0) is first
    first.health = Health.UNREACHABLE
    assert pick(to, back, [], zero, 0.0) is second
    first.health, first.ejected_until = Health.HEALTHY, 5.0
    assert pick(to, back, [], zero, 1.0) is second
    assert pick(to, back, [], zero, 5.0) is first


def test_a_cookie_is_the_same_in_every_process_and_other_in_every_upstream():
    to = healthy(1, Balance.COOKIE)
    value = affinity_cookie(to, to.endpoints[0], request())[1]
    assert value == b"ob_upstream=40aa7d; Path=/; HttpOnly; SameSite=Lax"
    other = Upstream("b-svc", to.endpoints, balance=Balance.COOKIE)
    assert affinity_cookie(other, to.endpoints[0], request())[1] != value


@PROPERTY
@given(st.binary(max_size=30), st.sampled_from([b"ob_upstream=", b"xob_upstream=", b"ob_upstream", b""]))
def test_a_cookie_that_names_nothing_is_as_none(value, start):
    to = healthy(2, Balance.COOKIE)
    back = request(b"", (b"Cookie", start + value))
    assert pick(to, back, [], zero, 0.0) is to.endpoints[0]
    assert affinity_cookie(to, to.endpoints[0], back) is not None


def test_no_cookie_but_where_balance_says_so():
    for balance in set(Balance) - {Balance.COOKIE}:
        to = healthy(2, balance)
        assert affinity_cookie(to, to.endpoints[0], request()) is None
    to = healthy(2, Balance.COOKIE)
    assert affinity_cookie(to, EndpointState(Address("http", "elsewhere", 80)), request()) is None


def eject(endpoint, now=0.0, ejection=EJECTION):
    for _ in range(ejection.after):
        endpoint.failed(now, ejection)


def test_an_endpoint_is_out_after_failures_in_a_row_and_back_after_a_trial_that_works():
    to = healthy(2, Balance.LEAST_CONN)
    bad, good = to.endpoints
    good.in_flight = 5
    bad.failed(0.0, EJECTION)
    bad.failed(0.0, EJECTION)
    assert bad.ejected_until == 0.0
    assert pick(to, None, [], zero, 0.0) is bad
    bad.failed(0.0, EJECTION)
    assert (bad.failures, bad.ejected_until) == (3, 1.0)
    assert repr(bad) == "<h:80 Healthy, 0 in flight, 3 failures, out until 1>"
    assert pick(to, None, [], zero, 0.9) is good
    # One request is let through; the others keep off, while it connects and while it waits for its answer.
    assert pick(to, None, [], zero, 1.0) is bad
    assert pick(to, None, [], zero, 1.0) is good
    bad.in_flight += 1
    assert pick(to, None, [], zero, 500.0) is good
    bad.worked()
    assert (bad.failures, bad.ejected_until) == (0, 0.0)
    assert pick(to, None, [], zero, 500.0) is bad
    assert pick(to, None, [], zero, 500.0) is bad


def test_a_success_between_starts_the_count_anew():
    endpoint = healthy(1).endpoints[0]
    for _ in range(5):
        endpoint.failed(0.0, EJECTION)
        endpoint.failed(0.0, EJECTION)
        endpoint.worked()
    assert endpoint.ejected_until == 0.0


def test_it_is_out_for_twice_as_long_each_time_up_to_a_limit():
    to = healthy(2)
    bad = to.endpoints[0]
    eject(bad)
    now, waits = 0.0, [bad.ejected_until]
    for _ in range(8):
        now = bad.ejected_until
        assert pick(to, None, [to.endpoints[1]], zero, now) is bad
        bad.failed(now, EJECTION)
        waits.append(bad.ejected_until - now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    bad.worked()
    eject(bad, now)
    assert bad.ejected_until == now + 1


def test_the_back_off_never_overflows():
    endpoint = healthy(1).endpoints[0]
    for now in range(0, 70 * 5000, 70):
        endpoint.failed(float(now), EJECTION)
    assert endpoint.ejected_until == 70 * 4999 + 60


def test_those_that_were_under_way_when_it_was_ejected_are_no_further_ejections():
    endpoint = healthy(1).endpoints[0]
    eject(endpoint)
    for _ in range(100):
        endpoint.failed(0.5, EJECTION)
    assert endpoint.ejected_until == 1.0


def test_a_trial_that_comes_to_nothing_is_followed_by_another():
    # Its client went away, say.
    to = healthy(2, Balance.LEAST_CONN)
    bad, good = to.endpoints
    good.in_flight = bad.in_flight = 5
    good.in_flight += 5
    eject(bad)
    one = request()
    assert pick(to, one, [], zero, 1.0) is bad
    assert bad.trial is one
    # Requests from before that end now do not make room for a second trial.
    bad.in_flight = 0
    assert pick(to, request(), [], zero, 100.0) is good
    bad.trial = None
    assert pick(to, request(), [], zero, 100.0) is bad


def test_zero_is_never():
    endpoint = upstream(Health.HEALTHY).endpoints[0]
    for _ in range(100):
        endpoint.failed(0.0, Ejection(after=0))
    assert (endpoint.failures, endpoint.ejected_until) == (100, 0.0)


def test_one_that_refuses_connections_is_out_at_once_and_tried_again_all_the_same():
    to = healthy(2, Balance.LEAST_CONN)
    bad, good = to.endpoints
    good.in_flight = 5
    bad.refused(0.0, EJECTION)
    assert (bad.health, bad.failures, bad.ejected_until) == (Health.UNREACHABLE, 1, 1.0)
    assert pick(to, None, [], zero, 0.9) is good
    assert pick(to, None, [], zero, 1.0) is bad
    bad.worked()
    assert bad.health is Health.HEALTHY


@pytest.mark.parametrize("balance", Balance)
def test_where_all_are_ejected_the_first_to_come_back_is_taken(balance):
    to = healthy(3, balance)
    for endpoint, now in zip(to.endpoints, [2.0, 1.0, 3.0], strict=True):
        eject(endpoint, now)
    order: list[int] = []
    tried: list[EndpointState] = []
    while (endpoint := pick(to, request(), tried, zero, 1.5)) is not None:
        order.append(to.endpoints.index(endpoint))
        tried.append(endpoint)
    assert order == [1, 0, 2]
    # That was no trial: the time of each stays as it was.
    assert [endpoint.ejected_until for endpoint in to.endpoints] == [3.0, 2.0, 4.0]


def test_worked_makes_healthy_what_was_not_known_to_be():
    for health in Health:
        endpoint = upstream(health).endpoints[0]
        endpoint.worked()
        good = health in (Health.UNKNOWN, Health.UNREACHABLE)
        assert endpoint.health is (Health.HEALTHY if good else health)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["ask", "worked", "failed", "refused", "left"]), st.floats(0, 40)), max_size=60
)


@OFTEN
@given(EVENTS, BALANCES)
def test_there_is_always_a_choice_and_always_a_way_back(events, balance):
    to = healthy(3, balance)
    draw = randoms.Random(7).random
    now = 0.0
    under_way: list[tuple[EndpointState, OutgoingRequest]] = []
    for event, seconds in events:
        now += seconds
        if event == "ask" or not under_way:
            asked = request()
            endpoint = pick(to, asked, [], draw, now)
            assert endpoint is not None
            in_use = [each for each in to.endpoints if not each.ejected_until]
            assert not in_use or endpoint in in_use or endpoint.trial is asked
            endpoint.in_flight += 1
            under_way.append((endpoint, asked))
            continue
        endpoint, asked = under_way.pop(0)
        endpoint.in_flight -= 1
        if event == "worked":
            endpoint.worked()
            assert endpoint.failures == 0 and not endpoint.ejected_until
        elif event != "left":
            getattr(endpoint, event)(now, EJECTION)
        if endpoint.trial is asked:
            endpoint.trial = None
    for endpoint, asked in under_way:
        endpoint.in_flight -= 1
        if endpoint.trial is asked:
            endpoint.trial = None
    # Everything is well again: each that is out has its trial within the longest back-off.
    now += 61
    for _ in range(400):
        endpoint = pick(to, request(b"10.0.0.%d" % (draw() * 250)), [], draw, now)
        endpoint.worked()
    assert [each.ejected_until for each in to.endpoints] == [0.0] * 3


def test_what_is_known_of_an_endpoint_shows():
    state = EndpointState(Address("http", "::1", 81), in_flight=2, failures=1, health=Health.DEGRADED)
    assert repr(state) == "<[::1]:81 Degraded, 2 in flight, 1 failures>"


def test_two_states_of_one_address_are_two():
    address = Address("http", "h", 80)
    assert EndpointState(address) != EndpointState(address)
    assert len({EndpointState(address), EndpointState(address)}) == 2


def test_the_limits_of_an_upstream():
    to = upstream(Health.HEALTHY)
    assert (to.timeouts, to.retries, to.balance, to.ejection) == (Timeouts(), 1, Balance.RANDOM, Ejection())
    assert (to.timeouts.connect, to.timeouts.first_byte, to.timeouts.idle) == (5.0, 60.0, 60.0)
    assert (to.ejection.after, to.ejection.seconds, to.ejection.at_most) == (3, 1.0, 60.0)


@pytest.mark.parametrize(
    "weights, message",
    [((1,), "1 weights for 2"), ((1, 0), "above 0"), ((1, -1), "above 0"), ((1, 1.5), "whole number")],
)
def test_weights_that_there_are_not(weights, message):
    with pytest.raises(ValueError, match=message):
        healthy(2, weights=weights)
