"""The embedded registry: instances persist in the store, and are looked up in memory."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from zope.interface import implementer

from ..addresses import parse_instance_url
from ..balancing import Balance, Ejection, EndpointState, Timeouts, Upstream
from ..interfaces import InstanceView, IRegistry, IStore
from ..records import Instance


def _unwatched(endpoint: EndpointState) -> None:
    """Nobody looks at the health of new endpoints."""


@implementer(IRegistry)
class EmbeddedRegistry:
    """An `interfaces.IRegistry` over a store. A write is kept before it is routed to.

    It knows what `published` tells it, which is to follow the store, or `load`, and what it did itself.
    `watch` is called with the endpoint of each instance that is read or registered, so that its health is
    looked at right away.
    """

    def __init__(
        self,
        store: IStore,
        watch: Callable[[EndpointState], None] = _unwatched,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (immutable, as the next)
        ejection: Ejection = Ejection(),  # noqa: B008
        balance: Balance = Balance.RANDOM,
    ) -> None:
        self._store = store
        self.watch = watch
        self._timeouts = timeouts
        self._ejection = ejection
        self._balance = balance
        self._published: tuple[Instance, ...] | None = None
        # An address belongs to one instance (the store keeps URLs unique), so an id names an endpoint too.
        self._instances: dict[str, Instance] = {}
        self._endpoints: dict[str, EndpointState] = {}
        self._by_slug: dict[str, set[str]] = {}
        self._by_url: dict[str, str] = {}
        self._upstreams: dict[str, Upstream] = {}

    def __repr__(self) -> str:
        return f"<EmbeddedRegistry: {len(self._instances)} instances of {len(self._upstreams)} services>"

    def load(self) -> Deferred[None]:
        """Read all instances from the store, for a program that does not follow it."""
        return self._store.instances().addCallback(self.published)

    def published(self, instances: tuple[Instance, ...]) -> None:
        """These are all instances that there are; see `interfaces.Published`.

        What was learned of the addresses of those that stay is kept.
        """
        if instances is self._published:
            return
        self._published = instances
        new = {instance.id: instance for instance in instances}
        changed = [instance for instance in instances if self._instances.get(instance.id) != instance]
        slugs = {instance.slug for instance in changed}
        # First all that goes, since what comes may have its address.
        for before in list(self._instances.values()):
            if new.get(before.id) != before:
                slugs.add(before.slug)
                self._forget(before)
                if before.id not in new:
                    del self._endpoints[before.id]
        for instance in changed:
            self._keep(instance)
        for slug in slugs:
            self._publish(slug)

    def _keep(self, instance: Instance) -> None:
        address = parse_instance_url(instance.url)
        endpoint = self._endpoints.get(instance.id)
        self._instances[instance.id] = instance
        self._by_url[instance.url] = instance.id
        self._by_slug.setdefault(instance.slug, set()).add(instance.id)
        if endpoint is None or endpoint.address != address:
            self._endpoints[instance.id] = endpoint = EndpointState(address)
        self.watch(endpoint)

    def _forget(self, instance: Instance) -> None:
        """Take the instance out of its service; its endpoint stays for whoever keeps the id."""
        ids = self._by_slug[instance.slug]
        ids.discard(instance.id)
        if not ids:
            del self._by_slug[instance.slug]
        del self._instances[instance.id]
        del self._by_url[instance.url]

    def _publish(self, slug: str) -> None:
        """Build the service's upstream anew."""
        endpoints = tuple(self._endpoints[key] for key in sorted(self._by_slug.get(slug, ())))
        if endpoints:
            self._upstreams[slug] = Upstream(
                f"/{slug}", endpoints, self._timeouts, balance=self._balance, ejection=self._ejection
            )
        else:
            self._upstreams.pop(slug, None)

    def endpoints(self) -> Iterable[EndpointState]:
        """Every address that some instance has."""
        return self._endpoints.values()

    def upstreams(self) -> Iterable[Upstream]:
        """Those of all services that have an instance."""
        return self._upstreams.values()

    def lookup(self, slug: str) -> Upstream | None:
        """See `interfaces.IRegistry`."""
        return self._upstreams.get(slug)

    def instances(self) -> tuple[InstanceView, ...]:
        """See `interfaces.IRegistry`."""
        return tuple(self._view(self._instances[key]) for key in sorted(self._instances))

    def instance(self, instance_id: str) -> Instance | None:
        """See `interfaces.IRegistry`."""
        return self._instances.get(instance_id)

    def holder(self, url: str) -> Instance | None:
        """See `interfaces.IRegistry`."""
        key = self._by_url.get(url)
        return None if key is None else self._instances[key]

    def _view(self, instance: Instance) -> InstanceView:
        endpoint = self._endpoints[instance.id]
        seen = endpoint.last_heartbeat
        heartbeat = None if seen is None else datetime.datetime.fromtimestamp(seen, datetime.UTC)
        return InstanceView(instance, endpoint.health.value, heartbeat)

    def register(self, instance: Instance) -> Deferred[None]:
        """See `interfaces.IRegistry`."""

        def kept(_: None) -> None:
            if self._instances.get(instance.id) == instance:
                # Published meanwhile, or never away; who registers again is looked at again.
                self.watch(self._endpoints[instance.id])
            else:
                # The store has no other of this id or address, or it would not have taken it.
                others = [each for each in self._instances.values() if each.id != instance.id]
                self.published((*(each for each in others if each.url != instance.url), instance))

        return self._store.save_instance(instance).addCallback(kept)

    def remove(self, instance_id: str) -> Deferred[None]:
        """See `interfaces.IRegistry`."""

        def gone(_: None) -> None:
            self.published(tuple(each for each in self._instances.values() if each.id != instance_id))

        return self._store.delete_instance(instance_id).addCallback(gone)
