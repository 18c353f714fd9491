"""Makes ``twistd onebackend-proxy`` and the endpoint string ``onebackend:`` known.

Both name their modules so that listing plugins stays cheap: nothing of the proxy is imported for that.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer

onebackend_proxy = ServiceMaker(
    "onebackend-proxy",
    "onebackend_proxy.service",
    "1Backend's Proxy Svc: one front door for services.",
    "onebackend-proxy",
)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class _StoredCertificates:
    """``onebackend:tcp\\:443``: TLS with the certificates in a proxy's data folder, chosen by name."""

    prefix = "onebackend"

    def parseStreamServer(  # type: ignore[override]
        self, reactor: Any, *args: str, **kwargs: str
    ) -> IStreamServerEndpoint:
        """See `twisted.internet.interfaces.IStreamServerEndpointStringParser`."""
        from onebackend_proxy.edge_certificates import StoredCertificatesEndpoint

        return StoredCertificatesEndpoint.parse(reactor, *args, **kwargs)


stored_certificates = _StoredCertificates()
