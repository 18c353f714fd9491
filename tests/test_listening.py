"""The ports: of the service side, and of the edge."""

from __future__ import annotations

import pathlib
import types
from typing import Any, cast

import attrs
import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort

from onebackend_proxy import ProxyService, SettingError
from onebackend_proxy import listening as listening_module
from onebackend_proxy.downstream.site import LAST_REQUEST
from onebackend_proxy.listening import ListeningService
from onebackend_proxy.proxy import GRACE
from onebackend_proxy.records import Redirect, Route
from onebackend_proxy.tls.transport import SecuredServer
from onebackend_proxy.transports import ImmediateServer

from .assembly import AssemblyTests, Port, Reactor
from .conformance import instance


class TestListeningService(AssemblyTests):
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
        self.reactor.failures[11337] = OSError(98, "Address already in use")
        refusals: list[str] = []

        def refuse(message: str) -> None:
            refusals.append(message)
            raise SystemExit(1)

        self.patch(listening_module, "refuse_to_start", refuse)
        listening = ListeningService(ProxyService(self.settings, self.reactor), self.reactor)
        with pytest.raises(SystemExit):
            listening.privilegedStartService()
        assert refusals == ["--listen tcp:11337:interface=127.0.0.1: [Errno 98] Address already in use"]

    def test_a_proxy_that_cannot_start_ends_the_program(self) -> None:
        exits: list[str] = []
        self.patch(listening_module, "_exit_with_line", exits.append)
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
        assert listening.access_log is not None
        listening.access_log.close()
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
            assert listening_module._shown(cast(IListeningPort, Port(address)), "http") == shown

    def test_the_exit_after_a_failed_start(self) -> None:
        exits: list[int] = []
        lines: list[str] = []

        def refuse(message: str) -> None:
            lines.append(message)
            raise SystemExit(1)

        self.patch(listening_module, "refuse_to_start", refuse)
        self.patch(listening_module, "os", types.SimpleNamespace(_exit=exits.append))
        listening_module._exit_with_line("no")
        assert (lines, exits) == (["no"], [1])


