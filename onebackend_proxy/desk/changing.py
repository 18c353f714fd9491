"""What requests that change things make outdated at the cache (RFC 9111, 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from ..interfaces import Downstream
from ..messages import ResponseHead
from ..routing import stripped_target
from .filters import Filter

if TYPE_CHECKING:
    from .caching import RouteCache
    from .exchange import GuardedExchange


def named_by(exchange: GuardedExchange, reference: bytes) -> set[bytes]:
    """The targets, as its service sees them, that an answer to this request may refer to.

    A service says what itself is called, or what clients call it: host and path prefix may be others.
    """
    request, prefix = exchange.request, exchange.guard.prefix
    clients = same_host(exchange.asked_host or request.host, exchange.asked_target, reference)
    if prefix and clients.startswith(prefix):
        clients = stripped_target(prefix, clients)
    return {same_host(request.host, request.target, reference), clients}


def same_host(own: bytes, target: bytes, reference: bytes) -> bytes:
    """The target that is referred to from this one on host `own`; b"" where that is on another host."""
    host = own.decode("latin-1").lower()
    try:
        base = f"http://{host}{target.decode('latin-1')}"
        parts = urlsplit(urljoin(base, reference.decode("latin-1")))
        if parts.netloc.lower() != host:
            return b""
    except ValueError:
        return b""
    return ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode("latin-1")


class Changing(Filter):
    """Sees whether a request that may change things succeeded."""

    def __init__(self, to: Downstream, cache: RouteCache, exchange: GuardedExchange) -> None:
        super().__init__(to)
        self._cache = cache
        self._exchange = exchange

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        if 200 <= head.status < 400:
            self._cache.changed(self._exchange, head)
        self.to.respond(head)
