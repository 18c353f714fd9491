from __future__ import annotations

import gc
import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock

from onebackend_proxy import reverse_proxy
from onebackend_proxy.addresses import parse_target
from onebackend_proxy.balancing import Balance, Ejection, EndpointState, Health, Timeouts, Upstream, pick
from onebackend_proxy.errors import Unavailable, UpstreamFailed, answer_for
from onebackend_proxy.records import Route, WeightedTarget
from onebackend_proxy.routing import RouteTable
from onebackend_proxy.targets import RouteUpstreams, Targets

from .properties import PROPERTY


def service(slug, count, weights=()):
    endpoints = tuple(EndpointState(parse_target(f"http://{slug}:{8000 + i}")) for i in range(count))
    return Upstream(slug, endpoints, weights=weights)


class Registry:
    """Looks up in `services`, and counts."""

    def __init__(self, **services):
        self.services = services
        self.asked = 0

    def lookup(self, slug):
        self.asked += 1
        return self.services.get(slug)


def urls(upstream):
    return [endpoint.address.url for endpoint in upstream.endpoints]


def test_addresses():
    registry = Registry()
    targets = Targets(registry.lookup)
    upstream = targets.upstream_of("x.com", ["http://a", "b:81", "unix:/c.sock"], [3, 1, 2])
    assert urls(upstream()) == ["http://a", "http://b:81", "unix:/c.sock"]
    assert upstream().weights == (3, 1, 2)
    assert upstream().name == "x.com"
    assert upstream() is upstream()
    assert registry.asked == 0
    assert sorted(each.address.url for each in targets.endpoints()) == sorted(urls(upstream()))
    assert repr(targets) == "<Targets: 3 addresses>"


def test_what_an_upstream_is_besides():
    upstream = Targets(Registry().lookup).upstream_of(
        "x.com",
        ["https://a"],
        balance=Balance.IP_HASH,
        timeouts=Timeouts(1, 2, 3),
        retries=5,
        ejection=Ejection(7),
        verify=False,
    )()
    assert (upstream.balance, upstream.timeouts, upstream.retries, upstream.ejection) == (
        Balance.IP_HASH,
        Timeouts(1, 2, 3),
        5,
        Ejection(7),
    )
    assert not upstream.endpoints[0].address.verify


def test_what_was_learned_of_an_address_is_kept():
    targets = Targets(Registry().lookup)
    old = targets.upstream_of("x.com", ["http://a", "http://gone"])
    old().endpoints[0].health = Health.DEGRADED
    new = targets.upstream_of("x.com", ["http://b", "http://a"])
    assert new().endpoints[1] is old().endpoints[0]
    del old
    gc.collect()
    assert sorted(each.address.host for each in targets.endpoints()) == ["a", "b"]
    skipping = targets.upstream_of("x.com", ["https://a"], verify=False)
    verifying = targets.upstream_of("x.com", ["https://a"])
    assert skipping().endpoints[0] is not verifying().endpoints[0]


def test_a_service_is_asked_for_each_time():
    registry = Registry()
    upstream = Targets(registry.lookup).upstream_of("x.com", ["service:user"], retries=3)
    with pytest.raises(Unavailable) as caught:
        upstream()
    assert answer_for(caught.value) == (503, "the service has no instance")
    registry.services["user"] = service("user", 2)
    assert upstream().endpoints == registry.services["user"].endpoints
    assert (upstream().name, upstream().retries, upstream().weights) == ("x.com", 3, ())
    assert upstream() is upstream()
    registry.services["user"] = service("user", 3)
    assert upstream().endpoints == registry.services["user"].endpoints
    del registry.services["user"]
    with pytest.raises(Unavailable):
        upstream()


def test_addresses_serve_where_a_service_has_no_instance():
    registry = Registry()
    upstream = Targets(registry.lookup).upstream_of("x.com", ["service:user", "http://a"], [1, 3])
    assert urls(upstream()) == ["http://a"]
    registry.services["user"] = service("user", 2)
    assert urls(upstream()) == ["http://user:8000", "http://user:8001", "http://a"]
    assert upstream().weights == (1, 1, 6)


def test_the_same_target_twice_is_one_with_both_weights():
    registry = Registry(user=service("user", 1))
    upstream = Targets(registry.lookup).upstream_of(
        "x.com", ["http://a", "service:user", "http://a", "service:user"], [1, 2, 3, 4]
    )
    assert dict(zip(urls(upstream()), upstream().weights, strict=True)) == {
        "http://a": 2,
        "http://user:8000": 3,
    }


