"""A whole ACME server whose every answer a test may spoil, and orders there that take no time.

It looks at proofs by HTTP as RFC 8555, 8.3, has it, and believes all others. What it does wrong is up to its
`hooks`, `token`, `chain` and `authorizations`; without them it is the good one that comes next.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import http.client
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import attrs
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from onebackend_proxy.records import Certificate, Issuance
from onebackend_proxy.tls.acme.orders import NoCertificate, Obtained, Orders
from onebackend_proxy.tls.challenges import HTTP_01, TLS_ALPN_01

from ..making import made, root
from .ordering import OrdersCase
from .pebbles import PebbleCase, reactor
from .scripted import Request, Scripted, reply

URN = "urn:ietf:params:acme:error:"


@attrs.define
class Said:
    """An answer before it is sent: each letter of its fields, such as ``replay_nonce``, becomes one byte."""

    document: Any = b""
    status: int = 200
    type: str = "application/json"
    fields: dict[str, str] = attrs.field(factory=dict)

    def sent(self) -> list[bytes]:
        """What goes over the wire."""
        head, body = reply(self.document, self.status, self.type, **self.fields)
        # In one piece: Nagle's algorithm would have the second wait for the client's late ACK of the first.
        return [head.decode().encode("latin-1") + body]


Hook = Callable[[Request, Said], object]
"""Spoils what would be said."""
Chain = Callable[[Any, str], str]
"""The chain in PEM for a key (what has `public_key()`) and the name that was ordered."""


def telling(**fields: str) -> Hook:
    """Also these header fields."""
    return lambda request, said: said.fields.update(fields)


def changing(**members: Any) -> Hook:
    """These members in the place of the document's own."""
    return lambda request, said: said.document.update(members)


def refusing(type: str, detail: str = "no", status: int = 400, **fields: str) -> Hook:
    """This problem."""

    def spoil(request: Request, said: Said) -> None:
        said.document = {"type": URN + type, "detail": detail}
        said.status, said.type = status, "application/problem+json"
        said.fields.pop("location", None)
        said.fields.update(fields)

    return spoil


def showing(page: bytes, status: int = 503, **fields: str) -> Hook:
    """What stands before the server answers: a page."""

    def spoil(request: Request, said: Said) -> None:
        said.document, said.status, said.type, said.fields = page, status, "text/html", fields

    return spoil


def honest_chain(key: Any, name: str) -> str:
    """What was ordered."""
    return made(name, key=key).chain


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@attrs.define
class _Ordered:
    name: str
    token: Any
    status: str = "pending"
    proof: str = "pending"
    request: Any = None


