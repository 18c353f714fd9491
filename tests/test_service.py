"""Starting, serving, stopping: the assembly on a reactor in memory."""

from __future__ import annotations

import pathlib
import signal
import types
from typing import Any, cast
from unittest.mock import Mock

import attrs
import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

import onebackend_proxy
from onebackend_proxy import ProxyService, SettingError, Settings, service
from onebackend_proxy.api import Accounts
from onebackend_proxy.errors import StoreUnavailable
from onebackend_proxy.options import Options
from onebackend_proxy.service import GRACE, ListeningService, makeService
from onebackend_proxy.testing import MemoryStore

from .conformance import Client, instance
from .wire import Wire


class Port:
    """A port that says whether it accepts connections."""

    def __init__(self, address: Any) -> None:
        self.address = address
        self.reading = True
        self.closed = False

    def getHost(self) -> Any:
        return self.address

    def startReading(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def stopListening(self) -> None:
        self.closed = True


class Reactor(MemoryReactorClock):
    """A reactor whose ports are `Port`; a port number in `taken` is in use."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []
        self.taken: set[int] = set()
        self.stops = 0
        self.hooks: list[tuple[Any, ...]] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if port in self.taken:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        kind = IPv6Address if ":" in interface else IPv4Address
        self.ports.append(Port(kind("TCP", interface or "0.0.0.0", port)))
        return self.ports[-1]

    def addSystemEventTrigger(self, phase: str, eventType: str, callable: Any, *args: Any, **kw: Any) -> None:
        self.hooks.append((phase, eventType, callable, *args))

    def callFromThread(self, call: Any, *args: Any, **kw: Any) -> None:
        call(*args, **kw)

    def stop(self) -> None:
        self.stops += 1


class ServiceTests(SynchronousTestCase):
    """A proxy over a store in memory, with accounts that need no threads."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.store = MemoryStore()
        self.folder = pathlib.Path(self.mktemp())
        self.settings = Settings(folder=self.folder, access_log=self.mktemp())
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
        self.patch(service, "open_accounts", open_accounts)
        self.patch(service, "open_sqlite", lambda path, vault, reactor: self.store)
        observer = cast(ILogObserver, lambda event: self.logged.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def started(self, **changes: Any) -> tuple[ProxyService, ListeningService]:
        """Both services, privileges taken and given up."""
        proxy = ProxyService(attrs.evolve(self.settings, **changes), self.reactor)
        listening = ListeningService(proxy, self.reactor)
        proxy.privilegedStartService()
        listening.privilegedStartService()
        proxy.startService()
        listening.startService()
        return proxy, listening

    def connect(self, listening: ListeningService) -> Client:
        wire = Wire(self.reactor)
        wire.attach(listening.site.buildProtocol(wire.getPeer()))
        return Client(self.reactor, wire)

    def upstream(self) -> Wire:
        """Let the longest waiting connection to an instance succeed."""
        _host, _port, factory, _timeout, _bind = self.reactor.tcpClients.pop(0)
        wire = Wire(self.reactor)
        wire.attach(factory.buildProtocol(None))
        return wire


class TestProxyService(ServiceTests):
    """The embeddable part."""

    def test_it_makes_its_folder_and_its_secrets(self) -> None:
        proxy = ProxyService(self.settings, self.reactor)
        assert self.folder.stat().st_mode & 0o777 == 0o700
        for name in ("encryption.key", "admin-password"):
            assert (self.folder / name).stat().st_mode & 0o777 == 0o600
        proxy.startService()
        assert self.passwords == [(self.folder / "admin-password").read_text().strip()]

    def test_secrets_that_are_given_are_not_written(self) -> None:
        changed = attrs.evolve(self.settings, encryption_key="key", admin_password="secret")
        ProxyService(changed, self.reactor).startService()
        assert list(self.folder.iterdir()) == []
        assert self.passwords == ["secret"]

    def test_a_folder_that_cannot_be_used(self) -> None:
        self.folder.write_text("a file")
        with pytest.raises(SettingError, match="--folder"):
            ProxyService(self.settings, self.reactor)

    def test_it_is_ready_when_the_store_is_read(self) -> None:
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        self.hashing = Deferred()
        proxy = ProxyService(self.settings, self.reactor)
        proxy.startService()
        self.assertNoResult(proxy.ready)
        assert proxy.registry.lookup("svc") is None
        self.hashing.callback(None)
        self.successResultOf(proxy.ready)
        assert proxy.registry.lookup("svc") is not None
        assert set(proxy.resource._built_in) == {b"user-svc", b"registry-svc", b"proxy-svc"}
        (options,) = self.opened
        slug_in_use = options.pop("slug_in_use")
        assert (slug_in_use("svc"), slug_in_use("other")) == (True, False)
        assert options == {"open_registration": False}

    def test_instances_are_looked_at_from_then_on(self) -> None:
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        proxy = ProxyService(self.settings, self.reactor)
        proxy.startService()
        assert [client[:2] for client in self.reactor.tcpClients] == [("10.0.0.1", 8000)]
        self.upstream()
        assert [view.status for view in proxy.registry.instances()] == ["Healthy"]
        proxy.registry.register(instance("http://10.0.0.2:8000"))
        assert [client[:2] for client in self.reactor.tcpClients] == [("10.0.0.2", 8000)]

    def test_a_store_that_cannot_be_read_is_told_to_who_waits(self) -> None:
        self.store.failure = StoreUnavailable("locked")
        proxy = ProxyService(self.settings, self.reactor)
        proxy.startService()
        self.failureResultOf(proxy.ready, StoreUnavailable)

    def test_settings_that_have_no_effect_yet_are_named(self) -> None:
        ProxyService(attrs.evolve(self.settings, ignored=("OB_EDGE_PROXY",)), self.reactor).startService()
        assert any("OB_EDGE_PROXY" in line for line in self.logged)

    def test_stopping_lets_go_of_everything(self) -> None:
        proxy = ProxyService(self.settings, self.reactor)
        proxy.startService()
        self.successResultOf(proxy.stopService())
        assert self.store.failure is not None
        assert self.reactor.getDelayedCalls() == []

    def test_stopping_before_it_is_ready_ends_the_start(self) -> None:
        self.hashing = Deferred()
        proxy, _listening = self.started()
        self.successResultOf(proxy.stopService())
        self.hashing.callback(None)
        self.flushLoggedErrors(StoreUnavailable)
        assert self.reactor.stops == 0
        assert self.reactor.hooks == []
        assert self.reactor.getDelayedCalls() == []

    def test_the_default_reactor_is_the_one_that_runs(self) -> None:
        from twisted.internet import reactor

        assert ProxyService(self.settings)._reactor is reactor

    def test_the_client_behind_a_trusted_proxy(self) -> None:
        proxy = ProxyService(self.settings, self.reactor)
        made: list[Any] = []

        def built_in(store: object, registry: object, accounts: object, address: Any) -> dict[bytes, Any]:
            made.append(address)
            return {}

        self.patch(service, "built_in_services", built_in)
        proxy.startService()
        wire = Wire(self.reactor, "192.0.2.9")
        request = types.SimpleNamespace(getClientAddress=wire.getPeer, isSecure=lambda: False)
        assert made[0](request) == "192.0.2.9"


class TestListeningService(ServiceTests):
    """The ports."""

    def test_it_listens_where_it_is_told_and_says_so(self) -> None:
        self.started(listen=("tcp:11337:interface=127.0.0.1", r"tcp:11338:interface=\:\:1"))
        assert [port.getHost().port for port in self.reactor.ports] == [11337, 11338]
        assert "listening on http://127.0.0.1:11337" in self.logged
        assert "listening on http://[::1]:11338" in self.logged
        assert any(str(self.folder / "admin-password") in line for line in self.logged)
        password = (self.folder / "admin-password").read_text().strip()
        assert not any(password in line for line in self.logged)

    def test_a_password_that_was_given_is_not_shown(self) -> None:
        self.started(admin_password="hush-hush")
        assert any("OB_ADMIN_PASSWORD" in line for line in self.logged)
        assert not any("hush-hush" in line for line in self.logged)

    def test_it_accepts_nobody_before_the_proxy_is_ready(self) -> None:
        self.hashing = Deferred()
        self.started()
        assert [port.reading for port in self.reactor.ports] == [False]
        self.hashing.callback(None)
        assert [port.reading for port in self.reactor.ports] == [True]

    def test_without_privileges_to_give_up(self) -> None:
        proxy = ProxyService(self.settings, self.reactor)
        proxy.startService()
        ListeningService(proxy, self.reactor).startService()
        assert len(self.reactor.ports) == 1

    def test_a_port_in_use_is_one_line(self) -> None:
        self.reactor.taken.add(11337)
        refusals: list[str] = []

        def refuse(message: str) -> None:
            refusals.append(message)
            raise SystemExit(1)

        self.patch(service, "refuse_to_start", refuse)
        listening = ListeningService(ProxyService(self.settings, self.reactor), self.reactor)
        with pytest.raises(SystemExit):
            listening.privilegedStartService()
        assert refusals == ["--listen tcp:11337:interface=127.0.0.1: [Errno 98] Address already in use"]

    def test_a_proxy_that_cannot_start_ends_the_program(self) -> None:
        exits: list[str] = []
        self.patch(service, "_exit_with_line", exits.append)
        for error, line in (
            (SettingError("the database is from a newer version"), "the database is from a newer version"),
            (ValueError("a bug"), "could not start, see the log"),
        ):
            self.reactor = Reactor()
            self.store.failure = cast(Any, error)
            self.started()
            assert len(self.flushLoggedErrors(type(error))) == 1
            assert self.reactor.stops == 1
            [(phase, event, call, *arguments)] = self.reactor.hooks
            assert (phase, event) == ("after", "shutdown")
            call(*arguments)
            assert exits.pop() == line
            assert [port.reading for port in self.reactor.ports] == [False]

    def test_a_request_from_end_to_end(self) -> None:
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        _proxy, listening = self.started()
        self.upstream()
        client = self.connect(listening).ask(b"GET /svc/x HTTP/1.1")
        wire = self.upstream()
        assert wire.take().startswith(b"GET /svc/x HTTP/1.1\r\n")
        wire.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert client.answer().body == b"ok"
        client.leaves()
        self.reactor.advance(1)
        [line] = pathlib.Path(self.settings.access_log).read_text().splitlines()
        assert '"/svc/x"' in line and "10.0.0.1:8000" in line

    def test_stopping_finishes_what_is_in_flight(self) -> None:
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        proxy, listening = self.started()
        self.upstream()
        client = self.connect(listening).ask(b"GET /svc/x HTTP/1.1")
        wire = self.upstream()
        stopped = [listening.stopService(), proxy.stopService()]
        assert [port.closed for port in self.reactor.ports] == [True]
        assert self.store.failure is None
        wire.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast")
        assert client.answer().body == b"last"
        for each in stopped:
            self.successResultOf(each)
        assert self.store.failure is not None
        assert wire.disconnecting
        assert "/svc/x" in pathlib.Path(self.settings.access_log).read_text()

    def test_and_not_for_ever(self) -> None:
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        proxy, listening = self.started()
        self.upstream()
        client = self.connect(listening).ask(b"GET /svc/x HTTP/1.1")
        wire = self.upstream()
        # As Twisted does it: all at once, the last one first.
        stopped = [listening.stopService(), proxy.stopService()]
        self.reactor.pump([1.0] * int(GRACE))
        self.reactor.pump([0.0] * 3)
        for each in stopped:
            self.successResultOf(each)
        assert wire.aborted
        assert client.wire.closed
        assert any("1 requests were cut off" in line for line in self.logged)
        assert "/svc/x" in pathlib.Path(self.settings.access_log).read_text()

    def test_what_is_cut_off_unanswered_is_told_so(self) -> None:
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        proxy, listening = self.started()
        self.upstream()
        client = self.connect(listening).ask(b"GET /svc/x HTTP/1.1")
        self.upstream()
        listening.stopService()
        proxy.stopService()
        self.reactor.pump([1.0] * int(GRACE))
        assert client.answer().status == 503

    def test_how_ports_are_shown(self) -> None:
        for address, shown in (
            (IPv4Address("TCP", "0.0.0.0", 80), "http://0.0.0.0:80"),
            (IPv6Address("TCP", "::", 80), "http://[::]:80"),
            (UNIXAddress(b"/run/proxy.sock"), "unix:/run/proxy.sock"),
            (types.SimpleNamespace(name="/run/proxy.sock"), "unix:/run/proxy.sock"),
        ):
            assert service._shown(cast(IListeningPort, Port(address))) == shown


class TestMakeService(ServiceTests):
    """What twistd runs."""

    def options(self, *arguments: str) -> Options:
        options = Options()
        self.patch(service, "ProxyService", lambda settings, reactor: ProxyService(settings, self.reactor))
        self.patch(
            service,
            "ListeningService",
            lambda proxy, _reactor, _daemon: ListeningService(proxy, self.reactor),
        )
        options.parseOptions(
            ["--folder", str(self.folder), "--access-log", self.settings.access_log, *arguments]
        )
        return options

    def test_its_parts(self) -> None:
        made = makeService(self.options())
        assert [type(child).__name__ for child in made] == ["ProxyService", "ListeningService", "_Process"]

    def test_a_folder_that_cannot_be_used_is_one_line(self) -> None:
        self.folder.write_text("a file")
        refusals: list[str] = []

        def refuse(message: str) -> None:
            refusals.append(message)
            raise SystemExit(1)

        options = self.options()
        self.patch(service, "refuse_to_start", refuse)
        with pytest.raises(SystemExit):
            makeService(options)
        assert len(refusals) == 1 and refusals[0].startswith("--folder: ")

    def test_a_second_signal_does_not_wait(self) -> None:
        set_to: dict[int, Any] = {}
        fake = types.SimpleNamespace(
            signal=lambda number, call: set_to.__setitem__(number, call),
            SIGTERM=signal.SIGTERM,
            SIGINT=signal.SIGINT,
        )
        self.patch(service, "signal", fake)
        self.store.save_instance(instance("http://10.0.0.1:8000"))
        proxy, listening = self.started()
        self.upstream()
        signals = service._Process(proxy, listening, self.reactor)
        signals.startService()
        assert set_to == {}
        self.reactor.run()
        self.reactor.stops = 0
        self.reactor.advance(0)
        assert set(set_to) == {signal.SIGTERM, signal.SIGINT}
        client = self.connect(listening).ask(b"GET /svc/x HTTP/1.1")
        wire = self.upstream()
        set_to[signal.SIGTERM](signal.SIGTERM, None)
        assert self.reactor.stops == 1
        stopped = [listening.stopService(), proxy.stopService()]
        assert not client.wire.closed
        set_to[signal.SIGINT](signal.SIGINT, None)
        self.reactor.pump([0.0] * 3)
        assert self.reactor.stops == 1
        assert wire.aborted and client.wire.closed
        for each in stopped:
            self.successResultOf(each)

    def test_the_exit_after_a_failed_start(self) -> None:
        exits: list[int] = []
        lines: list[str] = []

        def refuse(message: str) -> None:
            lines.append(message)
            raise SystemExit(1)

        self.patch(service, "refuse_to_start", refuse)
        self.patch(service, "os", types.SimpleNamespace(_exit=exits.append))
        service._exit_with_line("no")
        assert (lines, exits) == (["no"], [1])


def test_public_names_are_loaded_when_they_are_used() -> None:
    for name in onebackend_proxy.__all__:
        assert getattr(onebackend_proxy, name).__name__ == name
    assert sorted(onebackend_proxy.__all__) == onebackend_proxy.__all__
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        onebackend_proxy.Nonsense  # noqa: B018
