"""Orders at real pebbles, whose challenges the real port 80 and the real TLS endpoint answer."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import socket
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.web.resource import Resource
from twisted.web.server import Site

from onebackend_proxy.downstream import ProxySite
from onebackend_proxy.downstream.edge import EdgeResource, PlainEdge
from onebackend_proxy.downstream.resources import Desk
from onebackend_proxy.edge_certificates import EdgeCertificates
from onebackend_proxy.exchange import Exchanges
from onebackend_proxy.interfaces import Published
from onebackend_proxy.records import Certificate, Issuance, Route
from onebackend_proxy.store import Vault, open_sqlite
from onebackend_proxy.tls.acme.accounts import Accounts
from onebackend_proxy.tls.acme.client import AcmeClient, trust_roots
from onebackend_proxy.tls.acme.orders import Obtained, Orders
from onebackend_proxy.tls.acme.responders import StoredResponder
from onebackend_proxy.tls.certificates import read_bundle
from onebackend_proxy.tls.challenges import HTTP_01, TLS_ALPN_01
from tests.pebble import Pebble, start_pebble

from .pebbles import PebbleCase, reactor


class Edge:
    """A store on the disk, and the two ports that prove names by what is in it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.store = open_sqlite(folder / "proxy.sqlite", Vault("secret"), reactor)
        self.certificates = EdgeCertificates(self.store, folder, reactor)
        self._edge = EdgeResource(Desk(Exchanges(reactor, cast(Any, None))), cast(Any, None), Resource())
        self._ports: list[Any] = []

    async def start(self) -> None:
        """Follow the store."""

        def publish(published: Published) -> None:
            self._edge.publish(published)
            self.certificates.publish(published)

        await self.store.follow(publish)

    async def listen_http(self, port: int) -> None:
        """Answer HTTP-01 there."""
        plain = PlainEdge(
            self._edge, lambda host, token: self.certificates.challenges.find(HTTP_01, host, token)
        )
        self._ports.append(reactor.listenTCP(port, ProxySite(plain, reactor), interface="127.0.0.1"))

    async def listen_tls(self, port: int) -> None:
        """Answer TLS-ALPN-01 there."""
        plain = TCP4ServerEndpoint(reactor, port, interface="127.0.0.1")
        self._ports.append(await self.certificates.endpoint(plain).listen(Site(Resource())))

    async def silence(self) -> None:
        """From now on nobody listens."""
        ports, self._ports = self._ports, []
        for port in ports:
            await port.stopListening()

    async def stop(self) -> None:
        """Let go of everything."""
        await self.silence()
        self.certificates.stop()
        await self.store.close()


@attrs.frozen
class Asked:
    """An order as it was asked for, whatever became of it."""

    url: str
    names: tuple[str, ...]
    profile: str
    replaces: str


class OrdersCase(PebbleCase):
    """A pebble for the tests of a class, which looks for proofs where the `edge` of each may listen.

    `asked` are the orders that were asked for, and `answered` the kinds of the challenges that were answered.
    """

    options = {"always_valid": False}
    http = True
    tls = True

    @classmethod
    def setUpClass(cls):
        cls.options = {**cls.options, "http_port": cls.held_port(), "tls_port": cls.held_port()}
        super().setUpClass()

    @classmethod
    def held_port(cls) -> int:
        """A port that nobody but we may listen at, from one test of the class to the next."""
        held = socket.socket()
        cls.addClassCleanup(held.close)
        # Linux lets another one with this option listen there, as long as this one does not.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port

    @classmethod
    def another_pebble(cls, **options: Any) -> Pebble:
        """One more for all tests of the class, which looks for proofs at the same ports."""
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = {"http_port": cls.pebble.http_port, "tls_port": cls.pebble.tls_port}
        return stack.enter_context(start_pebble(folder, **{**ports, **options}))

    async def setUp(self) -> None:  # type: ignore[override]
        folder = pathlib.Path(self.mktemp())
        folder.mkdir(parents=True)
        self.edge = Edge(folder)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.edge.stop()))
        await self.edge.start()
        if self.http:
            await self.edge.listen_http(self.pebble.http_port)
        if self.tls:
            await self.edge.listen_tls(self.pebble.tls_port)
        self.store = self.edge.store
        self.asked: list[Asked] = []
        self.answered: list[str] = []
        self._spy()
        self.logged: list[str] = []
        observer = cast(ILogObserver, lambda event: self.logged.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _spy(self) -> None:
        order = AcmeClient.order

        async def noted(client: AcmeClient, names: Any, profile: str = "", replaces: str = "") -> Any:
            self.asked.append(Asked(client.url, tuple(names), profile, replaces))
            return await order(client, names, profile, replaces)

        self.patch(AcmeClient, "order", noted)
        start = StoredResponder.start_responding

        def answering(responder: StoredResponder, *what: Any) -> Deferred[None]:
            self.answered.append(responder.challenge_type)
            return start(responder, *what)

        self.patch(StoredResponder, "start_responding", answering)

    def orders(
        self,
        *directories: str,
        kinds: Sequence[str] = (HTTP_01, TLS_ALPN_01),
        timeout: float = 10.0,
        wrap: Callable[[Any], Any] = lambda responder: responder,
        ca_file: pathlib.Path | None = None,
        **more: Any,
    ) -> Orders:
        """Orders at these, or at the class's pebble; `wrap` may put something before each responder."""
        trust = trust_roots(ca_file or self.pebble.ca_file)
        accounts = Accounts(self.store, reactor, trust=trust, timeout=timeout)
        self.addCleanup(accounts.close)
        challenges = self.edge.certificates.challenges
        responders = [wrap(StoredResponder(kind, challenges, reactor.seconds)) for kind in kinds]
        return Orders(reactor, accounts, directories or (self.pebble.directory,), responders, **more)

    async def obtain(
        self,
        name: str,
        orders: Orders | None = None,
        issuance: Issuance | None = None,
        previous: Certificate | None = None,
    ) -> Obtained:
        """A certificate for this name, which has a Route; whatever becomes of it, no challenge stays."""
        await self.store.save_routes([Route(name, "http://127.0.0.1:1")])
        try:
            return await (orders or self.orders()).obtain(name, issuance or Issuance(name), previous)
        finally:
            self.assertEqual(await self.challenges(), ())

    async def challenges(self) -> tuple[Any, ...]:
        """Those in the store."""
        found: tuple[Any, ...] = await self.store.challenges(datetime.datetime.now(datetime.UTC))
        return found


def kept(obtained: Obtained, name: str) -> Certificate:
    """The record of what was obtained."""
    certificate = read_bundle(obtained.key + obtained.chain, datetime.datetime.now(datetime.UTC), id=name)
    return attrs.evolve(certificate, directory=obtained.directory)
