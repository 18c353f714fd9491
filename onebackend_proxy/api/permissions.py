"""Which role may do what: the whole table, in 1Backend's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ..errors import NotPermitted
from ..records import ADMIN_ROLE, USER_ROLE

ROUTE_VIEW = "proxy-svc:route:view"
ROUTE_EDIT = "proxy-svc:route:edit"
CERT_VIEW = "proxy-svc:cert:view"
CERT_EDIT = "proxy-svc:cert:edit"
METRICS_VIEW = "proxy-svc:metrics:view"
USER_CREATE = "user-svc:user:create"
INSTANCE_VIEW = "registry-svc:instance:view"
INSTANCE_EDIT = "registry-svc:instance:edit"
INSTANCE_DELETE = "registry-svc:instance:delete"

_ADMIN = frozenset({ADMIN_ROLE})
_ANYBODY = frozenset({ADMIN_ROLE, USER_ROLE})

PERMISSIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        ROUTE_VIEW: _ADMIN,
        ROUTE_EDIT: _ADMIN,
        CERT_VIEW: _ADMIN,
        CERT_EDIT: _ADMIN,
        METRICS_VIEW: _ADMIN,
        USER_CREATE: _ADMIN,
        INSTANCE_VIEW: _ANYBODY,
        INSTANCE_EDIT: _ANYBODY,
        INSTANCE_DELETE: _ANYBODY,
    }
)


def is_authorized(roles: Iterable[str], permission: str) -> bool:
    """Whether one of `roles` has `permission`; one that is not in the table nobody has."""
    return not PERMISSIONS.get(permission, frozenset()).isdisjoint(roles)


def require(roles: Iterable[str], permission: str) -> None:
    """Raise `errors.NotPermitted`, naming the permission, unless one of `roles` has it."""
    if not is_authorized(roles, permission):
        raise NotPermitted(f"the permission {permission} is needed")
