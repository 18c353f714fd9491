"""``/proxy-svc``: Routes, Redirects, certificates and the cache; what becomes of a URL; the local root."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ..errors import NotFound
from ..interfaces import IRegistry, Issuing, IStore
from ..password_work import InThread
from ..records import Redirect, Route
from .certs import certificates
from .collection import Collection, collection_operations, read_body
from .explain import Choose, EdgeView, explain_operation, registered
from .exposition import MetricSources
from .issuances import issuing_operations
from .json_resource import Answer, Call, Operation
from .metrics import metrics_operation
from .pausing import pausing_operations
from .permissions import ROUTE_EDIT, ROUTE_VIEW
from .purging import Purge, purge_operation
from .rules import DeleteRoutesBody, ListRoutesBody, SaveRedirectsBody, SaveRoutesBody
from .shapes import redirect_json, route_json

LocalRoot = Callable[[], Deferred[str]]
"""Gives the local authority's root certificate, in PEM."""


MAX_BODY = 32 * 1024 * 1024
"""Bytes of a save of Routes or Redirects."""


def _routes(store: IStore, in_thread: InThread) -> Collection[Route]:
    async def records_in(call: Call) -> list[Route]:
        return await read_body(call, lambda: call.body(SaveRoutesBody).records(), in_thread)

    async def save(routes: Sequence[Route]) -> Sequence[Route]:
        await store.save_routes(routes)
        return routes

    return Collection(
        "routes",
        ROUTE_VIEW,
        ROUTE_EDIT,
        records_in,
        route_json,
        store.routes,
        save,
        store.delete_routes,
        ListRoutesBody,
        DeleteRoutesBody,
        max_body=MAX_BODY,
    )


def _redirects(store: IStore, in_thread: InThread) -> Collection[Redirect]:
    async def records_in(call: Call) -> list[Redirect]:
        return await read_body(call, lambda: call.body(SaveRedirectsBody).records(), in_thread)

    async def save(redirects: Sequence[Redirect]) -> Sequence[Redirect]:
        await store.save_redirects(redirects)
        return redirects

    return Collection(
        "redirects",
        ROUTE_VIEW,
        ROUTE_EDIT,
        records_in,
        redirect_json,
        store.redirects,
        save,
        store.delete_redirects,
        max_body=MAX_BODY,
    )


def _local_authority(local_root: LocalRoot | None) -> Operation:
    async def read(_call: Call) -> Answer:
        if local_root is None:
            raise NotFound("the edge is off: there is no local authority")
        return Answer(200, {"cert": await local_root()})

    return Operation(b"GET", ("local-authority",), read)


def proxy_operations(
    store: IStore,
    registry: IRegistry,
    *,
    services: Choose | None = None,
    edge: EdgeView | None = None,
    local_root: LocalRoot | None = None,
    issuing: Issuing | None = None,
    metrics: MetricSources | None = None,
    purge: Purge | None = None,
    seconds: Callable[[], float] = time.time,
    in_thread: InThread = deferToThread,
) -> list[Operation]:
    """The calls of proxy-svc over `store`.

    `services` is what the service side does with a request: without it, what the registry says. `edge` and
    `local_root` are None where there is no edge, `issuing` where no certificates are ordered, `metrics` where
    nothing is counted, `purge` where nothing is cached.
    """

    def routed(name: str) -> bool:
        return edge is None or edge.published().routes.has_host(name)

    return [
        *collection_operations(_routes(store, in_thread), in_thread),
        *collection_operations(_redirects(store, in_thread), in_thread),
        *collection_operations(certificates(store, seconds, in_thread, routed), in_thread),
        *pausing_operations(store, registry, in_thread),
        purge_operation(store, purge, in_thread),
        *issuing_operations(issuing),
        explain_operation(store, services or registered(registry), edge, seconds),
        _local_authority(local_root),
        *([metrics_operation(metrics, in_thread)] if metrics is not None else []),
    ]
