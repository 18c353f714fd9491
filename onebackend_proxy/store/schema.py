"""The tables as they are now. `migrations` says how a database gets here.

Only types that SQLite and PostgreSQL share; text sorts by code point on both.
"""

from __future__ import annotations

import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

metadata = sa.MetaData()

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


class UtcDateTime(sa.TypeDecorator[datetime.datetime]):
    """An aware datetime, kept in UTC; SQLite itself would forget the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Any) -> datetime.datetime | None:
        """Turn any zone into UTC, which is then left out where the database keeps none."""
        return None if value is None else value.astimezone(datetime.UTC)

    def process_result_value(self, value: datetime.datetime | None, dialect: Any) -> datetime.datetime | None:
        """Put the zone back."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=datetime.UTC)


def _text(name: str, **options: Any) -> sa.Column[str]:
    return sa.Column(name, TEXT, nullable=False, **options)


schema_version = sa.Table(
    "schema_version",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)

# Which records were saved or deleted last, in the other tables that are published: `publishing` reads it.
journal = sa.Table(
    "journal",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    _text("kind"),
    sa.Column("record_id", TEXT, nullable=True),
)

# `fields` are all the others of a Route that are not as by default, so that a new one needs no new column.
routes = sa.Table(
    "routes",
    metadata,
    _text("id", primary_key=True),
    _text("target"),
    sa.Column("fields", sa.JSON, nullable=False, server_default=sa.text("'{}'")),
)

redirects = sa.Table(
    "redirects",
    metadata,
    _text("id", primary_key=True),
    _text("target"),
    sa.Column("status_code", sa.Integer, nullable=False),
)

instances = sa.Table(
    "instances",
    metadata,
    _text("id", primary_key=True),
    _text("slug", index=True),
    _text("url", unique=True),
    _text("scheme"),
    _text("host"),
    sa.Column("port", sa.Integer, nullable=False),
    _text("ip"),
    _text("path"),
    _text("deployment_id"),
)

certificates = sa.Table(
    "certificates",
    metadata,
    _text("id", primary_key=True),
    sa.Column("names", sa.JSON, nullable=False),
    _text("chain"),
    sa.Column("sealed_key", sa.LargeBinary, nullable=False),
    _text("common_name"),
    _text("issuer"),
    _text("serial"),
    *(
        sa.Column(name, UtcDateTime, nullable=False)
        for name in ("not_before", "not_after", "created_at", "updated_at")
    ),
    _text("directory", server_default=""),
)

# `fields` is what is known of a name's orders, as in `routes`; it is empty where there is only a lease.
issuances = sa.Table(
    "issuances",
    metadata,
    _text("name", primary_key=True),
    sa.Column("holder", TEXT, nullable=True),
    sa.Column("lease_until", UtcDateTime, nullable=True),
    sa.Column("fields", sa.JSON, nullable=False),
)

# The last order for each name, for as long as it counts among those of its registered domain.
orders = sa.Table(
    "orders",
    metadata,
    _text("domain", primary_key=True),
    _text("name", primary_key=True),
    sa.Column("ordered_at", UtcDateTime, nullable=False),
)

challenges = sa.Table(
    "challenges",
    metadata,
    _text("kind", primary_key=True),
    _text("name", primary_key=True),
    _text("token", primary_key=True),
    _text("answer"),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)

accounts = sa.Table(
    "accounts",
    metadata,
    _text("id", primary_key=True),
    _text("slug", unique=True),
    _text("name"),
    _text("password_hash"),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)

apps = sa.Table("apps", metadata, _text("id", primary_key=True), _text("host", unique=True))

# `number` tells newer from older where two tokens were made within one second.
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    _text("id", unique=True),
    sa.Column("app_id", TEXT, sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("account_id", TEXT, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    _text("device"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)

secrets = sa.Table(
    "secrets",
    metadata,
    _text("name", primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)
