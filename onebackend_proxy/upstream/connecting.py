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


def endpoint_for(reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
    """The Twisted endpoint that connects to `address` within `timeout` seconds.

    https is verified against the system's roots and the address's host by service-identity (RFC 6125).
    `reactor` provides IReactorTCP and IReactorPluggableNameResolver.
    """
    endpoint: IStreamClientEndpoint
    if isIPAddress(address.host):
        endpoint = TCP4ClientEndpoint(reactor, address.host, address.port, timeout)
    elif isIPv6Address(address.host):
        endpoint = TCP6ClientEndpoint(reactor, address.host, address.port, timeout)
    else:
        endpoint = HostnameEndpoint(reactor, address.host, address.port, timeout)
    if address.scheme == "https":
        endpoint = wrapClientTLS(optionsForClientTLS(address.host), endpoint)
    return endpoint
