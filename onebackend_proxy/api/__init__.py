"""The built-in services as `twisted.web` resources.

``json_resource``  one call of the API: body (``strict_json``), bearer, errors, answer
``validation``     JSON to typed bodies; every message names the field
``echo``           what an error may repeat of a body
``shapes``         records to JSON
``user_svc``, ``registry_svc`` (in ``turns``), ``proxy_svc``  the tables of calls
``accounts``       logins, over ``passwords``, ``password_work``, ``throttle``, ``tokens``, ``permissions``
"""

from __future__ import annotations

from ..interfaces import IRegistry, IStore
from ..records import BUILT_IN_SLUGS
from .accounts import Accounts, open_accounts
from .json_resource import BuiltInService, ClientAddress, peer_address
from .proxy_svc import proxy_operations
from .registry_svc import registry_operations
from .user_svc import user_operations

__all__ = ["Accounts", "BuiltInService", "built_in_services", "open_accounts"]


def built_in_services(
    store: IStore,
    registry: IRegistry,
    accounts: Accounts,
    client_address: ClientAddress = peer_address,
) -> dict[bytes, BuiltInService]:
    """The resource of each built-in service, by its slug; put them below the root.

    `client_address` tells whom to throttle: behind a trusted proxy that is not the peer.
    """
    tables = user_operations(accounts), registry_operations(registry), proxy_operations(store)
    return {
        slug.encode("ascii"): BuiltInService(table, accounts, client_address)
        for slug, table in zip(BUILT_IN_SLUGS, tables, strict=True)
    }