@PROPERTY
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.none() | st.lists(st.integers(1, 5), min_size=1, max_size=4)),
        min_size=1,
        max_size=5,
    )
)
def test_the_instances_of_a_service_share_its_weight(parts):
    registry = Registry()
    texts = []
    for number, (_weight, own) in enumerate(parts):
        texts.append(f"http://a{number}" if own is None else f"service:s{number}")
        if own is not None:
            registry.services[f"s{number}"] = service(f"s{number}", len(own), tuple(own))
    weights = [weight for weight, _own in parts]
    upstream = Targets(registry.lookup).upstream_of("x", texts, weights)()
    real = upstream.weights or (1,) * len(upstream.endpoints)
    for number, (weight, own) in enumerate(parts):
        host = f"a{number}" if own is None else f"s{number}"
        mine = [w for e, w in zip(upstream.endpoints, real, strict=True) if e.address.host == host]
        assert sum(mine) * sum(weights) == weight * sum(real)
        if own is not None:
            assert [each * sum(own) for each in mine] == [each * sum(mine) for each in own]
    assert pick(upstream, None, [], random.Random(1).random, 0.0) in upstream.endpoints


@pytest.mark.parametrize(
    "targets, weights, message",
    [
        ([], [], "needs a target"),
        (["http://a"], [1, 2], "2 weights for 1"),
        (["http://a", "http://b"], [0, 1], "whole number above 0"),
        (["service:a", "service:b"], [1, 0.5], "whole number above 0"),
        (["ftp://a"], [], "only http and https"),
        (["service:-"], [], "not a service slug"),
    ],
)
def test_what_is_no_list_of_targets(targets, weights, message):
    with pytest.raises(ValueError, match=message):
        Targets(Registry().lookup).upstream_of("x.com", targets, weights)


@pytest.mark.parametrize(
    "named, message",
    [
        ({"balance": "fair"}, "'fair' is not a valid Balance"),
        ({"weights": [1]}, "1 weights for 2"),
        ({"weights": [1, 0]}, "whole number above 0"),
    ],
)
def test_a_resource_takes_no_balance_or_weights_that_there_are_not(named, message):
    with pytest.raises(ValueError, match=message):
        reverse_proxy("http://a", "http://b", reactor=MemoryReactorClock(), **named)


def test_a_resource_for_several_targets():
    urls = ["http://10.0.0.1", "unix:/run/a.sock"]
    resource = reverse_proxy(*urls, reactor=MemoryReactorClock(), balance="least_conn", weights=[2, 1])
    upstream = resource._upstream()
    assert isinstance(upstream, Upstream)
    assert [endpoint.address.url for endpoint in upstream.endpoints] == urls
    assert (upstream.balance, upstream.weights) == (Balance.LEAST_CONN, (2, 1))
    with pytest.raises(ValueError, match="names a service"):
        reverse_proxy("service:a", reactor=MemoryReactorClock())


def a_table(*routes):
    return RouteTable(routes)


def an_upstream(upstreams: RouteUpstreams, route: Route) -> Upstream:
    upstream = upstreams.of(route)
    assert upstream is not None
    return upstream


def test_the_upstream_of_a_route_is_made_once():
    upstreams = RouteUpstreams(Targets(lambda slug: None))
    route = Route("x.com", "http://10.0.0.1")
    assert upstreams.of(route) is upstreams.of(route)
    # The same again, as another process's save of another route brings it.
    assert upstreams.of(attrs.evolve(route)) is upstreams.of(route)


def test_what_was_learned_of_an_address_outlives_a_change_of_its_route():
    upstreams = RouteUpstreams(Targets(lambda slug: None))
    before = an_upstream(upstreams, Route("x.com", "http://10.0.0.1"))
    changed = Route(
        "x.com", targets=(WeightedTarget("http://10.0.0.1", 2), WeightedTarget("http://10.0.0.2"))
    )
    after = an_upstream(upstreams, changed)
    assert after is not before and after.endpoints[0] is before.endpoints[0]


def test_routes_that_are_gone_are_forgotten():
    upstreams = RouteUpstreams(Targets(lambda slug: None))
    kept, gone = Route("x.com", "http://10.0.0.1"), Route("y.com", "http://10.0.0.2")
    upstreams.publish(a_table(kept, gone))
    assert [an_upstream(upstreams, route).name for route in (kept, gone)] == ["x.com", "y.com"]
    assert len(upstreams.endpoints()) == 2
    upstreams.publish(a_table(kept))
    gc.collect()
    assert [endpoint.address.host for endpoint in upstreams.endpoints()] == ["10.0.0.1"]


def test_a_new_address_is_looked_at():
    targets = Targets(lambda slug: None)
    looked_at: list[EndpointState] = []
    targets.watch = looked_at.append
    made = targets.upstream_of("x", ["http://10.0.0.1", "http://10.0.0.2", "http://10.0.0.1"])
    assert tuple(looked_at) == made().endpoints
    targets.upstream_of("y", ["http://10.0.0.2"])
    assert len(looked_at) == 2


def test_a_built_in_service_has_no_upstream():
    upstreams = RouteUpstreams(Targets(lambda slug: None))
    assert upstreams.of(Route("x.com", "service:user-svc")) is None


def test_a_target_that_another_version_saved():
    upstreams = RouteUpstreams(Targets(lambda slug: None))
    with pytest.raises(UpstreamFailed, match="cannot be used"):
        upstreams.of(Route("x.com", "gopher://x"))
