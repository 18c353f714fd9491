"""No test orders a certificate from an authority outside this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from onebackend_proxy.acme_settings import directories

ACME_DIRECTORY = "OB_PROXY_ACME_DIRECTORY"


def for_tests_only(text: str) -> None:
    """Fail unless every directory in this text, as the setting takes it, is on this machine."""
    try:
        urls = directories(text)
    except ValueError:
        # The program does not start with it.
        return
    for url in urls:
        assert is_harmless(url), f"a test would ask a real authority: {url}"


def is_harmless(url: str) -> bool:
    """Whether its host is on this machine, or a name that the world has not (RFC 2606), or there is none."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return True
    if host.rpartition(".")[2] in ("", "localhost", "test", "invalid", "example"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
