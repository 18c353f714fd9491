"""Many who ask the cache for the same at once: one goes to the service, and the others wait for that one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.internet.interfaces import IDelayedCall

from ..policies.cache_requests import Asked
from .storage import Kept

if TYPE_CHECKING:
    from .caching import RouteCache
    from .exchange import GuardedExchange
    from .fetching import Fetch

ANOTHER = 5.0
"""Seconds after which one more of those who wait for an answer goes and asks, too."""
PATIENCE = 30.0
"""Seconds that a request waits for others' answers at most, before it asks in any case."""
MAX_DOUBTS = 3
"""How often one client's own error is taken for that, and not for what all others would get, too."""
PASSING = 10.0
"""Seconds for which nobody waits for an answer where the last one could not be kept."""

Place = tuple[bytes, tuple[bytes | None, ...] | None, bool]
"""What can be waited for: the key, the values of the fields in Vary if they are known, identified or not."""


@attrs.define(eq=False)
class Visit:
    """A request at the cache: what it asks for, and under which key that would be.

    `authenticated` says that it had to prove whose it is at the front desk. `values` are those of the fields
    in Vary, if that is known. `kept` is a stale answer to it; `reason` is why it goes to the service, in the
    words of RFC 9211.
    """

    exchange: GuardedExchange
    asked: Asked
    key: bytes
    authenticated: bool
    reason: bytes = b""
    values: tuple[bytes | None, ...] | None = None
    kept: Kept | None = None

    @property
    def place(self) -> Place:
        """What others may wait for with it."""
        return self.key, self.values, self.identified

    @property
    def can_lead(self) -> bool:
        """Whether the whole answer is asked for, so that others may wait for it."""
        return self.asked.plain or (self.kept is not None and self.kept.terms.validators.can_ask)

    @property
    def identified(self) -> bool:
        """Whether the answer may be for one client alone."""
        return self.authenticated or self.asked.identified

    def may_have(self, kept: Kept) -> bool:
        """Whether it is for such requests."""
        return kept.terms.for_all or not self.identified


@attrs.define(eq=False)
class Flight:
    """A request that is under way, and those who wait for what comes of it instead of asking themselves.

    Where it takes long, it is several requests: all `fetches`; `another` is when one more goes. `doubts` is
    how often the answer was an error that may be of one client's own making.
    """

    place: Place
    fetches: list[Fetch] = attrs.field(factory=list)
    doubts: int = 0
    followers: list[Follower] = attrs.field(factory=list)
    another: IDelayedCall | None = None

    def _leave(self) -> list[Follower]:
        followers, self.followers = self.followers, []
        if self.another is not None and self.another.active():
            self.another.cancel()
        for follower in followers:
            follower.released()
        return followers

    def landed(self, kept: Kept, stale: bool) -> None:
        """This is the answer, `stale` or not: for all whom it is for."""
        for follower in self._leave():
            follower.cache.arrived(follower.visit, kept, stale)

    def in_vain(self) -> None:
        """No answer came that others could have: all go and ask, at once."""
        for follower in self._leave():
            follower.cache.go_alone(follower.visit)

    def lost(self) -> None:
        """It is not known what the answer would have been: one of them goes and asks."""
        for follower in self._leave():
            follower.cache.again(follower.visit)


@attrs.define(eq=False)
class Follower:
    """One that waits for somebody else's answer."""

    cache: RouteCache
    visit: Visit
    flight: Flight
    patience: IDelayedCall | None = None

    def released(self) -> None:
        """It does not wait any more."""
        self.visit.exchange.waited()
        if self.patience is not None and self.patience.active():
            self.patience.cancel()

    def gone(self) -> None:
        """Its client went away."""
        if self in self.flight.followers:
            self.flight.followers.remove(self)
        self.released()


