"""What the access log is told of a request: once for each, whoever answered it, and however it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from ..balancing import EndpointState
from ..errors import ProxyError
from ..exchange import Exchange
from ..headers import Network, Peer, forwarded_client, origin_form
from ..messages import Headers, RequestHead
from .peers import tls_version

if TYPE_CHECKING:
    from .request import ProxyRequest

ClientOf = Callable[["ProxyRequest"], str]

NO_ANSWER = 499
"""The status of what the client gave up before there was an answer, as nginx has it."""
RESET = 0
"""The status of what was answered with nothing but the end of its stream."""


@attrs.define(eq=False)
class Caller:
    """Who asks, and with what: the same for most requests of a connection. Texts are as sent."""

    client: bytes
    host: bytes
    method: bytes
    protocol: bytes
    tls: bytes
    user_agent: bytes
    referer: bytes
    headers: Headers = attrs.field(factory=list, repr=False)
    """The fields that it was read from."""
    written: bytes = attrs.field(default=b"", init=False, repr=False)
    """The same as the log's format writes it, once it has."""


class Tell(Protocol):
    """What a site calls when a request was answered or given up; times in seconds since the epoch.

    Not one object, but many arguments: it is called for each request. `target` is as the client sent it, the
    bytes are of bodies, both ways. From `route` on it is what an exchange has found out.
    """

    def __call__(
        self,
        caller: Caller,
        now: float,
        began: float,
        id: bytes,
        target: bytes,
        status: int,
        bytes_in: int,
        bytes_out: int,
        reason: str,
        route: str = "",
        endpoint: EndpointState | None = None,
        asked: float = 0.0,
        answered: float = 0.0,
        cache: str = "",
        user: str = "",
        /,
    ) -> None:
        """A request has ended."""


def tell_exchange(
    tell: Tell, caller: Caller, now: float, target: bytes, status: int, bytes_out: int, exchange: Exchange
) -> None:
    """Tell of a request that became an exchange."""
    tell(
        caller,
        now,
        exchange.started,
        exchange.request.request_id,
        target,
        status,
        exchange.bytes_in,
        bytes_out,
        exchange.reason,
        exchange.upstream.name,
        exchange.endpoint,
        exchange.asked,
        exchange.answered,
        exchange.cache,
        exchange.user,
    )


def peer_host(request: ProxyRequest) -> str:
    """The address at the other end of the connection; "" where it has none."""
    return str(getattr(request.getClientAddress(), "host", ""))


def guessed(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """What may be shown of what is no request: if it looks like a field, what that says may be a secret."""
    return (method, b"-") if b":" in method else (method, target)


def caller_of(
    head: RequestHead, peer: Peer, transport: Any, trusted: Sequence[Network], client: bytes = b""
) -> Caller:
    """Who sent this head; `client` is its address, where that is known already."""
    said: dict[bytes, bytes] = {}
    for name, value in head.headers:
        lower = name.lower()
        if lower == b"x-forwarded-for" and lower in said:
            said[lower] += b"," + value
        else:
            said.setdefault(lower, value)
    host = said.get(b"host", b"")
    headers = head.headers
    if head.target[:1] not in (b"/", b"*"):
        # The host is this request's own.
        headers = []
        try:
            host = origin_form(head.method, head.target)[1] or host
        except ProxyError:
            # It was refused for that.
            pass
    if not client:
        client = peer.ip
        if peer.trusted:
            chain, real = said.get(b"x-forwarded-for"), said.get(b"x-real-ip", b"")
            client = forwarded_client(peer, chain, real, trusted)
    agent, referer = said.get(b"user-agent", b""), said.get(b"referer", b"")
    tls = tls_version(transport)
    return Caller(client, host, head.method, head.version, tls, agent, referer, headers)


def tell_of(tell: Tell, request: ProxyRequest, now: float, client_of: ClientOf = peer_host) -> None:
    """Tell of a request to twisted.web that ended `now`.

    `client_of` tells whose request it is where no exchange has found that out.
    """
    first = request.requestHeaders.getRawHeaders
    exchange = request.exchange
    caller = Caller(
        client_of(request).encode("utf-8") if exchange is None else exchange.request.client_ip,
        first(b"Host", (b"",))[0],
        request.method,
        request.clientproto,
        tls_version(request.channel.transport),
        first(b"User-Agent", (b"",))[0],
        first(b"Referer", (b"",))[0],
    )
    status = request.code if request.startedWriting else NO_ANSWER
    target, sent = request.target, request.sentLength
    if exchange is None:
        began, taken = request.began, request.buffered
        tell(caller, now, began, request.request_id, target, status, taken, sent, request.reason)
    else:
        tell_exchange(tell, caller, now, target, status, sent, exchange)
