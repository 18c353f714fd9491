"""A plane of the edge, and of the service side, whose Routes have policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.web.static import Data

from onebackend_proxy.desk.guard import Guards
from onebackend_proxy.downstream.edge import EdgeResource
from onebackend_proxy.downstream.resources import Desk, ServiceResource
from onebackend_proxy.exchange import Exchanges
from onebackend_proxy.headers import Network
from onebackend_proxy.interfaces import Published
from onebackend_proxy.limits import DEFAULTS, Limits
from onebackend_proxy.password_work import PasswordWork
from onebackend_proxy.records import Redirect, Route
from onebackend_proxy.registry import EmbeddedRegistry
from onebackend_proxy.routing import RouteTable
from onebackend_proxy.targets import RouteUpstreams, Targets
from onebackend_proxy.testing import MemoryStore, ScriptedUpstream

from ..conformance import Plane, instance


@attrs.define
class GuardedPlane(Plane):
    """A plane whose resource asks guards; `services` is its service side."""

    upstreams: Any = None
    guards: Any = None
    services: Any = None

    def publish(self, routes: Sequence[Route] = (), redirects: Sequence[Redirect] = ()) -> None:
        """From now on there are these."""
        table = RouteTable(routes)
        self.upstreams.publish(table)
        self.guards.publish(table)
        self.services.publish(table.services())
        edge: Any = self.resource
        if edge is not self.services:
            edge.publish(Published(table, RouteTable(redirects), (), ()))


def guarded_plane(
    make_factory: Any,
    routes: Sequence[Route] = (),
    urls: Sequence[str] = (),
    *,
    limits: Limits = DEFAULTS,
    trusted: Sequence[Network] = (),
    in_thread: Any = None,
    service_side: bool = False,
    storage: Any = None,
) -> GuardedPlane:
    """A plane with these Routes; the URLs are those of the service ``svc``.

    `in_thread` runs what else a thread does, at once if it is None.
    """
    clock = Clock()
    upstream = ScriptedUpstream()
    registry = EmbeddedRegistry(MemoryStore())
    for url in urls:
        registry.register(instance(url))
    exchanges = Exchanges(clock, upstream, random=lambda: 0.0, limits=limits)
    upstreams = RouteUpstreams(Targets(registry.lookup), limits)
    guards = Guards(
        upstreams,
        PasswordWork(in_thread) if in_thread is not None else PasswordWork(),
        clock.seconds,
        storage=storage,
    )
    desk = Desk(exchanges, trusted)
    services = ServiceResource(registry, desk, guards.of)
    built_in = Data(b"built in", "text/plain")
    built_in.isLeaf = True
    services.serve({b"user-svc": built_in})
    edge = EdgeResource(desk, guards.of, services)
    resource: Any = services if service_side else edge
    plane = GuardedPlane(
        clock,
        upstream,
        registry,
        exchanges,
        resource,
        make_factory(resource, clock),
        upstreams=upstreams,
        guards=guards,
        services=services,
    )
    plane.publish(routes)
    return plane