class Flights:
    """Those of one Route."""

    def __init__(self, cache: RouteCache) -> None:
        self._cache = cache
        self._under_way: dict[Place, Flight] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def joined(self, visit: Visit, place: Place) -> bool:
        """Wait for a flight to this place, which is the visit's, if there is one."""
        flight = self._under_way.get(place)
        if flight is None:
            return False
        held_up = [each for each in flight.fetches if each.held_up]
        if held_up:
            # Nobody waits for another one's slow line.
            for fetch in held_up:
                self.lost(fetch)
            return self.joined(visit, place)
        self._follow(visit, flight)
        return True

    def begun(self, visit: Visit, place: Place) -> Flight | None:
        """A flight that others may join from now on; None where that would be in vain."""
        if not visit.can_lead or self._cache.storage.passes(hash(place), self._cache.seconds()):
            return None
        flight = self._under_way[place] = Flight(place)
        return flight

    def _follow(self, visit: Visit, flight: Flight) -> None:
        exchange = visit.exchange
        left = max(0.0, exchange.started + PATIENCE - self._cache.seconds())
        follower = Follower(self._cache, visit, flight)
        follower.patience = self._cache.later(visit, left, lambda: self._out_of_patience(follower))
        flight.followers.append(follower)
        exchange.wait(follower.gone)
        if flight.another is None:
            flight.another = self._cache.later(visit, ANOTHER, lambda: self._another(flight))

    def _another(self, flight: Flight) -> None:
        """It takes long, or hangs: one more goes, and the others wait for whichever comes first."""
        flight.another = None
        if not self._more_go(flight, 1):
            return
        if flight.followers and flight.another is None:
            visit = flight.followers[0].visit
            flight.another = self._cache.later(visit, ANOTHER, lambda: self._another(flight))

    def _more_go(self, flight: Flight, number: int) -> int:
        """So many more of those who wait go and ask, for the others too; how many there are."""
        able = [each for each in flight.followers if each.visit.can_lead][:number]
        for follower in able:
            flight.followers.remove(follower)
        for follower in able:
            follower.released()
            self._sent(follower.visit, flight)
        return len(able)

    def _sent(self, visit: Visit, flight: Flight) -> None:
        self._cache.step(visit, lambda: self._cache.send(visit, flight))

    def _out_of_patience(self, follower: Follower) -> None:
        follower.flight.followers.remove(follower)
        follower.released()
        self._cache.out_of_patience(follower.visit)

    def _unlist(self, flight: Flight) -> None:
        if self._under_way.get(flight.place) is flight:
            del self._under_way[flight.place]

    def _leave(self, fetch: Fetch) -> Flight | None:
        flight, fetch.flight = fetch.flight, None
        if flight is not None:
            flight.fetches.remove(fetch)
        return flight

    def landed(self, fetch: Fetch, kept: Kept | None, stale: bool = False) -> None:
        """This is what came of it: an answer for those who wait, or none that they could have."""
        flight = self._leave(fetch)
        if flight is None:
            return
        self._unlist(flight)
        if kept is not None:
            flight.landed(kept, stale)
        else:
            flight.in_vain()

    def in_vain(self, fetch: Fetch) -> None:
        """No answer comes that others could have, and none is waited for in the next moments."""
        if fetch.flight is not None:
            self._cache.storage.pass_by(hash(fetch.flight.place), self._cache.seconds() + PASSING)
            self.landed(fetch, None)

    def doubted(self, fetch: Fetch) -> None:
        """No answer comes that others could have, which may be the client's own doing.

        Twice as many go as the last time: where all get the same, that is soon known, and nobody can make
        all of them go at once.
        """
        flight = fetch.flight
        if flight is None or flight.doubts == MAX_DOUBTS:
            self.in_vain(fetch)
            return
        self._leave(fetch)
        if flight.fetches:
            return
        flight.doubts += 1
        if not self._more_go(flight, 2 ** (flight.doubts - 1)):
            self._unlist(flight)
            flight.lost()

    def failed(self, fetch: Fetch) -> None:
        """The service could not be reached: the others will fare no better, but need not queue for that."""
        flight = self._leave(fetch)
        if flight is not None and not flight.fetches:
            self._unlist(flight)
            flight.in_vain()

    def lost(self, fetch: Fetch) -> None:
        """It broke off, or is as good as that: another one goes in its place."""
        flight = self._leave(fetch)
        if flight is not None and not flight.fetches:
            self._unlist(flight)
            flight.lost()
