"""What the store publishes, made in its own thread: from the change, or from the tables that changed.

Each transaction that changes a kind of record counts on in `schema.revisions`, so that another process
can tell what it has to read anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import sqlalchemy as sa

from ..interfaces import Published
from ..routing import RouteTable
from . import schema
from .rows import CERTIFICATES, INSTANCES, REDIRECTS, ROUTES, Kind, all_of

_MARK = "this connection"


@attrs.frozen
class Change:
    """What one transaction did to the records of one kind; the certificates are without their keys."""

    kind: Kind[Any]
    saved: Sequence[Any] = ()
    deleted: Sequence[str] = ()


@attrs.frozen(eq=False)
class Snapshot:
    """What is published, and the revision of each part.

    `seen` is SQLite's word for the state of the file, and the connection that said so: as long as that says
    the same, no other connection has changed anything.
    """

    published: Published
    revisions: Mapping[str, int]
    seen: tuple[object, int] | None = None

    def unseen(self) -> Snapshot:
        """The same, but the revisions are to be looked at again."""
        return attrs.evolve(self, seen=None)

    def _with(self, parts: Mapping[str, Any], **changes: Any) -> Snapshot:
        same = all(getattr(self.published, name) is part for name, part in parts.items())
        published = self.published if same else attrs.evolve(self.published, **parts)
        return attrs.evolve(self, published=published, **changes)


@attrs.frozen
class _Part:
    """One field of `Published`: how it is read, and how it is with a change."""

    kind: Kind[Any]
    make: Callable[[Sequence[Any]], Any]
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
    """What there is now; what did not change since `known` is not read again, and is the same object."""
    # Before all else that is read: if it came after, a change between the two would go unnoticed.
    version = connection.exec_driver_sql("PRAGMA data_version").scalar_one()
    seen = connection.info.setdefault(_MARK, object()), version
    if known is not None and known.seen == seen:
        return known
    table = schema.revisions
    revisions = {row.kind: row.number for row in connection.execute(sa.select(table.c.kind, table.c.number))}
    if known is None:
        parts = {name: part.read(connection) for name, part in _PARTS.items()}
        return Snapshot(Published(**parts), revisions, seen)
    stale = [name for name in _PARTS if revisions[name] != known.revisions[name]]
    parts = {name: _PARTS[name].read(connection) for name in stale}
    return known._with(parts, revisions=revisions, seen=seen)


def with_change(connection: sa.Connection, known: Snapshot, change: Change, revision: int) -> Snapshot:
    """What there is once this transaction is committed, which made the change and this revision."""
    name = change.kind.name
    part = _PARTS[name]
    if known.revisions[name] == revision - 1:
        now = part.changed(getattr(known.published, name), change)
    else:
        # Another process was there first, and we have not heard of that yet.
        now = part.read(connection)
    return known._with({name: now}, revisions={**known.revisions, name: revision})


def count_on(connection: sa.Connection, change: Change) -> int:
    """Make the next revision of what changed, as a part of the same transaction."""
    table = schema.revisions
    mine = table.c.kind == change.kind.name
    connection.execute(sa.update(table).where(mine).values(number=table.c.number + 1))
    number: int = connection.execute(sa.select(table.c.number).where(mine)).scalar_one()
    return number
