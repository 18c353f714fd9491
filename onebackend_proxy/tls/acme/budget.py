"""How many new names of a domain are ordered within an hour: authorities allow so many a week."""

from __future__ import annotations

import datetime

from ...interfaces import IStore
from .domains import registered_domain

HOUR = datetime.timedelta(hours=1)


class Budget:
    """At most `most` new names of each registered domain within an hour, among all processes on `store`.

    Names below a wildcard's Route, which strangers make up, have half of it: what Routes name is never kept
    waiting by them.
    """

    def __init__(self, store: IStore, most: int) -> None:
        self._store = store
        self._most = most
        # By registered domain: until when its half for names that nobody has listed is spent.
        self._spent: dict[str, datetime.datetime] = {}

    def __repr__(self) -> str:
        return f"<Budget: {self._most} names an hour>"

    def is_spent(self, name: str, now: datetime.datetime) -> bool:
        """Whether it is known, without asking the store, that a name below a wildcard cannot be ordered."""
        until = self._spent.get(registered_domain(name)) if self._spent else None
        return until is not None and now < until

    async def spend(
        self, name: str, listed: bool, now: datetime.datetime
    ) -> tuple[datetime.datetime, str] | None:
        """Note an order for this name; until when it may not be made, and why, if it may not."""
        most = self._most if listed else max(1, self._most // 2)
        domain = registered_domain(name)
        oldest = await self._store.spend_order(domain, name, now, now - HOUR, most)
        if oldest is None:
            return None
        until = oldest + HOUR
        if not listed:
            self._spent = {key: at for key, at in self._spent.items() if at > now}
            self._spent[domain] = until
        words = f"{most} names of {domain} were ordered within an hour: the next at {until:%H:%M:%S} UTC"
        return until, words

    async def spent_until(self, name: str, now: datetime.datetime) -> datetime.datetime | None:
        """Until when no new name of its domain can be ordered, also one that is listed; None if one can."""
        moments = await self._store.ordered(registered_domain(name), now - HOUR)
        return None if len(moments) < self._most else moments[0] + HOUR
