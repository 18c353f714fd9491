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


@attrs.define(eq=False)
class Visit:
    """A request at the cache: what it asks for, and under which key that would be.

    `identified` says that it shows whose it is; `authenticated` that it had to prove that at the front desk.
    `kept` is a stale answer to it; `reason` is why it goes to the service, in the words of RFC 9211.
    """

    exchange: GuardedExchange
    asked: Asked
    key: bytes
    authenticated: bool
    reason: bytes = b""
    kept: Kept | None = None

    @property
    def can_lead(self) -> bool:
        """Whether the whole answer is asked for, so that others may wait for it."""
        return self.asked.plain or (self.kept is not None and self.kept.terms.validators.can_ask)

    @property
    def identified(self) -> bool:
        """Whether the answer may be for one client alone."""
        return self.authenticated or self.asked.cookie or self.asked.authorization


Place = tuple[bytes, tuple[bytes | None, ...] | None, bool]
"""What can be waited for: the key, the values of the fields in Vary if they are known, identified or not."""


@attrs.define(eq=False)
class Flight:
    """A request that is under way, and those who wait for what comes of it instead of asking themselves.

    Where it takes long, it is several requests: `count` of them; `another` is when one more goes.
    """

    place: Place
    count: int = 0
    followers: list[Follower] = attrs.field(factory=list)
    another: IDelayedCall | None = None

    def _leave(self) -> list[Follower]:
        followers, self.followers = self.followers, []
        if self.another is not None and self.another.active():
            self.another.cancel()
        for follower in followers:
            follower.released()
        return followers

    def landed(self, kept: Kept) -> None:
        """This is the answer: for all whom it is for."""
        for follower in self._leave():
            follower.cache.arrived(follower.visit, kept)

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
