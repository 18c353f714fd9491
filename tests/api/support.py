"""A whole API in memory, called over real HTTP messages."""

from __future__ import annotations

import json
from typing import Any

import attrs
from treq.testing import StubTreq
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from onebackend_proxy.api import Accounts, built_in_services
from onebackend_proxy.api.tokens import TokenIssuer, new_signing_key
from onebackend_proxy.password_work import PasswordWork
from onebackend_proxy.passwords import Cost
from onebackend_proxy.registry.embedded import EmbeddedRegistry
from onebackend_proxy.testing import MemoryStore

CHEAP = Cost(ln=2)
# Making one takes long, and which one it is matters to no test.
SIGNING_KEY = new_signing_key()
START = 1_800_000_000
ADMIN_PASSWORD = "correct horse"


def cheap_work(**options: Any) -> PasswordWork:
    """Password hashing that costs nothing and is done at once."""
    return PasswordWork(maybeDeferred, CHEAP, **options)


def new_clock() -> Clock:
    clock = Clock()
    clock.advance(START)
    return clock


@attrs.frozen
class Reply:
    """An answer, all of it."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert list(self.json) == ["error"], self.json
        return self.json["error"]

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return None if values is None else ", ".join(values)


class Api:
    """The built-in services over a store (a `MemoryStore` unless another is given)."""

    def __init__(
        self,
        store: Any = None,
        *,
        services: Any = None,
        edge: Any = None,
        local_root: Any = None,
        issuing: Any = None,
        metrics: Any = None,
        in_thread: Any = maybeDeferred,
        **options: Any,
    ) -> None:
        self.clock = new_clock()
        self.store = MemoryStore() if store is None else store
        self.registry = EmbeddedRegistry(self.store)
        issuer = TokenIssuer(SIGNING_KEY, self.clock.seconds)
        work = options.pop("work", None) or cheap_work()
        in_use: Any = {"slug_in_use": lambda slug: self.registry.lookup(slug) is not None}
        self.accounts = Accounts(self.store, issuer, work, self.clock.seconds, **in_use, **options)
        self.address = "192.0.2.1"
        self.root = Resource()
        built_in = built_in_services(
            self.store,
            self.registry,
            self.accounts,
            lambda _request: self.address,
            services=services,
            edge=edge,
            local_root=local_root,
            issuing=issuing,
            metrics=metrics,
            seconds=self.clock.seconds,
            in_thread=in_thread,
        )
        for slug, resource in built_in.items():
            self.root.putChild(slug, resource)
        self.treq: Any = StubTreq(self.root)

    def start(self) -> Deferred[None]:
        """Make the admin account."""
        return Deferred.fromCoroutine(self.accounts.ensure_admin(ADMIN_PASSWORD))

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str = "", **options: Any
    ) -> Reply:
        """Send one request; `body` is JSON unless it is bytes already."""
        headers = options.pop("headers", {})
        if token:
            headers = {"Authorization": f"Bearer {token}", **headers}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        response = await self.treq.request(method, f"http://127.0.0.1{path}", headers=headers, data=data)
        content = await response.content()
        return Reply(response.code, response.headers, content)

    async def login(self, slug: str = "1backend", password: str = ADMIN_PASSWORD) -> str:
        """A token, through the API."""
        body = {"appHost": "unnamed", "slug": slug, "password": password}
        reply = await self.call("POST", "/user-svc/login", body)
        assert reply.status == 200, reply
        return reply.json["token"]["token"]

    async def register(self, slug: str) -> str:
        """A new account's token, through the API."""
        body = {"appHost": "unnamed", "slug": slug, "password": "password of it"}
        reply = await self.call("POST", "/user-svc/register", body, token=await self.login())
        assert reply.status == 200, reply
        return reply.json["token"]["token"]
