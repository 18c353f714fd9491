"""Certificates by themselves: what settings make of it, what is told of it, and what it costs."""

from __future__ import annotations

import datetime
import pathlib
import subprocess
import sys
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from onebackend_proxy import issuing as issuing_module
from onebackend_proxy.edge_certificates import EdgeCertificates
from onebackend_proxy.errors import SettingError
from onebackend_proxy.interfaces import Finding, Published
from onebackend_proxy.issuing import EdgeIssuing
from onebackend_proxy.options import Settings
from onebackend_proxy.records import Issuance, Route
from onebackend_proxy.routing import RouteTable
from onebackend_proxy.testing import MemoryStore
from onebackend_proxy.tls.acme.check import Checker
from tests.e2e.proxy_process import environment
from tests.e2e.waiting import free_port

from .assembly import Reactor
from .tls.making import now

KEY = "s3cretkeys3cretkey"


class IssuingCase(SynchronousTestCase):
    """A store in memory, and settings of an edge that orders."""

    def setUp(self) -> None:
        self.reactor: Any = Reactor()
        self.reactor.advance(now().timestamp())
        self.store = MemoryStore()
        self.folder = pathlib.Path(self.mktemp())
        self.folder.mkdir()
        self.settings = Settings(
            folder=self.folder, edge=True, acme_directories=(f"https://localhost:{free_port()}/dir",)
        )
        self.certificates = EdgeCertificates(self.store, self.folder, self.reactor)

    def made(self, **changes: Any) -> EdgeIssuing:
        settings = attrs.evolve(self.settings, **changes)
        return EdgeIssuing(settings, self.store, self.certificates, self.reactor)


class IssuingTests(IssuingCase):
    """How it is made, and what it hands on."""

    def refused(self, **changes: Any) -> str:
        with pytest.raises(SettingError) as caught:
            self.made(**changes)
        return caught.value.message

    def test_a_file_of_roots_that_went_after_the_settings_were_read(self) -> None:
        path = self.folder / "roots.pem"
        message = self.refused(acme_ca_file=path)
        assert message.startswith("--acme-ca-file: ") and "No such file" in message
        path.write_text("nonsense")
        assert self.refused(acme_ca_file=path).startswith("--acme-ca-file: ")

    def test_a_dns_provider_that_there_is_not(self) -> None:
        message = self.refused(acme_dns=f"route66:key={KEY}")
        assert message.startswith("--acme-dns: ") and "route66" in message and "rfc2136" in message
        assert KEY not in message

    def test_a_dns_provider_that_is_set_wrongly(self) -> None:
        for text in ("rfc2136", f"rfc2136:ns.test:nonsense={KEY}", "rfc2136:127.0.0.1:key=x\\"):
            message = self.refused(acme_dns=text)
            assert message.startswith("--acme-dns: ") and KEY not in message, message

    def test_handshakes_ask_it(self) -> None:
        issuing = self.made()
        assert self.certificates.contexts.on_demand == issuing._service.demand
        assert repr(issuing).startswith("<EdgeIssuing: ")

    def test_it_stops_though_it_never_began(self) -> None:
        self.successResultOf(self.made().stop())

    def test_findings_are_passed_through(self) -> None:
        found = (Finding("DNS", False, "a.test has no address"),)
        asked = []

        def check(_: object, domain: str) -> Deferred[tuple[Finding, ...]]:
            asked.append(domain)
            return succeed(found)

        self.patch(Checker, "check", check)
        assert self.successResultOf(self.made().check("a.test")) is found
        assert asked == ["a.test"]


