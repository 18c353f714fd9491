"""From an address to a connected protocol: TCP, names, and TLS that verifies whom it talks to."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS

from ..addresses import Address


class _NameEndpoint(HostnameEndpoint):
    """Connects to names with underscores too: Docker Compose makes such, and DNS does not mind."""

    @staticmethod
    def _hostAsBytesAndText(host: bytes | str) -> tuple[bool, bytes, str]:
        # Twisted's own check is IDNA's, for names that people type; an Address holds canonical ASCII.
        text = host.decode("ascii") if isinstance(host, bytes) else host
        return False, text.encode("ascii"), text


def endpoint_for(reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
    """The Twisted endpoint that connects to `address` within `timeout` seconds.

    https is verified against the system's roots and the address's host by service-identity (RFC 6125);
    raises `UnicodeError` for a host that no certificate can name.
    `reactor` provides IReactorTCP and IReactorPluggableNameResolver.
    """
    endpoint: IStreamClientEndpoint
    if isIPAddress(address.host):
        endpoint = TCP4ClientEndpoint(reactor, address.host, address.port, timeout)
    elif isIPv6Address(address.host):
        endpoint = TCP6ClientEndpoint(reactor, address.host, address.port, timeout)
    else:
        endpoint = _NameEndpoint(reactor, address.host, address.port, timeout)
    if address.scheme == "https":
        endpoint = wrapClientTLS(optionsForClientTLS(address.host), endpoint)
    return endpoint
