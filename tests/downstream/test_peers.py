from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.web.http_headers import Headers

from onebackend_proxy.downstream.peers import client_address, peer_of

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fe80::/10"))


@pytest.mark.parametrize(
    "address, ip, trusted",
    [
        (IPv4Address("TCP", "10.1.2.3", 5), b"10.1.2.3", True),
        (IPv4Address("TCP", "9.9.9.9", 5), b"9.9.9.9", False),
        (IPv6Address("TCP", "2001:db8::1", 5), b"2001:db8::1", False),
        (IPv6Address("TCP", "::ffff:10.1.2.3", 5), b"10.1.2.3", True),
        (IPv6Address("TCP", "::ffff:9.9.9.9", 5), b"9.9.9.9", False),
        (IPv6Address("TCP", "fe80::1%eth0", 5), b"fe80::1", True),
        (IPv6Address("TCP", "::ffff:1", 5), b"::ffff:1", False),
        (UNIXAddress(b"/run/x"), b"unix:", False),
        (UNIXAddress(None), b"unix:", False),
    ],
)
def test_who_a_peer_is(address, ip, trusted):
    peer = peer_of(address, False, TRUSTED)
    assert (peer.ip, peer.trusted, peer.scheme) == (ip, trusted, b"http")
    assert not peer_of(address, False).trusted
    assert peer_of(address, True).scheme == b"https"


def client(ip, *chains, trusted=TRUSTED):
    class Request:
        requestHeaders = Headers({b"X-Forwarded-For": list(chains), b"X-Real-IP": [b"6.6.6.6"]})

        def getClientAddress(self):
            return IPv4Address("TCP", ip, 5)

        def isSecure(self):
            return False

    request: Any = Request()
    return client_address(request, trusted)


def test_a_strangers_word_is_nothing():
    assert client("9.9.9.9", b"1.1.1.1") == "9.9.9.9"
    assert client("10.0.0.1", b"1.1.1.1", trusted=()) == "10.0.0.1"


def test_a_trusted_proxys_word():
    assert client("10.0.0.1") == "6.6.6.6"  # X-Real-IP counts without X-Forwarded-For, and only then
    assert client("10.0.0.1", b"1.1.1.1") == "1.1.1.1"
    assert client("10.0.0.1", b"6.6.6.6, 1.1.1.1", b"10.0.0.2") == "1.1.1.1"
    assert client("10.0.0.1", b"\xff") == "10.0.0.1"
