"""What the calls of `IStore` on orders say to the database: facts, leases, budgets, challenges.

None of this is published: who needs it asks.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import attrs
import sqlalchemy as sa
from twisted.internet.defer import Deferred

from ..records import Challenge, Issuance
from . import schema
from .rows import issuance_fields, issuance_of, row_of
from .transactions import Transactions

LONGEST_LEASE = datetime.timedelta(minutes=5)
LONGEST_WINDOW = datetime.timedelta(days=30)


class IssuingStatements(Transactions):
    """The calls of `IStore` for those who order certificates."""

    def issuances(self) -> Deferred[tuple[Issuance, ...]]:
        """All that is known of orders, sorted by name; a mere lease is nothing known."""
        table = schema.issuances
        listing = sa.select(table.c.name, table.c.fields).order_by(table.c.name)

        def work(connection: sa.Connection) -> tuple[Issuance, ...]:
            rows = connection.execute(listing, execution_options={"yield_per": 1000})
            return tuple(issuance_of(row.name, row.fields) for row in rows if row.fields)

        return self._read(work)

    def claim_issuance(
        self, name: str, holder: str, now: datetime.datetime, until: datetime.datetime
    ) -> Deferred[Issuance | None]:
        """Lease this name to `holder`: what is known of it, or None while another's lease has not run out.

        It has run out at its `until`.
        """
        return self._write(lambda connection: _claim(connection, name, holder, now, until))

    def release_issuance(self, issuance: Issuance, holder: str) -> Deferred[bool]:
        """Keep what is known now and end the lease; False, and nothing is kept, if it is not `holder`'s.

        A lease that has run out is still the holder's until another has claimed the name.
        """
        return self._write(lambda connection: _release(connection, issuance, holder))

    def delete_issuances(self, names: Sequence[str]) -> Deferred[None]:
        """Forget what is known of these; a lease goes on."""
        table = schema.issuances
        keys = [{"key": name} for name in dict.fromkeys(names)]
        named = table.c.name == sa.bindparam("key")

        def work(connection: sa.Connection) -> None:
            if keys:
                connection.execute(sa.delete(table).where(named, table.c.holder.is_(None)), keys)
                connection.execute(sa.update(table).where(named).values(fields={}), keys)

        return self._write(work)

    def spend_order(
        self, domain: str, name: str, now: datetime.datetime, since: datetime.datetime, most: int
    ) -> Deferred[datetime.datetime | None]:
        """Note an order, unless `most` other names of this domain were ordered after `since`.

        Then the moment of the oldest of those is the answer (`now`, where `most` is 0 and there is none).
        """
        return self._write(lambda connection: _spend(connection, domain, name, now, since, most))

    def ordered(
        self, domain: str, since: datetime.datetime
    ) -> Deferred[tuple[tuple[str, datetime.datetime], ...]]:
        """The names of this domain for which an order was noted after `since`, and when, the oldest first."""
        name, moment = schema.orders.c.name, schema.orders.c.ordered_at
        listing = sa.select(name, moment).where(schema.orders.c.domain == domain, moment > since)

        def work(connection: sa.Connection) -> tuple[tuple[str, datetime.datetime], ...]:
            return tuple(
                (row.name, row.ordered_at) for row in connection.execute(listing.order_by(moment, name))
            )

        return self._read(work)

    def challenges(self, now: datetime.datetime) -> Deferred[tuple[Challenge, ...]]:
        """All that have not expired by `now`, sorted by kind, name and token."""
        table = schema.challenges
        listing = sa.select(table).where(table.c.expires_at > now).order_by(*table.primary_key)

        def work(connection: sa.Connection) -> tuple[Challenge, ...]:
            return tuple(Challenge(**row._mapping) for row in connection.execute(listing))

        return self._read(work)

    def save_challenge(self, challenge: Challenge, now: datetime.datetime) -> Deferred[None]:
        """Insert or replace it by kind, name and token; forget those that have expired by `now`."""
        table = schema.challenges

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(table).where(sa.or_(table.c.expires_at <= now, _same(challenge))))
            connection.execute(sa.insert(table).values(row_of(challenge)))

        return self._write(work)

    def delete_challenge(self, challenge: Challenge) -> Deferred[None]:
        """Forget it, if it is there."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(schema.challenges).where(_same(challenge)))

        return self._write(work)


@attrs.frozen
class _Row:
    """What the table has of one name."""

    holder: str | None
    lease_until: datetime.datetime | None
    fields: dict[str, Any]

    def leased_to_another(self, holder: str, now: datetime.datetime) -> bool:
        if self.holder is None or self.lease_until is None:
            return False
        # One that lasts for longer was made by a clock that was wrong.
        return self.holder != holder and now < self.lease_until <= now + LONGEST_LEASE


def _row(connection: sa.Connection, name: str) -> _Row | None:
    table = schema.issuances
    found = connection.execute(
        sa.select(table.c.holder, table.c.lease_until, table.c.fields).where(table.c.name == name)
    ).one_or_none()
    return None if found is None else _Row(*found)


def _claim(
    connection: sa.Connection, name: str, holder: str, now: datetime.datetime, until: datetime.datetime
) -> Issuance | None:
    table = schema.issuances
    row = _row(connection, name)
    if row is None:
        lease = {"name": name, "holder": holder, "lease_until": until, "fields": {}}
        connection.execute(sa.insert(table).values(lease))
        return Issuance(name)
    if row.leased_to_another(holder, now):
        return None
    connection.execute(sa.update(table).where(table.c.name == name).values(holder=holder, lease_until=until))
    return issuance_of(name, row.fields)


def _release(connection: sa.Connection, issuance: Issuance, holder: str) -> bool:
    table = schema.issuances
    ours = sa.and_(table.c.name == issuance.name, table.c.holder == holder)
    fields = issuance_fields(issuance)
    if not fields:
        return bool(connection.execute(sa.delete(table).where(ours)).rowcount)
    kept = sa.update(table).where(ours).values(holder=None, lease_until=None, fields=fields)
    return bool(connection.execute(kept).rowcount)


def _spend(
    connection: sa.Connection,
    domain: str,
    name: str,
    now: datetime.datetime,
    since: datetime.datetime,
    most: int,
) -> datetime.datetime | None:
    table = schema.orders
    # Of other domains too: one that orders nothing any more would be kept for ever. So would what a clock has
    # noted that was wrong.
    moment, ours = table.c.ordered_at, table.c.domain == domain
    stale = sa.or_(moment <= now - LONGEST_WINDOW, moment > now + LONGEST_WINDOW)
    wrong = sa.or_(moment <= since, moment > now + (now - since))
    connection.execute(sa.delete(table).where(sa.or_(stale, sa.and_(ours, wrong))))
    others = sa.select(sa.func.count(), sa.func.min(table.c.ordered_at)).where(
        table.c.domain == domain, table.c.name != name
    )
    count, oldest = connection.execute(others).one()
    if count >= most:
        return oldest or now
    connection.execute(sa.delete(table).where(table.c.domain == domain, table.c.name == name))
    connection.execute(sa.insert(table).values(domain=domain, name=name, ordered_at=now))
    return None


def _same(challenge: Challenge) -> sa.ColumnElement[bool]:
    table = schema.challenges
    return sa.and_(
        table.c.kind == challenge.kind, table.c.name == challenge.name, table.c.token == challenge.token
    )
