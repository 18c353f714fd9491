"""What was found out, in words."""

from __future__ import annotations

import datetime

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.interfaces import Finding
from onebackend_proxy.records import Issuance
from onebackend_proxy.tls.acme import findings
from onebackend_proxy.tls.acme.caa import Policy
from onebackend_proxy.tls.acme.probes import Probe
from onebackend_proxy.tls.acme.resolving import Addresses, LookupFailed

from ...properties import PROPERTY
from ..making import DAY, record

NOW = datetime.datetime(2027, 1, 15, 8, tzinfo=datetime.UTC)
URL = "https://ca.example/directory"
DIRECTORY = (URL, ("ca.example",), "")


def told(finding: Finding) -> tuple[bool | None, str]:
    return finding.ok, finding.message


@pytest.mark.parametrize(
    "found, ok, words",
    [
        (
            Addresses(("192.0.2.7",)),
            None,
            "x.com is 192.0.2.7; no authority on the internet reaches 192.0.2.7",
        ),
        (Addresses(("1.1.1.1",)), True, "x.com is 1.1.1.1"),
        (
            Addresses(("2606:4700::1", "1.1.1.1"), ("a.net", "b.net")),
            True,
            "x.com is 2606:4700::1, 1.1.1.1 (CNAME: a.net -> b.net); authorities prefer IPv6, so that must",
        ),
        (
            Addresses(("10.0.0.1", "1.1.1.1")),
            None,
            "x.com is 10.0.0.1, 1.1.1.1; no authority on the internet",
        ),
        (
            Addresses(tuple(f"1.1.1.{n}" for n in range(20))),
            True,
            "x.com is 1.1.1.0, 1.1.1.1, 1.1.1.2, 1.1.1.3 and 12 more; only the first 16",
        ),
        (Addresses(exists=False), False, "x.com does not exist in the DNS: add an A record"),
        (Addresses(aliases=("gone.net",)), False, "x.com (CNAME: gone.net) has no address in the DNS: add"),
        (Addresses((), failed="AAAA records: no answer"), False, "x.com has no address in the DNS (AAAA"),
        (
            Addresses(("1.1.1.1",), failed="AAAA records: no answer"),
            None,
            "x.com is 1.1.1.1; but AAAA records: no",
        ),
        (LookupFailed("SERVFAIL", refused=True), False, "x.com cannot be looked up: SERVFAIL"),
        (LookupFailed("no answer in 5 s"), None, "x.com cannot be looked up: no answer in 5 s"),
    ],
)
def test_dns(found, ok, words):
    finding = findings.on_dns("x.com", found)
    assert (finding.ok, finding.message[: len(words)]) == (ok, words)


@pytest.mark.parametrize(
    "found, directories, ok, words",
    [
        (("", ()), [], True, "there is no CAA record"),
        (
            ("x.com", [Policy("issue", "ca.example")]),
            [DIRECTORY],
            True,
            "the CAA records of x.com let ca.example issue",
        ),
        (
            ("com", [Policy("issue", "b.example")]),
            [DIRECTORY],
            False,
            "the CAA records of com let only b.example",
        ),
        (
            ("x.com", [Policy("issue", "b.example")]),
            [DIRECTORY, ("https://b/", ("b.example",), "")],
            True,
            f"the CAA records of x.com let b.example issue; they forbid {URL}",
        ),
        (
            ("x.com", [Policy("issue", "b.example")]),
            [(URL, (), "down")],
            None,
            "there are CAA records at x.com",
        ),
        (
            ("x.com", [Policy("iodef", "x")]),
            [(URL, (), "")],
            True,
            "the CAA records of x.com forbid no authority",
        ),
        (
            LookupFailed("no answer in 5 s"),
            [DIRECTORY],
            False,
            "cannot be looked up: no answer in 5 s; authorities",
        ),
    ],
)
def test_caa(found, directories, ok, words):
    finding = findings.on_caa("x.com", found, directories, False)
    assert (finding.ok, finding.message[: len(words)]) == (ok, words)


def test_caa_by_the_ways_that_there_are():
    found = ("x.com", [Policy("issue", "ca.example; validationmethods=dns-01")])
    assert findings.on_caa("x.com", found, [DIRECTORY], False).ok is False
    assert findings.on_caa("x.com", found, [DIRECTORY], True).ok
    assert findings.on_caa("*.x.com", found, [DIRECTORY], False).ok


GOOD = Probe("192.0.2.1", True, "reaches this proxy")
REFUSED = Probe("192.0.2.2", False, "refuses the connection", hidden=True)
BAD_V6 = Probe("2001:db8::1", False, "answers 404, but is not this proxy")
SILENT = Probe("192.0.2.3", None, "does not answer in 5 s", hidden=True)


