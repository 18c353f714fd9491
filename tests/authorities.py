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
        host = urlsplit(url).hostname or ""
        assert is_this_machine(host), f"a test would ask a real authority: {url}"


def is_this_machine(host: str) -> bool:
    """Whether this is ``localhost``, a name below it, or an address of the loopback interface."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
