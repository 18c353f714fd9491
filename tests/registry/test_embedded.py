"""The embedded registry: what is stored first and routed to afterwards, and what survives a change."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy.addresses import parse_instance_url
from onebackend_proxy.balancing import Ejection, EndpointState, Health, Timeouts
from onebackend_proxy.errors import Conflict, NotFound, StoreUnavailable
from onebackend_proxy.records import Instance
from onebackend_proxy.registry import EmbeddedRegistry
from onebackend_proxy.testing import MemoryStore


def instance(key: str, url: str, slug: str = "svc") -> Instance:
    address = parse_instance_url(url)
    return Instance(key, slug, url, address.scheme, address.host, address.port, path=address.path)


A = instance("inst-a", "http://a:8000")
B = instance("inst-b", "http://b:8000/base")


def urls(registry: EmbeddedRegistry, slug: str = "svc") -> list[str]:
    """Where the registry sends requests for a slug."""
    upstream = registry.lookup(slug)
    return [endpoint.address.url for endpoint in upstream.endpoints] if upstream else []


class SlowStore(MemoryStore):
    """A store whose writes wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Deferred[None]] = []

    def save_instance(self, instance: Instance) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self.waiting.append(waiting)
        return waiting.addCallback(lambda _: super(SlowStore, self).save_instance(instance))


