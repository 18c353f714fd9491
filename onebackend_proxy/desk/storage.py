"""Answers kept in memory, of all Routes together: within a size, the longest unused ones go first."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

import attrs

from ..messages import NO_BODY, Headers, ResponseHead
from ..policies.caching import NEVER_KEPT, Terms
from ..policies.conditions import kept_fields, without_body

if TYPE_CHECKING:
    from .fetching import Fetch

MAX_VARIANTS = 16
"""Answers for one target that differ by request fields (Vary); one more takes the oldest one's place."""
SHARE_ON_THE_WAY = 4
"""Answers that are still coming may take one part in so many of the whole size."""
ASK_AGAIN = 5.0
"""Seconds after which a service that failed is asked again; likewise in the background."""
MAX_PASSING = 1024
"""Targets that are remembered to have had an answer that nobody may keep."""

NAME = b"onebackend-proxy"
"""What this cache calls itself in Cache-Status (RFC 9211)."""

_OF_PIECE = frozenset((b"content-length", b"content-range"))
# Bytes of Python's own for each kept answer: measured with tracemalloc, with room.
_ENTRY = 2400
_NAME = 4 * 16 + sys.getsizeof(b"")
_FIELD = sys.getsizeof(()) + 16 + 2 * sys.getsizeof(b"") + 8


def cache_status(said: bytes) -> tuple[bytes, bytes]:
    """The field Cache-Status with what this cache says."""
    return b"Cache-Status", NAME + b"; " + said


@attrs.define
class StorageStats:
    """Counted since the start (`bytes` and `entries`: what there is now)."""

    hits: int = 0
    misses: int = 0
    stale: int = 0
    revalidated: int = 0
    bypass: int = 0
    stored: int = 0
    evicted: int = 0
    bytes: int = 0
    entries: int = 0


class Kept:
    """One answer as it is kept, whole.

    `key` and `values` (of the request fields in `terms.vary`) say for which requests. Its fields are those
    that go out, but Age and Cache-Status.
    """

    __slots__ = (
        "_moment",
        "_shown",
        "asking",
        "asking_until",
        "body",
        "failed_until",
        "headers",
        "key",
        "reason",
        "shelf",
        "size",
        "status",
        "terms",
        "values",
    )

    def __init__(
        self, key: bytes, values: tuple[bytes | None, ...], head: ResponseHead, body: bytes, terms: Terms
    ) -> None:
        self.key = key
        self.values = values
        self.status = head.status
        self.reason = head.reason
        self.headers: Headers = kept_fields(head.headers, terms.left_out)
        if head.status != 204:
            self.headers.append((b"Content-Length", b"%d" % len(body)))
        self.body = body
        self.terms = terms
        self.asking: Fetch | None = None
        """Who asks its service about it in the background."""
        self.asking_until = 0.0
        """Until when nobody else does."""
        self.failed_until = 0.0
        """Until when its service is taken to fail: who may have it stale because of that need not ask."""
        self.shelf: Shelf | None = None
        self._moment = -1
        self._shown: ResponseHead | None = None
        # The head that was shown last is kept too.
        fields = sum(_FIELD + 2 * (len(name) + len(value)) for name, value in self.headers)
        self.size = _ENTRY + len(key) + fields + len(body) + sum(len(value or b"") for value in values)
        if terms.left_out is not NEVER_KEPT:
            self.size += sum(_NAME + len(name) for name in terms.left_out)

    def failed(self, now: float) -> None:
        """Its service could not say whether it is still so."""
        self.failed_until = now + ASK_AGAIN

    def is_for_failures(self, now: float) -> bool:
        """Whether it may be given because its service has failed a moment ago."""
        return now < self.failed_until and self.terms.if_error_at(now)

    def head(self, now: float, status: bytes = b"") -> ResponseHead:
        """Its head as it goes out now, whole; `status` stands in Cache-Status in the place of a hit."""
        moment = int(now)
        shown = self._shown
        if status or moment != self._moment or shown is None:
            added = self._added(now, status)
            shown = ResponseHead(self.status, self.reason, [*self.headers, *added], len(self.body), True)
            if not status:
                self._moment, self._shown = moment, shown
        return shown

    def changed_head(
        self, now: float, status: int, reason: bytes, more: Headers, size: int, said: bytes
    ) -> ResponseHead:
        """The head of a piece of it (206, 416), or of a 304 about it, as `head`."""
        if size == NO_BODY:
            headers = without_body(self.headers)
        else:
            headers = [field for field in self.headers if field[0].lower() not in _OF_PIECE]
        return ResponseHead(status, reason, [*headers, *more, *self._added(now, said)], size, True)

    def _added(self, now: float, status: bytes) -> Headers:
        age = self.terms.age(now)
        left = self.terms.lifetime - age
        return [
            (b"Age", b"%d" % age),
            cache_status(status or b"hit; ttl=%d" % left),
        ]


class Target:
    """What is kept for one key: one answer, or several that differ by the request fields `vary`."""

    __slots__ = ("variants", "vary")

    def __init__(self, vary: tuple[bytes, ...]) -> None:
        self.vary = vary
        self.variants: dict[tuple[bytes | None, ...], Kept] = {}


class Shelf:
    """What is kept of one Route, by key. Once `closed`, it takes nothing.

    `purges` is how often it was purged: what was asked for before is not kept after, nor given.
    """

    __slots__ = ("__weakref__", "closed", "purges", "targets")

    def __init__(self) -> None:
        self.targets: dict[bytes, Target] = {}
        self.closed = False
        self.purges = 0