class Evil(Scripted):
    """The server; what it is asked is the first part of the path, and so are the names of its `hooks`:

    ``dir``, ``nonce``, ``account``, ``order`` (a new one), ``look`` (at an order), ``authorization``,
    ``challenge``, ``finalize`` and ``certificate``. `counts` says how often each was asked, `names` what was
    ordered, `proofs` whether what was found by HTTP was exactly what was due.
    """

    def __init__(self, http_port: int, **hooks: Hook) -> None:
        self.hooks = hooks
        self.token: Any = "t" * 43
        self.chain: Chain = honest_chain
        self.authorizations = 1
        self.counts: collections.Counter[str] = collections.Counter()
        self.names: list[str] = []
        self.proofs: list[bool] = []
        self._http_port = http_port
        self._orders: list[_Ordered] = []
        self._thumbprint = ""
        super().__init__(self._say)

    def _say(self, request: Request) -> list[bytes]:
        kind, *rest = request.path.removeprefix("/").split("/")
        self.counts[kind] += 1
        said: Said = getattr(self, f"say_{kind}")(request, *rest)
        if kind != "dir":
            said.fields.setdefault("replay_nonce", f"n{request.number}")
        hook = self.hooks.get(kind)
        if hook is not None:
            hook(request, said)
        return said.sent()

    def say_dir(self, request: Request) -> Said:
        return Said({"newNonce": "/nonce", "newAccount": "/account", "newOrder": "/order"})

    def say_nonce(self, request: Request) -> Said:
        return Said()

    def say_account(self, request: Request) -> Said:
        key = request.protected["jwk"]
        # RFC 7638, 3: only these, in this order, without spaces.
        text = json.dumps({part: key[part] for part in ("crv", "kty", "x", "y")}, separators=(",", ":"))
        self._thumbprint = _encoded(hashlib.sha256(text.encode()).digest())
        return Said({"status": "valid"}, 201, fields={"location": "/account/1"})

    def say_order(self, request: Request) -> Said:
        [identifier] = request.payload["identifiers"]
        self.names.append(identifier["value"])
        self._orders.append(_Ordered(identifier["value"], self.token))
        number = len(self._orders) - 1
        said = self.say_look(request, str(number))
        said.status, said.fields["location"] = 201, f"/look/{number}"
        return said

    def say_look(self, request: Request, number: str) -> Said:
        order = self._orders[int(number)]
        document = {
            "status": order.status,
            "identifiers": [{"type": "dns", "value": order.name}],
            "authorizations": [f"/authorization/{number}/{part}" for part in range(self.authorizations)],
            "finalize": f"/finalize/{number}",
        }
        if order.status == "valid":
            document["certificate"] = f"/certificate/{number}"
        return Said(document)

    def say_authorization(self, request: Request, number: str, part: str) -> Said:
        order = self._orders[int(number)]
        challenges = [self._offer(number, kind) for kind in (HTTP_01, TLS_ALPN_01)]
        identifier = {"type": "dns", "value": order.name}
        return Said({"status": order.proof, "identifier": identifier, "challenges": challenges})

    def _offer(self, number: str, kind: str) -> dict[str, Any]:
        order = self._orders[int(number)]
        url = f"/challenge/{number}/{kind}"
        return {"type": kind, "url": url, "token": order.token, "status": order.proof}

    def say_challenge(self, request: Request, number: str, kind: str) -> Said:
        order = self._orders[int(number)]
        if kind != HTTP_01 or self._is_proved(order):
            order.proof, order.status = "valid", "ready"
        else:
            order.proof = order.status = "invalid"
        return Said(self._offer(number, kind))

    def _is_proved(self, order: _Ordered) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._http_port, timeout=5)
        path = f"/.well-known/acme-challenge/{order.token}"
        try:
            connection.request("GET", path, headers={"Host": order.name})
            response = connection.getresponse()
            found = response.status, response.read()
        finally:
            connection.close()
        self.proofs.append(found == (200, f"{order.token}.{self._thumbprint}".encode()))
        return self.proofs[-1]

    def say_finalize(self, request: Request, number: str) -> Said:
        text = request.payload["csr"]
        order = self._orders[int(number)]
        order.request = x509.load_der_x509_csr(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        order.status = "valid"
        return self.say_look(request, number)

    def say_certificate(self, request: Request, number: str) -> Said:
        order = self._orders[int(number)]
        chain = self.chain(order.request, order.name)
        return Said(chain.encode(), type="application/pem-certificate-chain")


class EvilCase(OrdersCase):
    """Orders at `evil` and then at `good`, by `clock`, which goes on while an order waits, and only then."""

    timeout = 15

    @classmethod
    def setUpClass(cls):
        # No pebble: all that is used of it are its two ports, and whom it trusts.
        super(PebbleCase, cls).setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        ca_file = pathlib.Path(folder.name) / "ca.pem"
        ca_file.write_text(root().pem)
        ports = {"http_port": cls.held_port(), "tls_port": cls.held_port()}
        cls.pebble = cast(Any, SimpleNamespace(ca_file=ca_file, **ports))

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.clock = Clock()
        self.clock.advance(time.time())
        self.evil, self.good = self.server(), self.server()

    def server(self) -> Evil:
        """One more that nothing is wrong with yet."""
        server = Evil(self.pebble.http_port)
        server.__enter__()
        self.addCleanup(server.__exit__)
        return server

    def orders(
        self, *directories: str, kinds: Sequence[str] = (HTTP_01,), timeout: float = 10.0, **more: Any
    ) -> Orders:
        """As `OrdersCase.orders`, by the clock; at `evil` and then at `good` if nothing is said."""
        orders = super().orders(
            *(directories or (self.evil.directory, self.good.directory)), kinds=kinds, timeout=timeout, **more
        )
        # Not that of its accounts: their connections are real ones.
        orders._reactor = self.clock
        return orders

    def begun(self, name: str, orders: Orders | None = None) -> Deferred[Obtained]:
        """An order that stands still where it waits, until `ended` is called."""
        return Deferred.fromCoroutine(super().obtain(name, orders or self.orders()))

    async def ended(self, running: Deferred[Obtained]) -> Obtained:
        """What becomes of the order; its waits take no time."""
        while not running.called:
            # One is when the directory is given up: that is no wait.
            waits = sorted(call.getTime() for call in self.clock.getDelayedCalls())
            if len(waits) > 1:
                self.clock.advance(waits[0] - self.clock.seconds())
            await deferLater(reactor, 0.001)
        return await running

    async def obtain(
        self,
        name: str,
        orders: Orders | None = None,
        issuance: Issuance | None = None,
        previous: Certificate | None = None,
    ) -> Obtained:
        """As `OrdersCase.obtain`."""
        running = Deferred.fromCoroutine(super().obtain(name, orders or self.orders(), issuance, previous))
        return await self.ended(running)

    async def assert_next(self, name: str, orders: Orders | None = None) -> str:
        """It has ordered at `evil`, and has the certificate from `good`; what the log says of the first."""
        asked = len(self.evil.names)
        self.assertEqual((await self.obtain(name, orders)).directory, self.good.directory)
        self.assertEqual(self.evil.names[asked:], [name])
        start = f"{name} gets no certificate from {self.evil.directory}: "
        [words] = [line.removeprefix(start) for line in self.logged if line.startswith(start)]
        return words

    async def fails(self, name: str, orders: Orders) -> NoCertificate:
        """Nobody gives one."""
        error: NoCertificate = await self.refused(self.obtain(name, orders), NoCertificate)
        return error

    async def seen(self, found: Callable[[], object]) -> None:
        """Wait for what happens in a thread of a server."""
        while not found():
            await deferLater(reactor, 0.001)
