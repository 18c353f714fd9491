"""The edge cache of one Route: what is answered from memory, and what is asked of the service (RFC 9111)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from ..errors import ProxyError, UpstreamTimeout
from ..exchange import State
from ..headers import OutgoingRequest
from ..messages import NO_BODY, ResponseHead
from ..policies.cache_requests import CONDITIONS, SAFE, Asked, read_request, selected
from ..policies.ranges import NOWHERE, byte_range
from .changing import Changing, named_by
from .fetching import Fetch
from .flights import Flight, Flights, Visit
from .sources import PIECE
from .storage import ASK_AGAIN, Kept, Storage, cache_status

if TYPE_CHECKING:
    from .exchange import GuardedExchange

_PROTO = b"\r\nX-Forwarded-Proto: "
_HOST = b"\r\nX-Forwarded-Host: "


def key_of(request: OutgoingRequest, asked: Asked, target: bytes) -> bytes:
    """Under which key answers for this target are kept: all by which a service may tell requests apart.

    Scheme, host with its port, and target byte for byte, and what a trusted proxy says of these. No part
    can have a line feed.
    """
    lines = request.lines
    said = b""
    for name in (_PROTO, _HOST):
        # Ours come last: what a client sends under these names does not get here.
        at = lines.rfind(name)
        if at >= 0:
            said += lines[at : lines.find(b"\r\n", at + 2)]
    return b"%b\n%b\n%b\n%b\n%b" % (
        request.scheme,
        request.host.lower(),
        target,
        said.lower(),
        asked.forwarded,
    )


class RouteCache:
    """What is kept of one Route, and who is on the way for more."""

    def __init__(self, storage: Storage, route_id: str, seconds: Callable[[], float]) -> None:
        self.storage = storage
        self.shelf = storage.shelf(route_id)
        self.seconds = seconds
        self.flights = Flights(self)
        self._fetches: set[Fetch] = set()
        self.not_kept: ResponseHead | None = None
        """The last head that nobody may keep, whoever asks: it comes again as the same object."""
        self._told: tuple[ResponseHead, bytes, ResponseHead] | None = None

    def with_status(self, head: ResponseHead, said: bytes) -> ResponseHead:
        """A head with Cache-Status; one that comes again is known."""
        told = self._told
        if told is not None and told[0] is head and told[1] == said:
            return told[2]
        new = head.with_field(cache_status(said))
        self._told = head, said, new
        return new

    def serve(self, exchange: GuardedExchange) -> None:
        """Answer from what is kept, or let the request go on."""
        request = exchange.request
        method = request.method
        if method != b"GET" and method != b"HEAD":
            self._serve_other(exchange)
            return
        asked = read_request(request.headers)
        if asked.range and method == b"HEAD":
            # There is nothing to have a piece of (RFC 9110, 14.2).
            asked = attrs.evolve(asked, range=b"")
        if asked.past or request.body != NO_BODY or request.upgrade:
            self._go_past(exchange, b"fwd=bypass")
            return
        key = key_of(request, asked, request.target)
        target = self.shelf.targets.get(key)
        guard = exchange.guard
        visit = Visit(exchange, asked, key, guard.basic is not None or guard.forward is not None)
        if target is None:
            visit.reason = b"fwd=uri-miss"
            self._fetch(visit, None)
            return
        visit.values = selected(request.headers, target.vary)
        kept = target.variants.get(visit.values)
        if kept is None or not visit.may_have(kept):
            visit.reason = b"fwd=vary-miss" if kept is None else b"fwd=request"
            self._fetch(visit, None)
            return
        self._serve_kept(visit, kept)

    def _serve_kept(self, visit: Visit, kept: Kept) -> None:
        now = self.seconds()
        stats = self.storage.stats
        terms = kept.terms
        exchange = visit.exchange
        if terms.is_fresh(now):
            stats.hits += 1
            exchange.cache = "hit"
        elif terms.while_asking_at(now) or kept.is_for_failures(now):
            stats.stale += 1
            exchange.cache = "stale"
            if terms.while_asking_at(now):
                self._ask_about(visit, kept, now)
        else:
            visit.reason = b"fwd=stale"
            self._fetch(visit, kept)
            return
        self.storage.used(kept)
        if visit.asked.plain:
            exchange.answer(kept.head(now), kept.body)
        else:
            exchange.answer(*self.as_asked(kept, visit.asked, now))

    def as_asked(
        self, kept: Kept, asked: Asked, now: float, status: bytes = b""
    ) -> tuple[ResponseHead, bytes]:
        """The head and body that answer this request: whole, as 304, or a piece.

        A large piece is a view (`memoryview`): whoever reads it slowly has nothing of its own.
        """
        if asked.plain or kept.status != 200:
            return kept.head(now, status), kept.body
        validators = kept.terms.validators
        if validators.known_to(asked):
            return kept.changed_head(now, 304, b"Not Modified", [], NO_BODY, status), b""
        piece = None
        if asked.range and validators.range_holds(asked):
            piece = byte_range(asked.range, len(kept.body))
        if piece is None:
            return kept.head(now, status), kept.body
        size = len(kept.body)
        if piece == NOWHERE:
            more = [(b"Content-Range", b"bytes */%d" % size), (b"Content-Length", b"0")]
            return kept.changed_head(now, 416, b"Range Not Satisfiable", more, 0, status), b""
        first, end = piece
        more = [
            (b"Content-Range", b"bytes %d-%d/%d" % (first, end - 1, size)),
            (b"Content-Length", b"%d" % (end - first)),
        ]
        head = kept.changed_head(now, 206, b"Partial Content", more, end - first, status)
        body: Any = memoryview(kept.body) if end - first > PIECE else kept.body
        return head, body[first:end]

    # Going to the service.

    def _serve_other(self, exchange: GuardedExchange) -> None:
        method = exchange.request.method
        if method not in SAFE:
            exchange.filter_through(lambda to: Changing(to, self, exchange))
        self._go_past(exchange, b"fwd=method")

    def _go_past(self, exchange: GuardedExchange, reason: bytes) -> None:
        self.storage.stats.bypass += 1
        exchange.cache = "bypass"
        exchange.fields.append(cache_status(reason))
        exchange.go_upstream()

    def _fetch(self, visit: Visit, kept: Kept | None) -> None:
        """Ask the service, or wait for somebody who does."""
        exchange = visit.exchange
        asked = visit.asked
        exchange.cache = "miss"
        if asked.only_if_cached:
            exchange.refuse(UpstreamTimeout("nothing is kept that answers this"))
            return
        if exchange.request.method == b"HEAD":
            # What it brings is no answer to a GET, and is not kept.
            self.storage.stats.misses += 1
            exchange.fields.append(cache_status(visit.reason))
            exchange.go_upstream()
            return
        visit.kept = kept
        flight = None
        # What is for one client alone is not waited for: unless something is kept, that may be so.
        if not asked.no_store and (kept is not None or not visit.identified):
            place = visit.place
            if self.flights.joined(visit, place):
                return
            flight = self.flights.begun(visit, place)
        self.send(visit, flight)

    def send(self, visit: Visit, flight: Flight | None) -> None:
        """Ask the service, for those on the flight too."""
        exchange = visit.exchange
        kept = visit.kept
        if kept is not None and kept.shelf is None:
            # While it waited, that was purged, or something else has come.
            kept = visit.kept = None
        conditional = kept is not None and kept.terms.validators.can_ask
        if kept is not None and conditional:
            exchange.change_request(CONDITIONS, kept.terms.validators.conditions())
        fetch = Fetch(self, visit, exchange.request, kept, conditional)
        if flight is not None:
            fetch.flight = flight
            flight.fetches.append(fetch)
        exchange.filter_through(fetch.before)
        self._fetches.add(fetch)
        exchange.wait(fetch.stopped)
        exchange.go_upstream()

    def _ask_about(self, visit: Visit, kept: Kept, now: float) -> None:
        """Ask the service about a stale answer, which somebody is given meanwhile."""
        if now < kept.asking_until or visit.asked.no_store:
            return
        if kept.asking is not None and not kept.asking.gives_way(now):
            return
        kept.asking_until = now + ASK_AGAIN
        exchange = visit.exchange
        try:
            upstream = exchange.guard.upstream()
        except ProxyError:
            return
        validators = kept.terms.validators
        exchange.change_request(CONDITIONS, validators.conditions())
        request = attrs.evolve(exchange.request, method=b"GET")
        asked = attrs.evolve(visit.asked, plain=True)
        about = Visit(exchange, asked, visit.key, visit.authenticated, b"fwd=stale", kept=kept)
        kept.asking = fetch = Fetch(self, about, request, kept, validators.can_ask)
        self._fetches.add(fetch)
        fetch.inner = exchange.inner(fetch, request, upstream)
        fetch.inner.start()

    # What comes of it.

    def later(self, visit: Visit, seconds: float, call: Callable[[], None]) -> IDelayedCall:
        """Call it in so many seconds."""
        return visit.exchange._exchanges.clock.callLater(seconds, call)

    def over(self, fetch: Fetch) -> None:
        """It is not under way any more."""
        self._fetches.discard(fetch)

    def arrived(self, visit: Visit, kept: Kept, stale: bool) -> None:
        """What it waited for is there."""
        exchange = visit.exchange
        same = selected(exchange.request.headers, kept.terms.vary) == kept.values
        if not same or not visit.may_have(kept):
            self.again(visit)
            return
        if stale:
            self.storage.stats.stale += 1
        else:
            self.storage.stats.hits += 1
        exchange.cache = "stale" if stale else "hit"
        status = visit.reason + b"; collapsed"
        self.step(visit, lambda: exchange.answer(*self.as_asked(kept, visit.asked, self.seconds(), status)))

    def again(self, visit: Visit) -> None:
        """It waited, and nothing is known: as if it had come now."""
        self.step(visit, lambda: self.serve(visit.exchange))

    def out_of_patience(self, visit: Visit) -> None:
        """It has waited for too long: it gets the stale answer, if it may have that, or goes itself."""
        kept, now = visit.kept, self.seconds()
        if kept is not None and kept.shelf is not None and kept.terms.if_error_at(now):
            kept.failed(now)
            self.arrived(visit, kept, stale=True)
        else:
            self.go_alone(visit)

    def go_alone(self, visit: Visit) -> None:
        """It goes to the service, and nobody waits for it."""
        self.step(visit, lambda: self.send(visit, None))

    def step(self, visit: Visit, step: Callable[[], None]) -> None:
        """Go on with it: what is raised costs this request only."""
        if visit.exchange.state is State.DONE:
            # Its client went away while another one was answered.
            return
        try:
            step()
        except Exception:
            visit.exchange.broke(Failure())

    # What others change.

    def changed(self, exchange: GuardedExchange, head: ResponseHead) -> None:
        """A request that may change things was answered: what is kept of its target may be outdated.

        So it is with what the answer's Location and Content-Location name, on the same host (RFC 9111, 4.4).
        """
        request = exchange.request
        asked = read_request(request.headers)
        targets = {request.target}
        for name, value in head.headers:
            if name.lower() in (b"location", b"content-location"):
                targets |= named_by(exchange, value)
        keys = {key_of(request, asked, target) for target in targets - {b""}}
        for key in keys:
            self.storage.drop_target(self.shelf, key)
        for fetch in self._fetches:
            if fetch.visit.key in keys:
                fetch.doomed = True