class TestEmbeddedRegistry(SynchronousTestCase):
    """Over a store in memory."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.watched: list[EndpointState] = []
        self.registry = EmbeddedRegistry(self.store, self.watched.append, Timeouts(1, 2, 3), Ejection(5))

    def register(self, *instances: Instance) -> None:
        for each in instances:
            self.successResultOf(self.registry.register(each))

    def endpoint(self, url: str) -> EndpointState:
        [found] = [each for each in self.registry.endpoints() if each.address.url == url]
        return found

    def test_nothing_is_registered(self) -> None:
        assert self.registry.lookup("svc") is None
        assert self.registry.instances() == ()
        assert list(self.registry.endpoints()) == []

    def test_register(self) -> None:
        self.register(B, A)
        upstream = self.registry.lookup("svc")
        assert upstream is not None
        assert (upstream.name, upstream.timeouts, upstream.ejection) == (
            "/svc",
            Timeouts(1, 2, 3),
            Ejection(5),
        )
        assert urls(self.registry) == ["http://a:8000", "http://b:8000/base"]
        assert self.successResultOf(self.store.instances()) == (A, B)
        assert [each.instance for each in self.registry.instances()] == [A, B]
        assert [each.address.host for each in self.watched] == ["b", "a"]
        assert repr(self.registry) == "<EmbeddedRegistry: 2 instances of 1 services>"

    def test_an_instance_by_its_id_and_by_its_url(self) -> None:
        self.register(A)
        assert self.registry.instance(A.id) == self.registry.holder(A.url) == A
        assert self.registry.instance(B.id) is self.registry.holder(B.url) is None
        moved = instance(A.id, "http://a:9000")
        self.register(moved)
        assert self.registry.holder(A.url) is None
        assert self.registry.holder(moved.url) == moved
        self.successResultOf(self.registry.remove(A.id))
        assert self.registry.instance(A.id) is self.registry.holder(moved.url) is None

    def test_register_again_keeps_what_was_learned(self) -> None:
        self.register(A)
        endpoint = self.endpoint(A.url)
        endpoint.health, endpoint.failures = Health.DEGRADED, 3
        self.register(attrs.evolve(A, deployment_id="new"))
        assert self.endpoint(A.url) is endpoint
        assert self.registry.instances()[0].instance.deployment_id == "new"
        assert self.watched == [endpoint, endpoint]

    def test_a_new_address_is_learned_anew(self) -> None:
        self.register(A)
        self.endpoint(A.url).health = Health.UNREACHABLE
        before = self.registry.lookup("svc")
        self.register(instance(A.id, "http://a:9000"))
        assert urls(self.registry) == ["http://a:9000"]
        assert self.endpoint("http://a:9000").health is Health.UNKNOWN
        assert before is not None and before.endpoints[0].address.port == 8000

    def test_a_move_to_another_service(self) -> None:
        self.register(A, B)
        endpoint = self.endpoint(A.url)
        self.register(attrs.evolve(A, slug="other"))
        assert urls(self.registry) == [B.url]
        assert urls(self.registry, "other") == [A.url]
        assert self.endpoint(A.url) is endpoint
        self.register(attrs.evolve(B, slug="other"))
        assert self.registry.lookup("svc") is None
        assert len(self.registry.instances()) == 2

    def test_remove(self) -> None:
        self.register(A, B)
        self.successResultOf(self.registry.remove(A.id))
        assert urls(self.registry) == [B.url]
        assert [each.address.host for each in self.registry.endpoints()] == ["b"]
        self.successResultOf(self.registry.remove(B.id))
        assert self.registry.lookup("svc") is None
        assert self.successResultOf(self.store.instances()) == ()

    def test_remove_what_is_not_there(self) -> None:
        self.register(A)
        self.failureResultOf(self.registry.remove("inst-x"), NotFound)
        assert urls(self.registry) == [A.url]

    def test_remove_what_only_the_store_knew(self) -> None:
        self.successResultOf(self.store.save_instance(A))
        self.successResultOf(self.registry.remove(A.id))
        assert self.successResultOf(self.store.instances()) == ()

    def test_load(self) -> None:
        other = instance("inst-c", "https://c", "other")
        for each in (A, B, other):
            self.successResultOf(self.store.save_instance(each))
        self.successResultOf(self.registry.load())
        assert urls(self.registry) == [A.url, B.url]
        assert urls(self.registry, "other") == [other.url]
        assert len(self.watched) == 3

    def follow(self) -> None:
        followed = self.store.follow(lambda published: self.registry.published(published.instances))
        self.successResultOf(followed)

    def test_what_the_store_publishes(self) -> None:
        self.register(A)
        self.follow()
        endpoint = self.endpoint(A.url)
        endpoint.health, endpoint.failures = Health.DEGRADED, 3
        before = self.registry.lookup("svc")
        other = instance("inst-c", "https://c", "other")
        self.successResultOf(self.store.save_instance(other))
        assert urls(self.registry, "other") == [other.url]
        assert self.registry.lookup("svc") is before
        self.successResultOf(self.store.save_instance(B))
        assert urls(self.registry) == [A.url, B.url]
        assert self.endpoint(A.url) is endpoint
        assert [each.address.host for each in self.watched] == ["a", "c", "b"]
        self.successResultOf(self.store.delete_instance(A.id))
        assert urls(self.registry) == [B.url]
        assert self.registry.holder(A.url) is None
        assert len(list(self.registry.endpoints())) == 2
        self.successResultOf(self.store.delete_instance(other.id))
        assert self.registry.lookup("other") is None

    def test_what_it_does_itself_while_it_follows(self) -> None:
        self.follow()
        self.register(A)
        upstream = self.registry.lookup("svc")
        assert urls(self.registry) == [A.url]
        self.register(A)
        assert self.registry.lookup("svc") is upstream
        assert {each.address.host for each in self.watched} == {"a"}
        # Who registers again is looked at again.
        assert len(self.watched) >= 2
        self.successResultOf(self.registry.remove(A.id))
        assert self.registry.lookup("svc") is None

    def test_an_address_that_has_another_id_now(self) -> None:
        self.registry.published((A, B))
        again = attrs.evolve(A, id="inst-z")
        self.registry.published((B, again))
        assert self.registry.holder(A.url) == again
        assert urls(self.registry) == [B.url, A.url]
        self.registry.published((instance(B.id, A.url), instance(again.id, B.url)))
        assert self.registry.instance(B.id) == self.registry.holder(A.url) == instance(B.id, A.url)
        assert urls(self.registry) == [A.url, B.url]

    def test_an_address_whose_holder_went_unnoticed(self) -> None:
        self.register(A)
        self.successResultOf(self.store.delete_instance(A.id))
        again = attrs.evolve(A, id="inst-z")
        self.register(again)
        assert [each.instance for each in self.registry.instances()] == [again]
        assert urls(self.registry) == [A.url]
        self.successResultOf(self.registry.remove(again.id))
        assert list(self.registry.endpoints()) == []

    def test_the_same_again_is_no_work(self) -> None:
        instances = (A, B)
        self.registry.published(instances)
        before = self.registry.lookup("svc")
        for again in (instances, (A, B)):
            self.registry.published(again)
            assert self.registry.lookup("svc") is before
        assert len(self.watched) == 2

    def test_a_store_that_fails_changes_nothing(self) -> None:
        self.register(A)
        before = self.registry.lookup("svc")
        self.store.failure = StoreUnavailable("locked")
        self.failureResultOf(self.registry.register(B), StoreUnavailable)
        self.failureResultOf(self.registry.register(attrs.evolve(A, slug="other")), StoreUnavailable)
        self.failureResultOf(self.registry.remove(A.id), StoreUnavailable)
        self.failureResultOf(self.registry.load(), StoreUnavailable)
        assert self.registry.lookup("svc") is before
        assert self.registry.lookup("other") is None
        assert [each.instance for each in self.registry.instances()] == [A]
        assert len(self.watched) == 1

    def test_an_address_that_is_taken_changes_nothing(self) -> None:
        self.register(A)
        self.failureResultOf(self.registry.register(attrs.evolve(A, id="inst-x")), Conflict)
        assert [each.instance for each in self.registry.instances()] == [A]

    def test_nothing_is_routed_to_before_it_is_stored(self) -> None:
        store = SlowStore()
        registry = EmbeddedRegistry(store)
        registered = registry.register(A)
        assert registry.lookup("svc") is None
        store.waiting[0].callback(None)
        self.successResultOf(registered)
        assert urls(registry) == [A.url]

    def test_what_is_told_of_an_instance(self) -> None:
        self.register(A)
        [view] = self.registry.instances()
        assert (view.status, view.last_heartbeat) == ("Unknown", None)
        endpoint = self.endpoint(A.url)
        endpoint.health, endpoint.last_heartbeat = Health.DEGRADED, 1_700_000_000.0
        [view] = self.registry.instances()
        assert view.status == "Degraded"
        assert view.last_heartbeat == datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC)


KEYS = st.sampled_from(("inst-a", "inst-b", "inst-c"))
STEPS = st.lists(
    st.one_of(
        st.tuples(KEYS, st.sampled_from(("one", "two")), st.integers(1, 3)),
        st.tuples(KEYS),
    )
)


@given(STEPS, st.booleans())
def test_memory_and_store_always_agree(
    steps: Sequence[tuple[str] | tuple[str, str, int]], follows: bool
) -> None:
    store = MemoryStore()
    registry = EmbeddedRegistry(store)
    if follows:
        store.follow(lambda published: registry.published(published.instances))
    for step in steps:
        if len(step) == 1:
            done = registry.remove(step[0])
        else:
            key, slug, port = step
            done = registry.register(instance(key, f"http://a:{port}", slug))
        done.addErrback(lambda failure: failure.trap(Conflict, NotFound) and None)
    fresh = EmbeddedRegistry(store)
    fresh.load()
    for slug in ("one", "two"):
        assert urls(registry, slug) == urls(fresh, slug)
    assert registry.instances() == fresh.instances()
    assert len(list(registry.endpoints())) == len(registry.instances())
