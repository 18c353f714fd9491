"""``POST /proxy-svc/explain``: what becomes of a request for a URL, and why.

What is answered is asked of the edge itself, with a request such as a client would send.
"""

from __future__ import annotations

import datetime
import re
import string
from collections.abc import Callable, Sequence
from urllib.parse import quote

import attrs

from ..addresses import DEFAULT_PORTS, service_of
from ..balancing import EndpointState, Upstream
from ..desk.exchange import Paused
from ..desk.guard import Guard
from ..errors import BadRequest, NotFound, ProxyError
from ..exchange import Destination
from ..headers import OutgoingRequest, Peer, prepare_request
from ..interfaces import IRegistry, IStore, Published
from ..messages import Answer as OwnAnswer
from ..messages import RequestHead
from ..records import BUILT_IN_SLUGS, NO_POLICY, Certificate, Redirect, Route
from ..routing import RouteTable, canonical_id, edge_path, redirect_location, service_slug
from ..units import shown_seconds
from .echo import bounded
from .json_resource import Answer, Call, Operation
from .permissions import ROUTE_VIEW, require
from .policy import policy_json
from .shapes import Json, redirect_json, rfc3339, route_json

MAX_URL = 8192
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

Choose = Callable[[OutgoingRequest], Upstream | Destination | OwnAnswer | None]
"""What a port does with a request; it raises the `errors.ProxyError` that is answered instead."""


@attrs.frozen
class EdgeView:
    """The edge, as far as it can be looked at: what it serves by, and what its two ports do with a request.

    `certificate_for` takes a canonical host, as in the id of a Route, and makes none. `https` is None where
    all is served in clear.
    """

    published: Callable[[], Published]
    certificate_for: Callable[[str], Certificate | None]
    https: Choose | None
    http: Choose


@attrs.frozen
class Asked:
    """A URL taken apart: `host` is canonical, "" for a path on the service side.

    `target` is the request target, as a client would send it.
    """

    scheme: str
    host: str
    target: bytes

    @property
    def url(self) -> str:
        """The URL in one spelling, without a port: those of the edge are the scheme's own."""
        path = self.target.decode("ascii")
        return f"{self.scheme}://{self.host}{path}" if self.host else path

    def request(self, secure: bool) -> OutgoingRequest:
        """The request of a client; raises the `errors.ProxyError` for one that is answered with an error."""
        head = RequestHead(b"GET", self.target, [(b"Host", (self.host or "localhost").encode("ascii"))])
        peer = Peer(b"127.0.0.1", scheme=b"https" if secure else b"http")
        return prepare_request(head, peer, b"explain")


def read_url(text: str) -> Asked:
    """Read ``x.com/app``, ``https://X.com:443/app?x`` or ``/slug/path``.

    Without a scheme it is https. Blanks and what is not ASCII are percent-encoded, as a browser would. Raises
    `ValueError` that says what is wrong.
    """
    text = text.strip().partition("#")[0]
    if not text:
        raise ValueError("is empty")
    if len(text) > MAX_URL:
        raise ValueError(f"is longer than {MAX_URL} characters")
    if not text.isprintable():
        raise ValueError("has a control character")
    scheme, host, rest = ("http", "", text) if text.startswith("/") else _origin(text)
    target = quote(rest, safe=string.punctuation)
    return Asked(scheme, host, (target if target.startswith("/") else f"/{target}").encode("ascii"))


def _origin(text: str) -> tuple[str, str, str]:
    """The scheme, the canonical host, and what stands behind the authority."""
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else "https"
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"has the scheme {scheme!r}: only http and https are served")
    text = text[found.end() :] if found else text
    end = re.search(r"[/?]|\Z", text)
    authority = text[: end.start()] if end else text
    if "@" in authority:
        raise ValueError("must not carry credentials")
    if "*" in authority:
        raise ValueError("must name one host")
    return scheme, canonical_id(authority), text[len(authority) :]


def explain(asked: Asked, published: Published, edge: EdgeView | None, now: float) -> Json:
    """What becomes of a request for a URL with a host; without an edge, what would be matched there."""
    redirects: Sequence[Redirect] = ()
    routes: Sequence[Route] = ()
    try:
        path = edge_path(asked.target)
        redirects = published.redirects.shorter(asked.host, path)
        routes = published.routes.shorter(asked.host, path)
    except BadRequest:
        # Nothing matches what is refused: which the edge says below.
        path = ""
    told: Json = {"url": asked.url, "edge": edge is not None, **_matched(redirects, routes)}
    if edge is None:
        return {**told, "answer": _unserved(asked, path, redirects, routes)}
    if edge.https is None:
        return {**told, **_outcome(edge.http, asked, False, now)}
    certificate = edge.certificate_for(asked.host)
    shown = None if certificate is None else _certificate_json(certificate, now)
    http = _outcome(edge.http, asked, False, now)
    return {**told, **_outcome(edge.https, asked, True, now), "certificate": shown, "port80": http["answer"]}


def _outcome(choose: Choose, asked: Asked, secure: bool, now: float) -> Json:
    """The answer of one port, None where it relays; then with the upstream."""
    try:
        chosen = choose(asked.request(secure))
        if isinstance(chosen, Guard):
            # What depends on who asks, or how often, is not asked: the rules are shown with the match.
            chosen = _behind(chosen)
    except ProxyError as error:
        return {"answer": _error_json(error)}
    if isinstance(chosen, Upstream):
        return {"answer": None, "upstream": _upstream_json(chosen, now)}
    if not isinstance(chosen, OwnAnswer):
        # One of the built-in services.
        return {"answer": None}
    told: Json = {"status": chosen.status}
    locations = [value for name, value in chosen.headers if name.lower() == b"location"]
    return {"answer": {**told, "location": locations[0].decode("latin-1")} if locations else told}


