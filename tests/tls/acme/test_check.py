"""A whole check: a real edge, real names (pebble-challtestsrv's), and name servers that mean no good."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar
from unittest import mock

import attrs
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from twisted.internet import reactor as any_reactor
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from onebackend_proxy import ProxySite
from onebackend_proxy.downstream.edge import EdgeResource, PlainEdge
from onebackend_proxy.downstream.resources import Desk
from onebackend_proxy.edge_certificates import EdgeCertificates
from onebackend_proxy.errors import StoreUnavailable, Unavailable
from onebackend_proxy.exchange import Exchanges
from onebackend_proxy.interfaces import Published
from onebackend_proxy.records import Challenge, Issuance, Route
from onebackend_proxy.routing import RouteTable
from onebackend_proxy.testing import MemoryStore, ScriptedUpstream
from onebackend_proxy.tls.acme import check, resolving
from onebackend_proxy.tls.acme.check import MAX_CHECKS, Checker, Facts
from onebackend_proxy.tls.acme.resolving import LookupFailed, Resolving
from onebackend_proxy.tls.challenges import TLS_ALPN_01

from ...pebble import Names
from ...pebble_programs import find_programs
from ..making import DAY, now, record

# Twisted's own, and zope's interfaces hide what it has.
reactor: Any = any_reactor
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.9"
URL = "https://ca.example/directory"
HOSTS = ("x.test", "www.x.test", "*.x.test", "both.test", "alias.test", "localhost")


class Checking(TestCase):
    """An edge on free ports, whose names lead to it."""

    names: ClassVar[Any]
    programs: ClassVar[contextlib.ExitStack]

    @classmethod
    def setUpClass(cls):
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            cls.names = Names(find_programs(), folder)
            stack.callback(cls.names.stop)
            cls.names.set_default("")
            cls.programs = stack.pop_all()

    @classmethod
    def tearDownClass(cls):
        cls.programs.close()

    async def setUp(self):  # type: ignore[override]
        self.store = MemoryStore()
        self.folder = pathlib.Path(self.mktemp())
        self.folder.mkdir()
        edge = EdgeResource(Desk(Exchanges(reactor, ScriptedUpstream())), lambda route: None, Resource())
        self.certificates = EdgeCertificates(self.store, self.folder, reactor, edge.owns)
        self.plain = PlainEdge(edge, lambda host, token: self.challenges.find("http-01", host, token))
        self.challenges = self.certificates.challenges
        routes = RouteTable([Route(host, "http://127.0.0.1:1") for host in HOSTS])
        published = Published(routes, RouteTable(), (), ())
        edge.publish(published)
        self.facts = Facts(
            routed=routes.has_host,
            certificate_for=lambda host: None,
            issuance=lambda name: succeed(None),
            budget=lambda name: succeed(None),
            directories=lambda: succeed([(URL, ("ca.example",), "")]),
        )
        self.http_port = await self.listen(ProxySite(self.plain, reactor, fast=self.plain))
        self.https_port = await self.listen(Factory.forProtocol(mock.Mock), self.certificates.endpoint)

    async def listen(
        self, factory: Any, wrapped: Callable[[Any], Any] = lambda it: it, port: int = 0, at: str = HERE
    ) -> int:
        kind = TCP6ServerEndpoint if ":" in at else TCP4ServerEndpoint
        listening: Any = await wrapped(kind(reactor, port, interface=at)).listen(factory)
        self.addCleanup(listening.stopListening)
        return listening.getHost().port

    def checker(self, **facts: Any) -> Checker:
        host, _, port = self.names.address.rpartition(":")
        return Checker(
            reactor,
            attrs.evolve(self.facts, **facts),
            self.challenges,
            resolver=(host, int(port)),
            http_port=self.http_port,
            https_port=self.https_port,
        )

    async def check(self, domain: str = "x.test", **facts: Any) -> dict[str, tuple[bool | None, str]]:
        """What was found, by its subject; a check leaves nothing behind."""
        found = await self.checker(**facts).check(domain)
        assert await self.store.challenges(now()) == ()
        assert await self.challenges.find(TLS_ALPN_01, domain) is None
        assert all(finding.message.isprintable() for finding in found)
        return {finding.subject: (finding.ok, finding.message) for finding in found}


class CheckTests(Checking):
    async def setUp(self):  # type: ignore[override]
        await super().setUp()
        for host in HOSTS:
            self.names.set_a(host, HERE)
            self.names.set_aaaa(host)
            self.names.set_caa(host)

    async def test_all_is_well(self):
        found = await self.check()
        assert list(found) == [
            "route",
            "dns",
            "caa",
            "port 80",
            "port 443",
            "budget",
            "failures",
            "authority",
        ]
        assert found.pop("dns") == (
            None,
            "x.test is 127.0.0.1; no authority on the internet reaches 127.0.0.1",
        )
        assert all(ok for ok, _words in found.values()), found
        assert found["port 80"] == found["port 443"] == (True, "127.0.0.1 reaches this proxy")

    async def test_no_route(self):
        for host in ("y.test", "a.b.x.test"):
            self.names.set_a(host, HERE)
            with mock.patch.object(check, "fetch") as fetch, mock.patch.object(check, "greet") as greet:
                found = await self.check(host)
            assert found["route"][0] is False
            assert f"oo routes save --id {host}" in found["route"][1]
            # Nobody's address is fetched from without one.
            assert (
                found["port 80"]
                == found["port 443"]
                == (
                    None,
                    "not looked at: only hosts of Routes are fetched from",
                )
            )
            assert not fetch.called and not greet.called

    async def test_local_names(self):
        for host in ("localhost", "a.localhost", "127.0.0.1", "::1"):
            found = await self.check(host)
            assert list(found) == ["route"]
            assert found["route"][0] and "local authority" in found["route"][1]

    async def test_certificates_that_there_are(self):
        by_hand = record("x.test")
        found = await self.check(certificate_for=lambda host: by_hand)
        assert "saved by hand" in found["certificate"][1]
        assert "certificate" not in await self.check("www.x.test", certificate_for=lambda host: by_hand)

    async def test_a_name_that_is_not_there(self):
        for ask, said in (
            (lambda: self.names.set_a("x.test"), "has no address"),
            (lambda: self.names.set_servfail("x.test"), "SERVFAIL"),
        ):
            ask()
            found = await self.check()
            self.names.set_servfail("x.test", False)
            assert found["dns"][0] is False and said in found["dns"][1], found
            assert found["port 80"] == (None, "not looked at: there is no address")

    async def test_an_alias(self):
        self.names.set_a("alias.test")
        self.names.set_cname("alias.test", "x.test")
        self.addCleanup(self.names.set_cname, "alias.test", "")
        found = await self.check("alias.test")
        assert "alias.test is 127.0.0.1 (CNAME: x.test)" in found["dns"][1]
        assert found["port 80"][0] and found["port 443"][0]

    async def test_an_ipv6_address_that_leads_elsewhere(self):
        """The classic trap: authorities prefer it."""
        await self.listen(Site(Data(b"other", "text/plain")), port=self.http_port, at="::1")
        self.names.set_aaaa("x.test", "::1")
        found = await self.check()
        ok, said = found["port 80"]
        assert ok is False
        assert said.startswith("::1 answers 404, but is not this proxy (Server: TwistedWeb/")
        assert "authorities prefer IPv6: correct or delete the AAAA record" in said
        assert found["port 443"][1].startswith("::1 refuses the connection")

    async def test_both_addresses_lead_here(self):
        await self.listen(ProxySite(self.plain, reactor, fast=self.plain), port=self.http_port, at="::1")
        self.names.set_aaaa("x.test", "::1")
        found = await self.check()
        assert found["port 80"] == (True, "::1, 127.0.0.1 reach this proxy")
        assert found["port 443"][0] is None and "port 80 works, and one is enough" in found["port 443"][1]

    async def test_dns_that_points_elsewhere(self):
        self.names.set_a("x.test", ELSEWHERE)
        found = await self.check()
        for subject in ("port 80", "port 443"):
            assert found[subject] == (False, f"{ELSEWHERE} refuses the connection")

    async def test_one_port_is_enough(self):
        self.https_port = 1
        found = await self.check()
        assert found["port 80"][0]
        assert found["port 443"][0] is None
        assert found["port 443"][1].endswith("refuses the connection; port 80 works, and one is enough")
        self.http_port = 1
        found = await self.check()
        assert found["port 80"][0] is found["port 443"][0] is False
        found = await self.check(by_dns=True)
        assert found["port 80"][0] is found["port 443"][0] is None

    async def test_wildcards(self):
        found = await self.check("*.x.test")
        assert list(found) == ["route", "caa", "dns-01", "budget", "failures", "authority"]
        assert found["dns-01"][0] is False
        assert (await self.check("*.x.test", by_dns=True))["dns-01"][0]

    async def test_caa(self):
        self.names.set_caa("x.test", ("issue", "other.example"))
        # The nearest ancestor that has any counts.
        for host in ("x.test", "www.x.test"):
            found = await self.check(host)
            assert found["caa"][0] is False
            assert found["caa"][1].startswith(
                "the CAA records of x.test let only other.example issue: add one"
            )
        self.names.set_caa("www.x.test", ("issue", "ca.example; validationmethods=http-01"))
        found = await self.check("www.x.test")
        assert found["caa"] == (
            True,
            "the CAA records of www.x.test let ca.example issue, by http-01 only (validationmethods)",
        )
        self.names.set_caa("x.test", ("issue", "ca.example"), ("issuewild", ";"))
        assert (await self.check("x.test"))["caa"][0]
        assert (await self.check("*.x.test"))["caa"][0] is False

    async def test_caa_that_cannot_be_asked_for_refuses(self):
        self.names.set_servfail("www.x.test")
        try:
            found = await self.check("www.x.test")
        finally:
            self.names.set_servfail("www.x.test", False)
        assert found["caa"][0] is False and "authorities refuse then" in found["caa"][1]

    async def test_what_else_is_known(self):
        failing = Issuance("x.test", 2, now() - DAY, now(), "no such name", URL, now() + DAY)
        found = await self.check(
            budget=lambda name: succeed(now() + DAY),
            issuance=lambda name: succeed(failing),
            directories=lambda: succeed([(URL, (), "no route to host")]),
        )
        assert found["budget"][0] is False
        assert found["failures"][0] is None and "no such name" in found["failures"][1]
        assert found["authority"] == (False, f"{URL}: no route to host")

    async def test_an_order_under_way_keeps_its_proof(self):
        """Who asks by TLS-ALPN-01 names no token: the check must not answer for the order."""
        theirs = Challenge(TLS_ALPN_01, "x.test", "theirs", "theirs.thumbprint", now() + DAY)
        await self.challenges.place(theirs)
        seen: list[str | None] = []
        place = self.challenges.place

        async def placed(challenge: Challenge) -> None:
            await place(challenge)
            seen.append(await self.challenges.find(TLS_ALPN_01, "x.test"))

        with mock.patch.object(self.challenges, "place", lambda one: Deferred.fromCoroutine(placed(one))):
            found = {each.subject: each for each in await self.checker().check("x.test")}
        assert found["port 443"].ok and found["port 80"].ok
        assert seen == ["theirs.thumbprint"]
        assert await self.store.challenges(now()) == (theirs,)
        await self.challenges.remove(theirs)

    async def test_a_store_that_fails(self):
        with mock.patch.object(self.store, "save_challenge", lambda *_: fail(StoreUnavailable("locked"))):
            found = await self.check(budget=lambda name: fail(StoreUnavailable("locked")))
        assert len(self.flushLoggedErrors()) == 2
        for subject in ("dns", "port 80", "port 443", "budget"):
            assert found[subject] == (None, "could not be found out: the proxy's log says why")
        assert found["caa"][0]

    async def test_nothing_takes_longer_than_it_may(self):
        cancelled: list[object] = []
        with (
            mock.patch.object(check, "CHECK_SECONDS", 0.3),
            mock.patch.object(check, "DIRECTORY_SECONDS", 0.1),
        ):
            found = await self.check(
                issuance=lambda name: Deferred(cancelled.append),
                directories=lambda: gatherResults([Deferred(cancelled.append)], consumeErrors=True),
            )
        assert found["failures"] == (None, "could not be found out in 0 s")
        assert found["authority"] == (None, "no answer in 0 s")
        assert found["caa"][0] and found["route"][0]
        assert len(cancelled) == 2

    async def test_many_at_once(self):
        waiting: list[Deferred[Any]] = []

        def budget(name: str) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        checker = self.checker(budget=budget)
        under_way = [checker.check("*.x.test") for _ in range(MAX_CHECKS)]
        with self.assertRaises(Unavailable):
            await checker.check("*.x.test")
        for each in waiting:
            each.callback(None)
        for done in under_way:
            await done
        again = checker.check("*.x.test")
        waiting[-1].callback(None)
        await again

    async def test_one_that_is_given_up(self):
        """Its challenges are taken back, and another may begin."""
        with mock.patch.object(check, "fetch", lambda *_, **__: _forever()):
            under_way = self.checker().check("x.test")
            for _ in range(500):
                if await self.store.challenges(now()):
                    break
                await _pause()
            under_way.cancel()
            with contextlib.suppress(CancelledError):
                await under_way
        for _ in range(500):
            if not await self.store.challenges(now()):
                return
            await _pause()
        self.fail("a challenge was left")


async def _forever() -> None:
    await Deferred()


def _pause(seconds: float = 0.01) -> Deferred[None]:
    waited: Deferred[None] = Deferred()
    reactor.callLater(seconds, waited.callback, None)
    return waited


class Nameserver(DatagramProtocol):
    """Answers by UDP as a test says: bytes, or nothing."""

    transport: Any

    def __init__(self, answer: Callable[[Any], bytes | None]) -> None:
        self.answer = answer

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        answer = self.answer(dns.message.from_wire(datagram))
        if answer is not None:
            self.transport.write(answer, addr)


def _reply(query: Any, *records: str, rcode: Any = dns.rcode.NOERROR) -> Any:
    """An answer with these records of the kind asked for, at the name asked for."""
    answer = dns.message.make_response(query)
    answer.set_rcode(rcode)
    [asked] = query.question
    if records:
        answer.answer.append(dns.rrset.from_text_list(asked.name, 60, "IN", asked.rdtype, list(records)))
    return answer


def _refusal(code: Any, query: Any) -> bytes:
    return _reply(query, rcode=code).to_wire()


def _chain(query: Any, *names: str) -> bytes:
    """Aliases, one behind the other."""
    answer = _reply(query)
    for owner, target in zip((query.question[0].name, *names), names, strict=False):
        answer.answer.append(dns.rrset.from_text(owner, 60, "IN", "CNAME", target))
    return answer.to_wire()


class HostileNamesTests(TestCase):
    """What a name server may do to whoever asks it."""

    def setUp(self):
        for name, seconds in (("ASK_SECONDS", 0.6), ("LOOKUP_SECONDS", 1.0)):
            patched = mock.patch.object(resolving, name, seconds)
            patched.start()
            self.addCleanup(patched.stop)

    async def ask(self, answer: Callable[[Any], bytes | None], question: str = "addresses") -> Any:
        port = reactor.listenUDP(0, Nameserver(answer), interface=HERE)
        self.addCleanup(port.stopListening)
        where = (HERE, port.getHost().port)
        try:
            return await deferToThread(lambda: getattr(Resolving(where), question)("a.b.x.test"))
        except LookupFailed as error:
            assert str(error).isprintable() and len(str(error)) < 100, error
            return error

    async def test_none_that_answers(self):
        for answer in (
            lambda query: None,
            lambda query: b"",
            lambda query: b"\xff" * 100,
            lambda query: query.to_wire(),
            lambda query: b"\0\0" + _reply(query).to_wire()[2:],
        ):
            for question in ("addresses", "policies"):
                found = await self.ask(answer, question)
                assert isinstance(found, LookupFailed), found

    async def test_refusals(self):
        for code in (dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP):
            for question in ("addresses", "policies"):
                found = await self.ask(partial(_refusal, code), question)
                assert isinstance(found, LookupFailed) and found.refused, found

    async def test_no_such_name(self):
        def answer(query: Any) -> bytes:
            return _reply(query, rcode=dns.rcode.NXDOMAIN).to_wire()

        found = await self.ask(answer)
        assert not found.exists and not found.found
        assert await self.ask(answer, "policies") == ("", ())

    async def test_half_an_answer(self):
        def answer(query: Any) -> bytes | None:
            if query.question[0].rdtype == dns.rdatatype.AAAA:
                return _reply(query, rcode=dns.rcode.SERVFAIL).to_wire()
            return _reply(query, "192.0.2.1").to_wire()

        found = await self.ask(answer)
        assert found.found == ("192.0.2.1",)
        assert found.failed == "AAAA records: its name servers fail or refuse to answer (SERVFAIL)"

    async def test_many_addresses(self):
        def answer(query: Any) -> bytes:
            kind = "2001:db8::{:x}" if query.question[0].rdtype == dns.rdatatype.AAAA else "192.0.2.{}"
            return _reply(query, *map(kind.format, range(200))).to_wire()

        assert len((await self.ask(answer)).found) == 400

    async def test_aliases_without_end(self):
        found = await self.ask(lambda query: _chain(query, "b.test.", "a.b.x.test.", "b.test."))
        assert isinstance(found, LookupFailed)
        found = await self.ask(lambda query: _chain(query, *(f"a{n}.test." for n in range(40))))
        assert isinstance(found, LookupFailed)

    async def test_aliases_that_are_no_text(self):
        found = await self.ask(lambda query: _chain(query, r"\027[31m\010\255.test.", "x" * 60 + ".y.test."))
        assert len(found.aliases) == 2
        assert all(each.isprintable() and len(each) <= 60 for each in found.aliases)

    async def test_answers_to_what_was_not_asked(self):
        def answer(query: Any) -> bytes:
            told = _reply(query)
            told.answer.append(dns.rrset.from_text("other.test.", 60, "IN", "A", "192.0.2.1"))
            return told.to_wire()

        found = await self.ask(answer)
        assert isinstance(found, LookupFailed) or not found.found

    async def test_the_climb_is_bounded(self):
        """It ends at the top, and in time, also where each answer is late."""
        asked: list[str] = []

        def answer(query: Any) -> bytes:
            asked.append(query.question[0].name.to_text())
            return _reply(query).to_wire()

        assert await self.ask(answer, "policies") == ("", ())
        assert asked == ["a.b.x.test.", "b.x.test.", "x.test.", "test."]

    async def test_policies_of_the_nearest(self):
        def answer(query: Any) -> bytes:
            name = query.question[0].name.to_text()
            records = {"x.test.": ['0 issue "ca.example"', '128 TBS "x"'], "test.": ['0 issue ";"']}
            return _reply(query, *records.get(name, ())).to_wire()

        owner, policies = await self.ask(answer, "policies")
        assert owner == "x.test"
        assert sorted((each.tag, each.value, each.critical) for each in policies) == [
            ("issue", "ca.example", False),
            ("tbs", "x", True),
        ]

    async def test_a_truncated_answer_and_no_tcp(self):
        def answer(query: Any) -> bytes:
            told = _reply(query)
            told.flags |= dns.flags.TC
            return told.to_wire()

        assert isinstance(await self.ask(answer), LookupFailed)


def test_a_system_without_a_resolver():
    with mock.patch("dns.resolver.Resolver", side_effect=dns.resolver.NoResolverConfiguration):
        try:
            Resolving()
        except LookupFailed as error:
            assert "--acme-resolver" in str(error)
        else:
            raise AssertionError
