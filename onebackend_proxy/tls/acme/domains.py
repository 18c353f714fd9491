"""Whose budget an order is on: authorities count the names of a registered domain together."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
from typing import TYPE_CHECKING

from ..certificates import bare_host

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


@functools.cache
def _suffixes() -> PublicSuffixList:
    # Only whoever orders certificates pays for it: 3 MB, and 30 ms when it is first asked.
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()


def registered_domain(host: str) -> str:
    """The part of a canonical host that somebody registered: ``x.co.uk`` for ``a.b.x.co.uk``.

    Below github.io and the like that is everybody's own name. A public suffix, a single label and an IP
    address are their own.
    """
    name = bare_host(host.removeprefix("*."))
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return _suffixes().privatesuffix(name) or name
