"""Records as rows, and back."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import attrs
import sqlalchemy as sa
from cattrs import Converter

from ..errors import NotFound
from ..records import Certificate, Instance, Issuance, Redirect, Route
from . import schema
from .encryption import Vault

R = TypeVar("R", Route, Redirect, Instance, Certificate)

# It leaves out what is as by default, and overlooks what it does not know: a later version's fields, say.
_fields = Converter(omit_if_default=True, detailed_validation=False)
_fields.register_unstructure_hook(
    datetime.datetime, lambda moment: moment.astimezone(datetime.UTC).isoformat()
)
_fields.register_structure_hook(datetime.datetime, lambda text, _: datetime.datetime.fromisoformat(text))


@attrs.frozen
class Kind(Generic[R]):
    """One kind of record that is published: the name of its table, and of its part of `Published`.

    `what` is one of them in an error, `columns` are those that a listing needs, and `of` makes the record.
    """

    name: str
    what: str
    table: sa.Table
    of: Callable[[Any], R]
    columns: Sequence[sa.Column[Any]] = attrs.field()

    @columns.default
    def _all_columns(self) -> Sequence[sa.Column[Any]]:
        return tuple(self.table.columns)


def row_of(record: Any) -> dict[str, Any]:
    """The row of a record whose fields are the columns."""
    return attrs.asdict(record, recurse=False)


def route_row(route: Route) -> dict[str, Any]:
    """The row of a Route."""
    fields = _fields.unstructure(route)
    target = fields.pop("target", "")
    return {"id": fields.pop("id"), "target": target, "fields": fields}


def _route(row: Any) -> Route:
    key, target, fields = row
    if fields:
        return _fields.structure({**fields, "id": key, "target": target}, Route)
    return Route(key, target)


def issuance_fields(issuance: Issuance) -> dict[str, Any]:
    """All but its name that is not as by default, fit for JSON: empty where nothing is known."""
    fields: dict[str, Any] = _fields.unstructure(issuance)
    del fields["name"]
    return fields


def issuance_of(name: str, fields: dict[str, Any]) -> Issuance:
    """The way back from `issuance_fields`."""
    return _fields.structure({**fields, "name": name}, Issuance)


def _listed_certificate(row: Any) -> Certificate:
    return Certificate(**{**row._mapping, "names": tuple(row.names), "private_key": ""})


ROUTES = Kind("routes", "route", schema.routes, _route)
REDIRECTS = Kind("redirects", "redirect", schema.redirects, lambda row: Redirect(*row))
INSTANCES = Kind("instances", "instance", schema.instances, lambda row: Instance(**row._mapping))
CERTIFICATES = Kind(
    "certificates",
    "certificate",
    schema.certificates,
    _listed_certificate,
    [column for column in schema.certificates.columns if column.name != "sealed_key"],
)


def all_of(connection: sa.Connection, kind: Kind[R]) -> tuple[R, ...]:
    """All records of a kind, sorted by id."""
    listing = sa.select(*kind.columns).order_by(kind.table.c.id)
    # In small lots: SQLAlchemy lets no other thread run while it decodes one.
    rows = connection.execute(listing, execution_options={"yield_per": 1000})
    return tuple(map(kind.of, rows))


def some_of(connection: sa.Connection, kind: Kind[R], ids: Sequence[str]) -> tuple[R, ...]:
    """Those records of a kind that are there, of at most some thousand ids."""
    rows = connection.execute(sa.select(*kind.columns).where(kind.table.c.id.in_(ids)))
    return tuple(map(kind.of, rows))


def replace(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert or replace these rows, of which no two have the same id."""
    # Delete and insert is the one spelling of "insert or replace" that every database shares.
    if rows:
        keys = [{"key": row["id"]} for row in rows]
        connection.execute(sa.delete(table).where(table.c.id == sa.bindparam("key")), keys)
        connection.execute(sa.insert(table), list(rows))


def delete(connection: sa.Connection, kind: Kind[Any], ids: Iterable[str]) -> None:
    """Delete all of these; `errors.NotFound`, which is to end the transaction, if one is not there."""
    for key in dict.fromkeys(ids):
        # The error leaves the transaction, which takes the earlier deletions back.
        if not connection.execute(sa.delete(kind.table).where(kind.table.c.id == key)).rowcount:
            raise NotFound(f"no such {kind.what}: {key}")


def replace_certificates(
    connection: sa.Connection, vault: Vault, certificates: Iterable[Certificate]
) -> tuple[Certificate, ...]:
    """Insert or replace these, with their keys sealed; returns them as they are listed from now on.

    ValueError, which is to end the transaction, if one has no key: it was read from a listing, and saving it
    would lose the key that there is.
    """
    table = schema.certificates
    kept: list[Certificate] = []
    rows: list[dict[str, Any]] = []
    for certificate in {each.id: each for each in certificates}.values():
        if not certificate.private_key:
            raise ValueError(f"the certificate {certificate.id} is without its private key")
        created = connection.scalar(sa.select(table.c.created_at).where(table.c.id == certificate.id))
        sealed = vault.seal(_key_name(certificate.id), certificate.private_key.encode())
        listed = attrs.evolve(certificate, private_key="", created_at=created or certificate.created_at)
        row = row_of(listed)
        del row["private_key"]
        rows.append({**row, "names": list(listed.names), "sealed_key": sealed})
        kept.append(listed)
    replace(connection, table, rows)
    return tuple(kept)


def certificate_with_key(connection: sa.Connection, vault: Vault, key: str) -> Certificate | None:
    """The certificate with this id; `errors.SettingError` if its key was sealed under another key."""
    table = schema.certificates
    row = connection.execute(sa.select(table).where(table.c.id == key)).one_or_none()
    if row is None:
        return None
    fields = {**row._mapping, "names": tuple(row.names)}
    private_key = vault.open(_key_name(key), fields.pop("sealed_key")).decode()
    return Certificate(**fields, private_key=private_key)


def _key_name(certificate_id: str) -> str:
    return f"certificate {certificate_id}"
