"""How many new names of a domain are ordered within an hour: authorities allow so many a week."""

from __future__ import annotations

import datetime

from ...interfaces import IStore
from ...units import shown_moment
from .domains import registered_domain

HOUR = datetime.timedelta(hours=1)
WEEK = datetime.timedelta(days=7)


class Budget:
    """At most `most` new names of each registered domain within an hour, among all processes on `store`.

    Names below a wildcard's Route, which strangers make up, have half of it, and `made_up` within a week:
    what Routes name is never kept waiting by them, at the authority neither.
    """

    def __init__(self, store: IStore, most: int, made_up: int) -> None:
        self._store = store
        self._most = most
        self._made_up = made_up
        # By registered domain: until when what there is for made-up names is spent.
        self._spent: dict[str, datetime.datetime] = {}

    def __repr__(self) -> str:
        return f"<Budget: {self._most} names an hour, {self._made_up} made-up ones a week>"

    def is_spent(self, name: str, now: datetime.datetime) -> bool:
        """Whether it is known, without asking the store, that a made-up name cannot be ordered."""
        if not self._made_up:
            return True
        until = self._spent.get(registered_domain(name)) if self._spent else None
        return until is not None and now < until <= now + WEEK

    async def spend(
        self, name: str, made_up: bool, now: datetime.datetime
    ) -> tuple[datetime.datetime, str] | None:
        """Note an order for this name; until when it may not be made, and why, if it may not."""
        domain = registered_domain(name)
        spent = await self._spend(domain, name, now, HOUR, self._of_an_hour(made_up), "an hour")
        if not made_up:
            return spent
        if spent is None:
            # Under a name that no domain has, so that it is counted by itself.
            spent = await self._spend(f"*.{domain}", name, now, WEEK, self._made_up, "a week")
        if spent is not None:
            self._spent = {key: until for key, until in self._spent.items() if until > now}
            self._spent[domain] = spent[0]
        return spent

    async def _spend(
        self,
        domain: str,
        name: str,
        now: datetime.datetime,
        window: datetime.timedelta,
        most: int,
        words: str,
    ) -> tuple[datetime.datetime, str] | None:
        oldest = await self._store.spend_order(domain, name, now, now - window, most)
        if oldest is None:
            return None
        until = oldest + window
        were = "name was" if most == 1 else "names were"
        shown = domain.removeprefix("*.")
        told = f"{most} new {were} ordered for {shown} within {words}: the next at {shown_moment(until)}"
        return until, told

    async def spent_until(self, name: str, made_up: bool, now: datetime.datetime) -> datetime.datetime | None:
        """Until when an order for this new name could not be made; None if it could. Nothing is noted."""
        domain = registered_domain(name)
        windows = [(domain, HOUR, self._of_an_hour(made_up))]
        if made_up:
            windows.append((f"*.{domain}", WEEK, self._made_up))
        ends = []
        for of, window, most in windows:
            others = [at for each, at in await self._store.ordered(of, now - window) if each != name]
            if len(others) >= most:
                ends.append((others[0] if others else now) + window)
        return max(ends, default=None)

    def _of_an_hour(self, made_up: bool) -> int:
        return max(1, self._most // 2) if made_up else self._most
