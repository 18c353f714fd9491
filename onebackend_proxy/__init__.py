"""1Backend's Proxy Svc as a Twisted program: one front door for services.

messages, headers, http1, chunked   heads and framing    routing, balancing, addresses   decisions
exchange, tunnel            the life of one request, between
  upstream/                 the side the services are on, and
  downstream/               the side the clients are on (the fast plane, and a twisted.web tree)
policies/, desk/            who may come in, how often, what changes: decided, and done to exchanges
store/, registry/           what persists, and which instances serve a slug
api/                        user-svc, registry-svc and proxy-svc
options, service            settings and assembly: `twistd onebackend-proxy`
cli/                        the command `oo`

The names below are public; docs/embedding.rst shows them at work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .balancing import Timeouts
    from .downstream import ProxySite, ReverseProxyResource, ServiceResource
    from .embedding import reverse_proxy
    from .errors import ProxyError, SettingError
    from .limits import Limits
    from .options import Settings
    from .proxy import ProxyService

_HOMES = {
    "Limits": "limits",
    "ProxyError": "errors",
    "ProxyService": "proxy",
    "ProxySite": "downstream",
    "ReverseProxyResource": "downstream",
    "ServiceResource": "downstream",
    "SettingError": "errors",
    "Settings": "options",
    "Timeouts": "balancing",
    "reverse_proxy": "embedding",
}

__all__ = [
    "Limits",
    "ProxyError",
    "ProxyService",
    "ProxySite",
    "ReverseProxyResource",
    "ServiceResource",
    "SettingError",
    "Settings",
    "Timeouts",
    "reverse_proxy",
]


def __getattr__(name: str) -> Any:
    # Loaded when first used: `oo` must not wait for a server that it does not run.
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
