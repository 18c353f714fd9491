"""The embedded registry: instances persist in the store, and are looked up in memory."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from zope.interface import implementer

from ..addresses import Address, parse_instance_url
from ..balancing import EndpointState, Timeouts, Upstream
from ..errors import NotFound
from ..interfaces import InstanceView, IRegistry, IStore
from ..records import Instance


def _unwatched(endpoint: EndpointState) -> None:
    """Nobody looks at the health of new endpoints."""


@implementer(IRegistry)
class EmbeddedRegistry:
    """An `interfaces.IRegistry` over a store. A write is kept before it is routed to.

    `watch` is called with each endpoint that is new, so that its health is looked at right away.
    """

    def __init__(
        self,
        store: IStore,
        watch: Callable[[EndpointState], None] = _unwatched,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (immutable)
    ) -> None:
        self._store = store
        self.watch = watch
        self._timeouts = timeouts
        self._instances: dict[str, Instance] = {}
        self._endpoints: dict[Address, EndpointState] = {}
        self._upstreams: dict[str, Upstream] = {}

    def __repr__(self) -> str:
        return f"<EmbeddedRegistry: {len(self._instances)} instances of {len(self._upstreams)} services>"

    def load(self) -> Deferred[None]:
        """Read all instances from the store."""
        return self._store.instances().addCallback(self._publish_all)

    def _publish_all(self, instances: Iterable[Instance]) -> None:
        self._instances = {instance.id: instance for instance in instances}
        for slug in {instance.slug for instance in self._instances.values()}:
            self._publish(slug)

    def _publish(self, slug: str) -> None:
        """Build the service's upstream anew; an endpoint whose address stays keeps its state."""
        addresses = [
            parse_instance_url(instance.url) for instance in self._instances.values() if instance.slug == slug
        ]
        endpoints = tuple(self._endpoint(address) for address in addresses)
        if endpoints:
            self._upstreams[slug] = Upstream(slug, endpoints, self._timeouts)
        else:
            self._upstreams.pop(slug, None)
        used = {endpoint.address for upstream in self._upstreams.values() for endpoint in upstream.endpoints}
        for address in set(self._endpoints) - used:
            del self._endpoints[address]

    def _endpoint(self, address: Address) -> EndpointState:
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            endpoint = self._endpoints[address] = EndpointState(address)
            self.watch(endpoint)
        return endpoint

    def endpoints(self) -> Iterable[EndpointState]:
        """Every address that some instance has."""
        return self._endpoints.values()

    def lookup(self, slug: str) -> Upstream | None:
        """See `interfaces.IRegistry`."""
        return self._upstreams.get(slug)

    def instances(self) -> tuple[InstanceView, ...]:
        """See `interfaces.IRegistry`."""
        return tuple(self._view(self._instances[key]) for key in sorted(self._instances))

    def _view(self, instance: Instance) -> InstanceView:
        endpoint = self._endpoints[parse_instance_url(instance.url)]
        seen = endpoint.last_heartbeat
        heartbeat = None if seen is None else datetime.datetime.fromtimestamp(seen, datetime.UTC)
        return InstanceView(instance, endpoint.health.value, heartbeat)

    def register(self, instance: Instance) -> Deferred[None]:
        """See `interfaces.IRegistry`."""

        def kept(_: None) -> None:
            before = self._instances.get(instance.id)
            self._instances[instance.id] = instance
            if before is not None and before.slug != instance.slug:
                self._publish(before.slug)
            self._publish(instance.slug)

        return self._store.save_instance(instance).addCallback(kept)

    def remove(self, instance_id: str) -> Deferred[None]:
        """See `interfaces.IRegistry`."""

        def gone(_: None) -> None:
            instance = self._instances.pop(instance_id, None)
            if instance is None:
                raise NotFound(f"no instance {instance_id!r}")
            self._publish(instance.slug)

        return self._store.delete_instance(instance_id).addCallback(gone)
