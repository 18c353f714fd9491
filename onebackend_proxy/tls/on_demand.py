"""Clients that wait while the certificate for the name that they want is ordered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from .transport import ORDER_PATIENCE

MAX_WAITING = 1000
"""Clients that may wait at one time, for whatever names."""
MAX_FOR_ONE = 250
"""Of these, for one name: those who want a name whose authority hangs leave room for others."""

Order = Callable[[str], Deferred[Any] | None]
"""Begins the order for a canonical name, or finds it under way, and fires when it has ended, either way.

None where nothing is ordered: no Route is for the name, or it is not tried again yet.
"""


@attrs.frozen(eq=False)
class _UnderWay:
    """An order, since when it is waited for (Unix seconds), and by whom, in the order in which they came."""

    since: float
    waiting: dict[Deferred[None], None] = attrs.field(factory=dict)


class OnDemand:
    """Who waits for which order: one order for each name, however many want it; `now` is in Unix seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._orders: dict[str, _UnderWay] = {}
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<OnDemand: {self._waiting} wait for {len(self._orders)} orders>"

    def wait(self, name: str, order: Order) -> Deferred[None] | None:
        """Fires when the order for this name has ended, however it did; None if nothing is to be waited for.

        Who leaves cancels it. The order goes on: others may come.
        """
        if self._waiting >= MAX_WAITING:
            return None
        ended = None
        under_way = self._orders.get(name)
        if under_way is not None and len(under_way.waiting) >= MAX_FOR_ONE:
            return None
        if under_way is None or self._now() >= under_way.since + ORDER_PATIENCE:
            # The first one, or that one takes so long that nobody who came with it is left.
            ended = order(name)
            if ended is None:
                return None
            under_way = self._orders[name] = _UnderWay(self._now())
        waiting = under_way.waiting
        waiter: Deferred[None] = Deferred(lambda each: self._left(each, waiting))
        waiting[waiter] = None
        self._waiting += 1
        if ended is not None:
            # Maybe at once.
            ended.addBoth(self._ended, name, under_way)
        return waiter

    def _left(self, waiter: Deferred[None], waiting: dict[Deferred[None], None]) -> None:
        if waiter in waiting:
            del waiting[waiter]
            self._waiting -= 1

    def _ended(self, result: object, name: str, under_way: _UnderWay) -> None:
        # What went wrong is told by whoever ordered.
        if self._orders.get(name) is under_way:
            del self._orders[name]
        while under_way.waiting:
            waiter = next(iter(under_way.waiting))
            self._left(waiter, under_way.waiting)
            waiter.callback(None)
