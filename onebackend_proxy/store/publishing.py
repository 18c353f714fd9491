"""What the store publishes, made in its own thread from what changed since it did so last.

Each transaction that changes records of a kind writes their ids into `schema.journal`, which is short. By it
another process finds what it has to read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import sqlalchemy as sa

from ..interfaces import Published
from ..routing import RouteTable
from . import schema
from .rows import CERTIFICATES, INSTANCES, REDIRECTS, ROUTES, Kind, all_of, some_of

JOURNAL = 10_000
"""Entries that the journal keeps: who missed more reads everything."""
MAX_ENTRIES = 1000
"""Records of one transaction that have an entry each: of more, the whole kind is read again."""
_MARK = "this connection"


@attrs.frozen
class Change:
    """What was done to the records of one kind; the certificates are without their keys."""

    kind: Kind[Any]
    saved: Sequence[Any] = ()
    deleted: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.saved or self.deleted)


@attrs.frozen(eq=False)
class Snapshot:
    """What is published, and the number of the last entry of the journal that it has.

    `seen` is SQLite's word for the state of the file, and the connection that said so: as long as that says
    the same, no other connection has changed anything.
    """

    published: Published
    number: int
    seen: tuple[object, int] | None = None

    def unseen(self) -> Snapshot:
        """The same, but the journal is to be looked at again."""
        return attrs.evolve(self, seen=None)

    def _with_part(self, name: str, part: Any) -> Snapshot:
        if part is getattr(self.published, name):
            return self
        return attrs.evolve(self, published=attrs.evolve(self.published, **{name: part}))

    def _changed(self, change: Change) -> Snapshot:
        name = change.kind.name
        return self._with_part(name, _PARTS[name].changed(getattr(self.published, name), change))


@attrs.frozen
class _Part:
    """One field of `Published`: how it is made of all records, and how it is after a change."""

    kind: Kind[Any]
    make: Callable[[Iterable[Any]], Any]
    changed: Callable[[Any, Change], Any]

    def read(self, connection: sa.Connection) -> Any:
        return self.make(all_of(connection, self.kind))


def _changed_table(table: RouteTable[Any], change: Change) -> RouteTable[Any]:
    return table.changed(change.saved, change.deleted)


def _changed_listing(listing: tuple[Any, ...], change: Change) -> tuple[Any, ...]:
    records = {record.id: record for record in listing}
    for key in change.deleted:
        records.pop(key, None)
    records.update((record.id, record) for record in change.saved)
    changed = tuple(records[key] for key in sorted(records))
    return listing if changed == listing else changed


_PARTS = {
    part.kind.name: part
    for part in (
        _Part(ROUTES, RouteTable, _changed_table),
        _Part(REDIRECTS, RouteTable, _changed_table),
        _Part(INSTANCES, tuple, _changed_listing),
        _Part(CERTIFICATES, tuple, _changed_listing),
    )
}


def looked_at_again(connection: sa.Connection, known: Snapshot | None) -> Snapshot:
    """What there is now; a part that did not change since `known` is the same object."""
    # Before all else that is read: if it came after, a change between the two would go unnoticed.
    version = connection.exec_driver_sql("PRAGMA data_version").scalar_one()
    seen = connection.info.setdefault(_MARK, object()), version
    if known is not None and known.seen == seen:
        return known
    now = _read(connection) if known is None else _caught_up(connection, known)
    return attrs.evolve(now, seen=seen)


def with_change(connection: sa.Connection, known: Snapshot | None, change: Change) -> Snapshot | None:
    """What there is once this transaction is committed, which made the change; the journal is told of it.

    It is None if nothing was known.
    """
    if not change:
        return known
    # Another process may have been there first, of which we have not heard yet.
    before = None if known is None else _caught_up(connection, known)
    number = _write_journal(connection, change)
    return None if before is None else attrs.evolve(before._changed(change), number=number)


def _read(connection: sa.Connection) -> Snapshot:
    parts = {name: part.read(connection) for name, part in _PARTS.items()}
    return Snapshot(Published(**parts), _last_number(connection))


def _caught_up(connection: sa.Connection, known: Snapshot) -> Snapshot:
    table = schema.journal
    later = sa.select(table).where(table.c.number > known.number).order_by(table.c.number)
    entries = connection.execute(later).all()
    if not entries:
        return known
    if entries[0].number != known.number + 1:
        return _read(connection)
    touched: dict[str, set[str]] = {}
    for entry in entries:
        touched.setdefault(entry.kind, set()).add(entry.record_id)
    now = attrs.evolve(known, number=entries[-1].number)
    for name, ids in touched.items():
        part = _PARTS[name]
        if None in ids:
            now = now._with_part(name, part.read(connection))
        else:
            # All that was touched goes, and what of it is there comes.
            there = some_of(connection, part.kind, [*ids])
            now = now._changed(Change(part.kind, there, [*ids]))
    return now


def _last_number(connection: sa.Connection) -> int:
    return connection.scalar(sa.select(sa.func.max(schema.journal.c.number))) or 0


def _write_journal(connection: sa.Connection, change: Change) -> int:
    """Returns the number of the last entry."""
    table = schema.journal
    ids: list[str | None] = [*(record.id for record in change.saved), *change.deleted]
    if len(ids) > MAX_ENTRIES:
        ids = [None]
    last = _last_number(connection)
    entries = [
        {"number": number, "kind": change.kind.name, "record_id": key}
        for number, key in enumerate(ids, start=last + 1)
    ]
    connection.execute(sa.insert(table), entries)
    connection.execute(sa.delete(table).where(table.c.number <= last + len(ids) - JOURNAL))
    return last + len(ids)
