"""Routes as the API takes and shows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.api.rules import SaveRoutesBody
from onebackend_proxy.api.shapes import route_json
from onebackend_proxy.api.validation import structure
from onebackend_proxy.balancing import Balance
from onebackend_proxy.errors import BadRequest
from onebackend_proxy.records import Route, RouteTimeouts, WeightedTarget
from onebackend_proxy.targets import Targets

from ..properties import PROPERTY

FULL = {
    "id": "a.com",
    "targets": [{"url": "http://one:1", "weight": 3}, {"url": "service:two"}, {"url": "unix:/three"}],
    "balance": "least_conn",
    "timeouts": {"connect": "250ms", "firstByte": "1m", "idle": "90s"},
    "retries": 0,
    "tlsInsecureSkipVerify": True,
}


def record(**fields):
    [route] = structure(SaveRoutesBody, {"routes": [{"id": "a.com", **fields}]}).records()
    return route


def refused(**fields):
    with pytest.raises(BadRequest) as caught:
        record(**fields)
    return caught.value.message


def test_every_field_is_kept_and_given_back():
    route = record(**FULL)
    assert route == Route(
        "a.com",
        "",
        (WeightedTarget("http://one:1", 3), WeightedTarget("service:two"), WeightedTarget("unix:/three")),
        "least_conn",
        RouteTimeouts(0.25, 60.0, 90.0),
        0,
        True,
    )
    assert route_json(route) == {
        **FULL,
        "timeouts": {"connect": "250ms", "firstByte": "1m", "idle": "90s"},
    }


def test_a_single_target_is_as_it_ever_was():
    assert record(target="b:1") == Route("a.com", "b:1")
    assert route_json(Route("a.com", "b:1")) == {"id": "a.com", "target": "b:1"}


def test_what_is_null_is_not_set():
    fields = dict.fromkeys(["targets", "balance", "timeouts", "retries", "tlsInsecureSkipVerify"])
    assert record(target="b", **fields) == Route("a.com", "b")
    assert record(target="b", timeouts={"connect": None}) == Route("a.com", "b")
    assert record(target=None, targets=[{"url": "b", "weight": 1}]).targets == (WeightedTarget("b"),)
    assert route_json(record(target="b", tlsInsecureSkipVerify=False)) == {"id": "a.com", "target": "b"}


@pytest.mark.parametrize(
    "given_, seconds, shown",
    [(5, 5.0, "5s"), (0.25, 0.25, "250ms"), ("5", 5.0, "5s"), ("1h30m", 5400.0, "90m"), (1e-3, 0.001, "1ms")],
)
def test_times_are_numbers_of_seconds_or_words(given_, seconds, shown):
    route = record(target="b", timeouts={"idle": given_})
    assert route.timeouts == RouteTimeouts(idle=seconds)
    assert route_json(route)["timeouts"] == {"idle": shown}


@pytest.mark.parametrize(
    "fields, wanted",
    [
        ({}, "target: is missing"),
        ({"target": None}, "target: is missing"),
        ({"target": "b", "targets": [{"url": "c"}]}, "targets: cannot stand beside target"),
        ({"target": "b", "targets": []}, "targets: cannot stand beside target"),
        ({"targets": []}, "targets: is empty"),
        ({"targets": "b"}, "targets: expected a list"),
        ({"targets": ["b"]}, "targets[0]: expected an object"),
        ({"targets": [{"url": "b"}] * 1001}, "targets: has more than 1000 items"),
        ({"targets": [{"url": "b"}, {}]}, "targets[1].url: is missing"),
        ({"targets": [{"url": "b"}, {"url": "ftp://b"}]}, "targets[1].url: has the scheme 'ftp'"),
        ({"targets": [{"url": "b", "weight": 0}]}, "targets[0].weight: must be from 1 to 1000000"),
        ({"targets": [{"url": "b", "weight": 1.5}]}, "targets[0].weight: expected an integer"),
        ({"targets": [{"url": "b", "wieght": 2}]}, "targets[0]: unknown field 'wieght'"),
        ({"target": "b", "balance": "fair"}, "balance: must be one of random, round_robin, least_conn, ip_h"),
        ({"target": "b", "balance": 1}, "balance: expected a string"),
        ({"target": "b", "timeouts": 5}, "timeouts: expected an object"),
        ({"target": "b", "timeouts": {"first_byte": 5}}, "timeouts: unknown field 'first_byte'"),
        ({"target": "b", "timeouts": {"connect": 0}}, "timeouts.connect: must be at least 1ms"),
        ({"target": "b", "timeouts": {"firstByte": "0s"}}, "timeouts.firstByte: must be at least 1ms"),
        ({"target": "b", "timeouts": {"connect": -1}}, "timeouts.connect: is negative"),
        ({"target": "b", "timeouts": {"connect": "-1s"}}, "timeouts.connect: '-1s' is negative"),
        ({"target": "b", "timeouts": {"connect": 1e300}}, "timeouts.connect: is too long: at most 20d"),
        ({"target": "b", "timeouts": {"connect": "21d"}}, "timeouts.connect: '21d' is too long"),
        ({"target": "b", "timeouts": {"connect": "5 s"}}, "timeouts.connect: '5 s' is not a time such as 5s"),
        ({"target": "b", "timeouts": {"connect": True}}, "timeouts.connect: expected a number of seconds"),
        ({"target": "b", "retries": 11}, "retries: must be from 0 to 10"),
        ({"target": "b", "retries": -1}, "retries: must be from 0 to 10"),
        ({"target": "b", "retries": "1"}, "retries: expected an integer"),
        ({"target": "b", "tlsInsecureSkipVerify": "yes"}, "tlsInsecureSkipVerify: expected true or false"),
        ({"target": "b", "tls_insecure_skip_verify": True}, ": unknown field 'tls_insecure_skip_verify'"),
        # A misspelt field of a policy would be a door left open.
        ({"target": "b", "acces": {}, "ratelimit": 1}, ": unknown fields 'acces', 'ratelimit'"),
    ],
)
def test_what_is_wrong_is_named(fields, wanted):
    prefix = "routes[0]" if wanted.startswith(":") else "routes[0]."
    assert refused(**fields).startswith(f"{prefix}{wanted}")


_target = st.sampled_from(["b", "http://b:1/x", "https://[::1]:2", "unix:/s", "service:shop-svc"])
_several = st.lists(
    st.fixed_dictionaries({"url": _target}, optional={"weight": st.integers(1, 1_000_000)}), min_size=1
)
_time = st.integers(1, 86_400_000).map(lambda ms: ms / 1000) | st.sampled_from(["5s", "1m30s", "7"])
_fields = st.fixed_dictionaries(
    {},
    optional={
        "balance": st.sampled_from([word.value for word in Balance]),
        "timeouts": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("connect", "firstByte", "idle"), _time)
        ),
        "retries": st.integers(0, 10),
        "tlsInsecureSkipVerify": st.booleans(),
    },
)
_where = st.fixed_dictionaries({"target": _target}) | st.fixed_dictionaries({"targets": _several})


@PROPERTY
@given(_where, _fields)
def test_what_a_listing_shows_can_be_saved_again(where, fields):
    route = record(**where, **fields)
    shown = route_json(route)
    [again] = structure(SaveRoutesBody, {"routes": [shown]}).records()
    assert again == route and route_json(again) == shown


@PROPERTY
@given(_several)
def test_what_is_taken_makes_an_upstream(several):
    route = record(targets=several)
    urls, weights = [t.url for t in route.targets], [t.weight for t in route.targets]
    Targets(lambda slug: None).upstream_of(route.id, urls, weights)
