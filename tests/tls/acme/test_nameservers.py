"""Looking at name servers: aliases, whose zone it is, and when everybody shows a text."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import attrs
import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from onebackend_proxy.errors import ProxyError
from onebackend_proxy.tls.acme import nameservers
from onebackend_proxy.tls.acme.dns import dns_provider
from onebackend_proxy.tls.acme.nameservers import (
    MOST_SILENT,
    PATIENCE,
    Lookups,
    Nameservers,
    Server,
    Sight,
    Sightings,
    look,
)
from onebackend_proxy.tls.acme.problems import AcmeError

from ...e2e.waiting import free_port
from ...nameserver import start_nameserver
from ...properties import PROPERTY
from .threads import Threadless, result_of

NAME = "_acme-challenge.x.test"
ONE, TWO = Server("192.0.2.1"), Server("192.0.2.2", 5353)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    records = """\
_acme-challenge.a CNAME x.y.test.
_acme-challenge.b CNAME _acme-challenge.a
_acme-challenge.Up CNAME X.Y.test.
loop CNAME pool
pool CNAME loop
shown TXT "one" "two"
shown TXT "other"
"""
    records += "\n".join(f'many TXT "{n:0250}"' for n in range(20))
    folder = tmp_path_factory.mktemp("names") / "n"
    with start_nameserver(folder, "x.test", "y.test", x_test=records) as server:
        yield server


def sut(server: Any) -> Nameservers:
    return Nameservers(Threadless(), server.resolver)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        (NAME, NAME),
        ("_Acme-Challenge.X.test", NAME),
        ("_acme-challenge.a.x.test", "x.y.test"),
        ("_acme-challenge.b.x.test", "x.y.test"),
        ("_acme-challenge.up.x.test", "x.y.test"),
        ("_acme-challenge.not.there.x.test", "_acme-challenge.not.there.x.test"),
    ],
)
def test_aliases_are_followed_to_their_end(server, name, end):
    assert result_of(sut(server).canonical(name)) == end


def test_aliases_without_an_end(server):
    with pytest.raises(ProxyError, match=r"looking up loop\.x\.test: it is an alias of an alias, 16 times"):
        result_of(sut(server).canonical("loop.x.test"))


def test_names_that_nobody_can_look_up(server):
    with pytest.raises(ProxyError, match=r"looking up z\.example: .*REFUSED"):
        result_of(sut(server).canonical("z.example"))
    with pytest.raises(ProxyError, match="looking up "):
        result_of(sut(server).canonical("_acme-challenge." + "a." * 126 + "test"))


def test_the_servers_of_a_zone(server):
    assert Lookups(Server(*server.resolver)).authoritative("_acme-challenge.a.b.x.test") == (
        Server("127.0.0.1"),
    )
    with pytest.raises(ProxyError, match=r"looking up z\.example"):
        Lookups(Server(*server.resolver)).authoritative("z.example")


def test_a_resolver_that_is_not_there_is_given_up(monkeypatch):
    monkeypatch.setattr(nameservers, "LOOKUP_SECONDS", 0.2)
    nobody = Server("127.0.0.1", free_port())
    with pytest.raises(ProxyError, match=r"looking up x\.test: "):
        Lookups(nobody).canonical("x.test")
    assert not Lookups(nobody).shows("x.test", "v")


def test_a_system_without_a_resolver(monkeypatch):
    def none(configure):
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver, "Resolver", none)
    with pytest.raises(ProxyError, match="names no resolver"):
        result_of(Nameservers(Threadless()).canonical("x.test"))


def test_a_look_at_a_real_one(server):
    real = Server(*server.resolver)
    closed = Server("127.0.0.1", free_port())
    for value, sight in {"onetwo": Sight.SHOWN, "other": Sight.SHOWN, "one": Sight.LACKING}.items():
        assert look([real, closed], "shown.x.test", value) == {real: sight, closed: Sight.DEAD}
    assert look([real], "nothing.x.test", "v") == {real: Sight.LACKING}
    assert look([real], "not.its.own", "v") == {real: Sight.SILENT}
    assert look([], "x.test", "v") == {}


def test_answers_that_are_too_long_for_udp(server):
    real = Server(*server.resolver)
    assert look([real], "many.x.test", f"{19:0250}") == {real: Sight.SHOWN}
    assert look([real], "many.x.test", f"{20:0250}") == {real: Sight.LACKING}


@contextlib.contextmanager
def saying(*datagrams: Any) -> Iterator[Server]:
    """A server that answers each query with all of these: bytes, or what makes them from the query."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)

        def serve() -> None:
            wire, peer = sock.recvfrom(65535)
            for each in datagrams:
                sock.sendto(each if isinstance(each, bytes) else each(dns.message.from_wire(wire)), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Server(*sock.getsockname())
        finally:
            thread.join()


def shown(query: dns.message.Message, *, id: int = 0, name: str = f"{NAME}.") -> bytes:
    answer = dns.message.make_response(query)
    answer.id ^= id
    answer.answer = [dns.rrset.from_text(name, 5, "IN", "TXT", "v")]
    return answer.to_wire()


def test_what_is_no_answer_is_overheard(monkeypatch):
    with saying(b"", b"\0" * 11, b"\xff" * 40, lambda query: shown(query, id=1), shown) as server:
        assert look([server], NAME, "v") == {server: Sight.SHOWN}
    monkeypatch.setattr(nameservers, "LOOK_SECONDS", 0.1)
    with saying(b"\xff" * 40, lambda query: shown(query, id=1)) as server:
        assert look([server], NAME, "v") == {server: Sight.SILENT}


def test_no_network_is_as_good_as_dead(monkeypatch):
    def unreachable(server, query):
        raise OSError(101, "Network is unreachable")

    nowhere = Server("2001:db8::53")
    monkeypatch.setattr(nameservers, "_ask", unreachable)
    assert look([nowhere], NAME, "v") == {nowhere: Sight.DEAD}
    assert str(nowhere) == "2001:db8::53"
    assert str(Server("2001:db8::53", 5353)) == "[2001:db8::53]:5353"


@implementer(ILogObserver)
class Scripted(Threadless):
    """What is found at each look, one after another (the last again and again), and what the resolver has."""

    def __init__(self, monkeypatch: Any, *looks: dict[Server, Sight], resolver: bool = False) -> None:
        super().__init__()
        self.looks = list(looks)
        self.times: list[float] = []
        self.noted: list[str] = []
        self.resolver_asked = 0
        self.failing = 0
        monkeypatch.setattr(nameservers, "look", self._look)
        monkeypatch.setattr(Lookups, "__init__", lambda self, server: None)
        monkeypatch.setattr(Lookups, "authoritative", lambda _, name: self._authoritative(name))
        monkeypatch.setattr(Lookups, "shows", lambda _, *asked: self._shows(*asked))
        self._resolver = resolver
        self.result: list[bool] = []
        globalLogPublisher.addObserver(self)

    def __call__(self, event: Any) -> None:
        if event.get("log_namespace", "").endswith(".nameservers"):
            self.noted.append(event["log_format"].format(**event))

    def _authoritative(self, name: str) -> tuple[Server, ...]:
        assert name == NAME
        if self.failing:
            self.failing -= 1
            raise AcmeError("no resolver today")
        return ONE, TWO

    def _shows(self, name: str, value: str) -> bool:
        self.resolver_asked += 1
        return self._resolver

    def _look(self, servers: Any, name: str, value: str) -> dict[Server, Sight]:
        assert (tuple(servers), name, value) == ((ONE, TWO), NAME, "v")
        self.times.append(self.seconds())
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def run(self, seconds: int) -> list[bool]:
        done = Nameservers(self).published(NAME, "v")
        done.addCallback(self.result.append)
        self.pump([1] * seconds)
        globalLogPublisher.removeObserver(self)
        return self.result


def sights(one: Sight, two: Sight) -> dict[Server, Sight]:
    return {ONE: one, TWO: two}


S, L, Q, D = Sight.SHOWN, Sight.LACKING, Sight.SILENT, Sight.DEAD


def test_all_must_show_it(monkeypatch):
    clock = Scripted(monkeypatch, sights(L, L), sights(S, L), sights(L, S), sights(S, S))
    assert clock.run(7) == [True]
    assert clock.times == [0, 1, 3, 7]
    assert clock.noted == []
    assert clock.resolver_asked == 0
    assert clock.getDelayedCalls() == []


def test_after_two_minutes_it_goes_on_with_a_note(monkeypatch):
    clock = Scripted(monkeypatch, sights(S, L))
    assert clock.run(int(PATIENCE) - 1) == []
    assert clock.times == [0, 1, 3, 7, 15, 31, 47, 63, 79, 95, 111]
    clock = Scripted(monkeypatch, sights(S, L))
    assert clock.run(int(PATIENCE)) == [False]
    assert clock.noted == [
        f"after 120 s {NAME} is not to be seen everywhere, going on all the same: "
        "192.0.2.2:5353 does not show it"
    ]


def test_one_that_cannot_be_reached_is_not_waited_for(monkeypatch):
    assert Scripted(monkeypatch, sights(S, D)).run(0) == [True]


def test_a_silent_one_is_not_waited_for_for_long(monkeypatch):
    clock = Scripted(monkeypatch, sights(S, Q))
    assert clock.run(3) == [True]
    assert clock.times == [0, 1, 3]
    assert len(clock.times) == MOST_SILENT
    # It answers once, and so has to show it.
    clock = Scripted(monkeypatch, sights(S, Q), sights(S, L), sights(S, Q))
    assert clock.run(7) == []
    assert clock.run(0) == []


@pytest.mark.parametrize("nobody", [sights(D, D), sights(Q, Q), sights(D, Q)])
def test_where_nobody_answers_the_resolver_counts(monkeypatch, nobody):
    assert Scripted(monkeypatch, nobody, resolver=True).run(0) == [True]
    clock = Scripted(monkeypatch, nobody)
    assert clock.run(120) == [False]
    assert clock.resolver_asked == len(clock.times)
    assert "192.0.2.1 " in clock.noted[0]


def test_who_is_responsible_is_asked_again(monkeypatch):
    clock = Scripted(monkeypatch, sights(S, S))
    clock.failing = 2
    assert clock.run(3) == [True]
    clock = Scripted(monkeypatch, sights(S, S))
    clock.failing = 1000
    assert clock.run(120) == [False]
    assert clock.noted[0].endswith("no resolver today")


def test_waiting_can_be_cancelled(monkeypatch):
    clock = Scripted(monkeypatch, sights(L, L))
    done = Nameservers(clock).published(NAME, "v")
    clock.advance(2)
    done.cancel()
    with pytest.raises(CancelledError):
        result_of(done)
    assert clock.getDelayedCalls() == []


@given(st.lists(st.tuples(st.sampled_from(Sight), st.sampled_from(Sight)), min_size=1, max_size=8))
@PROPERTY
def test_it_is_never_done_while_one_that_answers_lacks_it(looks):
    sut = Sightings((ONE, TWO))
    for one, two in looks:
        sut.add(sights(one, two))
    last = looks[-1]
    assert sut.nobody_answers == ({*last} <= {Q, D})
    if L in last or S not in last:
        assert sut.missing
    if last in [(S, S), (S, D), (D, S)]:
        assert not sut.missing
    if set(last) == {S, Q}:
        silent = last.index(Q)
        rounds = [each[silent] is Q for each in looks[-MOST_SILENT:]]
        assert (not sut.missing) == (len(rounds) == MOST_SILENT and all(rounds))


def test_two_servers_of_one_zone(server, tmp_path, monkeypatch):
    """The real thing: the record is at one server, and then at both."""
    with start_nameserver(tmp_path / "n", "x.test") as second:
        both = (Server(*server.resolver), Server(*second.resolver))
        found = Lookups.authoritative
        monkeypatch.setattr(
            Lookups,
            "authoritative",
            lambda self, name: tuple(
                attrs.evolve(each, port=at.port) for each in found(self, name) for at in both
            ),
        )
        clock = Threadless()
        done = Nameservers(clock, server.resolver).published(NAME, "two-servers")
        for each in (server, second):
            assert not done.called
            result_of(dns_provider(each.setting, Threadless()).present(NAME, "two-servers"))
            clock.pump([1] * 4)
        assert result_of(done) is True
    result_of(dns_provider(server.setting, Threadless()).remove(NAME, "two-servers"))
