"""The built-in services as `twisted.web` resources.

``json_resource``  one call of the API: body (``strict_json``), bearer, errors, answer
``validation``     JSON to typed bodies; every message names the field; ``values`` have rules of their own
``echo``           what an error may repeat of a body
``shapes``         records to JSON
``user_svc``, ``registry_svc`` (in ``turns``), ``proxy_svc``  the tables of calls
``collection``     what is saved, listed and deleted by its id: ``rules`` (Routes, Redirects), ``certs``
``policy``         what a Route may have besides, of ``policy_values``; ``pausing``; ``purging`` of the cache
``issuances``      certificates that are ordered: failures, checks, an order now
``explain``        what becomes of a request for a URL
``metrics``        all numbers for Prometheus, the text of which is made in ``exposition``
``accounts``       logins, over ``passwords``, ``password_work``, ``throttle``, ``tokens``, ``permissions``
"""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.internet.threads import deferToThread

from ..interfaces import IRegistry, Issuing, IStore
from ..password_work import InThread
from ..records import BUILT_IN_SLUGS
from .accounts import Accounts, open_accounts
from .explain import Choose, EdgeView
from .exposition import MetricSources
from .json_resource import BuiltInService, ClientAddress, peer_address
from .proxy_svc import LocalRoot, proxy_operations
from .purging import Purge
from .registry_svc import registry_operations
from .user_svc import user_operations

__all__ = ["Accounts", "BuiltInService", "EdgeView", "MetricSources", "built_in_services", "open_accounts"]


def built_in_services(
    store: IStore,
    registry: IRegistry,
    accounts: Accounts,
    client_address: ClientAddress = peer_address,
    *,
    services: Choose | None = None,
    edge: EdgeView | None = None,
    local_root: LocalRoot | None = None,
    issuing: Issuing | None = None,
    metrics: MetricSources | None = None,
    purge: Purge | None = None,
    seconds: Callable[[], float] = time.time,
    in_thread: InThread = deferToThread,
) -> dict[bytes, BuiltInService]:
    """The resource of each built-in service, by its slug; put them below the root.

    `client_address` tells whom to throttle: behind a trusted proxy that is not the peer. `services` is what
    the service side does with a request, if that is more than the registry says. `edge` and `local_root` (the
    local authority's certificate in PEM) are None where there is no edge, `issuing` where no certificates are
    ordered, `metrics` where nothing is counted, and `purge`, which forgets answers, where none are cached.
    `seconds` is the reactor's clock; `in_thread` runs what takes long.
    """
    tables = (
        user_operations(accounts),
        registry_operations(registry),
        proxy_operations(
            store,
            registry,
            services=services,
            edge=edge,
            local_root=local_root,
            issuing=issuing,
            metrics=metrics,
            purge=purge,
            seconds=seconds,
            in_thread=in_thread,
        ),
    )
    return {
        slug.encode("ascii"): BuiltInService(table, accounts, client_address)
        for slug, table in zip(BUILT_IN_SLUGS, tables, strict=True)
    }
