"""A Route's policy made ready: what stands before its upstream."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import attrs

from ..balancing import Upstream
from ..errors import ProxyError, Unavailable
from ..exchange import Exchange, Exchanges
from ..headers import OUR_FIELDS, KeptFields, OutgoingRequest
from ..interfaces import Downstream
from ..messages import Headers, ResponseHead
from ..password_work import PasswordWork
from ..policies.access import AddressRules, without_authorization
from ..policies.editing import NO_VALUES, Edits, ErrorPages, Values
from ..policies.rate import RateLimiter, RateTable
from ..records import NO_POLICY, Access, Pause, Route
from ..routing import RouteTable, stripped_target
from ..targets import RouteUpstreams, is_built_in
from .basic import BasicAuth
from .caching import RouteCache
from .exchange import GuardedExchange
from .forward import ForwardedAuth
from .outlet import with_edits
from .shaped import PolicyExchange, ShapedExchange
from .storage import Storage

MAINTENANCE = """<!doctype html>
<html><head><meta charset="utf-8"><title>Down for maintenance</title></head>
<body><h1>Down for maintenance</h1><p>$message</p></body></html>
"""


@attrs.define(eq=False)
class Guard:
    """The policy of one Route, or of a service; an `exchange.Destination`.

    What is None or empty is not asked for. `upstream` gives the upstream, or raises why there is none.
    """

    route: Route
    upstream: Callable[[], Upstream]
    paused: Pause | None = None
    addresses: AddressRules | None = None
    limiter: RateLimiter | None = None
    body_limit: int | None = None
    basic: BasicAuth | None = None
    forward: ForwardedAuth | None = None
    request_edits: Edits | None = None
    response_edits: Edits | None = None
    prefix: bytes = b""
    compress: bool = False
    cache: RouteCache | None = None
    pages: ErrorPages | None = None
    intercepts: bool = False
    nowhere: Upstream = attrs.field(init=False, repr=False)
    """The upstream of an exchange that has none yet: nothing but the Route's name."""
    prefix_line: bytes = attrs.field(init=False, repr=False)
    challenge: Headers = attrs.field(init=False, repr=False)
    """What is said to somebody without a password (RFC 7617)."""
    _lean: bool = attrs.field(init=False, repr=False)
    _shapes: bool = attrs.field(init=False, repr=False)
    _edits_fields: bool = attrs.field(init=False, repr=False)
    _edits_own: bool = attrs.field(init=False, repr=False)
    _remembers: bool = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        waits = self.paused or self.forward or self.compress or self.cache or self.intercepts
        self._lean = not waits
        self._shapes = bool(self.limiter or self.request_edits or self.response_edits or self.pages)
        edits = self.request_edits
        self._edits_fields = bool(edits or self.basic)
        self._edits_own = bool(self.prefix or (edits and (edits.host or not edits.constant)))
        self._remembers = edits is None or not edits.touches(OUR_FIELDS)
        self.nowhere = Upstream(self.route.id, ())
        self.prefix_line = b"X-Forwarded-Prefix: %b\r\n" % self.prefix
        realm = self.route.id.encode("ascii", "replace")
        self.challenge = [(b"WWW-Authenticate", b'Basic realm="%b", charset="UTF-8"' % realm)]

    def exchange(self, exchanges: Exchanges, downstream: Downstream, request: OutgoingRequest) -> Exchange:
        """See `exchange.Destination`."""
        if self._lean:
            let_in = self._let_in(exchanges, downstream, request)
            if let_in is not None:
                return let_in
        return GuardedExchange(exchanges, downstream, request, self)

    def _let_in(
        self, exchanges: Exchanges, downstream: Downstream, request: OutgoingRequest
    ) -> Exchange | None:
        """The exchange of a request that may come in at once; None for one that has to wait, or may not.

        That is what nearly all do, and so it is to cost little.
        """
        if self.addresses is not None and not self.addresses.admits(request.client_ip):
            return None
        user: str | None = ""
        if self.basic is not None:
            # On this connection it has come in before, with the same fields.
            made: Any = getattr(request.headers, "made", None)
            again = made is not None and made[0] is self
            user = made[1] if again else self.basic.known(request.headers)
            if user is None:
                return None
        try:
            upstream = self.upstream()
        except ProxyError:
            return None
        exchange: Exchange
        if self._shapes:
            exchange = shaped = ShapedExchange(exchanges, downstream, request, upstream)
            shaped.guard = self
            limiter = self.limiter
            if limiter is not None:
                verdict = limiter.take(request, shaped.started)
                if not verdict.admitted:
                    return None
                shaped.fields, shaped.lines = verdict.told
        else:
            exchange = Exchange(exchanges, downstream, request, upstream)
        if self.body_limit is not None:
            exchange.limit_body(self.body_limit)
        if user:
            exchange.user = user
        if self._edits_fields:
            self._edit_again(request, user or "")
        if self._edits_own:
            self._edit_own(exchange)
        return exchange

    def _edit_again(self, request: OutgoingRequest, user: str) -> None:
        """As `edit`, and without credentials: what is the same as with the request before is remembered."""
        kept = request.headers
        if self._remembers and type(kept) is KeptFields:
            made = kept.made
            if made is None or made[0] is not self:
                made = kept.made = (self, user, *self._left(kept, kept.lines))
            # Behind the client's fields stand ours, which are new each time.
            request.lines = made[3] + request.lines[len(kept.lines) :]
            request.headers = made[2]
        else:
            request.headers, request.lines = self._left(kept, request.lines)

    def _left(self, headers: Headers, lines: bytes) -> tuple[Headers, bytes]:
        """What becomes of a request's fields, and of its lines, as far as that is the same each time."""
        if self.basic is not None:
            headers, lines = without_authorization(headers, lines)
        return self._edited_fields(headers, lines)

    def _edited_fields(self, headers: Headers, lines: bytes) -> tuple[Headers, bytes]:
        edits = self.request_edits
        if edits is None:
            return headers, lines
        return edits.applied(headers, lines, NO_VALUES) if edits.constant else edits.left(headers, lines)

    def edit(self, exchange: Exchange) -> None:
        """Make of the exchange's request, in place, what the service is to get."""
        request = exchange.request
        request.headers, request.lines = self._edited_fields(request.headers, request.lines)
        self._edit_own(exchange)

    def _edit_own(self, exchange: Exchange) -> None:
        """What is another thing with each request."""
        request = exchange.request
        if self.prefix and request.target != b"*":
            request.target = stripped_target(self.prefix, request.target)
            request.lines += self.prefix_line
        edits = self.request_edits
        if edits is None or (edits.constant and edits.host is None):
            return
        values = Values(request, exchange.user)
        if not edits.constant:
            headers, lines = edits.added(values)
            request.headers = request.headers + headers
            request.lines += lines
        host = edits.host.filled(values) if edits.host is not None else b""
        if host:
            if isinstance(exchange, PolicyExchange):
                exchange.asked_host = request.host
            request.host = host

    def edited(self, head: ResponseHead) -> ResponseHead:
        """An answer's head with the edits that are the same for all; a head that comes again is known."""
        edits = self.response_edits
        known = head.edited
        if known is not None and known[0] is edits:
            return known[1]
        assert edits is not None
        edited = with_edits(head, edits, NO_VALUES)
        head.edited = edits, edited
        return edited