def _behind(guard: Guard) -> Upstream | None:
    """What a guard lets requests go to, None for a built-in service; raises what all are answered with."""
    _refuse_paused(guard.route)
    return None if service_of(guard.route.target) in BUILT_IN_SLUGS else guard.upstream()


def _refuse_paused(route: Route) -> None:
    pause = route.policy.paused
    if pause is not None:
        raise Paused(pause.message, pause.retry_after)


def _unserved(asked: Asked, path: str, redirects: Sequence[Redirect], routes: Sequence[Route]) -> Json | None:
    """What the edge would answer if it were on."""
    if redirects:
        [first, *_others] = redirects
        _host, slash, prefix = first.id.partition("/")
        location = redirect_location(slash + prefix, first.target, path, asked.target)
        return {"status": first.status_code, "location": location.decode("latin-1")}
    if not routes:
        return {"status": NotFound.status}
    try:
        _refuse_paused(routes[0])
    except Paused as error:
        return _error_json(error)
    return None


def _error_json(error: ProxyError) -> Json:
    return {"status": error.status, "error": str(error)}


def explain_service(asked: Asked, choose: Choose, published: Published, now: float) -> Json:
    """What becomes of a request for a path on the service side, which `choose` is."""
    told: Json = {"url": asked.url, "match": None, "lost": []}
    try:
        slug = service_slug(asked.target.partition(b"?")[0]).decode("ascii")
    except BadRequest as error:
        return {**told, "answer": _error_json(error)}
    if slug in BUILT_IN_SLUGS:
        return {**told, "match": {"kind": "built-in service", "id": slug}, "answer": None}
    outcome = _outcome(choose, asked, False, now)
    entry = published.routes.get(f"/{slug}")
    if entry is not None or "upstream" in outcome:
        policy = NO_POLICY if entry is None else entry.policy
        told["match"] = {"kind": "service", "id": slug, **policy_json(policy)}
    return {**told, **outcome}


def registered(registry: IRegistry) -> Choose:
    """The service side as far as the registry knows it: without the Routes of services."""

    def choose(request: OutgoingRequest) -> Upstream:
        slug = service_slug(request.target.partition(b"?")[0]).decode("ascii")
        upstream = registry.lookup(slug)
        if upstream is None:
            raise NotFound(f"no service {slug!r} is registered")
        return upstream

    return choose


def _matched(redirects: Sequence[Redirect], routes: Sequence[Route]) -> Json:
    """The entry that wins, and those that would have matched without it."""
    found: list[Json] = [{"kind": "redirect", **redirect_json(redirect)} for redirect in redirects]
    found += [{"kind": "route", **route_json(route)} for route in routes]
    if not found:
        return {"match": None, "lost": []}
    winner = found[0]
    return {"match": winner, "lost": [{**loser, "why": _why(winner, loser)} for loser in found[1:]]}


def _why(winner: Json, loser: Json) -> str:
    if winner["kind"] != loser["kind"]:
        return "redirects go before routes"
    if winner["id"].partition("/")[0] != loser["id"].partition("/")[0]:
        return "an exact host goes before a wildcard"
    return "its prefix is shorter"


def _upstream_json(upstream: Upstream, now: float) -> Json:
    weights = upstream.weights or (1,) * len(upstream.endpoints)
    timeouts = upstream.timeouts
    return {
        "name": upstream.name,
        "balance": upstream.balance.value,
        "retries": upstream.retries,
        "timeouts": {
            "connect": shown_seconds(timeouts.connect),
            "firstByte": shown_seconds(timeouts.first_byte),
            "idle": shown_seconds(timeouts.idle),
        },
        "endpoints": [
            _endpoint_json(endpoint, weight, now)
            for endpoint, weight in zip(upstream.endpoints, weights, strict=True)
        ],
    }


def _endpoint_json(endpoint: EndpointState, weight: int, now: float) -> Json:
    told: Json = {
        "url": endpoint.address.url,
        "weight": weight,
        "health": endpoint.health.value,
        "inFlight": endpoint.in_flight,
        "failures": endpoint.failures,
        "ejected": bool(endpoint.ejected_until),
    }
    if endpoint.ejected_until:
        told["ejectedSeconds"] = round(max(0.0, endpoint.ejected_until - now), 1)
    return told


def _certificate_json(certificate: Certificate, now: float) -> Json:
    left = certificate.not_after - datetime.datetime.fromtimestamp(now, datetime.UTC)
    return {
        "id": certificate.id,
        "names": list(certificate.names),
        "issuer": certificate.issuer,
        "notAfter": rfc3339(certificate.not_after),
        "daysLeft": left.days,
    }


@attrs.frozen
class ExplainBody:
    """What ``POST /proxy-svc/explain`` takes."""

    url: str


def explain_operation(
    store: IStore, services: Choose, edge: EdgeView | None, seconds: Callable[[], float]
) -> Operation:
    """The call that explains; where there is no edge, Routes and Redirects are read from `store`.

    `services` is what the service side does with a request.
    """

    async def published() -> Published:
        if edge is not None:
            return edge.published()
        routes, redirects = await store.routes(), await store.redirects()
        return Published(RouteTable(routes), RouteTable(redirects), (), ())

    async def run(call: Call) -> Answer:
        require(call.caller.roles, ROUTE_VIEW)
        try:
            asked = read_url(call.body(ExplainBody).url)
        except ValueError as error:
            raise BadRequest(f"url: {bounded(str(error))}") from None
        if not asked.host:
            return Answer(200, explain_service(asked, services, await published(), seconds()))
        return Answer(200, explain(asked, await published(), edge, seconds()))

    return Operation(b"POST", ("explain",), run)
