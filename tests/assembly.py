"""The whole program on a reactor in memory, its store and accounts too; only sockets are missing."""

from __future__ import annotations

import pathlib
import socket
from typing import Any, cast
from unittest.mock import Mock

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.tcp import Port as PlainPort
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy import ProxyService, Settings, proxy
from onebackend_proxy.api import Accounts
from onebackend_proxy.listening import ListeningService
from onebackend_proxy.testing import MemoryStore

from .conformance import Client
from .wire import Wire


class Port(PlainPort):
    """A port that says whether it accepts connections, and has a socket of no use."""

    def __init__(self, address: Any, factory: Any = None) -> None:
        self.address = address
        self.factory = factory
        self.reading = True
        self.closed = False
        self.socket = socket.socket(socket.AF_UNIX)

    def fileno(self) -> int:
        return self.socket.fileno()

    def doRead(self) -> None:
        """Nobody is waiting."""

    def getHost(self) -> Any:
        return self.address

    def startReading(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def stopListening(self, connDone: Any = None) -> Any:
        self.closed = True


class Reactor(MemoryReactorClock):
    """A reactor whose ports are `Port`; opening one of the `failures` (by number) fails so."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []
        self.failures: dict[int, OSError] = {}
        self.stops = 0
        self.hooks: list[tuple[Any, ...]] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if port in self.failures:
            raise CannotListenError(interface, port, self.failures[port])
        kind = IPv6Address if ":" in interface else IPv4Address
        self.ports.append(Port(kind("TCP", interface or "0.0.0.0", port), factory))
        return self.ports[-1]

    def addSystemEventTrigger(self, phase: str, eventType: str, callable: Any, *args: Any, **kw: Any) -> None:
        self.hooks.append((phase, eventType, callable, *args))

    def callFromThread(self, call: Any, *args: Any, **kw: Any) -> None:
        call(*args, **kw)

    def stop(self) -> None:
        self.stops += 1


class AssemblyTests(SynchronousTestCase):
    """A proxy over a store in memory, with accounts that need no threads."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.store = MemoryStore()
        self.folder = pathlib.Path(self.mktemp())
        self.settings = Settings(folder=self.folder, access_log=self.mktemp(), acme_directories=())
        self.accounts = Mock(spec=Accounts)
        self.passwords: list[str] = []
        self.hashing: Deferred[None] | None = None
        self.opened: list[dict[str, Any]] = []
        self.logged: list[str] = []

        async def ensure_admin(password: str) -> None:
            self.passwords.append(password)
            if self.hashing is not None:
                await self.hashing

        async def open_accounts(store: object, seconds: object, **options: Any) -> Accounts:
            assert store is self.store
            self.opened.append(options)
            await self.store.secret("signing-key")
            return cast(Accounts, self.accounts)

        self.accounts.ensure_admin = ensure_admin
        self.patch(proxy, "open_accounts", open_accounts)
        self.patch(proxy, "open_sqlite", lambda path, vault, reactor: self.store)
        observer = cast(ILogObserver, lambda event: self.logged.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def started(self, **changes: Any) -> tuple[ProxyService, ListeningService]:
        """Both services, privileges taken and given up."""
        made = ProxyService(attrs.evolve(self.settings, **changes), self.reactor)
        listening = ListeningService(made, self.reactor)
        made.privilegedStartService()
        listening.privilegedStartService()
        made.startService()
        listening.startService()
        return made, listening

    def connect(self, listening: ListeningService, number: int = 0) -> Client:
        """A client of the site with this number: the service side's, then those of the edge."""
        wire = Wire(self.reactor)
        wire.attach(listening.sites[number].buildProtocol(wire.getPeer()))
        return Client(self.reactor, wire)

    def upstream(self) -> Wire:
        """Let the longest waiting connection to an instance succeed."""
        _host, _port, factory, _timeout, _bind = self.reactor.tcpClients.pop(0)
        wire = Wire(self.reactor)
        wire.attach(factory.buildProtocol(None))
        return wire