class TestEdgePorts(AssemblyTests):
    """The ports of the edge, in memory: what TLS does there is in tests/tls, and all of it in tests/e2e."""

    def hosts(self) -> list[tuple[str, int]]:
        return [(port.getHost().host, port.getHost().port) for port in self.reactor.ports]

    def test_off_by_default(self) -> None:
        self.started()
        assert self.hosts() == [("127.0.0.1", 11337)]

    def test_80_and_443_on_all_interfaces(self) -> None:
        for probe, wanted in ((True, "::"), (False, "0.0.0.0")):
            if not probe:
                no_socket = types.SimpleNamespace(AF_INET6=0, SOCK_STREAM=0, socket=_fails)
                self.patch(listening_module, "socket", no_socket)
            self.reactor = Reactor()
            self.started(edge=True)
            assert self.hosts() == [("127.0.0.1", 11337), (wanted, 80), (wanted, 443)]
            assert self.reactor.ports[2].transport is SecuredServer
            assert self.reactor.ports[1].transport is ImmediateServer
        assert "listening on https://[::]:443" in self.logged
        assert "listening on http://[::]:80" in self.logged

    def test_other_ports_and_endpoints(self) -> None:
        self.started(edge=True, http_port=8080, https="tcp:8443:interface=127.0.0.1")
        assert [port for _host, port in self.hosts()] == [11337, 8080, 8443]
        assert self.hosts()[2] == ("127.0.0.1", 8443)

    def test_in_test_mode_there_is_no_https(self) -> None:
        _proxy, listening = self.started(edge=True, edge_test_mode=True, http_port=8080)
        assert [port for _host, port in self.hosts()] == [11337, 8080]
        self.store.save_routes([Route("x.com", "http://10.0.0.1:8000")])
        client = self.connect(listening, 1).send(b"GET /p HTTP/1.1\r\nHost: x.com:8080\r\n\r\n")
        # A new address is looked at first.
        self.upstream()
        wire = self.upstream()
        assert wire.take().startswith(b"GET /p HTTP/1.1\r\n")
        wire.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert client.answer().body == b"ok"

    def test_what_each_answers(self) -> None:
        _proxy, listening = self.started(edge=True)
        self.store.save_routes([Route("x.com", "http://10.0.0.1:8000")])
        self.store.save_redirects([Redirect("old.com", "https://x.com/new")])
        asked = b"GET /p HTTP/1.1\r\nHost: %b\r\n\r\n"
        plain = self.connect(listening, 1).send(asked % b"x.com:80" + asked % b"old.com" + asked % b"y.com")
        first, second, third = plain.answers()
        assert (first.status, first.field(b"Location")) == (308, [b"https://x.com/p"])
        assert (second.status, second.field(b"Location")) == (308, [b"https://x.com/new/p"])
        assert third.status == 404
        secure = self.connect(listening, 2).send(asked % b"x.com")
        self.upstream()
        self.upstream().receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert secure.answer().body == b"ok"
        # The service side knows no hosts.
        assert self.connect(listening).send(asked % b"x.com").answer().status == 404

    def test_each_has_its_protocols(self) -> None:
        _proxy, listening = self.started(edge=True)
        assert [site.acceptableProtocols() for site in listening.sites] == [
            [b"http/1.1"],
            [b"http/1.1"],
            [b"h2", b"http/1.1"],
        ]

    def test_nobody_is_accepted_before_the_proxy_is_ready(self) -> None:
        self.hashing = Deferred()
        self.started(edge=True)
        assert [port.reading for port in self.reactor.ports] == [False] * 3
        self.hashing.callback(None)
        assert [port.reading for port in self.reactor.ports] == [True] * 3

    def test_what_cannot_be_had_is_one_line(self) -> None:
        denied = OSError(13, "Permission denied")
        cases: tuple[tuple[OSError, dict[str, Any], str], ...] = (
            (OSError(98, "Address already in use"), {}, "--http-port 80: [Errno 98] Address already in use"),
            (
                PermissionError(*denied.args),
                {},
                "--http-port 80: [Errno 13] Permission denied (ports below 1024 need root",
            ),
            (
                PermissionError(*denied.args),
                {"http": "tcp:80:interface=127.0.0.1"},
                "--http tcp:80:interface=127.0.0.1: [Errno 13] Permission denied (ports below",
            ),
        )
        for error, changes, wanted in cases:
            self.reactor = Reactor()
            self.reactor.failures[80] = error
            refusals: list[str] = []

            def refuse(message: str, refusals: list[str] = refusals) -> None:
                refusals.append(message)
                raise SystemExit(1)

            self.patch(listening_module, "refuse_to_start", refuse)
            settings = attrs.evolve(self.settings, edge=True, **changes)
            listening = ListeningService(ProxyService(settings, self.reactor), self.reactor)
            with pytest.raises(SystemExit):
                listening.privilegedStartService()
            assert len(refusals) == 1 and refusals[0].startswith(wanted)

    def test_https_over_what_is_no_plain_socket_is_one_line(self) -> None:
        refusals: list[str] = []

        def refuse(message: str) -> None:
            refusals.append(message)
            raise SystemExit(1)

        self.patch(listening_module, "refuse_to_start", refuse)
        settings = attrs.evolve(self.settings, edge=True, https="haproxy:tcp:8443")
        listening = ListeningService(ProxyService(settings, self.reactor), self.reactor)
        with pytest.raises(SystemExit):
            listening.privilegedStartService()
        assert refusals[0].startswith("--https haproxy:tcp:8443: TLS needs an endpoint of plain TCP")

    def test_stopping_lets_a_last_request_in_everywhere(self) -> None:
        proxy, listening = self.started(edge=True)
        self.store.save_routes([Route("x.com", "http://10.0.0.1:8000")])
        clients = [self.connect(listening, number) for number in (1, 2)]
        stopped = [listening.stopService(), proxy.stopService()]
        assert [port.closed for port in self.reactor.ports] == [True] * 3
        self.reactor.advance(LAST_REQUEST / 2)
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: x.com\r\n\r\n")
        self.upstream()
        self.upstream().receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        answers = [client.answer() for client in clients]
        assert [answer.status for answer in answers] == [308, 200]
        assert [answer.field(b"Connection") for answer in answers] == [[b"close"], [b"close"]]
        self.reactor.pump([LAST_REQUEST, 0])
        for each in stopped:
            self.successResultOf(each)
        assert self.reactor.getDelayedCalls() == []

    def test_who_waits_to_be_accepted_is_accepted_before_the_port_closes(self) -> None:
        accepted: list[bool] = []
        self.patch(listening_module, "accept_waiting", lambda port: accepted.append(port.closed))
        proxy, listening = self.started(edge=True)
        listening.stopService()
        proxy.stopService()
        assert accepted == [False] * 3

    def test_and_who_is_idle_is_closed_a_second_later(self) -> None:
        proxy, listening = self.started(edge=True)
        clients = [self.connect(listening, number) for number in range(3)]
        stopped = [listening.stopService(), proxy.stopService()]
        self.reactor.advance(LAST_REQUEST * 0.9)
        assert not any(client.wire.closed for client in clients)
        self.reactor.pump([LAST_REQUEST * 0.2, 0])
        assert all(client.wire.disconnecting for client in clients)
        for each in stopped:
            self.successResultOf(each)


def _fails(*arguments: Any) -> Any:
    raise OSError("no IPv6")
