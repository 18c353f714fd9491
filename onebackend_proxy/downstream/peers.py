"""Who is at the other end of a client connection."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.web.server import Request

from ..headers import Network, Peer, forwarded_client, is_trusted


def peer_of(address: IAddress, secure: bool, trusted: Sequence[Network] = ()) -> Peer:
    """The peer at `address`; an IPv4 address that comes mapped into IPv6 is written as IPv4.

    A Unix socket has no address: it counts as ``unix:``, which nginx writes too, and is not trusted.
    """
    ip = "unix:"
    if isinstance(address, IPv4Address | IPv6Address):
        ip = address.host.removeprefix("::ffff:") if "." in address.host else address.host
        ip = ip.partition("%")[0]
    return _peer(ip.encode("ascii"), secure, tuple(trusted))


# Most connections come from few addresses, a load balancer's or one's own.
@functools.lru_cache(256)
def _peer(ip: bytes, secure: bool, trusted: tuple[Network, ...]) -> Peer:
    return Peer(ip, is_trusted(ip, trusted), b"https" if secure else b"http")


def tls_version(transport: Any) -> bytes:
    """The version of TLS that is spoken on a connection, such as ``TLSv1.3``; b"" in clear."""
    told: bytes | None = getattr(transport, "tls_version", None)
    if told is None and ISSLTransport.providedBy(transport):
        handle = getattr(transport, "getHandle", lambda: None)()
        told = handle.get_protocol_version_name().encode("ascii") if handle is not None else b""
    return told or b""


def client_address(request: Request, trusted: Sequence[Network] = ()) -> str:
    """The address of the client that a request really comes from, behind whatever trusted proxies."""
    peer = peer_of(request.getClientAddress(), request.isSecure(), trusted)
    if peer.trusted:
        chain = request.requestHeaders.getRawHeaders(b"X-Forwarded-For")
        real = request.requestHeaders.getRawHeaders(b"X-Real-IP") or [b""]
        joined = None if chain is None else b",".join(chain)
        return forwarded_client(peer, joined, b", ".join(real), trusted).decode("ascii")
    return peer.ip.decode("ascii")
