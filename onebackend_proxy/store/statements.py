"""What each call of `IStore` says to the database, whichever database and thread it is."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from twisted.internet.defer import Deferred

from ..errors import Conflict, NotFound, Unavailable
from ..records import MAX_APPS, Account, App, Certificate, Instance, Redirect, Route, Token
from . import schema
from .encryption import Vault
from .issuing import IssuingStatements
from .publishing import Change
from .rows import (
    CERTIFICATES,
    INSTANCES,
    REDIRECTS,
    ROUTES,
    Kind,
    all_of,
    certificate_with_key,
    delete,
    replace,
    replace_certificates,
    route_row,
    row_of,
    some_of,
)

_CHECK_NAME = "encryption-key-check"


def _account(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Account | None:
    row = connection.execute(sa.select(schema.accounts).where(condition)).mappings().one_or_none()
    return None if row is None else Account(**{**row, "roles": tuple(row["roles"])})


def _app(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> App | None:
    row = connection.execute(sa.select(schema.apps).where(condition)).mappings().one_or_none()
    return None if row is None else App(**row)


def _make_room_for_app(connection: sa.Connection, most: int) -> None:
    table = schema.apps
    count = sa.select(sa.func.count()).select_from(table)
    if (connection.scalar(count) or 0) < most:
        return
    connection.execute(sa.delete(table).where(table.c.id.not_in(sa.select(schema.tokens.c.app_id))))
    if (connection.scalar(count) or 0) >= most:
        raise Unavailable(f"there are {most} apps already, with logins to each")


class Statements(IssuingStatements):
    """The calls of `IStore`; a subclass says where and in what transaction they run."""

    max_apps = MAX_APPS

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def _delete(self, kind: Kind[Any], ids: Sequence[str]) -> Deferred[None]:
        ids = tuple(ids)

        def work(connection: sa.Connection) -> Change:
            delete(connection, kind, ids)
            return Change(kind, deleted=ids)

        return self._change(work)

    def routes(self) -> Deferred[tuple[Route, ...]]:
        """All routes."""
        return self._read(lambda connection: all_of(connection, ROUTES))

    def save_routes(self, routes: Sequence[Route]) -> Deferred[None]:
        """Insert or replace each route by its id."""
        saved = {route.id: route for route in routes}.values()

        def work(connection: sa.Connection) -> Change:
            replace(connection, schema.routes, [*map(route_row, saved)])
            return Change(ROUTES, tuple(saved))

        return self._change(work)

    def delete_routes(self, ids: Sequence[str]) -> Deferred[None]:
        """Delete all of these, or none and `errors.NotFound`."""
        return self._delete(ROUTES, ids)

    def change_routes(
        self,
        ids: Sequence[str],
        change: Callable[[Sequence[Route]], tuple[Sequence[Route], Sequence[str]]],
    ) -> Deferred[None]:
        """Save and delete what `change` makes of those of these routes that there are."""
        ids = tuple(ids)

        def work(connection: sa.Connection) -> Change:
            saved, deleted = change(some_of(connection, ROUTES, ids))
            replace(connection, schema.routes, [*map(route_row, saved)])
            delete(connection, ROUTES, deleted)
            return Change(ROUTES, tuple(saved), tuple(deleted))

        return self._change(work)

    def redirects(self) -> Deferred[tuple[Redirect, ...]]:
        """All redirects."""
        return self._read(lambda connection: all_of(connection, REDIRECTS))

    def save_redirects(self, redirects: Sequence[Redirect]) -> Deferred[None]:
        """Insert or replace each redirect by its id."""
        saved = {redirect.id: redirect for redirect in redirects}.values()

        def work(connection: sa.Connection) -> Change:
            replace(connection, schema.redirects, [*map(row_of, saved)])
            return Change(REDIRECTS, tuple(saved))

        return self._change(work)

    def delete_redirects(self, ids: Sequence[str]) -> Deferred[None]:
        """Delete all of these, or none and `errors.NotFound`."""
        return self._delete(REDIRECTS, ids)

    def instances(self) -> Deferred[tuple[Instance, ...]]:
        """All registered instances."""
        return self._read(lambda connection: all_of(connection, INSTANCES))

    def save_instance(self, instance: Instance) -> Deferred[None]:
        """Insert or replace by id; `errors.Conflict` if its url is held under another id."""
        table = schema.instances

        def work(connection: sa.Connection) -> Change:
            holder = connection.scalar(sa.select(table.c.id).where(table.c.url == instance.url))
            if holder not in (None, instance.id):
                raise Conflict(f"an instance with the url {instance.url} is registered under another id")
            replace(connection, table, [row_of(instance)])
            return Change(INSTANCES, (instance,))

        return self._change(work)

    def delete_instance(self, instance_id: str) -> Deferred[None]:
        """Delete it; `errors.NotFound` if there is none."""
        return self._delete(INSTANCES, [instance_id])

    def certificates(self) -> Deferred[tuple[Certificate, ...]]:
        """All certificates, without their private keys."""
        return self._read(lambda connection: all_of(connection, CERTIFICATES))

    def certificate(self, certificate_id: str) -> Deferred[Certificate | None]:
        """The certificate with this id, decrypted; `errors.SettingError` if another key encrypted it."""
        return self._read(lambda connection: certificate_with_key(connection, self._vault, certificate_id))

    def save_certificates(self, certificates: Sequence[Certificate]) -> Deferred[None]:
        """Insert or replace each by its id; what is there already keeps its `created_at`.

        ValueError, and none is saved, if one of them has no private key.
        """
        saved = tuple(certificates)

        def work(connection: sa.Connection) -> Change:
            return Change(CERTIFICATES, replace_certificates(connection, self._vault, saved))

        return self._change(work)

    def delete_certificates(self, ids: Sequence[str]) -> Deferred[None]:
        """Delete all of these, or none and `errors.NotFound`."""
        return self._delete(CERTIFICATES, ids)

    def account(self, slug: str) -> Deferred[Account | None]:
        """The account with this slug."""
        return self._read(lambda connection: _account(connection, schema.accounts.c.slug == slug))

    def account_by_id(self, account_id: str) -> Deferred[Account | None]:
        """The account with this id."""
        return self._read(lambda connection: _account(connection, schema.accounts.c.id == account_id))

    def create_account(self, account: Account) -> Deferred[None]:
        """Insert it; `errors.Conflict` if the slug (or the id) is taken."""
        table = schema.accounts

        def work(connection: sa.Connection) -> None:
            taken = sa.or_(table.c.slug == account.slug, table.c.id == account.id)
            if connection.scalar(sa.select(table.c.id).where(taken)) is not None:
                raise Conflict(f"the slug {account.slug} is taken")
            connection.execute(sa.insert(table).values({**row_of(account), "roles": list(account.roles)}))

        return self._write(work)

    def set_password(self, account_id: str, password_hash: str) -> Deferred[None]:
        """Replace the account's password hash and forget its tokens; `errors.NotFound` if it is not there."""
        table = schema.accounts
        statement = sa.update(table).where(table.c.id == account_id).values(password_hash=password_hash)

        def work(connection: sa.Connection) -> None:
            if not connection.execute(statement).rowcount:
                raise NotFound("no such account")
            connection.execute(sa.delete(schema.tokens).where(schema.tokens.c.account_id == account_id))

        return self._write(work)

    def app(self, host: str) -> Deferred[App]:
        """The app with this host, made now if there is none."""
        table = schema.apps

        def work(connection: sa.Connection) -> App:
            app = _app(connection, table.c.host == host)
            if app is None:
                _make_room_for_app(connection, self.max_apps)
                app = App(f"app-{uuid.uuid4().hex}", host)
                connection.execute(sa.insert(table).values(row_of(app)))
            return app

        return self._write(work)

    def app_by_id(self, app_id: str) -> Deferred[App | None]:
        """The app with this id."""
        return self._read(lambda connection: _app(connection, schema.apps.c.id == app_id))

    def save_token(
        self, token: Token, keep: int, expired_before: datetime.datetime | None = None
    ) -> Deferred[None]:
        """Insert it, and forget all but the account's `keep` newest, and what expired too long ago.

        `errors.NotFound` if there is no such account or app.
        """
        table = schema.tokens
        newest = (
            sa.select(table.c.number)
            .where(table.c.account_id == token.account_id)
            .order_by(table.c.number.desc())
            .limit(keep)
        )

        def work(connection: sa.Connection) -> None:
            if _account(connection, schema.accounts.c.id == token.account_id) is None:
                raise NotFound("no such account")
            if _app(connection, schema.apps.c.id == token.app_id) is None:
                raise NotFound("no such app")
            connection.execute(sa.insert(table).values(row_of(token)))
            old: sa.ColumnElement[bool] = table.c.number.not_in(newest)
            if expired_before is not None:
                old = sa.or_(old, table.c.expires_at < expired_before)
            connection.execute(sa.delete(table).where(table.c.account_id == token.account_id, old))

        return self._write(work)

    def token(self, token_id: str) -> Deferred[Token | None]:
        """The token with this id, expired or not; None once forgotten."""
        table = schema.tokens
        columns = [column for column in table.c if column.name != "number"]

        def work(connection: sa.Connection) -> Token | None:
            row = (
                connection.execute(sa.select(*columns).where(table.c.id == token_id)).mappings().one_or_none()
            )
            return None if row is None else Token(**row)

        return self._read(work)

    def count_tokens(self, account_id: str) -> Deferred[int]:
        """How many tokens of this account are kept."""
        table = schema.tokens
        count = sa.select(sa.func.count()).select_from(table).where(table.c.account_id == account_id)
        return self._read(lambda connection: connection.scalar(count) or 0)

    def secret(self, name: str) -> Deferred[bytes | None]:
        """The secret of this name, decrypted."""
        return self._read(lambda connection: _open_secret(connection, self._vault, name))

    def create_secret(self, name: str, value: bytes) -> Deferred[bytes]:
        """Keep it, encrypted, unless there is one of this name already; return the one kept."""
        return self._write(lambda connection: _keep_secret(connection, self._vault, name, value))

    def replace_secret(self, name: str, value: bytes) -> Deferred[None]:
        """Keep it, encrypted, in the place of one of this name."""
        table = schema.secrets

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(table).where(table.c.name == name))
            _insert_secret(connection, self._vault, name, value)

        return self._write(work)

    @staticmethod
    def check_vault(connection: sa.Connection, vault: Vault) -> None:
        """Find out whether the secrets in this database open, before anybody needs one."""
        _keep_secret(connection, vault, _CHECK_NAME, b"")


def _open_secret(connection: sa.Connection, vault: Vault, name: str) -> bytes | None:
    table = schema.secrets
    sealed = connection.scalar(sa.select(table.c.sealed).where(table.c.name == name))
    return None if sealed is None else vault.open(name, sealed)


def _keep_secret(connection: sa.Connection, vault: Vault, name: str, value: bytes) -> bytes:
    kept = _open_secret(connection, vault, name)
    if kept is not None:
        return kept
    _insert_secret(connection, vault, name, value)
    return value


def _insert_secret(connection: sa.Connection, vault: Vault, name: str, value: bytes) -> None:
    connection.execute(sa.insert(schema.secrets).values(name=name, sealed=vault.seal(name, value)))