@pytest.mark.parametrize(
    "http, https, by_dns, oks, words",
    [
        ([GOOD], [GOOD], False, (True, True), "192.0.2.1 reaches this proxy"),
        ([GOOD, GOOD], [GOOD], False, (True, True), "192.0.2.1, 192.0.2.1 reach this proxy"),
        ([REFUSED], [GOOD], False, (None, True), "192.0.2.2 refuses the connection; asked from this"),
        ([REFUSED], [BAD_V6], False, (False, False), "192.0.2.2 refuses the connection; asked from this"),
        ([REFUSED], [REFUSED], True, (None, None), "192.0.2.2 refuses"),
        (
            [GOOD, BAD_V6],
            [REFUSED],
            False,
            (False, False),
            "2001:db8::1 answers 404, but is not this proxy; authorities prefer IPv6: correct",
        ),
        (
            [SILENT],
            [SILENT],
            False,
            (None, None),
            "192.0.2.3 does not answer in 5 s; asked from this machine",
        ),
        (
            [SILENT, BAD_V6],
            [REFUSED] * 9,
            False,
            (False, False),
            "192.0.2.3 does not answer in 5 s; 2001:db8::1",
        ),
    ],
)
def test_ports(http, https, by_dns, oks, words):
    plain, secure = findings.on_ports(http, https, by_dns)
    assert (plain.subject, secure.subject) == ("port 80", "port 443")
    assert (plain.ok, secure.ok) == oks
    assert plain.message.startswith(words), plain.message


def test_what_makes_up_for_a_port_is_said():
    plain, _secure = findings.on_ports([REFUSED], [GOOD], False)
    assert plain.message.endswith("port 443 works, and one is enough")
    _plain, secure = findings.on_ports([GOOD], [REFUSED] * 9, False)
    assert secure.message.endswith("port 80 works, and one is enough")
    assert "and so on for 5 more" in secure.message
    plain, _secure = findings.on_ports([REFUSED], [REFUSED], True)
    assert plain.message.endswith("DNS-01 is set up, and one way is enough")


probes = st.lists(st.sampled_from([GOOD, REFUSED, BAD_V6, SILENT]), min_size=1, max_size=16)


@given(probes, probes, st.booleans())
@PROPERTY
def test_a_port_stops_an_order_only_where_no_other_way_is_left(http, https, by_dns):
    plain, secure = findings.on_ports(http, https, by_dns)
    works = [all(probe.ok for probe in each) for each in (http, https)]
    assert [plain.ok is True, secure.ok is True] == works
    if any(works) or by_dns:
        assert plain.ok is not False and secure.ok is not False


def test_routes_and_wildcards():
    assert told(findings.on_route("x.com", True)) == (True, "there is a Route for x.com")
    finding = findings.on_route("x.com", False)
    assert finding.ok is False and "oo routes save --id x.com --target URL" in finding.message
    assert findings.on_wildcard(True).ok
    finding = findings.on_wildcard(False)
    assert finding.ok is False and "--acme-dns" in finding.message


def test_certificates():
    by_hand = attrs.evolve(record("x.com"), not_after=NOW)
    finding = findings.on_certificate(by_hand, NOW - DAY)
    assert (
        finding.ok
        and "saved by hand, covers it and is valid until 2027-01-15 08:00:00 UTC" in finding.message
    )
    assert "has expired" in findings.on_certificate(by_hand, NOW).message
    ordered = attrs.evolve(by_hand, directory=URL)
    assert f"x.com from {URL} is valid until" in findings.on_certificate(ordered, NOW - DAY).message


def test_budget():
    assert findings.on_budget(None).ok
    finding = findings.on_budget(NOW)
    assert finding.ok is False and "until 2027-01-15 08:00:00 UTC (--acme-names-per-hour)" in finding.message


def test_failures():
    failed = Issuance("x.com", 3, NOW - DAY, NOW, "no such name", URL, NOW + DAY)
    assert findings.on_failures(None, NOW).ok
    assert findings.on_failures(Issuance("x.com", serial="A"), NOW).ok
    ok, words = told(findings.on_failures(failed, NOW))
    assert ok is None
    assert words == (
        f"3 in a row since 2027-01-14 08:00:00 UTC; {URL} says: no such name; next try at "
        "2027-01-16 08:00:00 UTC, or now: oo certs renew x.com"
    )
    stopped = attrs.evolve(failed, not_before=NOW + DAY)
    assert findings.on_failures(stopped, NOW).ok is False
    assert findings.on_failures(stopped, NOW + DAY).ok is None


def test_authorities():
    assert told(findings.on_authority([DIRECTORY])) == (True, f"{URL} answers")
    down = ("https://b/", (), "connection\nrefused")
    assert told(findings.on_authority([down])) == (False, "https://b/: connection refused")
    assert told(findings.on_authority([DIRECTORY, down])) == (
        True,
        f"{URL} answers; but https://b/: connection refused",
    )
    assert findings.on_authority([]).ok is False
