"""Public fakes, for tests of this program and of programs that embed it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import TypeVar

import attrs
from twisted.internet import defer
from twisted.internet.defer import Deferred
from zope.interface import implementer

from .errors import Conflict, NotFound, ProxyError, StoreUnavailable
from .interfaces import IStore
from .records import Account, App, Instance, Redirect, Route, Token

T = TypeVar("T")
R = TypeVar("R", Route, Redirect, Instance)


def _sorted(records: MutableMapping[str, R]) -> tuple[R, ...]:
    return tuple(records[key] for key in sorted(records))


def _delete(records: MutableMapping[str, R], what: str, ids: Iterable[str]) -> None:
    wanted = tuple(dict.fromkeys(ids))
    for key in wanted:
        if key not in records:
            raise NotFound(f"no such {what}: {key}")
    for key in wanted:
        del records[key]


@implementer(IStore)
class MemoryStore:
    """An `IStore` that forgets all with the process, and answers at once.

    While `failure` is set, every call fails with it: a store that is locked, say.
    """

    def __init__(self) -> None:
        self.failure: ProxyError | None = None
        self._routes: dict[str, Route] = {}
        self._redirects: dict[str, Redirect] = {}
        self._instances: dict[str, Instance] = {}
        self._accounts: dict[str, Account] = {}
        self._apps: dict[str, App] = {}
        self._tokens: dict[str, Token] = {}
        self._secrets: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._routes)} routes, {len(self._instances)} instances>"

    def _do(self, work: Callable[[], T]) -> Deferred[T]:
        if self.failure is not None:
            return defer.fail(self.failure)
        return defer.execute(work)

    def routes(self) -> Deferred[tuple[Route, ...]]:
        """All routes."""
        return self._do(lambda: _sorted(self._routes))

    def save_routes(self, routes: Sequence[Route]) -> Deferred[None]:
        """Insert or replace each route by its id."""
        return self._do(lambda: self._routes.update((route.id, route) for route in routes))

    def delete_routes(self, ids: Sequence[str]) -> Deferred[None]:
        """Delete all of these, or none and `errors.NotFound`."""
        return self._do(lambda: _delete(self._routes, "route", ids))

    def redirects(self) -> Deferred[tuple[Redirect, ...]]:
        """All redirects."""
        return self._do(lambda: _sorted(self._redirects))

    def save_redirects(self, redirects: Sequence[Redirect]) -> Deferred[None]:
        """Insert or replace each redirect by its id."""
        return self._do(lambda: self._redirects.update((redirect.id, redirect) for redirect in redirects))

    def delete_redirects(self, ids: Sequence[str]) -> Deferred[None]:
        """Delete all of these, or none and `errors.NotFound`."""
        return self._do(lambda: _delete(self._redirects, "redirect", ids))

    def instances(self) -> Deferred[tuple[Instance, ...]]:
        """All registered instances."""
        return self._do(lambda: _sorted(self._instances))

    def save_instance(self, instance: Instance) -> Deferred[None]:
        """Insert or replace by id; `errors.Conflict` if its url is held under another id."""

        def work() -> None:
            for other in self._instances.values():
                if other.url == instance.url and other.id != instance.id:
                    raise Conflict(f"an instance with the url {other.url} is registered under another id")
            self._instances[instance.id] = instance

        return self._do(work)

    def delete_instance(self, instance_id: str) -> Deferred[None]:
        """Delete it; `errors.NotFound` if there is none."""
        return self._do(lambda: _delete(self._instances, "instance", [instance_id]))

    def account(self, slug: str) -> Deferred[Account | None]:
        """The account with this slug."""
        return self._do(lambda: next((a for a in self._accounts.values() if a.slug == slug), None))

    def account_by_id(self, account_id: str) -> Deferred[Account | None]:
        """The account with this id."""
        return self._do(lambda: self._accounts.get(account_id))

    def create_account(self, account: Account) -> Deferred[None]:
        """Insert it; `errors.Conflict` if the slug (or the id) is taken."""

        def work() -> None:
            if any(account.slug == a.slug or account.id == a.id for a in self._accounts.values()):
                raise Conflict(f"the slug {account.slug} is taken")
            self._accounts[account.id] = account

        return self._do(work)

    def set_password(self, account_id: str, password_hash: str) -> Deferred[None]:
        """Replace the account's password hash; `errors.NotFound` if there is no such account."""

        def work() -> None:
            if account_id not in self._accounts:
                raise NotFound("no such account")
            account = self._accounts[account_id]
            self._accounts[account_id] = attrs.evolve(account, password_hash=password_hash)

        return self._do(work)

    def app(self, host: str) -> Deferred[App]:
        """The app with this host, made now if there is none."""

        def work() -> App:
            for app in self._apps.values():
                if app.host == host:
                    return app
            app = App(f"app-{uuid.uuid4().hex}", host)
            self._apps[app.id] = app
            return app

        return self._do(work)

    def app_by_id(self, app_id: str) -> Deferred[App | None]:
        """The app with this id."""
        return self._do(lambda: self._apps.get(app_id))

    def save_token(self, token: Token, keep: int) -> Deferred[None]:
        """Insert it, and forget all but the account's `keep` newest.

        `errors.NotFound` if there is no such account or app.
        """

        def work() -> None:
            if token.account_id not in self._accounts:
                raise NotFound("no such account")
            if token.app_id not in self._apps:
                raise NotFound("no such app")
            self._tokens[token.id] = token
            for old in self._tokens_of(token.account_id)[:-keep]:
                del self._tokens[old.id]

        return self._do(work)

    def _tokens_of(self, account_id: str) -> list[Token]:
        return [token for token in self._tokens.values() if token.account_id == account_id]

    def token(self, token_id: str) -> Deferred[Token | None]:
        """The token with this id, expired or not; None once forgotten."""
        return self._do(lambda: self._tokens.get(token_id))

    def count_tokens(self, account_id: str) -> Deferred[int]:
        """How many tokens of this account are kept."""
        return self._do(lambda: len(self._tokens_of(account_id)))

    def secret(self, name: str) -> Deferred[bytes | None]:
        """The secret of this name."""
        return self._do(lambda: self._secrets.get(name))

    def create_secret(self, name: str, value: bytes) -> Deferred[bytes]:
        """Keep it unless there is one of this name already; return the one kept."""
        return self._do(lambda: self._secrets.setdefault(name, value))

    def close(self) -> Deferred[None]:
        """After this every call fails with `errors.StoreUnavailable`; closing again does nothing."""
        self.failure = StoreUnavailable("the store is closed")
        return defer.succeed(None)
