"""forwardAuth: another service is asked whether a request may come in, as Traefik and Caddy do it."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ..addresses import auth_target, parse_target, service_of
from ..balancing import Upstream
from ..errors import ProxyError, UpstreamFailed
from ..exchange import Exchange
from ..headers import OutgoingRequest
from ..messages import NO_BODY, Headers, ResponseHead, field_lines
from ..policies.editing import without_lines
from ..records import ForwardAuth
from ..tunnel import Tunnel
from .exchange import GuardedExchange
from .sources import Source

MAX_IGNORED = 64 * 1024
"""Bytes of a body that nobody wants that are read, so that the connection can be used again."""
_NOT_ASKED = "the service that decides on access could not be asked"
# About the body, which is not sent, about what the client has already, and what says who asks about what.
_NOT_FORWARDED = frozenset(
    (
        b"content-type",
        b"content-encoding",
        b"content-language",
        b"content-range",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
        b"x-forwarded-method",
        b"x-forwarded-uri",
    )
)


class ForwardedAuth:
    """Asks about each request; `upstream_of` gives what gives the upstream of a target."""

    def __init__(self, settings: ForwardAuth, upstream_of: Callable[[str], Callable[[], Upstream]]) -> None:
        target, path = auth_target(settings.url)
        self._path = path.encode("ascii")
        self._upstream = upstream_of(target)
        # A service, or a socket, has no name of its own: it sees the client's.
        self._host = b""
        if service_of(target) is None and not target.startswith("unix:"):
            self._host = parse_target(target).url.partition("://")[2].partition("/")[0].encode("ascii")
        self.copied = frozenset(name.lower().encode("ascii") for name in settings.copy_headers)
        """The fields (names in lower case) that only the service that is asked may set."""

    def ask(self, exchange: GuardedExchange) -> None:
        """Ask; then `exchange` is admitted, gets the answer that it is not, or is refused."""
        _Asking(self, exchange).start(self._upstream())

    def request(self, exchange: GuardedExchange) -> OutgoingRequest:
        """What is sent: the client's own fields, and which request it is about."""
        asked = exchange.request
        # What only we may say is not to be believed of a client here either.
        unwanted = _NOT_FORWARDED | self.copied
        ours = [(b"X-Forwarded-Method", asked.method), (b"X-Forwarded-Uri", exchange.asked_target)]
        return attrs.evolve(
            asked,
            method=b"GET",
            target=self._path,
            host=self._host or asked.host,
            headers=[field for field in asked.headers if field[0].lower() not in unwanted] + ours,
            lines=without_lines(asked.lines, unwanted) + field_lines(ours),
            body=NO_BODY,
            expects_continue=False,
            upgrade=b"",
        )


class _Asking:
    """The downstream of the question: a yes lets the exchange go on, all else is the client's answer."""

    _inner: Exchange
    _decided = False
    _relaying = False
    _ignored = 0

    def __init__(self, auth: ForwardedAuth, exchange: GuardedExchange) -> None:
        self._auth = auth
        self._exchange = exchange

    def start(self, upstream: Upstream) -> None:
        exchange = self._exchange
        self._inner = exchange.inner(self, self._auth.request(exchange), upstream)
        exchange.wait(self._inner.client_gone)
        self._inner.start()

    def inform(self, head: ResponseHead) -> None:
        """A 1xx is about the question, not about the client's request."""

    def respond(self, head: ResponseHead) -> None:
        exchange = self._exchange
        if not 200 <= head.status < 300:
            exchange.waited()
            exchange.denied = "forwardAuth"
            if exchange.request.method == b"HEAD":
                # We asked with GET: there is a body, but not for this client.
                self._decided = True
                exchange.answer(head, b"")
                return
            self._relaying = True
            exchange.answer_from(_Answering(self._inner), head)
            return
        self._decided = True
        copied = self._auth.copied
        fields: Headers = [field for field in head.headers if field[0].lower() in copied]
        exchange.waited()
        exchange.proceed(lambda: self._admit(fields))

    def _admit(self, fields: Headers) -> None:
        if self._auth.copied:
            self._exchange.change_request(self._auth.copied, fields)
        self._exchange.admitted()

    def write(self, data: bytes) -> None:
        if self._relaying:
            self._exchange.body_received(data)
            return
        self._ignored += len(data)

    def flush(self) -> None:
        if self._relaying:
            self._exchange.read_ended()
        elif self._ignored > MAX_IGNORED:
            self._inner.client_gone("its body is too long, and not wanted")

    def end(self, trailers: Headers) -> None:
        if self._relaying:
            self._exchange.answer_ended([])

    def abort(self) -> None:
        if self._relaying:
            self._exchange.source_lost(UpstreamFailed(_NOT_ASKED))

    def refuse(self, status: int, message: str) -> None:
        if not self._decided:
            self._exchange.waited()
            error = ProxyError(_NOT_ASKED, detail=message)
            error.status = status
            self._exchange.refuse(error)

    def pause_request(self) -> None:
        """There is no body to hold."""

    def resume_request(self) -> None:
        """As `pause_request`."""

    def switch(self, head: ResponseHead, tunnel: Tunnel) -> None:
        """It was not asked to switch to anything."""
        raise NotImplementedError

    def half_close(self) -> None:
        """As `switch`."""
        raise NotImplementedError


class _Answering(Source):
    """The exchange that asks, as what the client's answer comes from."""

    def __init__(self, inner: Exchange) -> None:
        self._inner = inner

    def pause(self) -> None:
        """The client does not keep up."""
        self._inner.client_full()

    def resume(self) -> None:
        """The client takes more."""
        self._inner.client_drained()

    def abort(self) -> None:
        """The client is gone."""
        self._inner.client_gone()