@attrs.define(eq=False)
class Guards:
    """The guards of Routes, each made when it is first asked for.

    `upstreams` are those of the Routes; built-in services answer at `built_in`. All guards share one table
    for rates, and one cache.
    """

    upstreams: RouteUpstreams
    passwords: PasswordWork
    seconds: Callable[[], float]
    storage: Storage | None = None
    built_in: Callable[[Route], Upstream] | None = None
    rates: RateTable = attrs.field(factory=RateTable)
    _made: dict[str, Guard] = attrs.field(factory=dict, init=False)

    def of(self, route: Route) -> Upstream | Guard | None:
        """Where a request for this Route goes: a guard if it has a policy.

        None for a built-in service without one. Raises the `errors.ProxyError` that says why there is none.
        """
        if route.policy is NO_POLICY:
            return self.upstreams.of(route)
        guard = self._made.get(route.id)
        if guard is None or guard.route is not route:
            try:
                guard = self._made[route.id] = self._make(route, guard)
            except ValueError as error:
                # It was checked when it was saved, by another version of the program perhaps. Half of a
                # policy is none.
                raise Unavailable(
                    "the route's policy cannot be used", detail=f"{route.id}: {error}"
                ) from None
        return guard

    def publish(self, routes: RouteTable[Route]) -> None:
        """From now on these are the Routes: forget the guards, and what is cached, of those that changed."""
        for key, guard in list(self._made.items()):
            route = routes.get(key)
            if route is guard.route or route == guard.route:
                continue
            if guard.cache is not None and self.storage is not None:
                self.storage.purge(key)
            if route is None or route.policy is NO_POLICY:
                del self._made[key]

    def _make(self, route: Route, before: Guard | None) -> Guard:
        policy = route.policy
        if before is not None and before.route == route:
            # Read anew, and the same.
            before.route = route
            return before
        old = before.route.policy if before is not None else NO_POLICY
        limiter, basic = (before.limiter, before.basic) if before is not None else (None, None)
        if policy.rate_limit != old.rate_limit:
            limit = policy.rate_limit
            limiter = None if limit is None else RateLimiter(self.rates, limit, route.id)
        access = policy.access
        if access.basic_auth != old.access.basic_auth:
            basic = BasicAuth(access.basic_auth, self.passwords) if access.basic_auth else None
        return Guard(
            route,
            self._source(route),
            paused=policy.paused,
            addresses=AddressRules(access.allow, access.deny) if access.allow or access.deny else None,
            limiter=limiter,
            body_limit=policy.request_body_limit,
            basic=basic,
            forward=self._forward(route, access),
            request_edits=Edits(policy.headers.request) or None,
            response_edits=Edits(policy.headers.response) or None,
            prefix=route.id[route.id.find("/") :].encode("ascii") if policy.strip_prefix else b"",
            compress=policy.compress,
            cache=self._cache(route),
            pages=_pages(route),
            intercepts=policy.intercept_errors,
        )

    def _source(self, route: Route) -> Callable[[], Upstream]:
        if is_built_in(route):
            if self.built_in is None:
                raise Unavailable("a built-in service cannot be had here")
            return functools.partial(self.built_in, route)
        # None is only what a built-in service has.
        return cast(Callable[[], Upstream], self.upstreams.source_of(route))

    def _forward(self, route: Route, access: Access) -> ForwardedAuth | None:
        if access.forward_auth is None:
            return None
        return ForwardedAuth(access.forward_auth, functools.partial(self.upstreams.asked_by, route))

    def _cache(self, route: Route) -> RouteCache | None:
        if not route.policy.cache or self.storage is None:
            return None
        return RouteCache(self.storage, route.id, self.seconds)


def _pages(route: Route) -> ErrorPages | None:
    pages = dict(route.policy.error_pages)
    if route.policy.paused is not None:
        pages.setdefault("503", pages.get("5xx", MAINTENANCE))
    return ErrorPages(tuple(pages.items())) if pages else None
