"""`oo certs check`, `oo certs renew` and what fails."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.cli import orders
from onebackend_proxy.cli.orders import Outcome, outcomes, wait
from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi
from tests.properties import PROPERTY

PATH = "/proxy-svc/certs"
OLD = {"id": "a.com", "serialNumber": "1", "notAfter": "2027-01-15T08:00:00.000Z"}
NEW = {**OLD, "serialNumber": "2", "notAfter": "2027-04-15T08:00:00.000Z"}
FAILED = {
    "name": "b.com",
    "failures": 1,
    "failingSince": "2027-01-15T08:00:00.000Z",
    "triedAt": "2027-01-15T08:00:00.000Z",
    "retryAt": "2027-01-15T08:01:00.000Z",
    "problem": "DNS problem:\x1b[31m NXDOMAIN",
}
AGAIN = {
    **FAILED,
    "failures": 2,
    "triedAt": "2027-01-15T08:01:00.000Z",
    "notBefore": "2027-01-15T09:00:00.000Z",
}
FINDINGS = [
    {"subject": "route", "ok": True, "message": "there is a Route for a.com"},
    {"subject": "dns", "ok": False, "message": "a.com does not exist in the DNS\nat all"},
    {"subject": "port 80", "ok": None, "message": "not looked at"},
]
CHECKED = """\
ok  route     there is a Route for a.com
no  dns       a.com does not exist in the DNS at all
?   port 80   not looked at
"""
TABLE = """\
NAME                        FAILURES   SINCE                 LAST TRY              NEXT TRY              PROBLEM
b.com                       1          2027-01-15 08:00:00   2027-01-15 08:00:00   2027-01-15 08:01:00   DNS problem: [31m NXDOMAIN
b.com                       2          2027-01-15 08:00:00   2027-01-15 08:01:00   2027-01-15 09:00:00   DNS problem: [31m NXDOMAIN
c.com                       3          -                     -                     -                     -
"""  # noqa: E501


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "POLL_SECONDS", 0.01)


def test_a_check_that_says_no(admin: Oo, api: FakeApi) -> None:
    api.script("POST", f"{PATH}/check", 200, {"domain": "a.com", "findings": FINDINGS})
    result = admin("certs", "check", "a.com")
    assert (result.exit_code, result.stdout) == (1, CHECKED)
    assert result.stderr == "oo: an order for a.com would fail (dns)\n"
    assert api.seen[-1].body == {"domain": "a.com"}


def test_a_check_that_does_not(admin: Oo, api: FakeApi) -> None:
    answer = {"domain": "a.com", "findings": [FINDINGS[0], FINDINGS[2]]}
    api.script("POST", f"{PATH}/check", 200, answer)
    assert admin.ok("certs", "check", "a.com").splitlines() == [
        CHECKED.splitlines()[0],
        CHECKED.splitlines()[2],
    ]
    api.script("POST", f"{PATH}/check", 200, answer)
    assert json.loads(admin.ok("cert", "check", "a.com", "--json")) == answer


def test_a_check_that_says_no_in_json(admin: Oo, api: FakeApi) -> None:
    answer = {"domain": "a.com", "findings": FINDINGS}
    api.script("POST", f"{PATH}/check", 200, answer)
    result = admin("certs", "check", "a.com", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, answer)


@pytest.mark.parametrize("answer", [{}, {"findings": []}, {"findings": [{}]}, []])
def test_a_check_that_says_nothing(admin: Oo, api: FakeApi, answer: object) -> None:
    api.script("POST", f"{PATH}/check", 200, answer)
    admin.ok("certs", "check", "a.com")


def test_refusals(admin: Oo, api: FakeApi) -> None:
    api.script("POST", f"{PATH}/check", 404, {"error": "no certificates are ordered here"})
    assert admin.refused("certs", "check", "a.com") == "no certificates are ordered here"
    api.script("POST", f"{PATH}/renew", 404, {"error": "no Route is for a.com"})
    assert admin.refused("certs", "renew", "a.com") == "no Route is for a.com"


@pytest.mark.parametrize(
    "words",
    [
        ("check",),
        ("check", "https://a.com/"),
        ("renew",),
        ("renew", "a.com/b"),
        ("renew", "a.com", "--timeout", "0"),
    ],
)
def test_misuse_sends_nothing(admin: Oo, api: FakeApi, words: tuple[str, ...]) -> None:
    admin.refused("certs", *words, code=2)
    assert api.seen == []


def test_what_fails(admin: Oo, api: FakeApi) -> None:
    answer = {"certs": [], "failing": [FAILED, AGAIN, {"name": "c.com", "failures": 3}]}
    api.script("POST", PATH, 200, answer)
    assert admin.ok("certs", "list", "--failing") == TABLE
    assert api.seen[-1].body == {"failing": True}
    api.script("POST", PATH, 200, answer)
    assert json.loads(admin.ok("certs", "ls", "b.com", "--failing", "--json")) == answer
    assert api.seen[-1].body == {"ids": ["b.com"], "failing": True}


def test_a_list_notes_what_fails(admin: Oo, api: FakeApi) -> None:
    for failing, said in (
        ([], ""),
        ([FAILED], "oo: 1 name fails: oo certs list --failing\n"),
        ([FAILED, AGAIN], "oo: 2 names fail: oo certs list --failing\n"),
    ):
        api.script("POST", PATH, 200, {"certs": [OLD], "failing": failing})
        assert admin("certs", "list").stderr == said
    api.script("POST", PATH, 200, {"certs": [OLD], "failing": [FAILED]})
    assert admin("certs", "list", "--json").stderr == ""


def test_renew(admin: Oo, api: FakeApi) -> None:
    api.script("POST", f"{PATH}/renew", 200, {"ids": ["a.com", "b.com"]})
    assert admin.ok("certs", "renew", "A.com", "b.com") == (
        "ordered a.com: see oo certs list a.com\nordered b.com: see oo certs list b.com\n"
    )
    assert api.seen[-1].body == {"ids": ["A.com", "b.com"]}
    assert not api.calls(PATH)


def listings(api: FakeApi, *answers: dict[str, object]) -> None:
    for answer in answers:
        api.script("POST", PATH, 200, answer)


def test_renew_and_wait(admin: Oo, api: FakeApi) -> None:
    listings(api, {"certs": [OLD]}, {"certs": [OLD]}, {"certs": [OLD]}, {"certs": [NEW]})
    api.script("POST", f"{PATH}/renew", 200, {"ids": ["a.com"]})
    assert admin.ok("certs", "renew", "A.com", "--wait") == "renewed a.com until 2027-04-15 08:00:00\n"
    before, *looks = api.calls(PATH)
    assert before.body == {"ids": ["A.com"]}
    assert [look.body for look in looks] == [{"ids": ["a.com"]}] * 3


def test_renew_and_wait_for_one_that_fails_again(admin: Oo, api: FakeApi) -> None:
    before = {"certs": [OLD], "failing": [FAILED]}
    listings(api, before, before, {"certs": [NEW], "failing": [FAILED]}, {"failing": [AGAIN]})
    api.script("POST", f"{PATH}/renew", 200, {"ids": ["a.com", "b.com"]})
    result = admin("certs", "renew", "a.com", "b.com", "--wait")
    assert result.exit_code == 1
    assert result.stdout == (
        "renewed a.com until 2027-04-15 08:00:00\nfailed b.com: DNS problem: [31m NXDOMAIN\n"
    )
    assert result.stderr == "oo: no certificate for b.com\n"
    assert api.calls(PATH)[-1].body == {"ids": ["b.com"]}


def test_renew_and_wait_in_vain(admin: Oo, api: FakeApi) -> None:
    api.certs = [OLD]
    api.script("POST", f"{PATH}/renew", 200, {"ids": ["a.com"]})
    said = admin.refused("certs", "renew", "a.com", "--wait", "--timeout", "1")
    assert said == "a.com not done after 1 s: the proxy goes on trying"


def test_renew_and_wait_in_json(admin: Oo, api: FakeApi) -> None:
    listings(api, {"certs": []}, {"certs": [NEW]}, {"certs": [NEW]})
    api.script("POST", f"{PATH}/renew", 200, {"ids": ["a.com"]})
    assert json.loads(admin.ok("certs", "renew", "a.com", "--wait", "--json")) == {"certs": [NEW]}


serials = st.none() | st.sampled_from("12")
tries = st.none() | st.tuples(st.integers(1, 2), st.sampled_from(["", "t1", "t2"]))
states = st.dictionaries(st.sampled_from(["a.com", "b.com", "c.com"]), st.tuples(serials, tries))


def _listing(state: dict[str, tuple[str | None, tuple[int, str] | None]]) -> dict[str, object]:
    certs = [{"id": name, "serialNumber": serial} for name, (serial, _try) in state.items() if serial]
    failing = [
        {"name": name, "failures": one[0], "triedAt": one[1]} for name, (_serial, one) in state.items() if one
    ]
    return {"certs": certs, "failing": failing}


@given(states, states)
@PROPERTY
def test_only_what_is_new_is_an_outcome(before, after):
    names = ["a.com", "b.com"]
    expected = []
    for name in names:
        old_serial, old_try = before.get(name, (None, None))
        serial, one = after.get(name, (None, None))
        if serial and serial != old_serial:
            expected.append((name, True))
        elif one and one != old_try:
            expected.append((name, False))
    found = outcomes(names, _listing(before), _listing(after))
    assert [(outcome.name, outcome.good) for outcome in found] == expected


def test_waiting_ends_in_time() -> None:
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    looks: list[list[str]] = []

    def look(names: list[str]) -> dict[str, object]:
        looks.append(list(names))
        return {"certs": [NEW] if now[0] >= 0.02 else []}

    found = wait(["a.com", "b.com"], {}, look, 0.035, clock=lambda: now[0], sleep=sleep)
    assert list(found) == [Outcome("a.com", True, NEW)]
    assert looks == [["a.com", "b.com"]] * 3 + [["b.com"]] * 2
    assert now[0] == pytest.approx(0.035)


@pytest.mark.parametrize("listing", [None, [], {}, {"certs": None}, {"certs": [7, {}]}])
def test_listings_that_are_none(listing: object) -> None:
    assert outcomes(["a.com"], listing, {"certs": [NEW]}) == [Outcome("a.com", True, NEW)]
