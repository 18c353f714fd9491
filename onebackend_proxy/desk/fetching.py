"""An answer on its way from a service to whoever asked, and into the cache if it may be kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.internet.interfaces import IDelayedCall

from ..balancing import COOKIE
from ..errors import ProxyError
from ..exchange import Exchange
from ..headers import OutgoingRequest
from ..interfaces import Downstream
from ..messages import CHUNKED, NO_BODY, Headers, ResponseHead
from ..policies.cache_control import shown_date
from ..policies.cache_requests import PLAIN, selected
from ..policies.caching import ERRORS, says_what_there_is, terms_of
from ..policies.conditions import updated
from .filters import Filter
from .flights import PATIENCE, Flight, Visit
from .nobody import Nobody
from .sources import Memory
from .storage import Kept, cache_status

if TYPE_CHECKING:
    from .caching import RouteCache
    from .exchange import GuardedExchange


_UNDECIDED, _PASSING, _KEEPING, _REFRESHED, _COVERED = range(5)
_AFFINITY = COOKIE + b"="


def _as_sent(head: ResponseHead) -> ResponseHead:
    """The head as the service sent it: the cookie that keeps the client at its endpoint is ours."""
    headers = head.headers
    if headers and headers[-1][0] == b"Set-Cookie" and headers[-1][1].startswith(_AFFINITY):
        return attrs.evolve(head, headers=headers[:-1])
    return head


class Fetch(Filter):
    """Passes an answer on, and keeps it whole if that is allowed.

    `kept` is a stale answer that its service is asked about, if `conditional`, and that is given in the place
    of an error if its terms allow that. `inner` is the exchange that asks, where that is in the background.
    """

    inner: Exchange | None = None
    flight: Flight | None = None
    doomed = False
    """Whether the answer may be outdated before it is there: something was changed meanwhile."""
    _mode = _UNDECIDED
    _size = 0
    _late: IDelayedCall | None = None

    def __init__(
        self,
        cache: RouteCache,
        visit: Visit,
        request: OutgoingRequest,
        kept: Kept | None,
        conditional: bool,
    ) -> None:
        super().__init__(Nobody())
        self._cache = cache
        self.visit = visit
        self._request = request
        self._kept = kept
        self._conditional = conditional
        # That of the client, if one waits for this.
        self._exchange: GuardedExchange | None = None
        self._sent = cache.seconds()
        self._purges = cache.shelf.purges
        self._body = bytearray()
        self._head: ResponseHead | None = None
        self._new: Callable[[bytes], Kept] | None = None

    def before(self, to: Downstream) -> Fetch:
        """The same, with somebody to whom the answer goes."""
        self.to = to
        self._exchange = exchange = self.visit.exchange
        exchange.covers = self.covers
        return self

    @property
    def held_up(self) -> bool:
        """Whether it waits for a client that does not keep up."""
        return self.visit.exchange._paused_by_client

    def respond(self, head: ResponseHead) -> None:
        """See `interfaces.Downstream`."""
        now = self._cache.seconds()
        if head.status == 304 and self._conditional:
            self._refresh(head, now)
        elif head.status in ERRORS and self._may_cover(now):
            self._cover(b"fwd=stale; fwd-status=%d" % head.status, now)
        else:
            self._decide(head, now)
            self._missed()
            reason = self.visit.reason
            if self._mode == _KEEPING:
                reason += b"; stored"
            self.to.respond(self._cache.with_status(head, reason))

    def _missed(self) -> None:
        if self._exchange is not None:
            self._exchange.cache = "miss"
            self._cache.storage.stats.misses += 1

    def _decide(self, head: ResponseHead, now: float) -> None:
        """Keep it or not."""
        cache = self._cache
        storage = cache.storage
        visit = self.visit
        asked = visit.asked
        if head is cache.not_kept:
            self._go_by(head)
            return
        if self._conditional and not asked.plain:
            # It was not asked in the client's words.
            asked = attrs.evolve(asked, plain=True)
        told, head = head, _as_sent(head)
        whole = head.body >= 0 or head.body == CHUNKED or (head.status == 204 and head.body == NO_BODY)
        terms = None
        if whole and head.body <= storage.item_max_size and not self.doomed:
            terms = terms_of(asked, head, self._sent, now, visit.authenticated)
        if terms is not None and terms.are_of_use(now):
            self._mode = _KEEPING
            self._head = head
            values = selected(self._request.headers, terms.vary)
            self._new = lambda body: Kept(visit.key, values, self._as_dated(now), body, terms)
        else:
            if asked is PLAIN and not self.doomed:
                cache.not_kept = told
            self._go_by(head)

    def _go_by(self, head: ResponseHead) -> None:
        """Nobody may keep it."""
        kept = self._kept
        if head.status < 500 and not says_what_there_is(head.status):
            self._mode = _PASSING
            self._stop_keeping()
            self._cache.flights.doubted(self)
            if kept is not None:
                # In the background, too, another one may fare better.
                kept.asking_until = 0.0
            return
        self._pass_by()
        if kept is not None and head.status < 500 and self._is_for_others:
            # There is something else now.
            self._cache.storage.drop(kept)

    @property
    def _is_for_others(self) -> bool:
        """Whether what comes says anything about what others would get."""
        return not (self.visit.identified or self.visit.asked.no_store)

    def _as_dated(self, now: float) -> ResponseHead:
        head = self._head
        assert head is not None
        return head if head.dated else head.with_field((b"Date", shown_date(now)))

    def _pass_by(self) -> None:
        self._mode = _PASSING
        self._stop_keeping()
        self._cache.flights.in_vain(self)

    def _stop_keeping(self) -> None:
        if self._size:
            self._cache.storage.release(self)
            self._size = 0
        self._body = bytearray()

    def give_up(self) -> None:
        """Others need the room: go on without keeping it."""
        self._mode = _PASSING
        self._stop_keeping()
        self._cache.flights.landed(self, None)

    def write(self, data: bytes) -> None:
        """See `interfaces.Downstream`."""
        mode = self._mode
        if mode == _KEEPING:
            storage = self._cache.storage
            size = len(data)
            if self._size + size <= storage.item_max_size and storage.reserve(self, size):
                self._size += size
                self._body += data
            else:
                self._pass_by()
        elif mode != _PASSING:
            return
        self.to.write(data)

    def flush(self) -> None:
        """See `interfaces.Downstream`."""
        if self.inner is not None:
            if self._mode in (_PASSING, _COVERED):
                self._leave("the cache has no use for the rest")
            return
        self.to.flush()
        flight = self.flight
        if flight is not None and flight.followers and self.held_up:
            # Nobody waits for another one's slow line.
            self._cache.flights.lost(self)

    def end(self, trailers: Headers) -> None:
        """See `interfaces.Downstream`."""
        keeping = self._mode == _KEEPING
        kept = self._keep() if keeping else None
        self._over()
        self.to.end(trailers)
        if keeping:
            self._cache.flights.landed(self, kept)

    def _keep(self) -> Kept | None:
        """Put it into the cache; None if something is wrong with it."""
        head, new = self._head, self._new
        assert head is not None and new is not None
        body = bytes(self._body)
        self._stop_keeping()
        if self._is_outdated() or (head.body >= 0 and len(body) != head.body):
            return None
        kept = new(body)
        self._cache.storage.put(self._cache.shelf, kept)
        return kept

    def _is_outdated(self) -> bool:
        return self.doomed or self._purges != self._cache.shelf.purges

    def abort(self) -> None:
        """See `interfaces.Downstream`."""
        self._over()
        self.to.abort()
        self._cache.flights.lost(self)

    def refuse(self, status: int, message: str) -> None:
        """See `interfaces.Downstream`."""
        self._over()
        self._missed()
        if self._exchange is not None:
            self._exchange.fields.append(cache_status(self.visit.reason))
        self.to.refuse(status, message)
        self._cache.flights.failed(self)

    def covers(self, error: ProxyError) -> bool:
        """See `GuardedExchange.covers`: what is kept may be given in the place of an error."""
        now = self._cache.seconds()
        # A proxy that stops does not begin anything anew.
        if error.status not in ERRORS or not self._may_cover(now) or self.visit.exchange.stopping:
            return False
        self._over()
        self._cover(b"fwd=stale", now)
        return True

    def stopped(self) -> None:
        """The exchange ended, and it may be that nobody is told of it any more: the client went away."""
        if self._late is None:
            self._late = self._cache.later(self.visit, 0, self._vanished)

    def _vanished(self) -> None:
        self._over()
        self._cache.flights.lost(self)

    def _over(self) -> None:
        self._stop_keeping()
        if self._late is not None and self._late.active():
            self._late.cancel()
        if self._exchange is not None:
            self._exchange.waited()
        elif self.visit.kept is not None:
            self.visit.kept.asking = None
        self._cache.over(self)

    # In the background.

    def gives_way(self, now: float) -> bool:
        """Whether nothing has come for so long that another one may ask: then it is given up."""
        if self._mode != _UNDECIDED or now - self._sent < PATIENCE:
            return False
        self._leave("the service took too long")
        return True

    def _leave(self, reason: str) -> None:
        if self.inner is not None:
            self.inner.client_gone(reason)
        self._over()

    # Where the answer is one that is kept already.

    def _may_cover(self, now: float) -> bool:
        kept = self._kept
        return kept is not None and kept.terms.if_error_at(now) and not self._is_outdated()

    def _cover(self, status: bytes, now: float) -> None:
        """Give the stale answer in the place of an error."""
        self._mode = _COVERED
        kept = self._kept
        assert kept is not None
        kept.failed(now)
        if self._exchange is not None:
            self._exchange.cache = "stale"
            self._cache.storage.stats.stale += 1
            self._give(kept, status, now)
            self._cache.flights.landed(self, kept, stale=True)

    def _refresh(self, head: ResponseHead, now: float) -> None:
        """What is kept is still so: from now on with what the 304 says (RFC 9111, 4.3.4)."""
        self._mode = _REFRESHED
        before = self._kept
        assert before is not None
        kept = self._refreshed(before, _as_sent(head), now)
        if self._exchange is not None:
            self._exchange.cache = "revalidated"
            self._cache.storage.stats.revalidated += 1
            # That is for this client, and no part of what is kept.
            self._exchange.fields += [field for field in head.headers if field[0].lower() == b"set-cookie"]
            self._give(kept or before, b"fwd=stale; fwd-status=304", now)
            self._cache.flights.landed(self, kept)

    def _refreshed(self, before: Kept, head: ResponseHead, now: float) -> Kept | None:
        """What is kept from now on; None if that is nothing."""
        storage = self._cache.storage
        # Without a Date it is from now, and not from when the answer was made.
        by = head.headers if head.dated else [*head.headers, (b"Date", shown_date(now))]
        headers = updated(before.headers, by)
        merged = ResponseHead(before.status, before.reason, headers, len(before.body), True)
        asked = attrs.evolve(self.visit.asked, plain=True, no_store=False)
        terms = terms_of(asked, merged, self._sent, now, self.visit.authenticated)
        if terms is None or terms.vary != before.terms.vary or self._is_outdated():
            if self._is_for_others:
                storage.drop(before)
            return None
        kept = Kept(before.key, before.values, merged, before.body, terms)
        if not self.visit.asked.no_store:
            storage.put(self._cache.shelf, kept)
        return kept

    def _give(self, kept: Kept, status: bytes, now: float) -> None:
        """Answer the client with what is kept, as fast as it takes that."""
        exchange = self._exchange
        assert exchange is not None
        self._over()
        self._mode = _PASSING
        head, body = self._cache.as_asked(kept, self.visit.asked, now, status)
        exchange.answer_instead(Memory(exchange, body), head, self.to)
