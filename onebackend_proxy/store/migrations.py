"""Numbered steps from an empty database to the schema of this version.

A step never changes once it has been released, and never refers to `schema`, which moves on:
a database made by an old version goes through the very same steps. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from ..errors import SettingError
from .schema import TEXT, schema_version

Step = Callable[[sa.Connection], None]


def _first_schema(connection: sa.Connection) -> None:
    tables = sa.MetaData()
    moment = sa.DateTime(timezone=True)

    def text(name: str, primary_key: bool = False, **options: Any) -> sa.Column[str]:
        return sa.Column(name, TEXT, primary_key=primary_key, nullable=False, **options)

    sa.Table("routes", tables, text("id", True), text("target"))
    sa.Table(
        "redirects",
        tables,
        text("id", True),
        text("target"),
        sa.Column("status_code", sa.Integer, nullable=False),
    )
    sa.Table(
        "instances",
        tables,
        text("id", True),
        text("slug", index=True),
        text("url", unique=True),
        text("scheme"),
        text("host"),
        sa.Column("port", sa.Integer, nullable=False),
        text("ip"),
        text("path"),
        text("deployment_id"),
    )
    sa.Table(
        "accounts",
        tables,
        text("id", True),
        text("slug", unique=True),
        text("name"),
        text("password_hash"),
        sa.Column("roles", sa.JSON, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
    )
    sa.Table("apps", tables, text("id", True), text("host", unique=True))
    sa.Table(
        "tokens",
        tables,
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        text("id", unique=True),
        sa.Column("app_id", TEXT, sa.ForeignKey("apps.id"), nullable=False),
        sa.Column("account_id", TEXT, sa.ForeignKey("accounts.id"), nullable=False, index=True),
        text("device"),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("expires_at", moment, nullable=False),
    )
    sa.Table("secrets", tables, text("name", True), sa.Column("sealed", sa.LargeBinary, nullable=False))
    tables.create_all(connection, checkfirst=False)


def _certificates_and_journal(connection: sa.Connection) -> None:
    tables = sa.MetaData()

    def text(name: str, primary_key: bool = False) -> sa.Column[str]:
        return sa.Column(name, TEXT, primary_key=primary_key, nullable=False)

    def moment(name: str) -> sa.Column[Any]:
        return sa.Column(name, sa.DateTime(timezone=True), nullable=False)

    connection.exec_driver_sql("ALTER TABLE routes ADD COLUMN fields JSON DEFAULT '{}' NOT NULL")
    sa.Table(
        "certificates",
        tables,
        text("id", True),
        sa.Column("names", sa.JSON, nullable=False),
        text("chain"),
        sa.Column("sealed_key", sa.LargeBinary, nullable=False),
        text("common_name"),
        text("issuer"),
        text("serial"),
        moment("not_before"),
        moment("not_after"),
        moment("created_at"),
        moment("updated_at"),
    )
    sa.Table(
        "journal",
        tables,
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        text("kind"),
        sa.Column("record_id", TEXT, nullable=True),
    )
    tables.create_all(connection, checkfirst=False)


def _orders(connection: sa.Connection) -> None:
    tables = sa.MetaData()

    def text(name: str, primary_key: bool = False, nullable: bool = False) -> sa.Column[Any]:
        return sa.Column(name, TEXT, primary_key=primary_key, nullable=nullable)

    def moment(name: str, nullable: bool = False) -> sa.Column[Any]:
        return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)

    connection.exec_driver_sql("ALTER TABLE certificates ADD COLUMN directory TEXT DEFAULT '' NOT NULL")
    sa.Table(
        "issuances",
        tables,
        text("name", True),
        text("holder", nullable=True),
        moment("lease_until", nullable=True),
        sa.Column("fields", sa.JSON, nullable=False),
    )
    sa.Table("orders", tables, text("domain", True), text("name", True), moment("ordered_at"))
    sa.Table(
        "challenges",
        tables,
        text("kind", True),
        text("name", True),
        text("token", True),
        text("answer"),
        moment("expires_at"),
    )
    tables.create_all(connection, checkfirst=False)


MIGRATIONS: Sequence[Step] = (_first_schema, _certificates_and_journal, _orders)


def migrate(connection: sa.Connection, steps: Sequence[Step] = MIGRATIONS) -> None:
    """Take the steps that this database lacks; the caller's transaction makes them one change.

    A database that a newer version wrote is an `errors.SettingError`.
    """
    schema_version.create(connection, checkfirst=True)
    current = connection.scalar(sa.select(schema_version.c.version)) or 0
    if current > len(steps):
        raise SettingError(
            "the database in this folder was written by a newer version of the proxy"
            f" (schema {current}, this one knows {len(steps)})"
        )
    if current == len(steps):
        return
    for step in steps[current:]:
        step(connection)
    connection.execute(sa.delete(schema_version))
    connection.execute(sa.insert(schema_version).values(version=len(steps)))
