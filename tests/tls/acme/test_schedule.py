"""Which names are due, by a second opinion that is as plain as can be; and what it costs to have 100,000."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.interfaces import Published
from onebackend_proxy.records import Certificate, Issuance, Route
from onebackend_proxy.routing import RouteTable
from onebackend_proxy.tls.acme import renewal
from onebackend_proxy.tls.acme.schedule import Schedule
from onebackend_proxy.tls.certificates import CertificateTable

from ...properties import OFTEN

OURS, GONE = "https://ca.test/dir", "https://gone.test/dir"
BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SECOND, HOUR, DAY = (datetime.timedelta(seconds=number) for number in (1, 3600, 86400))
LOCAL = ("localhost", "app.localhost", "127.0.0.1", "[::1]")
HOSTS = ("a.com", "x.com", "a.x.com", "b.x.com", "c.b.x.com", "*.x.com")
NOTHING: RouteTable[Route] = RouteTable()


def certificate(
    id: str,
    *more: str,
    directory: str = OURS,
    begins: datetime.datetime = BEGIN,
    life: datetime.timedelta = 90 * DAY,
) -> Certificate:
    """For these names; nobody looks at its chain."""
    serial = f"{id}/{begins.timestamp():.0f}/{life.total_seconds():.0f}"
    return Certificate(
        *(id, (id, *more), "", "", id, "Tests", serial, begins, begins + life, begins, begins, directory)
    )


class Node:
    """A schedule, and the certificates that would be shown; `looked` are the hosts that it looked at."""

    def __init__(self, *, dns: bool = False) -> None:
        self.looked: list[str] = []
        self.now = BEGIN
        self.dns = dns
        self.routes = NOTHING
        self.certificates: tuple[Certificate, ...] = ()
        self.table = CertificateTable()
        self.schedule = Schedule(self.shown, self.can_prove, (OURS,), lambda: self.now)

    def shown(self, host: str) -> Certificate | None:
        self.looked.append(host)
        return self.table.find(host, self.now)

    def can_prove(self, name: str) -> bool:
        return self.dns or not name.startswith("*.")

    def publish(self) -> None:
        self.published = Published(self.routes, NOTHING, (), self.certificates)  # type: ignore[arg-type]
        self.schedule.publish(self.published)

    def route(self, *ids: str) -> None:
        """From now on these are routed too."""
        self.routes = self.routes.changed([Route(id, "http://127.0.0.1:1") for id in ids])
        self.publish()

    def unroute(self, *ids: str) -> None:
        """And these no more."""
        self.routes = self.routes.changed(deleted=ids)
        self.publish()

    def save(self, *certificates: Certificate) -> None:
        """From now on there are these too, each in the place of one with its id."""
        kept = {each.id: each for each in (*self.certificates, *certificates)}
        self.certificates = tuple(kept[id] for id in sorted(kept))
        self.table = CertificateTable(self.certificates)
        self.publish()

    def delete(self, *ids: str) -> None:
        """And these no more."""
        self.certificates = tuple(each for each in self.certificates if each.id not in ids)
        self.table = CertificateTable(self.certificates)
        self.publish()

    def know(self, issuance: Issuance) -> None:
        """After an order: that is known now."""
        self.schedule.know(issuance)
        self.schedule.plan([issuance.name])

    @property
    def due(self) -> set[str]:
        found = self.schedule.due()
        assert len(found) == len(set(found))
        return set(found)


def expected(node: Node) -> set[str]:
    """The second opinion: of all names that there are, one by one."""
    ids = {route.id.partition("/")[0] for route in node.routes}
    names = {*ids, *(name for each in node.certificates for name in each.names)}
    return {name for name in names if _is_due(node, name, ids)}


def _is_due(node: Node, name: str, ids: set[str]) -> bool:
    wildcard = "*." + name.partition(".")[2]
    if name in LOCAL or (name.startswith("*.") and not node.dns) or not {name, wildcard} & ids:
        return False
    known = node.schedule.known.get(name)
    if known is not None and not renewal.may_try(known, node.now):
        return False
    shown = node.table.find(name, node.now)
    if shown is None:
        return name in ids
    if shown.directory == "" or shown.id != name:
        return name in ids and shown.not_after <= node.now
    if shown.directory == OURS and renewal.should_ask(shown, known, node.now):
        return True
    return renewal.renew_at(shown, known, node.now) <= node.now


hosts = st.sampled_from([*HOSTS, *LOCAL])
ids = st.sampled_from([*HOSTS, *LOCAL, "a.x.com/app", "b.x.com/app", "*.x.com/app", "a.com/app/x"])
days = st.integers(-100, 100)


@st.composite
def certificates(draw: st.DrawFn) -> Certificate:
    id = draw(st.sampled_from(HOSTS))
    directory = draw(st.sampled_from(["", "", OURS, OURS, OURS, GONE]))
    more = [] if directory else draw(st.lists(st.sampled_from(HOSTS), max_size=2))
    life = draw(st.sampled_from([90 * DAY, 45 * DAY, 6 * DAY]))
    return certificate(
        *(id, *(name for name in dict.fromkeys(more) if name != id)),
        directory=directory,
        begins=BEGIN + draw(st.integers(-100, 20)) * DAY,
        life=life,
    )


@st.composite
def issuances(draw: st.DrawFn, serials: st.SearchStrategy[str]) -> Issuance:
    moment = st.none() | st.integers(-3, 7).map(lambda number: BEGIN + number * DAY)
    return Issuance(
        draw(st.sampled_from(HOSTS)),
        failures=draw(st.integers(0, 2)),
        retry_at=draw(moment),
        not_before=draw(moment),
        serial=draw(serials),
        ask_at=draw(moment),
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[str], list[Certificate], list[Issuance]]:
    saved = draw(st.lists(certificates(), max_size=6, unique_by=lambda each: each.id))
    serials = st.sampled_from(["", *(each.serial for each in saved)])
    known = draw(st.lists(issuances(serials), max_size=4, unique_by=lambda each: each.name))
    return draw(st.lists(ids, max_size=6, unique=True)), saved, known


def begun(node: Node, world: tuple[list[str], list[Certificate], list[Issuance]]) -> None:
    """As the service begins: what is published, what is known, and then all of it."""
    routed, saved, known = world
    node.route(*routed)
    node.save(*saved)
    for issuance in known:
        node.schedule.know(issuance)
    node.schedule.plan(list(node.schedule.known))


@OFTEN
@given(worlds(), st.booleans(), st.integers(0, 4))
def test_who_is_due(world, dns, later):
    node = Node(dns=dns)
    node.now += later * HOUR
    begun(node, world)
    assert node.due == expected(node)


@OFTEN
@given(worlds(), st.booleans(), st.lists(st.tuples(st.sampled_from("rudskt"), worlds()), max_size=6))
def test_whatever_changes(world, dns, changes):
    """What is due after each change is what would be due after a start."""
    node = Node(dns=dns)
    begun(node, world)
    for kind, (routed, saved, known) in changes:
        match kind:
            case "r":
                node.route(*routed)
            case "u":
                node.unroute(*routed)
            case "d":
                node.delete(*(each.id for each in saved))
            case "s":
                node.save(*saved)
            case "k":
                for issuance in known:
                    node.know(issuance)
            case "t":
                node.now += (len(routed) + 1) * HOUR
        assert node.due == expected(node), (kind, routed, saved, known)


def test_who_is_listed_and_whose_certificate_it_is():
    node = Node()
    node.route("a.com/app", "*.x.com", "localhost")
    mine, theirs = certificate("a.x.com"), certificate("b.x.com", "a.com", directory="")
    schedule = node.schedule
    listed = {name: schedule.is_listed(name) for name in ("a.com", "*.x.com", "a.x.com", "localhost")}
    assert listed == {"a.com": True, "*.x.com": True, "a.x.com": False, "localhost": True}
    routed = [
        name
        for name in ("a.com", "a.x.com", "*.x.com", "b.a.x.com", "localhost", "")
        if schedule.is_routed(name)
    ]
    assert routed == ["a.com", "a.x.com", "*.x.com"]
    assert schedule.is_ours("a.x.com", mine)
    assert not any(
        schedule.is_ours(*each) for each in (("b.x.com", mine), ("b.x.com", theirs), ("a.com", None))
    )
    assert repr(schedule) == "<Schedule: 1 names>"


def test_nothing_known_is_not_kept():
    schedule = Node().schedule
    schedule.know(Issuance("a.com", failures=1))
    assert set(schedule.known) == {"a.com"}
    schedule.know(Issuance("a.com"))
    assert schedule.known == {}


def test_what_has_just_been_looked_at_is_left_alone_for_a_while():
    node = Node()
    node.route("a.com")
    node.schedule.plan(["a.com"], after=5.0)
    assert node.due == set()
    node.now += 5 * SECOND
    assert node.due == {"a.com"}


def test_what_did_not_change_is_not_looked_at():
    node = Node()
    node.route("a.com", "b.com", "c.com/app")
    node.save(certificate("a.com"), certificate("b.com", directory=""))
    node.looked.clear()
    assert node.schedule.publish(node.published) == []
    node.publish()
    node.route("a.com/more", "b.com")
    assert node.looked == []
    node.route("d.com")
    node.save(certificate("c.com"))
    node.unroute("a.com/more")
    assert node.looked == ["d.com", "c.com"]


def test_the_hosts_that_are_new_are_told():
    node = Node()
    node.route("a.com", "b.com/app")
    node.routes = node.routes.changed([Route("c.com", ""), Route("a.com/x", "")], ["b.com/app"])
    assert node.schedule.publish(Published(node.routes, NOTHING, (), ())) == ["c.com"]  # type: ignore[arg-type]


def least(work, count=3):
    """Seconds that it takes when nobody else is at work."""
    took = []
    for number in range(count):
        began = time.perf_counter()
        work(number)
        took.append(time.perf_counter() - began)
    return min(took)


def test_one_more_of_100_000(capsys):
    node = Node()
    ids = [f"h{number}.test" for number in range(100_000)]
    node.route(*ids)
    assert len(node.due) == 100_000
    hosts = [node.routes]
    for number in range(3):
        hosts.append(hosts[-1].changed([Route(f"new{number}.test", "http://127.0.0.1:1")]))

    def publish_host(number):
        node.routes = hosts[number + 1]
        node.publish()

    for_host = least(publish_host)
    node.save(*(certificate(id) for id in ids))
    saved = [(*node.certificates, certificate(f"new{number}.test")) for number in range(3)]

    def publish_certificate(number):
        node.certificates = saved[number]
        node.publish()

    for_certificate = least(publish_certificate)
    for_all = least(lambda _: node.due)
    with capsys.disabled():
        words = ", ".join(f"{1000 * took:.1f} ms" for took in (for_host, for_certificate, for_all))
        print(
            f"\n100,000 names: to publish one more host, one more certificate, and to see who is due: {words}"
        )
    # Several times what it takes: under coverage, and beside much else.
    assert for_host < 0.3
    assert for_certificate < 0.5
    assert for_all < 0.3


def test_what_was_ordered_below_a_wildcard_is_renewed_when_its_route_comes_back():
    node = Node()
    node.route("*.x.com")
    node.save(certificate("a.x.com"))
    assert node.due == {"a.x.com"}
    node.unroute("*.x.com")
    node.schedule.plan(["a.x.com"])
    assert node.due == set()
    node.route("*.x.com")
    assert node.due == {"a.x.com"}


def test_what_was_ordered_below_a_wildcard_is_renewed_when_a_certificate_above_it_goes():
    node = Node()
    node.route("*.x.com")
    node.now += 100 * DAY
    node.save(certificate("*.x.com", directory="", begins=node.now), certificate("a.x.com"))
    assert node.due == set()
    node.delete("*.x.com")
    assert node.due == {"a.x.com"}


def test_many_certificates_of_wildcards_take_no_time_in_the_square():
    node = Node()
    node.routes = RouteTable([Route(f"h{number}.test", "http://127.0.0.1:1") for number in range(10_000)])
    node.certificates = tuple(certificate(f"*.x{number}.test", directory="") for number in range(2_000))
    assert least(lambda _: node.publish(), 1) < 0.7


@pytest.mark.parametrize("field", ["retry_at", "not_before"])
def test_a_clock_that_was_ahead_once_holds_up_nobody(field):
    node = Node()
    node.route("a.com")
    wrong: Any = {field: BEGIN + 365 * DAY}
    node.know(Issuance("a.com", failures=1, **wrong))
    assert renewal.may_try(node.schedule.known["a.com"], node.now)
    assert node.due == {"a.com"}
