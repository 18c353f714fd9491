"""1Backend's Proxy Svc as a Twisted program: one front door for services.

messages, headers, http1    heads and framing        routing, balancing, addresses   decisions
exchange                    the life of one request, between
  upstream/                 the side the services are on, and
  downstream/               the side the clients are on (a twisted.web tree)
store/, registry/           what persists, and which instances serve a slug
api/                        user-svc, registry-svc and proxy-svc
options, service            settings and assembly: `twistd onebackend-proxy`
cli/                        the command `oo`

The names below are public; docs/embedding.rst shows them at work.
"""

from .balancing import Timeouts, Upstream
from .downstream import ProxySite, ReverseProxyResource, ServiceResource
from .errors import ProxyError, SettingError
from .options import Settings
from .service import ProxyService

__all__ = [
    "ProxyError",
    "ProxyService",
    "ProxySite",
    "ReverseProxyResource",
    "ServiceResource",
    "SettingError",
    "Settings",
    "Timeouts",
    "Upstream",
]