class FactsTests(IssuingCase):
    """What the checks are told."""

    def setUp(self) -> None:
        super().setUp()
        self.facts: Any = None

        def checker(reactor: object, facts: object, *more: object, **named: object) -> object:
            self.facts = facts
            return object()

        self.patch(issuing_module, "Checker", checker)

    def known(self, name: str) -> Issuance | None:
        found: Issuance | None = self.successResultOf(self.facts.issuance(name))
        return found

    def test_what_is_known_of_orders(self) -> None:
        self.made()
        moment = now()
        for name in ("a.test", "b.test"):
            self.store.claim_issuance(name, "one", moment, moment)
            self.store.release_issuance(Issuance(name, failures=2, problem=f"no {name}"), "one")
        assert self.known("b.test") == Issuance("b.test", failures=2, problem="no b.test")
        assert self.known("c.test") is None

    def test_until_when_the_budget_is_spent(self) -> None:
        limits = attrs.evolve(self.settings.limits, acme_names_per_hour=2, acme_wildcard_names_per_week=1)
        issuing = self.made(limits=limits)
        listed = [
            Route(name, "http://127.0.0.1:1") for name in ("c.x.test", "a.x.test", "c.y.test", "*.z.test")
        ]
        issuing.publish(Published(RouteTable(listed), RouteTable(), (), ()))
        for minute, name in enumerate(("a.x.test", "b.x.test")):
            assert self.successResultOf(self.facts.budget("c.x.test")) is None
            moment = now() + datetime.timedelta(minutes=minute)
            self.store.spend_order("x.test", name, moment, moment - datetime.timedelta(hours=1), 2)
        self.reactor.advance(120)
        until = self.successResultOf(self.facts.budget("c.x.test"))
        assert abs(until - now() - datetime.timedelta(hours=1)) < datetime.timedelta(seconds=10)
        assert self.successResultOf(self.facts.budget("c.y.test")) is None
        # It is one of the two: to try it again is free.
        assert self.successResultOf(self.facts.budget("a.x.test")) is None
        week = datetime.timedelta(days=7)
        self.store.spend_order("*.z.test", "a.z.test", now(), now() - week, 1)
        until = self.successResultOf(self.facts.budget("b.z.test"))
        assert abs(until - now() - week) < datetime.timedelta(seconds=10)

    def test_whether_dns_is_there(self) -> None:
        self.made()
        assert self.facts.by_dns is False
        assert not self.facts.routed("a.test")
        assert self.facts.certificate_for("a.test") is None


PROGRAM = """
import pathlib, sys
from onebackend_proxy.options import settings_from
from onebackend_proxy import ProxyService
settings = settings_from({options}, {{"OB_FOLDER": sys.argv[1]}})
service = ProxyService(settings)
assert (service.issuing is not None) is {on}
status = pathlib.Path("/proc/self/status").read_text()
kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
ours = ("acme", "josepy", "txacme", "treq", "publicsuffixlist", "dns")
names = [name for name in sys.modules if name.partition(".")[0] in ours
    or name == "onebackend_proxy.issuing" or name.startswith("onebackend_proxy.tls.acme")]
print(kilobytes, *names)
"""


def started(folder: pathlib.Path, options: dict[str, object], *, on: bool = False) -> tuple[int, set[str]]:
    """Kilobytes in memory, and the modules for ACME, of a proxy with these options."""
    program = PROGRAM.format(options=options, on=on)
    command = [sys.executable, "-c", program, str(folder)]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    kilobytes, *names = ran.stdout.split()
    return int(kilobytes), set(names)


DIRECTORY = "https://localhost:1/dir"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"acme-directory": DIRECTORY},
        {"edge": True, "acme-directory": "off"},
        {"edge-test-mode": True, "acme-directory": DIRECTORY},
    ],
)
def test_where_it_is_off_nothing_of_it_is_there(options, tmp_path):
    assert started(tmp_path, options)[1] == set()


def test_what_it_costs_where_it_is_on(tmp_path, capsys):
    off, _ = started(tmp_path / "off", {"edge": True, "acme-directory": "off"})
    on, names = started(tmp_path / "on", {"edge": True, "acme-directory": DIRECTORY}, on=True)
    assert {"txacme.service", "acme.challenges", "onebackend_proxy.tls.acme.orders"} <= names
    with capsys.disabled():
        print(
            f"\nmemory with a proxy just made: {off / 1024:.1f} MiB without ACME, {on / 1024:.1f} MiB with it"
        )
    assert on - off < 40 * 1024