class Coming(Protocol):
    """An answer that is still coming, of which there are some bytes."""

    def give_up(self) -> None:
        """Do not keep it after all, and `Storage.release` what there is of it."""


class Storage:
    """All that is kept: `max_size` bytes at most, of that `item_max_size` of one body; 0 keeps nothing."""

    def __init__(self, max_size: int, item_max_size: int) -> None:
        self.max_size = max_size
        self.item_max_size = item_max_size
        self.stats = StorageStats()
        # Who has one keeps it: Routes come and go.
        self._shelves: WeakValueDictionary[str, Shelf] = WeakValueDictionary()
        self._order: OrderedDict[Kept, None] = OrderedDict()
        self.on_the_way = 0
        self._coming: dict[Coming, int] = {}
        self._passing: OrderedDict[int, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Storage: {self.stats.entries} answers, {self.stats.bytes} of {self.max_size} bytes>"

    def shelf(self, route_id: str) -> Shelf:
        """A new, empty shelf for a Route; what was kept for it, on other terms maybe, goes."""
        before = self._shelves.get(route_id)
        if before is not None:
            self.purge(route_id)
            before.closed = True
        shelf = self._shelves[route_id] = Shelf()
        return shelf

    def purge(self, route_id: str | None = None) -> int:
        """Forget what is kept for this Route, or all; also what is on its way. How many answers that were."""
        shelves = [*self._shelves.values()] if route_id is None else [self._shelves.get(route_id)]
        return sum(self._empty(shelf) for shelf in shelves if shelf is not None)

    def _empty(self, shelf: Shelf) -> int:
        shelf.purges += 1
        kept = [each for target in shelf.targets.values() for each in target.variants.values()]
        for each in kept:
            self.drop(each)
        return len(kept)

    def used(self, kept: Kept) -> None:
        """It was given to somebody: others go before it."""
        self._order.move_to_end(kept)

    def put(self, shelf: Shelf, kept: Kept) -> bool:
        """Keep it in the place of what there was; whether that could be done."""
        if shelf.closed or len(kept.body) > self.item_max_size or kept.size > self.max_size:
            return False
        self.drop_variant(shelf, kept)
        target = shelf.targets.get(kept.key)
        if target is not None and target.vary != kept.terms.vary:
            # The answers for a target are told apart in one way, which is the newest one's.
            self.drop_target(shelf, kept.key)
            target = None
        if target is None:
            target = shelf.targets[kept.key] = Target(kept.terms.vary)
        elif len(target.variants) >= MAX_VARIANTS:
            self.drop(next(iter(target.variants.values())))
            shelf.targets[kept.key] = target
        target.variants[kept.values] = kept
        kept.shelf = shelf
        self._order[kept] = None
        self.stats.stored += 1
        self.stats.entries += 1
        self.stats.bytes += kept.size
        self._make_room()
        return True

    def _make_room(self) -> None:
        while self.stats.bytes + self.on_the_way > self.max_size and self._order:
            self.stats.evicted += 1
            self.drop(next(iter(self._order)))

    def drop_variant(self, shelf: Shelf, kept: Kept) -> None:
        """Forget what is in its place."""
        target = shelf.targets.get(kept.key)
        before = target.variants.get(kept.values) if target is not None else None
        if before is not None:
            self.drop(before)

    def drop_target(self, shelf: Shelf, key: bytes) -> None:
        """Forget all that is kept for this key."""
        target = shelf.targets.get(key)
        if target is not None:
            for kept in list(target.variants.values()):
                self.drop(kept)

    def drop(self, kept: Kept) -> None:
        """Forget it, if it is still kept."""
        shelf, kept.shelf = kept.shelf, None
        if shelf is None:
            return
        del self._order[kept]
        self.stats.entries -= 1
        self.stats.bytes -= kept.size
        target = shelf.targets[kept.key]
        del target.variants[kept.values]
        if not target.variants:
            del shelf.targets[kept.key]

    # What is still coming.

    def reserve(self, coming: Coming, size: int) -> bool:
        """Make room for so many bytes more of an answer that is still coming; whether there is.

        Where there is not enough for all of them the longest under way is given up: its client may read as
        slowly as it likes, and must not keep others from the cache.
        """
        most = max(self.max_size // SHARE_ON_THE_WAY, min(self.item_max_size, self.max_size))
        while self.on_the_way + size > most:
            oldest = next(iter(self._coming), coming)
            if oldest is coming:
                return False
            oldest.give_up()
        self._coming[coming] = self._coming.get(coming, 0) + size
        self.on_the_way += size
        self._make_room()
        return True

    def release(self, coming: Coming) -> None:
        """It is kept by now, or will not be."""
        self.on_the_way -= self._coming.pop(coming, 0)

    # What is not worth waiting for.

    def pass_by(self, mark: int, until: float) -> None:
        """Remember that answers could not be kept, under the hash of what they were for."""
        passing = self._passing
        passing[mark] = until
        passing.move_to_end(mark)
        if len(passing) > MAX_PASSING:
            passing.popitem(last=False)

    def passes(self, mark: int, now: float) -> bool:
        """Whether the last answer, a moment ago, could not be kept."""
        until = self._passing.get(mark) if self._passing else None
        return until is not None and now < until
